/*! point_loss: the loss of a number against a target, such as a predicted rating.
fwd: squared:  loss_m = (z_m - t_m)^2
     logistic: loss_m = softplus(z_m) - t_m z_m      the cross-entropy of sigma(z_m), with t_m a probability
bwd: squared:  dz_m = dloss_m 2 (z_m - t_m)
     logistic: dz_m = dloss_m (sigma(z_m) - t_m) = dloss_m ((1-t_m) sigma(z_m) - t_m sigma(-z_m))

z, target, loss, dloss, dz (M) f32. A row that does not count has dloss 0. The logistic loss is computed as
(max(z,0) - t z) + ln(1 + e^-|z|), which cannot overflow and is exactly 0 for z far on the target's side. The
second form of its slope keeps small slopes exact where sigma(z) - 1 would cancel.
*/

use super::{Cost, Dst, Op, case::Case, fits};
use crate::{
    base::rng::{Purpose, Stream},
    mem::{F32, Lent, Planner, Scalar},
};

/// The distance of a number from its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointKind {
    /// (z - t)^2.
    Squared,
    /// The negative log-likelihood of t under sigma(z).
    Logistic,
}

op! {
    /// Computes the loss of each number.
    PointLossFwd = "point_loss_fwd" {
        write { /** (M) */ loss: F32 }
        read { /** (M) */ z: F32, /** (M) */ target: F32 }
        with { m: usize, kind: PointKind }
    }
}

op! {
    /// Computes the gradient of [`PointLossFwd`], weighted by `dloss`.
    PointLossBwd = "point_loss_bwd" {
        grad { /** (M) */ dz: F32 }
        read { /** (M) */ dloss: F32, /** (M) */ z: F32, /** (M) */ target: F32 }
        with { m: usize, kind: PointKind }
    }
}

fn sigmoid<S: Scalar>(x: S) -> S {
    S::one() / (S::one() + (-x).exp())
}

impl Op for PointLossFwd {
    fn check(&self) -> Result<(), String> {
        let m = self.m;
        fits(&[("loss", self.loss.len(), m), ("z", self.z.len(), m), ("target", self.target.len(), m)])
    }

    fn cost(&self) -> Cost {
        let m = self.m;
        // softplus takes an exponential and a logarithm.
        let (flop, exps) = match self.kind {
            PointKind::Squared => (2.0, 0.0),
            PointKind::Logistic => (5.0, 2.0),
        };
        Cost::work(flop * m as f64, exps * m as f64).moves(self.loss, m).moves(self.z, m).moves(self.target, m)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (z, target) = (m.get(self.z), m.get(self.target));
        m.compute(Dst::Write(self.loss), self.m, |i| {
            let (z, t) = (z[i], target[i]);
            match self.kind {
                PointKind::Squared => (z - t) * (z - t),
                PointKind::Logistic => z.max(S::zero()) - t * z + (S::one() + (-z.max(-z)).exp()).ln(),
            }
        });
    }
}

impl Op for PointLossBwd {
    fn check(&self) -> Result<(), String> {
        let m = self.m;
        fits(&[
            ("dz", self.dz.len_or(m), m),
            ("dloss", self.dloss.len(), m),
            ("z", self.z.len(), m),
            ("target", self.target.len(), m),
        ])
    }

    fn cost(&self) -> Cost {
        let m = self.dz.wanted() as usize * self.m;
        // One exponential yields both sigma(z) and sigma(-z).
        let (flop, exps) = match self.kind {
            PointKind::Squared => (3.0, 0.0),
            PointKind::Logistic => (8.0, 1.0),
        };
        Cost::work(flop * m as f64, exps * m as f64)
            .gradient(self.dz, m)
            .moves(self.dloss, m)
            .moves(self.z, m)
            .moves(self.target, m)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (dloss, z, target) = (m.get(self.dloss), m.get(self.z), m.get(self.target));
        m.compute(self.dz, self.m, |i| {
            let (z, t) = (z[i], target[i]);
            let slope = match self.kind {
                PointKind::Squared => S::of(2.0) * (z - t),
                PointKind::Logistic => (S::one() - t) * sigmoid(z) - t * sigmoid(-z),
            };
            dloss[i] * slope
        });
    }
}

/// The targets of a case.
#[derive(Clone, Copy, Debug)]
enum Targets {
    /// 0 and 1.
    Hard,
    /// Between 0 and 1.
    Soft,
    /// Stars, 1 to 5.
    Stars,
}

pub fn cases() -> Vec<Case> {
    use {PointKind::*, Targets::*};
    // (M, kind, targets, size of z)
    [
        (0, Squared, Stars, 1.0),
        (1, Squared, Stars, 1.0),
        (3, Logistic, Hard, 1.0),
        (7, Logistic, Soft, 3.0),
        (8, Squared, Hard, 1.0),
        (1001, Squared, Stars, 3.0),
        (1000, Logistic, Hard, 3.0),
        (4099, Logistic, Soft, 1.0),
        // Most z are large, on the right side and on the wrong one.
        (333, Logistic, Hard, 60.0),
        (333, Logistic, Soft, 400.0),
        (40_003, Logistic, Soft, 2.0),
    ]
    .into_iter()
    .map(|(m, kind, targets, std)| {
        let mut p = Planner::new();
        let [z, dz, target, loss, dloss] = [(); 5].map(|()| p.stat(m));
        let mut draw = Stream::new(31, Purpose::Test, m as u32);
        let values = (0..m).map(|_| match targets {
            Hard => draw.below(2) as f32,
            Soft => draw.below(101) as f32 / 100.0,
            Stars => 1.0 + draw.below(9) as f32 / 2.0,
        });
        let values = values.collect();
        let fwd = PointLossFwd { loss, z, target, m, kind };
        let bwd = PointLossBwd { dz: Dst::Write(dz), dloss, z, target, m, kind };
        Case::new(format!("{kind:?} m{m} {targets:?} std{std}"), p, fwd, bwd)
            .input(z, std, dz)
            .output(loss, dloss)
            .values(target, values)
    })
    .collect()
}
