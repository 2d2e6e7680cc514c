/*! negative_loss: losses of each scored row over its own candidates: the target first, then S negatives.
z_mj = <h_m, table[id_mj]> + bias[id_mj], for negatives (j > 0) minus log_q[id_mj] - free[m] if there is a correction
     h (M,D) act   table (V,D) weight   bias, log_q (V), free (M) f32   id (M,1+S)

log_q: ln of an item's expected count among S draws. free: ln of the probability that a draw hits no excluded
item of the row. log_q - free is therefore ln of the item's expected count among the row's negatives. The target
occurs once: ln 1 = 0.

With n negatives present (id < V), and softplus(x) = ln(1 + e^x) = -ln sigma(-x):

| loss | formula | |
|---|---|---|
| bce | (beta softplus(-z_0) + sum_j softplus(z_j)) / (1+n) | beta = 1: binary cross-entropy; below: gBCE |
| bpr | sum_j softplus(z_j - z_0) / n | Rendle et al. 2009 |
| softmax | ln(e^z_0 + sum_j e^z_j) - z_0 | sampled softmax |

The sigma(z_0)^beta of gBCE corrects the effect of sampling on probabilities (Petrov and Macdonald 2023).

Backward: g_mj = dloss_m dloss/dz_mj, dh_m = sum_j g_mj table[id_mj], with g (M,1+S) f32 and dh (M,D) act. The
gradients of table and bias are sums of g_mj h_m and g_mj over equal ids; `SegmentSum` computes them from g, h
and id.

Ids from V on (NO_ID) mean no item: z = 0, g = 0. A row without a target is padding: loss 0, no gradients.
*/

use super::{Cost, Dst, NO_ID, Op, area, case::Case, fits};
use crate::{
    base::rng::{Purpose, Stream},
    mem::{Act, F32, Lent, Planner, Scalar, U32},
};

/// The comparison of a row's target with its negatives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Contrast {
    /// Each candidate separately, with the likelihood of the target to the power of `beta`.
    Bce { beta: f32 },
    /// Pairs of the target and one negative.
    Bpr,
    /// All candidates together.
    Softmax,
}

op! {
    /// Computes the loss of each scored row over its own candidates.
    NegativeLossFwd = "negative_loss_fwd" {
        write { /** (M) */ loss: F32, /** (M,1+S) logits, kept for the backward pass */ z: F32 }
        read {
            /** (M,D) */ h: Act, /** (V,D) */ table: F32, /** (V) */ bias: F32,
            /** (V), or empty: no correction */ log_q: F32, /** (M), or empty like `log_q` */ free: F32,
            /** (M,1+S) */ id: U32
        }
        with { m: usize, d: usize, s: usize, v: usize, contrast: Contrast }
    }
}

op! {
    /// Computes the gradients of [`NegativeLossFwd`], weighted by `dloss`.
    NegativeLossBwd = "negative_loss_bwd" {
        write { /** (M,1+S) of the logits */ g: F32 }
        grad { /** (M,D) */ dh: Act }
        read {
            /** (M) */ dloss: F32, /** (M,1+S) */ z: F32, /** (V,D) */ table: F32, /** (M,1+S) */ id: U32
        }
        with { m: usize, d: usize, s: usize, v: usize, contrast: Contrast }
    }
}

fn softplus<S: Scalar>(x: S) -> S {
    x.max(S::zero()) + (S::one() + (-x.max(-x)).exp()).ln()
}

fn sigmoid<S: Scalar>(x: S) -> S {
    S::one() / (S::one() + (-x).exp())
}

/// Returns the loss of a row and its derivatives with respect to its logits. `there(j)` returns whether
/// candidate j is an item.
fn row<S: Scalar>(z: &[S], there: &dyn Fn(usize) -> bool, contrast: Contrast) -> (S, Vec<S>) {
    let mut slope = vec![S::zero(); z.len()];
    if !there(0) {
        return (S::zero(), slope);
    }
    let negatives: Vec<usize> = (1..z.len()).filter(|j| there(*j)).collect();
    let n = S::of(negatives.len() as f64);
    let mut loss = S::zero();
    match contrast {
        Contrast::Bce { beta } => {
            let (beta, all) = (S::of(beta as f64), n + S::one());
            loss = beta * softplus(-z[0]);
            slope[0] = -beta * sigmoid(-z[0]) / all;
            for j in negatives {
                loss += softplus(z[j]);
                slope[j] = sigmoid(z[j]) / all;
            }
            loss = loss / all;
        }
        Contrast::Bpr => {
            for j in negatives {
                loss += softplus(z[j] - z[0]) / n;
                slope[j] = sigmoid(z[j] - z[0]) / n;
                slope[0] = slope[0] - slope[j];
            }
        }
        Contrast::Softmax => {
            let all = || negatives.iter().map(|j| z[*j]).chain([z[0]]);
            let max = all().fold(S::neg_infinity(), S::max);
            let lse = max + all().map(|z| (z - max).exp()).sum::<S>().ln();
            loss = lse - z[0];
            slope[0] = (z[0] - lse).exp() - S::one();
            for j in negatives {
                slope[j] = (z[j] - lse).exp();
            }
        }
    }
    (loss, slope)
}

