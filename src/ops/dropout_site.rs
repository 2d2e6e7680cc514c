//! One dropout of a model: its probability and its stream of draws.

use crate::base::rng::philox;

/// The source of dropout draws. Site and probability are fixed by the plan. The step is read from memory, so that a
/// captured step can be replayed.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// Probability of a zero, in [0, 1).
    pub p: f32,
    pub seed: u64,
    /// Number of this dropout in the model. Different sites draw independently.
    pub site: u32,
}

impl Dropout {
    /// No dropout.
    pub const NONE: Dropout = Dropout { p: 0.0, seed: 0, site: 0 };

    /// Returns the threshold: a draw below it drops the element.
    pub fn threshold(&self) -> u32 {
        (self.p as f64 * 65536.0).round() as u32
    }

    /// Returns the factor of kept elements.
    pub fn scale(&self) -> f64 {
        65536.0 / (65536 - self.threshold()) as f64
    }

    /// Returns the factor of element `i` at `step`: 0 or [`Dropout::scale`].
    pub fn factor(&self, step: u32, i: u64) -> f64 {
        let threshold = self.threshold();
        if threshold == 0 {
            return 1.0;
        }
        let block = i / 8;
        let words =
            philox([block as u32, (block >> 32) as u32, step, self.site], [self.seed as u32, (self.seed >> 32) as u32]);
        let word = words[(i % 8 / 2) as usize];
        let draw = if i.is_multiple_of(2) { word & 0xFFFF } else { word >> 16 };
        if draw >= threshold { self.scale() } else { 0.0 }
    }

    /// Checks that p is usable: below 1 after rounding.
    ///
    /// # Errors
    /// p is outside [0, 1).
    pub fn check(&self) -> Result<(), String> {
        if (0.0..1.0).contains(&self.p) && self.threshold() < 65536 {
            Ok(())
        } else {
            Err(format!("dropout probability {} is outside [0, 1)", self.p))
        }
    }
}
