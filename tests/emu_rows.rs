//! Row-wise ops on the emulator: every case, both element types, all thread orders and copy timings, the same bits.

use mipgpu::{
    backend::simt::{
        Simt,
        driver::{Driver, Emulation, emulate},
        gemm::Own,
    },
    mem::{Planner, Precision},
    ops::{adamw, case::AnyCase, dropout, embedding, layer_norm, reduce, rows},
};

fn cases() -> Vec<Box<dyn AnyCase<Simt>>> {
    let mut all: Vec<Box<dyn AnyCase<Simt>>> = Vec::new();
    macro_rules! add {
        ($($cases:expr),* $(,)?) => { $( all.extend($cases.into_iter().map(|c| Box::new(c) as Box<dyn AnyCase<Simt>>)); )* };
    }
    add!(
        adamw::cases(),
        dropout::cases(),
        dropout::add_cases(),
        embedding::cases(),
        embedding::gather_cases(),
        layer_norm::cases(),
        reduce::mean_cases(),
        reduce::norm_cases(),
        rows::cases(),
    );
    all
}

#[test]
fn row_wise_kernels_agree_with_the_reference_in_every_order() {
    let mut worst = (0f64, 0f64);
    for precision in [Precision::F32, Precision::Bf16] {
        let open = |plan: &Planner| Simt::open(Driver::Emulator, 0, precision, plan, |_| Ok(Box::new(Own))).unwrap();
        for case in cases() {
            let mut bits = None;
            for (order, copies) in (0..3).flat_map(|order| (0..3).map(move |copies| (order, copies))) {
                emulate(Emulation { order, copies, seed: 5 }).unwrap();
                if copies == 0 {
                    let p = case.parity(&open).unwrap_or_else(|e| panic!("{precision:?} order {order}: {e}"));
                    worst = (worst.0.max(p.forward), worst.1.max(p.backward));
                }
                let got = case.fingerprint(&open).unwrap();
                assert!(
                    bits.get_or_insert_with(|| got.clone()) == &got,
                    "{}: order {order} copies {copies}",
                    case.name()
                );
            }
        }
    }
    println!("worst error over budget: {worst:?}");
}