impl Op for NegativeLossFwd {
    fn check(&self) -> Result<(), String> {
        let (m, d, v, w) = (self.m, self.d, self.v, self.s.saturating_add(1));
        let (log_q, free) = if self.log_q.is_empty() { (0, 0) } else { (v, m) };
        fits(&[
            ("loss", self.loss.len(), m),
            ("z", self.z.len(), area([m, w])),
            ("h", self.h.len(), area([m, d])),
            ("table", self.table.len(), area([v, d])),
            ("bias", self.bias.len(), v),
            ("log_q", self.log_q.len(), log_q),
            ("free", self.free.len(), free),
            ("id", self.id.len(), area([m, w])),
        ])
    }

    fn cost(&self) -> Cost {
        let (m, d, s, v) = (self.m, self.d, self.s, self.v);
        let all = m * (1 + s);
        let corrected = 2 * m * s * !self.log_q.is_empty() as usize;
        // softplus: 3 operations, an exponential and a logarithm. The softmax: one logarithm per row.
        let (flop, exps) = match self.contrast {
            Contrast::Bce { .. } => (4 * all, 2 * all),
            Contrast::Bpr => (5 * m * s, 2 * m * s),
            Contrast::Softmax => (3 * all, all + m),
        };
        Cost::work((all * (2 * d + 1) + corrected + flop) as f64, exps as f64)
            .moves(self.loss, m)
            .moves(self.z, all)
            .moves(self.h, m * d)
            .weights(self.table, all.min(v) * d)
            .moves(self.bias, all.min(v))
            .moves(self.log_q, (m * s).min(v))
            .moves(self.free, m)
            .moves(self.id, all)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (d, w) = (self.d, 1 + self.s);
        let (h, table, bias, log_q) = (m.get(self.h), m.get(self.table), m.get(self.bias), m.get(self.log_q));
        let (id, free) = (m.ids(self.id), m.get(self.free));
        let (loss, z) = (m.get_mut(self.loss), m.get_mut(self.z));
        for i in 0..self.m {
            let (z, id) = (&mut z[i * w..][..w], &id[i * w..][..w]);
            for (j, (z, id)) in z.iter_mut().zip(id).enumerate() {
                let k = *id as usize;
                *z = S::zero();
                if k < self.v {
                    let dot = h[i * d..][..d].iter().zip(&table[k * d..][..d]).map(|(a, b)| *a * *b).sum::<S>();
                    *z = dot + bias[k];
                    if let (1.., Some(log_q)) = (j, log_q.get(k)) {
                        *z = *z - (*log_q - free[i]);
                    }
                }
            }
            loss[i] = row(z, &|j| (id[j] as usize) < self.v, self.contrast).0;
        }
    }
}

impl Op for NegativeLossBwd {
    fn check(&self) -> Result<(), String> {
        let (m, d, v, w) = (self.m, self.d, self.v, self.s.saturating_add(1));
        fits(&[
            ("g", self.g.len(), area([m, w])),
            ("dh", self.dh.len_or(area([m, d])), area([m, d])),
            ("dloss", self.dloss.len(), m),
            ("z", self.z.len(), area([m, w])),
            ("table", self.table.len(), area([v, d])),
            ("id", self.id.len(), area([m, w])),
        ])
    }

    fn cost(&self) -> Cost {
        let (m, d, s, dh) = (self.m, self.d, self.s, self.dh.wanted() as usize);
        let all = m * (1 + s);
        // A sigmoid: 3 operations. The exponentials of a softmax also yield its sum.
        let (flop, exps) = match self.contrast {
            Contrast::Bce { .. } => (4 * all, all),
            Contrast::Bpr => (6 * m * s, m * s),
            Contrast::Softmax => (4 * all, all),
        };
        Cost::work((dh * 2 * all * d + flop) as f64, exps as f64)
            .moves(self.g, all)
            .gradient(self.dh, m * d)
            .moves(self.dloss, m)
            .moves(self.z, all)
            .weights(self.table, dh * all.min(self.v) * d)
            .moves(self.id, all)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (d, w) = (self.d, 1 + self.s);
        let (dloss, z, table, id) = (m.get(self.dloss), m.get(self.z), m.get(self.table), m.ids(self.id));
        let g = m.get_mut(self.g);
        for i in 0..self.m {
            let (z, id) = (&z[i * w..][..w], &id[i * w..][..w]);
            let (_, slope) = row(z, &|j| (id[j] as usize) < self.v, self.contrast);
            g[i * w..][..w].iter_mut().zip(slope).for_each(|(g, slope)| *g = dloss[i] * slope);
        }
        let g = &*g;
        m.compute(self.dh, self.m * d, |at| {
            let (i, k) = (at / d, at % d);
            let there = (i * w..(i + 1) * w).filter(|j| (id[*j] as usize) < self.v);
            there.map(|j| g[j] * table[id[j] as usize * d + k]).sum()
        });
    }
}

