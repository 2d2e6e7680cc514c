/*! Invalid ops that must be rejected, built from the cases of every op: each span once shorter than planned, and each
written span moved onto another one. They detect a check that ignores a span, and a backend that runs an op without its
check.
*/

use super::{Access, Backend, Open, any_op::AnyOp, case::Case};
use crate::{
    base::error::ErrorKind,
    mem::{Arena, Planner},
};

/// The error of an invalid op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// The i-th span lacks its last element.
    Short(usize),
    /// The i-th span, which is written, starts where the other one starts.
    Onto(usize, usize),
}

/// The result of a check.
#[derive(Clone, Debug)]
pub struct Tried {
    pub op: &'static str,
    pub misuse: Misuse,
    pub refused: bool,
}

/// Returns the op with one of its spans changed.
fn changed(op: &dyn AnyOp, misuse: Misuse) -> Box<dyn AnyOp> {
    let mut spans = Vec::new();
    op.visit(&mut |_, span| spans.push(span));
    let mut i = 0;
    op.on_spans(&mut |span| {
        i += 1;
        match misuse {
            Misuse::Short(at) if at + 1 == i => span.slice(0, span.len() - 1),
            Misuse::Onto(at, other) if at + 1 == i => spans[other].stretched(span.len()),
            _ => span,
        }
    })
}

/// Returns all possible span errors of an op.
fn misuses(op: &dyn AnyOp) -> Vec<Misuse> {
    let mut spans = Vec::new();
    op.visit(&mut |access, span| spans.push((access, span)));
    let mut all = Vec::new();
    for (i, (access, span)) in spans.iter().enumerate().filter(|(_, (_, span))| !span.is_empty()) {
        all.push(Misuse::Short(i));
        let written = *access != Access::Read;
        let other = spans.iter().position(|(_, s)| s != span && s.arena() == span.arena() && !s.is_empty());
        all.extend(other.filter(|_| written).map(|j| Misuse::Onto(i, j)));
    }
    all
}

/// Runs the check for every span error of both ops of a case.
pub fn tried(case: &Case) -> Vec<Tried> {
    let of = |op: &dyn AnyOp| -> Vec<Tried> {
        let tried = |misuse| Tried { op: op.name(), misuse, refused: changed(op, misuse).validate().is_err() };
        misuses(op).into_iter().map(tried).collect()
    };
    [of(&*case.fwd), of(&*case.bwd)].concat()
}

/// Runs each rejected misuse of both ops of a case on a backend with a pattern in memory.
/// The backend must report an error that names the op, and the pattern must stay. Returns the number of misuses.
///
/// # Errors
/// The backend accepts an invalid op or writes memory.
pub fn refused(case: &Case, open: Open<'_>) -> Result<usize, String> {
    Ok(refused_op(&*case.fwd, &case.plan, open)? + refused_op(&*case.bwd, &case.plan, open)?)
}

fn refused_op(op: &dyn AnyOp, plan: &Planner, open: Open<'_>) -> Result<usize, String> {
    let wrong: Vec<(Misuse, Box<dyn AnyOp>)> =
        misuses(op).into_iter().map(|misuse| (misuse, changed(op, misuse))).collect();
    let wrong: Vec<_> = wrong.iter().filter(|(_, op)| op.validate().is_err()).collect();
    for (misuse, bad) in &wrong {
        let said = |what: String| format!("{} with {misuse:?}: {what}", op.name());
        let mut k = open(plan).map_err(|e| said(e.to_string()))?;
        paint(&mut *k, plan);
        let before = picture(&mut *k, plan);
        bad.run_on(&mut *k);
        // Later ops are not run either, although they are valid.
        op.run_on(&mut *k);
        let after = picture(&mut *k, plan);
        match k.sync() {
            Ok(()) => return Err(said("no error".into())),
            Err(e) if e.kind != ErrorKind::Internal || !e.what.contains(op.name()) => return Err(said(e.to_string())),
            Err(_) if before != after => return Err(said("memory was written".into())),
            Err(_) => {}
        }
    }
    Ok(wrong.len())
}

const REAL: [Arena; 6] = [Arena::Param, Arena::Grad, Arena::Moment1, Arena::Moment2, Arena::Act, Arena::Stat];

/// Fills all memory. The ids are small, so an op that ran by mistake would find its rows.
fn paint(k: &mut dyn Backend, plan: &Planner) {
    for arena in REAL {
        let span = plan.whole(arena);
        k.write(span, &(0..span.len()).map(|i| 1.0 + (i % 100) as f32 / 128.0).collect::<Vec<_>>());
    }
    let ids = plan.index_span(plan.whole(Arena::Index));
    k.write_ids(ids, &vec![0; ids.len()]);
}

/// Returns the bits of all memory.
fn picture(k: &mut dyn Backend, plan: &Planner) -> Vec<u32> {
    let mut bits = Vec::new();
    for arena in REAL {
        let span = plan.whole(arena);
        let mut values = vec![0.0; span.len()];
        k.read(span, &mut values);
        bits.extend(values.iter().map(|x| x.to_bits()));
    }
    let ids = plan.index_span(plan.whole(Arena::Index));
    let mut values = vec![0; ids.len()];
    k.read_ids(ids, &mut values);
    bits.extend(values);
    bits
}
