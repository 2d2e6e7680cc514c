/*! Rounding error bounds: f64 numbers that track the error of a computation in f32, or with bf16 factors.

Every operation in f32 has an error of at most half a unit in the last place of its result (at most 2^-24 of it). A
product of bf16 factors has an error of half a unit of each factor (at most 2^-8 of it; bf16 numbers have 8 bits). Such
an error is evenly distributed, so its variance is a third of the square of that half unit. It propagates by the
derivative of the following computation. The variances are added as if the errors were independent (Higham and Mary, A
new approach to probabilistic rounding error analysis, SISC 2019). A sum of many errors stays within six standard
deviations except for 2 in 10^9.

The errors belong to the terms of a sum, not to the sum itself. Where large terms cancel, the result is small and their
rounding error is not. One run of plain loops may be exact by chance; these bounds do not depend on chance.

A device with activations in bf16 rounds the results of each op once more (at most 2^-8 of them). The reference backend
calls [`Scalar::stored`] for this.

A derivative says nothing about a kink: where a number is closer to it than its own error, correct computations may end
on either side. [`Scalar::gate`] counts the whole gated value as an error, with the probability of that.
[`Traced::close_calls`] counts such cases for [`Scalar::beats`].
*/

use std::{
    cell::Cell,
    cmp::Ordering,
    iter::Sum,
    ops::{Add, AddAssign, Div, Mul, Neg, Sub},
};

use super::scalar::{Precision, Scalar};

/// The arithmetic of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numerics {
    /// The precision of activations.
    pub stored: Precision,
    /// The precision of the factors of products.
    pub products: Precision,
}

impl Numerics {
    const F32: Self = Numerics { stored: Precision::F32, products: Precision::F32 };
    const BF16_PRODUCTS: Self = Numerics { stored: Precision::F32, products: Precision::Bf16 };
    const BF16: Self = Numerics { stored: Precision::Bf16, products: Precision::Bf16 };
}

/// Number of standard deviations that a correct error stays within.
const SURE: f64 = 6.0;
/// Error of vectorized functions in half units in the last place (`backend/cpu/math.rs` tests it).
const EXP: f64 = 4.0;
const TANH: f64 = 8.0;

/// An f64 with the variance of the rounding errors so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traced {
    x: f64,
    /// Variance from results rounded to f32.
    singles: f64,
    /// Variance from factors rounded to bf16.
    factors: f64,
    /// Variance from activations stored in bf16.
    stored: f64,
    /// For a zero that [`Scalar::relu`] returned, how far below zero its argument was.
    below: f64,
}

thread_local! {
    static CLOSE: Cell<usize> = const { Cell::new(0) };
}

/// Returns the largest power of two that is at most |x|.
fn binade(x: f64) -> f64 {
    f64::from_bits(x.to_bits() & 0x7ff0_0000_0000_0000)
}

/// Returns the probability that a normal error is larger than `t` standard deviations, in one direction; zero beyond
/// [`SURE`]. The approximation is within 2 % up to three standard deviations.
fn beyond(t: f64) -> f64 {
    if t < SURE { 0.5 * (-0.717 * t - 0.416 * t * t).exp() } else { 0.0 }
}

/// Returns the variance of rounding to f32, with an error of at most `halves` half units.
fn single(x: f64, halves: f64) -> f64 {
    (halves * binade(x) * 2f64.powi(-24)).powi(2) / 3.0
}

/// Returns the variance of rounding to bf16: zero for numbers that bf16 represents.
fn factor(x: f64) -> f64 {
    let held = x.to_bits() & ((1 << 45) - 1) == 0;
    if held { 0.0 } else { (binade(x) * 2f64.powi(-8)).powi(2) / 3.0 }
}

impl Traced {
    /// Creates a result with the given variances of its inputs, plus its own rounding.
    fn made(x: f64, [singles, factors, stored]: [f64; 3], halves: f64) -> Self {
        // An infinity (a masked score) has no error and must not allow any.
        let finite = |v: f64| if v.is_finite() { v } else { 0.0 };
        Traced {
            x,
            singles: finite(singles + single(x, halves)),
            factors: finite(factors),
            stored: finite(stored),
            below: 0.0,
        }
    }

    /// Combines the variances of the errors of both, each times the square of its derivative.
    fn costs(self, by_self: f64, b: Self, by_b: f64) -> [f64; 3] {
        [(self.singles, b.singles), (self.factors, b.factors), (self.stored, b.stored)]
            .map(|(mine, theirs)| by_self * mine + by_b * theirs)
    }

    /// Computes f(x) with the derivative of f at x.
    fn through(self, y: f64, slope: f64, halves: f64) -> Self {
        Self::made(y, self.costs(slope * slope, Self::default(), 0.0), halves)
    }

