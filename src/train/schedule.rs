//! The learning rate as a function of the step.

use serde::{Deserialize, Serialize};

/// How the learning rate falls after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    Constant,
    Linear,
    Cosine,
}

/// Linear warm-up over `warmup` steps, then a fall to `end` (a share of the peak) at step `total`.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub peak: f32,
    pub warmup: u64,
    pub total: u64,
    pub end: f32,
    pub decay: Decay,
}

impl Schedule {
    /// The rate of step `step`, counted from 1.
    pub fn at(&self, step: u64) -> f32 {
        let warm = (step as f64 / self.warmup.max(1) as f64).min(1.0);
        let after = self.total.saturating_sub(self.warmup).max(1) as f64;
        let done = (step.saturating_sub(self.warmup) as f64 / after).min(1.0);
        let end = self.end as f64;
        let fall = match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => end + (1.0 - end) * (1.0 - done),
            Decay::Cosine => end + (1.0 - end) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        };
        (self.peak as f64 * warm * fall) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_peaks_and_ends() {
        let mut s = Schedule { peak: 1.0, warmup: 10, total: 110, end: 0.1, decay: Decay::Cosine };
        assert_eq!((s.at(1), s.at(10)), (0.1, 1.0));
        assert!((s.at(60) - 0.55).abs() < 1e-6 && (s.at(110) - 0.1).abs() < 1e-6 && s.at(500) == s.at(110));
        s.decay = Decay::Linear;
        assert!((s.at(35) - 0.775).abs() < 1e-6);
    }
}
