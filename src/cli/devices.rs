//! `mipgpu devices`: lists the devices of the machine and what is missing to use them.

use crate::{
    backend::{
        self, Device,
        inventory::{Inventory, inventory},
    },
    base::Result,
    cli::printer::Printer,
};

/// Lists the processor, the GPUs and the features that this program was built with. For a device that cannot be used,
/// it prints the reason and a fix.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {}

pub fn run(_: Args, printer: Printer) -> Result<()> {
    let s = inventory();
    if printer.json {
        printer.event(&json(&s));
        return Ok(());
    }
    let gb = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
    printer.result(format_args!("cpu       {}, {} threads, {}", s.cpu.name, s.cpu.threads, s.cpu.instructions));
    printer.result(format_args!("kernels   {}", s.kernels));
    match &s.gpus {
        Err(e) => {
            printer.result(format_args!("cuda      not usable: {}", e.what));
            e.hint.iter().for_each(|h| printer.result(format_args!("          {h}")));
        }
        Ok(gpus) => {
            printer.result(format_args!("driver    CUDA {}.{}", gpus.driver.0, gpus.driver.1));
            for gpu in &gpus.cards {
                let ((major, minor), c) = (gpu.card.capability, &gpu.card);
                printer.result(format_args!(
                    "cuda:{:<4} {}, compute capability {major}.{minor}, {} multiprocessors, {} ({} free)",
                    c.ordinal,
                    c.name,
                    c.multiprocessors,
                    gb(c.memory_bytes as u64),
                    gb(c.free_bytes as u64),
                ));
                match &gpu.usable {
                    Ok(used) => printer.result(format_args!("          {used}")),
                    Err(e) => {
                        printer.result(format_args!("          not usable: {}", e.what));
                        e.hint.iter().for_each(|h| printer.result(format_args!("          {h}")));
                    }
                }
            }
            if gpus.cards.is_empty() {
                printer.result("          the driver finds no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES");
            }
        }
    }
    let emulator = if s.emulator {
        "built in (--device emu)"
    } else {
        "not built in: build a clone with --features emu and a C++ compiler"
    };
    printer.result(format_args!("emu       {emulator}"));
    let ptx = if s.ptx {
        "built in (--device ptx, ptx90a)"
    } else {
        "not built in: build a clone with --features emu, a C++ compiler and nvcc"
    };
    printer.result(format_args!("ptx       {ptx}"));
    printer.result(format_args!("auto      {}", backend::choose(Device::Auto).1));
    Ok(())
}

fn json(s: &Inventory) -> serde_json::Value {
    let error = |e: &crate::base::Error| serde_json::json!({ "error": e.what, "hint": e.hint });
    let cuda = match &s.gpus {
        Err(e) => error(e),
        Ok(gpus) => serde_json::json!({
            "driver": format!("{}.{}", gpus.driver.0, gpus.driver.1),
            "devices": gpus.cards.iter().map(|gpu| serde_json::json!({
                "device": Device::Cuda(gpu.card.ordinal).to_string(),
                "name": gpu.card.name,
                "compute_capability": format!("{}.{}", gpu.card.capability.0, gpu.card.capability.1),
                "multiprocessors": gpu.card.multiprocessors,
                "memory_bytes": gpu.card.memory_bytes,
                "free_bytes": gpu.card.free_bytes,
                "kernels": gpu.usable.as_ref().map_or_else(error, |used| serde_json::json!(used)),
            })).collect::<Vec<_>>(),
        }),
    };
    serde_json::json!({
        "cpu": { "name": s.cpu.name, "threads": s.cpu.threads, "instructions": s.cpu.instructions },
        "kernels": s.kernels,
        "cuda": cuda,
        "emulator": s.emulator,
        "ptx": s.ptx,
        "auto": backend::choose(Device::Auto).0.to_string(),
    })
}
