//! The CUDA kernels on the emulator and on the PTX interpreter, and both themselves. These tests need a C++ compiler
//! (g++), and those of PTX also nvcc.

#![allow(clippy::print_stderr)]

#[allow(dead_code, reason = "shared with other test binaries")]
#[path = "../proofs/mod.rs"]
mod proofs;

mod machine;
mod parity;
mod planted_faults;
mod ptx_faults;
mod ptx_parity;
