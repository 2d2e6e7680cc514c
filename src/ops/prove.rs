/*! The proof of an op. *Gradient*: compares the f64 reference backward pass with central differences of the f64
reference forward pass, projected on fixed random directions. *Parity*: compares a backend with the f64 reference. The
error budget is 2x (forward) or 3x (gradients) the error of plain loops in the same precision: f32, or for a bf16
backend f32 sums of bf16 products with activations rounded to bf16. Ids must match exactly. Destinations start as NaN
(write; ids as u32::MAX) or filled (accumulate). No other memory may change, and the same input must give the same bits
twice.
*/

use std::sync::Arc;

use super::{
    Access, Backend, Memory, Mode, Open,
    any_op::{AnyOp, Arithmetic},
    case::Case,
};
use crate::{
    base::{
        self,
        rng::{Purpose, Stream},
    },
    mem::{Arena, Bf16Products, HostArenas, Numerics, Planner, Precision, RawSpan, Scalar, Traced, round_bf16},
};

/// The largest ratio of error to budget in a parity run: at most 1 for a pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parity {
    pub forward: f64,
    pub backward: f64,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Returns the largest relative error over the inputs and four directions each.
pub fn gradient_error(case: &Case) -> Option<f64> {
    gradient_errors(case).into_iter().map(|(_, error)| error).reduce(f64::max)
}

/// Returns the gradients of a case by the names of their fields, with the largest relative error of each over
/// four directions. Empty without a backward pass.
pub fn gradient_errors(case: &Case) -> Vec<(&'static str, f64)> {
    if case.inputs.is_empty() {
        return Vec::new();
    }
    const STEP: f64 = 1e-5;
    let mut m = case.host::<f64>(0.0, &case.inputs_f32(Precision::F32));
    let loss = |m: &mut HostArenas<f64>| {
        case.fwd.compute(f64::memory(m));
        case.outputs.iter().map(|(y, dy)| dot(m.get(*y), m.get(*dy))).sum::<f64>()
    };
    loss(&mut m);
    case.bwd.in_modes(&mut |_| Mode::Write).compute(f64::memory(&mut m));
    let mut errors = Vec::new();
    for (i, (x, dx)) in case.inputs.iter().enumerate() {
        if x.is_empty() {
            continue;
        }
        let mut worst = 0.0f64;
        let gradient = m.get(*dx).to_vec();
        let start = m.get(*x).to_vec();
        for direction in 0..4 {
            let mut draw = Stream::new(11, Purpose::Test, (i * 4 + direction) as u32);
            let u: Vec<f64> = (0..x.len()).map(|_| draw.normal() as f64).collect();
            let mut at = |k: f64| {
                m.get_mut(*x).iter_mut().zip(start.iter().zip(&u)).for_each(|(x, (s, u))| *x = s + k * u);
                loss(&mut m)
            };
            let numeric = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            at(0.0);
            let analytic = dot(&gradient, &u);
            let norm = dot(&gradient, &gradient).sqrt() * dot(&u, &u).sqrt();
            let scale = analytic.abs().max(numeric.abs()).max(1e-2 * norm).max(1e-12);
            // `max` would drop a NaN.
            let error = (analytic - numeric).abs() / scale;
            worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
        }
        errors.push((case.bwd.field_name(*dx).unwrap_or("?"), worst));
    }
    errors
}

/// The real arenas, in order.
const REAL: [Arena; 6] = [Arena::Param, Arena::Grad, Arena::Moment1, Arena::Moment2, Arena::Act, Arena::Stat];

/// Initial value of every element outside the inputs, to detect stray writes.
const BACKGROUND: f32 = -7.25;
/// The same for ids.
const BACKGROUND_ID: u32 = 0xA5A5_A5A5;

/// The contents of all arenas.
struct Snapshot<T> {
    /// In the order of [`REAL`].
    real: Vec<Vec<T>>,
    index: Vec<u32>,
}

