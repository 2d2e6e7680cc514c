/*! adamw: one step of AdamW (Loshchilov and Hutter 2019) over consecutive weights, with gradients clipped by their
global norm.
g' = g * min(1, max_norm / (norm + 1e-6))   (max_norm = 0: no clipping)
m = b1 m + (1-b1) g',  v = b2 v + (1-b2) g'^2,  p = p - lr ( m c1 / (sqrt(v c2) + eps) + wd p )
hyper (3) = [lr, c1, c2], c1 = 1/(1 - b1^t), c2 = 1/(1 - b2^t). It is in memory, so that a captured step can be
replayed.
ok (1): where it is 0, nothing changes.
guard: ok = 0 once the loss or the norm of a step is not finite. It stays 0 until the host, which checks one step later,
has found the cause. No step after a broken one changes the weights.
*/

use super::{
    Cost, Op,
    case::{Case, affordable},
    fits,
};
use crate::mem::{F32, Lent, Planner, Scalar};

op! {
    /// Runs one optimiser step over `n` consecutive weights.
    AdamW = "adamw" {
        update { /** (P) */ p: F32, /** (P) */ m: F32, /** (P) */ v: F32 }
        read { /** (P) */ g: F32, /** (1) */ norm: F32, /** (1) */ ok: F32, /** (3) */ hyper: F32 }
        with { n: usize, beta1: f32, beta2: f32, eps: f32, weight_decay: f32, max_norm: f32 }
    }
}

op! {
    /// Stops the optimiser once a loss or norm is not finite.
    Guard = "guard" {
        update { /** (1) */ ok: F32 }
        read { /** (1) */ loss: F32, /** (1) */ norm: F32 }
    }
}

/// Operations per weight other than its square root: m 3, v 4, the update 4, p 4, and the clipping.
pub(super) fn flop(max_norm: f32) -> f64 {
    if max_norm > 0.0 { 16.0 } else { 15.0 }
}

impl Op for Guard {
    fn check(&self) -> Result<(), String> {
        fits(&[("ok", self.ok.len(), 1), ("loss", self.loss.len(), 1), ("norm", self.norm.len(), 1)])
    }

    fn cost(&self) -> Cost {
        // `ok` is written only after a failure.
        Cost::default().moves(self.loss, 1).moves(self.norm, 1)
    }

    fn reference<S: Scalar>(&self, mem: &Lent<'_, S>) {
        let finite = |span| mem.get(span)[0].f64().is_finite();
        if !finite(self.loss) || !finite(self.norm) {
            let ok = mem.get_mut(self.ok);
            ok[0] = S::zero();
        }
    }
}

impl Op for AdamW {
    fn check(&self) -> Result<(), String> {
        let n = self.n;
        fits(&[
            ("p", self.p.len(), n),
            ("m", self.m.len(), n),
            ("v", self.v.len(), n),
            ("g", self.g.len(), n),
            ("norm", self.norm.len(), 1),
            ("ok", self.ok.len(), 1),
            ("hyper", self.hyper.len(), 3),
        ])
    }

    /// Returns the work and the f32 traffic.
    /// A bf16 backend also writes the shadow, two bytes per weight, which is not counted: 28 of 30 bytes.
    fn cost(&self) -> Cost {
        let n = self.n;
        Cost::work(flop(self.max_norm) * n as f64, n as f64)
            .updates(self.p, n)
            .updates(self.m, n)
            .updates(self.v, n)
            .moves(self.g, n)
            .moves(self.norm, 1)
            .moves(self.ok, 1)
            .moves(self.hyper, 3)
    }

    fn reference<S: Scalar>(&self, mem: &Lent<'_, S>) {
        let (g, norm, hyper) = (mem.get(self.g), mem.get(self.norm)[0], mem.get(self.hyper));
        let (p, m, v) = (mem.get_mut(self.p), mem.get_mut(self.m), mem.get_mut(self.v));
        if mem.get(self.ok)[0] == S::zero() {
            return;
        }
        let of = |x: f32| S::of(x as f64);
        let clip =
            if self.max_norm > 0.0 { (of(self.max_norm) / (norm + S::of(1e-6))).min(S::one()) } else { S::one() };
        for i in 0..self.n {
            let g = g[i] * clip;
            m[i] = of(self.beta1) * m[i] + (S::one() - of(self.beta1)) * g;
            v[i] = of(self.beta2) * v[i] + (S::one() - of(self.beta2)) * g * g;
            let update = m[i] * hyper[1] / ((v[i] * hyper[2]).sqrt() + of(self.eps));
            p[i] = p[i] - hyper[0] * (update + of(self.weight_decay) * p[i]);
        }
    }
}

pub fn cases() -> Vec<Case> {
    [
        (0, 0.0, 0.0, 1.0),
        (1, 0.01, 0.0, 1.0),
        (7, 0.0, 1.0, 1.0),
        (50, 0.1, 1.0, 0.0),
        (1003, 0.1, 100.0, 1.0),
        (70_000, 0.01, 5.0, 1.0),
    ]
    .into_iter()
    .filter(|(n, ..)| affordable(*n))
    .map(|(n, weight_decay, max_norm, ok)| {
        let mut plan = Planner::new();
        let (p, m, v, g) = (plan.weight(n), plan.stat(n), plan.stat(n), plan.stat(n));
        let (norm, go, hyper) = (plan.stat(1), plan.stat(1), plan.stat(3));
        let (beta1, beta2, eps) = (0.9, 0.999, 1e-8);
        let op = AdamW { p, m, v, g, norm, ok: go, hyper, n, beta1, beta2, eps, weight_decay, max_norm };
        Case::forward(format!("n{n} wd{weight_decay} clip{max_norm} ok{ok}"), plan, op)
            .values(go, vec![ok])
            .normal(p, 1.0)
            .normal(m, 0.1)
            .values(v, (0..n).map(|i| 1e-3 + (i % 17) as f32 * 1e-2).collect())
            .normal(g, 0.3)
            .values(norm, vec![20.0])
            .values(hyper, vec![1e-3, 1.0 / (1.0 - 0.9f32.powi(3)), 1.0 / (1.0 - 0.999f32.powi(3))])
    })
    .collect()
}

pub fn guard_cases() -> Vec<Case> {
    const NAN: f32 = f32::NAN;
    [(1.0, 2.0, 3.0), (0.0, 2.0, 3.0), (1.0, NAN, 3.0), (1.0, 2.0, f32::INFINITY), (1.0, f32::NEG_INFINITY, NAN)]
        .into_iter()
        .map(|(ok, loss, norm)| {
            let mut p = Planner::new();
            let op = Guard { ok: p.stat(1), loss: p.stat(1), norm: p.stat(1) };
            let name = format!("ok{ok} loss{loss} norm{norm}");
            Case::forward(name, p, op).values(op.ok, vec![ok]).values(op.loss, vec![loss]).values(op.norm, vec![norm])
        })
        .collect()
}
