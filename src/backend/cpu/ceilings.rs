//! Copies and exponentials at the full speed of all cores.

use rayon::prelude::*;

use super::{
    CHUNK, Cpu,
    math::{self, lanes, load, store},
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{ExpChain, Run, StreamCopy, Valid};

impl Run<StreamCopy> for Cpu {
    fn execute(&mut self, op: &Valid<'_, StreamCopy>) {
        let mem = self.lend(op);
        let y = mem.out(op.y, op.n);
        let x = mem.get(op.x, op.n);
        // One long piece per core: the system's copy is fastest that way.
        let piece = op.n.div_ceil(rayon::current_num_threads()).max(CHUNK);
        y.par_chunks_mut(piece).zip(x.par_chunks(piece)).for_each(|(y, x)| y.copy_from_slice(x));
    }
}

impl Run<ExpChain> for Cpu {
    fn execute(&mut self, op: &Valid<'_, ExpChain>) {
        let mem = self.lend(op);
        let y = mem.out(op.y, op.n);
        let x = mem.get(op.x, op.n);
        let rounds = op.rounds;
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| dispatch(Chain { y, x, rounds }));
    }
}

struct Chain<'a> {
    y: &'a mut [f32],
    x: &'a [f32],
    rounds: usize,
}

/// Number of vectors that go through the rounds together. Each round depends on the last, so one vector alone cannot
/// fill the pipelines.
const ABREAST: usize = 8;

impl Kernel for Chain<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.y.len().min(self.x.len());
        let (y, x) = (self.y.as_mut_ptr(), self.x.as_ptr());
        let whole = n - n % (ABREAST * S::LANES);
        for i in (0..whole).step_by(ABREAST * S::LANES) {
            // SAFETY: `whole` is at most the length of both slices, and i one of its steps.
            let mut v: [S::V; ABREAST] = std::array::from_fn(|k| unsafe { load(s, x.add(i + k * S::LANES), S::LANES) });
            for _ in 0..self.rounds {
                for v in &mut v {
                    *v = math::exp(s, s.sub(s.zero(), *v));
                }
            }
            for (k, v) in v.into_iter().enumerate() {
                // SAFETY: as above.
                unsafe { store(s, y.add(i + k * S::LANES), v, S::LANES) };
            }
        }
        lanes!(S, n - whole, |i, k| {
            // SAFETY: whole + i + k is at most the length of both slices.
            unsafe {
                let mut v = load(s, x.add(whole + i), k);
                for _ in 0..self.rounds {
                    v = math::exp(s, s.sub(s.zero(), v));
                }
                store(s, y.add(whole + i), v, k);
            }
        });
    }
}