/// The ids of a case.
#[derive(Clone, Copy, Debug)]
enum Ids {
    /// Candidate number i is item i: the gradient of the bias is g, so central differences test it too.
    Own,
    /// Any ids, with repetitions; every seventh negative and every fifth row is absent.
    Any,
    /// All negatives are the last item.
    Last,
}

pub fn cases() -> Vec<Case> {
    use Contrast::*;
    const GBCE: Contrast = Bce { beta: 0.3 };
    const BCE: Contrast = Bce { beta: 1.0 };
    // (M, D, S, V (Own: M(1+S)), ids, contrast, size of h)
    type Shape = (usize, usize, usize, usize, Ids, Contrast, f32);
    const SHAPES: [Shape; 17] = [
        (0, 8, 5, 9, Ids::Any, BCE, 1.0),
        (1, 1, 1, 0, Ids::Own, BCE, 1.0),
        (3, 7, 0, 0, Ids::Own, GBCE, 1.0),
        (3, 7, 0, 5, Ids::Any, Bpr, 1.0),
        (3, 7, 0, 5, Ids::Any, Softmax, 1.0),
        (7, 16, 9, 0, Ids::Own, GBCE, 1.0),
        (7, 16, 9, 0, Ids::Own, Bpr, 1.0),
        (7, 16, 9, 0, Ids::Own, Softmax, 1.0),
        (33, 64, 1, 0, Ids::Own, BCE, 0.3),
        (19, 64, 130, 3000, Ids::Any, Bpr, 0.3),
        (19, 32, 256, 500, Ids::Any, GBCE, 1.0),
        (21, 24, 65, 40, Ids::Any, Softmax, 0.5),
        (9, 40, 31, 6, Ids::Last, Softmax, 1.0),
        (9, 33, 31, 6, Ids::Last, BCE, 1.0),
        // Wider than one pass of a warp, and logits that saturate.
        (13, 264, 33, 90, Ids::Any, Softmax, 1.0),
        (13, 520, 35, 90, Ids::Any, GBCE, 2.0),
        (10, 256, 40, 90, Ids::Any, Bpr, 4.0),
    ];
    let case = |(at, (m, d, s, v, ids, contrast, std)): (usize, Shape)| {
        let mut p = Planner::new();
        let w = 1 + s;
        let v = if let Ids::Own = ids { m * w } else { v };
        let h = p.var(m * d);
        // Every other case has no correction.
        let [log_q, free] = [v, m].map(|n| p.stat(if at % 2 == 0 { n } else { 0 }));
        let (table, bias) = (p.weight(v * d), p.stat(v));
        let (loss, dloss, z, g) = (p.stat(m), p.stat(m), p.stat(m * w), p.stat(m * w));
        let mut draw = Stream::new(23, Purpose::Test, at as u32);
        let span = p.index(m * w);
        let id = (0..m * w).map(|i| match ids {
            Ids::Own => i as u32,
            Ids::Last => {
                if i % w == 0 {
                    (i / w % 5) as u32
                } else {
                    v as u32 - 1
                }
            }
            // Padding is NO_ID; absent negatives are also the first id that is no item.
            Ids::Any if i % w == 0 && i / w % 5 == 4 => NO_ID,
            Ids::Any if i % w % 7 == 6 => [v as u32, NO_ID][i / w % 2],
            Ids::Any => draw.below(v as u64) as u32,
        });
        let id = id.collect();
        let fwd = NegativeLossFwd { loss, z, h: h.y, table, bias, log_q, free, id: span, m, d, s, v, contrast };
        let bwd = NegativeLossBwd { g, dh: Dst::Write(h.dy), dloss, z, table, id: span, m, d, s, v, contrast };
        let case = Case::new(format!("m{m} d{d} s{s} v{v} {ids:?} {contrast:?}"), p, fwd, bwd)
            .input(h.y, std, h.dy)
            .output(loss, dloss)
            .normal(table, 1.0)
            .normal(log_q, 1.0)
            .normal(free, 1.0)
            .ids(span, id);
        if let Ids::Own = ids { case.input(bias, 0.5, g) } else { case.normal(bias, 0.5) }
    };
    SHAPES.into_iter().enumerate().map(case).collect()
}
