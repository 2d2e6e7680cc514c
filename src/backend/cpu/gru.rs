/*! Gated recurrent units. A task processes several sequences together, so that one read of the recurrent weight per
time step serves all of them. The weight is packed once for all tasks.

Sequences are sorted, longest first. The sequences of a task are similar in length, and those still running at a step
are the first rows of its state. One product computes all three gates of a step, or their gradients in the backward
pass. The rest is elementwise, between the product's rows in scratch and the packed rows.

The number of sequences per task depends on the number of threads. The result does not: a row of a product is summed in
the same order whatever the other rows are.
*/

use std::cmp::Reverse;

use rayon::prelude::*;

use super::{
    Cpu,
    gemm::{self, Accumulate, Bias, Dest, F32Operand, Packed, View},
    math::{lanes, load, sigmoid, store, tanh},
    products::pieces,
    scratch,
    simd::{Isa, Kernel, Simd, dispatch},
};
use crate::ops::{GruBwd, GruFwd, Run, Valid};

/// Largest number of sequences per task. With more, the state and the gates of a step leave the nearest caches.
const MOST: usize = 64;

/// A group of non-empty sequences, longest first.
#[derive(Clone, Copy)]
struct Group<'a> {
    ids: &'a [u32],
    cu: &'a [u32],
}

impl Group<'_> {
    fn len(&self, i: usize) -> usize {
        let s = self.ids[i] as usize;
        (self.cu[s + 1] - self.cu[s]) as usize
    }

    /// Returns the packed row of sequence `i` at position `t`.
    fn row(&self, i: usize, t: usize) -> usize {
        self.cu[self.ids[i] as usize] as usize + t
    }
}

/// Calls `task` for groups of sequences in parallel. Together the groups hold every non-empty sequence once.
fn each_group(cu: &[u32], n: usize, task: impl Fn(Group) + Send + Sync) {
    let b = cu.len() - 1;
    // Tasks write the rows of their sequences. This is sound only when sequences do not overlap and end inside the
    // tensor.
    assert!(cu.windows(2).all(|w| w[0] <= w[1]) && cu[b] as usize <= n, "sequence ends do not ascend up to N");
    scratch::borrow(scratch::room(b), |room| {
        let ids: &mut [u32] = bytemuck::cast_slice_mut(&mut room[..b]);
        ids.iter_mut().enumerate().for_each(|(i, id)| *id = i as u32);
        let len = |id: &u32| cu[*id as usize + 1] - cu[*id as usize];
        ids.sort_unstable_by_key(|id| (Reverse(len(id)), *id));
        let ids = &ids[..ids.partition_point(|id| len(id) > 0)];
        // A few groups per thread, so that long sequences do not delay all others, and whole tiles of a product.
        let tile = Isa::current().tile_rows();
        let size = ids.len().div_ceil(4 * rayon::current_num_threads()).next_multiple_of(tile).clamp(tile, MOST);
        ids.par_chunks(size).with_max_len(1).for_each(|ids| task(Group { ids, cu }));
    });
}

/// Computes c = or += A B. The sum goes in pieces, so that each piece's part of B stays in the first-level cache. It
/// starts from `bias` or adds to c.
fn product(c: Dest, a: View, b: Packed, bias: Option<&[f32]>) {
    for (start, k) in pieces::<F32Operand>(b.k) {
        let (a, b) = (a.cols(start, k), b.rows(start, k));
        match bias {
            Some(bias) if start == 0 => gemm::multiply(a, b, &mut Bias { c, bias }),
            _ => gemm::multiply(a, b, &mut Accumulate { c, alpha: 1.0 }),
        }
    }
}

/// Computes the gates and the new state of the first `rows` sequences of a group at position `t`.
struct Forward<'a> {
    y: Dest,
    before: Dest,
    gates: Dest,
    gx: &'a [f32],
    /// (rows,3H) W h + b
    products: &'a [f32],
    /// (rows,H): the previous state on entry, the new state on return.
    state: &'a mut [f32],
    group: Group<'a>,
    rows: usize,
    t: usize,
    h: usize,
}

