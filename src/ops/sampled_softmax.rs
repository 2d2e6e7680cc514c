/*! sampled_softmax: cross-entropy of each scored row against its target and S negatives shared by the batch, with the
logQ correction (Bengio and Senecal 2008; Yi et al. 2019).
fwd: z_m0 = <h_m, pos_m> + bias[target_m],   z_ms = <h_m, neg_s> + bias[negative_s] - log_q[negative_s] - ln(others)
     left out: negatives equal to the row's target (accidental hits), NO_ID, and those with their bit in `own` set
     (items of the row's own sequence, marked by `MarkOwn`);  loss_m = log sum exp z_m - z_m0
     h, pos (M,D) act: pos_m is the table row of target_m     neg (S,D) act: the gathered panel
     own (M,ceil(S/32)) or empty
     log_q (V): ln of an item's expected count among the negatives (all zero: no correction). The target occurs once,
     and ln 1 = 0. others: where the negatives are the targets of the batch without the row's own target, log_q is of
     one draw, and `targets` (1) is the number of targets: others = max(targets - 1, 1); empty: 1.
bwd: g = dloss (softmax - onehot):  dh (M,D), g0 (M) f32 of the target, dneg (S,D), dneg_bias (S).
     The caller sums dneg and the pairs g0 h into the table, and dneg_bias and g0 into the bias, by runs of equal ids
     (`SegmentSum`).
S = 0, or all negatives left out: loss 0, zero gradients. A target NO_ID is padding: z_m0 = <h_m, pos_m>, with no
gradient where dloss is 0.
*/

use super::{Cost, Dst, NO_ID, Op, area, case::Case, fits};
use crate::{
    base::rng::{Purpose, Stream},
    mem::{Act, F32, Lent, Planner, Scalar, Span, U32},
};

op! {
    /// Computes the loss of each scored row against shared negatives.
    SampledSoftmaxFwd = "sampled_softmax_fwd" {
        write { /** (M) */ loss: F32, /** (M) */ lse: F32 }
        read {
            /** (M,D) */ h: Act, /** (M,D) */ pos: Act, /** (S,D) */ neg: Act, /** (V) */ bias: F32,
            /** (V) */ log_q: F32, /** (M) */ target: U32, /** (S) */ negative: U32,
            /** (M,ceil(S/32)) bits: left out, or empty */ own: U32,
            /** (1) number of batch targets used as negatives, or empty: drawn negatives */ targets: U32
        }
        with { m: usize, d: usize, s: usize, /** whether the negatives are the batch's targets */ in_batch: bool }
    }
}

op! {
    /// Computes the gradients of [`SampledSoftmaxFwd`], weighted by `dloss`.
    SampledSoftmaxBwd = "sampled_softmax_bwd" {
        write { /** (M) of the targets' logits */ g0: F32 }
        grad { /** (M,D) */ dh: Act, /** (S,D) */ dneg: Act, /** (S) */ dneg_bias: Act }
        read {
            /** (M) */ dloss: F32, /** (M,D) */ h: Act, /** (M,D) */ pos: Act, /** (S,D) */ neg: Act,
            /** (V) */ bias: F32, /** (V) */ log_q: F32, /** (M) */ target: U32, /** (S) */ negative: U32,
            /** (M,ceil(S/32)) bits: left out, or empty */ own: U32,
            /** (1) as [`SampledSoftmaxFwd::targets`] */ targets: U32, /** (M) */ lse: F32
        }
        with { m: usize, d: usize, s: usize, /** whether the negatives are the batch's targets */ in_batch: bool }
    }
}

/// The inputs of the logits of all rows.
struct Logits<'a, S> {
    h: &'a [S],
    pos: &'a [S],
    neg: &'a [S],
    bias: &'a [S],
    log_q: &'a [S],
    target: &'a [u32],
    negative: &'a [u32],
    own: &'a [u32],
    /// ln(others)
    log_others: S,
    d: usize,
}

