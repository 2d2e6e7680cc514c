/*! Proving a device: every case of every op, and whole training steps, against the f64 reference; what
`mipgpu check` runs, so that users can prove their own GPU from the program they train with.

What a case or a step should come to is worked out once for both precisions, by all cores, a batch of cases ahead of the device.
*/

mod steps;
#[cfg(test)]
mod tests;
mod variants;

use rayon::prelude::*;

use crate::{
    backend::{self, Device, WithBackend},
    base::Result,
    mem::{Numerics, Planner, Precision},
    ops::{self, AnyCase, Backend},
};
use steps::{Expected, step, values};

use super::settings::Settings;

/// How something fared: its worst error as a share of what is allowed, or what is wrong.
#[derive(Clone, Debug)]
pub struct CheckRow {
    /// `attention_fwd`, or `bert4rec step (post-norm, softmax)`.
    pub what: String,
    pub precision: Precision,
    /// Cases or steps that were run.
    pub cases: usize,
    /// At most 1: forward results, gradients (of a whole step: the loss, gradients).
    pub worst: (f64, f64),
    /// The first case that failed, and how.
    pub fault: Option<String>,
}

impl CheckRow {
    fn new(what: &str, precision: Precision) -> Self {
        CheckRow { what: what.into(), precision, cases: 0, worst: (0.0, 0.0), fault: None }
    }

    fn add(&mut self, worst: (f64, f64), fault: Option<String>) {
        // NaN must not vanish in a maximum.
        let larger = |a: f64, b: f64| if b.is_nan() || b > a { b } else { a };
        self.cases += 1;
        self.worst = (larger(self.worst.0, worst.0), larger(self.worst.1, worst.1));
        self.fault = self.fault.take().or(fault);
    }
}

/// What is proved of all there is.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// Only ops and steps whose name contains this.
    pub name: &'a str,
    /// Only cases with at most this many numbers.
    pub elements: usize,
    /// How often, each time with other inputs.
    pub seeds: u64,
}

impl Selection<'static> {
    pub const ALL: Self = Selection { name: "", elements: usize::MAX, seeds: 1 };
}

/// Opens a device for one plan.
struct Open<'a>(&'a Planner);

impl WithBackend for Open<'_> {
    type Out = Result<Box<dyn Backend>>;
    fn call<B: Backend + 'static>(self, open: &dyn Fn(&Planner) -> Result<B>) -> Self::Out {
        // Of whatever kind: so the proofs of all ops are compiled once, not for each backend.
        Ok(Box::new(open(self.0)?))
    }
}

/// A step of a device.
struct OneStep<'a>(&'a Settings, u64);

impl WithBackend for OneStep<'_> {
    type Out = Result<steps::Step<f64>>;
    fn call<B: Backend + 'static>(self, open: &dyn Fn(&Planner) -> Result<B>) -> Self::Out {
        step(self.0, self.1, open, values)
    }
}

/// Proves `device` in some precisions. Rows come as they are done.
///
/// # Errors
/// The device cannot be opened, or fails.
pub fn check(
    device: Device,
    precisions: &[Precision],
    only: Selection<'_>,
    observe: &mut dyn FnMut(CheckRow),
) -> Result<()> {
    prove_ops(device, precisions, only, observe)?;
    // Whole steps have some 10^5 numbers.
    if only.elements < 1 << 17 {
        return Ok(());
    }
    prove_steps(device, precisions, only, observe)
}

/// Cases whose references are worked out at a time: enough for all cores, few enough to hold.
fn ahead() -> usize {
    4 * rayon::current_num_threads()
}

type OpCase = Box<dyn AnyCase<Box<dyn Backend>>>;

fn prove_ops(
    device: Device,
    precisions: &[Precision],
    only: Selection<'_>,
    observe: &mut dyn FnMut(CheckRow),
) -> Result<()> {
    let op = |case: &OpCase| case.name().split(' ').next().unwrap_or_default().to_string();
    let mut cases: Vec<OpCase> = ops::boxed_cases();
    cases.retain(|case| op(case).contains(only.name) && case.elements() <= only.elements);
    // One backend a precision for all cases, each with all memory that any of them needs.
    let mut plan = Planner::new();
    cases.iter().for_each(|case| plan.cover(case.plan()));
    let open = |precision: &Precision| backend::with(device, *precision, Open(&plan));
    let mut devices = precisions.iter().map(open).collect::<Result<Vec<_>>>()?;
    let kinds: Vec<Numerics> = devices.iter().map(Numerics::of).collect();
    let mut rows: Vec<Vec<CheckRow>> = Vec::new();
    for seed in 0..only.seeds {
        cases.iter_mut().for_each(|case| case.reseed(seed));
        let mut at = 0;
        for part in cases.chunks(ahead()) {
            let expected: Vec<_> = part.par_iter().map(|case| case.expected(&kinds)).collect();
            for (case, expected) in part.iter().zip(&expected) {
                let name = op(case);
                if rows.get(at).is_some_and(|row| row[0].what != name) {
                    if seed + 1 == only.seeds {
                        rows[at].drain(..).for_each(&mut *observe);
                    }
                    at += 1;
                }
                if rows.len() == at {
                    rows.push(precisions.iter().map(|p| CheckRow::new(&name, *p)).collect());
                }
                for (i, expected) in expected.iter().enumerate() {
                    match case.parity_on(expected, &mut devices[i]) {
                        Ok(p) => rows[at][i].add((p.forward, p.backward), None),
                        Err(e) => {
                            rows[at][i].add((0.0, 0.0), Some(e));
                            // A device that has failed keeps saying so: the next case gets another. Where there is
                            // none any more, what was found so far is shown first.
                            match open(&precisions[i]) {
                                Ok(another) => devices[i] = another,
                                Err(lost) => {
                                    rows.iter_mut().flat_map(|row| row.drain(..)).for_each(&mut *observe);
                                    return Err(lost);
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    rows.into_iter().flatten().for_each(observe);
    Ok(())
}

fn prove_steps(
    device: Device,
    precisions: &[Precision],
    only: Selection<'_>,
    observe: &mut dyn FnMut(CheckRow),
) -> Result<()> {
    let open = |precision: &Precision| Ok(Numerics::of(&backend::with(device, *precision, Open(&Planner::new()))?));
    let kinds = precisions.iter().map(open).collect::<Result<Vec<_>>>()?;
    let mut chosen = variants::variants();
    chosen.retain(|(what, _)| what.contains(only.name));
    for part in chosen.chunks(ahead()) {
        let row = |(what, _): &(String, Settings)| precisions.iter().map(|p| CheckRow::new(what, *p)).collect();
        let mut rows: Vec<Vec<CheckRow>> = part.iter().map(row).collect();
        for seed in 0..only.seeds {
            let expected = part.par_iter().map(|(_, s)| Expected::of(s, seed, &kinds)).collect::<Result<Vec<_>>>()?;
            for (((_, s), expected), rows) in part.iter().zip(&expected).zip(&mut rows) {
                for (row, kind) in rows.iter_mut().zip(&kinds) {
                    let got = backend::with(device, row.precision, OneStep(s, expected.seed))?;
                    let (worst, fault) = expected.compare(&got, *kind);
                    row.add(worst, fault.map(|f| if seed == 0 { f } else { format!("seed {seed}: {f}") }));
                }
            }
        }
        rows.into_iter().flatten().for_each(&mut *observe);
    }
    Ok(())
}
