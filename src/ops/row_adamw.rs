/*! row_adamw: AdamW for tables of which a step touches few rows, with the results of AdamW on all rows.

Dense AdamW moves every row at every step: a row without a gradient decays and coasts on its momentum. Here a row lags
behind until it is needed, and is then advanced to the state of dense AdamW. `last` (V) stores the last update step of
each row.
catch_up_rows:  before the forward pass: rows of `key` take the steps last+1 ..= step-1 with gradient 0;  last = step-1
adamw_rows:     after the backward pass: rows of `key` take step `step` with the gradients in g;          last = step
A row belongs to the place where its run begins in `key` (sorted, see `sort_ids.rs`). Keys that are not below V are
skipped.
Where ok is 0 (see `adamw.rs`) neither op changes anything.

The first [`EXACT`] = 32 missed steps are computed one by one. For the other k steps, moments and decay have closed
forms: m b1^k, v b2^k, p exp(decay_end - decay_start). The rest of the momentum is the sum over i = 1..=k of
  lr_i c1_i m b1^i / (sqrt(v b2^i c2_i) + eps) * exp(decay_end - decay_i)
With r = b1 / sqrt(b2), the term is r^i times a slowly changing factor. The steps are cut into stretches of 8, 12, 18,
... steps. Over each stretch the powers are summed as a geometric series. The factor is evaluated at the centre of mass
of the stretch, interpolated linearly between two steps, which is exact for a linear factor. Below r^i = 2^-30 the sum
ends.

Compared with dense AdamW in f64 (tests/ops/row_adamw.rs: gaps of 1 to 5000 steps, warm-up and cosine, decay 0 to 0.1),
the weights differ by less than the following share of one step's size (the largest learning rate). The difference
arises mostly at the end of the warm-up:
  beta1 <= 0.9: 0.0005 over 6000 steps, 0.003 over 400    beta1 = 0.95: 0.01    beta1 = 0.99: 0.02
The rounding of dense AdamW in f32 is 0.001 to 0.007 of a step in these runs. It adds to the difference here as well.
Moments agree to rounding.

history (R,4): step t writes [lr, c1, c2, decay] to row t mod R. decay is the sum of ln(1 - lr*wd) of all steps up to
this one, from any start. No row may lag by more than R steps. Periodically, and before weights are read for other
purposes, all rows are updated (`all`). The sum may then restart.
*/

use super::{
    Cost, GatherTable, NO_ID, Op, area,
    case::{Case, affordable},
    fits,
    sort_ids::sorted,
};
use crate::{
    base::rng::{Purpose, Stream},
    mem::{F32, Lent, Planner, Scalar, U32},
};

/// Number of missed steps that are computed one by one.
pub const EXACT: u32 = 32;

/// Steps of the first stretch. Each stretch is half as long again as the one before, so 48 cover more steps than 32
/// bits count.
const STRETCH: u32 = 8;
const STRETCHES: usize = 48;

op! {
    /// Advances rows to the step before this one.
    CatchUpRows = "catch_up_rows" {
        update { /** (V,D) */ p: F32, /** (V,D) */ m: F32, /** (V,D) */ v: F32, /** (V) step of each row */ last: U32 }
        read {
            /** (N) sorted ids */ key: U32, /** (R,4) */ history: F32,
            /** (1) 0: leave everything as it is */ ok: F32, /** (1) */ step: U32,
        }
        with {
            n: usize, d: usize, /** V */ rows: usize, /** R */ ring: usize,
            beta1: f32, beta2: f32, eps: f32, weight_decay: f32,
            /** every row, whatever `key` holds */ all: bool,
        }
    }
}

op! {
    /// Runs one step of AdamW on the rows of `key`, which are at the step before.
    /// Gradients are clipped as in [`AdamW`](super::AdamW).
    AdamWRows = "adamw_rows" {
        update { /** (V,D) */ p: F32, /** (V,D) */ m: F32, /** (V,D) */ v: F32, /** (V) step of each row */ last: U32 }
        read {
            /** (N,D) gradients, at the places where runs begin */ g: F32, /** (N) sorted ids */ key: U32,
            /** (1) */ norm: F32, /** (1) 0: leave everything as it is */ ok: F32,
            /** (3) [lr, c1, c2] */ hyper: F32, /** (1) */ step: U32,
        }
        with {
            n: usize, d: usize, /** V */ rows: usize,
            beta1: f32, beta2: f32, eps: f32, weight_decay: f32, max_norm: f32,
        }
    }
}

