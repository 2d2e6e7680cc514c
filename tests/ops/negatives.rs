//! Negatives have the documented distribution. Drawn frequencies are compared with exact probabilities by chi-square,
//! the logQ term with the counts it represents, and losses with the formulas of their papers. Excluded hits never
//! occur.

use mipgpu::{
    backend::{Cpu, emulated},
    base::rng::{Purpose, Stream},
    mem::{Dst, Planner, Precision, Span},
    ops::{
        Backend, DrawCandidates, DrawNegatives, GatherTable, MarkOwn, NO_ID, NegativeLossBwd, NegativeLossFwd,
        SampledSoftmaxBwd, SampledSoftmaxFwd, draw_negatives::Sampling, negative_loss::Contrast,
    },
    tasks::{Sampler, SamplerKind, SamplerSettings, negatives::gbce_beta},
};

/// The settings of the emulator are global to the process.
static EMULATOR: std::sync::Mutex<()> = std::sync::Mutex::new(());

const SHARED: SamplerSettings =
    SamplerSettings { kind: SamplerKind::Uniform, negatives: 256, per_row: false, unique: false };

/// Returns the training interactions of `v` items, some with none.
fn counts(v: usize) -> Vec<u64> {
    let mut draw = Stream::new(3, Purpose::Test, v as u32);
    (0..v).map(|i| if i % 13 == 5 { 0 } else { 3 + draw.below(60) }).collect()
}

/// Returns how often each item is drawn in `steps` batches.
fn drawn<B: Backend>(open: impl Fn(&Planner) -> B, sampler: &Sampler, s: usize, v: usize, steps: u32) -> Vec<u64> {
    let mut p = Planner::new();
    let cells = sampler.cells().to_vec();
    let op = DrawNegatives {
        negative: p.index(s),
        alias: p.index(cells.len()),
        step: p.index(1),
        s,
        v,
        sampling: sampler.sampling().unwrap(),
        seed: 11,
    };
    let mut b = open(&p);
    b.write_ids(op.alias, &cells);
    let (mut count, mut ids) = (vec![0; v], vec![0; s]);
    for step in 0..steps {
        b.write_ids(op.step, &[step]);
        b.run(&op);
        b.read_ids(op.negative, &mut ids);
        if op.sampling == Sampling::Unique {
            let different: std::collections::HashSet<_> = ids.iter().collect();
            assert_eq!(different.len(), s, "an item came twice");
        }
        ids.iter().for_each(|id| count[*id as usize] += 1);
    }
    count
}

/// Returns the chi-square of counts against expected counts, in standard deviations from its mean: below 5 in all but
/// one of millions of runs. Rare items are pooled. `variance` is that of a count as a share of the expected count: 1
/// for independent draws.
fn deviation(count: &[u64], expected: &[f64], variance: f64) -> f64 {
    let (mut chi2, mut bins, mut have, mut want) = (0.0, 0.0, 0.0, 0.0);
    for (c, e) in count.iter().zip(expected) {
        (have, want) = (have + *c as f64, want + e);
        if want >= 8.0 {
            (chi2, bins) = (chi2 + (have - want).powi(2) / (want * variance), bins + 1.0);
            (have, want) = (0.0, 0.0);
        }
    }
    assert!(bins > 8.0, "too few draws for the test");
    let freedom = bins - 1.0;
    // Wilson and Hilferty: the cube root of chi2 / freedom is nearly normal.
    ((chi2 / freedom).cbrt() - (1.0 - 2.0 / (9.0 * freedom))) / (2.0f64 / (9.0 * freedom)).sqrt()
}

