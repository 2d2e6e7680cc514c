//! Stands in for `cuda.rs` in builds without the feature `cuda`: there is no GPU and no emulator, and errors say why.

use super::{Device, cards::Gpus};
use crate::{
    base::{Error, Result},
    mem::{Planner, Precision},
    ops::Backend,
};

const WHAT: &str = "this build has no CUDA backend";
const HINT: &str = "build with the feature `cuda`";

pub fn first_gpu() -> std::result::Result<usize, String> {
    Err(WHAT.into())
}

pub fn open(device: Device, _: Precision, _: &Planner) -> Result<Box<dyn Backend>> {
    Err(Error::user(format!("--device {device}: {WHAT}")).hint(HINT))
}

pub fn card_name(_: usize) -> Option<String> {
    None
}

pub fn kernels() -> String {
    format!("none: {WHAT}; {HINT}")
}

pub fn gpus() -> Result<Gpus> {
    Err(Error::user(WHAT).hint(HINT))
}

pub fn emulator_is_built() -> bool {
    false
}

pub fn ptx_is_built() -> bool {
    false
}

/// Ranges for NVIDIA's profilers, which have nothing to show here.
pub mod nvtx {
    pub fn library() -> Option<&'static str> {
        None
    }

    pub fn push(_: &str) {}

    pub fn pop() {}
}