/// Returns ln of the number of negatives of each row among the batch's targets, or 0 where they are drawn.
pub(crate) fn log_others(targets: &[u32]) -> f64 {
    targets.first().map_or(0.0, |n| (*n).saturating_sub(1).max(1) as f64).max(1.0).ln()
}

impl<S: Scalar> Logits<'_, S> {
    fn offset(&self, id: u32) -> S {
        self.bias[id as usize] - self.log_q[id as usize] - self.log_others
    }

    /// Returns z of row `i`: its target first, then the negatives; -inf where left out.
    fn row(&self, i: usize) -> Vec<S> {
        let (d, words) = (self.d, self.negative.len().div_ceil(32));
        let (h, target) = (&self.h[i * d..][..d], self.target[i]);
        let dot = |row: &[S]| h.iter().zip(row).map(|(a, b)| a.product(*b)).sum::<S>();
        let own = |j: usize| self.own.get(i * words + j / 32).is_some_and(|word| word >> (j % 32) & 1 == 1);
        let bias = if target == NO_ID { S::zero() } else { self.bias[target as usize] };
        let mut z = vec![dot(&self.pos[i * d..][..d]) + bias];
        z.extend(self.negative.iter().enumerate().map(|(j, id)| match *id == target || *id == NO_ID || own(j) {
            true => S::neg_infinity(),
            false => dot(&self.neg[j * d..][..d]) + self.offset(*id),
        }));
        z
    }
}

macro_rules! logits {
    ($op:expr, $m:expr) => {
        Logits {
            h: $m.get($op.h),
            pos: $m.get($op.pos),
            neg: $m.get($op.neg),
            bias: $m.get($op.bias),
            log_q: $m.get($op.log_q),
            target: $m.ids($op.target),
            negative: &$m.ids($op.negative)[..$op.s],
            own: $m.ids($op.own),
            log_others: S::of(if $op.in_batch { log_others($m.ids($op.targets)) } else { 0.0 }),
            d: $op.d,
        }
    };
}

/// Returns the length of `own`, or the required length where it is empty.
fn own_or(own: Span<U32>, need: usize) -> usize {
    if own.is_empty() { need } else { own.len() }
}

impl Op for SampledSoftmaxFwd {
    const PRODUCTS: bool = true;

    fn check(&self) -> Result<(), String> {
        let (m, d, s) = (self.m, self.d, self.s);
        fits(&[
            ("loss", self.loss.len(), m),
            ("lse", self.lse.len(), m),
            ("h", self.h.len(), area([m, d])),
            ("pos", self.pos.len(), area([m, d])),
            ("neg", self.neg.len(), area([s, d])),
            ("log_q", self.log_q.len(), self.bias.len()),
            ("target", self.target.len(), m),
            ("negative", self.negative.len(), s),
            ("own", own_or(self.own, area([m, s.div_ceil(32)])), area([m, s.div_ceil(32)])),
            ("targets", self.targets.len(), self.in_batch as usize),
        ])
    }

    fn cost(&self) -> Cost {
        let (m, d, s) = (self.m, self.d, self.s);
        let ids = (m + s).min(self.bias.len());
        // One exponential per logit, one logarithm per row.
        Cost::work((2 * m * d * (1 + s)) as f64, (m * (1 + s) + m) as f64)
            .moves(self.loss, m)
            .moves(self.lse, m)
            .moves(self.h, m * d)
            .moves(self.pos, m * d)
            .moves(self.neg, s * d)
            .moves(self.bias, ids)
            .moves(self.log_q, s.min(self.bias.len()))
            .moves(self.target, m)
            .moves(self.negative, s)
            .moves(self.own, m * s.div_ceil(32))
            .moves(self.targets, self.in_batch as usize)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let of = logits!(self, m);
        let (loss, lse) = (m.get_mut(self.loss), m.get_mut(self.lse));
        for i in 0..self.m {
            let z = of.row(i);
            let max = z.iter().copied().fold(S::neg_infinity(), S::max);
            lse[i] = max + z.iter().map(|x| (*x - max).exp()).sum::<S>().ln();
            loss[i] = lse[i] - z[0];
        }
    }
}

