//! Tests the error budgets of whole steps: correct rounding stays within them, and a fault of four budgets does
//! not.

use mipgpu::{
    backend::{self, Device, cpu::simd::Isa},
    mem::{
        Numerics,
        Precision::{self, Bf16, F32},
    },
    train::{
        Settings,
        check::{
            steps::{Expected, Step, step, values},
            variants::variants,
        },
    },
};
use rayon::prelude::*;

use crate::proofs::Failures;

/// Runs one step on the CPU.
fn on_cpu(s: &Settings, seed: u64, products: Precision) -> Step<f64> {
    step(s, seed, &|plan| backend::open(Device::Cpu, products, plan), values).unwrap()
}

/// Adds an error of this size to one gradient.
fn planted(step: &Step<f64>, gradient: usize, error: f64) -> Step<f64> {
    let mut step = step.clone();
    // The largest number, because errors in small ones matter less.
    let g = &mut step.gradients[gradient];
    let at = (0..g.len()).max_by(|a, b| g[*a].abs().total_cmp(&g[*b].abs())).expect("a gradient has numbers");
    g[at] += error;
    step
}

/// The seeds to test: 2, or as many as `MIPGPU_CHECK_SEEDS` says.
fn seeds() -> u64 {
    std::env::var("MIPGPU_CHECK_SEEDS").map_or(2, |n| n.parse().unwrap())
}

/// Every variant in both precisions, on the current instruction set.
#[test]
fn honest_steps_pass_and_four_budgets_in_any_gradient_fail() {
    let of = |(what, s): &(String, Settings)| (0..seeds()).map(|seed| hold(what, s, seed)).collect::<Vec<_>>();
    variants().par_iter().flat_map_iter(of).reduce(Failures::default, Failures::and).report();
    // If an instruction set was requested, it must be in use.
    let asked = std::env::var("MIPGPU_ISA").ok();
    assert!(asked.is_none_or(|isa| isa == format!("{:?}", Isa::current()).to_lowercase()));
}

/// The instruction set is selected once per process.
#[test]
fn and_so_on_every_instruction_set_of_this_processor() {
    let mut failures = Failures::default();
    for isa in Isa::available().filter(|isa| *isa != Isa::current()) {
        failures.of(&format!("{isa:?}"), || {
            let test = "check::honest_steps_pass_and_four_budgets_in_any_gradient_fail";
            let out = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", test, "--nocapture"])
                .env("MIPGPU_ISA", format!("{isa:?}").to_lowercase())
                .env("MIPGPU_CHECK_SEEDS", seeds().div_ceil(2).to_string())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
            if out.status.success() && said.contains("1 passed") { Ok(()) } else { Err(said) }
        });
    }
    failures.report();
}

/// Budgets as shares of their gradients: a budget as large as its gradient would accept a gradient of zeros. Those of
/// bf16 are large, because a bf16 factor has 8 bits and six times the error of a whole step is allowed. The largest
/// (0.91) is that of a field table behind four convolutions with ReLU. The checks of single ops are finer.
#[test]
fn budgets_are_small_shares_of_the_gradients() {
    let mut failures = Failures::default();
    for (products, half, most) in [(F32, 1e-5, 2e-4), (Bf16, 0.15, 1.0)] {
        let kind = Numerics { stored: F32, products };
        let mut shares: Vec<(f64, String)> = variants()
            .par_iter()
            .flat_map_iter(|(what, s)| {
                let expected = Expected::of(s, 0, &[kind]).unwrap();
                let got = on_cpu(s, expected.seed, products);
                let budgets = expected.budgets(kind).1;
                let norm = |g: &[f64]| g.iter().map(|x| x * x).sum::<f64>().sqrt();
                let there = (0..got.gradients.len()).filter(|i| norm(&got.gradients[*i]) > 0.0);
                let share = |i: usize| (budgets[i] / norm(&got.gradients[i]), format!("{what}: {}", got.names[i]));
                there.map(share).collect::<Vec<_>>()
            })
            .collect();
        shares.sort_by(|a, b| b.0.total_cmp(&a.0));
        let median = shares[shares.len() / 2].0;
        let worst: Vec<String> = shares.iter().take(60).map(|(share, of)| format!("{share:.2e} {of}")).collect();
        let report = format!("{products:?}: median {median:.2e} of {}; worst:\n{}", shares.len(), worst.join("\n"));
        failures.of("budgets", || if median < half && shares[0].0 < most { Ok(()) } else { Err(report) });
    }
    failures.report();
}

/// Checks a step of every precision: without an error, and with one of four budgets in the loss or in any gradient.
fn hold(what: &str, s: &Settings, seed: u64) -> Failures {
    let kinds = [F32, Bf16].map(|products| Numerics { stored: F32, products });
    let mut failures = Failures::default();
    let mut expected = None;
    failures.of(&format!("{what}, seed {seed}, reference"), || {
        expected = Some(Expected::of(s, seed, &kinds).map_err(|e| e.to_string())?);
        Ok(())
    });
    for kind in kinds {
        let Some(expected) = &expected else { continue };
        failures.of(&format!("{what}, {:?}, seed {seed}", kind.products), || {
            let wrong = faults(expected, &on_cpu(s, expected.seed, kind.products), kind);
            if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
        });
    }
    failures
}

/// Returns the faults of a step, and those that planted errors should have but do not.
fn faults(expected: &Expected, got: &Step<f64>, kind: Numerics) -> Vec<String> {
    let (_, honest) = expected.compare(got, kind);
    let (loss, gradients) = expected.budgets(kind);
    let off = Step { loss: got.loss + 4.0 * loss, ..got.clone() };
    let planted_gradient = |(i, budget): (usize, &f64)| {
        // No difference is allowed in the gradient of a parameter that nothing depends on.
        let step = planted(got, i, (4.0 * budget).max(1e-30));
        (format!("gradient of {}", got.names[i]), step)
    };
    let there = gradients.iter().enumerate().filter(|(i, _)| !got.gradients[*i].is_empty());
    let mut wrong = honest.clone();
    for (name, step) in std::iter::once(("loss".to_string(), off)).chain(there.map(planted_gradient)) {
        let (_, found) = expected.compare(&step, kind);
        let found: Vec<String> = found.into_iter().filter(|fault| !honest.contains(fault)).collect();
        // The planted error is found, and nothing else.
        if !matches!(&found[..], [fault] if fault.starts_with(&format!("{name}:"))) {
            wrong.push(format!("an error of four budgets in the {name} gives {found:?}"));
        }
    }
    wrong
}