    /// Returns the rounding error allowed for these numbers together (Euclidean), in a computation of this precision.
    pub fn allowed(numbers: &[Traced], kind: Numerics) -> f64 {
        let sum = |of: fn(&Traced) -> f64| numbers.iter().map(of).sum::<f64>();
        let factors = if kind.products == Precision::Bf16 { sum(|t| t.factors) } else { 0.0 };
        let stored = if kind.stored == Precision::Bf16 { sum(|t| t.stored) } else { 0.0 };
        SURE * (sum(|t| t.singles) + factors + stored).sqrt()
    }

    /// Returns how many comparisons ([`Scalar::beats`]) on this thread were closer than f32 resolves, and resets the
    /// count.
    pub fn close_calls() -> usize {
        CLOSE.take()
    }
}

impl Add for Traced {
    type Output = Self;
    fn add(self, b: Self) -> Self {
        Self::made(self.x + b.x, self.costs(1.0, b, 1.0), 1.0)
    }
}

impl Sub for Traced {
    type Output = Self;
    fn sub(self, b: Self) -> Self {
        Self::made(self.x - b.x, self.costs(1.0, b, 1.0), 1.0)
    }
}

impl Mul for Traced {
    type Output = Self;
    fn mul(self, b: Self) -> Self {
        Self::made(self.x * b.x, self.costs(b.x * b.x, b, self.x * self.x), 1.0)
    }
}

impl Div for Traced {
    type Output = Self;
    fn div(self, b: Self) -> Self {
        let y = self.x / b.x;
        Self::made(y, self.costs(b.x.powi(-2), b, (y / b.x).powi(2)), 1.0)
    }
}

impl Neg for Traced {
    type Output = Self;
    fn neg(self) -> Self {
        Traced { x: -self.x, ..self }
    }
}

impl AddAssign for Traced {
    fn add_assign(&mut self, b: Self) {
        *self = *self + b;
    }
}

impl Sum for Traced {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Traced::default(), Add::add)
    }
}

impl PartialEq for Traced {
    fn eq(&self, b: &Self) -> bool {
        self.x == b.x
    }
}

impl PartialOrd for Traced {
    fn partial_cmp(&self, b: &Self) -> Option<Ordering> {
        self.x.partial_cmp(&b.x)
    }
}

impl Scalar for Traced {
    fn of(x: f64) -> Self {
        Traced { x, ..Traced::default() }
    }
    fn f64(self) -> f64 {
        self.x
    }
    fn product(self, b: Self) -> Self {
        let exact = self * b;
        let rounded = b.x * b.x * factor(self.x) + self.x * self.x * factor(b.x);
        Traced { factors: exact.factors + if rounded.is_finite() { rounded } else { 0.0 }, ..exact }
    }
    fn stored(self) -> Self {
        let rounded = factor(self.x);
        Traced { stored: self.stored + if rounded.is_finite() { rounded } else { 0.0 }, ..self }
    }
    fn relu(self) -> Self {
        if self.x.is_nan() || self.x >= 0.0 {
            return self;
        }
        // Below zero by less than its error in some arithmetic: that error stays, so that a gate detects it.
        let kept = |kind, error| if self.x.abs() > Traced::allowed(&[self], kind) { 0.0 } else { error };
        Traced {
            x: 0.0,
            singles: kept(Numerics::F32, self.singles),
            factors: kept(Numerics::BF16_PRODUCTS, self.factors),
            stored: kept(Numerics::BF16, self.stored),
            below: -self.x,
        }
    }
    fn gate(self, by: Self) -> Self {
        let through = if by.x <= 0.0 { Traced::default() } else { self };
        let away = by.x.abs().max(by.below);
        // A gate on the other side changes the result by all of x. The variance of that is x^2 times its probability.
        let flips = |kind| match Traced::allowed(&[by], kind) {
            0.0 => 0.0,
            six => self.x * self.x * beyond(away * SURE / six),
        };
        let [singles, factors, stored] = [Numerics::F32, Numerics::BF16_PRODUCTS, Numerics::BF16].map(flips);
        Traced {
            singles: through.singles + singles,
            factors: through.factors + (factors - singles).max(0.0),
            stored: through.stored + (stored - factors.max(singles)).max(0.0),
            ..through
        }
    }
    fn beats(self, other: Self) -> bool {
        let apart = (self.x - other.x).abs();
        // Equal numbers result from equal terms, which every implementation adds in one order.
        if apart > 0.0 && apart < Traced::allowed(&[self, other], Numerics::F32) {
            CLOSE.set(CLOSE.get() + 1);
        }
        self.x > other.x
    }
    fn exp(self) -> Self {
        let y = self.x.exp();
        self.through(y, y, EXP)
    }
    fn ln(self) -> Self {
        self.through(self.x.ln(), 1.0 / self.x, EXP)
    }
    fn sqrt(self) -> Self {
        let y = self.x.sqrt();
        self.through(y, 0.5 / y, 1.0)
    }
    fn tanh(self) -> Self {
        let y = self.x.tanh();
        self.through(y, 1.0 - y * y, TANH)
    }
    fn max(self, b: Self) -> Self {
        if self.x > b.x || b.x.is_nan() { self } else { b }
    }
    fn min(self, b: Self) -> Self {
        if self.x < b.x || b.x.is_nan() { self } else { b }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, Stream};

