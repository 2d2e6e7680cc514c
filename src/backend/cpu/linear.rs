//! Dense layers as packed matrix products.

use super::{
    Cpu, Work,
    gemm::{self, Terms, View},
    in_precision, products, reduce, scratch,
};
use crate::ops::{LinearBwd, LinearFwd, Run, Valid};

impl Run<LinearFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, LinearFwd>) {
        let mem = self.lend(op);
        in_precision!(mem, forward(&mem, op))
    }
}

fn forward<T: Terms>(mem: &Work<'_>, op: &LinearFwd) {
    let (n, i, o) = (op.n, op.i, op.o);
    let y = mem.out(op.y, n * o);
    let (x, w, b) = (mem.get(op.x, n * i), mem.get(op.w, o * i), mem.get(op.b, o));
    scratch::borrow(gemm::packed_len(i, o), |room| {
        let w = gemm::pack::<T>(room, View::dense(w, o, i).t());
        products::product_bias(y, View::dense(x, n, i), w, b);
    });
}

impl Run<LinearBwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, LinearBwd>) {
        let mem = self.lend(op);
        in_precision!(mem, backward(&mem, op))
    }
}

fn backward<T: Terms>(mem: &Work<'_>, op: &LinearBwd) {
    let (n, i, o) = (op.n, op.i, op.o);
    let (dx, dw, db) = (mem.grad(op.dx, n * i), mem.grad(op.dw, o * i), mem.grad(op.db, o));
    let (dy, x, w) = (mem.get(op.dy, n * o), mem.get(op.x, n * i), mem.get(op.w, o * i));
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
