/*! Checks a device: every case of every op, and whole training steps, against the f64 reference. `mipgpu check`
runs it, so users can check their own GPU with the program they train with. [`gradient`] checks the derived gradients
themselves.

Expected results are computed once for both precisions, on all cores, one batch of cases ahead of the device.
*/

pub mod gradient;
pub mod steps;
pub mod variants;

use rayon::prelude::*;

use crate::{
    backend::{self, Device},
    base::Result,
    mem::{Numerics, Planner, Precision},
    ops::{self, case::Case, prove},
};
use steps::{Expected, step, values};

use super::settings::Settings;

/// The result of one op or step: the worst error as a share of the allowed error, or the fault.
#[derive(Clone, Debug)]
pub struct CheckRow {
    /// `attention_fwd`, or `bert4rec step (post-norm, softmax)`.
    pub what: String,
    pub precision: Precision,
    /// Number of cases or steps that were run.
    pub cases: usize,
    /// At most 1 if correct: (forward results, gradients); for a whole step, (loss, gradients).
    pub worst: (f64, f64),
    /// The first case that failed, and how: a line for every fault.
    pub fault: Option<String>,
}

impl CheckRow {
    fn new(what: &str, precision: Precision) -> Self {
        CheckRow { what: what.into(), precision, cases: 0, worst: (0.0, 0.0), fault: None }
    }

    fn add(&mut self, worst: (f64, f64), fault: Option<String>) {
        // `max` would drop a NaN.
        let larger = |a: f64, b: f64| if b.is_nan() || b > a { b } else { a };
        self.cases += 1;
        self.worst = (larger(self.worst.0, worst.0), larger(self.worst.1, worst.1));
        self.fault = self.fault.take().or(fault);
    }
}

/// Selects the checks to run.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// Only ops and steps whose name contains this.
    pub name: &'a str,
    /// Only cases with at most this many numbers.
    pub elements: usize,
    /// Number of repetitions, each with other inputs.
    pub seeds: u64,
}

impl Selection<'static> {
    pub const ALL: Self = Selection { name: "", elements: usize::MAX, seeds: 1 };
}

/// Checks `device` in the given precisions. Rows are reported as soon as they are complete.
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
    // Whole steps have about 10^5 numbers.
    if only.elements < 1 << 17 {
        return Ok(());
    }
    prove_steps(device, precisions, only, observe)
}

/// Number of cases whose expected results are computed at a time: enough for all cores, few enough for memory.
fn ahead() -> usize {
    4 * rayon::current_num_threads()
}

fn prove_ops(
    device: Device,
    precisions: &[Precision],
    only: Selection<'_>,
    observe: &mut dyn FnMut(CheckRow),
) -> Result<()> {
    let op = |case: &Case| case.name.split(' ').next().unwrap_or_default().to_string();
    let mut cases = ops::all_cases();
    cases.retain(|case| op(case).contains(only.name) && case.elements() <= only.elements);
    // One backend per precision for all cases, with enough memory for each of them.
    let mut plan = Planner::new();
    cases.iter().for_each(|case| plan.cover(&case.plan));
    let open = |precision: &Precision| backend::open(device, *precision, &plan);
    let mut devices = precisions.iter().map(open).collect::<Result<Vec<_>>>()?;
    let kinds: Vec<Numerics> = devices.iter().map(Numerics::of).collect();
    let mut rows: Vec<Vec<CheckRow>> = Vec::new();
    for seed in 0..only.seeds {
        cases.iter_mut().for_each(|case| case.seed = seed);
        let mut at = 0;
        for part in cases.chunks(ahead()) {
            let expected: Vec<_> = part.par_iter().map(|case| prove::expected(case, &kinds)).collect();
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
                    match prove::parity_on(case, expected, &mut *devices[i]) {
                        Ok(p) => rows[at][i].add((p.forward, p.backward), None),
                        Err(e) => {
                            rows[at][i].add((0.0, 0.0), Some(e));
                            // A failed device reports its error again for every call, so the next case gets a
                            // new one. If none can be opened, the results so far are reported first.
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
    let open = |precision: &Precision| Ok(Numerics::of(&backend::open(device, *precision, &Planner::new())?));
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
                    let got = step(s, expected.seed, &|plan| backend::open(device, row.precision, plan), values)?;
                    let (worst, faults) = expected.compare(&got, *kind);
                    let said = |f: &String| if seed == 0 { f.clone() } else { format!("seed {seed}: {f}") };
                    let faults: Vec<String> = faults.iter().map(said).collect();
                    row.add(worst, (!faults.is_empty()).then(|| faults.join("\n")));
                }
            }
        }
        rows.into_iter().flatten().for_each(&mut *observe);
    }
    Ok(())
}
