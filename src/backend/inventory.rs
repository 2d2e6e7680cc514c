//! Lists what this program can run on, for `mipgpu devices`.

use super::{
    Device,
    cpu::simd::Isa,
    products,
    simt::{
        driver::{self, Card, Driver, Machine},
        kernels::{ARCHITECTURES, FATBINS, NVCC_VERSION},
    },
};
use crate::base::{Error, Result};

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
}

#[derive(Debug)]
pub struct Processor {
    pub name: String,
    pub threads: usize,
    /// The instruction set that the CPU engine uses.
    pub instructions: String,
}

#[derive(Debug)]
pub struct Gpus {
    /// CUDA version of the driver.
    pub driver: (i32, i32),
    pub cards: Vec<Gpu>,
}

#[derive(Debug)]
pub struct Gpu {
    pub card: Card,
    /// Description of the code that would run on it, or the reason why none can.
    pub usable: Result<String>,
}

/// Returns the processor of this machine.
pub fn processor() -> Processor {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ")).map_or("unknown", |n| n.1);
    Processor {
        name: name.to_string(),
        threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
        instructions: format!("{:?}", Isa::current()),
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
    driver::machine(Driver::Cuda).ok()?.cards.get(n).map(|card| card.name.clone())
}

/// Inspects the machine. Opens usable GPUs briefly.
pub fn inventory() -> Inventory {
    let cpu = processor();
    let kernels = match FATBINS.len() {
        0 => format!("none: built without the CUDA kernels, no nvcc was found; {}", driver::WITH_KERNELS),
        n => {
            let sass: Vec<String> = ARCHITECTURES.iter().map(|a| format!("sm_{a}")).collect();
            let (major, minor) = NVCC_VERSION;
            format!("{n} files compiled by nvcc {major}.{minor} for {}, PTX for newer", sass.join(" "))
        }
    };
    let gpus = driver::machine(Driver::Cuda).map(|machine| Gpus {
        driver: machine.driver,
        cards: machine.cards.iter().map(|card| look_at(&machine, card)).collect(),
    });
    Inventory { cpu, kernels, gpus, emulator: driver::emulator_is_built() }
}

fn look_at(machine: &Machine, card: &Card) -> Gpu {
    let mut card = card.clone();
    let opened = || -> Result<(String, usize)> {
        if let Some(obstacle) = driver::obstacle(Driver::Cuda, machine, &card) {
            return Err(obstacle);
        }
        let device = driver::open(Driver::Cuda, card.ordinal)?;
        let gemm = products(&device)?;
        Ok((format!("kernels {}, products by {}", code_for(card.capability), gemm.name()), device.card.free_bytes))
    };
    let usable = match opened() {
        Ok((words, free)) => {
            card.free_bytes = free;
            Ok(words)
        }
        Err(e) => Err::<String, Error>(e),
    };
    Gpu { card, usable }
}

/// Returns the compiled code that a device of this compute capability runs.
/// This is machine code of its major version up to its minor version (a suffix `a` requires an exact match), else PTX.
fn code_for((major, minor): (i32, i32)) -> String {
    let fits = |name: &&&str| {
        let exact = name.ends_with('a');
        let number: i32 = name.trim_end_matches('a').parse().unwrap_or(0);
        number / 10 == major && if exact { number % 10 == minor } else { number % 10 <= minor }
    };
    match ARCHITECTURES.iter().rfind(fits) {
        Some(name) => format!("sm_{name}"),
        None => format!("PTX of compute_{}, compiled by the driver at the first start", ARCHITECTURES[0]),
    }
}
