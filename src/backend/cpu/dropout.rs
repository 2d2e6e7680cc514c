/*! Dropout, with factors drawn eight at a time.

Philox works on 64-bit lanes: a 32 x 32 -> 64 bit product is one instruction there, and both halves are needed. The
upper halves of the state may hold garbage, which no later step reads.
*/

use rayon::prelude::*;

use super::{
    CHUNK, Cpu,
    math::{lanes, load, store},
    simd::{Kernel, Simd, dispatch},
};
use crate::ops::{DropoutAddFwd, DropoutBwd, DropoutFwd, Run, Valid, dropout::Dropout};

/// The draws of one dropout site at one step.
#[derive(Clone, Copy)]
pub struct Draws {
    key: [u32; 2],
    step: u32,
    site: u32,
    threshold: u16,
    scale: f32,
}

impl Draws {
    /// Returns `None` where nothing is dropped. Panics when all elements would be dropped.
    pub fn new(drop: &Dropout, step: u32) -> Option<Draws> {
        let threshold = u16::try_from(drop.threshold()).expect("a dropout probability below 1");
        let key = [drop.seed as u32, (drop.seed >> 32) as u32];
        (threshold > 0).then(|| Draws { key, step, site: drop.site, threshold, scale: drop.scale() as f32 })
    }

    /// Writes the factors (0 or the scale) of elements `first..first + to.len()`; `first` is a multiple of 8.
    #[inline(always)]
    pub fn fill(&self, first: u64, to: &mut [f32]) {
        debug_assert!(first.is_multiple_of(8));
        let mut block = first / 8;
        let mut factors = [0f32; 8 * AT_ONCE];
        for to in to.chunks_mut(8 * AT_ONCE) {
            // A full chunk is written in place, the last one through a copy.
            match <&mut [f32; 8 * AT_ONCE]>::try_from(&mut *to) {
                Ok(to) => self.blocks(block, to),
                Err(_) => {
                    self.blocks(block, &mut factors);
                    to.copy_from_slice(&factors[..to.len()]);
                }
            }
            block += AT_ONCE as u64;
        }
    }

    /// Returns the factors of `AT_ONCE` consecutive counters.
    #[inline(always)]
    fn blocks(&self, block: u64, to: &mut [f32; 8 * AT_ONCE]) {
        const LOW: u64 = 0xFFFF_FFFF;
        let mut c0 = [0u64; AT_ONCE];
        let mut c1 = [0u64; AT_ONCE];
        let mut c2 = [self.step as u64; AT_ONCE];
        let mut c3 = [self.site as u64; AT_ONCE];
        for j in 0..AT_ONCE {
            let at = block + j as u64;
            c0[j] = at & LOW;
            c1[j] = at >> 32;
        }
        let [mut k0, mut k1] = self.key;
        for _ in 0..10 {
            for j in 0..AT_ONCE {
                let p0 = (c0[j] & LOW) * 0xD251_1F53;
                let p1 = (c2[j] & LOW) * 0xCD9E_8D57;
                c0[j] = (p1 >> 32) ^ c1[j] ^ k0 as u64;
                c1[j] = p1;
                c2[j] = (p0 >> 32) ^ c3[j] ^ k1 as u64;
                c3[j] = p0;
            }
            k0 = k0.wrapping_add(0x9E37_79B9);
            k1 = k1.wrapping_add(0xBB67_AE85);
        }
        // Each counter yields four words, in order. Each word holds two draws, the low half first.
        let mut words = [0u32; 4 * AT_ONCE];
        for j in 0..AT_ONCE {
            words[4 * j] = c0[j] as u32;
            words[4 * j + 1] = c1[j] as u32;
            words[4 * j + 2] = c2[j] as u32;
            words[4 * j + 3] = c3[j] as u32;
        }
        let threshold = self.threshold as u32;
        for (pair, word) in to.chunks_exact_mut(2).zip(words) {
            pair[0] = if word & 0xFFFF >= threshold { self.scale } else { 0.0 };
            pair[1] = if word >> 16 >= threshold { self.scale } else { 0.0 };
        }
    }
}

