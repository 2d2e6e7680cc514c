/*! Fused attention: one task per (sequence, head). Keys and values are packed once, queries are processed 64 at a time.

Forward, per block of queries: compute scores into scratch, take the softmax of each row in place, multiply by the
values. Backward, per block: compute P = exp(scores - lse) as the scores leave the registers and dS as dP leaves them,
then the three products. dK and dV accumulate in scratch block by block, so their order never changes. Scratch is a few
times T x 64. Causal blocks see only the keys up to their last query.
*/

use rayon::prelude::*;

use super::{
    Cpu, Work,
    dropout::Draws,
    gemm::{self, Accumulate, Dest, Epilogue, Packed, Store, Terms, View},
    in_precision,
    math::{exp, lanes, load, store},
    scratch,
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{AttentionBwd, AttentionFwd, Run, Valid, attention::drop_row};

/// Number of queries per block.
const BLOCK: usize = 64;

/// One sequence and one head of it.
#[derive(Clone, Copy)]
struct Head {
    /// First packed row of the sequence, and its number of rows.
    start: usize,
    len: usize,
    head: usize,
    h: usize,
    k: usize,
    t: usize,
    causal: bool,
}

impl Head {
    /// Returns the query, key or value part (0, 1, 2) of `rows` rows, from row `i` of the sequence on.
    fn part<'a>(&self, qkv: &'a [f32], part: usize, i: usize, rows: usize) -> View<'a> {
        let d = self.h * self.k;
        let first = (self.start + i) * 3 * d + part * d + self.head * self.k;
        View::new(qkv.get(first..).unwrap_or(&[]), rows, self.k, 3 * d, 1)
    }

    /// Returns the head's columns of an (N,H,K) tensor.
    fn rows<'a>(&self, x: &'a [f32], i: usize, rows: usize) -> View<'a> {
        let d = self.h * self.k;
        View::new(x.get((self.start + i) * d + self.head * self.k..).unwrap_or(&[]), rows, self.k, d, 1)
    }

    /// Returns the number of keys that the queries `i..i + rows` see.
    fn seen(&self, i: usize, rows: usize) -> usize {
        if self.causal { i + rows } else { self.len }
    }

    /// Returns the number of keys that query `i` sees.
    fn row_seen(&self, i: usize) -> usize {
        if self.causal { i + 1 } else { self.len }
    }
}

/// Calls `task` for every non-empty (sequence, head) in parallel.
fn each_head(cu: &[u32], (n, h, k, t): (usize, usize, usize, usize), causal: bool, task: impl Fn(Head) + Send + Sync) {
    let b = cu.len() - 1;
    // Tasks write the rows of their sequence. This is sound only when sequences do not overlap and end inside the
    // tensor.
    assert!(cu.windows(2).all(|w| w[0] <= w[1]) && cu[b] as usize <= n, "sequence ends do not ascend up to N");
    assert!(cu.windows(2).all(|w| (w[1] - w[0]) as usize <= t), "a sequence is longer than T");
    (0..b * h).into_par_iter().with_max_len(1).for_each(|i| {
        let (sequence, head) = (i / h, i % h);
        let start = cu[sequence] as usize;
        let len = cu[sequence + 1] as usize - start;
        if len > 0 {
            task(Head { start, len, head, h, k, t, causal });
        }
    });
}

/// Returns the width of a row of scores in scratch. It is an odd number of whole cache lines, so that rows do not share
/// cache sets.
fn score_width(len: usize) -> usize {
    (len.div_ceil(16) | 1) * 16
}

