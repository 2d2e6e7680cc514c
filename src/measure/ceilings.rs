//! Measures the ceilings of a machine: the rates of copies, of a large product and of exponentials.

use serde::{Deserialize, Serialize};

use super::clock::{Keys, Patience, time};
use crate::{
    backend::Cpu,
    base::Result,
    mem::Planner,
    ops::{AnyOp, Backend, ExpChain, LinearFwd, Op, Open, StreamCopy},
};

/// Rates of a device in a precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Bytes per second, read and written, of a copy too large for any cache.
    pub copy: f64,
    /// The same for smaller copies, repeated so that they come from caches: (bytes read and written, rate), ascending.
    pub cached: [(f64, f64); SIZES],
    /// Floating-point operations per second of a large square product.
    pub products: f64,
    /// Exponentials per second.
    pub exps: f64,
}

/// The number of copy sizes.
const SIZES: usize = 7;

impl Ceilings {
    /// Returns the ceilings with the copy rate for `bytes` of recently used data, never below the rate of the largest
    /// copy. The rate of a small copy may reflect launch latency rather than memory; an op limited by launch latency is
    /// far from its roofline.
    pub fn warm(&self, bytes: f64) -> Ceilings {
        let fits = self.cached.iter().find(|(size, _)| *size >= bytes);
        Ceilings { copy: fits.map_or(self.copy, |(_, rate)| rate.max(self.copy)), ..*self }
    }
}

/// Time spent on each measurement.
const PATIENCE: Patience = Patience { seconds: 0.1, sample: 5e-3 };

/// Rounds of the chain of exponentials: enough to make the bytes negligible.
const ROUNDS: usize = 256;

/// Measures a device in some seconds. Sizes grow until a call lasts long enough to be timed, so a slow device (the
/// emulator) finishes soon too.
///
/// # Errors
/// The device cannot be opened, or fails.
pub fn measure(open: Open<'_>) -> Result<Ceilings> {
    // Up to 256 MB in each direction.
    let mut cached = [(f64::INFINITY, 0.0); SIZES];
    let copy = growing((14..=26).step_by(2), 2e-2, |size| {
        let (mut p, n) = (Planner::new(), 1 << size);
        let op = StreamCopy { y: p.stat(n), x: p.stat(n), n };
        let seconds = run(&mut *open(&p)?, &op, PATIENCE)?;
        let rate = op.cost().bytes / seconds;
        cached[(size as usize - 14) / 2] = (op.cost().bytes, rate);
        Ok((seconds, rate))
    })?;
    // Fills in the larger sizes that a slow device skips.
    cached.iter_mut().filter(|(_, rate)| *rate == 0.0).for_each(|point| *point = (f64::MAX, copy.last));
    let exps = growing((12..=24).step_by(2), 2e-2, |size| {
        let (mut p, n) = (Planner::new(), 1 << size);
        let op = ExpChain { y: p.stat(n), x: p.stat(n), n, rounds: ROUNDS };
        run(&mut *open(&p)?, &op, PATIENCE).map(|seconds| (seconds, op.cost().exps / seconds))
    })?;
    Ok(Ceilings { copy: copy.last, cached, products: products(open)?.best, exps: exps.best })
}

/// Measures the floating-point operations per second of a large product on the CPU in f32, in half a second.
///
/// # Errors
/// There is not enough memory.
pub fn cpu_products() -> Result<f64> {
    products(&|p| Ok(Box::new(Cpu::new(p)))).map(|rates| rates.best)
}

/// Measures products of up to 8,192 rows, columns and terms.
fn products(open: Open<'_>) -> Result<Rates> {
    growing(7..=13, 5e-2, |size| {
        let (mut p, n) = (Planner::new(), 1 << size);
        let op = LinearFwd { y: p.act(n * n), x: p.act(n * n), w: p.weight(n * n), b: p.weight(n), n, i: n, o: n };
        run(&mut *open(&p)?, &op, PATIENCE).map(|seconds| (seconds, op.cost().flop / seconds))
    })
}

fn run(b: &mut dyn Backend, op: &dyn AnyOp, patience: Patience) -> Result<f64> {
    // Untouched pages all map to one page of zeros and cause no memory traffic, so the operands are written first.
    let mut spans = Vec::new();
    op.visit(&mut |_, span| spans.push(span));
    let values: Vec<f32> = (0..1 << 16).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect();
    for span in spans {
        for start in (0..span.len()).step_by(values.len()) {
            let len = values.len().min(span.len() - start);
            b.write(span.slice(start, len), &values[..len]);
        }
    }
    // Other load on the machine can only lower the measured rate.
    time(b, op, patience, &mut Keys::default()).map(|t| t.least)
}

/// The rate at the largest size and the best rate at any size.
struct Rates {
    last: f64,
    best: f64,
}

/// Increases the size until a call lasts `enough` seconds. `at` returns seconds and rate.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_a_cache_is_held_against_the_cache() {
        let mut cached = [(f64::MAX, 1.0); SIZES];
        (cached[0], cached[1]) = ((100.0, 9.0), (400.0, 3.0));
        let c = Ceilings { copy: 1.0, cached, products: 5.0, exps: 6.0 };
        assert_eq!([50.0, 100.0, 101.0, 400.0, 401.0].map(|bytes| c.warm(bytes).copy), [9.0, 9.0, 3.0, 3.0, 1.0]);
        assert_eq!(c.warm(1.0).products, 5.0);
        cached[0].1 = 0.5;
        assert_eq!(Ceilings { cached, ..c }.warm(50.0).copy, 1.0);
    }
}
