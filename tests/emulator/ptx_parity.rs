//! The cases of `parity.rs` on the interpreter: the PTX that nvcc made of the kernels, as it is in the fatbins. Races
//! in shared memory are looked for. Hopper variants are compared with the PTX without them. Without nvcc at build time,
//! these tests say so and do nothing.

use std::sync::Once;

use mipgpu::{
    backend::{
        Target, interpreted,
        simt::{
            Simt,
            driver::{Emulation, ptx_is_built},
            kernels::PTX,
            ptx::interpreter::{Settings, configure, decode_all},
        },
    },
    base::Result,
    mem::{Planner, Precision},
    ops::{self, case::Case},
};

use crate::parity::{every_op, prove_variants_of, prove_with, sorts_many_tiles};

/// Opens the interpreter, which looks for races.
fn open(target: Target, precision: Precision, plan: &Planner) -> Result<Simt> {
    static SET: Once = Once::new();
    let simt = interpreted(target, precision, plan)?;
    SET.call_once(|| configure(Settings { races: true, ..Settings::default() }));
    Ok(simt)
}

/// Each order of warps and each time of copies once, next to the usual ones. The emulator tries all nine pairs.
fn timings() -> Vec<Emulation> {
    (1..3).map(|i| Emulation { order: i, copies: i, seed: 7 }).collect()
}

fn ampere(precision: Precision, plan: &Planner) -> Result<Simt> {
    open(Target::Compute80, precision, plan)
}

/// The Hopper variants.
fn hopper(precision: Precision, plan: &Planner) -> Result<Simt> {
    let mut simt = open(Target::Compute90a, precision, plan)?;
    simt.set_wgmma(true);
    Ok(simt)
}

/// Returns whether there is PTX, and says so if not.
pub fn there_is_ptx() -> bool {
    if !ptx_is_built() {
        eprintln!("skipped: this build has no PTX (no nvcc, or no cuobjdump next to it)");
    }
    ptx_is_built()
}

fn prove(cases: Vec<Case>) {
    if there_is_ptx() {
        prove_with(cases, &timings(), &ampere);
    }
}

macro_rules! on_ptx {
    ($($test:ident: $cases:expr;)*) => {
        $(#[test] fn $test() { prove($cases); })*
    };
}

every_op!(on_ptx);

fn prove_variants(cases: impl Fn() -> Vec<Case>) {
    if there_is_ptx() {
        prove_variants_of(cases, &timings(), &hopper, &|plan| ampere(Precision::Bf16, plan));
    }
}

#[test]
fn cross_entropy_by_wgmma() {
    prove_variants(ops::cross_entropy::cases);
}

#[test]
fn sampled_softmax_by_wgmma() {
    prove_variants(ops::sampled_softmax::cases);
}

#[test]
fn a_sort_of_more_tiles_than_a_block_has_threads() {
    if there_is_ptx() {
        sorts_many_tiles(&|plan| ampere(Precision::F32, plan));
    }
}

/// Nothing in the PTX of any kernel is unknown to the interpreter.
#[test]
fn every_kernel_of_both_targets_is_decoded() {
    let mut kernels = 0;
    for (name, target, path) in PTX {
        let text = std::fs::read_to_string(path).unwrap();
        let (here, instructions) = decode_all(text.trim_end_matches('\0')).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(here > 0 && instructions > 0, "{name}.cu has no kernels for {target}");
        kernels += here;
    }
    assert!(!there_is_ptx() || kernels == 2 * mipgpu::backend::simt::kernels::KERNELS.len(), "{kernels} kernels");
}