fn snapshot(k: &mut dyn Backend, plan: &Planner) -> Snapshot<f32> {
    let real = |a: &Arena| {
        let mut v = vec![0.0; plan.len(*a)];
        k.read(plan.whole(*a), &mut v);
        v
    };
    let real = REAL.iter().map(real).collect();
    let mut index = vec![0; plan.len(Arena::Index)];
    k.read_ids(plan.index_span(plan.whole(Arena::Index)), &mut index);
    Snapshot { real, index }
}

/// Initializes the destinations of an op for their modes: NaN where written (ids: `u32::MAX`, see [`put`]), fixed
/// numbers where accumulated.
fn poison(op: &dyn AnyOp, write: &mut dyn FnMut(RawSpan, f32)) {
    op.visit(&mut |access, span| match access {
        Access::Write => write(span, f32::NAN),
        Access::Accumulate => write(span, 0.375),
        _ => {}
    });
}

/// Fills a span of a backend with `x`, or with `u32::MAX` for ids.
fn put(k: &mut dyn Backend, plan: &Planner, span: RawSpan, x: f32) {
    match span.arena() {
        Arena::Index => k.write_ids(plan.index_span(span), &vec![u32::MAX; span.len()]),
        _ => k.write(span, &vec![x; span.len()]),
    }
}

impl Numerics {
    pub fn of(k: &impl Memory) -> Self {
        Numerics { stored: k.precision(), products: k.products() }
    }
}

/// The expected outputs of a call.
struct ExpectedOutputs(Vec<(RawSpan, Want)>);

enum Want {
    Ids(Vec<u32>),
    /// Values, and the allowed error of each.
    Real(Vec<f64>, f64),
}

/// The initial contents of the real spans that are read.
type Inputs = Vec<(RawSpan, Vec<f32>)>;

/// The expected results of a case on backends of one kind.
pub struct Expected {
    /// Shared, since drawing them again for every run would take longer than the runs.
    inputs: Arc<Inputs>,
    fwd: ExpectedOutputs,
    /// Gradients written, and added to the old values.
    bwd: [ExpectedOutputs; 2],
}

/// Runs the references of a case in the arithmetic of `S`.
/// Returns the state after the forward pass, and after a backward pass that writes or accumulates. With `rounded`,
/// results in activations are rounded to bf16.
fn plain<S: Arithmetic>(case: &Case, inputs: &Inputs, rounded: bool) -> [Snapshot<S>; 3] {
    let mut m = case.host::<S>(BACKGROUND as f64, inputs);
    let fill = |m: &mut HostArenas<S>, span: RawSpan, x: f32| match span.arena() {
        Arena::Index => m.ids_mut(span).fill(u32::MAX),
        _ => m.get_mut(span).fill(S::of(x as f64)),
    };
    let round = |m: &mut HostArenas<S>, access: Access, span: RawSpan| {
        if rounded && access != Access::Read && span.arena() == Arena::Act {
            m.get_mut(span).iter_mut().for_each(|x| *x = S::of(round_bf16(x.f64() as f32) as f64));
        }
    };
    let all = |m: &mut HostArenas<S>| Snapshot {
        real: REAL.iter().map(|a| m.arena(*a).to_vec()).collect(),
        index: m.index_mut().to_vec(),
    };
    case.fwd.compute(S::memory(&mut m));
    case.fwd.visit(&mut |access, span| round(&mut m, access, span));
    let forward = all(&mut m);
    // A backward pass reads none of its outputs, so the first one does not affect the second.
    let backward = [Mode::Write, Mode::Accumulate].map(|mode| {
        let bwd = case.bwd.in_modes(&mut |_| mode);
        poison(&*bwd, &mut |span, x| fill(&mut m, span, x));
        bwd.compute(S::memory(&mut m));
        bwd.visit(&mut |access, span| round(&mut m, access, span));
        all(&mut m)
    });
    let [write, add] = backward;
    [forward, write, add]
}