/// A stretch of missed steps: p -= weight * m / (sqrt(v * c2) + eps), with m and v before the first stretch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stretch<S> {
    pub weight: S,
    pub c2: S,
    pub eps: S,
}

/// The closed form of a row's missed steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closed<S> {
    /// Factors of p, m, v.
    pub decay: S,
    pub beta1: S,
    pub beta2: S,
    stretches: [Stretch<S>; STRETCHES],
    count: usize,
}

impl<S> Closed<S> {
    pub fn stretches(&self) -> &[Stretch<S>] {
        &self.stretches[..self.count]
    }
}

impl CatchUpRows {
    /// Returns [lr, c1, c2, decay] of a step.
    pub(crate) fn of<S: Scalar>(&self, history: &[S], step: u32) -> [S; 4] {
        let at = step as usize % self.ring * 4;
        [history[at], history[at + 1], history[at + 2], history[at + 3]]
    }

    /// Returns the closed form of the `k` > 0 steps after `start`.
    pub(crate) fn closed<S: Scalar>(&self, history: &[S], start: u32, k: u32) -> Closed<S> {
        let of = |x: f64| S::of(x);
        let (b1, b2) = (of(self.beta1 as f64), of(self.beta2 as f64));
        let (ln1, ln2) = (b1.ln(), b2.ln());
        let ratio = ln1 - of(0.5) * ln2;
        let odds = {
            let r = ratio.exp();
            r / (S::one() - r)
        };
        let end = self.of(history, start + k)[3];
        let mut closed = Closed {
            decay: (end - self.of(history, start)[3]).exp(),
            beta1: (of(k as f64) * ln1).exp(),
            beta2: (of(k as f64) * ln2).exp(),
            stretches: [Stretch { weight: S::zero(), c2: S::zero(), eps: S::zero() }; STRETCHES],
            count: 0,
        };
        // Steps [a, a + len) after `start`.
        let (mut a, mut len) = (1u32, STRETCH);
        while a <= k && closed.count < STRETCHES && of((a - 1) as f64) * ratio > of(-30.0 * std::f64::consts::LN_2) {
            len = len.min(k - a + 1);
            let (first, l) = (of(a as f64), of(len as f64));
            let power = (l * ratio).exp();
            let sum = (first * ratio).exp() * (S::one() - power) * (odds + S::one());
            let centre = (first + odds - l * power / (S::one() - power)).max(first).min(first + l - S::one());
            let low = centre.f64().floor();
            let part = centre - of(low);
            let low = start + low as u32;
            let ([lr, c1, c2, decay], next) = (self.of(history, low), self.of(history, (low + 1).min(start + k)));
            let between = |x: S, y: S| x + part * (y - x);
            let rate = between(lr * c1 * (end - decay).exp(), next[0] * next[1] * (end - next[3]).exp());
            closed.stretches[closed.count] = Stretch {
                weight: sum * rate,
                c2: between(c2, next[2]),
                eps: of(self.eps as f64) * (of(-0.5) * centre * ln2).exp(),
            };
            closed.count += 1;
            a += len;
            len += len / 2;
        }
        closed
    }

    /// Returns the row that place `i` advances (with `all`, row `i`).
    pub(crate) fn row(&self, key: &[u32], i: usize) -> Option<usize> {
        if self.all { Some(i) } else { owned(key, i, self.rows) }
    }

    /// Returns the number of places, or rows with `all`.
    pub(crate) fn places(&self) -> usize {
        if self.all { self.rows } else { self.n }
    }
}

/// Returns the row below `rows` with a run that begins at place `i`.
pub(crate) fn owned(key: &[u32], i: usize, rows: usize) -> Option<usize> {
    let id = key[i];
    ((id as usize) < rows && (i == 0 || key[i - 1] != id)).then_some(id as usize)
}

fn check_betas(beta1: f32, beta2: f32) -> Result<(), String> {
    match (0.0..1.0).contains(&beta1) && beta2 < 1.0 && beta1 as f64 * (beta1 as f64) < beta2 as f64 {
        true => Ok(()),
        false => Err(format!("beta1 {beta1}, beta2 {beta2}: the square of beta1 must be below beta2, both below 1")),
    }
}

