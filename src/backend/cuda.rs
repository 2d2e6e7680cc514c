//! What `mod.rs` and `inventory.rs` know of the CUDA backend: how to find, open and describe its devices.

use super::{
    Device, HostGemm, Simt, Target,
    cards::{Card, Gpu, Gpus},
    simt::{
        cublas,
        driver::{self, Driver, Machine},
        gemm::{Gemm, Own},
        kernels::{ARCHITECTURES, FATBINS, NVCC_VERSION},
    },
};
use crate::{
    base::{Error, Result},
    mem::{Planner, Precision},
    ops::Backend,
};

pub use super::simt::driver::{emulator_is_built, ptx_is_built};

/// Returns the first GPU that the kernels run on, or the reason why there is none.
pub fn first_gpu() -> std::result::Result<usize, String> {
    if FATBINS.is_empty() {
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

/// Opens a GPU, the emulator, or the interpreter of PTX.
///
/// # Errors
/// The device cannot be used, or has too little memory.
pub fn open(device: Device, precision: Precision, plan: &Planner) -> Result<Box<dyn Backend>> {
    Ok(match device {
        Device::Cuda(n) => Box::new(Simt::open(Driver::Cuda, n, precision, plan, products)?),
        Device::Ptx(target) => Box::new(interpreted(target, precision, plan)?),
        _ => Box::new(emulated(precision, plan)?),
    })
}

/// Opens the CUDA backend on the emulator.
///
/// # Errors
/// This program was built without the emulator.
pub fn emulated(precision: Precision, plan: &Planner) -> Result<Simt> {
    Simt::open(Driver::Emulator, 0, precision, plan, |_| Ok(Box::new(HostGemm::default())))
}

/// Opens the CUDA backend on the interpreter of PTX. Matrix products are our own kernels, so that all work is PTX.
///
/// # Errors
/// This program was built without the interpreter or without nvcc.
pub fn interpreted(target: Target, precision: Precision, plan: &Planner) -> Result<Simt> {
    Simt::open(Driver::Ptx(target), 0, precision, plan, |_| Ok(Box::new(Own)))
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

/// Returns the name of a GPU, or `None` if it is missing.
pub fn card_name(ordinal: usize) -> Option<String> {
    driver::machine(Driver::Cuda).ok()?.cards.get(ordinal).map(|card| card.name.clone())
}

/// Describes the compiled kernels of this program.
pub fn kernels() -> String {
    match FATBINS.len() {
        0 => format!("none: built without the CUDA kernels, no nvcc was found; {}", driver::WITH_KERNELS),
        n => {
            let sass: Vec<String> = ARCHITECTURES.iter().map(|a| format!("sm_{a}")).collect();
            let (major, minor) = NVCC_VERSION;
            format!("{n} files compiled by nvcc {major}.{minor} for {}, PTX for newer", sass.join(" "))
        }
    }
}

/// Inspects the driver's GPUs. Opens usable ones briefly.
///
/// # Errors
/// There is no driver, or it does not start.
pub fn gpus() -> Result<Gpus> {
    driver::machine(Driver::Cuda).map(|machine| Gpus {
        driver: machine.driver,
        cards: machine.cards.iter().map(|card| look_at(&machine, card)).collect(),
    })
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
