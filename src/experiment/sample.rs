//! Hand-written results for the tests of the reports, with names that must be escaped.

use super::{results::*, words};
use crate::eval::significance::Paired;
pub use crate::page::sound::{faults, says_nan};

/// A name that closes a script, an attribute and an element if it is not escaped.
pub const NASTY: &str = "</script><b a=\"'&amp;";

pub fn test(difference: f64, interval: [f64; 2], p_holm: Option<f64>, by_seed: &[f64]) -> Test {
    let result = Paired {
        n: 6040,
        means: [0.4, 0.4 + difference],
        difference,
        interval: Some(interval),
        t: p_holm.map(|_| 7.081),
        p: p_holm.map(|p| p / 2.0),
        effect: p_holm.map(|_| 0.0912),
    };
    Test { result, p_holm, by_seed: by_seed.into() }
}

fn seed(seed: u64, state: RunState, metrics: &[f64]) -> Seed {
    let done = state == RunState::Done;
    Seed {
        seed,
        state,
        metrics: metrics.into(),
        curve: if done { vec![(1, 0.1), (2, 0.2 + seed as f64 / 100.0), (3, 0.15)] } else { Vec::new() },
        best: done.then_some(2),
        seconds: if done { 61.0 } else { 0.0 },
    }
}

fn row(name: &str, labels: &[&str], seeds: Vec<Seed>) -> ResultRow {
    ResultRow {
        name: name.into(),
        labels: labels.iter().map(|l| l.to_string()).collect(),
        seeds,
        ..ResultRow::default()
    }
}

/// Returns two tables: one with every feature and rows that are done, partly failed, waiting and stale; one of rating
/// errors without published numbers.
pub fn results() -> Results {
    let of_seed = |s: u64| [0.42 + s as f64 / 1000.0, 0.77];
    let three = || (1..=3).map(|s| seed(s, RunState::Done, &of_seed(s))).collect::<Vec<_>>();
    let mut base = row("plain", &["BERT4Rec", "none"], three());
    (base.mean, base.interval) = (vec![0.4234, 0.7787], vec![Some([0.4173, 0.4295]), Some([0.77, 0.7874])]);
    (base.deviation, base.published) = (Some(vec![0.0012, 0.002]), vec![42.34, 77.9]);
    let slice = |mean| Some(Estimate { mean, interval: Some([mean - 0.01, mean + 0.01]) });
    base.slices = vec![slice(0.3), None];

    let mut better = row("tuned", &["BERT4Rec", NASTY], three());
    better.seeds[2] = seed(3, RunState::Failed("out of memory: <16 GiB>\nasked for 17".into()), &[]);
    (better.mean, better.interval) = (vec![0.4512, 0.8064], vec![Some([0.445, 0.4574]), Some([0.8, 0.8128])]);
    better.published = vec![45.12];
    better.slices = vec![slice(0.35), slice(0.5)];
    let sure = test(0.0278, [0.0201, 0.0355], Some(0.00003), &[0.03, 0.025]);
    let mixed = test(-0.0277, [-0.03, -0.02], Some(0.0123), &[-0.03, 0.001]);
    better.against =
        Some(Against { row: "plain".into(), tests: vec![sure.clone(), mixed], slices: vec![Some(sure.clone()), None] });

    let waiting =
        row("later", &["Caser", "none"], vec![seed(1, RunState::Waiting, &[]), seed(2, RunState::Waiting, &[])]);
    let stale = row("old", &["Caser", "model"], vec![seed(1, RunState::Stale("width: 64 was 32".into()), &[])]);
    let rows = vec![base, better, waiting, stale];
    let items = Table {
        caution: words::caution(rows.iter().map(|row| &row.seeds)).map(str::to_string),
        name: "items".into(),
        title: "Next items & more".into(),
        published: Some("Zeng et al., Table 2".into()),
        columns: vec!["model".into(), "transfer".into()],
        metrics: vec!["NDCG@3".into(), "Recall@10".into()],
        scale: 100.0,
        protocol: "3 items held out, 100 negatives".into(),
        rows,
        slices: vec![Slice { name: "1 event".into(), users: 1234 }, Slice { name: "2-3 events".into(), users: 56 }],
        ..Table::default()
    };

    let mut one = row("dacf", &["DACF"], vec![seed(7, RunState::Done, &[0.98765])]);
    (one.mean, one.interval) = (vec![0.98765], vec![Some([0.97765, 0.99765])]);
    let mut carried = one.clone();
    (carried.name, carried.labels) = ("dacf-transfer".into(), vec!["DACF, transfer".into()]);
    carried.mean = vec![0.97];
    let less = test(-0.01772, [-0.02, -0.015], Some(0.001), &[-0.01772]);
    carried.against = Some(Against { row: "dacf".into(), tests: vec![less.clone()], slices: Vec::new() });
    let ratings = Table {
        name: "ratings".into(),
        title: "Ratings".into(),
        columns: vec!["model".into()],
        metrics: vec!["RMSE".into()],
        lower: true,
        scale: 1.0,
        rows: vec![one, carried],
        ..Table::default()
    };

    let claim = |what: &str, test: Option<Test>, expect, outcome| Claim {
        what: what.into(),
        metric: "NDCG@3".into(),
        scale: 100.0,
        expect,
        test,
        outcome,
        ..Claim::default()
    };
    let helps = claim("tuned over plain", Some(sure.clone()), Expect::Better, Some(ClaimOutcome::Better));
    let clear = claim("MIP over NIP", Some(sure), Expect::NotBetter, Some(ClaimOutcome::Better));
    let missing = claim("Caser: embeddings", None, Expect::Better, None);
    let lowers = Claim {
        metric: "RMSE".into(),
        scale: 1.0,
        lower: true,
        ..claim("DACF", Some(less), Expect::Better, Some(ClaimOutcome::Better))
    };
    let finding = |says: &str, claims, verdict| Finding { says: says.into(), claims, verdict };
    Results {
        name: "survey".into(),
        title: format!("Does it help? {NASTY}"),
        notes: vec!["Genres are first-listed ones. ".repeat(8).trim().into(), "A second note".into()],
        data: vec!["src: 6,040 users".into(), "tgt: 6,040 users".into()],
        machine: "two cores".into(),
        done: 7,
        runs: 13,
        seconds: 11_100.0,
        tables: vec![items, ratings],
        findings: vec![
            finding("Pre-training helps", vec![helps.clone(), clear.clone()], Verdict::InPart),
            finding("Errors fall", vec![lowers], Verdict::Confirmed),
            finding("MIP is not better", vec![clear], Verdict::NotConfirmed),
            finding("Embeddings for Caser", vec![missing], Verdict::Open),
        ],
        bases: vec![Base {
            name: "mip base".into(),
            measure: "NDCG@10".into(),
            seeds: vec![seed(1, RunState::Done, &[]), seed(2, RunState::Failed("no such file".into()), &[])],
        }],
    }
}