fn assert_drawn_as_expected<B: Backend>(open: impl Fn(&Planner) -> B, s: usize, v: usize, steps: u32) {
    for (kind, unique) in [
        (SamplerKind::Uniform, false),
        (SamplerKind::Uniform, true),
        (SamplerKind::LogUniform, false),
        (SamplerKind::Popularity, false),
    ] {
        let settings = SamplerSettings { kind, negatives: s, unique, ..SHARED };
        let sampler = Sampler::new(settings, &counts(v)).unwrap();
        let count = drawn(&open, &sampler, s, v, steps);
        // log q is the expected number of an item among the negatives of one batch, so the counts are compared with it.
        let expected: Vec<f64> = sampler.log_q().iter().map(|q| (*q as f64).exp() * steps as f64).collect();
        let total: f64 = expected.iter().sum();
        assert!((total / (s as f64 * steps as f64) - 1.0).abs() < 1e-5, "{kind:?}: log q counts {total}");
        // An item that is drawn with probability q at most once has variance q (1 - q).
        let variance = if unique { 1.0 - s as f64 / v as f64 } else { 1.0 };
        let z = deviation(&count, &expected, variance);
        println!("{kind:?} unique {unique} s {s} v {v}: chi-square {z:+.2} standard deviations");
        // The counts must not be too even to be random either.
        assert!(z.abs() < 5.0, "{kind:?} unique {unique}: {z}");
    }
}

#[test]
fn the_cpu_draws_what_log_q_says() {
    assert_drawn_as_expected(Cpu::new, 256, 1000, 600);
    // No stratum of two items is complete here, and S = V - 1.
    assert_drawn_as_expected(Cpu::new, 12, 13, 40_000);
    assert_drawn_as_expected(Cpu::new, 65, 97, 1000);
}

#[test]
fn so_do_the_kernels() {
    let _alone = EMULATOR.lock().unwrap_or_else(|e| e.into_inner());
    assert_drawn_as_expected(|p: &Planner| emulated(Precision::F32, p).unwrap(), 150, 200, 40);
    assert_drawn_as_expected(|p: &Planner| emulated(Precision::F32, p).unwrap(), 40, 60, 200);
}

/// The samplers' formulas, reimplemented here.
#[test]
fn probabilities_are_those_of_the_formulas() {
    let counts = [5u64, 0, 9, 5, 100, 0];
    let p = |kind| Sampler::new(SamplerSettings { kind, ..SHARED }, &counts).unwrap().probabilities();
    // Ranks by descending count, ties by id: 4, 2, 0, 3, 1, 5.
    let rank = [2.0, 4.0, 1.0, 3.0, 0.0, 5.0f64];
    for (i, (l, q)) in p(SamplerKind::LogUniform).iter().zip(p(SamplerKind::Popularity)).enumerate() {
        let log_uniform = ((rank[i] + 2.0) / (rank[i] + 1.0)).ln() / 7f64.ln();
        assert!((l - log_uniform).abs() < 1e-9, "item {i}: {l}, should be {log_uniform}");
        let popularity = (counts[i] + 1) as f64 / 125.0;
        assert!((q - popularity).abs() < 1e-9, "item {i}: {q}, should be {popularity}");
    }
    assert_eq!(p(SamplerKind::Uniform), [1.0 / 6.0; 6]);
    for (a, b) in p(SamplerKind::InBatch).iter().zip(p(SamplerKind::Popularity)) {
        assert!((a - b).abs() < 1e-9);
    }
}

/// Draws for some steps for sequences of `lengths` with scored rows; `seen` receives (own items, target, negatives) of
/// each row.
fn candidates<B: Backend>(
    open: impl Fn(&Planner) -> B,
    sampler: &Sampler,
    sizes: (usize, usize, bool),
    sequences: &[Vec<u32>],
    steps: u32,
    mut seen: impl FnMut(&[u32], u32, &[u32]),
) {
    candidates_of(open, sampler, sizes, sequences, steps, |items, target, ids, _| seen(items, target, ids));
}