/// Turns rows of scaled scores into exp(s - max), stores 1 / sum and log sum exp, and applies dropout.
struct Softmax<'a> {
    p: &'a mut [f32],
    width: usize,
    head: Head,
    /// First query of the block.
    i: usize,
    rows: usize,
    inverse: &'a mut [f32],
    lse: &'a mut [f32],
    draws: Option<Draws>,
    factors: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for r in 0..self.rows {
            let seen = self.head.row_seen(self.i + r);
            let block_seen = self.head.seen(self.i, self.rows);
            // Fill the row with -inf up to a whole vector, so that the last vector needs no special case.
            let whole = seen.next_multiple_of(S::LANES);
            let row = &mut self.p[r * self.width..][..whole.max(block_seen)];
            row[seen..whole].fill(f32::NEG_INFINITY);
            row[whole..].fill(0.0);
            let p = row.as_mut_ptr();
            // SAFETY: all loads and stores lie in the row's first `whole` elements, or in as many factors as keys seen.
            unsafe {
                let mut max = s.splat(f32::MIN);
                lanes!(S, whole, |j, k| max = s.max(max, load(s, p.add(j), k)));
                let top = s.largest(max);
                let m = s.splat(top);
                let mut sum = s.zero();
                lanes!(S, whole, |j, k| {
                    let e = exp(s, s.sub(load(s, p.add(j), k), m));
                    store(s, p.add(j), e, k);
                    sum = s.add(sum, e);
                });
                let sum = s.sum(sum);
                self.inverse[r] = 1.0 / sum;
                self.lse[r] = top + sum.ln();
                if let Some(draws) = &self.draws {
                    let h = &self.head;
                    let factors = &mut self.factors[..seen];
                    draws.fill(drop_row(h.start + self.i + r, h.head, h.h, h.t), factors);
                    let f = factors.as_ptr();
                    lanes!(S, seen, |j, k| store(s, p.add(j), s.mul(load(s, p.add(j), k), load(s, f.add(j), k)), k));
                }
            }
        }
    }
}

/// c = v * scale of the row.
struct RowScaled<'a> {
    c: Dest,
    scale: &'a [f32],
}

impl Epilogue for RowScaled<'_> {
    #[inline(always)]
    unsafe fn take<S: Simd>(&mut self, s: S, i: usize, j: usize, v: S::V, lanes: usize) {
        // SAFETY: (i, j..j+lanes) lies inside the destination.
        unsafe { store(s, self.c.element(i, j), s.mul(v, s.splat(self.scale[i])), lanes) }
    }
}

impl Run<AttentionFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, AttentionFwd>) {
        let mem = self.lend(op);
        in_precision!(mem, forward(&mem, op))
    }
}

fn forward<T: Terms>(mem: &Work<'_>, op: &AttentionFwd) {
    let (n, h, k, d) = (op.n, op.h, op.k, op.h * op.k);
    let (o, lse) = (mem.out(op.o, n * d), mem.out(op.lse, h * n));
    let (qkv, cu) = (mem.get(op.qkv, 3 * n * d), mem.ids(op.cu, op.b + 1));
    let draws = Draws::new(&op.drop, mem.ids(op.step, 1)[0]);
    let (o, lse) = (Dest::new(o, n, d, d), Dest::new(lse, h, n, n));
    let scale = 1.0 / (k as f32).sqrt();
    each_head(cu, (n, h, k, op.t), op.causal, |head| {
        let len = head.len;
        let width = score_width(len);
        let sizes = [
            gemm::packed_len(k, len),
            gemm::packed_len(len, k),
            BLOCK * width,
            BLOCK,
            width,
            T::room(BLOCK, k),
            T::room(BLOCK, len),
        ];
        scratch::borrow(sizes.iter().map(|&n| scratch::room(n)).sum(), |mut rest| {
            let [keys, values, p, inverse, factors, queries, weights] = sizes.map(|n| scratch::split(&mut rest, n));
            let keys = gemm::pack::<T>(keys, head.part(qkv, 1, 0, len).t());
            let values = gemm::pack::<T>(values, head.part(qkv, 2, 0, len));
            for i in (0..len).step_by(BLOCK) {
                let rows = BLOCK.min(len - i);
                let seen = head.seen(i, rows);
                let scores = Dest::new(p, rows, seen, width);
                let q = T::of(queries, head.part(qkv, 0, i, rows));
                gemm::multiply(q, keys.first(k, seen), &mut Store { c: scores, alpha: scale });
                // SAFETY: this task alone writes its head's lse of its sequence's rows.
                let lse = unsafe { lse.at(head.head, head.start + i).row(rows) };
                dispatch(Softmax { p, width, head, i, rows, inverse, lse, draws, factors });
                // SAFETY: this task alone writes its head's columns of its sequence's rows.
                let c = unsafe { o.at(head.start + i, head.head * k) };
                let p = T::of(weights, View::new(p, rows, seen, width, 1));
                gemm::multiply(p, values.first(seen, k), &mut RowScaled { c, scale: inverse });
            }
        });
    });
}

