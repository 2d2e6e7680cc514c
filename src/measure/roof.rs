//! The roofline: the least time that an op can take on a machine, and what then limits it. The model is that of
//! Williams, Waterman and Patterson 2009, with a third ceiling for exponentials.

use serde::{Deserialize, Serialize};

use super::ceilings::Ceilings;
use crate::{mem::Precision, ops::Cost};

/// What limits a call that is otherwise not held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Memory traffic.
    Memory,
    /// Multiplications and additions in products.
    Products,
    /// Exponentials and similar functions.
    Exps,
}

impl Bound {
    pub fn word(self) -> &'static str {
        match self {
            Bound::Memory => "memory",
            Bound::Products => "products",
            Bound::Exps => "exps",
        }
    }
}

/// Returns the least time in seconds of a call with this cost, and the kind of work that limits it. Each kind of work
/// runs at its ceiling, and all kinds run concurrently. `products` states that the op's floating-point operations are
/// those of products ([`crate::ops::Op::PRODUCTS`]); other ops are never limited by their few operations. Data in a
/// cache can be faster than memory: [`Ceilings::warm`] gives that rate.
pub fn floor(cost: &Cost, products: bool, precision: Precision, c: &Ceilings) -> (f64, Bound) {
    let all = [
        (cost.moved(precision) / c.copy, Bound::Memory),
        (if products { cost.flop / c.products } else { 0.0 }, Bound::Products),
        (cost.exps / c.exps, Bound::Exps),
    ];
    all.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).expect("three kinds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_kind_of_work_is_the_floor() {
        let c = Ceilings { copy: 1e9, cached: Default::default(), products: 1e12, exps: 1e10 };
        let cost = Cost { flop: 3e9, exps: 1e7, act: 1e6, bytes: 0.0 };
        assert_eq!(floor(&cost, true, Precision::F32, &c), (4e-3, Bound::Memory));
        assert_eq!(floor(&cost, true, Precision::Bf16, &c), (3e-3, Bound::Products));
        assert_eq!(floor(&cost, false, Precision::Bf16, &c), (2e-3, Bound::Memory));
        assert_eq!(floor(&Cost { act: 0.0, ..cost }, false, Precision::Bf16, &c), (1e-3, Bound::Exps));
    }
}
