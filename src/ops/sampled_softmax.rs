/*! sampled_softmax: cross-entropy of each scored row against its target and S negatives shared by the batch, with the
logQ correction (Bengio and Senecal 2008; Yi et al. 2019).
fwd: z_m0 = <h_m, pos_m> + bias[target_m] - log_q[target_m],   z_ms = <h_m, neg_s> + bias[negative_s] - log_q[negative_s]
     negatives equal to the row's target are left out (accidental hits);  loss_m = log sum exp z_m - z_m0
     h, pos (M,D) act: pos_m is the table row of target_m     neg (S,D) act: the gathered panel
     log_q (V): log of an item's expected count among the negatives (all zero: no correction)
bwd: g = dloss (softmax - onehot):  dh, dpos (M,D), dneg (S,D), dpos_bias (M), dneg_bias (S); the caller sums dpos, dneg and
     the bias gradients into the table by segments (`SegmentSum`)
S = 0 or only accidental hits: loss 0, zero gradients.
*/

use super::{Cost, Dst, Op, case::Case, fits};
use crate::{
    base::rng::{Purpose, Stream},
    mem::{Act, F32, HostArenas, Planner, Scalar, U32},
};

op! {
    /// Loss of each scored row against shared negatives.
    SampledSoftmaxFwd = "sampled_softmax_fwd" {
        write { /** (M) */ loss: F32, /** (M) */ lse: F32 }
        read {
            /** (M,D) */ h: Act, /** (M,D) */ pos: Act, /** (S,D) */ neg: Act, /** (V) */ bias: F32, /** (V) */ log_q: F32,
            /** (M) */ target: U32, /** (S) */ negative: U32
        }
        with { m: usize, d: usize, s: usize }
    }
}

op! {
    /// Gradients of [`SampledSoftmaxFwd`], weighted by `dloss`.
    SampledSoftmaxBwd = "sampled_softmax_bwd" {
        grad {
            /** (M,D) */ dh: Act, /** (M,D) */ dpos: Act, /** (S,D) */ dneg: Act, /** (M) */ dpos_bias: Act,
            /** (S) */ dneg_bias: Act
        }
        read {
            /** (M) */ dloss: F32, /** (M,D) */ h: Act, /** (M,D) */ pos: Act, /** (S,D) */ neg: Act, /** (V) */ bias: F32,
            /** (V) */ log_q: F32, /** (M) */ target: U32, /** (S) */ negative: U32, /** (M) */ lse: F32
        }
        with { m: usize, d: usize, s: usize }
    }
}

/// z of a row: its target first, then the negatives; -inf where left out.
fn logits<S: Scalar>(
    h: &[S],
    pos: &[S],
    neg: &[S],
    offset: &dyn Fn(u32) -> S,
    target: u32,
    negative: &[u32],
) -> Vec<S> {
    let d = h.len();
    let dot = |row: &[S]| h.iter().zip(row).map(|(a, b)| *a * *b).sum::<S>();
    let mut z = vec![dot(pos) + offset(target)];
    z.extend(
        negative
            .iter()
            .enumerate()
            .map(|(j, id)| if *id == target { S::neg_infinity() } else { dot(&neg[j * d..][..d]) + offset(*id) }),
    );
    z
}

impl Op for SampledSoftmaxFwd {
    const PRODUCTS: bool = true;

    fn check(&self) -> Result<(), String> {
        let (m, d, s) = (self.m, self.d, self.s);
        fits(&[
            ("loss", self.loss.len(), m),
            ("lse", self.lse.len(), m),
            ("h", self.h.len(), m * d),
            ("pos", self.pos.len(), m * d),
            ("neg", self.neg.len(), s * d),
            ("log_q", self.log_q.len(), self.bias.len()),
            ("target", self.target.len(), m),
            ("negative", self.negative.len(), s),
        ])
    }

    fn cost(&self) -> Cost {
        let (m, d, s) = (self.m as f64, self.d as f64, self.s as f64);
        Cost { flop: 2.0 * m * d * (s + 1.0), bytes: 4.0 * (2.0 * m * d + s * d) }
    }

