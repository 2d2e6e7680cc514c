//! Ratings: models compared with PyTorch (tests/fixtures/ratings.py makes the fixtures; this test needs no Python), the
//! masked ratings of a batch, and errors of predictions against worked examples.

use std::{fs, path::Path};

use mipgpu::{
    backend::{Cpu, Reference},
    base::Result,
    data::{
        Dataset, ImportOptions, import,
        split::{Split, SplitSpec},
    },
    eval::{Answer, Encoder, Query, Question, Ranks, RatingOptions, Scored, evaluate_ratings},
    layers::{DataSummary, HostInput, RatingScale},
    mem::Planner,
    ops::{Backend, Memory},
    tasks::{Rating, Sequence, Task, TaskDefinition},
    train::{Engine, Settings, ratings::scale_of},
};
use safetensors::SafeTensors;

fn scale() -> RatingScale {
    RatingScale { levels: vec![1.0, 2.0, 3.0, 4.5, 5.0], mean: 3.25 }
}

fn beside_pytorch<B: Backend>(case: &str, s: Settings, open: impl Fn(&Planner) -> B, tolerance: f32) {
    let path = format!("{}/tests/fixtures/ratings.safetensors", env!("CARGO_MANIFEST_DIR"));
    let bytes = fs::read(path).unwrap();
    let fixture = SafeTensors::deserialize(&bytes).unwrap();
    let four = |name: &str| -> Vec<[u8; 4]> {
        fixture.tensor(name).unwrap().data().chunks_exact(4).map(|c| c.try_into().unwrap()).collect()
    };
    let floats = |name: &str| -> Vec<f32> { four(name).into_iter().map(f32::from_le_bytes).collect() };
    let ids = |name: &str| -> Vec<u32> { four(name).into_iter().map(u32::from_le_bytes).collect() };
    let s = Settings { task: "rating".into(), width: 8, heads: 2, length: 9, batch: 4, dropout: 0.0, ..s };
    let summary = DataSummary { counts: vec![1; 23], ratings: Some(scale()), ..DataSummary::default() };
    let mut engine = Engine::<B>::new(&s, summary, |p| Ok(open(p))).unwrap();
    let params = engine.params().to_vec();
    let mine = |n: &&str| n.starts_with(&format!("{case}/")) && !n.contains("grad.");
    let weights = fixture.names().into_iter().filter(mine).count();
    assert_eq!(params.len(), weights - 1, "{case}: the fixture has the model's parameters and the loss");
    for p in &params {
        let name = format!("{case}/{}", p.name);
        assert_eq!(fixture.tensor(&name).unwrap().shape(), p.shape, "{name}");
        engine.backend.write(p.w.raw(), &floats(&name));
    }
    let (items, ratings, cu) = (ids("items"), floats("ratings"), ids("cu"));
    engine.begin(1);
    for (user, bounds) in cu.windows(2).enumerate() {
        let range = bounds[0] as usize..bounds[1] as usize;
        let sequence = Sequence::Rated { items: &items[range.clone()], ratings: &ratings[range] };
        engine.push(user as u64, sequence);
    }
    let (loss, want) = (engine.gradients(1, true), floats(&format!("{case}/loss"))[0]);
    assert!((loss - want).abs() <= tolerance * want, "{case}: loss {loss}, PyTorch {want}");
    for p in &params {
        let (mut have, want) = (vec![0.0; p.w.len()], floats(&format!("{case}/grad.{}", p.name)));
        engine.backend.read(p.dw.raw(), &mut have);
        let largest = want.iter().fold(1e-3f32, |a, x| a.max(x.abs()));
        for (i, (h, w)) in have.iter().zip(&want).enumerate() {
            assert!((h - w).abs() <= tolerance * largest, "{case}: d {}[{i}] is {h}, PyTorch {w}", p.name);
        }
    }
}

