//! The CUDA kernels on the emulator, and the emulator itself. These tests need a C++ compiler (g++).

mod machine;
mod parity;
mod planted_faults;