/// p = exp(scale v - lse of the row), and 0 past the keys that the row sees.
struct Probabilities<'a> {
    p: Dest,
    scale: f32,
    lse: &'a [f32],
}

impl Epilogue for Probabilities<'_> {
    #[inline(always)]
    unsafe fn take<S: Simd>(&mut self, s: S, i: usize, j: usize, v: S::V, lanes: usize) {
        let z = s.sub(s.mul(v, s.splat(self.scale)), s.splat(self.lse[i]));
        // SAFETY: (i, j..j+lanes) lies inside the destination.
        unsafe { store(s, self.p.element(i, j), exp(s, z), lanes) }
    }
}

/// ds = p (factor v - delta of the row) scale.
struct ScoreGradients<'a> {
    ds: Dest,
    p: Dest,
    factors: Option<Dest>,
    delta: &'a [f32],
    scale: f32,
}

impl Epilogue for ScoreGradients<'_> {
    #[inline(always)]
    unsafe fn take<S: Simd>(&mut self, s: S, i: usize, j: usize, v: S::V, lanes: usize) {
        // SAFETY: (i, j..j+lanes) lies inside the three matrices of one shape.
        unsafe {
            let dp = match self.factors {
                Some(f) => s.mul(v, load(s, f.element(i, j), lanes)),
                None => v,
            };
            let p = s.mul(load(s, self.p.element(i, j), lanes), s.splat(self.scale));
            store(s, self.ds.element(i, j), s.mul(p, s.sub(dp, s.splat(self.delta[i]))), lanes)
        }
    }
}

/// Computes delta_i = <a_i, b_i> over strided rows.
pub(super) struct RowDots<'a>(pub &'a mut [f32], pub View<'a>, pub View<'a>);

impl Kernel for RowDots<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (i, delta) in self.0.iter_mut().enumerate() {
            let (a, b) = (self.1.row(i).as_ptr(), self.2.row(i).as_ptr());
            let mut sum = s.zero();
            // SAFETY: rows hold `cols` elements.
            unsafe { lanes!(S, self.1.cols, |j, k| sum = s.fma(load(s, a.add(j), k), load(s, b.add(j), k), sum)) }
            *delta = s.sum(sum);
        }
    }
}

/// Draws the dropout factors of a block of queries and stores p times the factors next to p.
struct DropRows<'a> {
    draws: Draws,
    factors: &'a mut [f32],
    dropped: &'a mut [f32],
    p: &'a [f32],
    width: usize,
    head: Head,
    i: usize,
    rows: usize,
}

impl Kernel for DropRows<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (head, seen) = (&self.head, self.head.seen(self.i, self.rows));
        for r in 0..self.rows {
            let at = r * self.width;
            let (f, p) = (&mut self.factors[at..][..seen], &self.p[at..][..seen]);
            self.draws.fill(drop_row(head.start + self.i + r, head.head, head.h, head.t), f);
            let to = self.dropped[at..][..seen].as_mut_ptr();
            // SAFETY: all three rows hold `seen` elements.
            unsafe {
                lanes!(S, seen, |j, k| {
                    store(s, to.add(j), s.mul(load(s, p.as_ptr().add(j), k), load(s, f.as_ptr().add(j), k)), k)
                })
            }
        }
    }
}

impl Run<AttentionBwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, AttentionBwd>) {
        let mem = self.lend(op);
        in_precision!(mem, backward(&mem, op))
    }
}

fn backward<T: Terms>(mem: &Work<'_>, op: &AttentionBwd) {
    let (n, h, k, d) = (op.n, op.h, op.k, op.h * op.k);
    let Some((dqkv, acc)) = mem.grad(op.dqkv, 3 * n * d) else { return };
    let (d_o, o, qkv) = (mem.get(op.d_o, n * d), mem.get(op.o, n * d), mem.get(op.qkv, 3 * n * d));
    let (lse, cu) = (mem.get(op.lse, h * n), mem.ids(op.cu, op.b + 1));
    let draws = Draws::new(&op.drop, mem.ids(op.step, 1)[0]);
    let dqkv = Dest::new(dqkv, n, 3 * d, 3 * d);
    each_head(cu, (n, h, k, op.t), op.causal, |head| {
        // SAFETY: this task alone writes its head's columns of its sequence's rows.
        let dest = |part: usize, i: usize| unsafe { dqkv.at(head.start + i, part * d + head.head * k) };
        let lse = &lse[head.head * n + head.start..][..head.len];
        head_backward::<T>(head, qkv, d_o, o, lse, draws, &dest, acc);
    });
}

