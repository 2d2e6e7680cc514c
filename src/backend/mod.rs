/*! Backends: the engines that run operations. [`mod@reference`] runs plain loops (f64 or f32), with which the others are
compared. [`cpu`] is the fast one for machines without a GPU. [`simt`] runs the CUDA kernels on a GPU or on their
emulator. Backends know neither layers, models nor data, nor each other. Only this file knows them all; what it knows of
[`simt`] is in `cuda.rs`, and `no_cuda.rs` stands in for that in builds without the feature `cuda`.
*/

mod cards;
pub mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "no_cuda.rs"]
mod cuda;
#[cfg(feature = "cuda")]
mod host_gemm;
pub mod inventory;
#[cfg(feature = "cuda")]
pub mod nvtx;
pub mod reference;
#[cfg(feature = "cuda")]
pub mod simt;
mod timed;
pub mod wrap;

pub use cpu::Cpu;
#[cfg(not(feature = "cuda"))]
pub use cuda::nvtx;
#[cfg(feature = "cuda")]
pub use cuda::{emulated, interpreted, products};
#[cfg(feature = "cuda")]
pub use host_gemm::HostGemm;
pub use reference::Reference;
#[cfg(feature = "cuda")]
pub use simt::Simt;

use std::{fmt, str::FromStr};

pub use crate::mem::Precision;
use crate::{
    base::{Error, Result},
    mem::Planner,
    ops::Backend,
};

/// The device to run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The fastest available device; [`choose`] returns it and the reason.
    #[default]
    Auto,
    /// All cores of this machine.
    Cpu,
    /// An NVIDIA GPU by its number.
    Cuda(usize),
    /// The CUDA kernels on the processor, for tests: slow.
    Emulator,
    /// The PTX of the CUDA kernels on the processor, for tests: slow.
    Ptx(Target),
    /// Plain loops in f32, for comparison: slow.
    Reference,
}

/// An architecture of the PTX that the program holds and interprets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Target {
    /// The PTX for Ampere and newer GPUs.
    #[default]
    Compute80,
    /// That of the Hopper variants.
    Compute90a,
}

impl Target {
    /// Returns the number in the names of nvcc: `80` of `compute_80`.
    pub fn number(self) -> &'static str {
        match self {
            Target::Compute80 => "80",
            Target::Compute90a => "90a",
        }
    }

    /// Returns the name that `--device` accepts.
    pub fn device(self) -> &'static str {
        match self {
            Target::Compute80 => "ptx",
            Target::Compute90a => "ptx90a",
        }
    }
}

impl FromStr for Device {
    type Err = String;
    fn from_str(s: &str) -> std::result::Result<Self, String> {
        Ok(match s {
            "auto" => Device::Auto,
            "cpu" => Device::Cpu,
            "cuda" => Device::Cuda(0),
            "emu" => Device::Emulator,
            "ptx" => Device::Ptx(Target::Compute80),
            "ptx90a" => Device::Ptx(Target::Compute90a),
            "reference" => Device::Reference,
            _ => match s.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(n)) => Device::Cuda(n),
                _ => {
                    let valid = "auto, cpu, cuda, cuda:N (N = 0, 1, ..), emu, ptx, ptx90a and reference";
                    return Err(format!("valid devices are {valid}"));
                }
            },
        })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(n) => write!(f, "cuda:{n}"),
            Device::Emulator => f.write_str("emu"),
            Device::Ptx(target) => f.write_str(target.device()),
            Device::Reference => f.write_str("reference"),
        }
    }
}

/// Resolves `auto`: a GPU that the kernels run on, else the CPU. The text names the device and the reason.
pub fn choose(device: Device) -> (Device, String) {
    match device {
        Device::Auto => match cuda::first_gpu() {
            Ok(n) => (Device::Cuda(n), format!("cuda:{n} (auto)")),
            Err(why) => (Device::Cpu, format!("cpu (auto: {why})")),
        },
        Device::Reference => (device, "reference (plain loops: slow)".into()),
        Device::Emulator => (device, "emu (CUDA kernels on the processor: slow)".into()),
        Device::Ptx(target) => {
            (device, format!("{} (PTX of the CUDA kernels on the processor: slow)", target.device()))
        }
        other => (other, other.to_string()),
    }
}

/// Opens a device for a plan.
/// A GPU works in `precision`, the CPU multiplies in `precision`, the reference uses f32.
///
/// # Errors
/// The device cannot be used, or has too little memory.
pub fn open(device: Device, precision: Precision, plan: &Planner) -> Result<Box<dyn Backend>> {
    let device = choose(device).0;
    Ok(match device {
        Device::Cuda(_) | Device::Emulator | Device::Ptx(_) => cuda::open(device, precision, plan)?,
        Device::Reference => Box::new(fits_host(plan).map(|()| Reference::<f32>::new(plan))?),
        Device::Cpu | Device::Auto => Box::new(fits_host(plan).map(|()| Cpu::with(plan, precision))?),
    })
}

/// Opens `device` briefly to check that it works.
///
/// # Errors
/// `device` cannot be used; the error gives the reason.
pub fn probe(device: Device, precision: Precision) -> Result<()> {
    open(device, precision, &Planner::new()).map(|_| ())
}

/// Returns memory and swap of this machine in bytes, where the system reports them.
fn machine_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kb = |name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Some((kb("MemTotal:")? + kb("SwapTotal:").unwrap_or(0)) << 10)
}

/// Checks that the machine has the memory for a plan in f32.
///
/// # Errors
/// It has less memory than the plan needs.
pub fn fits_host(plan: &Planner) -> Result<()> {
    let needed = plan.bytes() as u64;
    match machine_bytes() {
        Some(there) if needed > there => {
            let gb = |bytes: u64| bytes.div_ceil(1 << 30);
            let what = format!("these settings need {} GB of memory, this machine has {}", gb(needed), gb(there));
            let e = Error::user(what).hint("lower --batch, --length, --width, --blocks or --negatives");
            Err(Error { available_bytes: Some(there), ..e })
        }
        _ => Ok(()),
    }
}
