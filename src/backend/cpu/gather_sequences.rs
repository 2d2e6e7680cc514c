//! Sequences packed one after another: plain copies, a few KB each.

use super::Cpu;
use crate::ops::{GatherSequences, Op, Run};

impl Run<GatherSequences> for Cpu {
    fn run(&mut self, op: &GatherSequences) {
        op.assert_disjoint();
        op.reference(&self.arenas);
    }
}