/// The same, with ln of the probability that a draw misses what the row excludes.
fn candidates_of<B: Backend>(
    open: impl Fn(&Planner) -> B,
    sampler: &Sampler,
    (s, v, own): (usize, usize, bool),
    sequences: &[Vec<u32>],
    steps: u32,
    mut seen: impl FnMut(&[u32], u32, &[u32], f32),
) {
    let mut p = Planner::new();
    let cells = sampler.cells().to_vec();
    let (mut cu, mut scored, mut raw, mut target) = (vec![0u32], vec![0u32], vec![], vec![]);
    for items in sequences {
        raw.extend_from_slice(items);
        // Every second item is a target.
        target.extend(items.iter().step_by(2));
        cu.push(raw.len() as u32);
        scored.push(target.len() as u32);
    }
    let (rows, padding) = (target.len(), 3);
    target.extend([NO_ID; 3]);
    let masses = sampler.masses();
    let op = DrawCandidates {
        free: p.stat(rows + padding),
        mass: p.index(masses.len()),
        id: p.index((rows + padding) * (1 + s)),
        target: p.index(rows + padding),
        raw: p.index(raw.len()),
        cu: p.index(cu.len()),
        scored: p.index(scored.len()),
        alias: p.index(cells.len()),
        step: p.index(1),
        m: rows + padding,
        s,
        n: raw.len(),
        b: sequences.len(),
        v,
        sampling: sampler.sampling().unwrap(),
        own,
        seed: 12,
        t: sequences.iter().map(Vec::len).max().unwrap(),
    };
    let mut b = open(&p);
    for (span, ids) in [
        (op.target, &target),
        (op.raw, &raw),
        (op.cu, &cu),
        (op.scored, &scored),
        (op.alias, &cells),
        (op.mass, &masses),
    ] {
        b.write_ids(span, ids);
    }
    let (mut id, mut free) = (vec![0; op.id.len()], vec![0.0; op.free.len()]);
    for step in 0..steps {
        b.write_ids(op.step, &[step]);
        b.run(&op);
        b.read_ids(op.id, &mut id);
        b.read(op.free.raw(), &mut free);
        let mut row = id.chunks_exact(1 + s);
        let mut left = free.iter();
        for items in sequences {
            for target in items.iter().step_by(2) {
                let row = row.next().unwrap();
                assert_eq!(row[0], *target);
                seen(items, *target, &row[1..], *left.next().unwrap());
            }
        }
        assert!(row.all(|row| row.iter().all(|id| *id == NO_ID)), "padding is no item");
        assert!(left.all(|free| *free == 0.0), "padding excludes nothing");
    }
}

/// Every sampler, with own items or only the target excluded: no hits, and the others occur with their probabilities.
fn assert_candidates_as_expected<B: Backend>(open: impl Fn(&Planner) -> B, s: usize, steps: u32) {
    const V: usize = 80;
    let mut draw = Stream::new(9, Purpose::Test, 1);
    let mut sequence = |n: usize| (0..n).map(|_| draw.below(V as u64) as u32).collect::<Vec<u32>>();
    let sequences = [sequence(11), sequence(1), sequence(24)];
    for kind in [SamplerKind::Uniform, SamplerKind::LogUniform, SamplerKind::Popularity] {
        let sampler =
            Sampler::new(SamplerSettings { kind, negatives: s, per_row: true, unique: false }, &counts(V)).unwrap();
        let p = sampler.probabilities();
        for own in [false, true] {
            let (mut count, mut expected) = (vec![0u64; V], vec![0.0; V]);
            candidates(&open, &sampler, (s, V, own), &sequences, steps, |items, target, negatives| {
                let hit = |id: u32| id == target || own && items.contains(&id);
                assert!(negatives.iter().all(|id| (*id as usize) < V && !hit(*id)), "{kind:?}: an accidental hit");
                negatives.iter().for_each(|id| count[*id as usize] += 1);
                let free = |i: &usize| !hit(*i as u32);
                let rest: f64 = (0..V).filter(free).map(|i| p[i]).sum();
                (0..V).filter(free).for_each(|i| expected[i] += s as f64 * p[i] / rest);
            });
            let z = deviation(&count, &expected, 1.0);
            println!("{kind:?} of a row's own, own items excluded: {own}: chi-square {z:+.2} standard deviations");
            assert!(z.abs() < 5.0, "{kind:?} own {own}: {z}");
        }
    }
}