/// Computes the expected results of a case, once for all kinds of backends.
/// The backward pass is evaluated separately: every implementation starts from its own forward results.
pub fn expected(case: &Case, kinds: &[Numerics]) -> Vec<Expected> {
    let mut exact: Option<(Precision, Arc<Inputs>, [Snapshot<Traced>; 3])> = None;
    let one = |kind: &Numerics| {
        // The precision of activations determines the inputs.
        if exact.as_ref().is_none_or(|(stored, ..)| *stored != kind.stored) {
            let inputs = Arc::new(case.inputs_f32(kind.stored));
            let outcome = plain::<Traced>(case, &inputs, false);
            exact = Some((kind.stored, inputs, outcome));
        }
        let (_, inputs, exact) = exact.as_ref().expect("it was just made");
        let rounded = kind.stored == Precision::Bf16;
        let products = case.fwd.is_product() || case.bwd.is_product();
        match kind.products == Precision::Bf16 && products {
            true => outcomes(case, *kind, inputs, exact, &plain::<Bf16Products>(case, inputs, rounded)),
            false => {
                let kind = Numerics { products: Precision::F32, ..*kind };
                outcomes(case, kind, inputs, exact, &plain::<f32>(case, inputs, rounded))
            }
        }
    };
    kinds.iter().map(one).collect()
}

fn outcomes<S: Scalar>(
    case: &Case,
    kind: Numerics,
    inputs: &Arc<Inputs>,
    exact: &[Snapshot<Traced>; 3],
    naive: &[Snapshot<S>; 3],
) -> Expected {
    let back = |mode: Mode, i: usize| outcome(&*case.bwd.in_modes(&mut |_| mode), 3.0, kind, &exact[i], &naive[i]);
    Expected {
        inputs: inputs.clone(),
        fwd: outcome(&*case.fwd, 2.0, kind, &exact[0], &naive[0]),
        bwd: [back(Mode::Write, 1), back(Mode::Accumulate, 2)],
    }
}

/// Returns the expected outputs of `op`: the exact values, and the allowed error.
/// The allowed error is `factor` times the error of the naive values, but at least the error of correct rounding.
fn outcome<S: Scalar>(
    op: &dyn AnyOp,
    factor: f64,
    kind: Numerics,
    exact: &Snapshot<Traced>,
    naive: &Snapshot<S>,
) -> ExpectedOutputs {
    let mut all = Vec::new();
    op.visit(&mut |access, span| {
        if access == Access::Read {
            return;
        }
        let (part, arena) = (span.range(), span.arena() as usize);
        if span.arena() == Arena::Index {
            return all.push((span, Want::Ids(exact.index[part].to_vec())));
        }
        let (want, plain) = (&exact.real[arena][part.clone()], &naive.real[arena][part]);
        let worst = |of: &mut dyn Iterator<Item = f64>| of.fold(0.0, f64::max);
        // An expected infinity must not allow errors next to it.
        let largest = worst(&mut want.iter().map(|x| x.f64().abs()).filter(|x| x.is_finite()));
        let naive_error = worst(&mut want.iter().zip(plain).map(|(w, p)| (w.f64() - p.f64()).abs()));
        // A few units in the last place of the largest value. For a bf16 value, half a unit, since every rounding may
        // cost it.
        let rounding = match kind.stored == Precision::Bf16 && span.arena() == Arena::Act {
            true => 1.0 / 512.0,
            false => 8.0 * f32::EPSILON as f64,
        };
        // A naive run that is exact by chance must not reject correct rounding, nor a value that is small by
        // cancellation.
        let honest = worst(&mut want.iter().map(|x| Traced::allowed(&[*x], kind)));
        let budget = (factor * naive_error + rounding * largest).max(honest) + 1e-30;
        all.push((span, Want::Real(want.iter().map(|x| x.f64()).collect(), budget)));
    });
    ExpectedOutputs(all)
}

