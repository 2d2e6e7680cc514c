/*! How an op is proved. *Gradient*: the f64 reference backward against central differences of the f64 reference forward,
projected on fixed random directions. *Parity*: a backend against the f64 reference, with an error budget of 2x (forward)
or 3x (gradients) what plain loops in the same precision make: f32, or for a bf16 backend f32 sums of bf16 products with
activations rounded to bf16; ids exactly. Destinations start as NaN (write; ids as u32::MAX) or filled (accumulate), nothing
else may change, and the same input gives the same bits twice.
*/

use super::{Access, Memory, Mode, Op, Run, Valid, case::Case};
use crate::{
    base::{
        self,
        rng::{Purpose, Stream},
    },
    mem::{Arena, Bf16Products, HostArenas, Planner, Precision, RawSpan, Scalar, round_bf16},
};

/// Worst error over budget of a parity run: at most 1 when it passed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parity {
    pub forward: f64,
    pub backward: f64,
}

/// Runs the reference of an op that is known to be valid.
pub(super) fn reference<S: Scalar, O: Op>(op: &O, m: &mut HostArenas<S>) {
    let valid = Valid::of(op).unwrap_or_else(|invalid| panic!("{}: {}", invalid.op, invalid.why));
    op.reference(&m.lend(valid.spans()));
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Largest relative error over the inputs and four directions each.
pub fn gradient_error<F: Op, B: Op>(case: &Case<F, B>) -> Option<f64> {
    if case.inputs.is_empty() {
        return None;
    }
    const STEP: f64 = 1e-5;
    let mut m = case.host::<f64>(0.0, Precision::F32);
    let loss = |m: &mut HostArenas<f64>| {
        reference(&case.fwd, m);
        case.outputs.iter().map(|(y, dy)| dot(m.get(*y), m.get(*dy))).sum::<f64>()
    };
    loss(&mut m);
    reference(&case.bwd.with_modes(&mut |_| Mode::Write), &mut m);
    let mut worst = 0.0f64;
    for (i, (x, dx)) in case.inputs.iter().enumerate() {
        if x.is_empty() {
            continue;
        }
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
            worst = worst.max((analytic - numeric).abs() / scale);
        }
    }
    Some(worst)
}

/// The real arenas, in order.
const REAL: [Arena; 6] = [Arena::Param, Arena::Grad, Arena::Moment1, Arena::Moment2, Arena::Act, Arena::Stat];

/// What every element outside the inputs starts as, so that a stray write shows.
const BACKGROUND: f32 = -7.25;
/// The same for ids.
const BACKGROUND_ID: u32 = 0xA5A5_A5A5;

/// What all arenas hold.
struct State<T> {
    /// In the order of [`REAL`].
    real: Vec<Vec<T>>,
    index: Vec<u32>,
}

fn snapshot<K: Memory>(k: &mut K, plan: &Planner) -> State<f32> {
    let real = |a: &Arena| {
        let mut v = vec![0.0; plan.len(*a)];
        k.read(plan.whole(*a), &mut v);
        v
    };
    let real = REAL.iter().map(real).collect();
    let mut index = vec![0; plan.len(Arena::Index)];
    k.read_ids(plan.index_span(plan.whole(Arena::Index)), &mut index);
    State { real, index }
}

/// Sets the destinations of an op to what its modes call for: NaN where written (ids: `u32::MAX`, see [`put`]), fixed
/// numbers where added to.
fn poison<O: Op>(op: &O, write: &mut dyn FnMut(RawSpan, f32)) {
    op.uses(&mut |access, span| match access {
        Access::Write => write(span, f32::NAN),
        Access::Accumulate => write(span, 0.375),
        _ => {}
    });
}

/// Fills a span of a backend with `x`, ids with `u32::MAX`.
fn put<K: Memory>(k: &mut K, plan: &Planner, span: RawSpan, x: f32) {
    match span.arena() {
        Arena::Index => k.write_ids(plan.index_span(span), &vec![u32::MAX; span.len()]),
        _ => k.write(span, &vec![x; span.len()]),
    }
}

