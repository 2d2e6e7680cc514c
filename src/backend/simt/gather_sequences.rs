//! Launcher of `kernels/gather_sequences.cu`: a block a sequence.

use super::{Simt, kernels::*};
use crate::ops::{GatherSequences, Op, Run};

impl Run<GatherSequences> for Simt {
    fn run(&mut self, op: &GatherSequences) {
        op.assert_disjoint();
        let params = GatherSequencesParams {
            raw: self.at(op.raw),
            data: self.at(op.data),
            first: self.at(op.first),
            cu: self.at(op.cu),
        };
        self.launch(Kernel::GatherSequences, [op.b, 1, 1], 0, params);
    }
}
