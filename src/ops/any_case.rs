//! Cases of every op behind one trait.

use super::{Memory, Op, Run, case::Case, misuse, prove};
use crate::{
    base,
    mem::{Numerics, Planner},
};

/// A case without its op types, for proving backend `K`.
pub trait AnyCase<K>: Send + Sync {
    fn name(&self) -> &str;

    /// The names of its ops, forward and backward.
    fn ops(&self) -> [&'static str; 2];

    fn plan(&self) -> &Planner;

    /// Selects other inputs of the same shapes by seed, initially 0.
    fn reseed(&mut self, seed: u64);

    /// Returns the number of elements in all its arenas.
    fn elements(&self) -> usize;

    /// Returns the largest relative error of the f64 backward pass against central differences, or `None` without a
    /// backward pass.
    fn gradient_error(&self) -> Option<f64>;

    /// The same by gradients: their fields and errors.
    fn gradient_errors(&self) -> Vec<(&'static str, f64)>;

    /// Computes the expected results of the case on backends of these kinds.
    fn expected(&self, kinds: &[Numerics]) -> Vec<prove::Expected>;

    /// Runs the case on a backend and compares it with the expected results of its kind. `Err` describes the
    /// difference.
    fn parity_on(&self, expected: &prove::Expected, k: &mut K) -> Result<prove::Parity, String>;

    /// Runs [`AnyCase::parity_on`] on a backend created by `open`.
    fn parity(&self, open: prove::Open<'_, K>) -> Result<prove::Parity, String>;

    /// Returns the bits that the case leaves on a backend.
    fn fingerprint(&self, open: prove::Open<'_, K>) -> Result<Vec<u32>, String>;

    /// Fills a backend and runs the case on it, forward and backward, for backends that record.
    ///
    /// # Errors
    /// The device cannot be opened, or it fails.
    fn play(&self, open: prove::Open<'_, K>) -> base::Result<()>;

    /// Returns the results of the checks for ops with a wrong span.
    fn misuses(&self) -> Vec<misuse::Tried>;

    /// Runs ops with a wrong span on backends created by `open`, which must reject them. Returns their number.
    fn refused(&self, open: prove::Open<'_, K>) -> Result<usize, String>;

    /// Returns the calls of the case with their stated costs.
    #[cfg(test)]
    fn prices(&self) -> Vec<super::cost::tests::Price>;
}

impl<F: Op, B: Op, K: Memory + Run<F> + Run<B>> AnyCase<K> for Case<F, B> {
    fn name(&self) -> &str {
        &self.name
    }
    fn ops(&self) -> [&'static str; 2] {
        [F::NAME, B::NAME]
    }
    fn plan(&self) -> &Planner {
        &self.plan
    }
    fn reseed(&mut self, seed: u64) {
        self.seed = seed;
    }
    fn elements(&self) -> usize {
        self.plan.bytes() / 4
    }
    fn gradient_error(&self) -> Option<f64> {
        prove::gradient_error(self)
    }
    fn gradient_errors(&self) -> Vec<(&'static str, f64)> {
        prove::gradient_errors(self)
    }
    fn expected(&self, kinds: &[Numerics]) -> Vec<prove::Expected> {
        prove::expected(self, kinds)
    }
    fn parity_on(&self, expected: &prove::Expected, k: &mut K) -> Result<prove::Parity, String> {
        prove::parity_on(self, expected, k)
    }
    fn parity(&self, open: prove::Open<'_, K>) -> Result<prove::Parity, String> {
        prove::parity(self, open)
    }
    fn fingerprint(&self, open: prove::Open<'_, K>) -> Result<Vec<u32>, String> {
        prove::fingerprint(self, open)
    }
    fn play(&self, open: prove::Open<'_, K>) -> base::Result<()> {
        let mut k = open(&self.plan)?;
        prove::fill(self, &self.inputs_f32(k.precision()), &mut k);
        k.run(&self.fwd);
        k.run(&self.bwd);
        k.sync()
    }
    fn misuses(&self) -> Vec<misuse::Tried> {
        [misuse::tried(&self.fwd), misuse::tried(&self.bwd)].concat()
    }
    fn refused(&self, open: prove::Open<'_, K>) -> Result<usize, String> {
        Ok(misuse::refused(&self.fwd, &self.plan, open)? + misuse::refused(&self.bwd, &self.plan, open)?)
    }
    #[cfg(test)]
    fn prices(&self) -> Vec<super::cost::tests::Price> {
        super::cost::tests::prices(self)
    }
}
