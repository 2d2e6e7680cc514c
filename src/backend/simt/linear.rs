//! Dense layers: three products, and the column sums of the bias gradient (`kernels/bias.cu`).

use super::{
    Simt,
    gemm::{Product, Shape},
    reduce,
};
use crate::ops::{LinearBwd, LinearFwd, Op, Run};

impl Run<LinearFwd> for Simt {
    fn run(&mut self, op: &LinearFwd) {
        op.assert_disjoint();
        self.multiply(&Product {
            shape: Shape::Nt,
            c: self.at(op.y),
            a: self.at(op.x),
            b: self.weight(op.w),
            bias: self.weight(op.b),
            m: op.n,
            n: op.o,
            k: op.i,
            add: false,
            f32_out: false,
        });
    }
}

impl Run<LinearBwd> for Simt {
    fn run(&mut self, op: &LinearBwd) {
        op.assert_disjoint();
        let (n, i, o) = (op.n, op.i, op.o);
        let dy = self.at(op.dy);
        let (dx, add) = self.grad(op.dx);
        if dx != 0 {
            let b = self.weight(op.w);
            let add = add != 0;
            self.multiply(&Product {
                shape: Shape::Nn,
                c: dx,
                a: dy,
                b,
                bias: 0,
                m: n,
                n: i,
                k: o,
                add,
                f32_out: false,
            });
        }
        let (dw, add) = self.grad(op.dw);
        if dw != 0 {
            let (b, add) = (self.at(op.x), add != 0);
            self.multiply(&Product {
                shape: Shape::Tn,
                c: dw,
                a: dy,
                b,
                bias: 0,
                m: o,
                n: i,
                k: n,
                add,
                f32_out: true,
            });
        }
        let (db, add) = self.grad(op.db);
        if db != 0 {
            reduce::sum_columns(self, db, dy, n, o, add);
        }
    }

    fn need(&self, op: &LinearBwd) -> Result<usize, String> {
        Ok(reduce::sum_columns_scratch(op.n, op.o))
    }
}
