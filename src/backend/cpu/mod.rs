/*! The CPU backend: rayon over rows, SIMD inside, results that do not depend on the number of threads. */

pub mod gemm;
pub mod math;
pub mod scratch;
pub mod simd;

pub struct Cpu;