#[test]
fn candidates_miss_what_is_excluded_and_nothing_else() {
    assert_candidates_as_expected(Cpu::new, 50, 200);
}

#[test]
fn so_do_those_of_the_kernels() {
    let _alone = EMULATOR.lock().unwrap_or_else(|e| e.into_inner());
    assert_candidates_as_expected(|p: &Planner| emulated(Precision::F32, p).unwrap(), 20, 20);
}

#[test]
fn a_user_of_everything_has_no_negatives() {
    let settings = SamplerSettings { negatives: 5, per_row: true, ..SHARED };
    let sampler = Sampler::new(settings, &[1, 2, 3]).unwrap();
    candidates(Cpu::new, &sampler, (5, 3, true), &[vec![2, 0, 1]], 3, |_, _, ids| assert_eq!(ids, [NO_ID; 5]));
    // All but one item are excluded: the draw is always that one, whatever the tries hit.
    candidates(Cpu::new, &sampler, (5, 3, true), &[vec![2, 0, 2]], 3, |_, _, ids| assert_eq!(ids, [1; 5]));
}

#[test]
fn what_cannot_be_drawn_is_refused_with_advice() {
    use SamplerKind::*;
    let refused = |settings: SamplerSettings, counts: &[u64], what: &str| {
        let error = Sampler::new(settings, counts).expect_err(what);
        assert!(error.what.contains(what), "{error}");
        assert!(error.hint.is_some(), "{error}: no hint");
    };
    let three = [4u64, 5, 6];
    refused(SHARED, &[], "a catalogue of 0 items");
    refused(SHARED, &[7], "a catalogue of 1 items");
    refused(SamplerSettings { negatives: 0, ..SHARED }, &three, "0 negatives");
    refused(SamplerSettings { negatives: 3, unique: true, ..SHARED }, &three, "3 unique negatives");
    refused(SamplerSettings { kind: Popularity, unique: true, ..SHARED }, &three, "requires --sampler uniform");
    refused(SamplerSettings { per_row: true, unique: true, negatives: 1, ..SHARED }, &three, "each row has its own");
    refused(SamplerSettings { kind: InBatch, per_row: true, ..SHARED }, &three, "in-batch");
    Sampler::new(SamplerSettings { negatives: 2, unique: true, ..SHARED }, &three).unwrap();
    Sampler::new(SamplerSettings { kind: InBatch, negatives: 0, ..SHARED }, &three).unwrap();
    assert!(gbce_beta(1.5, 10, 100).is_err() && gbce_beta(f32::NAN, 10, 100).is_err());
}

#[test]
fn beta_is_that_of_the_paper() {
    for (t, s, v) in [(0.75f64, 256usize, 3706usize), (0.0, 1, 50), (1.0, 128, 1001), (0.3, 7, 9)] {
        let alpha = s as f64 / (v - 1) as f64;
        let beta = alpha * (t * (1.0 - 1.0 / alpha) + 1.0 / alpha);
        assert!((gbce_beta(t as f32, s, v).unwrap() as f64 - beta).abs() < 1e-6);
    }
}

