//! Compares derived gradients with central differences of the loss. The comparison with the f64 reference
//! ([`steps`](super::steps)) finds faults of a device. This one finds faults of the derivation itself.

use super::{
    steps::{fill, ratings},
    variants::{summary, variants},
};
use crate::{
    backend::Reference,
    base::{
        Result,
        rng::{Purpose, Stream},
    },
    layers::DataSummary,
    mem::{Param, Scalar, Traced},
    train::{engine::Engine, settings::Settings},
};

/// The derivative of the loss along a random direction of some parameters.
#[derive(Clone, Debug)]
pub struct Slope {
    /// Names of the parameters.
    pub names: Vec<String>,
    /// Product of the derived gradient and the direction.
    pub analytic: f64,
    /// Central difference of the loss.
    pub numeric: f64,
    /// Euclidean norm of the derived gradient.
    pub norm: f64,
}

impl Slope {
    /// Largest correct [`Slope::error`]. The difference of the loss at ±1e-5 has an error of about 1e-10 of curvature
    /// and 1e-11 of rounding.
    pub const ALLOWED: f64 = 1e-5;

    /// Relative error. A direction that is almost orthogonal to the gradient counts with 1 % of its norm.
    pub fn error(&self) -> f64 {
        let scale = self.analytic.abs().max(self.numeric.abs()).max(1e-2 * self.norm).max(1e-7);
        (self.analytic - self.numeric).abs() / scale
    }
}

/// Returns the slopes of every trained parameter by itself, and last of all together. `fill` adds a batch. All
/// parameters are moved from their initial values first, because a parameter that is zero hides the gradients behind
/// it.
///
/// # Errors
/// As [`Engine::new`].
pub fn slopes<S: Scalar>(
    s: &Settings,
    summary: DataSummary,
    fill: impl FnOnce(&mut Engine<Reference<S>>),
) -> Result<Vec<Slope>> {
    let mut e = Engine::<Reference<S>>::new(s, summary, |p| Ok(Reference::<S>::new(p)))?;
    fill(&mut e);
    for (i, p) in e.params().to_vec().iter().enumerate() {
        let mut draw = Stream::new(8, Purpose::Test, i as u32);
        let moved: Vec<f64> = e.backend.values(p.w.raw()).iter().map(|w| w + 0.1 * draw.normal() as f64).collect();
        e.backend.set(p.w.raw(), &moved);
    }
    let params: Vec<Param> = e.params().iter().filter(|p| !p.frozen).cloned().collect();
    let start: Vec<Vec<f64>> = params.iter().map(|p| e.backend.values(p.w.raw())).collect();
    e.gradients(3, true);
    let gradient: Vec<Vec<f64>> = params.iter().map(|p| e.backend.values(p.dw.raw())).collect();
    let normal = |(i, p): (usize, &Param)| -> Vec<f64> {
        let mut draw = Stream::new(9, Purpose::Test, i as u32);
        (0..p.w.len()).map(|_| draw.normal() as f64).collect()
    };
    let direction: Vec<Vec<f64>> = params.iter().enumerate().map(normal).collect();
    let loss = e.loss_span().raw();
    // Each by itself: in the sum over all, a large parameter would hide an error of a small one.
    let mut sets: Vec<Vec<usize>> = (0..params.len()).map(|i| vec![i]).collect();
    sets.push((0..params.len()).collect());
    let mut slope = |set: &Vec<usize>| {
        let mut at = |k: f64| {
            for i in set {
                let moved: Vec<f64> = start[*i].iter().zip(&direction[*i]).map(|(w, u)| w + k * u).collect();
                e.backend.set(params[*i].w.raw(), &moved);
            }
            e.gradients(3, true);
            e.backend.values(loss)[0]
        };
        const STEP: f64 = 1e-5;
        let numeric = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        at(0.0);
        let dot = |i: &usize| gradient[*i].iter().zip(&direction[*i]).map(|(g, u)| g * u).sum::<f64>();
        let squares = |i: &usize| gradient[*i].iter().map(|g| g * g).sum::<f64>();
        let names = set.iter().map(|i| params[*i].name.clone()).collect();
        Slope { names, numeric, analytic: set.iter().map(dot).sum(), norm: set.iter().map(squares).sum::<f64>().sqrt() }
    };
    Ok(sets.iter().map(&mut slope).collect())
}

/// Calls `observe` with the name and the slopes of every step of [`variants`] whose name contains `name`, at a width of
/// 8 and a length of 9.
///
/// # Errors
/// As [`slopes`].
pub fn check_gradients(name: &str, observe: &mut dyn FnMut(&str, &[Slope])) -> Result<()> {
    for (what, s) in variants().into_iter().filter(|(what, _)| what.contains(name)) {
        let s = Settings { width: 8, length: 9, init_std: 0.4, ..s };
        let data = DataSummary { ratings: Some(ratings()), ..summary()? };
        let slopes = slopes::<Traced>(&s, data, |engine| {
            fill(engine, 0);
        })?;
        observe(&what, &slopes);
    }
    Ok(())
}
