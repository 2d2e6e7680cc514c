/*! The network of click-through: a stack of dense layers over frozen inputs, with one logit per impression.

h_0 = x (M,I)    h_l = relu(W_l h_{l-1} + b_l) (M,H_l)    z = <w, h_L> + b (M)    loss = mean of softplus(z) - t z

Parameters: `hidden.L.weight (H_l, H_{l-1})`, `hidden.L.bias`, `out.weight (1,H)`, `out.bias (1)`. The last layer is
computed as the score against a table of one item, so that z is f32 whatever the type of activations. x has no gradient,
and the layer that reads it does not compute one. Without hidden layers the network is logistic regression.
*/

use crate::{
    layers::{BatchShape, Linear},
    mem::{Act, Dst, F32, Init, Mode, Param, Planner, Span, U32, Var},
    ops::{
        ActivationBwd, ActivationFwd, AdamW, Backend, GradNorm, Guard, ItemDotBwd, ItemDotFwd, PointLossBwd,
        PointLossFwd, WeightedMean, activation::Activation, point_loss::PointKind, sort_ids::Sorted,
    },
};

use super::ClickSettings;

/// A dense layer and its output after ReLU.
struct Hidden {
    linear: Linear,
    /// (M,H)
    y: Var,
    width: usize,
}

/// The planned network with its optimiser, for batches of `ClickSettings::batch` impressions.
pub struct ClickHead {
    /// (M,I)
    pub x: Span<Act>,
    /// (M) 1: clicked, 0: not clicked.
    pub target: Span<F32>,
    /// (M) weight of each row in the mean loss.
    pub weight: Span<F32>,
    /// (M) logits.
    pub z: Span<F32>,
    /// (4) loss, gradient norm, whether all steps so far were finite, unused.
    pub report: Span<F32>,
    /// (3) learning rate and bias corrections.
    pub hyper: Span<F32>,
    hidden: Vec<Hidden>,
    out: Param,
    bias: Param,
    dz: Span<F32>,
    loss: Span<F32>,
    /// (M) zeros: the ids of the only item.
    id: Span<U32>,
    /// The sorted ids, written once.
    by: Sorted,
    updates: Vec<AdamW>,
    gradients: Span<F32>,
}

impl ClickHead {
    pub const BETA1: f32 = 0.9;
    pub const BETA2: f32 = 0.999;

    /// Plans the network over `width` inputs. Initial predictions are near the log-odds `start`, so that the first
    /// steps need not learn the base rate.
    pub fn plan(p: &mut Planner, settings: &ClickSettings, width: usize, start: f32) -> ClickHead {
        let m = settings.batch;
        p.label("inputs");
        let x = p.act(m * width);
        let (target, weight) = (p.stat(m), p.stat(m));
        // The gradient of x is never computed, so it has no memory.
        let mut below = Var { y: x, dy: Span::empty() };
        let mut i = width;
        let mut hidden = Vec::new();
        for (l, &o) in settings.hidden.iter().enumerate() {
            // He et al. 2015: ReLU halves the variance.
            let linear = Linear::plan(p, &format!("hidden.{l}"), below, m, i, o, (2.0 / i as f32).sqrt());
            let y = p.var(m * o);
            hidden.push(Hidden { linear, y, width: o });
            (below, i) = (y, o);
        }
        p.label("out");
        let out = p.param("out.weight", &[1, i], Init::TruncatedNormal(0.1 / (i as f32).sqrt()));
        let bias = p.param("out.bias", &[1], Init::Constant(start));
        let (z, dz, loss, id) = (p.stat(m), p.stat(m), p.stat(m), p.index(m));
        let by = Sorted::plan(p, m);
        p.label("optimiser");
        let (hyper, report) = (p.stat(3), p.stat(4));
        let adamw = |p: &Param| AdamW {
            p: p.w,
            m: p.m,
            v: p.v,
            g: p.dw,
            norm: report.slice(1, 1),
            ok: report.slice(2, 1),
            hyper,
            n: p.w.len(),
            beta1: Self::BETA1,
            beta2: Self::BETA2,
            eps: 1e-8,
            weight_decay: if p.decay { settings.weight_decay } else { 0.0 },
            max_norm: settings.clip,
        };
        let updates = p.params().iter().map(adamw).collect();
        let gradients = p.all_gradients();
        ClickHead { x, target, weight, z, report, hyper, hidden, out, bias, dz, loss, id, by, updates, gradients }
    }