impl Op for CatchUpRows {
    fn check(&self) -> Result<(), String> {
        check_betas(self.beta1, self.beta2)?;
        if self.ring == 0 {
            return Err("a history of no steps".into());
        }
        let vd = area([self.rows, self.d]);
        fits(&[
            ("p", self.p.len(), vd),
            ("m", self.m.len(), vd),
            ("v", self.v.len(), vd),
            ("last", self.last.len(), self.rows),
            ("key", self.key.len(), if self.all { 0 } else { self.n }),
            ("history", self.history.len(), area([4, self.ring])),
            ("ok", self.ok.len(), 1),
            ("step", self.step.len(), 1),
        ])
    }

    /// Assumes that every place is a separate row, one step behind, the least lag of any lagging row.
    /// The traffic is the same for any number of missed steps, and outweighs the work of a few.
    fn cost(&self) -> Cost {
        let rows = self.places().min(self.rows);
        let nd = rows * self.d;
        // m and v 1 each, the update 4, p 4.
        Cost::work(10.0 * nd as f64, nd as f64)
            .updates(self.p, nd)
            .updates(self.m, nd)
            .updates(self.v, nd)
            .updates(self.last, rows)
            .moves(self.key, if self.all { 0 } else { self.n })
            .moves(self.history, 4)
            .moves(self.ok, 1)
            .moves(self.step, 1)
    }

    fn reference<S: Scalar>(&self, mem: &Lent<'_, S>) {
        if mem.get(self.ok)[0] == S::zero() {
            return;
        }
        let (key, history, step) = (mem.ids(self.key), mem.get(self.history), mem.ids(self.step)[0]);
        let (p, m, v, last) = (mem.get_mut(self.p), mem.get_mut(self.m), mem.get_mut(self.v), mem.ids_mut(self.last));
        let of = |x: f32| S::of(x as f64);
        for row in (0..self.places()).filter_map(|i| self.row(key, i)) {
            let missed = step.saturating_sub(last[row] + 1);
            if missed == 0 {
                continue;
            }
            let exact = missed.min(EXACT);
            let start = last[row] + exact;
            let closed = (missed > exact).then(|| self.closed(history, start, missed - exact));
            for i in row * self.d..(row + 1) * self.d {
                for t in last[row] + 1..=start {
                    let [lr, c1, c2, _] = self.of(history, t);
                    m[i] = of(self.beta1) * m[i];
                    v[i] = of(self.beta2) * v[i];
                    let update = m[i] * c1 / ((v[i] * c2).sqrt() + of(self.eps));
                    p[i] = p[i] - lr * (update + of(self.weight_decay) * p[i]);
                }
                let Some(closed) = &closed else { continue };
                p[i] = p[i] * closed.decay;
                for s in closed.stretches() {
                    p[i] = p[i] - s.weight * m[i] / ((v[i] * s.c2).sqrt() + s.eps);
                }
                m[i] = m[i] * closed.beta1;
                v[i] = v[i] * closed.beta2;
            }
            last[row] = step - 1;
        }
    }
}

impl Op for AdamWRows {
    fn check(&self) -> Result<(), String> {
        let vd = area([self.rows, self.d]);
        fits(&[
            ("p", self.p.len(), vd),
            ("m", self.m.len(), vd),
            ("v", self.v.len(), vd),
            ("last", self.last.len(), self.rows),
            ("g", self.g.len(), area([self.n, self.d])),
            ("key", self.key.len(), self.n),
            ("norm", self.norm.len(), 1),
            ("ok", self.ok.len(), 1),
            ("hyper", self.hyper.len(), 3),
            ("step", self.step.len(), 1),
        ])
    }

    /// Assumes that every place is a separate row.
    fn cost(&self) -> Cost {
        let rows = self.n.min(self.rows);
        let nd = rows * self.d;
        Cost::work(super::adamw::flop(self.max_norm) * nd as f64, nd as f64)
            .updates(self.p, nd)
            .updates(self.m, nd)
            .updates(self.v, nd)
            // The old step of a row is not read any more.
            .moves(self.last, rows)
            .moves(self.g, nd)
            .moves(self.key, self.n)
            .moves(self.norm, 1)
            .moves(self.ok, 1)
            .moves(self.hyper, 3)
            .moves(self.step, 1)
    }