/// Computes one row with the given logits: D = 1, h = 1, and the candidates' weights are the logits.
fn row_of<B: Backend>(open: impl Fn(&Planner) -> B, logits: &[f32], contrast: Contrast) -> (f32, Vec<f32>) {
    let mut p = Planner::new();
    let (w, v) = (logits.len(), logits.len());
    let (h, table, bias, log_q, free) = (p.var(1), p.weight(v), p.stat(v), p.stat(0), p.stat(0));
    let (loss, dloss, z, g, id) = (p.stat(1), p.stat(1), p.stat(w), p.stat(w), p.index(w));
    let (m, d, s) = (1, 1, w - 1);
    let mut b = open(&p);
    b.write(h.y.raw(), &[1.0]);
    b.write(table.raw(), logits);
    b.write(bias.raw(), &vec![0.0; v]);
    b.write(dloss.raw(), &[1.0]);
    b.write_ids(id, &(0..w as u32).collect::<Vec<_>>());
    b.run(&NegativeLossFwd { loss, z, h: h.y, table, bias, log_q, free, id, m, d, s, v, contrast });
    b.run(&NegativeLossBwd { g, dh: Dst::Write(h.dy), dloss, z, table, id, m, d, s, v, contrast });
    let (mut l, mut slopes) = ([0.0], vec![0.0; w]);
    b.read(loss.raw(), &mut l);
    b.read(g.raw(), &mut slopes);
    (l[0], slopes)
}

/// The losses as in their papers, in f64, with sigma and its powers instead of softplus.
#[test]
fn losses_are_those_of_their_papers() {
    let z = [1.5f32, -0.25, 2.0, 0.0, -3.0];
    let sigma = |x: f64| 1.0 / (1.0 + (-x).exp());
    let z64: Vec<f64> = z.iter().map(|x| *x as f64).collect();
    let beta = 0.35f32;
    let gbce = -(sigma(z64[0]).powf(beta as f64).ln() + z64[1..].iter().map(|x| (1.0 - sigma(*x)).ln()).sum::<f64>());
    let bpr: f64 = z64[1..].iter().map(|x| -sigma(z64[0] - x).ln()).sum();
    let softmax = -(z64[0].exp() / z64.iter().map(|x| x.exp()).sum::<f64>()).ln();
    let _alone = EMULATOR.lock().unwrap_or_else(|e| e.into_inner());
    let emulator = |p: &Planner| emulated(Precision::F32, p).unwrap();
    for (contrast, want) in
        [(Contrast::Bce { beta }, gbce / 5.0), (Contrast::Bpr, bpr / 4.0), (Contrast::Softmax, softmax)]
    {
        for (loss, _) in [row_of(Cpu::new, &z, contrast), row_of(emulator, &z, contrast)] {
            assert!((loss as f64 - want).abs() < 1e-6, "{contrast:?}: {loss}, should be {want}");
        }
    }
}

/// Logits at which e^x overflows or 1 - p cancels: losses stay finite, and small slopes keep their precision.
#[test]
fn extreme_logits_keep_their_gradients() {
    let _alone = EMULATOR.lock().unwrap_or_else(|e| e.into_inner());
    let emulator = |p: &Planner| emulated(Precision::F32, p).unwrap();
    for contrast in [Contrast::Bce { beta: 0.5 }, Contrast::Bpr, Contrast::Softmax] {
        for z in [[300.0f32, -300.0, -299.0], [-300.0, 300.0, 0.0], [20.0, -5.0, -5.0], [0.0, 1e4, -1e4]] {
            for (loss, g) in [row_of(Cpu::new, &z, contrast), row_of(emulator, &z, contrast)] {
                assert!(loss.is_finite() && loss >= 0.0 && g.iter().all(|g| g.is_finite()), "{contrast:?} {z:?}");
            }
        }
        // The target wins by 25: its gradient is about 1e-11, far below the last bit of 1.
        for (loss, g) in
            [row_of(Cpu::new, &[20.0, -5.0, -5.0], contrast), row_of(emulator, &[20.0, -5.0, -5.0], contrast)]
        {
            let tiny = (-25f64).exp();
            let (want_loss, want) = match contrast {
                Contrast::Bpr => (tiny, -tiny),
                Contrast::Softmax => (2.0 * tiny, -2.0 * tiny),
                Contrast::Bce { beta } => {
                    let (own, other) = ((-20f64).exp(), (-5f64).exp());
                    ((beta as f64 * own + 2.0 * other.ln_1p()) / 3.0, -(beta as f64) * own / 3.0)
                }
            };
            assert!((loss as f64 / want_loss - 1.0).abs() < 1e-5, "{contrast:?}: {loss}, should be {want_loss}");
            assert!((g[0] as f64 / want - 1.0).abs() < 1e-5, "{contrast:?}: {}, should be {want}", g[0]);
        }
    }
}