    /// Writes the constants of all steps.
    pub fn prepare(&self, b: &mut dyn Backend) {
        let m = self.id.len();
        b.write_ids(self.id, &vec![0; m]);
        b.write_ids(self.by.key, &vec![0; m]);
        b.write_ids(self.by.order, &(0..m as u32).collect::<Vec<_>>());
        b.write(self.report.raw(), &[0.0, 0.0, 1.0, 0.0]);
    }

    /// Returns the output of the last hidden layer, or the inputs, its gradient and its width.
    fn top(&self) -> (Span<Act>, Dst<Act>, usize) {
        let last = self.hidden.last().map(|l| (l.y.y, Dst::Write(l.y.dy), l.width));
        last.unwrap_or((self.x, Dst::Skip, self.out.w.len()))
    }

    fn score(&self, m: usize) -> ItemDotFwd {
        let (h, _, d) = self.top();
        ItemDotFwd { z: self.z, h, table: self.out.w, bias: self.bias.w, id: self.id, m, d, v: 1, shift: 0.0 }
    }

    /// Computes z of the first `m` rows.
    pub fn forward(&self, b: &mut dyn Backend, m: usize) {
        let s = BatchShape { n: m, ..BatchShape::default() };
        for layer in &self.hidden {
            layer.linear.forward(b, &s);
            let n = m * layer.width;
            b.run(&ActivationFwd { y: layer.y.y, x: layer.linear.y.y, n, kind: Activation::Relu });
        }
        b.run(&self.score(m));
    }

    /// Computes z, the loss and all gradients of the first `m` rows.
    pub fn passes(&self, b: &mut dyn Backend, m: usize) {
        self.forward(b, m);
        let kind = PointKind::Logistic;
        b.run(&PointLossFwd { loss: self.loss, z: self.z, target: self.target, m, kind });
        b.run(&WeightedMean { y: self.report.slice(0, 1), x: self.loss, w: self.weight, n: m });
        // The gradient of the mean is its weights.
        b.run(&PointLossBwd { dz: Dst::Write(self.dz), dloss: self.weight, z: self.z, target: self.target, m, kind });
        let (score, (_, dh, d)) = (self.score(m), self.top());
        b.run(&score.table_gradient(self.out.grad(), self.dz, &self.by));
        b.run(&score.bias_gradient(self.bias.grad(), self.dz, &self.by));
        b.run(&ItemDotBwd { dh, dz: self.dz, table: self.out.w, id: self.id, m, d, v: 1 });
        let s = BatchShape { n: m, ..BatchShape::default() };
        for (l, layer) in self.hidden.iter().enumerate().rev() {
            let (dx, dy, y, n) = (Dst::Write(layer.linear.y.dy), layer.y.dy, layer.y.y, m * layer.width);
            b.run(&ActivationBwd { dx, dy, y, n, kind: Activation::Relu });
            layer.linear.backward(b, &s, if l == 0 { Mode::Skip } else { Mode::Write });
        }
    }

    /// Runs a training step on the first `m` rows. Weights are no longer updated once a loss or norm is not finite.
    pub fn step(&self, b: &mut dyn Backend, m: usize) {
        self.passes(b, m);
        let (loss, norm, ok) = (self.report.slice(0, 1), self.report.slice(1, 1), self.report.slice(2, 1));
        b.run(&GradNorm { norm, g: self.gradients, n: self.gradients.len() });
        b.run(&Guard { ok, loss, norm });
        self.updates.iter().for_each(|update| b.run(update));
    }
}
