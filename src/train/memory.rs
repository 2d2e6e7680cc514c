//! Memory use of a run.

use crate::mem::{Arena, Planner, Precision};

/// Bytes by purpose: of the device's own memory if it has some, otherwise of the machine's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryPlan {
    pub weights: u64,
    pub gradients: u64,
    /// Both moments of AdamW.
    pub moments: u64,
    /// Activations, their gradients and statistics, for the largest batch.
    pub activations: u64,
    /// Ids of one batch.
    pub batch: u64,
    /// Partial sums.
    pub workspace: u64,
    /// Interactions of all users on the device; `None` if they stay in files and are sent batch by batch.
    pub data: Option<u64>,
}

impl MemoryPlan {
    /// The memory of all arenas of a plan. Scratch memory and data are added by the backend.
    pub(super) fn of(plan: &Planner, precision: Precision) -> MemoryPlan {
        use Arena::*;
        let act = if precision == Precision::Bf16 { 2 } else { 4 };
        let bytes = |arenas: &[Arena]| arenas.iter().map(|a| plan.len(*a) as u64 * 4).sum();
        let shadow = if precision == Precision::Bf16 { plan.len(Param) as u64 * 2 } else { 0 };
        MemoryPlan {
            weights: bytes(&[Param]) + shadow,
            gradients: bytes(&[Grad]),
            moments: bytes(&[Moment1, Moment2]),
            activations: plan.len(Act) as u64 * act + bytes(&[Stat]),
            batch: bytes(&[Index]),
            workspace: 0,
            data: None,
        }
    }

    pub fn total(&self) -> u64 {
        let MemoryPlan { weights, gradients, moments, activations, batch, workspace, data } = self;
        weights + gradients + moments + activations + batch + workspace + data.unwrap_or(0)
    }
}
