//! Launcher of `kernels/gather_sequences.cu`: one block per sequence.

use super::{Simt, kernels::*};
use crate::ops::{GatherSequences, Run, Valid};

impl Run<GatherSequences> for Simt {
    fn execute(&mut self, op: &Valid<'_, GatherSequences>) {
        let params = GatherSequencesParams {
            raw: self.at(op.raw),
            data: self.at(op.data),
            first: self.at(op.first),
            cu: self.at(op.cu),
        };
        self.launch(Kernel::GatherSequences, [op.b, 1, 1], 0, params);
    }
}