/// The name of a field of an op in a message.
fn named(what: &str, op: &dyn AnyOp, span: RawSpan) -> String {
    format!("{what}: {}, field {} ({span:?})", op.name(), op.field_name(span).unwrap_or("?"))
}

/// Compares the outputs of `op` on the backend (before -> after) with the expected ones. Returns the largest share of
/// a budget, and a message for every wrong field.
fn compare(
    what: &str,
    op: &dyn AnyOp,
    outcome: &ExpectedOutputs,
    [got, before]: [&Snapshot<f32>; 2],
) -> (f64, Vec<String>) {
    let mut wrong: Vec<String> = Vec::new();
    let named = |span: RawSpan| named(what, op, span);
    let mut touched: Vec<RawSpan> = Vec::new();
    op.visit(&mut |access, span| {
        if access != Access::Read {
            touched.push(span);
        }
    });
    let mut worst = 0.0f64;
    // Skipped outputs are not written.
    for (span, want) in outcome.0.iter().filter(|(span, _)| touched.contains(span)) {
        let part = span.range();
        match want {
            // Ids must match exactly.
            Want::Ids(ids) => {
                let have = &got.index[part];
                if let Some(i) = (0..ids.len()).find(|i| have[*i] != ids[*i]) {
                    wrong.push(format!("{}: [{i}] is {}, should be {}", named(*span), have[i], ids[i]));
                }
            }
            Want::Real(values, budget) => {
                for (i, (w, h)) in values.iter().zip(&got.real[span.arena() as usize][part]).enumerate() {
                    let error = (w - *h as f64).abs();
                    let same = (w.is_nan() && h.is_nan()) || *w == *h as f64;
                    if !same && (error.is_nan() || error > *budget) {
                        let size = format!("error {error:.2e} > {budget:.2e}");
                        wrong.push(format!("{}: [{i}] is {h}, should be {w} ({size})", named(*span)));
                        break;
                    }
                    if !same {
                        worst = worst.max(error / budget);
                    }
                }
            }
        }
    }
    let inside = |arena: Arena, i: usize| touched.iter().any(|s| s.arena() == arena && s.range().contains(&i));
    for (a, arena) in REAL.iter().enumerate() {
        for (i, (b, g)) in before.real[a].iter().zip(&got.real[a]).enumerate() {
            if b.to_bits() != g.to_bits() && !inside(*arena, i) {
                wrong.push(format!("{what}: {}: stray write to {arena:?}[{i}]: {b} became {g}", op.name()));
                break;
            }
        }
    }
    for (i, (b, g)) in before.index.iter().zip(&got.index).enumerate() {
        if b != g && !inside(Arena::Index, i) {
            wrong.push(format!("{what}: {}: stray write to {:?}[{i}]: {b} became {g}", op.name(), Arena::Index));
            break;
        }
    }
    (worst, wrong)
}

/// Compares two runs on the same input. Returns a message for every field of `op` whose bits differ.
fn compare_bits(what: &str, op: &dyn AnyOp, [first, second]: [&Snapshot<f32>; 2]) -> Vec<String> {
    let mut wrong = Vec::new();
    op.visit(&mut |access, span| {
        if access == Access::Read {
            return;
        }
        let part = span.range();
        let differs = |i: usize| match span.arena() {
            Arena::Index => {
                let (a, b) = (first.index[i], second.index[i]);
                (a != b).then(|| format!("{a}, then {b}"))
            }
            arena => {
                let (a, b) = (first.real[arena as usize][i], second.real[arena as usize][i]);
                (a.to_bits() != b.to_bits()).then(|| format!("{a}, then {b}"))
            }
        };
        if let Some((i, values)) = part.clone().find_map(|i| Some((i - part.start, differs(i)?))) {
            wrong.push(format!("{}: [{i}] is {values} for the same input", named(what, op, span)));
        }
    });
    wrong
}