/// Runs the references in the arithmetic of `S`. With `rounded`, what they write to activations is rounded to bf16.
fn plain<S: Scalar, F: Op, B: Op>(case: &Case<F, B>, bwd: &B, precision: Precision, rounded: bool) -> [State<f64>; 2] {
    let mut m = case.host::<S>(BACKGROUND as f64, precision);
    let fill = |m: &mut HostArenas<S>, span: RawSpan, x: f32| match span.arena() {
        Arena::Index => m.ids_mut(span).fill(u32::MAX),
        _ => m.get_mut(span).fill(S::of(x as f64)),
    };
    let round = |m: &mut HostArenas<S>, access: Access, span: RawSpan| {
        if rounded && access != Access::Read && span.arena() == Arena::Act {
            m.get_mut(span).iter_mut().for_each(|x| *x = S::of(round_bf16(x.f64() as f32) as f64));
        }
    };
    let all = |m: &mut HostArenas<S>| State {
        real: REAL.iter().map(|a| m.arena(*a).iter().map(|x| x.f64()).collect()).collect(),
        index: m.index_mut().to_vec(),
    };
    reference(&case.fwd, &mut m);
    case.fwd.uses(&mut |access, span| round(&mut m, access, span));
    let forward = all(&mut m);
    poison(bwd, &mut |span, x| fill(&mut m, span, x));
    reference(bwd, &mut m);
    bwd.uses(&mut |access, span| round(&mut m, access, span));
    [forward, all(&mut m)]
}

/// Compares what `op` wrote on the backend (before -> after) with the two references.
fn compare<O: Op>(
    what: &str,
    op: &O,
    factor: f64,
    precision: Precision,
    [got, before]: [&State<f32>; 2],
    [exact, naive]: [&State<f64>; 2],
) -> Result<f64, String> {
    let mut touched: Vec<RawSpan> = Vec::new();
    op.uses(&mut |access, span| {
        if access != Access::Read {
            touched.push(span);
        }
    });
    let mut worst = 0.0f64;
    for span in &touched {
        let (part, arena) = (span.range(), span.arena() as usize);
        if span.arena() == Arena::Index {
            // Ids are right or wrong.
            if let Some(i) = part.clone().find(|i| got.index[*i] != exact.index[*i]) {
                let (have, want) = (got.index[i], exact.index[i]);
                return Err(format!("{what}: {span:?}[{}] is {have}, should be {want}", i - span.offset()));
            }
            continue;
        }
        let (want, plain) = (&exact.real[arena][part.clone()], &naive.real[arena][part.clone()]);
        let have = &got.real[arena][part];
        // An infinity that belongs there must not make room for errors beside it.
        let largest = want.iter().filter(|x| x.is_finite()).fold(0.0f64, |a, x| a.max(x.abs()));
        let naive_error = want.iter().zip(plain).fold(0.0f64, |a, (w, p)| a.max((w - p).abs()));
        // A lucky naive run must not shut out honest rounding: a few units in the last place of the largest value; of a
        // bf16 value half a unit, which every rounding may cost.
        let rounding = match precision == Precision::Bf16 && span.arena() == Arena::Act {
            true => 1.0 / 512.0,
            false => 8.0 * f32::EPSILON as f64,
        };
        let budget = factor * naive_error + rounding * largest + 1e-30;
        for (i, (w, h)) in want.iter().zip(have).enumerate() {
            let error = (w - *h as f64).abs();
            let same = (w.is_nan() && h.is_nan()) || *w == *h as f64;
            if !same && (error.is_nan() || error > budget) {
                return Err(format!("{what}: {span:?}[{i}] is {h}, should be {w} (error {error:.2e} > {budget:.2e})"));
            }
            if !same {
                worst = worst.max(error / budget);
            }
        }
    }
    let inside = |arena: Arena, i: usize| touched.iter().any(|s| s.arena() == arena && s.range().contains(&i));
    for (a, arena) in REAL.iter().enumerate() {
        for (i, (b, g)) in before.real[a].iter().zip(&got.real[a]).enumerate() {
            if b.to_bits() != g.to_bits() && !inside(*arena, i) {
                return Err(format!("{what}: stray write to {arena:?}[{i}]: {b} became {g}"));
            }
        }
    }
    for (i, (b, g)) in before.index.iter().zip(&got.index).enumerate() {
        if b != g && !inside(Arena::Index, i) {
            return Err(format!("{what}: stray write to {:?}[{i}]: {b} became {g}", Arena::Index));
        }
    }
    Ok(worst)
}