    fn sum_of(numbers: &[f64]) -> Traced {
        numbers.iter().map(|x| Traced::of(*x)).sum()
    }

    /// Returns six standard deviations of errors of at most these sizes.
    fn six(errors: &[f64]) -> f64 {
        6.0 * (errors.iter().map(|e| e * e / 3.0).sum::<f64>()).sqrt()
    }

    fn near(got: f64, want: f64) {
        assert!((got - want).abs() <= 1e-12 * want, "{got}, {want}");
    }

    /// 3 + 5 - 8 + 0.5: partial sums 3, 8, 0, 0.5, with half units of 2, 8, 0 and 1/2 times 2^-24.
    #[test]
    fn terms_that_cancel_keep_what_their_rounding_costs() {
        let sum = sum_of(&[3.0, 5.0, -8.0, 0.5]);
        assert_eq!(sum.f64(), 0.5);
        let want = six(&[2.0, 8.0, 0.0, 0.5].map(|h| h * 2f64.powi(-24)));
        near(Traced::allowed(&[sum], Numerics::F32), want);
        // No factor was rounded.
        near(Traced::allowed(&[sum], Numerics::BF16_PRODUCTS), want);
        near(Traced::allowed(&[sum, sum], Numerics::F32), want * 2f64.sqrt());
    }

    /// 1.1 * 5: half units of 4 * 2^-24 for the result. In bf16, 1.1 has an error of at most 2^-8, and 5 is exact.
    #[test]
    fn products_round_their_result_and_in_bf16_their_factors() {
        let product = Traced::of(1.1).product(Traced::of(5.0));
        let single = 4.0 * 2f64.powi(-24);
        near(Traced::allowed(&[product], Numerics::F32), six(&[single]));
        near(Traced::allowed(&[product], Numerics::BF16_PRODUCTS), six(&[single, 5.0 * 2f64.powi(-8)]));
        near(Traced::allowed(&[Traced::of(1.1) * Traced::of(5.0)], Numerics::BF16_PRODUCTS), six(&[single]));
    }

    /// 1.1 has an error of at most 2^-8 when stored in bf16, and three times that when tripled. 5 is exact.
    #[test]
    fn what_is_stored_in_bf16_is_rounded_once_more() {
        let tripled = Traced::of(1.1).stored() * Traced::of(3.0).stored();
        let single = 2.0 * 2f64.powi(-24);
        near(Traced::allowed(&[tripled], Numerics::BF16_PRODUCTS), six(&[single]));
        near(Traced::allowed(&[tripled], Numerics::BF16), six(&[single, 3.0 * 2f64.powi(-8)]));
        assert_eq!(Traced::allowed(&[Traced::of(5.0).stored()], Numerics::BF16), 0.0);
    }

    #[test]
    fn what_is_exactly_zero_or_masked_out_allows_nothing() {
        let masked = Traced::of(f64::NEG_INFINITY) + Traced::of(1.0);
        assert_eq!(
            Traced::allowed(&[masked, masked.exp(), Traced::of(0.0) * Traced::of(3.0)], Numerics::BF16_PRODUCTS),
            0.0
        );
    }

