//! Lists what this program can run on, for `mipgpu devices`.

pub use super::cards::{Card, Gpu, Gpus};

use super::{Device, cpu::simd::Isa, cuda};
use crate::base::Result;

/// The hardware and code available to this program.
#[derive(Debug)]
pub struct Inventory {
    pub cpu: Processor,
    /// Description of the CUDA code in this program.
    pub kernels: String,
    /// The driver's GPUs, or the reason why there are none.
    pub gpus: Result<Gpus>,
    /// Whether `--device emu` works.
    pub emulator: bool,
    /// Whether `--device ptx` works.
    pub ptx: bool,
}

#[derive(Debug)]
pub struct Processor {
    pub name: String,
    pub threads: usize,
    /// The instruction set that the CPU engine uses.
    pub instructions: &'static str,
}

/// Returns the processor of this machine.
pub fn processor() -> Processor {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ")).map_or("unknown", |n| n.1);
    Processor {
        name: name.to_string(),
        threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
        instructions: Isa::current().name(),
    }
}

/// Returns the load averages of this machine over 1, 5 and 15 minutes, or `None` where the system does not report them.
pub fn load() -> Option<[f64; 3]> {
    let told = std::fs::read_to_string("/proc/loadavg").ok()?;
    let mut numbers = told.split_whitespace().map_while(|n| n.parse().ok());
    Some([numbers.next()?, numbers.next()?, numbers.next()?])
}

/// Returns the name of a GPU, or `None` for other devices and missing GPUs.
pub fn card(device: Device) -> Option<String> {
    let Device::Cuda(n) = device else { return None };
    cuda::card_name(n)
}

/// Inspects the machine. Opens usable GPUs briefly.
pub fn inventory() -> Inventory {
    Inventory {
        cpu: processor(),
        kernels: cuda::kernels(),
        gpus: cuda::gpus(),
        emulator: cuda::emulator_is_built(),
        ptx: cuda::ptx_is_built(),
    }
}