    fn reference<S: Scalar>(&self, m: &HostArenas<S>) {
        let d = self.d;
        let (h, pos, neg) = (m.get(self.h), m.get(self.pos), m.get(self.neg));
        let (bias, log_q) = (m.get(self.bias), m.get(self.log_q));
        let (target, negative) = (m.ids(self.target), &m.ids(self.negative)[..self.s]);
        let offset = |id: u32| bias[id as usize] - log_q[id as usize];
        // SAFETY: destinations and sources of an op are disjoint (`assert_disjoint`).
        let (loss, lse) = unsafe { (m.get_mut(self.loss), m.get_mut(self.lse)) };
        for i in 0..self.m {
            let z = logits(&h[i * d..][..d], &pos[i * d..][..d], neg, &offset, target[i], negative);
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
            ("dh", self.dh.len_or(m * d), m * d),
            ("dpos", self.dpos.len_or(m * d), m * d),
            ("dneg", self.dneg.len_or(s * d), s * d),
            ("dpos_bias", self.dpos_bias.len_or(m), m),
            ("dneg_bias", self.dneg_bias.len_or(s), s),
            ("dloss", self.dloss.len(), m),
            ("h", self.h.len(), m * d),
            ("pos", self.pos.len(), m * d),
            ("neg", self.neg.len(), s * d),
            ("log_q", self.log_q.len(), self.bias.len()),
            ("target", self.target.len(), m),
            ("negative", self.negative.len(), s),
            ("lse", self.lse.len(), m),
        ])
    }

    fn cost(&self) -> Cost {
        let (m, d, s) = (self.m as f64, self.d as f64, self.s as f64);
        Cost { flop: 6.0 * m * d * (s + 1.0), bytes: 4.0 * (4.0 * m * d + 2.0 * s * d) }
    }

    fn reference<S: Scalar>(&self, mem: &HostArenas<S>) {
        let (m, d, s) = (self.m, self.d, self.s);
        let (h, pos, neg) = (mem.get(self.h), mem.get(self.pos), mem.get(self.neg));
        let (bias, log_q) = (mem.get(self.bias), mem.get(self.log_q));
        let (target, negative) = (mem.ids(self.target), &mem.ids(self.negative)[..s]);
        let (lse, dloss) = (mem.get(self.lse), mem.get(self.dloss));
        let offset = |id: u32| bias[id as usize] - log_q[id as usize];
        // g (M, 1+S): dloss * (softmax - onehot).
        let w = s + 1;
        let mut g = vec![S::zero(); m * w];
        for i in 0..m {
            let z = logits(&h[i * d..][..d], &pos[i * d..][..d], neg, &offset, target[i], negative);
            for (j, z) in z.iter().enumerate() {
                let hit = if j == 0 { S::one() } else { S::zero() };
                g[i * w + j] = dloss[i] * ((*z - lse[i]).exp() - hit);
            }
        }
        mem.compute(self.dh, m * d, |at| {
            let (i, k) = (at / d, at % d);
            g[i * w] * pos[at] + (0..s).map(|j| g[i * w + 1 + j] * neg[j * d + k]).sum::<S>()
        });
        mem.compute(self.dpos, m * d, |at| g[at / d * w] * h[at]);
        mem.compute(self.dneg, s * d, |at| (0..m).map(|i| g[i * w + 1 + at / d] * h[i * d + at % d]).sum());
        mem.compute(self.dpos_bias, m, |i| g[i * w]);
        mem.compute(self.dneg_bias, s, |j| (0..m).map(|i| g[i * w + 1 + j]).sum());
    }
}

pub fn cases() -> Vec<Case<SampledSoftmaxFwd, SampledSoftmaxBwd>> {
    // (M, D, S, V): V = 2 makes accidental hits the rule.
    [
        (0, 8, 5, 9),
        (1, 1, 1, 2),
        (3, 7, 0, 5),
        (7, 16, 9, 2),
        (33, 32, 130, 500),
        (65, 64, 256, 3000),
        (130, 24, 33, 40),
        // A width that kernels take in pieces.
        (67, 264, 70, 90),
    ]
    .into_iter()
    .map(|(m, d, s, v)| {
        let mut p = Planner::new();
        let (h, pos, neg) = (p.var(m * d), p.var(m * d), p.var(s * d));
        let (bias, log_q, loss, lse, dloss) = (p.stat(v), p.stat(v), p.stat(m), p.stat(m), p.stat(m));
        let (dpos_bias, dneg_bias) = (p.act(m), p.act(s));
        let (target, negative) = (p.index(m), p.index(s));
        let mut draw = Stream::new(21, Purpose::Test, (m + s) as u32);
        let fwd =
            SampledSoftmaxFwd { loss, lse, h: h.y, pos: pos.y, neg: neg.y, bias, log_q, target, negative, m, d, s };
        let bwd = SampledSoftmaxBwd {
            dh: Dst::Write(h.dy),
            dpos: Dst::Write(pos.dy),
            dneg: Dst::Write(neg.dy),
            dpos_bias: Dst::Write(dpos_bias),
            dneg_bias: Dst::Write(dneg_bias),
            dloss,
            h: h.y,
            pos: pos.y,
            neg: neg.y,
            bias,
            log_q,
            target,
            negative,
            lse,
            m,
            d,
            s,
        };
        Case::new(format!("m{m} d{d} s{s} v{v}"), p, fwd, bwd)
            .input(h.y, 1.0, h.dy)
            .input(pos.y, 1.0, pos.dy)
            .input(neg.y, 1.0, neg.dy)
            .output(loss, dloss)
            .normal(bias, 0.5)
            .normal(log_q, 1.0)
            .ids(target, (0..m).map(|_| draw.below(v as u64) as u32).collect())
            .ids(negative, (0..s).map(|_| draw.below(v as u64) as u32).collect())
    })
    .collect()
}
