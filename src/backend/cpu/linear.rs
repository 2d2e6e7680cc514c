//! Dense layers as packed matrix products.

use super::{
    Cpu,
    gemm::{self, Terms, View},
    in_precision, products, reduce, scratch,
};
use crate::ops::{LinearBwd, LinearFwd, Op, Run};

impl Run<LinearFwd> for Cpu {
    fn run(&mut self, op: &LinearFwd) {
        op.assert_disjoint();
        in_precision!(self, forward(self, op))
    }
}

fn forward<T: Terms>(m: &Cpu, op: &LinearFwd) {
    let (n, i, o) = (op.n, op.i, op.o);
    // SAFETY: disjoint by the caller's assertion, taken once.
    let y = unsafe { m.out(op.y, n * o) };
    let (x, w, b) = (m.get(op.x, n * i), m.get(op.w, o * i), m.get(op.b, o));
    scratch::borrow(gemm::packed_len(i, o), |room| {
        let w = gemm::pack::<T>(room, View::dense(w, o, i).t());
        products::product_bias(y, View::dense(x, n, i), w, b);
    });
}

impl Run<LinearBwd> for Cpu {
    fn run(&mut self, op: &LinearBwd) {
        op.assert_disjoint();
        in_precision!(self, backward(self, op))
    }
}

fn backward<T: Terms>(m: &Cpu, op: &LinearBwd) {
    let (n, i, o) = (op.n, op.i, op.o);
    // SAFETY: disjoint by the caller's assertion, each taken once.
    let (dx, dw, db) = unsafe { (m.grad(op.dx, n * i), m.grad(op.dw, o * i), m.grad(op.db, o)) };
    let (dy, x, w) = (m.get(op.dy, n * o), m.get(op.x, n * i), m.get(op.w, o * i));
    if let Some((dx, acc)) = dx {
        scratch::borrow(gemm::packed_len(o, i), |room| {
            let w = gemm::pack::<T>(room, View::dense(w, o, i));
            products::product(dx, View::dense(dy, n, o), w, 1.0, acc);
        });
    }
    if let Some((dw, acc)) = dw {
        products::product_t::<T>(dw, View::dense(dy, n, o), View::dense(x, n, i), acc);
    }
    reduce::sum_columns(db, dy, o);
}
