//! Compares row-sparse AdamW with dense AdamW in plain f64 loops, over thousands of steps in which rows have gradients
//! often, rarely or never. It measures the "the same up to a stated tolerance" of `ops/row_adamw.rs`.

use mipgpu::{
    backend::{Cpu, emulated, reference::Reference},
    base::rng::{Purpose, Stream},
    mem::{F32, Planner, Precision, Span, U32},
    ops::{AdamW, AdamWRows, CatchUpRows, Memory, NO_ID, Run},
};

const D: usize = 5;
const EPS: f32 = 1e-8;

/// Steps between the gradients of a row, one row each; then rows with gradients at random, and one that never has any.
const GAPS: [u32; 12] = [1, 2, 7, 32, 33, 34, 35, 65, 200, 350, 1000, 5000];
const RANDOM: usize = 8;
const ROWS: usize = GAPS.len() + RANDOM + 1;
/// Positions of a batch: most rows twice, and padding.
const N: usize = 2 * ROWS + 3;

/// A run of a trainer over one table.
#[derive(Clone, Copy, Debug)]
struct Training {
    steps: u32,
    warm_up: u32,
    betas: [f32; 2],
    weight_decay: f32,
    /// Rows of the history, and the number of steps after which all rows are caught up.
    ring: usize,
}

const PEAK: f64 = 1e-3;

impl Training {
    /// Warm-up, followed by a cosine decay to zero.
    fn lr(&self, t: u32) -> f32 {
        let (t, w) = (t as f64, self.warm_up as f64);
        let done = ((t - w) / (self.steps as f64 - w)).max(0.0);
        (PEAK * (t / w).min(1.0) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())) as f32
    }

    fn corrections(&self, t: u32) -> [f32; 2] {
        self.betas.map(|b| (1.0 / (1.0 - (b as f64).powf(t as f64))) as f32)
    }

    /// Returns the rows with a gradient at step t.
    fn touched(&self, t: u32) -> Vec<usize> {
        let mut draw = Stream::new(21, Purpose::Test, t);
        let by_chance: Vec<bool> = (0..RANDOM).map(|_| draw.below(40) == 0).collect();
        (0..ROWS - 1)
            .filter(|r| {
                GAPS.get(*r).map_or_else(|| by_chance[r - GAPS.len()], |gap| (t + 3 * *r as u32).is_multiple_of(*gap))
            })
            .collect()
    }

    /// Some rows have gradients that are small relative to eps.
    fn gradient(&self, row: usize, t: u32) -> [f32; D] {
        let mut draw = Stream::new(22, Purpose::Test, t * ROWS as u32 + row as u32);
        let scale = [1.0, 1e-3, 1e-9, 30.0][row % 4];
        [(); D].map(|()| scale * (draw.normal() + 0.4))
    }
}

/// Every row at every step, in f64.
struct Dense {
    p: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
}

impl Dense {
    fn new() -> Self {
        let mut draw = Stream::new(23, Purpose::Test, 0);
        let p = (0..ROWS * D).map(|_| (draw.normal() * 0.5) as f64).collect();
        Dense { p, m: vec![0.0; ROWS * D], v: vec![0.0; ROWS * D] }
    }

    fn step(&mut self, run: &Training, t: u32, touched: &[usize]) {
        let (lr, [c1, c2], [b1, b2]) = (run.lr(t) as f64, run.corrections(t).map(f64::from), run.betas.map(f64::from));
        for row in 0..ROWS {
            let g = if touched.contains(&row) { run.gradient(row, t) } else { [0.0; D] };
            for (k, g) in g.into_iter().enumerate() {
                let (i, g) = (row * D + k, g as f64);
                self.m[i] = b1 * self.m[i] + (1.0 - b1) * g;
                self.v[i] = b2 * self.v[i] + (1.0 - b2) * g * g;
                let update = self.m[i] * c1 / ((self.v[i] * c2).sqrt() + EPS as f64);
                self.p[i] -= lr * (update + run.weight_decay as f64 * self.p[i]);
            }
        }
    }
}

/// The spans of a table.
struct Table {
    p: Span<F32>,
    m: Span<F32>,
    v: Span<F32>,
    g: Span<F32>,
    history: Span<F32>,
    hyper: Span<F32>,
    one: Span<F32>,
    last: Span<U32>,
    key: Span<U32>,
    step: Span<U32>,
}

impl Table {
    fn plan(run: &Training) -> (Planner, Table) {
        let mut p = Planner::new();
        let table = Table {
            p: p.weight(ROWS * D),
            m: p.stat(ROWS * D),
            v: p.stat(ROWS * D),
            g: p.stat(N * D),
            history: p.stat(4 * run.ring),
            hyper: p.stat(3),
            one: p.stat(1),
            last: p.index(ROWS),
            key: p.index(N),
            step: p.index(1),
        };
        (p, table)
    }

