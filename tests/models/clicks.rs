//! The click-through head: its gradient against central differences at f64, overfitting, the closed form of logistic
//! regression, a step on every backend, and the standardized inputs against plain sums.

use std::{fs, ops::Range, path::Path};

use mipgpu::{
    backend::{Cpu, Reference, emulated},
    base::{
        Result,
        rng::{Purpose, Stream},
    },
    data::{Dataset, ImportOptions, import, impressions::Impressions},
    eval::{Answer, Encoder, Query, Ranks, Scored, clicks::log_odds},
    mem::{Param, Planner, Precision},
    ops::Backend,
    train::clicks::{ClickSettings, Inputs, Learner, NO_VECTOR, encode},
};

fn settings(hidden: &[usize], batch: usize) -> ClickSettings {
    ClickSettings {
        hidden: hidden.to_vec(),
        lr: 1e-2,
        batch,
        epochs: 1,
        patience: 0,
        weight_decay: 0.0,
        clip: 0.0,
        seed: 1,
    }
}

/// Returns normal inputs (m, width) and labels.
fn batch(m: usize, width: usize) -> (Vec<f32>, Vec<f32>) {
    let mut draw = Stream::new(6, Purpose::Test, m as u32);
    let x = (0..m * width).map(|_| draw.normal()).collect();
    (x, (0..m).map(|_| draw.below(2) as f32).collect())
}

fn learner<B: Backend>(s: &ClickSettings, width: usize, open: impl Fn(&Planner) -> Result<B>) -> Learner<B> {
    Learner::new(s, width, -0.7, open).unwrap()
}

/// Checks every parameter alone along a random direction, then all at once.
#[test]
fn the_gradient_of_every_parameter_is_right() {
    for (hidden, m, room) in [(&[][..], 7, 9), (&[5], 1, 1), (&[5, 3], 9, 16), (&[8, 16, 4], 70, 70)] {
        let width = 6;
        let (x, t) = batch(m, width);
        let mut l = learner(&settings(hidden, room), width, |p| Ok(Reference::<f64>::new(p)));
        let params: Vec<Param> = l.plan.params().to_vec();
        assert_eq!(params.len(), 2 * hidden.len() + 2);
        // Biases are moved away from 0. If all units below a layer are off, its sums are its biases. relu has a kink at
        // 0, where there is no slope to compare with.
        let mut draw = Stream::new(8, Purpose::Test, 0);
        for p in params.iter().filter(|p| p.name.ends_with(".bias")) {
            let away: Vec<f64> = (0..p.w.len()).map(|_| draw.normal() as f64).map(|x| x + 0.1f64.copysign(x)).collect();
            l.backend.set(p.w.raw(), &away);
        }
        let start: Vec<Vec<f64>> = params.iter().map(|p| l.backend.values(p.w.raw())).collect();
        l.gradients(&x, &t);
        let gradient: Vec<Vec<f64>> = params.iter().map(|p| l.backend.values(p.dw.raw())).collect();
        let mut sets: Vec<Vec<usize>> = (0..params.len()).map(|i| vec![i]).collect();
        sets.push((0..params.len()).collect());
        for set in sets {
            let direction = |i: usize| -> Vec<f64> {
                let mut draw = Stream::new(9, Purpose::Test, i as u32);
                (0..params[i].w.len()).map(|_| draw.normal() as f64).collect()
            };
            let mut at = |k: f64| {
                for &i in &set {
                    let moved: Vec<f64> = start[i].iter().zip(direction(i)).map(|(w, u)| w + k * u).collect();
                    l.backend.set(params[i].w.raw(), &moved);
                }
                l.gradients(&x, &t);
                l.backend.values(l.head.report.raw())[0]
            };
            const STEP: f64 = 1e-6;
            let numeric = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            at(0.0);
            let dot = |i: &usize| gradient[*i].iter().zip(direction(*i)).map(|(g, u)| g * u).sum::<f64>();
            let analytic: f64 = set.iter().map(dot).sum();
            let norm = set.iter().flat_map(|i| &gradient[*i]).map(|g| g * g).sum::<f64>().sqrt();
            let error = (analytic - numeric).abs() / analytic.abs().max(1e-2 * norm).max(1e-7);
            let names: Vec<&str> = set.iter().map(|i| params[*i].name.as_str()).collect();
            assert!(error < 1e-5, "{hidden:?} {names:?}: analytic {analytic}, numeric {numeric}");
        }
    }
}

