//! The Rust side of the kernels: the declarations that build.rs reads from `kernels/*.cu`, and the compiled code that
//! it embeds.

/// An address in device memory; 0 is null.
pub type Ptr = u64;

/// A parameter struct that build.rs generated from a kernel source. Kernels accept no other type.
pub trait Sealed: Copy {}

/// The properties of a kernel, read from its source.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// Name in the binary.
    pub symbol: &'static str,
    /// Index into [`FILES`].
    pub file: usize,
    /// Threads per block.
    pub threads: u32,
    /// Bytes of its parameter struct.
    pub params: usize,
}

/// The two element types of one kernel, and its bf16 variant for Hopper's wgmma, where it has one.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub bf16: Kernel,
    pub f32: Kernel,
    pub wgmma: Option<Kernel>,
}

impl Kernel {
    pub fn info(self) -> &'static Info {
        &KERNELS[self as usize]
    }
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));