    fn catch_up(&self, run: &Training, all: bool) -> CatchUpRows {
        let Table { p, m, v, last, key, history, one, step, .. } = *self;
        let ([beta1, beta2], weight_decay) = (run.betas, run.weight_decay);
        let (n, d, rows, ring, eps, ok) = (N, D, ROWS, run.ring, EPS, one);
        CatchUpRows { p, m, v, last, key, history, ok, step, n, d, rows, ring, beta1, beta2, eps, weight_decay, all }
    }

    fn adamw(&self, run: &Training) -> AdamWRows {
        let Table { p, m, v, last, g, key, hyper, one, step, .. } = *self;
        let ([beta1, beta2], weight_decay) = (run.betas, run.weight_decay);
        let (n, d, rows, eps, norm, ok, max_norm) = (N, D, ROWS, EPS, one, one, 0.0);
        AdamWRows {
            p,
            m,
            v,
            last,
            g,
            key,
            norm,
            ok,
            hyper,
            step,
            n,
            d,
            rows,
            beta1,
            beta2,
            eps,
            weight_decay,
            max_norm,
        }
    }
}

/// The deviation of sparse from dense: weights in steps of the largest learning rate, moments relative to their size.
#[derive(Clone, Copy, Debug, Default)]
struct Difference {
    /// Of rows that a forward pass reads next.
    read: f64,
    /// Of all rows at the end.
    end: f64,
    moments: f64,
}

fn read<B: Memory>(b: &mut B, span: Span<F32>) -> Vec<f32> {
    let mut x = vec![0.0; span.len()];
    b.read(span.raw(), &mut x);
    x
}

fn difference<B: Memory + Run<CatchUpRows> + Run<AdamWRows>>(run: &Training, t: &Table, mut b: B) -> Difference {
    for op in [t.catch_up(run, false), t.catch_up(run, true)] {
        mipgpu::ops::Op::check(&op).unwrap();
    }
    let mut dense = Dense::new();
    b.write(t.p.raw(), &dense.p.iter().map(|x| *x as f32).collect::<Vec<_>>());
    b.write(t.one.raw(), &[1.0]);
    b.write(t.history.raw(), &vec![f32::NAN; 4 * run.ring]);
    let (mut worst, mut decay) = (Difference::default(), 0.0f64);
    let apart = |got: &[f32], want: &[f64], rows: &[usize]| {
        let places = rows.iter().flat_map(|r| r * D..(r + 1) * D);
        places.map(|i| (got[i] as f64 - want[i]).abs()).fold(0.0, f64::max) / PEAK
    };
    for step in 1..=run.steps {
        // Step 1 has no preceding steps: nothing is read of the history, which is NaN.
        let touched = run.touched(step);
        let mut key: Vec<u32> = touched.iter().flat_map(|r| [*r as u32; 2]).take(N).collect();
        key.resize(N, NO_ID);
        b.write_ids(t.key, &key);
        b.write_ids(t.step, &[step]);
        b.run(&t.catch_up(run, false));
        let now = read(&mut b, t.p);
        worst.read = worst.read.max(apart(&now, &dense.p, &touched));
        if step % 50 == 1 {
            b.run(&t.catch_up(run, false));
            assert_eq!(now, read(&mut b, t.p), "a second catch-up changed something");
        }

        let (lr, [c1, c2]) = (run.lr(step), run.corrections(step));
        decay += (1.0 - lr as f64 * run.weight_decay as f64).ln();
        b.write(t.history.slice(step as usize % run.ring * 4, 4).raw(), &[lr, c1, c2, decay as f32]);
        b.write(t.hyper.raw(), &[lr, c1, c2]);
        // Outside the starts of runs, g must not be read.
        let mut g = vec![f32::NAN; N * D];
        for (i, row) in touched.iter().enumerate() {
            g[2 * i * D..][..D].copy_from_slice(&run.gradient(*row, step));
        }
        b.write(t.g.raw(), &g);
        b.run(&t.adamw(run));
        dense.step(run, step, &touched);

        if step % run.ring as u32 == 0 || step == run.steps {
            // A history may restart its sum once all rows are caught up.
            b.write_ids(t.step, &[step + 1]);
            b.run(&t.catch_up(run, true));
            decay = 0.0;
        }
    }
    b.sync().unwrap();
    let all: Vec<usize> = (0..ROWS).collect();
    worst.end = apart(&read(&mut b, t.p), &dense.p, &all);
    for (span, want) in [(t.m, &dense.m), (t.v, &dense.v)] {
        for (got, want) in read(&mut b, span).into_iter().zip(want) {
            // Values that have decayed to nothing count as zero.
            if want.abs() > 1e-30 {
                worst.moments = worst.moments.max((got as f64 - want).abs() / want.abs());
            }
        }
    }
    let mut last = vec![0; ROWS];
    b.read_ids(t.last, &mut last);
    assert_eq!(last, [run.steps; ROWS]);
    worst
}

