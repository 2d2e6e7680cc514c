/*! One planned model with its loss and optimiser on a backend: a training step, and vectors for histories.

A step is forward, loss, backward, gradient norm, guard, AdamW. All memory was planned before; the guard reads the loss and
the norm and refuses to update the weights when either is not finite.
*/

use crate::{
    backend::wrap::{Asking, Checked},
    base::{
        Error, Result,
        rng::{Purpose, Stream},
    },
    layers::{Capacity, HostInput, Input, Shape},
    mem::{F32, Init, Param, Planner, Span},
    models::{Model, Representations},
    ops::{AdamW, Backend, GradNorm, Run},
    tasks::{Loss, MaskedItem, loss::HostLoss},
};

use super::{
    scoring::{Catalogue, Room, Scoring},
    settings::Settings,
};

/// What a step reports.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Mean loss of the batch.
    pub loss: f32,
    /// Global norm of the gradients before clipping.
    pub norm: f32,
}

/// A model on a backend.
pub struct Engine<M, B> {
    pub plan: Planner,
    pub model: M,
    pub backend: B,
    input: Input,
    loss: Loss,
    hyper: Span<F32>,
    norm: Span<F32>,
    settings: Settings,
    host: HostInput,
    host_loss: HostLoss,
    pub(super) r: Representations,
    pub(super) scoring: Scoring,
    /// The batch of the last training step, while it is still on the backend.
    trained_on: Option<Shape>,
}

impl<M: Model, B: Backend> Engine<M, B> {
    /// Plans the model over a catalogue of `counts.len()` items (`counts`: training interactions of each), opens the
    /// backend with `open` and draws the initial weights.
    ///
    /// # Errors
    /// Settings that contradict each other, need more memory than there is, or sizes that the backend does not serve.
    pub fn new(settings: &Settings, counts: &[u64], open: impl FnOnce(&Planner) -> Result<B>) -> Result<Self> {
        let mut engine = Self::blank(settings, counts, open)?;
        engine.draw_weights();
        Ok(engine)
    }