#[test]
fn models_of_ratings_agree_with_pytorch() {
    let base = |model: &str| Settings { model: model.into(), mask_last: 1.0, ..Settings::default() };
    let cases = [
        ("dacf-all", Settings { mask: 0.0, ..base("dacf") }),
        ("dacf-last", base("dacf")),
        ("bert4rec-concat", Settings { blocks: 1, rating_width: 5, ..base("bert4rec") }),
        ("bert4rec-sum", Settings { blocks: 1, rating_width: 0, ..base("bert4rec") }),
    ];
    for (case, s) in cases {
        // The fixture contains f32 roundings of an f64 computation: the reference agrees to the last place or two of
        // f32.
        beside_pytorch(case, s.clone(), Reference::<f64>::new, 1e-6);
        beside_pytorch(case, s, Cpu::new, 2e-5);
    }
}

/// A batch as it arrives on the device: items, classes, ratings relative to the mean, scored rows.
type Made = (Vec<u32>, Vec<u32>, Vec<f32>, Vec<u32>);

fn made(mask: f32, mask_last: f32, epoch: u32, users: &[(u64, usize)]) -> Made {
    let c = crate::common::task_settings(mask, mask_last, 20, 3);
    let mut p = Planner::new();
    let (input, mut task) = crate::common::task::<Rating>(&mut p, &c, 50, users.len());
    task.learn(&DataSummary { counts: vec![1; 50], ratings: Some(scale()), ..DataSummary::default() });
    let mut cpu = Cpu::new(&p);
    let mut batch = task.batches().empty();
    task.batches().clear(&mut batch, epoch);
    for (user, len) in users {
        let items: Vec<u32> = (0..*len as u32).map(|i| (i * 7 + *user as u32) % 50).collect();
        let ratings: Vec<f32> = items.iter().map(|i| scale().levels[*i as usize % 5]).collect();
        task.push(&mut batch, *user, Sequence::Rated { items: &items, ratings: &ratings });
    }
    let s = task.upload(&mut cpu, &mut batch, 1);
    assert_eq!(s.m, users.iter().map(|(user, len)| task.scored(epoch, *user, (*len).min(20))).sum::<usize>());
    let ids = |cpu: &mut Cpu, span, n| {
        let mut ids = vec![0; n];
        cpu.read_ids(span, &mut ids);
        ids
    };
    let mut rating = vec![0.0; s.n];
    cpu.read(input.rating.raw(), &mut rating);
    let mut ids = |span, n| ids(&mut cpu, span, n);
    (ids(input.item, s.n), ids(input.class, s.n), rating, ids(input.row, s.m))
}

#[test]
fn ratings_are_hidden_and_items_never() {
    let (items, classes, ratings, rows) = made(0.25, 0.0, 1, &[(7, 20), (9, 1), (11, 8)]);
    assert_eq!(rows.len(), 5 + 1 + 2);
    for (n, item) in items.iter().enumerate() {
        // Items are unchanged, except for the first of the last user: every user starts at a different item.
        let level = *item as usize % 5;
        let shown = (level as u32, scale().levels[level] - 3.25);
        let want = if rows.contains(&(n as u32)) { (5, 0.0) } else { shown };
        assert_eq!((classes[n], ratings[n]), want, "row {n}");
    }
    let (_, classes, _, rows) = made(0.0, 0.5, 1, &[(7, 20), (9, 3)]);
    assert_eq!((rows.len(), classes.contains(&5)), (23, false), "an autoencoder hides nothing and scores all");
    let (_, _, _, rows) = made(0.5, 1.0, 1, &[(7, 30), (9, 3)]);
    assert_eq!(rows, [19, 22], "the last rows alone");
    assert_eq!(Rating::most_scored(&crate::common::task_settings(0.0, 0.0, 20, 3)), 20);
}

#[test]
fn what_is_hidden_follows_from_seed_epoch_and_user() {
    let (alone, both) = (made(0.4, 0.2, 5, &[(11, 40)]), made(0.4, 0.2, 5, &[(12, 40), (11, 40)]));
    let first = both.3.len() - alone.3.len();
    assert_eq!((&alone.0[..], &alone.1[..]), (&both.0[20..], &both.1[20..]));
    assert_eq!(alone.3, both.3[first..].iter().map(|r| r - 20).collect::<Vec<_>>());
    assert_ne!(alone.3, made(0.4, 0.2, 6, &[(11, 40)]).3);
}

