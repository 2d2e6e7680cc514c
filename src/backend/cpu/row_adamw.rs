//! Row-sparse AdamW. A task owns some places of the sorted ids and updates the rows with runs that begin there.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rayon::prelude::*;

use super::{
    Cpu, Work,
    adamw::Update,
    gemm::Dest,
    math::{lanes, load, store},
    simd::{Kernel, Simd, dispatch},
};
use crate::{
    mem::{F32, Span, U32},
    ops::{
        AdamWRows, CatchUpRows, Run, Valid,
        row_adamw::{Closed, EXACT, owned},
    },
};

/// Places per task.
const PLACES: usize = 32;

/// The rows of a table and their moments.
struct Table<'a> {
    p: Dest,
    m: Dest,
    v: Dest,
    last: &'a [AtomicU32],
    d: usize,
}

impl Table<'_> {
    /// Returns the weights and moments of a row.
    ///
    /// # Safety
    /// The row lies inside, and no other task uses it.
    #[allow(clippy::mut_from_ref)]
    unsafe fn row(&self, row: usize) -> [&mut [f32]; 3] {
        // SAFETY: guaranteed by the caller.
        [self.p, self.m, self.v].map(|dest| unsafe { dest.at(row, 0).row(self.d) })
    }
}

impl Work<'_> {
    /// Returns the table of an op that updates rows. Takes all its destinations.
    fn table(&self, [p, m, v]: [Span<F32>; 3], last: Span<U32>, rows: usize, d: usize) -> Table<'_> {
        let [p, m, v] = [p, m, v].map(|span| Dest::new(self.out(span, rows * d), rows, d, d));
        let last: *mut [u32] = self.lent.ids_mut(last.first(rows));
        // SAFETY: the slice is exclusive, and atomics have the layout of the numbers they hold.
        let last = unsafe { &*(last as *const [AtomicU32]) };
        Table { p, m, v, last, d }
    }
}

/// Advances a row without a gradient: some steps one by one, then the rest in closed form.
struct CatchUp<'a> {
    row: [&'a mut [f32]; 3],
    op: &'a CatchUpRows,
    history: &'a [f32],
    /// The step that the row is at; `exact` is the number of steps taken one by one.
    last: u32,
    exact: u32,
    closed: Option<Closed<f32>>,
}

impl Kernel for CatchUp<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [p, m, v] = self.row;
        let d = p.len();
        assert!(m.len() == d && v.len() == d);
        let (p, m, v) = (p.as_mut_ptr(), m.as_mut_ptr(), v.as_mut_ptr());
        let CatchUpRows { beta1, beta2, eps, weight_decay, .. } = *self.op;
        let [beta1, beta2, eps, decay] = [beta1, beta2, eps, weight_decay].map(|x| s.splat(x));
        lanes!(S, d, |i, k| {
            // SAFETY: i + k is at most the common length.
            unsafe {
                let (mut w, mut m1, mut v1) = (load(s, p.add(i), k), load(s, m.add(i), k), load(s, v.add(i), k));
                for t in self.last + 1..=self.last + self.exact {
                    let [lr, c1, c2, _] = self.op.of(self.history, t).map(|x| s.splat(x));
                    m1 = s.mul(beta1, m1);
                    v1 = s.mul(beta2, v1);
                    let root = s.add(s.sqrt(s.mul(v1, c2)), eps);
                    let step = s.fma(decay, w, s.div(s.mul(m1, c1), root));
                    w = s.sub(w, s.mul(lr, step));
                }
                if let Some(closed) = &self.closed {
                    w = s.mul(w, s.splat(closed.decay));
                    for stretch in closed.stretches() {
                        let root = s.add(s.sqrt(s.mul(v1, s.splat(stretch.c2))), s.splat(stretch.eps));
                        w = s.sub(w, s.div(s.mul(s.splat(stretch.weight), m1), root));
                    }
                    m1 = s.mul(m1, s.splat(closed.beta1));
                    v1 = s.mul(v1, s.splat(closed.beta2));
                }
                store(s, p.add(i), w, k);
                store(s, m.add(i), m1, k);
                store(s, v.add(i), v1, k);
            }
        });
    }
}

impl Run<CatchUpRows> for Cpu {
    fn execute(&mut self, op: &Valid<'_, CatchUpRows>) {
        let mem = self.lend(op);
        if mem.get(op.ok, 1)[0] == 0.0 {
            return;
        }
        let table = mem.table([op.p, op.m, op.v], op.last, op.rows, op.d);
        let key = mem.ids(op.key, if op.all { 0 } else { op.n });
        let (history, step) = (mem.get(op.history, 4 * op.ring), mem.ids(op.step, 1)[0]);
        // In ascending order the ids of runs differ, so no row has two owners.
        assert!(key.is_sorted(), "keys do not ascend");
        (0..op.places()).into_par_iter().with_min_len(PLACES).for_each(|i| {
            let Some(row) = op.row(key, i) else { return };
            let last = table.last[row].load(Relaxed);
            let missed = step.saturating_sub(last + 1);
            if missed == 0 {
                return;
            }
            assert!(missed as usize <= op.ring, "row {row} is {missed} steps behind, the history has {}", op.ring);
            let exact = missed.min(EXACT);
            let closed = (missed > exact).then(|| op.closed(history, last + exact, missed - exact));
            // SAFETY: ids are below `rows`, and each has one owner.
            let row_values = unsafe { table.row(row) };
            dispatch(CatchUp { row: row_values, op, history, last, exact, closed });
            table.last[row].store(step - 1, Relaxed);
        });
    }
}

impl Run<AdamWRows> for Cpu {
    fn execute(&mut self, op: &Valid<'_, AdamWRows>) {
        let mem = self.lend(op);
        if mem.get(op.ok, 1)[0] == 0.0 {
            return;
        }
        let table = mem.table([op.p, op.m, op.v], op.last, op.rows, op.d);
        let (key, step) = (mem.ids(op.key, op.n), mem.ids(op.step, 1)[0]);
        let (g, norm, hyper) = (mem.get(op.g, op.n * op.d), mem.get(op.norm, 1)[0], mem.get(op.hyper, 3));
        let clip = if op.max_norm > 0.0 { (op.max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        let (hyper, betas) = ([hyper[0], hyper[1], hyper[2]], [op.beta1, op.beta2]);
        // In ascending order the ids of runs differ, so no row has two owners.
        assert!(key.is_sorted(), "keys do not ascend");
        (0..op.n).into_par_iter().with_min_len(PLACES).for_each(|i| {
            let Some(row) = owned(key, i, op.rows) else { return };
            // SAFETY: ids are below `rows`, and each has one owner.
            let [p, m, v] = unsafe { table.row(row) };
            let g = &g[i * op.d..][..op.d];
            dispatch(Update { p, m, v, g, clip, hyper, betas, eps: op.eps, weight_decay: op.weight_decay });
            table.last[row].store(step, Relaxed);
        });
    }
}
