//! Launchers of `kernels/point_loss.cu`: one thread per number.

use super::{Simt, kernels::*};
use crate::ops::{PointLossBwd, PointLossFwd, Run, Valid, point_loss::PointKind};

/// The kernel's number of a loss.
fn kind(kind: PointKind) -> i32 {
    match kind {
        PointKind::Squared => 0,
        PointKind::Logistic => 1,
    }
}

fn grid(m: usize) -> [usize; 3] {
    [m.div_ceil(256), 1, 1]
}

impl Run<PointLossFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, PointLossFwd>) {
        let params = PointLossFwdParams {
            loss: self.at(op.loss),
            z: self.at(op.z),
            target: self.at(op.target),
            m: op.m as i64,
            kind: kind(op.kind),
        };
        self.launch(Kernel::PointLossFwd, grid(op.m), 0, params);
    }
}

impl Run<PointLossBwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, PointLossBwd>) {
        let (dz, add) = self.grad(op.dz);
        if dz == 0 {
            return;
        }
        let params = PointLossBwdParams {
            dz,
            dloss: self.at(op.dloss),
            z: self.at(op.z),
            target: self.at(op.target),
            m: op.m as i64,
            kind: kind(op.kind),
            add,
        };
        self.launch(Kernel::PointLossBwd, grid(op.m), 0, params);
    }
}
