//! Compares every backend with the f64 reference: error budgets, guard elements, write / accumulate / skip, same bits
//! twice. `MIPGPU_ONLY=NAME` runs the cases of some ops.

use mipgpu::{
    backend::{Cpu, Reference, cpu::simd::Isa},
    mem::Precision,
    ops::{
        Access, Memory, all_cases,
        case::{Case, Fill},
        cross_entropy, dilated_conv, linear, prove, sampled_softmax,
    },
};

use crate::proofs::{Failures, boxed, wanted};

/// Whether `MIPGPU_ONLY` leaves a case in.
fn chosen(case: &Case) -> bool {
    let [forward, backward] = case.ops();
    wanted(&[&case.name, forward, backward])
}

#[test]
fn the_harness_accepts_the_naive_loops() {
    let mut failures = Failures::default();
    for case in all_cases().iter().filter(|case| chosen(case)) {
        failures.of("f32 loops", || prove::parity(case, &|plan| boxed(Reference::<f32>::new(plan))).map(|_| ()));
    }
    failures.report();
}

#[test]
fn the_cpu_backend_agrees_with_the_reference() {
    let mut failures = Failures::default();
    for case in all_cases().iter().filter(|case| chosen(case)) {
        for products in [Precision::F32, Precision::Bf16] {
            failures.of(&format!("{products:?}"), || {
                prove::parity(case, &|plan| boxed(Cpu::with(plan, products))).map(|_| ())
            });
        }
    }
    failures.report();
    println!("proved on {:?}", Isa::current());
}

/// Runs the forward passes in both kinds of products, from inputs that bf16 holds exactly.
fn the_same_in_both(case: &Case) -> Result<(), String> {
    let outcome = |products| {
        let mut cpu = Cpu::with(&case.plan, products);
        case.inputs_f32(Precision::Bf16).iter().for_each(|(span, values)| cpu.write(*span, values));
        for (span, fill) in &case.fills {
            if let Fill::Ids(ids) = fill {
                cpu.write_ids(case.plan.index_span(*span), ids);
            }
        }
        case.fwd.run_on(&mut cpu);
        let mut all = Vec::new();
        case.fwd.visit(&mut |access, span| {
            if access == Access::Write {
                let mut values = vec![0.0; span.len()];
                cpu.read(span, &mut values);
                all.push((case.fwd.field_name(span).unwrap_or("?"), values));
            }
        });
        all
    };
    let mut wrong = Vec::new();
    for ((field, single), (_, pairs)) in outcome(Precision::F32).into_iter().zip(outcome(Precision::Bf16)) {
        let largest = single.iter().fold(0f32, |a, x| a.max(x.abs()));
        let near = |(x, y): (&f32, &f32)| (x - y).abs() <= 1e-5 * largest;
        if let Some(i) = single.iter().zip(&pairs).position(|both| !near(both)) {
            let (x, y) = (single[i], pairs[i]);
            wrong.push(format!("{}, field {field}: [{i}] is {x} in f32, {y} in bf16", case.fwd.name()));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// Only factors are rounded: sums, biases, norms and losses keep their precision.
#[test]
fn factors_that_bf16_holds_give_what_f32_gives() {
    let mut failures = Failures::default();
    let cases = [linear::cases(), dilated_conv::cases(), cross_entropy::cases(), sampled_softmax::cases()];
    for case in cases.into_iter().flatten() {
        failures.of(&format!("case '{}', forward", case.name), || the_same_in_both(&case));
    }
    failures.report();
}

/// The instruction set is selected once per process, so each of the others is tested in a separate process.
#[test]
fn so_does_every_instruction_set_of_this_processor() {
    let mut failures = Failures::default();
    for isa in Isa::available().filter(|isa| *isa != Isa::current()) {
        failures.of(&format!("{isa:?}"), || {
            let test = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "parity::the_cpu_backend_agrees_with_the_reference", "--nocapture"])
                .env("MIPGPU_ISA", format!("{isa:?}").to_lowercase())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&test.stdout).into_owned() + &String::from_utf8_lossy(&test.stderr);
            let proved = test.status.success() && said.contains(&format!("proved on {isa:?}"));
            if proved { Ok(()) } else { Err(said) }
        });
    }
    failures.report();
}

/// Checks that a case runs every op: others would be used without a test.
#[test]
fn every_op_of_the_list_is_run_by_a_case() {
    use mipgpu::ops::*;
    type Ran = std::rc::Rc<std::cell::RefCell<std::collections::BTreeSet<&'static str>>>;
    struct Recorder {
        inner: Cpu,
        ran: Ran,
    }
    impl<O: Op> Run<O> for Recorder
    where
        Cpu: Run<O>,
    {
        fn execute(&mut self, op: &Valid<'_, O>) {
            self.ran.borrow_mut().insert(O::NAME);
            self.inner.execute(op);
        }
    }
    impl Memory for Recorder {
        mipgpu::forward_memory!(self => self.inner);
    }
    mipgpu::at_once!(Recorder);
    let ran = Ran::default();
    let mut failures = Failures::default();
    for case in all_cases().iter().filter(|case| chosen(case)) {
        failures.of("CPU", || {
            let ran = ran.clone();
            prove::parity(case, &move |plan| boxed(Recorder { inner: Cpu::new(plan), ran: ran.clone() })).map(|_| ())
        });
    }
    let missing: Vec<_> = names().iter().filter(|name| wanted(&[name]) && !ran.borrow().contains(*name)).collect();
    failures.of("all cases", || match missing.is_empty() {
        true => Ok(()),
        false => Err(format!("no case runs {missing:?}")),
    });
    failures.report();
}