/// Checks that the op has used no more scratch memory than [`Run::need`] returns. A step that reserved that
/// much would otherwise allocate memory while it runs.
///
/// # Errors
/// It has used more.
fn within_need(k: &mut dyn Backend, op: &dyn AnyOp) -> Result<(), String> {
    let taken = k.scratch_taken();
    match op.need_on(k) {
        Ok(need) if taken > need => {
            Err(format!("{} took {taken} bytes of scratch memory, its `Run::need` says {need}", op.name()))
        }
        // A step never runs unsupported sizes.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The states of one run of a case.
struct Ran {
    /// Before and after the forward pass, and before and after the backward pass.
    states: [Snapshot<f32>; 4],
    /// A message for every op that used more scratch memory than it declares.
    over: Vec<String>,
}

/// Runs a case on a backend. No state of earlier runs of the backend remains.
///
/// # Errors
/// The device fails.
fn run_on(case: &Case, bwd: &dyn AnyOp, inputs: &Inputs, k: &mut dyn Backend) -> Result<Ran, String> {
    for a in REAL {
        let n = case.plan.len(a);
        k.write(case.plan.whole(a), &vec![BACKGROUND; n]);
    }
    let ids = case.plan.index_span(case.plan.whole(Arena::Index));
    k.write_ids(ids, &vec![BACKGROUND_ID; ids.len()]);
    fill(case, inputs, k);
    poison(&*case.fwd, &mut |span, x| put(k, &case.plan, span, x));
    let start = snapshot(k, &case.plan);
    k.scratch_taken();
    case.fwd.run_on(k);
    let mut over: Vec<String> = within_need(k, &*case.fwd).err().into_iter().collect();
    let forward = snapshot(k, &case.plan);
    poison(bwd, &mut |span, x| put(k, &case.plan, span, x));
    let middle = snapshot(k, &case.plan);
    bwd.run_on(k);
    over.extend(within_need(k, bwd).err());
    let end = snapshot(k, &case.plan);
    k.sync().map_err(|e| e.to_string())?;
    Ok(Ran { states: [start, forward, middle, end], over })
}

/// Writes the inputs of a case.
fn fill(case: &Case, inputs: &[(RawSpan, Vec<f32>)], k: &mut dyn Backend) {
    for (span, values) in inputs {
        k.write(*span, values);
    }
    for (span, fill) in &case.fills {
        if let super::case::Fill::Ids(ids) = fill {
            k.write_ids(case.plan.index_span(*span), ids);
        }
    }
}

fn bits(s: &Snapshot<f32>) -> Vec<u32> {
    s.real.iter().flatten().map(|x| x.to_bits()).chain(s.index.iter().copied()).collect()
}

/// Runs a case on a backend created by `open`, in every mode of its gradients.
///
/// # Errors
/// The backend does not open, or results differ from the expected ones.
pub fn parity(case: &Case, open: Open<'_>) -> Result<Parity, String> {
    let mut k = open(&case.plan).map_err(|e| format!("{}: {e}", case.name))?;
    parity_on(case, &expected(case, &[Numerics::of(&k)])[0], &mut *k)
}

/// Runs a case twice on a backend, in one mode of its gradients (in words: `gradients`). Returns the errors, unless the
/// device failed, and a message for every fault.
fn in_mode(
    case: &Case,
    (bwd, gradients): (&dyn AnyOp, &str),
    inputs: &Inputs,
    [forward, backward]: [&ExpectedOutputs; 2],
    k: &mut dyn Backend,
) -> (Option<Parity>, Vec<String>) {
    let what = format!("case '{}'", case.name);
    let (first, second) = (format!("{what}, forward"), format!("{what}, backward ({gradients})"));
    let said = |e: String| format!("{what} ({gradients}): {e}");
    let ran = match run_on(case, bwd, inputs, k) {
        Ok(ran) => ran,
        Err(e) => return (None, vec![said(e)]),
    };
    let [start, made, poisoned, end] = &ran.states;
    let (fwd, mut wrong) = compare(&first, &*case.fwd, forward, [made, start]);
    let (back, faults) = compare(&second, bwd, backward, [end, poisoned]);
    wrong.extend(faults);
    wrong.extend(ran.over.into_iter().map(said));
    let again = match run_on(case, bwd, inputs, k) {
        Ok(again) => again,
        Err(e) => {
            wrong.push(said(e));
            return (None, wrong);
        }
    };
    wrong.extend(again.over.into_iter().map(said));
    let ends = [end, &again.states[3]];
    if bits(ends[0]) != bits(ends[1]) {
        let fields = [compare_bits(&first, &*case.fwd, ends), compare_bits(&second, bwd, ends)].concat();
        let elsewhere = fields.is_empty().then(|| said("the same input gave other bits outside the fields".into()));
        wrong.extend(fields.into_iter().chain(elsewhere));
    }
    (Some(Parity { forward: fwd, backward: back }), wrong)
}

/// Runs a case on a backend, in every mode of its gradients.
///
/// # Errors
/// Results differ from the expected ones. The error has a line for every wrong field in every mode.
pub fn parity_on(case: &Case, expected: &Expected, k: &mut dyn Backend) -> Result<Parity, String> {
    let mut gradients = 0;
    case.bwd.in_modes(&mut |i| {
        gradients = gradients.max(i + 1);
        Mode::Write
    });
    let mut worst = Parity::default();
    let mut wrong: Vec<String> = Vec::new();
    // All written, all accumulated, and each skipped once.
    for variant in 0..2 + gradients {
        let bwd = case.bwd.in_modes(&mut |i| match variant {
            0 => Mode::Write,
            1 => Mode::Accumulate,
            _ if variant - 2 == i => Mode::Skip,
            _ => Mode::Write,
        });
        let gradients = match variant {
            0 => "gradients written".to_string(),
            1 => "gradients added to".to_string(),
            _ => format!("gradient {} left out", variant - 2),
        };
        let wanted = [&expected.fwd, &expected.bwd[(variant == 1) as usize]];
        let (reached, found) = in_mode(case, (&*bwd, &gradients), &expected.inputs, wanted, k);
        // The same fault of the forward pass occurs in every mode.
        for fault in found {
            if !wrong.contains(&fault) {
                wrong.push(fault);
            }
        }
        // A failed device would report its error again in every other mode.
        let Some(reached) = reached else { break };
        worst.forward = worst.forward.max(reached.forward);
        worst.backward = worst.backward.max(reached.backward);
    }
    if wrong.is_empty() { Ok(worst) } else { Err(wrong.join("\n")) }
}

/// Returns the bits that a case leaves in all arenas, with all gradients written. They are independent of the thread
/// order.
///
/// # Errors
/// The device fails, or an op uses more scratch memory than it declares.
pub fn fingerprint(case: &Case, open: Open<'_>) -> Result<Vec<u32>, String> {
    let bwd = case.bwd.in_modes(&mut |_| Mode::Write);
    let mut k = open(&case.plan).map_err(|e| e.to_string())?;
    let ran = run_on(case, &*bwd, &case.inputs_f32(k.precision()), &mut *k)?;
    if ran.over.is_empty() { Ok(bits(&ran.states[3])) } else { Err(ran.over.join("\n")) }
}

/// Fills a backend and runs a case on it, forward and backward, for backends that record.
///
/// # Errors
/// The device cannot be opened, or it fails.
pub fn play(case: &Case, open: Open<'_>) -> base::Result<()> {
    let mut k = open(&case.plan)?;
    fill(case, &case.inputs_f32(k.precision()), &mut *k);
    case.fwd.run_on(&mut *k);
    case.bwd.run_on(&mut *k);
    k.sync()
}
