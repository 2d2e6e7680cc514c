//! Every backend against the f64 reference: error budgets, guard elements, write / accumulate / skip, same bits twice.

use mipgpu::{
    backend::{Cpu, Reference},
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
}