/// Returns the same grid before any run: no means, no tests, no published numbers, no slices.
pub fn nothing() -> Results {
    let mut r = results();
    (r.done, r.seconds) = (0, 0.0);
    for table in &mut r.tables {
        for row in &mut table.rows {
            for seed in &mut row.seeds {
                *seed = Seed { seed: seed.seed, ..Seed::default() };
            }
            *row = ResultRow {
                name: row.name.clone(),
                labels: row.labels.clone(),
                seeds: row.seeds.clone(),
                ..ResultRow::default()
            };
        }
    }
    r.bases[0].seeds.clear();
    for claim in r.findings.iter_mut().flat_map(|f| &mut f.claims) {
        (claim.test, claim.outcome) = (None, None);
    }
    r
}

/// Returns results with lists that are too short, missing names and NaN values, which must not cause a panic.
pub fn crooked() -> Results {
    let mut r = results();
    let rows = &mut r.tables[0].rows;
    rows[0].mean = vec![f64::NAN];
    rows[0].interval = vec![Some([f64::NAN, f64::INFINITY])];
    rows[0].deviation = Some(Vec::new());
    rows[0].labels.clear();
    rows[1].interval.clear();
    rows[1].labels.push("one more".into());
    rows[1].published = vec![f64::NAN, 1.0, 2.0, 3.0];
    rows[1].against = Some(Against {
        row: "nobody".into(),
        tests: vec![test(f64::NAN, [f64::NAN; 2], Some(f64::NAN), &[])],
        slices: Vec::new(),
    });
    rows[2].against = Some(Against { row: "later".into(), tests: Vec::new(), slices: vec![None] });
    rows[2].slices = vec![slice_of(f64::NAN); 5];
    rows[3].seeds.clear();
    rows[0].seeds[0].curve = vec![(1, f64::NAN), (2, f64::INFINITY)];
    rows[0].seeds[1].curve = vec![(5, 0.5)];
    r.tables[0].scale = 0.0;
    r.tables[1].metrics.clear();
    r.tables.push(Table::default());
    r.findings.push(Finding::default());
    r.bases.push(Base::default());
    r.seconds = f64::NAN;
    r
}

fn slice_of(mean: f64) -> Option<Estimate> {
    Some(Estimate { mean, interval: Some([mean, mean]) })
}