/// Computes dq, dk and dv of one head. `dest(part, i)` returns the destination of row `i` of a part.
fn head_backward<T: Terms>(
    head: Head,
    qkv: &[f32],
    d_o: &[f32],
    o: &[f32],
    lse: &[f32],
    draws: Option<Draws>,
    dest: &dyn Fn(usize, usize) -> Dest,
    acc: bool,
) {
    let (len, k) = (head.len, head.k);
    let width = score_width(len);
    let scale = 1.0 / (k as f32).sqrt();
    let dropout = if draws.is_some() { BLOCK * width } else { 0 };
    let sizes = [
        gemm::packed_len(k, len),
        gemm::packed_len(k, len),
        gemm::packed_len(len, k),
        gemm::packed_len(BLOCK, k),
        len * k,
        len * k,
        BLOCK * width,
        BLOCK * width,
        dropout,
        dropout,
        BLOCK,
        T::room(BLOCK, k),
        T::room(BLOCK, len).max(T::room(len, BLOCK)),
    ];
    scratch::borrow(sizes.iter().map(|&n| scratch::room(n)).sum(), |mut rest| {
        let [keys_t, values_t, keys, block, dk, dv, p, ds, factors, dropped, delta, rows_of, held] =
            sizes.map(|n| scratch::split(&mut rest, n));
        let keys_t = gemm::pack::<T>(keys_t, head.part(qkv, 1, 0, len).t());
        let values_t = gemm::pack::<T>(values_t, head.part(qkv, 2, 0, len).t());
        let keys = gemm::pack::<T>(keys, head.part(qkv, 1, 0, len));
        dk.fill(0.0);
        dv.fill(0.0);
        for i in (0..len).step_by(BLOCK) {
            let rows = BLOCK.min(len - i);
            let seen = head.seen(i, rows);
            let (q, d_o) = (head.part(qkv, 0, i, rows), head.rows(d_o, i, rows));
            dispatch(RowDots(&mut delta[..rows], d_o, head.rows(o, i, rows)));
            let mut probabilities = Probabilities { p: Dest::new(p, rows, seen, width), scale, lse: &lse[i..] };
            gemm::multiply(T::of(rows_of, q), keys_t.first(k, seen), &mut probabilities);
            if head.causal {
                for r in 0..rows {
                    p[r * width..][head.row_seen(i + r)..seen].fill(0.0);
                }
            }
            let p_dropped = match draws {
                Some(draws) => {
                    dispatch(DropRows { draws, factors, dropped, p, width, head, i, rows });
                    &*dropped
                }
                None => &*p,
            };
            let mut add = |c: &mut [f32], a: &[f32], b: Packed<T>| {
                let c = Dest::new(c, seen, k, k);
                let a = T::of(held, View::new(a, rows, seen, width, 1).t());
                gemm::multiply(a, b, &mut Accumulate { c, alpha: 1.0 });
            };
            add(dv, p_dropped, gemm::pack(block, d_o));
            let mut score_gradients = ScoreGradients {
                ds: Dest::new(ds, rows, seen, width),
                p: Dest::new(p, rows, seen, width),
                factors: draws.map(|_| Dest::new(factors, rows, seen, width)),
                delta,
                scale,
            };
            gemm::multiply(T::of(rows_of, d_o), values_t.first(k, seen), &mut score_gradients);
            add(dk, ds, gemm::pack(block, q));
            let (ds, c) = (T::of(held, View::new(ds, rows, seen, width, 1)), dest(0, i));
            match acc {
                true => gemm::multiply(ds, keys.first(seen, k), &mut Accumulate { c, alpha: 1.0 }),
                false => gemm::multiply(ds, keys.first(seen, k), &mut Store { c, alpha: 1.0 }),
            }
        }
        for (part, sum) in [(1, &*dk), (2, &*dv)] {
            for (i, sum) in sum.chunks_exact(k).enumerate() {
                // SAFETY: the row of this part holds k elements, and this task alone writes it.
                let row = unsafe { dest(part, i).row(k) };
                match acc {
                    true => row.iter_mut().zip(sum).for_each(|(x, y)| *x += y),
                    false => row.copy_from_slice(sum),
                }
            }
        }
    });
}