impl Op for SampledSoftmaxBwd {
    const PRODUCTS: bool = true;

    fn check(&self) -> Result<(), String> {
        let (m, d, s) = (self.m, self.d, self.s);
        fits(&[
            ("g0", self.g0.len(), m),
            ("dh", self.dh.len_or(area([m, d])), area([m, d])),
            ("dneg", self.dneg.len_or(area([s, d])), area([s, d])),
            ("dneg_bias", self.dneg_bias.len_or(s), s),
            ("dloss", self.dloss.len(), m),
            ("h", self.h.len(), area([m, d])),
            ("pos", self.pos.len(), area([m, d])),
            ("neg", self.neg.len(), area([s, d])),
            ("log_q", self.log_q.len(), self.bias.len()),
            ("target", self.target.len(), m),
            ("negative", self.negative.len(), s),
            ("own", own_or(self.own, area([m, s.div_ceil(32)])), area([m, s.div_ceil(32)])),
            ("targets", self.targets.len(), self.in_batch as usize),
            ("lse", self.lse.len(), m),
        ])
    }

    fn cost(&self) -> Cost {
        let (m, d, s) = (self.m, self.d, self.s);
        let [dh, dneg, dbias] = [self.dh.wanted(), self.dneg.wanted(), self.dneg_bias.wanted()].map(usize::from);
        // Logits and exponentials count once. g0 is always computed; alone it needs only the target's logit.
        let others = (dh | dneg | dbias) * s;
        let (logits, ids) = (1 + others, (m + others).min(self.bias.len()));
        Cost::work((2 * m * d * (logits + dh * (1 + s) + dneg * s)) as f64, (m * logits) as f64)
            .moves(self.g0, m)
            .gradient(self.dh, m * d)
            .gradient(self.dneg, s * d)
            .gradient(self.dneg_bias, s)
            .moves(self.dloss, m)
            .moves(self.h, m * d)
            .moves(self.pos, m * d)
            .moves(self.neg, others * d)
            .moves(self.bias, ids)
            .moves(self.log_q, others.min(self.bias.len()))
            .moves(self.target, m)
            .moves(self.negative, others)
            .moves(self.own, m * others.div_ceil(32))
            .moves(self.targets, others.min(self.in_batch as usize))
            .moves(self.lse, m)
    }

    fn reference<S: Scalar>(&self, mem: &Lent<'_, S>) {
        let (m, d, s) = (self.m, self.d, self.s);
        let of = logits!(self, mem);
        let (lse, dloss) = (mem.get(self.lse), mem.get(self.dloss));
        // g (M, 1+S): dloss * (softmax - onehot).
        let w = s + 1;
        let mut g = vec![S::zero(); m * w];
        for i in 0..m {
            for (j, z) in of.row(i).iter().enumerate() {
                let hit = if j == 0 { S::one() } else { S::zero() };
                // The error budget of a bf16 engine counts this as one of its products, with both factors rounded.
                g[i * w + j] = dloss[i].product((*z - lse[i]).exp() - hit);
            }
        }
        mem.compute(Dst::Write(self.g0), m, |i| g[i * w]);
        mem.compute(self.dh, m * d, |at| {
            let (i, k) = (at / d, at % d);
            g[i * w].product(of.pos[at]) + (0..s).map(|j| g[i * w + 1 + j].product(of.neg[j * d + k])).sum::<S>()
        });
        mem.compute(self.dneg, s * d, |at| (0..m).map(|i| g[i * w + 1 + at / d].product(of.h[i * d + at % d])).sum());
        mem.compute(self.dneg_bias, s, |j| (0..m).map(|i| g[i * w + 1 + j]).sum());
    }
}

