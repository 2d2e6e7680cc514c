/*! attention: fused multi-head self-attention over packed sequences (Vaswani et al. 2017), probabilities never stored.
fwd: for each sequence b, head h:  s = scale * q k^T,  p = softmax_row(s),  o = drop(p) v
     qkv (N,3,H,K) act   o (N,H,K) act   lse (H,N) f32 = log sum exp of each row of s   scale = 1/sqrt(K)
bwd: delta_i = <do_i, o_i>,  dp = drop(do v^T),  ds = p*(dp - delta),
     dq = scale ds k,  dk = scale ds^T q,  dv = drop(p)^T do
     p recomputed as exp(s - lse)

Sequences follow each other without padding. `cu` (B+1) contains their cumulative lengths, each at most `t`.
Causal: position i sees positions <= i. An empty sequence is allowed.
Dropout of p_ij is element ((row*H + h)*t8 + j) of its site. row is the packed row of i, j counts inside the sequence,
and t8 is `t` rounded up to 8.
*/

use super::{Cost, Dst, Op, area, case::Case, dropout::Dropout, fits};
use crate::mem::{Act, F32, Lent, Planner, Scalar, U32};

op! {
    /// Computes o = softmax(scale q k^T) v for every sequence and head.
    AttentionFwd = "attention_fwd" {
        write { /** (N,H,K) */ o: Act, /** (H,N) */ lse: F32 }
        read { /** (N,3,H,K) */ qkv: Act, /** (B+1) */ cu: U32, /** (1) */ step: U32 }
        with {
            b: usize, n: usize, h: usize, k: usize, /** longest sequence allowed */ t: usize,
            causal: bool, drop: Dropout
        }
    }
}

op! {
    /// Gradient of [`AttentionFwd`].
    AttentionBwd = "attention_bwd" {
        grad { /** (N,3,H,K) */ dqkv: Act }
        read {
            /** (N,H,K) */ d_o: Act, /** (N,H,K) */ o: Act, /** (N,3,H,K) */ qkv: Act, /** (H,N) */ lse: F32,
            /** (B+1) */ cu: U32, /** (1) */ step: U32
        }
        with { b: usize, n: usize, h: usize, k: usize, t: usize, causal: bool, drop: Dropout }
    }
}

/// Returns the index of the first draw of a row of probabilities.
pub fn drop_row(row: usize, head: usize, h: usize, t: usize) -> u64 {
    (row * h + head) as u64 * t.next_multiple_of(8) as u64
}

/// Returns the number of scores of all heads for sequences of equal length, n/b rows each.
/// This is the smallest possible number ([`cost`](super::cost) explains why lengths are not known).
fn scores(b: usize, n: usize, h: usize, causal: bool) -> f64 {
    let square = if b == 0 { 0.0 } else { (n as f64).powi(2) / b as f64 };
    h as f64 * if causal { (square + n as f64) / 2.0 } else { square }
}

impl Op for AttentionFwd {
    const PRODUCTS: bool = true;

    fn check(&self) -> Result<(), String> {
        self.drop.check()?;
        let (n, d) = (self.n, area([self.h, self.k]));
        fits(&[
            ("o", self.o.len(), area([n, d])),
            ("lse", self.lse.len(), area([self.h, n])),
            ("qkv", self.qkv.len(), area([3, n, d])),
            ("cu", self.cu.len(), self.b.saturating_add(1)),
            ("step", self.step.len(), 1),
        ])
    }

    fn cost(&self) -> Cost {
        let (n, d) = (self.n, self.h * self.k);
        let scores = scores(self.b, n, self.h, self.causal);
        // Two products; one exponential per score, one logarithm per row.
        Cost::work(4.0 * self.k as f64 * scores, scores + (self.h * n) as f64)
            .moves(self.o, n * d)
            .moves(self.lse, self.h * n)
            .moves(self.qkv, 3 * n * d)
            .moves(self.cu, self.b + 1)
            .moves(self.step, 1)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (h, k, d) = (self.h, self.k, self.h * self.k);
        let (qkv, cu, step) = (m.get(self.qkv), m.ids(self.cu), m.ids(self.step)[0]);
        let (o, lse) = (m.get_mut(self.o), m.get_mut(self.lse));
        let scale = S::of(1.0 / (k as f64).sqrt());
        for b in 0..self.b {
            let (start, end) = (cu[b] as usize, cu[b + 1] as usize);
            for head in 0..h {
                for i in start..end {
                    let last = if self.causal { i + 1 } else { end };
                    let q = &qkv[i * 3 * d + head * k..][..k];
                    let s: Vec<S> = (start..last)
                        .map(|j| {
                            let key = &qkv[j * 3 * d + d + head * k..][..k];
                            scale * q.iter().zip(key).map(|(a, b)| a.product(*b)).sum::<S>()
                        })
                        .collect();
                    let max = s.iter().copied().fold(S::neg_infinity(), S::max);
                    let row = max + s.iter().map(|x| (*x - max).exp()).sum::<S>().ln();
                    lse[head * self.n + i] = row;
                    for c in 0..k {
                        o[i * d + head * k + c] = (start..last)
                            .map(|j| {
                                let keep = self.drop.factor(step, drop_row(i, head, h, self.t) + (j - start) as u64);
                                ((s[j - start] - row).exp() * S::of(keep))
                                    .product(qkv[j * 3 * d + 2 * d + head * k + c])
                            })
                            .sum();
                    }
                }
            }
        }
    }
}

impl Op for AttentionBwd {
    const PRODUCTS: bool = true;

