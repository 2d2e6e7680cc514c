//! The arithmetic of host arenas: f64 for the reference, f32 for host backends, and f32 with bf16 products to measure
//! the error of a plain bf16 implementation.

use std::{
    fmt::Debug,
    iter::Sum,
    ops::{Add, AddAssign, Div, Mul, Neg, Sub},
};

use half::bf16;
use serde::{Deserialize, Serialize};

/// The element type of activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 activations and products; f32 sums, statistics and weights. Tensor cores are designed for this.
    #[default]
    Bf16,
    /// f32 throughout.
    F32,
}

/// Rounds to the nearest bf16, ties to even.
pub fn round_bf16(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}

/// The number type of a host backend's real arenas. The references of all ops are written in it.
pub trait Scalar:
    Copy
    + Default
    + Debug
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + Sum
    + Send
    + Sync
    + 'static
{
    fn of(x: f64) -> Self;
    fn f64(self) -> f64;
    fn zero() -> Self {
        Self::of(0.0)
    }
    fn one() -> Self {
        Self::of(1.0)
    }
    fn neg_infinity() -> Self {
        Self::of(f64::NEG_INFINITY)
    }
    /// Computes self * other like a tensor core.
    /// The factors are rounded to bf16 where the type represents that ([`Bf16Products`]), else the product is plain.
    /// References use it where an engine in bf16 rounds its factors.
    fn product(self, other: Self) -> Self {
        self * other
    }
    /// Returns the value as stored by an op in an activation. Types that track rounding count one rounding to bf16
    /// here.
    fn stored(self) -> Self {
        self
    }
    /// Returns the value if positive, else zero. NaN stays NaN.
    fn relu(self) -> Self {
        if self < Self::zero() { Self::zero() } else { self }
    }
    /// Returns the value where `by` is positive, else zero.
    fn gate(self, by: Self) -> Self {
        if by <= Self::zero() { Self::zero() } else { self }
    }
    /// Returns whether it is larger than `other`.
    fn beats(self, other: Self) -> bool {
        self > other
    }
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn sqrt(self) -> Self;
    fn tanh(self) -> Self;
    fn max(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
}

macro_rules! float {
    ($($t:ty),*) => { $(
        impl Scalar for $t {
            fn of(x: f64) -> Self {
                x as $t
            }
            fn f64(self) -> f64 {
                self as f64
            }
            fn exp(self) -> Self {
                self.exp()
            }
            fn ln(self) -> Self {
                self.ln()
            }
            fn sqrt(self) -> Self {
                self.sqrt()
            }
            fn tanh(self) -> Self {
                self.tanh()
            }
            fn max(self, other: Self) -> Self {
                self.max(other)
            }
            fn min(self, other: Self) -> Self {
                self.min(other)
            }
        }
    )* };
}

float!(f32, f64);

/// f32 with [`Scalar::product`] rounding both factors to bf16 first, like tensor cores. All other operations are plain
/// f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct Bf16Products(f32);

macro_rules! pass_on {
    ($($trait:ident $function:ident),*) => { $(
        impl $trait for Bf16Products {
            type Output = Self;
            fn $function(self, other: Self) -> Self {
                Bf16Products($trait::$function(self.0, other.0))
            }
        }
    )* };
}

pass_on!(Add add, Sub sub, Mul mul, Div div);

impl Neg for Bf16Products {
    type Output = Self;
    fn neg(self) -> Self {
        Bf16Products(-self.0)
    }
}

impl AddAssign for Bf16Products {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl Sum for Bf16Products {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        Bf16Products(all.map(|x| x.0).sum())
    }
}

impl Scalar for Bf16Products {
    fn of(x: f64) -> Self {
        Bf16Products(x as f32)
    }
    fn f64(self) -> f64 {
        self.0 as f64
    }
    fn product(self, other: Self) -> Self {
        Bf16Products(round_bf16(self.0) * round_bf16(other.0))
    }
    fn exp(self) -> Self {
        Bf16Products(self.0.exp())
    }
    fn ln(self) -> Self {
        Bf16Products(self.0.ln())
    }
    fn sqrt(self) -> Self {
        Bf16Products(self.0.sqrt())
    }
    fn tanh(self) -> Self {
        Bf16Products(self.0.tanh())
    }
    fn max(self, other: Self) -> Self {
        Bf16Products(self.0.max(other.0))
    }
    fn min(self, other: Self) -> Self {
        Bf16Products(self.0.min(other.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 + 1/256 lies halfway between two bf16 and rounds to the even one, 1; 1 + 3/256 rounds up to 1 + 1/64.
    #[test]
    fn only_what_is_called_a_product_rounds() {
        let [a, b] = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0];
        let [x, y] = [a, b].map(Bf16Products::of);
        assert_eq!(x.product(y).f64(), 1.0 + 1.0 / 64.0);
        assert_eq!((x * y).f64(), (a as f32 * b as f32) as f64);
        assert_eq!((x + y).f64(), a + b);
        assert_eq!(a.product(b), a * b);
        assert_eq!((a as f32).product(b as f32), a as f32 * b as f32);
    }
}
