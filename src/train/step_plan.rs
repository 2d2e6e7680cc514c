//! The plan of a step: model, task, optimiser and scoring, planned for the largest batch, and their memory.

use crate::{
    base::{Error, Result},
    layers::{BatchShape, Capacity, DataSummary, Input},
    mem::{F32, Param, Planner, Span},
    models::{Context, ModelSettings, Network},
    ops::{AdamW, AdamWRows, Backend, CatchUpRows, GradNorm, Guard, Phase},
    tasks::Task,
};

use super::{
    scoring::{Catalogue, Room, Scoring},
    settings::Settings,
};

/// The ops and spans of a step.
pub(super) struct StepPlan {
    pub model: Box<dyn Network>,
    pub task: Box<dyn Task>,
    /// (4) loss, gradient norm, whether all steps so far were finite, unused.
    pub report: Span<F32>,
    /// (3) learning rate and bias corrections.
    pub hyper: Span<F32>,
    /// Gradients of all parameters.
    pub gradients: Span<F32>,
    pub updates: Vec<AdamW>,
    /// Tables that are updated by rows.
    pub row_updates: Vec<RowUpdate>,
    pub rings: Option<Rings>,
    pub scoring: Scoring,
}

/// Maximum number of steps that a row may lag behind; twice as many steps are stored.
pub(super) const LAG: u64 = 4096;

/// The values of recent steps that row-sparse AdamW needs: rings (2*LAG,4), with step t at t mod 2*LAG.
#[derive(Clone, Copy)]
pub(super) struct Rings {
    /// For tables with weight decay, and for those without.
    pub decaying: Span<F32>,
    pub lasting: Span<F32>,
}

impl Rings {
    pub const LEN: usize = 2 * LAG as usize;

    pub fn plan(p: &mut Planner) -> Self {
        p.label("optimiser");
        let [decaying, lasting] = ["decaying", "lasting"].map(|name| {
            let ring = p.stat(Self::LEN * 4);
            p.keep(format!("optimizer.history.{name}"), &[Self::LEN, 4], ring.raw());
            ring
        });
        Rings { decaying, lasting }
    }

    /// The slot of step `step`.
    pub fn at(step: u64, ring: Span<F32>) -> Span<F32> {
        ring.slice(step as usize % Self::LEN * 4, 4)
    }
}

/// The update of a table by rows; `n` is that of the batch.
#[derive(Clone, Copy)]
pub(super) struct RowUpdate {
    pub catch_up: CatchUpRows,
    pub adamw: AdamWRows,
}

impl StepPlan {
    pub fn norm(&self) -> Span<F32> {
        self.report.slice(1, 1)
    }

    pub fn ok(&self) -> Span<F32> {
        self.report.slice(2, 1)
    }

    /// Builds the batch and its targets, and brings the table rows that it reads up to date.
    pub fn make(&self, b: &mut dyn Backend, s: &BatchShape) {
        b.enter(Phase::Batch);
        self.task.make(b, s);
        self.task.objective().begin(b, s);
        let (_, n) = self.task.objective().keys(s);
        self.row_updates.iter().for_each(|rows| b.run(&CatchUpRows { n, ..rows.catch_up }));
    }

    /// Runs the forward pass, the loss and the backward pass.
    pub fn passes(&self, b: &mut dyn Backend, s: &BatchShape) {
        let loss = self.task.objective();
        b.enter(Phase::Forward);
        self.model.forward(b, s);
        b.enter(Phase::Loss);
        loss.forward(b, s);
        loss.backward(b, s);
        b.enter(Phase::Backward);
        self.model.backward(b, s);
        loss.tables(b, s);
    }

    /// Brings every row of the tables that are updated by rows to the step before the one being written.
    pub fn settle(&self, b: &mut dyn Backend) {
        self.row_updates.iter().for_each(|rows| b.run(&CatchUpRows { all: true, ..rows.catch_up }));
    }

    /// Runs a whole step; its batch has been sent.
    pub fn step(&self, b: &mut dyn Backend, s: &BatchShape) {
        self.make(b, s);
        self.passes(b, s);
        b.enter(Phase::Update);
        b.run(&GradNorm { norm: self.norm(), g: self.gradients, n: self.gradients.len() });
        b.run(&Guard { ok: self.ok(), loss: self.task.objective().value(), norm: self.norm() });
        self.updates.iter().for_each(|update| b.run(update));
        let (_, n) = self.task.objective().keys(s);
        self.row_updates.iter().for_each(|rows| b.run(&AdamWRows { n, ..rows.adamw }));
    }
}

