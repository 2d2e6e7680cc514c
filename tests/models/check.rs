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
    variants().par_iter().for_each(|(what, s)| (0..seeds()).for_each(|seed| hold(what, s, seed)));
    // If an instruction set was requested, it must be in use.
    let asked = std::env::var("MIPGPU_ISA").ok();
    assert!(asked.is_none_or(|isa| isa == format!("{:?}", Isa::current()).to_lowercase()));
}

/// The instruction set is selected once per process.
#[test]
fn and_so_on_every_instruction_set_of_this_processor() {
    for isa in Isa::available().filter(|isa| *isa != Isa::current()) {
        let test = "check::honest_steps_pass_and_four_budgets_in_any_gradient_fail";
        let out = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env("MIPGPU_ISA", format!("{isa:?}").to_lowercase())
            .env("MIPGPU_CHECK_SEEDS", seeds().div_ceil(2).to_string())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && said.contains("1 passed"), "{isa:?}: {said}");
    }
}

/// Budgets as shares of their gradients: a budget as large as its gradient would accept a gradient of zeros. Those of
/// bf16 are large, because a bf16 factor has 8 bits and six times the error of a whole step is allowed. The largest
/// (0.91) is that of a field table behind four convolutions with ReLU. The checks of single ops are finer.
#[test]
fn budgets_are_small_shares_of_the_gradients() {
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
        assert!(median < half && shares[0].0 < most, "{report}");
    }
}

fn hold(what: &str, s: &Settings, seed: u64) {
    let kinds = [F32, Bf16].map(|products| Numerics { stored: F32, products });
    let expected = Expected::of(s, seed, &kinds).unwrap();
    for kind in kinds {
        let products = kind.products;
        let what = format!("{what}, {products:?}, seed {seed}");
        let got = on_cpu(s, expected.seed, products);
        assert_eq!(expected.compare(&got, kind).1, None, "{what}");
        let (loss, gradients) = expected.budgets(kind);
        let off = Step { loss: got.loss + 4.0 * loss, ..got.clone() };
        assert!(expected.compare(&off, kind).1.is_some_and(|f| f.starts_with("loss:")), "{what}");
        for (i, budget) in gradients.iter().enumerate().filter(|(i, _)| !got.gradients[*i].is_empty()) {
            let name = &got.names[i];
            // No difference is allowed in the gradient of a parameter that nothing depends on.
            let (_, fault) = expected.compare(&planted(&got, i, (4.0 * budget).max(1e-30)), kind);
            let fault = fault.unwrap_or_else(|| panic!("{what}: an error in the gradient of {name} passed"));
            assert!(fault.starts_with(&format!("gradient of {name}:")), "{what}: {fault}");
        }
    }
}
