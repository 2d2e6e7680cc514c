//! Compares every op's reference backward pass with f64 central differences. `MIPGPU_ONLY=NAME` runs some ops.

use mipgpu::ops::{all_cases, prove};

use crate::proofs::{Failures, filter, wanted};

#[test]
fn every_op_agrees_with_central_differences() {
    let mut failures = Failures::default();
    let mut proved = 0;
    for case in all_cases() {
        let [forward, backward] = case.ops();
        if !wanted(&[&case.name, forward, backward]) {
            continue;
        }
        failures.of(&format!("case '{}'", case.name), || {
            let errors = prove::gradient_errors(&case);
            proved += usize::from(!errors.is_empty());
            let wrong: Vec<String> = errors
                .iter()
                .filter(|(_, error)| error.is_nan() || *error >= 1e-6)
                .map(|(field, error)| format!("{backward}, field {field}: relative error {error:.2e}"))
                .collect();
            if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
        });
    }
    failures.report();
    assert!(proved > 50 || filter().is_some(), "only {proved} cases have a backward pass");
}
