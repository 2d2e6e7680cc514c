//! (being built)
pub struct Cpu;