impl Kernel for Forward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let h = self.h;
        let one = s.splat(1.0);
        for i in 0..self.rows {
            let row = self.group.row(i, self.t);
            let x = self.gx[row * 3 * h..][..3 * h].as_ptr();
            let p = self.products[i * 3 * h..][..3 * h].as_ptr();
            let state = self.state[i * h..][..h].as_mut_ptr();
            let (y, before, gates) = (self.y.element(row, 0), self.before.element(row, 0), self.gates.element(row, 0));
            // SAFETY: j + k is at most h; all accesses lie in rows of h, 3h and 4h elements. The row of the
            // destinations is inside, and only this task writes it.
            unsafe {
                lanes!(S, h, |j, k| {
                    let r = sigmoid(s, s.add(load(s, x.add(j), k), load(s, p.add(j), k)));
                    let z = sigmoid(s, s.add(load(s, x.add(h + j), k), load(s, p.add(h + j), k)));
                    let q = load(s, p.add(2 * h + j), k);
                    let n = tanh(s, s.fma(r, q, load(s, x.add(2 * h + j), k)));
                    let old = load(s, state.add(j), k);
                    let new = s.fma(z, old, s.mul(s.sub(one, z), n));
                    store(s, before.add(j), old, k);
                    store(s, gates.add(j), r, k);
                    store(s, gates.add(h + j), z, k);
                    store(s, gates.add(2 * h + j), n, k);
                    store(s, gates.add(3 * h + j), q, k);
                    store(s, y.add(j), new, k);
                    store(s, state.add(j), new, k);
                })
            }
        }
    }
}

impl Run<GruFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, GruFwd>) {
        let mem = self.lend(op);
        let (n, h) = (op.n, op.h);
        let (y, before, gates) = (mem.out(op.y, n * h), mem.out(op.before, n * h), mem.out(op.gates, 4 * n * h));
        let (gx, w, bias) = (mem.get(op.gx, 3 * n * h), mem.get(op.w, 3 * h * h), mem.get(op.bias, 3 * h));
        let cu = mem.ids(op.cu, op.b + 1);
        let used = cu[op.b] as usize;
        y[used * h..].fill(0.0);
        before[used * h..].fill(0.0);
        gates[used * 4 * h..].fill(0.0);
        let (y, before) = (Dest::new(y, n, h, h), Dest::new(before, n, h, h));
        let gates = Dest::new(gates, n, 4 * h, 4 * h);
        scratch::borrow(gemm::packed_len(h, 3 * h), |room| {
            let w = gemm::pack_parallel(room, View::dense(w, 3 * h, h).t());
            each_group(cu, n, |group| {
                let sizes = [group.ids.len() * h, group.ids.len() * 3 * h];
                scratch::borrow(sizes.iter().map(|&n| scratch::room(n)).sum(), |mut rest| {
                    let [state, products] = sizes.map(|n| scratch::split(&mut rest, n));
                    state.fill(0.0);
                    let mut rows = group.ids.len();
                    for t in 0..group.len(0) {
                        while group.len(rows - 1) <= t {
                            rows -= 1;
                        }
                        product(Dest::new(products, rows, 3 * h, 3 * h), View::dense(state, rows, h), w, Some(bias));
                        dispatch(Forward { y, before, gates, gx, products, state, group, rows, t, h });
                    }
                });
            });
        });
    }
}

/// The destination of a gradient, and whether to add to it.
type Target = Option<(Dest, bool)>;

/// Stores (or adds) `k` lanes at (row, column).
///
/// # Safety
/// The elements lie inside, and no other task writes them.
#[inline(always)]
unsafe fn put<S: Simd>(s: S, to: Target, row: usize, column: usize, v: S::V, k: usize) {
    if let Some((to, add)) = to {
        let at = to.element(row, column);
        // SAFETY: guaranteed by the caller.
        unsafe { store(s, at, if add { s.add(load(s, at, k), v) } else { v }, k) }
    }
}

