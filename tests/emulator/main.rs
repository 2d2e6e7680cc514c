//! The CUDA kernels on the emulator, and the emulator itself. Needs a C++ compiler (g++).

mod machine;
mod parity;
mod planted_faults;
