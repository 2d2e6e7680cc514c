//! Compares the CUDA kernels on the emulator with the f64 reference, op by op, in both precisions. The bits are the
//! same in three thread orders times three timings of asynchronous copies. These tests need a C++ compiler (g++) at
//! build time. `MIPGPU_ONLY=NAME` runs the cases of some ops.

use std::{collections::BTreeSet, sync::Mutex};

use mipgpu::{
    backend::{
        emulated,
        simt::{
            Simt,
            driver::{Driver, Emulation, emulate},
            gemm::Own,
        },
    },
    base::Result,
    mem::{Planner, Precision},
    ops::{self, Memory, Run, case::Case},
};

use crate::proofs::{Failures, boxed, wanted};

/// The emulator's settings are global to the process: one op at a time.
pub static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn prove(cases: Vec<Case>) {
    prove_with(cases, &every_timing(), &emulated);
}

/// Every order of threads with every time of copies, but the usual ones.
fn every_timing() -> Vec<Emulation> {
    (1..9).map(|i| Emulation { order: i / 3, copies: i % 3, seed: 7 }).collect()
}

pub fn prove_with(cases: Vec<Case>, timings: &[Emulation], open: &dyn Fn(Precision, &Planner) -> Result<Simt>) {
    prove_in(&[Precision::F32, Precision::Bf16], cases, timings, open);
}

/// Compares cases with the reference, and the bits of other timings with those of the usual one.
pub fn prove_in(
    precisions: &[Precision],
    cases: Vec<Case>,
    timings: &[Emulation],
    open: &dyn Fn(Precision, &Planner) -> Result<Simt>,
) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let mut failures = Failures::default();
    for &precision in precisions {
        let open = |plan: &Planner| boxed(open(precision, plan)?);
        for case in chosen(&cases) {
            failures.of(&format!("{precision:?}"), || {
                emulate(Emulation::default()).unwrap();
                ops::prove::parity(case, &open)?;
                let said = |e: String| format!("case '{}': {e}", case.name);
                let usual = ops::prove::fingerprint(case, &open).map_err(said)?;
                for timing in timings {
                    let Emulation { order, copies, .. } = *timing;
                    emulate(*timing).unwrap();
                    if ops::prove::fingerprint(case, &open).map_err(said)? != usual {
                        return Err(said(format!(
                            "{} and {} leave other bits in order {order}, copies {copies}",
                            case.fwd.name(),
                            case.bwd.name()
                        )));
                    }
                }
                Ok(())
            });
        }
    }
    emulate(Emulation::default()).unwrap();
    failures.report();
}

/// The cases that `MIPGPU_ONLY` selects.
fn chosen(cases: &[Case]) -> impl Iterator<Item = &Case> {
    cases.iter().filter(|case| wanted(&[&case.name, case.fwd.name(), case.bwd.name()]))
}

fn names(cases: Vec<Case>) -> Vec<String> {
    cases.into_iter().map(|case| case.name).collect()
}

/// Calls a macro with the name of a test and the cases of each op: once for the emulator, once for the PTX.
macro_rules! every_op {
    ($then:ident) => {
        $then! {
            activation: mipgpu::ops::activation::cases();
            adamw: mipgpu::ops::adamw::cases();
            guard: mipgpu::ops::adamw::guard_cases();
            gather_sequences: mipgpu::ops::gather_sequences::cases();
            attention: mipgpu::ops::attention::cases();
            stream_copy: mipgpu::ops::ceilings::copy_cases();
            exp_chain: mipgpu::ops::ceilings::exp_cases();
            concat: mipgpu::ops::concat::cases();
            cross_entropy: mipgpu::ops::cross_entropy::cases();
            dilated_conv: mipgpu::ops::dilated_conv::cases();
            draw_negatives: mipgpu::ops::draw_negatives::cases();
            draw_candidates: mipgpu::ops::draw_negatives::candidate_cases();
            mark_own: mipgpu::ops::draw_negatives::own_cases();
            dropout: mipgpu::ops::dropout::cases();
            dropout_add: mipgpu::ops::dropout::add_cases();
            embedding: mipgpu::ops::embedding::cases();
            gather_table: mipgpu::ops::embedding::gather_cases();
            field_bag: mipgpu::ops::field_bag::cases();
            gelu: mipgpu::ops::gelu::cases();
            item_dot: mipgpu::ops::item_dot::cases();
            item_dot_gradients: mipgpu::ops::item_dot::gradient_cases();
            gru: mipgpu::ops::gru::cases();
            layer_norm: mipgpu::ops::layer_norm::cases();
            linear: mipgpu::ops::linear::cases();
            mask_items: mipgpu::ops::mask_items::cases();
            negative_loss: mipgpu::ops::negative_loss::cases();
            next_items: mipgpu::ops::next_items::cases();
            point_loss: mipgpu::ops::point_loss::cases();
            weighted_mean: mipgpu::ops::reduce::mean_cases();
            grad_norm: mipgpu::ops::reduce::norm_cases();
            rank: mipgpu::ops::rank::cases();
            catch_up_rows: mipgpu::ops::row_adamw::catch_up_cases();
            adamw_rows: mipgpu::ops::row_adamw::cases();
            rows: mipgpu::ops::rows::cases();
            sampled_softmax: mipgpu::ops::sampled_softmax::cases();
            score_items: mipgpu::ops::rank::score_cases();
            top_k: mipgpu::ops::top_k::cases();
            position_sum: mipgpu::ops::embedding::position_cases();
            segment_sum: mipgpu::ops::segment::cases();
            segment_rows: mipgpu::ops::segment::rows_cases();
            pool: mipgpu::ops::sequence_rows::pool_cases();
            spread: mipgpu::ops::sequence_rows::spread_cases();
            sort_ids: mipgpu::ops::sort_ids::cases();
            vertical_conv: mipgpu::ops::vertical_conv::cases();
            window_conv: mipgpu::ops::window_conv::cases();
        }
    };
}
pub(crate) use every_op;