    fn reference<S: Scalar>(&self, mem: &Lent<'_, S>) {
        if mem.get(self.ok)[0] == S::zero() {
            return;
        }
        let (g, norm, hyper) = (mem.get(self.g), mem.get(self.norm)[0], mem.get(self.hyper));
        let (key, step, d) = (mem.ids(self.key), mem.ids(self.step)[0], self.d);
        let (p, m, v, last) = (mem.get_mut(self.p), mem.get_mut(self.m), mem.get_mut(self.v), mem.ids_mut(self.last));
        let of = |x: f32| S::of(x as f64);
        let clip =
            if self.max_norm > 0.0 { (of(self.max_norm) / (norm + S::of(1e-6))).min(S::one()) } else { S::one() };
        for (place, row) in (0..self.n).filter_map(|i| Some((i, owned(key, i, self.rows)?))) {
            for k in 0..d {
                let (i, g) = (row * d + k, g[place * d + k] * clip);
                m[i] = of(self.beta1) * m[i] + (S::one() - of(self.beta1)) * g;
                v[i] = of(self.beta2) * v[i] + (S::one() - of(self.beta2)) * g * g;
                let update = m[i] * hyper[1] / ((v[i] * hyper[2]).sqrt() + of(self.eps));
                p[i] = p[i] - hyper[0] * (update + of(self.weight_decay) * p[i]);
            }
            last[row] = step;
        }
    }
}

/// Returns a ring of the steps before `step` as in a run: warm-up over 20 steps, then a slow decay.
/// Rows that no step has reached are NaN.
fn ring(size: usize, step: usize, betas: [f32; 2], weight_decay: f32) -> Vec<f32> {
    let mut ring = vec![f32::NAN; 4 * size];
    let mut decay = 0.0f64;
    for t in step.saturating_sub(size)..step {
        let lr = 0.05 * (t as f64 / 20.0).min(1.0) * (1.0 - t as f64 / 20_000.0);
        decay += (1.0 - lr * weight_decay as f64).ln();
        let c = betas.map(|b| (1.0 / (1.0 - (b as f64).powi(t as i32))) as f32);
        ring[t % size * 4..][..4].copy_from_slice(&[lr as f32, c[0], c[1], decay as f32]);
    }
    ring
}

/// Returns the ids of a batch: some rows often, some never, a special one past the table, padding.
fn batch(n: usize, rows: usize) -> Vec<u32> {
    let mut draw = Stream::new(10, Purpose::Test, (n + rows) as u32);
    let id = |i: usize, draw: &mut Stream| match i % 9 {
        3 => NO_ID,
        5 => rows as u32,
        7 => (rows / 2) as u32,
        _ => draw.below(rows as u64) as u32,
    };
    let ids: Vec<u32> = (0..n).map(|i| id(i, &mut draw)).collect();
    sorted(&ids, rows + 1).into_iter().map(|(_, key)| key).collect()
}

