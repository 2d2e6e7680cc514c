/*! Philox 4x32-10: random numbers as a pure function of (key, counter).

A draw has no state: the i-th number of a stream can be computed at any time. A run is therefore a function of its seed,
and a resumed run repeats the same draws. The backward pass recomputes a dropout mask instead of storing it, and every
backend gets the same bits. Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
*/

const M0: u32 = 0xD251_1F53;
const M1: u32 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;

/// Computes ten rounds of Philox 4x32.
#[inline(always)]
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let p0 = M0 as u64 * c0 as u64;
        let p1 = M1 as u64 * c2 as u64;
        (c0, c1, c2, c3) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(W0);
        k1 = k1.wrapping_add(W1);
    }
    [c0, c1, c2, c3]
}

/// The purpose of a stream of draws.
/// The number is part of the counter, so streams never overlap. A new purpose gets a new number. The numbers must not
/// change, since a checkpoint must resume with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    Init = 1,
    Shuffle = 2,
    Window = 3,
    Mask = 4,
    Negative = 5,
    EvalNegative = 6,
    Test = 7,
    Domain = 8,
    Basket = 10,
    Bootstrap = 11,
    Search = 12,
    /// Dropout sites use numbers from here upwards, one per site of the model.
    Dropout = 1 << 16,
}

/// A stream of draws under one seed: `(purpose, a)` identifies the stream, the counter is the position in it.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    key: [u32; 2],
    purpose: u32,
    a: u32,
    next: u64,
    buffer: [u32; 4],
}

impl Stream {
    /// Returns stream number `a` (an epoch, a step, a tensor) of a purpose.
    pub fn new(seed: u64, purpose: Purpose, a: u32) -> Self {
        Stream { key: [seed as u32, (seed >> 32) as u32], purpose: purpose as u32, a, next: 0, buffer: [0; 4] }
    }

    /// Returns the same stream, read from 32-bit draw number `position` on.
    pub fn at(mut self, position: u64) -> Self {
        self.next = position;
        if !position.is_multiple_of(4) {
            self.refill(position / 4);
        }
        self
    }

    fn refill(&mut self, block: u64) {
        self.buffer = philox([block as u32, (block >> 32) as u32, self.a, self.purpose], self.key);
    }

    /// Returns the next 32 uniform bits.
    pub fn bits(&mut self) -> u32 {
        if self.next.is_multiple_of(4) {
            self.refill(self.next / 4);
        }
        let draw = self.buffer[(self.next % 4) as usize];
        self.next += 1;
        draw
    }

    /// Returns a uniform number in [0, 1) with 24 bits.
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 8) as f32 * (1.0 / (1 << 24) as f32)
    }

    /// Returns a uniform integer in [0, n), n > 0, by multiply-shift of 64 bits (bias below n / 2^64).
    pub fn below(&mut self, n: u64) -> u64 {
        let wide = (self.bits() as u64) << 32 | self.bits() as u64;
        ((wide as u128 * n as u128) >> 64) as u64
    }

    /// Returns a standard normal number by Box-Muller (one number per call; the sine half is discarded).
    pub fn normal(&mut self) -> f32 {
        let u = 1.0 - self.uniform() as f64;
        let v = self.uniform() as f64;
        ((-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()) as f32
    }

    /// Shuffles `xs` (Fisher-Yates).
    pub fn shuffle<T>(&mut self, xs: &mut [T]) {
        for i in (1..xs.len()).rev() {
            xs.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_known_answers() {
        // The known-answer vectors published with Random123.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn a_stream_can_be_entered_anywhere() {
        let mut whole = Stream::new(7, Purpose::Test, 3);
        let all: Vec<u32> = (0..20).map(|_| whole.bits()).collect();
        for (start, bits) in all.iter().enumerate() {
            let mut tail = Stream::new(7, Purpose::Test, 3).at(start as u64);
            assert_eq!(tail.bits(), *bits, "entered at {start}");
        }
    }

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let mut s = Stream::new(1, Purpose::Test, 0);
        let n = 200_000;
        let mean = (0..n).map(|_| s.uniform() as f64).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 4.0 * (1.0f64 / 12.0 / n as f64).sqrt(), "mean {mean}");
        let xs: Vec<f64> = (0..n).map(|_| s.normal() as f64).collect();
        let var = xs.iter().map(|x| x * x).sum::<f64>() / n as f64;
        assert!((var - 1.0).abs() < 4.0 * (2.0f64 / n as f64).sqrt(), "variance {var}");
    }
}
