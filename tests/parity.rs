//! Every backend against the f64 reference: error budgets, guard elements, write / accumulate / skip, same bits twice.

use mipgpu::{
    backend::{Cpu, Reference, cpu::simd::Isa},
    ops::all_cases,
};

#[test]
fn the_harness_accepts_the_naive_loops() {
    for case in all_cases::<Reference<f32>>() {
        case.parity(&|plan| Reference::new(plan)).unwrap();
    }
}

#[test]
fn the_cpu_backend_agrees_with_the_reference() {
    for case in all_cases::<Cpu>() {
        case.parity(&|plan| Cpu::new(plan)).unwrap();
    }
    println!("proved on {:?}", Isa::current());
}

/// The instruction set is chosen once a process, so each other one is proved in a process of its own.
#[test]
fn so_does_every_instruction_set_of_this_processor() {
    for isa in Isa::available().filter(|isa| *isa != Isa::current()) {
        let test = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_cpu_backend_agrees_with_the_reference", "--nocapture"])
            .env("MIPGPU_ISA", format!("{isa:?}").to_lowercase())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&test.stdout);
        assert!(test.status.success() && said.contains(&format!("proved on {isa:?}")), "{isa:?}: {said}");
    }
}