/// Returns training interactions in which the first item has nearly half: a popular target excludes many draws.
fn lopsided(v: usize) -> Vec<u64> {
    (0..v).map(|i| if i == 0 { 1_000 } else { 10 + (i as u64 * 7) % 40 }).collect()
}

/// Among the negatives of one row an item occurs exp(log q) / (1 - m) times, where m is the mass that the row excludes,
/// summed here independently. The op returns ln(1 - m).
#[test]
fn counts_of_a_rows_own_negatives_are_the_closed_form() {
    const V: usize = 40;
    let s = 40;
    // The popular item as the target, among the own items, and absent; repeated items; nearly all items.
    let sequences: Vec<Vec<u32>> = vec![vec![0], vec![5, 0, 7, 0, 5], vec![9, 3, 9], (0..37).rev().collect()];
    for (kind, counts) in [
        (SamplerKind::Uniform, counts(V)),
        (SamplerKind::LogUniform, lopsided(V)),
        (SamplerKind::Popularity, lopsided(V)),
    ] {
        let sampler =
            Sampler::new(SamplerSettings { kind, negatives: s, per_row: true, unique: false }, &counts).unwrap();
        let (p, log_q) = (sampler.probabilities(), sampler.log_q());
        if kind == SamplerKind::Popularity {
            assert!(p[0] > 0.45 && p[0] < 0.5, "{}", p[0]);
        }
        for own in [false, true] {
            let mut rows: Vec<(Vec<f64>, Vec<u64>)> = Vec::new();
            let steps = 3000;
            let mut at = 0;
            let each = |items: &[u32], target: u32, negatives: &[u32], free: f32| {
                let gone = |id: usize| id as u32 == target || own && items.contains(&(id as u32));
                let mass: f64 = (0..V).filter(|id| gone(*id)).map(|id| p[id]).sum();
                assert!((free as f64 - (-mass).ln_1p()).abs() < 2e-6, "{kind:?}: {free} for {mass}");
                let per_row = sequences.iter().map(|s| s.len().div_ceil(2)).sum::<usize>();
                if rows.len() < per_row {
                    let count = |id: usize| if gone(id) { 0.0 } else { (log_q[id] as f64).exp() / (1.0 - mass) };
                    rows.push(((0..V).map(count).collect(), vec![0; V]));
                }
                negatives.iter().for_each(|id| rows[at % per_row].1[*id as usize] += 1);
                at += 1;
            };
            candidates_of(Cpu::new, &sampler, (s, V, own), &sequences, steps, each);
            let mut all = (vec![0.0; V], vec![0u64; V]);
            for (expected, count) in &rows {
                assert!((expected.iter().sum::<f64>() / s as f64 - 1.0).abs() < 1e-5);
                for id in 0..V {
                    let (want, have) = (expected[id] * steps as f64, count[id] as f64);
                    // At most Poisson: five standard deviations.
                    assert!((have - want).abs() <= 5.0 * want.sqrt() + 1e-9, "{kind:?} own {own} {id}: {have}, {want}");
                    (all.0[id], all.1[id]) = (all.0[id] + want, all.1[id] + count[id]);
                }
            }
            let z = deviation(&all.1, &all.0, 1.0);
            println!("{kind:?} own {own}: chi-square {z:+.2} standard deviations");
            assert!(z.abs() < 5.0, "{kind:?} own {own}: {z}");
        }
    }
}

/// Logits of a row and its items: D = 1, h = 1, and an item's vector is its logit.
struct Row {
    z: Vec<f64>,
    target: u32,
    items: Vec<u32>,
}