macro_rules! ops {
    ($($test:ident: $cases:expr;)*) => {
        $(#[test] fn $test() { prove($cases); })*

        /// An op that is missing from this list would be used on a GPU without a test.
        #[test]
        fn every_case_of_every_op_is_proved_on_the_emulator() {
            let mut here: BTreeSet<String> = BTreeSet::new();
            $(here.extend(names($cases));)*
            let all = ops::all_cases();
            let every = all.iter().map(|case| case.name.as_str());
            let missing: Vec<&str> = every.filter(|name| !here.contains(*name)).collect();
            assert!(missing.is_empty(), "not proved on the emulator: {missing:?}");
            let run: BTreeSet<&str> = all.iter().flat_map(|case| case.ops()).collect();
            let unproved: Vec<_> = ops::names().iter().filter(|name| !run.contains(*name)).collect();
            assert!(unproved.is_empty(), "no case runs {unproved:?}");
        }
    };
}

every_op!(ops);

/// On the emulator, products run on the CPU engine; this project's own kernels, used where cuBLASLt is not, are tested
/// separately.
#[test]
fn linear_by_our_own_gemm() {
    prove_with(ops::linear::cases(), &every_timing(), &|precision, plan| {
        Simt::open(Driver::Emulator, 0, precision, plan, |_| Ok(Box::new(Own)))
    });
}

/// The Hopper variants, on the emulator's model of wgmma.
fn wgmma(precision: Precision, plan: &Planner) -> Result<Simt> {
    let mut simt = emulated(precision, plan)?;
    simt.set_wgmma(true);
    Ok(simt)
}

fn prove_variants(cases: impl Fn() -> Vec<Case>) {
    prove_variants_of(cases, &every_timing(), &wgmma, &|plan| emulated(Precision::Bf16, plan));
}

/// Proves kernels with wgmma, and that they leave the bits of those without.
pub fn prove_variants_of(
    cases: impl Fn() -> Vec<Case>,
    timings: &[Emulation],
    wgmma: &dyn Fn(Precision, &Planner) -> Result<Simt>,
    portable: &dyn Fn(&Planner) -> Result<Simt>,
) {
    prove_in(&[Precision::Bf16], cases(), timings, wgmma);
    // The same products, summed in the same order: detects differences within the reference's tolerance.
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let mut failures = Failures::default();
    for case in chosen(&cases()) {
        failures.of(&format!("case '{}'", case.name), || {
            let bits = |open: &dyn Fn(&Planner) -> Result<Simt>| ops::prove::fingerprint(case, &|p| boxed(open(p)?));
            let (variant, portable) = (bits(&|p| wgmma(Precision::Bf16, p))?, bits(portable)?);
            if variant == portable { Ok(()) } else { Err("other bits than without wgmma".into()) }
        });
    }
    failures.report();
}

#[test]
fn cross_entropy_by_wgmma() {
    prove_variants(ops::cross_entropy::cases);
}

#[test]
fn sampled_softmax_by_wgmma() {
    prove_variants(ops::sampled_softmax::cases);
}

/// Counts of a digit are summed 256 tiles at a time; this test has more keys than the cases.
#[test]
fn a_sort_of_more_tiles_than_a_block_has_threads() {
    sorts_many_tiles(&|plan| emulated(Precision::F32, plan));
}

pub fn sorts_many_tiles(open: &dyn Fn(&Planner) -> Result<Simt>) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let (n, v) = (2048 * 260 + 77, 200);
    let mut p = Planner::new();
    let (by, id) = (ops::sort_ids::Sorted::plan(&mut p, n), p.index(n));
    let ids: Vec<u32> = (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 16 & 0xff).collect();
    let mut device = open(&p).unwrap();
    device.write_ids(id, &ids);
    device.run(&by.sort(&[(id, n)], v));
    let (mut order, mut key) = (vec![0; n], vec![0; n]);
    device.read_ids(by.order, &mut order);
    device.read_ids(by.key, &mut key);
    device.sync().unwrap();
    let known = |i: &u32| if (ids[*i as usize] as usize) < v { ids[*i as usize] } else { ops::NO_ID };
    let mut want: Vec<u32> = (0..n as u32).collect();
    want.sort_by_key(known);
    assert!(order == want && key.iter().eq(want.iter().map(known).collect::<Vec<_>>().iter()));
}
