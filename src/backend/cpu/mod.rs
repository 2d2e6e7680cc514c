//! (being built)
pub type Cpu = super::Reference<f32>;
