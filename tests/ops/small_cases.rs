//! Runs a small case of every op, forward and backward, in plain loops and on the CPU: fast enough for Miri
//! (`scripts/miri.sh`), which checks every access.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use mipgpu::{
    backend::{Cpu, Reference},
    base::Result,
    mem::{Planner, Precision},
    ops::{Backend, case::Case, families, names, prove},
};

use crate::proofs::boxed;

/// A way to open a backend.
type Open<'a> = &'a dyn Fn(&Planner) -> Result<Box<dyn Backend>>;

/// Runs one case of every op on each backend: the case with the memory nearest to 400 numbers.
///
/// A case of a single row and column reads little that could be out of bounds.
fn play(opens: &[Open<'_>]) {
    let mut ops = BTreeSet::new();
    // One family at a time: Miri slows down with the memory in use.
    for (family, cases) in families() {
        let start = Instant::now();
        let mut small: BTreeMap<&str, Case> = BTreeMap::new();
        for case in cases() {
            // The name of a case begins with that of its op. Its misuses name the op too, but take Miri long.
            let named = |op: &&&str| case.name.strip_prefix(**op).is_some_and(|rest| rest.starts_with(' '));
            let Some(op) = names().iter().filter(named).max_by_key(|op| op.len()) else { continue };
            // Nothing is computed for no sequences.
            if case.name.contains("lengths[]") {
                continue;
            }
            let rank = |case: &Case| case.elements().abs_diff(400);
            if small.get(op).is_none_or(|old| rank(&case) < rank(old)) {
                small.insert(op, case);
            }
        }
        eprintln!("{family}: made in {:.1?}", start.elapsed());
        for (open, case) in opens.iter().flat_map(|open| small.values().map(move |case| (open, case))) {
            let start = Instant::now();
            prove::play(case, *open).unwrap_or_else(|e| panic!("{}: {e}", case.name));
            eprintln!("  {}: {} numbers, {:.1?}", case.name, case.elements(), start.elapsed());
        }
        ops.extend(small.into_keys());
    }
    assert!(ops.len() > 40, "{} ops have a case", ops.len());
}

#[test]
fn the_reference_runs_them() {
    play(&[&|plan| boxed(Reference::<f32>::new(plan))]);
}

#[test]
fn the_cpu_runs_them() {
    play(&[&|plan| boxed(Cpu::with(plan, Precision::F32)), &|plan| boxed(Cpu::with(plan, Precision::Bf16))]);
}
