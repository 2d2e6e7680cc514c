//! What a machine can do at most, measured by running it: bytes copied, a large product, exponentials.

use serde::{Deserialize, Serialize};

use super::clock::{Keys, Patience, Repeats, time};
use crate::{
    backend::Cpu,
    base::Result,
    mem::Planner,
    ops::{Backend, ExpChain, LinearFwd, Op, Run, StreamCopy},
};

/// Rates of a device, in a precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Bytes a second read and written by a copy too large for any cache.
    pub copy: f64,
    /// The same for smaller copies, again and again: (bytes read and written, rate), ascending; what caches give.
    pub cached: [(f64, f64); SIZES],
    /// Floating-point operations a second of a large square product.
    pub products: f64,
    /// Exponentials a second.
    pub exps: f64,
}

/// Sizes of copies.
const SIZES: usize = 7;

impl Ceilings {
    /// With memory as fast as it is for data of `bytes` that were used just before; never slower than for the largest: a small
    /// copy may say more of how work is begun than of memory, and an op that lives by that is far from its roof.
    pub fn warm(&self, bytes: f64) -> Ceilings {
        let fits = self.cached.iter().find(|(size, _)| *size >= bytes);
        Ceilings { copy: fits.map_or(self.copy, |(_, rate)| rate.max(self.copy)), ..*self }
    }
}

/// How long each is looked at.
const PATIENCE: Patience = Patience { seconds: 0.1, sample: 5e-3 };

/// Rounds of the chain of exponentials: then the bytes are no matter.
const ROUNDS: usize = 256;

/// Measures a device: some seconds. Sizes grow until a call lasts long enough to say something, so that a slow device (the
/// emulator) is done soon too.
///
/// # Errors
/// The device cannot be opened, or fails.
pub fn measure(open: &dyn Fn(&Planner) -> Result<Box<dyn Repeats>>) -> Result<Ceilings> {
    // Up to 256 MB each way.
    let mut cached = [(f64::INFINITY, 0.0); SIZES];
    let copy = growing((14..=26).step_by(2), 2e-2, |size| {
        let (mut p, n) = (Planner::new(), 1 << size);
        let op = StreamCopy { y: p.stat(n), x: p.stat(n), n };
        let seconds = run(&mut *open(&p)?, &op, PATIENCE)?;
        let rate = op.cost().bytes / seconds;
        cached[(size as usize - 14) / 2] = (op.cost().bytes, rate);
        Ok((seconds, rate))
    })?;
    // Where a slow device has been spared the rest.
    cached.iter_mut().filter(|(_, rate)| *rate == 0.0).for_each(|point| *point = (f64::MAX, copy.last));
    let exps = growing((12..=24).step_by(2), 2e-2, |size| {
        let (mut p, n) = (Planner::new(), 1 << size);
        let op = ExpChain { y: p.stat(n), x: p.stat(n), n, rounds: ROUNDS };
        run(&mut *open(&p)?, &op, PATIENCE).map(|seconds| (seconds, op.cost().exps / seconds))
    })?;
    Ok(Ceilings { copy: copy.last, cached, products: products(open)?.best, exps: exps.best })
}

/// Operations a second of a large product on the CPU, in f32: half a second.
///
/// # Errors
/// Memory for it.
pub fn cpu_products() -> Result<f64> {
    products(&|p| Ok(Box::new(Cpu::new(p)))).map(|rates| rates.best)
}

/// Products of up to 8,192 rows, columns and terms.
fn products(open: &dyn Fn(&Planner) -> Result<Box<dyn Repeats>>) -> Result<Rates> {
    growing(7..=13, 5e-2, |size| {
        let (mut p, n) = (Planner::new(), 1 << size);
        let op = LinearFwd { y: p.act(n * n), x: p.act(n * n), w: p.weight(n * n), b: p.weight(n), n, i: n, o: n };
        run(&mut *open(&p)?, &op, PATIENCE).map(|seconds| (seconds, op.cost().flop / seconds))
    })
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
        for start in (0..span.len()).step_by(values.len()) {
            let len = values.len().min(span.len() - start);
            b.write(span.slice(start, len), &values[..len]);
        }
    }
    // What else the machine does can only lower what is seen of it.
    time(b, op, patience, &mut Keys::default()).map(|t| t.least)
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
