//! Compares every op's reference backward pass with f64 central differences.

use mipgpu::{backend::Reference, ops::all_cases};

#[test]
fn every_op_agrees_with_central_differences() {
    let mut proved = 0;
    for case in all_cases::<Reference<f64>>() {
        if let Some(error) = case.gradient_error() {
            assert!(error < 1e-6, "{}: relative error {error:.2e}", case.name());
            proved += 1;
        }
    }
    assert!(proved > 50, "only {proved} cases have a backward pass");
}
