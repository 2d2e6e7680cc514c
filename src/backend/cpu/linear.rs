//! Dense layers as packed matrix products.

use super::{
    Cpu,
    gemm::{self, View},
    products, reduce, scratch,
};
use crate::ops::{LinearBwd, LinearFwd, Op, Run};

impl Run<LinearFwd> for Cpu {
    fn run(&mut self, op: &LinearFwd) {
        op.assert_disjoint();
        let (n, i, o) = (op.n, op.i, op.o);
        // SAFETY: disjoint by the assertion, taken once.
        let y = unsafe { self.out(op.y, n * o) };
        let (x, w, b) = (self.get(op.x, n * i), self.get(op.w, o * i), self.get(op.b, o));
        scratch::borrow(gemm::packed_len(i, o), |room| {
            let w = gemm::pack(room, View::dense(w, o, i).t());
            products::product_bias(y, View::dense(x, n, i), w, b);
        });
    }
}

impl Run<LinearBwd> for Cpu {
    fn run(&mut self, op: &LinearBwd) {
        op.assert_disjoint();
        let (n, i, o) = (op.n, op.i, op.o);
        // SAFETY: disjoint by the assertion, each taken once.
        let (dx, dw, db) = unsafe { (self.grad(op.dx, n * i), self.grad(op.dw, o * i), self.grad(op.db, o)) };
        let (dy, x, w) = (self.get(op.dy, n * o), self.get(op.x, n * i), self.get(op.w, o * i));
        if let Some((dx, acc)) = dx {
            scratch::borrow(gemm::packed_len(o, i), |room| {
                let w = gemm::pack(room, View::dense(w, o, i));
                products::product(dx, View::dense(dy, n, o), w, 1.0, acc);
            });
        }
        if let Some((dw, acc)) = dw {
            products::product_t(dw, View::dense(dy, n, o), View::dense(x, n, i), acc);
        }
        reduce::sum_columns(db, dy, o);
    }
}