#[test]
fn one_batch_of_random_labels_can_be_overfitted() {
    let (x, t) = batch(64, 10);
    let mut l = learner(&settings(&[32, 16], 64), 10, |p| Ok(Cpu::new(p)));
    let mut losses = Vec::new();
    for _ in 0..400 {
        losses.extend(l.launch(&x, &t).unwrap());
    }
    losses.extend(l.finish().unwrap());
    assert_eq!(losses.len(), 400, "every step's loss is told once");
    assert!(losses[399] < 0.02 * losses[0], "from {} to {}", losses[0], losses[399]);
    let mut z = vec![0.0; 64];
    l.logits(&x, &mut z);
    assert!(z.iter().zip(&t).all(|(z, t)| (*z > 0.0) == (*t == 1.0)), "all labels are right");
}

/// With one column of 0s and 1s the optimal logits are known: the log-odds of the clicks at 0 and at 1.
#[test]
fn without_hidden_layers_it_is_logistic_regression() {
    let x: Vec<f32> = (0..100).map(|i| f32::from(u8::from(i >= 40))).collect();
    // 10 of 40 at 0, 45 of 60 at 1.
    let t: Vec<f32> = (0..100).map(|i| f32::from(u8::from(i < 10 || (40..85).contains(&i)))).collect();
    let mut l = learner(&settings(&[], 100), 1, |p| Ok(Cpu::new(p)));
    for _ in 0..1500 {
        l.launch(&x, &t).unwrap();
    }
    l.finish().unwrap();
    let mut z = vec![0.0; 2];
    l.logits(&[0.0, 1.0], &mut z);
    for (z, share) in z.iter().zip([0.25, 0.75]) {
        assert!((*z as f64 - log_odds(share)).abs() < 1e-3, "{z} at a share of {share}");
    }
}

/// Returns the losses of some steps with batches of several sizes, and the weights after them.
fn steps<B: Backend>(open: impl Fn(&Planner) -> Result<B>) -> (Vec<f32>, Vec<f32>) {
    let s = ClickSettings { weight_decay: 0.1, clip: 0.5, ..settings(&[24, 9], 50) };
    let mut l = learner(&s, 13, open);
    let mut losses = Vec::new();
    for m in [50, 50, 33, 1, 50] {
        let (x, t) = batch(m, 13);
        losses.extend(l.launch(&x, &t).unwrap());
    }
    losses.extend(l.finish().unwrap());
    (losses, weights(&mut l))
}

/// Returns all weights, concatenated.
fn weights<B: Backend>(l: &mut Learner<B>) -> Vec<f32> {
    let mut all = Vec::new();
    for p in l.plan.params() {
        let mut values = vec![0.0; p.w.len()];
        l.backend.read(p.w.raw(), &mut values);
        all.extend(values);
    }
    all
}

#[test]
fn cpu_and_cuda_kernels_do_what_the_reference_does() {
    let oracle = steps(|p| Ok(Reference::<f64>::new(p)));
    let near = |what: &str, (losses, weights): (Vec<f32>, Vec<f32>)| {
        for (part, have, want) in [("loss", &losses, &oracle.0), ("weight", &weights, &oracle.1)] {
            assert_eq!(have.len(), want.len());
            for (i, (h, w)) in have.iter().zip(want).enumerate() {
                assert!((h - w).abs() < 2e-5 * w.abs().max(1.0), "{what}: {part} {i} is {h}, should be {w}");
            }
        }
    };
    near("cpu", steps(|p| Ok(Cpu::new(p))));
    near("kernels", steps(|p| emulated(Precision::F32, p)));
}

#[test]
fn a_loss_that_is_not_finite_is_told_and_changes_no_weight() {
    let mut l = learner(&settings(&[4], 8), 3, |p| Ok(Cpu::new(p)));
    let (mut x, t) = batch(8, 3);
    l.launch(&x, &t).unwrap();
    l.finish().unwrap();
    let before = weights(&mut l);
    x[5] = f32::NAN;
    l.launch(&x, &t).unwrap();
    let error = l.finish().unwrap_err();
    assert!(error.what.contains("step 2") && error.hint.is_some(), "{error}");
    assert_eq!(before, weights(&mut l));
}

fn imported(dir: &Path, log: &str) -> Dataset {
    let (csv, out) = (dir.join("log.csv"), dir.join("data"));
    fs::write(&csv, log).unwrap();
    import(&[csv], &out, &ImportOptions::default(), &mut |_| {}).unwrap();
    Dataset::open(&out).unwrap()
}