    #[test]
    fn a_gate_closer_to_zero_than_its_error_allows_all_that_it_lets_through() {
        // 2 - 2 (1 + 2^-23): below zero by less than the error of the sum of 2 and 2.
        let near_zero = (Traced::of(2.0) + Traced::of(0.0)) - (Traced::of(2.0) + Traced::of(2f64.powi(-22)));
        assert!(near_zero.f64() < 0.0);
        let shut = Traced::of(7.0).gate(near_zero.relu());
        assert_eq!(shut.f64(), 0.0);
        // Six times the root of 7^2 p, where p is the probability that an error of this variance exceeds 2^-22.
        let variance = |errors: &[f64]| (six(errors) / 6.0).powi(2);
        let z = 2f64.powi(-22) / variance(&[2.0 * 2f64.powi(-24), 2.0 * 2f64.powi(-24)]).sqrt();
        let want = |z: f64| 6.0 * 7.0 * beyond(z).sqrt();
        let got = Traced::allowed(&[shut], Numerics::F32);
        assert!((got / want(z) - 1.0).abs() < 0.02, "{got}, {}", want(z));
        // 5 - 5.01 with 5.01 rounded to bf16: below zero by less than the error of a bf16 factor, by more than the
        // error of f32.
        let of_factors = Traced::of(5.0) - Traced::of(5.01).product(Traced::of(1.0));
        let shut = Traced::of(7.0).gate(of_factors.relu());
        assert_eq!(Traced::allowed(&[shut], Numerics::F32), 0.0);
        let got = Traced::allowed(&[shut], Numerics::BF16_PRODUCTS);
        let wanted = want(0.01 / variance(&[4.0 * 2f64.powi(-8)]).sqrt());
        assert!((got / wanted - 1.0).abs() < 0.02, "{got}, {wanted}");
        // On the boundary, half of all errors flip the gate.
        let open = Traced::of(7.0).gate(Traced::of(5.01).product(Traced::of(1.0)) - Traced::of(5.01));
        near(Traced::allowed(&[open], Numerics::BF16_PRODUCTS), 6.0 * 7.0 * 0.5f64.sqrt());
        let far = Traced::of(7.0).gate((near_zero - Traced::of(1.0)).relu());
        assert_eq!(Traced::allowed(&[far], Numerics::BF16_PRODUCTS), 0.0);
        // A fused activation gates by its argument, not by its result.
        let far = Traced::of(7.0).gate(near_zero - Traced::of(1.0));
        assert_eq!(Traced::allowed(&[far], Numerics::BF16_PRODUCTS), 0.0);
        Traced::close_calls();
        assert!(!near_zero.beats(Traced::of(0.0)) && !near_zero.beats(near_zero) && !near_zero.beats(Traced::of(1.0)));
        assert_eq!(Traced::close_calls(), 1);
    }

    /// The bias gradient before a dense layer: one doubtful value, times 16 weights, summed. All terms flip together,
    /// so the error of their sum is often larger than the root of their squares. Where a gate does flip, the true
    /// number is as far from zero as its error is large.
    #[test]
    fn a_flipped_gate_may_reach_a_sum_by_many_ways() {
        // Under Miri fewer draws, whose shares vary more.
        let (draws, most, least) = if cfg!(miri) { (60, 0.2, 0.1) } else { (4000, 0.07, 0.25) };
        let (mut outside, mut outside_root) = (0, 0);
        for seed in 0..draws {
            let mut draw = Stream::new(seed, Purpose::Test, 3);
            let sigma = Traced::allowed(&[Traced::of(5.01).product(Traced::of(1.0))], Numerics::BF16_PRODUCTS) / SURE;
            let away = sigma * f64::from(draw.normal()).abs();
            let by = Traced::of(5.01).product(Traced::of(1.0)) - Traced::of(5.01 - away);
            let value = Traced::of(7.0).gate(by);
            let weights: Vec<f64> = (0..16).map(|_| f64::from(draw.normal())).collect();
            let error = 7.0 * weights.iter().sum::<f64>().abs();
            let sum: Traced = weights.iter().map(|w| value * Traced::of(*w)).sum();
            outside += usize::from(error > Traced::allowed(&[sum], Numerics::BF16_PRODUCTS));
            outside_root += usize::from(error > 7.0 * weights.iter().map(|w| w * w).sum::<f64>().sqrt());
        }
        let share = |n: usize| n as f64 / draws as f64;
        assert!(share(outside) < most, "{} of flips are not allowed", share(outside));
        assert!(share(outside_root) > least, "{} of flips exceed the root of squares", share(outside_root));
    }

    /// Sums in f32, in order, of numbers that mostly cancel: within the allowed error, and close to it.
    #[test]
    fn sums_in_f32_stay_within_what_is_allowed() {
        let mut worst = 0.0f64;
        // Under Miri a tenth, of which the worst may be smaller.
        let (seeds, least) = if cfg!(miri) { (40, 0.1) } else { (400, 0.4) };
        for seed in 0..seeds {
            let mut draw = Stream::new(seed, Purpose::Test, 0);
            let mut numbers: Vec<f32> = (0..50).map(|_| draw.normal()).collect();
            numbers.extend(numbers.clone().iter().map(|x| -x * 1.0001));
            let exact = sum_of(&numbers.iter().map(|x| *x as f64).collect::<Vec<_>>());
            let error = (numbers.iter().sum::<f32>() as f64 - exact.f64()).abs();
            worst = worst.max(error / Traced::allowed(&[exact], Numerics::F32));
        }
        // At least three standard deviations in 400 draws.
        assert!((least..1.0).contains(&worst), "{worst}");
    }
}
