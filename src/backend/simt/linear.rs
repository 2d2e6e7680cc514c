//! Dense layers: three products, and the column sums of the bias gradient (`kernels/bias.cu`).

use super::{
    BLOCKS, Simt,
    gemm::{GemmLayout, Product},
    kernels::*,
};
use crate::ops::{LinearBwd, LinearFwd, Run, Valid};

/// Returns the number of parts of a column sum, a function of the sizes alone.
fn parts(n: usize, o: usize) -> usize {
    (BLOCKS / o.div_ceil(64)).clamp(1, n.div_ceil(256).max(1))
}

/// Returns the bytes of the partial rows, if any.
fn partial_bytes(n: usize, o: usize) -> usize {
    match parts(n, o) {
        1 => 0,
        parts => 4 * parts * o,
    }
}

impl Simt {
    /// Computes db (O) = or += column sums of dy (N,O) act.
    fn sum_columns(&mut self, db: Ptr, dy: Ptr, n: usize, o: usize, add: i32) {
        let parts = parts(n, o);
        let out = if parts == 1 { db } else { self.scratch(partial_bytes(n, o)) };
        let rows = n.div_ceil(parts) as i64;
        let first = if parts == 1 { add } else { 0 };
        let params = BiasBwdParams { out, dy, n: n as i64, rows, o: o as i32, add: first };
        self.launch(self.of(BIAS_BWD), [o.div_ceil(64), parts, 1], 0, params);
        if parts > 1 {
            let params = BiasFinishParams { db, partial: out, parts: parts as i32, o: o as i32, add };
            self.launch(Kernel::BiasBwdFinish, [o.div_ceil(32), 1, 1], 0, params);
        }
    }
}

impl Run<LinearFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, LinearFwd>) {
        self.multiply(&Product {
            shape: GemmLayout::Nt,
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
    fn execute(&mut self, op: &Valid<'_, LinearBwd>) {
        let (n, i, o) = (op.n, op.i, op.o);
        let dy = self.at(op.dy);
        let (dx, add) = self.grad(op.dx);
        if dx != 0 {
            let b = self.weight(op.w);
            let add = add != 0;
            self.multiply(&Product {
                shape: GemmLayout::Nn,
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
                shape: GemmLayout::Tn,
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
            self.sum_columns(db, dy, n, o, add);
        }
    }

    fn need(&self, op: &LinearBwd) -> Result<usize, String> {
        Ok(partial_bytes(op.n, op.o))
    }
}