/// Columns are standardized over training rows only; an item without a vector gets the mean; products exist if the
/// widths are equal.
#[test]
fn inputs_are_what_plain_sums_make_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let log = "user,item,rating,time\nu,a,1,1\nu,b,0,2\nu,c,1,3\nu,a,0,4\nu,b,1,5\nu,c,0,6\n";
    let data = imported(dir.path(), log);
    let all = Impressions::read(&data, 1.0, Some).unwrap();
    // Histories after 0, 1, 2 and 3 clicks; the second column of u never changes.
    let users = vec![1.0, 7.0, 2.0, 7.0, 4.0, 7.0, 8.0, 7.0];
    let history = [0, 1, 1, 2, 2, 3];
    let train = [0, 1, 2, 3];
    for c in [2, 3] {
        let items: Vec<f32> = (0..2 * c).map(|i| (i * i) as f32 - 3.0).collect();
        let row = vec![1, NO_VECTOR, 0];
        let inputs = Inputs::new([users.clone(), items.clone()], [2, c], row.clone(), &all, &train);
        let width = if c == 2 { 6 } else { 5 };
        assert_eq!((inputs.width(), inputs.product()), (width, c == 2));
        // Computes the value of row r in column k by plain code.
        let raw = |r: usize, k: usize| -> Option<f64> {
            let u = |k: usize| users[history[r] * 2 + k] as f64;
            let v = |k: usize| match row[r % 3] {
                NO_VECTOR => None,
                row => Some(items[row as usize * c + k] as f64),
            };
            match k {
                _ if k < 2 => Some(u(k)),
                _ if k < 2 + c => v(k - 2),
                _ => v(k - 2 - c).map(|v| u(k - 2 - c) * v),
            }
        };
        let mut x = vec![f32::NAN; 6 * width];
        inputs.fill(&all, &[0, 1, 2, 3, 4, 5], &mut x);
        for k in 0..width {
            let known: Vec<f64> = train.iter().filter_map(|r| raw(*r as usize, k)).collect();
            let mean = known.iter().sum::<f64>() / known.len() as f64;
            let deviation = (known.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / known.len() as f64).sqrt();
            for r in 0..6 {
                let want = raw(r, k).filter(|_| deviation > 0.0).map_or(0.0, |x| (x - mean) / deviation);
                let have = x[r * width + k];
                assert!((have as f64 - want).abs() < 1e-5, "row {r}, column {k}: {have}, should be {want}");
            }
        }
    }
}

/// A model that records its queries, with baskets as input or not.
struct Asked {
    baskets: bool,
    queries: Vec<(Vec<u32>, Option<u32>)>,
}

impl Encoder for Asked {
    fn width(&self) -> usize {
        1
    }
    fn items(&self) -> usize {
        3
    }
    fn item_vectors(&mut self, _: Range<usize>, _: &mut [f32]) -> Result<()> {
        unreachable!()
    }
    fn item_biases(&mut self, _: &mut [f32]) -> Result<()> {
        unreachable!()
    }
    fn last_basket(&self) -> bool {
        self.baskets
    }
    fn encode(&mut self, queries: &[Query<'_>], out: &mut [f32]) -> Result<()> {
        self.queries.extend(queries.iter().map(|q| (q.history.to_vec(), q.user)));
        out.fill(0.0);
        Ok(())
    }
    fn rank(&mut self, _: &[Query<'_>]) -> Answer<Vec<Ranks>> {
        unreachable!()
    }
    fn top_k(&mut self, _: &[Query<'_>], _: usize) -> Answer<Vec<Vec<Scored>>> {
        unreachable!()
    }
}

/// A model with users receives the user; a basket model receives the newest basket with a click.
#[test]
fn a_run_is_asked_as_it_was_taught() {
    let dir = tempfile::tempdir().unwrap();
    let log = "user,item,rating,time\nu,a,1,1\nu,b,1,1\nu,c,0,2\nu,c,1,3\nu,a,0,4\nu,b,0,5\nv,b,1,1\nv,a,0,2\n";
    let data = imported(dir.path(), log);
    let all = Impressions::read(&data, 1.0, Some).unwrap();
    let known = [Some(7), None];
    let asked = |baskets| {
        let mut encoder = Asked { baskets, queries: Vec::new() };
        encode(&mut encoder, &all, &known, &mut |_| {}).unwrap();
        encoder.queries
    };
    let query = |history: &[u32], user| (history.to_vec(), user);
    let (u, v) = (Some(7), None);
    let want = [query(&[], u), query(&[0, 1], u), query(&[0, 1, 2], u), query(&[], v), query(&[1], v)];
    assert_eq!(asked(false), want);
    let want = [query(&[], u), query(&[0, 1], u), query(&[2], u), query(&[], v), query(&[1], v)];
    assert_eq!(asked(true), want);
}