#[test]
fn a_question_ends_in_an_item_whose_rating_is_hidden() {
    let c = crate::common::task_settings(0.2, 0.0, 4, 3);
    let (_, mut task) = crate::common::task::<Rating>(&mut Planner::new(), &c, 50, 3);
    task.learn(&DataSummary { counts: vec![1; 50], ratings: Some(scale()), ..DataSummary::default() });
    let mut host = HostInput::default();
    host.clear();
    task.push_question(&mut host, &[1, 2, 3, 4, 5], &[1.0, 2.0, 3.0, 4.5, 5.0], 9);
    task.push_question(&mut host, &[], &[], 8);
    task.push_question(&mut host, &[6], &[2.0], 6);
    assert_eq!((host.item, host.cu), (vec![3, 4, 5, 9, 8, 6, 6], vec![0, 4, 5, 7]));
    assert_eq!((host.pos, host.row), (vec![0, 1, 2, 3, 3, 2, 3], vec![3, 4, 6]));
    assert_eq!(host.class, [2, 3, 4, 5, 5, 1, 5]);
    assert_eq!(host.rating, [-0.25, 1.25, 1.75, 0.0, 0.0, -1.25, 0.0]);
}

/// Predicts the mean of the visible ratings, or nonsense if there are none.
struct MeanOfShown(f32);