/// The ids of a case.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ids {
    /// Any ids, with accidental hits.
    Any,
    /// Targets 0..M, negatives M..M+S: each bias has one gradient, so that central differences test those too.
    Apart,
    /// Every fifth row and every ninth negative is padding.
    Padded,
}

pub fn cases() -> Vec<Case> {
    use Ids::*;
    // (M, D, S, V, ids, whether own items are left out). With V = 2, accidental hits are the rule.
    [
        (0, 8, 5, 9, Any, false),
        (1, 1, 1, 2, Any, false),
        (3, 7, 0, 5, Any, true),
        (7, 16, 9, 2, Any, false),
        (33, 32, 130, 500, Any, false),
        (33, 32, 130, 500, Apart, true),
        (65, 64, 256, 3000, Any, true),
        (9, 24, 31, 40, Apart, false),
        (130, 24, 33, 40, Padded, false),
        (70, 33, 95, 60, Padded, true),
        // A width that kernels process in pieces.
        (67, 264, 70, 90, Any, false),
        (67, 264, 70, 190, Apart, true),
    ]
    .into_iter()
    .map(|(m, d, s, v, ids, excluding)| {
        let mut p = Planner::new();
        let (h, pos, neg) = (p.var(m * d), p.var(m * d), p.var(s * d));
        let (bias, log_q, loss, lse, dloss, g0) = (p.stat(v), p.stat(v), p.stat(m), p.stat(m), p.stat(m), p.stat(m));
        let dneg_bias = p.act(s);
        let (target, negative) = (p.index(m), p.index(s));
        let own = if excluding { p.index(m * s.div_ceil(32)) } else { Span::empty() };
        // In every other width, the negatives act as the targets of a batch.
        let in_batch = d % 2 == 1;
        let targets = p.index(usize::from(in_batch));
        let mut draw = Stream::new(21, Purpose::Test, (m + s) as u32);
        let mut id = |i: usize, apart: usize, every: usize| match ids {
            Apart => (apart + i) as u32,
            Padded if i % every == every - 1 => NO_ID,
            _ => draw.below(v as u64) as u32,
        };
        let ids_of_targets: Vec<u32> = (0..m).map(|i| id(i, 0, 5)).collect();
        let negatives: Vec<u32> = (0..s).map(|j| id(j, m, 9)).collect();
        // About a quarter is left out. The bits past the last negative must not matter.
        let bits = (0..own.len()).map(|_| draw.bits() & draw.bits()).collect();
        let (h_, pos_, neg_) = (h.y, pos.y, neg.y);
        let fwd = SampledSoftmaxFwd {
            loss,
            lse,
            h: h_,
            pos: pos_,
            neg: neg_,
            bias,
            log_q,
            target,
            negative,
            own,
            targets,
            m,
            d,
            s,
            in_batch,
        };
        let bwd = SampledSoftmaxBwd {
            g0,
            dh: Dst::Write(h.dy),
            dneg: Dst::Write(neg.dy),
            dneg_bias: Dst::Write(dneg_bias),
            dloss,
            h: h_,
            pos: pos_,
            neg: neg_,
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
            in_batch,
        };
        let case = Case::new(format!("m{m} d{d} s{s} v{v} {ids:?}, own left out: {excluding}"), p, fwd, bwd)
            .input(h.y, 1.0, h.dy)
            .normal(pos.y, 1.0)
            .input(neg.y, 1.0, neg.dy)
            .output(loss, dloss)
            .normal(bias, 0.5)
            .normal(log_q, 1.0)
            .ids(target, ids_of_targets)
            .ids(negative, negatives)
            .ids(own, bits)
            .ids(targets, vec![m as u32; targets.len()]);
        match ids {
            Apart => case.input(bias.slice(0, m), 0.5, g0).input(bias.slice(m, s), 0.5, dneg_bias),
            _ => case,
        }
    })
    .collect()
}