    /// The same with all weights zero, for a checkpoint to be loaded into.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn blank(settings: &Settings, counts: &[u64], open: impl FnOnce(&Planner) -> Result<B>) -> Result<Self> {
        settings.check()?;
        let mut plan = Planner::new();
        let (b, t) = (settings.batch, settings.length);
        let m = b * MaskedItem::scored(settings.mask, t);
        let capacity = Capacity { b, n: b * t, m: m.max(b), t };
        let input = Input::plan(&mut plan, capacity);
        let model = M::plan(&mut plan, &settings.model(), counts.len(), &input, settings.seed)?;
        let r = model.representations();
        let loss = Loss::plan(&mut plan, &settings.loss(), r.clone(), capacity.m, settings.seed)?;
        let table = Catalogue { h: r.scored.y, table: r.item.w, bias: r.item_bias.w, d: r.d, v: r.v };
        let scoring = Scoring::plan(&mut plan, table, Room::new(b, r.v));
        plan.label("optimiser");
        let (hyper, norm) = (plan.stat(3), plan.stat(1));
        let mut backend = open(&plan)?;
        let host_loss = loss.prepare(&mut backend, counts, settings.log_q);
        let mut engine = Engine {
            host: HostInput::with_capacity(&capacity),
            plan,
            model,
            backend,
            input,
            loss,
            hyper,
            norm,
            settings: settings.clone(),
            host_loss,
            r,
            scoring,
            trained_on: None,
        };
        engine.reserve(&Shape { b, n: b * t, m: capacity.m, items: b * t, positions: t, training: true })?;
        Ok(engine)
    }

    /// Asks the backend whether it serves every op of a full batch, and has it take the scratch memory they need.
    fn reserve(&mut self, largest: &Shape) -> Result<()> {
        let mut asking = Asking::new(&self.backend);
        passes(&self.model, &self.loss, &mut asking, largest, &self.host_loss);
        self.scoring.largest(&mut asking);
        asking.run(&self.grad_norm());
        self.plan.params().iter().for_each(|p| asking.run(&self.adamw(p)));
        let Asking { scratch_bytes, refused, .. } = asking;
        if let Some((op, why)) = refused {
            return Err(Error::user(format!("{op}: {why}")).hint("change the sizes, or use --device cpu"));
        }
        self.backend.reserve(scratch_bytes)
    }

    fn grad_norm(&self) -> GradNorm {
        let g = self.plan.all_gradients();
        GradNorm { norm: self.norm, g, n: g.len() }
    }

    fn adamw(&self, p: &Param) -> AdamW {
        let s = &self.settings;
        AdamW {
            p: p.w,
            m: p.m,
            v: p.v,
            g: p.dw,
            norm: self.norm,
            hyper: self.hyper,
            n: p.w.len(),
            beta1: s.beta1,
            beta2: s.beta2,
            eps: 1e-8,
            weight_decay: if p.decay { s.weight_decay } else { 0.0 },
            max_norm: s.clip,
        }
    }

    fn draw_weights(&mut self) {
        let mut values = Vec::new();
        for (i, p) in self.plan.params().iter().enumerate() {
            values.clear();
            let mut draw = Stream::new(self.settings.seed, Purpose::Init, i as u32);
            values.extend((0..p.w.len()).map(|_| match p.init {
                Init::Constant(c) => c,
                Init::TruncatedNormal(std) => loop {
                    let x = draw.normal();
                    if x.abs() <= 2.0 {
                        break x * std;
                    }
                },
            }));
            self.backend.write(p.w.raw(), &values);
        }
    }

    /// The batch to fill before [`Engine::step`].
    pub fn host_input(&mut self) -> &mut HostInput {
        &mut self.host
    }

    /// One training step number `step` (from 1) on the batch in [`Engine::host_input`] with its `target`s.
    ///
    /// # Errors
    /// A loss or gradient norm that is not finite: names the first op and layer; the weights are as before the step.
    pub fn step(&mut self, target: &[u32], step: u64, lr: f32) -> Result<StepReport> {
        let shape = self.input.upload(&mut self.backend, &mut self.host, step as u32, true);
        self.loss.upload(&mut self.backend, &mut self.host_loss, target, step as u32);
        let bias = |beta: f32| (1.0 / (1.0 - (beta as f64).powf(step as f64))) as f32;
        let hyper = [lr, bias(self.settings.beta1), bias(self.settings.beta2)];
        self.backend.write(self.hyper.raw(), &hyper);
        passes(&self.model, &self.loss, &mut self.backend, &shape, &self.host_loss);
        self.backend.run(&self.grad_norm());
        let report = StepReport { loss: self.read_one(self.loss.value), norm: self.read_one(self.norm) };
        self.backend.sync()?;
        if !report.loss.is_finite() || !report.norm.is_finite() {
            let place = self.first_fault(&shape);
            let (loss, norm) = (report.loss, report.norm);
            return Err(not_finite(format!("step {step}: loss {loss}, gradient norm {norm}: not finite, {place}")));
        }
        self.trained_on = Some(shape);
        for i in 0..self.plan.params().len() {
            let update = self.adamw(&self.plan.params()[i]);
            self.backend.run(&update);
        }
        Ok(report)
    }

    fn read_one(&mut self, span: Span<F32>) -> f32 {
        let mut x = [0.0];
        self.backend.read(span.raw(), &mut x);
        x[0]
    }

    /// Whether the weights that step `step` left still give a finite loss, on its own batch: the loss of a step is that of
    /// the weights before it, so what the last one did to them is only seen by a look back. Does nothing once the batch
    /// has made room for others.
    ///
    /// # Errors
    /// They do not; names the first op and layer.
    pub fn check_weights(&mut self, step: u64) -> Result<()> {
        let Some(shape) = self.trained_on else { return Ok(()) };
        self.model.forward(&mut self.backend, &shape);
        self.loss.forward(&mut self.backend, shape.m);
        let loss = self.read_one(self.loss.value);
        self.backend.sync()?;
        if loss.is_finite() {
            return Ok(());
        }
        let place = self.first_fault(&shape);
        Err(not_finite(format!("after step {step}: loss {loss}: not finite, {place}")))
    }

    /// Repeats a step's passes with every result read back, to name the op and the layer that broke.
    fn first_fault(&mut self, shape: &Shape) -> String {
        let mut checked = Checked::new(&mut self.backend);
        passes(&self.model, &self.loss, &mut checked, shape, &self.host_loss);
        match checked.first_fault {
            Some((op, span)) => {
                let layer = self.plan.params().iter().find(|p| p.w.raw() == span || p.dw.raw() == span);
                let layer = layer.map_or(self.plan.owner(span), |p| &p.name);
                format!("first in {op} of {layer}")
            }
            None => "in the gradient norm".to_string(),
        }
    }

    /// All parameters.
    pub fn params(&self) -> &[Param] {
        self.plan.params()
    }

    /// Appends [MASK] to each history (oldest first; the newest T-1 items count), at most a batch of them, and leaves
    /// their vectors in the first scored rows.
    pub(super) fn forward_queries(&mut self, histories: &[&[u32]]) {
        self.trained_on = None;
        self.host.clear();
        for history in histories {
            MaskedItem::push_query(&mut self.host, history, self.input.capacity.t, self.r.v);
        }
        let shape = self.input.upload(&mut self.backend, &mut self.host, 0, false);
        self.model.forward(&mut self.backend, &shape);
    }

    /// Forward and backward passes of the batch in [`Engine::host_input`], without an update: for tests and profiles.
    pub fn gradients(&mut self, target: &[u32], step: u64, training: bool) -> f32 {
        let mut shape = self.input.upload(&mut self.backend, &mut self.host, step as u32, true);
        shape.training = training;
        self.loss.upload(&mut self.backend, &mut self.host_loss, target, step as u32);
        passes(&self.model, &self.loss, &mut self.backend, &shape, &self.host_loss);
        self.read_one(self.loss.value)
    }

    /// The span of the mean loss.
    pub fn loss_span(&self) -> Span<F32> {
        self.loss.value
    }
}

fn not_finite(what: String) -> Error {
    Error::user(what).hint("lower --lr, raise --warmup or set --clip")
}

/// Forward, loss, and back.
fn passes<M: Model, B: Backend>(model: &M, loss: &Loss, b: &mut B, s: &Shape, host: &HostLoss) {
    model.forward(b, s);
    loss.forward(b, s.m);
    loss.backward(b, s.m, host);
    model.backward(b, s);
}