/// Number of counters drawn together: two vectors of 64-bit lanes with AVX-512.
const AT_ONCE: usize = 16;

/// y = residual + x * factor, over one chunk that starts at element `first`.
struct Apply<'a> {
    y: &'a mut [f32],
    x: &'a [f32],
    /// The addend; `None` adds nothing.
    residual: Option<&'a [f32]>,
    /// Whether the result is added to y.
    acc: bool,
    draws: Draws,
    first: usize,
}

impl Kernel for Apply<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut factors = [0f32; 512];
        for (part, y) in self.y.chunks_mut(512).enumerate() {
            let start = part * 512;
            let x = &self.x[start..][..y.len()];
            let residual = self.residual.map(|r| &r[start..][..x.len()]);
            let factors = &mut factors[..x.len()];
            self.draws.fill((self.first + start) as u64, factors);
            let y = y.as_mut_ptr();
            lanes!(S, x.len(), |i, k| {
                // SAFETY: i + k is at most the common length of the parts.
                unsafe {
                    let old = match residual {
                        Some(r) => load(s, r.as_ptr().add(i), k),
                        None if self.acc => load(s, y.add(i), k),
                        None => s.zero(),
                    };
                    let f = load(s, factors.as_ptr().add(i), k);
                    store(s, y.add(i), s.fma(load(s, x.as_ptr().add(i), k), f, old), k);
                }
            });
        }
    }
}

fn apply(y: &mut [f32], acc: bool, residual: Option<&[f32]>, x: &[f32], draws: Option<Draws>) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).enumerate().for_each(|(chunk, (y, x))| {
        let first = chunk * CHUNK;
        let residual = residual.map(|r| &r[first..][..x.len()]);
        match (draws, residual) {
            (Some(draws), _) => dispatch(Apply { y, x, residual, acc, draws, first }),
            (None, Some(r)) => y.iter_mut().zip(x.iter().zip(r)).for_each(|(y, (x, r))| *y = r + x),
            (None, None) if acc => y.iter_mut().zip(x).for_each(|(y, x)| *y += x),
            (None, None) => y.copy_from_slice(x),
        }
    });
}

impl Run<DropoutFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, DropoutFwd>) {
        let mem = self.lend(op);
        let y = mem.out(op.y, op.n);
        apply(y, false, None, mem.get(op.x, op.n), Draws::new(&op.drop, mem.ids(op.step, 1)[0]));
    }
}

impl Run<DropoutAddFwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, DropoutAddFwd>) {
        let mem = self.lend(op);
        let y = mem.out(op.y, op.n);
        let (residual, x) = (mem.get(op.residual, op.n), mem.get(op.x, op.n));
        apply(y, false, Some(residual), x, Draws::new(&op.drop, mem.ids(op.step, 1)[0]));
    }
}

impl Run<DropoutBwd> for Cpu {
    fn execute(&mut self, op: &Valid<'_, DropoutBwd>) {
        let mem = self.lend(op);
        let Some((dx, acc)) = mem.grad(op.dx, op.n) else { return };
        apply(dx, acc, None, mem.get(op.dy, op.n), Draws::new(&op.drop, mem.ids(op.step, 1)[0]));
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::simd::{Isa, dispatch_on},
        *,
    };

    struct Fill<'a>(Draws, u64, &'a mut [f32]);
    impl Kernel for Fill<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, _: S) {
            self.0.fill(self.1, self.2)
        }
    }

    #[test]
    fn factors_are_those_of_the_contract() {
        for isa in Isa::available() {
            for (p, first, n) in [(0.1, 0, 1000), (0.5, 8, 7), (0.9, (1u64 << 35) - 64, 300), (0.25, 1 << 40, 129)] {
                let drop = Dropout { p, seed: 0xFEDC_BA98_7654_3210, site: 65_540 };
                let mut got = vec![f32::NAN; n];
                dispatch_on(isa, Fill(Draws::new(&drop, 17).unwrap(), first, &mut got));
                for (i, &got) in got.iter().enumerate() {
                    assert_eq!(got, drop.factor(17, first + i as u64) as f32, "{isa:?} p {p} element {i}");
                }
            }
        }
    }
}
