//! What a machine can do at most, measured by running it: bytes copied, a large product, exponentials.

use serde::{Deserialize, Serialize};

use super::clock::{Keys, Patience, Repeats, time};
use crate::{
    base::Result,
    mem::{Planner, RawSpan},
    ops::{Backend, ExpChain, LinearFwd, Op, Run, StreamCopy},
};

/// Rates of a device, in a precision.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Bytes a second read and written by a copy too large for any cache.
    pub copy: f64,
    /// Floating-point operations a second of a large square product.
    pub products: f64,
    /// Exponentials a second.
    pub exps: f64,
}

/// Rounds of the chain of exponentials: then the bytes are no matter.
const ROUNDS: usize = 256;

/// Measures a device: some seconds. Sizes grow until a call lasts long enough to say something, so that a slow device (the
/// emulator) is done soon too.
///
/// # Errors
/// The device cannot be opened, or fails.
pub fn measure(open: &dyn Fn(&Planner) -> Result<Box<dyn Repeats>>) -> Result<Ceilings> {
    let patience = Patience { seconds: 0.1, sample: 5e-3 };
    // Up to 256 MB each way.
    let copy = growing((14..=26).step_by(2), 2e-2, |size| {
        let (mut p, n) = (Planner::new(), 1 << size);
        let op = StreamCopy { y: p.stat(n), x: p.stat(n), n };
        run(&mut *open(&p)?, &op, patience).map(|seconds| (seconds, op.cost().bytes / seconds))
    })?;
    let exps = growing((12..=24).step_by(2), 2e-2, |size| {
        let (mut p, n) = (Planner::new(), 1 << size);
        let op = ExpChain { y: p.stat(n), x: p.stat(n), n, rounds: ROUNDS };
        run(&mut *open(&p)?, &op, patience).map(|seconds| (seconds, op.cost().exps / seconds))
    })?;
    // Up to 8,192 rows, columns and terms.
    let products = growing(7..=13, 5e-2, |size| {
        let (mut p, n) = (Planner::new(), 1 << size);
        let op = LinearFwd { y: p.act(n * n), x: p.act(n * n), w: p.weight(n * n), b: p.weight(n), n, i: n, o: n };
        run(&mut *open(&p)?, &op, patience).map(|seconds| (seconds, op.cost().flop / seconds))
    })?;
    Ok(Ceilings { copy: copy.last, products: products.best, exps: exps.best })
}

fn run<O: Op>(b: &mut dyn Repeats, op: &O, patience: Patience) -> Result<f64>
where
    for<'a> dyn Backend + 'a: Run<O>,
{
    // Pages that nobody has touched are one page of zeros, which no memory is read for.
    let mut spans = Vec::new();
    op.uses(&mut |_, span| spans.push(span));
    let values: Vec<f32> = (0..1 << 16).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect();
    for span in spans {
        for start in (0..span.len).step_by(values.len()) {
            let len = values.len().min(span.len - start);
            let piece = RawSpan { offset: span.offset + start, len, ..span };
            b.write(piece, &values[..len]);
        }
    }
    time(b, op, patience, &mut Keys::default()).map(|t| t.p20)
}

/// The rate at the largest size, and the best at any.
struct Rates {
    last: f64,
    best: f64,
}

/// Goes up in sizes until a call lasts `enough` seconds. `at` gives seconds and rate.
fn growing(
    sizes: impl Iterator<Item = u32>,
    enough: f64,
    mut at: impl FnMut(u32) -> Result<(f64, f64)>,
) -> Result<Rates> {
    let mut rates = Rates { last: 0.0, best: 0.0 };
    for size in sizes {
        let (seconds, rate) = at(size)?;
        rates = Rates { last: rate, best: rates.best.max(rate) };
        if seconds >= enough {
            break;
        }
    }
    Ok(rates)
}
