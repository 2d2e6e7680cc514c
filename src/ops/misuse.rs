/*! Invalid ops that must be rejected, built from the cases of every op: each span once shorter than planned, and each
written span moved onto another one. They detect a check that ignores a span, and a backend that runs an op without its
check.
*/

use super::{Access, Memory, Op, Run, Valid, prove::Open};
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
fn changed<O: Op>(op: &O, misuse: Misuse) -> O {
    let mut spans = Vec::new();
    op.uses(&mut |_, span| spans.push(span));
    let mut i = 0;
    op.with_spans(&mut |span| {
        i += 1;
        match misuse {
            Misuse::Short(at) if at + 1 == i => span.slice(0, span.len() - 1),
            Misuse::Onto(at, other) if at + 1 == i => spans[other].stretched(span.len()),
            _ => span,
        }
    })
}

/// Returns all possible span errors of an op.
fn misuses<O: Op>(op: &O) -> Vec<Misuse> {
    let mut spans = Vec::new();
    op.uses(&mut |access, span| spans.push((access, span)));
    let mut all = Vec::new();
    for (i, (access, span)) in spans.iter().enumerate().filter(|(_, (_, span))| !span.is_empty()) {
        all.push(Misuse::Short(i));
        let written = *access != Access::Read;
        let other = spans.iter().position(|(_, s)| s != span && s.arena() == span.arena() && !s.is_empty());
        all.extend(other.filter(|_| written).map(|j| Misuse::Onto(i, j)));
    }
    all
}

/// Runs the check for every span error of an op.
pub(super) fn tried<O: Op>(op: &O) -> Vec<Tried> {
    let tried = |misuse| Tried { op: O::NAME, misuse, refused: Valid::of(&changed(op, misuse)).is_err() };
    misuses(op).into_iter().map(tried).collect()
}

/// Runs each rejected misuse of an op on a backend with a pattern in memory.
/// The backend must report an error that names the op, and the pattern must stay. Returns the number of misuses.
///
/// # Errors
/// The backend accepts an invalid op or writes memory.
pub(super) fn refused<O: Op, K: Memory + Run<O>>(op: &O, plan: &Planner, open: Open<'_, K>) -> Result<usize, String> {
    let wrong: Vec<(Misuse, O)> = misuses(op).into_iter().map(|misuse| (misuse, changed(op, misuse))).collect();
    let wrong: Vec<_> = wrong.iter().filter(|(_, op)| Valid::of(op).is_err()).collect();
    for (misuse, bad) in &wrong {
        let said = |what: String| format!("{} with {misuse:?}: {what}", O::NAME);
        let mut k = open(plan).map_err(|e| said(e.to_string()))?;
        paint(&mut k, plan);
        let before = picture(&mut k, plan);
        k.run(bad);
        // Later ops are not run either, although they are valid.
        k.run(op);
        let after = picture(&mut k, plan);
        match k.sync() {
            Ok(()) => return Err(said("no error".into())),
            Err(e) if e.kind != ErrorKind::Internal || !e.what.contains(O::NAME) => return Err(said(e.to_string())),
            Err(_) if before != after => return Err(said("memory was written".into())),
            Err(_) => {}
        }
    }
    Ok(wrong.len())
}

const REAL: [Arena; 6] = [Arena::Param, Arena::Grad, Arena::Moment1, Arena::Moment2, Arena::Act, Arena::Stat];

/// Fills all memory. The ids are small, so an op that ran by mistake would find its rows.
fn paint<K: Memory>(k: &mut K, plan: &Planner) {
    for arena in REAL {
        let span = plan.whole(arena);
        k.write(span, &(0..span.len()).map(|i| 1.0 + (i % 100) as f32 / 128.0).collect::<Vec<_>>());
    }
    let ids = plan.index_span(plan.whole(Arena::Index));
    k.write_ids(ids, &vec![0; ids.len()]);
}

/// Returns the bits of all memory.
fn picture<K: Memory>(k: &mut K, plan: &Planner) -> Vec<u32> {
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