impl Row {
    /// Returns the gradients of the logits under the softmax over the target and all items that are not excluded, and
    /// its loss.
    fn full(&self, own: bool) -> (f64, Vec<f64>) {
        let there = |k: usize| k as u32 == self.target || !(own && self.items.contains(&(k as u32)));
        let all: f64 = (0..self.z.len()).filter(|k| there(*k)).map(|k| self.z[k].exp()).sum();
        let p = |k: usize| if there(k) { self.z[k].exp() / all } else { 0.0 };
        let slope = (0..self.z.len()).map(|k| p(k) - f64::from(u8::from(k as u32 == self.target)));
        (all.ln() - self.z[self.target as usize], slope.collect())
    }

    /// Returns the same, estimated from `s` negatives by the loss of the settings, and summed by item.
    fn sampled(&self, settings: SamplerSettings, counts: &[u64], own: bool, log_q: bool, seed: u64) -> (f64, Vec<f64>) {
        let (v, s) = (self.z.len(), settings.negatives);
        let sampler = Sampler::new(settings, counts).unwrap();
        let (cells, masses) = (sampler.cells().to_vec(), sampler.masses());
        let mut p = Planner::new();
        let (h, table, bias, q) = (p.var(1), p.weight(v), p.stat(v), p.stat(v));
        let (loss, lse, dloss, free, z) = (p.stat(1), p.stat(1), p.stat(1), p.stat(1), p.stat(1 + s));
        let (g, g0, pos, neg, dbias) = (p.stat(1 + s), p.stat(1), p.act(1), p.var(s), p.act(s));
        let (alias, mass, step) = (p.index(cells.len()), p.index(masses.len()), p.index(1));
        let (target, raw, cu, scored) = (p.index(1), p.index(self.items.len()), p.index(2), p.index(2));
        let (id, negative, marks) = (p.index(1 + s), p.index(s), p.index(s.div_ceil(32)));
        let mut cpu = Cpu::new(&p);
        let b: &mut dyn Backend = &mut cpu;
        let z32: Vec<f32> = self.z.iter().map(|z| *z as f32).collect();
        b.write(h.y.raw(), &[1.0]);
        b.write(dloss.raw(), &[1.0]);
        b.write(table.raw(), &z32);
        b.write(q.raw(), &if log_q { sampler.log_q() } else { vec![0.0; v] });
        let ids =
            [(alias, &cells), (mass, &masses), (step, &vec![7]), (target, &vec![self.target]), (raw, &self.items)];
        ids.into_iter().for_each(|(span, ids)| b.write_ids(span, ids));
        b.write_ids(cu, &[0, self.items.len() as u32]);
        b.write_ids(scored, &[0, 1]);
        let (m, d, n, t) = (1, 1, self.items.len(), self.items.len());
        let sampling = sampler.sampling().unwrap();
        let mut slopes = vec![0.0; v];
        let mut found = vec![0; s];
        if settings.per_row {
            b.run(&DrawCandidates {
                id,
                free,
                target,
                raw,
                cu,
                scored,
                alias,
                mass,
                step,
                m,
                s,
                n,
                b: 1,
                v,
                sampling,
                own,
                seed,
                t,
            });
            let contrast = Contrast::Softmax;
            b.run(&NegativeLossFwd { loss, z, h: h.y, table, bias, log_q: q, free, id, m, d, s, v, contrast });
            b.run(&NegativeLossBwd { g, dh: Dst::Write(h.dy), dloss, z, table, id, m, d, s, v, contrast });
            let (mut ids, mut gradient) = (vec![0; 1 + s], vec![0.0; 1 + s]);
            b.read_ids(id, &mut ids);
            b.read(g.raw(), &mut gradient);
            ids.iter().zip(&gradient).for_each(|(id, g)| slopes[*id as usize] += *g as f64);
        } else {
            b.run(&DrawNegatives { negative, alias, step, s, v, sampling, seed });
            b.run(&MarkOwn { own: marks, negative, raw, cu, scored, m, s, n, b: 1, t });
            let own = if own { marks } else { Span::empty() };
            b.run(&GatherTable { y: pos, table, id: target, n: 1, d, v });
            b.run(&GatherTable { y: neg.y, table, id: negative, n: s, d, v });
            let (log_q, targets) = (q, Span::empty());
            b.run(&SampledSoftmaxFwd {
                loss,
                lse,
                h: h.y,
                pos,
                neg: neg.y,
                bias,
                log_q,
                target,
                negative,
                own,
                targets,
                m,
                d,
                s,
                in_batch: false,
            });
            let (dneg, dneg_bias) = (Dst::Skip, Dst::Write(dbias));
            b.run(&SampledSoftmaxBwd {
                g0,
                dh: Dst::Skip,
                dneg,
                dneg_bias,
                dloss,
                h: h.y,
                pos,
                neg: neg.y,
                bias,
                log_q,
                target,
                negative,
                own,
                targets,
                lse,
                m,
                d,
                s,
                in_batch: false,
            });
            let (mut gradient, mut first) = (vec![0.0; s], [0.0]);
            b.read_ids(negative, &mut found);
            b.read(dbias.raw(), &mut gradient);
            b.read(g0.raw(), &mut first);
            found.iter().zip(&gradient).for_each(|(id, g)| slopes[*id as usize] += *g as f64);
            slopes[self.target as usize] += first[0] as f64;
        }
        let mut value = [0.0];
        b.read(loss.raw(), &mut value);
        (value[0] as f64, slopes)
    }
}

