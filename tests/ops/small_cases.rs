//! Runs a small case of every op, forward and backward, in plain loops and on the CPU: fast enough for Miri
//! (`scripts/miri.sh`), which checks every access.

use std::collections::BTreeMap;

use mipgpu::{
    backend::{Cpu, Reference},
    base::Result,
    mem::{Planner, Precision},
    ops::{Backend, all_cases, case::AnyCase},
};

/// Runs one case of every op on `open`'s backend: the one with a memory size nearest to 400 numbers.
fn play<B: Backend + 'static>(open: &dyn Fn(&Planner) -> Result<B>) {
    let mut small: BTreeMap<&str, Box<dyn AnyCase<B>>> = BTreeMap::new();
    for case in all_cases::<B>() {
        let Some(op) = case.misuses().iter().map(|tried| tried.op).next() else { continue };
        // With a single row and column, few out-of-bounds reads are possible.
        let rank = |case: &dyn AnyCase<B>| case.elements().abs_diff(400);
        if small.get(op).is_none_or(|old| rank(&*case) < rank(&**old)) {
            small.insert(op, case);
        }
    }
    assert!(small.len() > 40, "{} ops have a case", small.len());
    for case in small.values() {
        case.play(open).unwrap_or_else(|e| panic!("{}: {e}", case.name()));
    }
}

#[test]
fn the_reference_runs_them() {
    play(&|plan| Ok(Reference::<f32>::new(plan)));
}

#[test]
fn the_cpu_runs_them() {
    for products in [Precision::F32, Precision::Bf16] {
        play(&|plan| Ok(Cpu::with(plan, products)));
    }
}