/// Returns the cases of [`CatchUpRows`].
/// The "backward pass" gathers the whole table. It shows whether the copy that products read is up to date.
pub fn catch_up_cases() -> Vec<Case> {
    [
        // (places, width, table rows), ring, step, betas, decay, all.
        ((0, 8, 3), 8, 5, [0.9, 0.999], 0.0, false),
        ((7, 1, 4), 8, 1, [0.9, 0.999], 0.1, false),
        ((9, 5, 7), 16, 9, [0.9, 0.999], 0.1, false),
        ((64, 16, 40), 64, 64, [0.9, 0.98], 0.0, false),
        ((300, 64, 90), 512, 700, [0.9, 0.999], 0.1, false),
        ((50, 33, 60), 6000, 5900, [0.9, 0.999], 0.01, false),
        ((0, 300, 21), 1000, 999, [0.8, 0.95], 0.1, true),
        ((3, 8, 100), 300, 100_000, [0.0, 0.999], 0.0, true),
        ((20, 12, 30), 2000, 1900, [0.99, 0.999], 0.1, false),
        // An earlier step was broken.
        ((19, 12, 30), 40, 30, [0.9, 0.999], 0.1, false),
    ]
    .into_iter()
    .filter(|((_, d, rows), size, ..)| affordable(d * rows) && affordable(*size))
    .map(|((n, d, rows), size, step, [beta1, beta2], weight_decay, all)| {
        let mut plan = Planner::new();
        let vd = rows * d;
        let (p, m, v, y) = (plan.weight(vd), plan.stat(vd), plan.stat(vd), plan.act(vd));
        let (history, ok, key) = (plan.stat(4 * size), plan.stat(1), plan.index(n));
        let (last, step_span, id) = (plan.index(rows), plan.index(1), plan.index(rows));
        let (eps, ring_values) = (1e-8, ring(size, step, [beta1, beta2], weight_decay));
        let op = CatchUpRows {
            p,
            m,
            v,
            last,
            key,
            history,
            ok,
            step: step_span,
            n,
            d,
            rows,
            ring: size,
            beta1,
            beta2,
            eps,
            weight_decay,
            all,
        };
        let gather = GatherTable { y, table: p, id, n: rows, d, v: rows };
        // From up to date (and even a step ahead) to the largest lag that the ring allows.
        let behind = [0, 1, 2, 31, 32, 33, 34, 63, 64, 65, 97, 200, 1000, size - 1, size];
        let lag = |row: usize| behind[row % behind.len()].min(size).min(step - 1);
        let at = (0..rows).map(|row| if row == 1 { step as u32 } else { (step - 1 - lag(row)) as u32 });
        Case::new(
            format!("n{n} d{d} v{rows} ring {size} step {step} {beta1} {beta2} wd{weight_decay} all {all}"),
            plan,
            op,
            gather,
        )
        .normal(p, 1.0)
        .normal(m, 0.1)
        // Some rows have never had a gradient, some a very small one.
        .values(v, (0..vd).map(|i| [1e-3 + (i % 17) as f32 * 1e-2, 1e-15][(i / d.max(1) % 8 == 7) as usize]).collect())
        .values(history, ring_values)
        .values(ok, vec![(n != 19) as u8 as f32])
        .ids(key, batch(n, rows))
        .ids(last, at.collect())
        .ids(step_span, vec![step as u32])
        .ids(id, (0..rows as u32).collect())
    })
    .collect()
}

pub fn cases() -> Vec<Case> {
    [
        ((0, 8, 3), 0.0, 0.0, 1.0),
        ((1, 1, 1), 0.1, 0.0, 1.0),
        ((9, 7, 5), 0.0, 1.0, 1.0),
        ((9, 7, 5), 0.0, 1.0, 0.0),
        ((300, 64, 90), 0.1, 100.0, 1.0),
        ((70, 300, 1000), 0.01, 5.0, 1.0),
    ]
    .into_iter()
    .filter(|((_, d, rows), ..)| affordable(d * rows))
    .map(|((n, d, rows), weight_decay, max_norm, ok)| {
        let mut plan = Planner::new();
        let vd = rows * d;
        let (p, m, v, y, g) = (plan.weight(vd), plan.stat(vd), plan.stat(vd), plan.act(vd), plan.stat(n * d));
        let (norm, ok_span, hyper) = (plan.stat(1), plan.stat(1), plan.stat(3));
        let (key, last, step, id) = (plan.index(n), plan.index(rows), plan.index(1), plan.index(rows));
        let (beta1, beta2, eps) = (0.9, 0.999, 1e-8);
        let op = AdamWRows {
            p,
            m,
            v,
            last,
            g,
            key,
            norm,
            ok: ok_span,
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
        };
        let gather = GatherTable { y, table: p, id, n: rows, d, v: rows };
        Case::new(format!("n{n} d{d} v{rows} wd{weight_decay} clip{max_norm} ok{ok}"), plan, op, gather)
            .normal(p, 1.0)
            .normal(m, 0.1)
            .values(v, (0..vd).map(|i| 1e-3 + (i % 17) as f32 * 1e-2).collect())
            .normal(g, 0.3)
            .values(norm, vec![20.0])
            .values(ok_span, vec![ok])
            .values(hyper, vec![0.5, 1.0 / (1.0 - 0.9f32.powi(3)), 1.0 / (1.0 - 0.999f32.powi(3))])
            .ids(key, batch(n, rows))
            .ids(last, vec![2; rows])
            .ids(step, vec![3])
            .ids(id, (0..rows as u32).collect())
    })
    .collect()
}
