/*! Backends: the engines that run operations. [`reference`] is the oracle (plain loops, f64 or f32). [`cpu`] is the
fast one for machines without a GPU. [`simt`] runs the CUDA kernels on a GPU or on their emulator. Backends know neither
layers, models nor data, nor each other. Only this file knows them all.
*/

pub mod cpu;
mod host_gemm;
pub mod inventory;
pub mod nvtx;
pub mod reference;
pub mod simt;
mod timed;
pub mod wrap;

pub use cpu::Cpu;
pub use host_gemm::HostGemm;
pub use reference::Reference;
pub use simt::Simt;

use std::{fmt, str::FromStr};

pub use crate::mem::Precision;
use crate::{
    base::{Error, Result},
    mem::Planner,
    ops::Backend,
};
use simt::{
    cublas,
    driver::{self, Driver},
    gemm::{Gemm, Own},
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
    /// Plain loops in f32, for comparison: slow.
    Reference,
}

impl FromStr for Device {
    type Err = String;
    fn from_str(s: &str) -> std::result::Result<Self, String> {
        Ok(match s {
            "auto" => Device::Auto,
            "cpu" => Device::Cpu,
            "cuda" => Device::Cuda(0),
            "emu" => Device::Emulator,
            "reference" => Device::Reference,
            _ => match s.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(n)) => Device::Cuda(n),
                _ => return Err("valid devices are auto, cpu, cuda, cuda:N (N = 0, 1, ..), emu and reference".into()),
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
            Device::Reference => f.write_str("reference"),
        }
    }
}

/// Returns the first GPU that the kernels run on, or the reason why there is none.
fn first_gpu() -> std::result::Result<usize, String> {
    if simt::kernels::FATBINS.is_empty() {
        return Err("this build has no CUDA kernels".into());
    }
    let machine = driver::machine(Driver::Cuda).map_err(|e| e.what)?;
    let mut why = "the driver sees no GPU".to_string();
    for card in &machine.cards {
        match driver::obstacle(Driver::Cuda, &machine, card) {
            None => return Ok(card.ordinal),
            Some(e) => why = e.what,
        }
    }
    Err(why)
}

/// Resolves `auto`: a GPU that the kernels run on, else the CPU. The text names the device and the reason.
pub fn choose(device: Device) -> (Device, String) {
    match device {
        Device::Auto => match first_gpu() {
            Ok(n) => (Device::Cuda(n), format!("cuda:{n} (auto)")),
            Err(why) => (Device::Cpu, format!("cpu (auto: {why})")),
        },
        Device::Reference => (device, "reference (plain loops: slow)".into()),
        Device::Emulator => (device, "emu (CUDA kernels on the processor: slow)".into()),
        other => (other, other.to_string()),
    }
}

/// Opens a device for a plan.
/// A GPU works in `precision`, the CPU multiplies in `precision`, the reference uses f32.
///
/// # Errors
/// The device cannot be used, or has too little memory.
pub fn open(device: Device, precision: Precision, plan: &Planner) -> Result<Box<dyn Backend>> {
    Ok(match choose(device).0 {
        Device::Cuda(n) => Box::new(Simt::open(Driver::Cuda, n, precision, plan, products)?),
        Device::Emulator => Box::new(emulated(precision, plan)?),
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

/// Opens the CUDA backend on the emulator.
///
/// # Errors
/// This program was built without the emulator.
pub fn emulated(precision: Precision, plan: &Planner) -> Result<Simt> {
    Simt::open(Driver::Emulator, 0, precision, plan, |_| Ok(Box::new(HostGemm::default())))
}

/// Returns the matrix-product engine of a GPU: cuBLASLt where it is found, else our own kernels.
/// MIPGPU_GEMM=own selects our own kernels, for sanitizers that must check every access of these kernels.
///
/// # Errors
/// cuBLASLt is installed but does not start.
pub fn products(device: &std::sync::Arc<driver::Loaded>) -> Result<Box<dyn Gemm>> {
    if std::env::var_os("MIPGPU_GEMM").is_some_and(|own| own == "own") {
        return Ok(Box::new(Own));
    }
    Ok(match cublas::open(device)? {
        Some(library) => Box::new(library),
        None => Box::new(Own),
    })
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
            Err(Error { room: Some(there), ..e })
        }
        _ => Ok(()),
    }
}