fn runs() -> Vec<Training> {
    let mut runs = Vec::new();
    for (betas, weight_decay) in [
        ([0.9, 0.999], 0.0),
        ([0.9, 0.999], 0.1),
        ([0.9, 0.98], 0.01),
        ([0.9, 0.95], 0.01),
        ([0.0, 0.999], 0.01),
        ([0.95, 0.99], 0.01),
        ([0.99, 0.999], 0.01),
    ] {
        for (steps, warm_up, ring) in [(400, 40, 512), (400, 40, 50), (6000, 300, 8192), (6000, 300, 300)] {
            runs.push(Training { steps, warm_up, betas, weight_decay, ring });
        }
    }
    runs
}

/// Returns the rounding error of dense AdamW in f32 itself.
fn rounding(run: &Training) -> f64 {
    let mut plan = Planner::new();
    let [p, m, v, g] = [(); 4].map(|()| plan.stat(ROWS * D));
    let (hyper, one) = (plan.stat(3), plan.stat(1));
    let (mut b, mut dense) = (Cpu::new(&plan), Dense::new());
    let ([beta1, beta2], weight_decay) = (run.betas, run.weight_decay);
    let (n, eps, max_norm) = (ROWS * D, EPS, 0.0);
    b.write(p.raw(), &dense.p.iter().map(|x| *x as f32).collect::<Vec<_>>());
    b.write(one.raw(), &[1.0]);
    let op = AdamW { p, m, v, g, norm: one, ok: one, hyper, n, beta1, beta2, eps, weight_decay, max_norm };
    for step in 1..=run.steps {
        let touched = run.touched(step);
        let of = |row| if touched.contains(&row) { run.gradient(row, step) } else { [0.0; D] };
        b.write(g.raw(), &(0..ROWS).flat_map(of).collect::<Vec<_>>());
        let [c1, c2] = run.corrections(step);
        b.write(hyper.raw(), &[run.lr(step), c1, c2]);
        b.run(&op);
        dense.step(run, step, &touched);
    }
    let apart = read(&mut b, p).into_iter().zip(&dense.p).map(|(x, y)| (x as f64 - y).abs());
    apart.fold(0.0, f64::max) / PEAK
}

impl Training {
    /// Returns the documented tolerance of the op, as a share of one step. Longer momentum loses more where the
    /// learning rate turns, and a short run has more turns relative to its length.
    fn tolerance(&self) -> f64 {
        let long = self.steps >= 6000;
        match self.betas[0] {
            b if b > 0.95 => 2e-2,
            b if b > 0.9 => 1e-2,
            _ if long => 5e-4,
            _ => 3e-3,
        }
    }
}

#[test]
fn row_sparse_is_dense_up_to_the_stated_tolerance() {
    for run in runs() {
        let (plan, table) = Table::plan(&run);
        let d = difference(&run, &table, Reference::<f64>::new(&plan));
        println!("{run:?}\n   {d:?}, stated {:e}", run.tolerance());
        assert!(d.read.max(d.end) < run.tolerance(), "{run:?}: {d:?}");
        // They are read as f32.
        assert!(d.moments < 1e-7, "{run:?}: {d:?}");
    }
}

#[test]
fn in_f32_it_adds_the_rounding_of_dense_adamw() {
    for run in runs() {
        let (plan, table) = Table::plan(&run);
        let (d, rounding) = (difference(&run, &table, Cpu::new(&plan)), rounding(&run));
        println!("{run:?}\n   {d:?}, dense {rounding:.1e}");
        assert!(d.read.max(d.end) < run.tolerance() + 1.5 * rounding, "{run:?}: {d:?}, dense {rounding}");
        assert!(d.moments < 2e-5, "{run:?}: {d:?}");
    }
}

#[test]
fn so_do_the_kernels() {
    // Tables are f32 in bf16 too; the op cases check their bf16 copy.
    for (run, precision) in
        runs().into_iter().filter(|r| r.steps == 400).zip([Precision::F32, Precision::Bf16].repeat(9))
    {
        let (plan, table) = Table::plan(&run);
        let (d, rounding) = (difference(&run, &table, emulated(precision, &plan).unwrap()), rounding(&run));
        println!("{run:?}\n   {d:?}, dense {rounding:.1e}");
        assert!(d.read.max(d.end) < run.tolerance() + 1.5 * rounding, "{run:?}: {d:?}, dense {rounding}");
        assert!(d.moments < 2e-5, "{run:?}: {d:?}");
    }
}