/// Plans everything for batches of `batch` sequences.
pub(super) fn plan_step(
    settings: &Settings,
    summary: &DataSummary,
    batch: usize,
) -> Result<(Planner, Input, StepPlan)> {
    let items = summary.items();
    let mut plan = Planner::new();
    let (s, t) = (settings, settings.length);
    if let Some(parts) = s.freeze.trained() {
        plan.freeze_but(&parts);
    }
    let (kind, asks) = s.find()?;
    let m = batch * (asks.most_scored)(&s.task());
    let capacity = Capacity::new(batch, t, m.max(batch));
    let mut input = Input::plan(&mut plan, capacity);
    let ratings = summary.ratings.as_ref().filter(|_| asks.rated);
    if asks.rated {
        ratings.ok_or_else(|| super::ratings::none(&s.task))?;
        input = input.with_ratings(&mut plan);
    }
    let touched = (asks.touched)(&s.task(), &capacity).filter(|most| s.by_rows(items, *most));
    let shape = ModelSettings { touched, ..s.model() };
    let (special, segments, view, seed) = (asks.special, asks.segments, asks.view, s.seed);
    let context = Context { settings: &shape, summary, items, special, segments, input: &input, view, ratings, seed };
    let model = (kind.plan)(&mut plan, &context)?;
    for (asked, table, flag) in
        [(shape.user_width > 0, "user.weight", "--user-width"), (shape.fields, "field.weight", "--fields")]
    {
        if asked && !plan.params().iter().any(|p| p.name == table) {
            return Err(Error::user(format!("--model {} does not support {flag}", kind.name)).hint("omit it"));
        }
    }
    plan.label("optimiser");
    let (hyper, report) = (plan.stat(3), plan.stat(4));
    let task = (asks.plan)(&mut plan, &s.task(), model.representations(), &input, report.slice(0, 1))?;
    let adamw = |p: &Param| AdamW {
        p: p.w,
        m: p.m,
        v: p.v,
        g: p.dw,
        norm: report.slice(1, 1),
        ok: report.slice(2, 1),
        hyper,
        n: p.w.len(),
        beta1: s.beta1,
        beta2: s.beta2,
        eps: 1e-8,
        weight_decay: if p.decay { s.weight_decay } else { 0.0 },
        max_norm: s.clip,
    };
    let updates = plan.params().iter().filter(|p| p.last.is_none() && !p.frozen).map(adamw).collect();
    let rings = touched.map(|_| Rings::plan(&mut plan));
    let by_rows = |p: &Param| {
        let (last, rings, key) = (p.last?, rings?, task.objective().keys(&BatchShape::default()).0);
        let (n, rows, d) = (0, p.shape[0], p.shape[1..].iter().product());
        let AdamW { p: w, m, v, g, norm, ok, hyper, beta1, beta2, eps, weight_decay, max_norm, .. } = adamw(p);
        let (step, ring, all) = (input.step, Rings::LEN, false);
        let history = if p.decay { rings.decaying } else { rings.lasting };
        Some(RowUpdate {
            catch_up: CatchUpRows {
                p: w,
                m,
                v,
                last,
                key,
                history,
                ok,
                step,
                n,
                d,
                rows,
                ring,
                beta1,
                beta2,
                eps,
                weight_decay,
                all,
            },
            adamw: AdamWRows {
                p: w,
                m,
                v,
                last,
                g,
                key,
                norm,
                ok,
                hyper,
                step,
                n,
                d,
                rows,
                beta1,
                beta2,
                eps,
                weight_decay,
                max_norm,
            },
        })
    };
    let row_updates = plan.params().iter().filter_map(by_rows).collect();
    let gradients = plan.all_gradients();
    let r = model.representations();
    let catalogue = Catalogue { h: r.scored.y, table: r.item.w, bias: r.item_bias.w, d: r.d, v: r.v };
    let scoring = Scoring::plan(&mut plan, catalogue, Room::new(batch, r.v));
    let parts = StepPlan { model, task, report, hyper, gradients, updates, row_updates, rings, scoring };
    Ok((plan, input, parts))
}
