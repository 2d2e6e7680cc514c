//! Every backend against the f64 reference: error budgets, guard elements, write / accumulate / skip, same bits twice.

use mipgpu::{
    backend::{Cpu, Reference, cpu::simd::Isa},
    mem::Precision,
    ops::all_cases,
};

#[test]
fn the_harness_accepts_the_naive_loops() {
    for case in all_cases::<Reference<f32>>() {
        case.parity(&|plan| Ok(Reference::new(plan))).unwrap();
    }
}

#[test]
fn the_cpu_backend_agrees_with_the_reference() {
    for case in all_cases::<Cpu>() {
        for products in [Precision::F32, Precision::Bf16] {
            case.parity(&|plan| Ok(Cpu::with(plan, products))).unwrap_or_else(|e| panic!("{products:?}: {e}"));
        }
    }
    println!("proved on {:?}", Isa::current());
}

/// The instruction set is chosen once a process, so each other one is proved in a process of its own.
#[test]
fn so_does_every_instruction_set_of_this_processor() {
    for isa in Isa::available().filter(|isa| *isa != Isa::current()) {
        let test = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_cpu_backend_agrees_with_the_reference", "--nocapture"])
            .env("MIPGPU_ISA", format!("{isa:?}").to_lowercase())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&test.stdout);
        assert!(test.status.success() && said.contains(&format!("proved on {isa:?}")), "{isa:?}: {said}");
    }
}

/// An op that no case runs would be trusted unproved.
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
        fn run(&mut self, op: &O) {
            self.ran.borrow_mut().insert(O::NAME);
            self.inner.run(op);
        }
    }
    impl Memory for Recorder {
        fn write(&mut self, span: mipgpu::mem::RawSpan, values: &[f32]) {
            self.inner.write(span, values);
        }
        fn read(&mut self, span: mipgpu::mem::RawSpan, values: &mut [f32]) {
            self.inner.read(span, values);
        }
        fn write_ids(&mut self, span: mipgpu::mem::Span<mipgpu::mem::U32>, values: &[u32]) {
            self.inner.write_ids(span, values);
        }
        fn read_ids(&mut self, span: mipgpu::mem::Span<mipgpu::mem::U32>, values: &mut [u32]) {
            self.inner.read_ids(span, values);
        }
    }
    let ran = Ran::default();
    for case in all_cases::<Recorder>() {
        let ran = ran.clone();
        case.parity(&move |plan| Ok(Recorder { inner: Cpu::new(plan), ran: ran.clone() })).unwrap();
    }
    let missing: Vec<_> = names().iter().filter(|name| !ran.borrow().contains(*name)).collect();
    assert!(missing.is_empty(), "no case runs {missing:?}");
}