/// A case on a fresh backend: the state before and after the forward pass, before and after the backward pass.
fn run_on<F: Op, B: Op, K: Memory + Run<F> + Run<B>>(
    case: &Case<F, B>,
    bwd: &B,
    mut k: K,
) -> Result<[State<f32>; 4], String> {
    for a in REAL {
        let n = case.plan.len(a);
        k.write(case.plan.whole(a), &vec![BACKGROUND; n]);
    }
    let ids = case.plan.index_span(case.plan.whole(Arena::Index));
    k.write_ids(ids, &vec![BACKGROUND_ID; ids.len()]);
    fill(case, &mut k);
    poison(&case.fwd, &mut |span, x| put(&mut k, &case.plan, span, x));
    let start = snapshot(&mut k, &case.plan);
    k.run(&case.fwd);
    let forward = snapshot(&mut k, &case.plan);
    poison(bwd, &mut |span, x| put(&mut k, &case.plan, span, x));
    let middle = snapshot(&mut k, &case.plan);
    k.run(bwd);
    let end = snapshot(&mut k, &case.plan);
    k.sync().map_err(|e| e.to_string())?;
    Ok([start, forward, middle, end])
}

/// Writes a case's inputs.
pub(super) fn fill<F: Op, B: Op, K: Memory>(case: &Case<F, B>, k: &mut K) {
    for (span, values) in case.inputs_f32(k.precision()) {
        k.write(span, &values);
    }
    for (span, fill) in &case.fills {
        if let super::case::Fill::Ids(ids) = fill {
            k.write_ids(case.plan.index_span(*span), ids);
        }
    }
}

fn bits(s: &State<f32>) -> Vec<u32> {
    s.real.iter().flatten().map(|x| x.to_bits()).chain(s.index.iter().copied()).collect()
}

/// How a backend is opened for a plan.
pub type Open<'a, K> = &'a dyn Fn(&Planner) -> base::Result<K>;

/// A case on a backend, in every mode of its gradients.
pub fn parity<F: Op, B: Op, K: Memory + Run<F> + Run<B>>(
    case: &Case<F, B>,
    open: Open<'_, K>,
) -> Result<Parity, String> {
    let mut gradients = 0;
    case.bwd.with_modes(&mut |i| {
        gradients = gradients.max(i + 1);
        Mode::Write
    });
    let mut worst = Parity::default();
    // All written, all added to, and each left out once.
    for variant in 0..2 + gradients {
        let bwd = case.bwd.with_modes(&mut |i| match variant {
            0 => Mode::Write,
            1 => Mode::Accumulate,
            _ if variant - 2 == i => Mode::Skip,
            _ => Mode::Write,
        });
        let what = format!("{} (variant {variant})", case.name);
        let said = |e| format!("{what}: {e}");
        let k = open(&case.plan).map_err(|e| said(e.to_string()))?;
        let (precision, products) = (k.precision(), k.products());
        let rounded = precision == Precision::Bf16;
        let [start, forward, middle, end] = run_on(case, &bwd, k).map_err(said)?;
        // The backward pass is judged alone: every implementation starts from its own forward results.
        let exact = plain::<f64, F, B>(case, &bwd, precision, false);
        let naive = match products == Precision::Bf16 && (F::PRODUCTS || B::PRODUCTS) {
            true => plain::<Bf16Products, F, B>(case, &bwd, precision, rounded),
            false => plain::<f32, F, B>(case, &bwd, precision, rounded),
        };
        let fwd = compare(&what, &case.fwd, 2.0, precision, [&forward, &start], [&exact[0], &naive[0]])?;
        let back = compare(&what, &bwd, 3.0, precision, [&end, &middle], [&exact[1], &naive[1]])?;
        worst = Parity { forward: worst.forward.max(fwd), backward: worst.backward.max(back) };
        let k = open(&case.plan).map_err(|e| said(e.to_string()))?;
        let again = run_on(case, &bwd, k).map_err(said)?;
        if bits(&again[3]) != bits(&end) {
            return Err(format!("{what}: the same input gave other bits"));
        }
    }
    Ok(worst)
}

/// The bits that a case leaves in all arenas, with all gradients written: the same whatever order threads run in.
///
/// # Errors
/// The device's.
pub fn fingerprint<F: Op, B: Op, K: Memory + Run<F> + Run<B>>(
    case: &Case<F, B>,
    open: Open<'_, K>,
) -> Result<Vec<u32>, String> {
    let bwd = case.bwd.with_modes(&mut |_| Mode::Write);
    let k = open(&case.plan).map_err(|e| e.to_string())?;
    Ok(bits(&run_on(case, &bwd, k)?[3]))
}