impl Encoder for MeanOfShown {
    fn width(&self) -> usize {
        1
    }
    fn items(&self) -> usize {
        4
    }
    fn item_vectors(&mut self, _: std::ops::Range<usize>, _: &mut [f32]) -> Result<()> {
        unreachable!()
    }
    fn item_biases(&mut self, _: &mut [f32]) -> Result<()> {
        unreachable!()
    }
    fn encode(&mut self, _: &[Query<'_>], _: &mut [f32]) -> Result<()> {
        unreachable!()
    }
    fn rank(&mut self, _: &[Query<'_>]) -> Answer<Vec<Ranks>> {
        unreachable!()
    }
    fn top_k(&mut self, _: &[Query<'_>], _: usize) -> Answer<Vec<Vec<Scored>>> {
        unreachable!()
    }
    fn predict(&mut self, questions: &[Question<'_>]) -> Result<Vec<f32>> {
        let mean = |q: &Question| self.0 * q.ratings.iter().sum::<f32>() / q.ratings.len() as f32;
        Ok(questions.iter().map(mean).collect())
    }
}

fn imported(dir: &Path, log: &str) -> Dataset {
    let (source, out) = (dir.join("log.csv"), dir.join("data"));
    fs::write(&source, log).unwrap();
    import(&[source], &out, &ImportOptions { force: true, ..ImportOptions::default() }, &mut |_| {}).unwrap();
    Dataset::open(&out).unwrap()
}

/// Two users; the last event of each is for the test, the preceding one for validation.
const LOG: &str = "user,item,rating,time\na,w,5,1\na,x,4,2\na,y,3,3\na,z,1,4\nb,x,2,1\nb,y,2,2\nb,w,3,3\nb,x,5,4\n";

#[test]
fn errors_are_those_worked_out_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let data = imported(dir.path(), LOG);
    let split = Split::new(&data, SplitSpec::LeaveOneOut).unwrap();
    let scale = scale_of(&data, &split).unwrap();
    // Training: a rates w 5 and x 4, b rates x 2 and y 2.
    assert_eq!((&scale.levels[..], scale.mean), (&[1.0, 2.0, 3.0, 4.0, 5.0][..], 3.25));
    let options = |batch| RatingOptions { range: scale.range(), batch, item_map: None, users: None };
    let judge = |encoder: &mut MeanOfShown, batch| {
        evaluate_ratings(encoder, &data, &split.test(), &options(batch), &mut |_| Ok(()))
    };
    let report = judge(&mut MeanOfShown(1.0), 1).unwrap();
    // a: mean of 5, 4, 3 = 4 for a 1; b: mean of 2, 2, 3 = 7/3 for a 5.
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} is not {b}");
    near(report.model.mae, (3.0 + 8.0 / 3.0) / 2.0);
    near(report.model.rmse, ((9.0 + 64.0 / 9.0) / 2.0f64).sqrt());
    near(report.global_mean.mae, (2.25 + 1.75) / 2.0);
    near(report.global_mean.rmse, ((2.25f64.powi(2) + 1.75f64.powi(2)) / 2.0).sqrt());
    // z does not occur in training and gets the mean of all; x was rated 4 and 2.
    near(report.item_mean.mae, (2.25 + 2.0) / 2.0);
    // Biases of items from training: w (5 - 3.25) / 6, x (0.75 - 1.25) / 7, y (2 - 3.25) / 6, z none. Biases of users
    // from their ratings before the test, validation included. These are a 5, 4, 3 for w, x, y, b 2, 2, 3 for x, y, w,
    // each divided by 10 + 3.
    let (w, x, y) = (1.75 / 6.0, -0.5 / 7.0, -1.25 / 6.0);
    let a = ((5.0 - 3.25 - w) + (4.0 - 3.25 - x) + (3.0 - 3.25 - y)) / 13.0;
    let b = ((2.0 - 3.25 - x) + (2.0 - 3.25 - y) + (3.0 - 3.25 - w)) / 13.0;
    let wrong = [3.25 + a - 1.0, 5.0 - (3.25 + x + b)];
    near(wrong[0], 2.422_161_2);
    near(wrong[1], 2.033_882_8);
    near(report.user_item.mae, (wrong[0] + wrong[1]) / 2.0);
    near(report.user_item.rmse, ((wrong[0].powi(2) + wrong[1].powi(2)) / 2.0f64).sqrt());
    assert!(report.text().contains("user + item") && report.text().contains("which are the model's input too"));
    assert!(report.json()["user_item"]["rmse"].is_number() && report.json()["baselines"].is_string());
    assert_eq!((report.ratings, report.users), (2, 2));
    assert_eq!(judge(&mut MeanOfShown(1.0), 64).unwrap().json(), report.json());
    // Ten times as much is clamped to the range: 5 for a 1 and 5 for a 5.
    near(judge(&mut MeanOfShown(10.0), 2).unwrap().model.mae, 2.0);
    let error = judge(&mut MeanOfShown(f32::NAN), 2).unwrap_err().to_string();
    assert!(error.contains("user 'a' and item 'z'") && error.contains("NaN"), "{error}");
    let narrow = RatingOptions { range: (1.0, 4.0), batch: 2, item_map: None, users: None };
    let error = evaluate_ratings(&mut MeanOfShown(1.0), &data, &split.test(), &narrow, &mut |_| Ok(())).unwrap_err();
    assert!(error.what.contains("rating 5") && error.hint.is_some(), "{error}");
    // Every held-out event is predicted from the events before all of them.
    let split = Split::new(&data, SplitSpec::LastN { valid: 0, test: 2 }).unwrap();
    let mut seen = Vec::new();
    evaluate_ratings(&mut MeanOfShown(1.0), &data, &split.test(), &options(3), &mut |p| {
        seen.push((p.user, p.item, p.rating, p.predicted));
        Ok(())
    })
    .unwrap();
    let id = |key: &str| data.item_keys().find(key).unwrap();
    assert_eq!(seen, [(0, id("y"), 3.0, 4.5), (0, id("z"), 1.0, 4.5), (1, id("w"), 3.0, 2.0), (1, id("x"), 5.0, 2.0)]);
}

#[test]
fn many_different_ratings_become_even_levels() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = String::from("user,item,rating,time\n");
    for i in 0..100 {
        log += &format!("u{},i{},{},{i}\n", i % 5, i % 7, -10.0 + 0.2 * i as f64);
    }
    let data = imported(dir.path(), &log);
    let split = Split::new(&data, SplitSpec::LeaveOneOut).unwrap();
    let levels = scale_of(&data, &split).unwrap().levels;
    assert_eq!((levels.len(), levels[0], levels[63]), (RatingScale::MOST, -10.0, 9.8));
    assert!(levels.windows(2).all(|w| w[0] < w[1]));
    let same = imported(
        dir.path(),
        &LOG.replace(",5,", ",3,").replace(",4,", ",3,").replace(",2,", ",3,").replace(",1,", ",3,"),
    );
    let split = Split::new(&same, SplitSpec::LeaveOneOut).unwrap();
    let error = scale_of(&same, &split).unwrap_err().to_string();
    assert!(error.contains("all ratings are 3"), "{error}");
}
