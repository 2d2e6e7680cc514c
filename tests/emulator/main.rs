//! The CUDA kernels on the emulator, and the emulator itself. These tests need a C++ compiler (g++).

#[allow(dead_code, reason = "shared with other test binaries")]
#[path = "../proofs/mod.rs"]
mod proofs;

mod machine;
mod parity;
mod planted_faults;
mod ptx_faults;
mod ptx_parity;