/// Computes the gradients of the gates of the first `rows` sequences of a group at position `t`.
struct Backward<'a> {
    dgx: Target,
    dgh: Target,
    /// (rows,3H), the same values as dgh.
    products: &'a mut [f32],
    /// (rows,H): on entry the gradient from the next row, on return the part for the previous row that bypasses the
    /// product.
    state: &'a mut [f32],
    dy: &'a [f32],
    before: &'a [f32],
    gates: &'a [f32],
    group: Group<'a>,
    rows: usize,
    t: usize,
    h: usize,
}

impl Kernel for Backward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (h, one) = (self.h, s.splat(1.0));
        for i in 0..self.rows {
            let row = self.group.row(i, self.t);
            let (dy, before) = (self.dy[row * h..][..h].as_ptr(), self.before[row * h..][..h].as_ptr());
            let gates = self.gates[row * 4 * h..][..4 * h].as_ptr();
            let p = self.products[i * 3 * h..][..3 * h].as_mut_ptr();
            let state = self.state[i * h..][..h].as_mut_ptr();
            // SAFETY: j + k is at most h; all accesses lie in rows of h, 3h and 4h elements. The row of the
            // destinations is inside, and only this task writes it.
            unsafe {
                lanes!(S, h, |j, k| {
                    let (r, z) = (load(s, gates.add(j), k), load(s, gates.add(h + j), k));
                    let (n, q) = (load(s, gates.add(2 * h + j), k), load(s, gates.add(3 * h + j), k));
                    let d = s.add(load(s, dy.add(j), k), load(s, state.add(j), k));
                    let not_z = s.sub(one, z);
                    let dn = s.mul(s.mul(d, not_z), s.sub(one, s.mul(n, n)));
                    let dr = s.mul(s.mul(dn, q), s.mul(r, s.sub(one, r)));
                    let dz = s.mul(s.mul(d, s.sub(load(s, before.add(j), k), n)), s.mul(z, not_z));
                    let dq = s.mul(dn, r);
                    store(s, state.add(j), s.mul(d, z), k);
                    for (part, (x, q)) in [(dr, dr), (dz, dz), (dn, dq)].into_iter().enumerate() {
                        put(s, self.dgx, row, part * h + j, x, k);
                        put(s, self.dgh, row, part * h + j, q, k);
                        store(s, p.add(part * h + j), q, k);
                    }
                })
            }
        }
    }
}

impl Run<GruBwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, GruBwd>) {
        let mem = self.lend(op);
        let (n, h) = (op.n, op.h);
        let cu = mem.ids(op.cu, op.b + 1);
        let used = cu[op.b] as usize;
        let [dgx, dgh] = [op.dgx, op.dgh].map(|dst| mem.grad(dst, 3 * n * h)).map(|grad| {
            grad.map(|(to, add)| {
                if !add {
                    to[used * 3 * h..].fill(0.0);
                }
                (Dest::new(to, n, 3 * h, 3 * h), add)
            })
        });
        if dgx.is_none() && dgh.is_none() {
            return;
        }
        let (dy, before, gates) = (mem.get(op.dy, n * h), mem.get(op.before, n * h), mem.get(op.gates, 4 * n * h));
        let w = mem.get(op.w, 3 * h * h);
        scratch::borrow(gemm::packed_len(3 * h, h), |room| {
            let w = gemm::pack_parallel(room, View::dense(w, 3 * h, h));
            each_group(cu, n, |group| {
                let sizes = [group.ids.len() * h, group.ids.len() * 3 * h];
                scratch::borrow(sizes.iter().map(|&n| scratch::room(n)).sum(), |mut rest| {
                    let [state, products] = sizes.map(|n| scratch::split(&mut rest, n));
                    state.fill(0.0);
                    let mut rows = 0;
                    for t in (0..group.len(0)).rev() {
                        while rows < group.ids.len() && group.len(rows) > t {
                            rows += 1;
                        }
                        dispatch(Backward { dgx, dgh, products, state, dy, before, gates, group, rows, t, h });
                        // The first row has no predecessor.
                        if t > 0 {
                            let (c, a) = (Dest::new(state, rows, h, h), View::dense(products, rows, 3 * h));
                            product(c, a, w, None);
                        }
                    }
                });
            });
        });
    }
}