    fn check(&self) -> Result<(), String> {
        self.drop.check()?;
        let (n, d) = (self.n, area([self.h, self.k]));
        fits(&[
            ("dqkv", self.dqkv.len_or(area([3, n, d])), area([3, n, d])),
            ("d_o", self.d_o.len(), area([n, d])),
            ("o", self.o.len(), area([n, d])),
            ("lse", self.lse.len(), area([self.h, n])),
            ("qkv", self.qkv.len(), area([3, n, d])),
            ("cu", self.cu.len(), self.b.saturating_add(1)),
            ("step", self.step.len(), 1),
        ])
    }

    fn cost(&self) -> Cost {
        if !self.dqkv.wanted() {
            return Cost::default();
        }
        let (n, d) = (self.n, self.h * self.k);
        let scores = scores(self.b, n, self.h, self.causal);
        // Five products, with scores and their exponentials once. Two kernels that both recompute them do more.
        Cost::work(10.0 * self.k as f64 * scores, scores)
            .gradient(self.dqkv, 3 * n * d)
            .moves(self.d_o, n * d)
            .moves(self.o, n * d)
            .moves(self.qkv, 3 * n * d)
            .moves(self.lse, self.h * n)
            .moves(self.cu, self.b + 1)
            .moves(self.step, 1)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (h, k, d) = (self.h, self.k, self.h * self.k);
        let (qkv, lse, cu, step) = (m.get(self.qkv), m.get(self.lse), m.ids(self.cu), m.ids(self.step)[0]);
        let (d_o, o) = (m.get(self.d_o), m.get(self.o));
        let scale = S::of(1.0 / (k as f64).sqrt());
        let mut dqkv = vec![S::zero(); 3 * self.n * d];
        for b in 0..self.b {
            let (start, end) = (cu[b] as usize, cu[b + 1] as usize);
            for head in 0..h {
                let at = |row: usize, part: usize, c: usize| row * 3 * d + part * d + head * k + c;
                for i in start..end {
                    let last = if self.causal { i + 1 } else { end };
                    let delta: S = (0..k).map(|c| d_o[i * d + head * k + c] * o[i * d + head * k + c]).sum();
                    for j in start..last {
                        let s = scale * (0..k).map(|c| qkv[at(i, 0, c)].product(qkv[at(j, 1, c)])).sum::<S>();
                        let p = (s - lse[head * self.n + i]).exp();
                        let keep = self.drop.factor(step, drop_row(i, head, h, self.t) + (j - start) as u64);
                        let keep = S::of(keep);
                        let dp = keep * (0..k).map(|c| d_o[i * d + head * k + c].product(qkv[at(j, 2, c)])).sum::<S>();
                        let ds = p * (dp - delta) * scale;
                        for c in 0..k {
                            dqkv[at(i, 0, c)] += ds.product(qkv[at(j, 1, c)]);
                            dqkv[at(j, 1, c)] += ds.product(qkv[at(i, 0, c)]);
                            dqkv[at(j, 2, c)] += (keep * p).product(d_o[i * d + head * k + c]);
                        }
                    }
                }
            }
        }
        m.compute(self.dqkv, 3 * self.n * d, |i| dqkv[i]);
    }
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // (lengths, heads, width per head, causal, dropout, spread of the inputs: a large one gives strong logits)
    type Shape = (&'static [usize], usize, usize, bool, f32, f32);
    let shapes: [Shape; 12] = [
        (&[1], 1, 8, false, 0.0, 1.0),
        (&[3, 1, 7], 2, 8, false, 0.0, 1.0),
        (&[3, 1, 7], 2, 8, true, 0.0, 1.0),
        (&[5, 0, 9], 1, 16, false, 0.0, 1.0),
        (&[17, 16, 15], 2, 16, false, 0.2, 1.0),
        (&[17, 33], 2, 32, true, 0.2, 1.0),
        (&[20, 50], 2, 32, false, 0.0, 5.0),
        (&[31], 4, 24, false, 0.1, 1.0),
        (&[65], 1, 64, true, 0.0, 1.0),
        (&[70, 12], 1, 128, false, 0.5, 1.0),
        (&[200, 57], 2, 32, false, 0.0, 1.0),
        (&[129], 1, 20, true, 0.1, 3.0),
    ];
    for (lengths, h, k, causal, p_drop, std) in shapes {
        let (b, n, d) = (lengths.len(), lengths.iter().sum::<usize>(), h * k);
        let t = lengths.iter().copied().max().unwrap_or(0) + 3;
        let mut p = Planner::new();
        let (qkv, o) = (p.var(3 * n * d), p.var(n * d));
        let (lse, cu, step) = (p.stat(h * n), p.index(b + 1), p.index(1));
        let mut ends = vec![0u32];
        lengths.iter().for_each(|l| ends.push(ends[ends.len() - 1] + *l as u32));
        let drop = Dropout { p: p_drop, seed: 7, site: 1 };
        let fwd = AttentionFwd { o: o.y, lse, qkv: qkv.y, cu, step, b, n, h, k, t, causal, drop };
        let bwd = AttentionBwd {
            dqkv: Dst::Write(qkv.dy),
            d_o: o.dy,
            o: o.y,
            qkv: qkv.y,
            lse,
            cu,
            step,
            b,
            n,
            h,
            k,
            t,
            causal,
            drop,
        };
        let name = format!("lengths{lengths:?} h{h} k{k} causal{causal} drop{p_drop} std{std}");
        cases.push(
            Case::new(name, p, fwd, bwd).input(qkv.y, std, qkv.dy).output(o.y, o.dy).ids(cu, ends).ids(step, vec![12]),
        );
    }
    cases
}