/// With the correction, loss and gradient of every sampler converge to those of the full softmax as negatives are
/// added, like one over the root of their number. Without it they do not.
#[test]
fn the_correction_leads_to_the_full_softmax() {
    const V: usize = 60;
    let mut draw = Stream::new(31, Purpose::Test, 5);
    let z: Vec<f64> = (0..V).map(|i| if i == 0 { 1.0 } else { 3.0 * draw.uniform() as f64 - 1.5 }).collect();
    let popular = Row { z: z.clone(), target: 0, items: vec![0, 4, 9, 4, 30, 31, 32, 33] };
    let rare = Row { z, target: 9, items: vec![0, 4, 9, 4, 30, 31, 32, 33] };
    let counts = lopsided(V);
    let apart = |(loss, slopes): (f64, Vec<f64>), (full, want): (f64, Vec<f64>)| {
        let worst = slopes.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        worst.max((loss - full).abs())
    };
    for row in [&popular, &rare] {
        for (kind, per_row) in [SamplerKind::Uniform, SamplerKind::LogUniform, SamplerKind::Popularity]
            .into_iter()
            .flat_map(|kind| [(kind, false), (kind, true)])
        {
            for own in [false, true] {
                let error = |s: usize, log_q: bool| {
                    let settings = SamplerSettings { kind, negatives: s, per_row, unique: false };
                    let all = (0..8).map(|seed| apart(row.sampled(settings, &counts, own, log_q, seed), row.full(own)));
                    all.sum::<f64>() / 8.0
                };
                let [few, some, many] = [64, 1024, 65_536].map(|s| error(s, true));
                let what = format!("{kind:?} per row {per_row} own {own} target {}: {few} {some} {many}", row.target);
                println!("{what}");
                assert!(some < few && many < some / 3.0 && many < 0.02, "{what}");
                assert!(error(65_536, false) > 0.1, "{what}: without a correction");
            }
        }
        // Distinct negatives: all but the one that the turn omits, and the target is not among them.
        let settings = |s| SamplerSettings { kind: SamplerKind::Uniform, negatives: s, per_row: false, unique: true };
        let error = |s: usize| {
            (0..64)
                .map(|seed| apart(row.sampled(settings(s), &counts, false, true, seed), row.full(false)))
                .sum::<f64>()
                / 64.0
        };
        let (few, all) = (error(8), error(V - 1));
        println!("unique target {}: {few} {all}", row.target);
        assert!(all < 0.03 && all < few / 5.0, "unique: {few} {all}");
    }
}
