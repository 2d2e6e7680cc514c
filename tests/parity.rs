//! Every backend against the f64 reference: error budgets, guard elements, write / accumulate / skip, same bits twice.

use mipgpu::{backend::Reference, ops::all_cases};

#[test]
fn the_harness_accepts_the_naive_loops() {
    for case in all_cases::<Reference<f32>>() {
        case.parity(&|plan| Reference::new(plan)).unwrap();
    }
}
