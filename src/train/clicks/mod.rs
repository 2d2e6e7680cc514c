/*! Click-through: the probability that a user clicks an item shown, from a pre-trained user vector and an item vector.

The run is frozen. For each impression it computes the vector u of the clicks before it ([`crate::data::impressions`]),
and of the user if the run has user vectors. Its item table (or a file of item vectors) provides v. A small head learns
from [u | v | u v] whether the item was clicked (`inputs`, `head`). Unlike the sampled negatives of pre-training, these
negatives were shown and not clicked.

The split determines the parts: the first rows of each user are training rows, validation selects the epoch (lowest
log-loss), and the test part is reported. Histories continue through the parts: a held-out click is history for later
impressions, as it was at that time. Two kinds of leakage would make the results too good, and both are handled:

- The run was pre-trained on clicks held out here. Their users are excluded from both held-out parts, or the command is
  rejected: [`trained_on`].
- Held-out rows share a basket with training rows. Only a split by time keeps baskets whole; for others, the report
  counts such rows.

One bias remains: the run has seen the clicks of *training* impressions, so u fits them better than later ones. A head
trained on impressions after the run's own cut in time is free of this bias.

Steps are ops as in [`super::engine`], on any backend. A batch is copied to the device as M rows of x. All values are
f32: a head has a few thousand weights. Everything random (initial weights, order of rows) is a function of the seed.

[`trained_on`]: crate::data::impressions::trained_on
*/

mod head;
mod inputs;

pub use head::ClickHead;
pub use inputs::{Inputs, NO_VECTOR, encode};

use serde::Serialize;

use super::engine::draw_weights;
use crate::{
    backend::{self, Device, Precision, wrap::DryRun},
    base::{
        Error, Result,
        rng::{Purpose, Stream},
    },
    data::impressions::Impressions,
    eval::clicks::{ClickMetrics, log_odds},
    mem::Planner,
    ops::{Backend, Later},
};

/// Settings of a head and its training.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClickSettings {
    /// Widths of the hidden layers; empty for logistic regression.
    pub hidden: Vec<usize>,
    pub lr: f32,
    /// Impressions per step.
    pub batch: usize,
    /// Maximum number of epochs.
    pub epochs: u32,
    /// Training stops after this many epochs without improvement on validation; 0: never.
    pub patience: u32,
    pub weight_decay: f32,
    /// Gradients are clipped to this global norm; 0: never.
    pub clip: f32,
    pub seed: u64,
}

impl ClickSettings {
    /// Checks that every setting is in range.
    ///
    /// # Errors
    /// A setting is out of range; the error names the first one.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: String, hint: &str| Err(Error::user(what).hint(hint));
        if let Some(width) = self.hidden.iter().find(|w| !(1..=1 << 14).contains(*w)) {
            return refuse(format!("--hidden {width} is out of range"), "a layer must have between 1 and 16384 units");
        }
        if self.hidden.len() > 16 {
            return refuse(format!("--hidden lists {} layers", self.hidden.len()), "use at most 16 layers");
        }
        if !(1..=1 << 20).contains(&self.batch) {
            return refuse(format!("--batch {} is out of range", self.batch), "it must be between 1 and 1048576");
        }
        if self.epochs == 0 {
            return refuse("--epochs 0 is out of range".into(), "--epochs must be at least 1");
        }
        for (name, x) in [("lr", self.lr), ("weight-decay", self.weight_decay), ("clip", self.clip)] {
            if !x.is_finite() || x < 0.0 {
                return refuse(format!("--{name} {x} is out of range"), "it must be a finite number of at least 0");
            }
        }
        Ok(())
    }
}

/// A head and its state on a backend.
pub struct Learner<B = Box<dyn Backend>> {
    pub plan: Planner,
    pub backend: B,
    pub head: ClickHead,
    settings: ClickSettings,
    /// Number of steps launched so far.
    step: u64,
    /// The loss of the previous step, not yet read.
    pending: Option<Later>,
}

impl<B: Backend> Learner<B> {
    /// Creates a head over `width` inputs, with initial predictions near the log-odds `start`.
    ///
    /// # Errors
    /// The device cannot be opened, lacks memory, or does not support the sizes.
    pub fn new(
        settings: &ClickSettings,
        width: usize,
        start: f32,
        open: impl Fn(&Planner) -> Result<B>,
    ) -> Result<Self> {
        settings.check()?;
        let mut plan = Planner::new();
        let head = ClickHead::plan(&mut plan, settings, width, start);
        let mut backend = open(&plan)?;
        let mut dry_run = DryRun::new(&backend);
        head.step(&mut dry_run, settings.batch);
        backend.reserve(dry_run.finish(plan.owners())?)?;
        head.prepare(&mut backend);
        draw_weights(&plan, &mut backend, settings.seed);
        Ok(Learner { plan, backend, head, settings: settings.clone(), step: 0, pending: None })
    }

    /// Writes a batch, x (M,I) and labels (M), to the device and returns M.
    fn write(&mut self, x: &[f32], targets: &[f32]) -> usize {
        let m = targets.len();
        self.backend.write(self.head.x.first(x.len()).raw(), x);
        self.backend.write(self.head.target.first(m).raw(), targets);
        self.backend.write(self.head.weight.first(m).raw(), &vec![1.0 / m.max(1) as f32; m]);
        m
    }

    /// Launches a step on a batch and returns the mean loss of the previous step. It is read only now so that the
    /// device need not wait.
    ///
    /// # Errors
    /// That loss or its gradient norm is not finite. The weights are those before that step.
    pub fn launch(&mut self, x: &[f32], targets: &[f32]) -> Result<Option<f32>> {
        self.step += 1;
        let m = self.write(x, targets);
        let bias = |beta: f32| (1.0 / (1.0 - (beta as f64).powf(self.step as f64))) as f32;
        self.backend.write(self.head.hyper.raw(), &[self.settings.lr, bias(ClickHead::BETA1), bias(ClickHead::BETA2)]);
        let head = &self.head;
        self.backend.replay((m as u64) << 1 | 1, &mut |b| head.step(b, m));
        let later = self.backend.read_later(self.head.report);
        let before = self.pending.replace(later);
        before.map(|later| self.checked_loss(later, self.step - 1)).transpose()
    }

    /// Returns the loss of the last step.
    ///
    /// # Errors
    /// As [`Learner::launch`], for that step, or the device fails.
    pub fn finish(&mut self) -> Result<Option<f32>> {
        let last = self.pending.take().map(|later| self.checked_loss(later, self.step)).transpose()?;
        self.backend.sync().map(|()| last)
    }

    fn checked_loss(&mut self, later: Later, step: u64) -> Result<f32> {
        let [loss, norm, ok, _] = self.backend.collect(later);
        if ok == 1.0 && loss.is_finite() && norm.is_finite() {
            return Ok(loss);
        }
        self.backend.sync()?;
        Err(Error::user(format!("step {step} is not finite: loss {loss}, gradient norm {norm}")).hint("lower --lr"))
    }

    /// Computes loss and gradients of a batch without an update, and returns the loss.
    pub fn gradients(&mut self, x: &[f32], targets: &[f32]) -> f32 {
        let m = self.write(x, targets);
        self.head.passes(&mut self.backend, m);
        let mut loss = [0.0];
        self.backend.read(self.head.report.first(1).raw(), &mut loss);
        loss[0]
    }

    /// Computes the logits (M) of a batch x (M,I).
    pub fn logits(&mut self, x: &[f32], out: &mut [f32]) {
        let m = out.len();
        self.backend.write(self.head.x.first(x.len()).raw(), x);
        let head = &self.head;
        self.backend.replay((m as u64) << 1, &mut |b| head.forward(b, m));
        self.backend.read(self.head.z.first(m).raw(), out);
    }

    /// Returns all weights in the order of the plan.
    fn weights(&mut self) -> Result<Vec<Vec<f32>>> {
        let mut all = Vec::new();
        for p in self.plan.params() {
            let mut values = vec![0.0; p.w.len()];
            self.backend.read(p.w.raw(), &mut values);
            all.push(values);
        }
        self.backend.sync().map(|()| all)
    }

    fn set_weights(&mut self, all: &[Vec<f32>]) {
        self.plan.params().iter().zip(all).for_each(|(p, values)| self.backend.write(p.w.raw(), values));
    }
}

/// Inputs, impressions, and the rows of each part.
#[derive(Clone, Copy)]
pub struct ClickData<'a> {
    pub inputs: &'a Inputs,
    pub impressions: &'a Impressions,
    /// Numbers of the rows of each part.
    pub train: &'a [u32],
    pub valid: &'a [u32],
    pub test: &'a [u32],
}

/// Results of one epoch.
#[derive(Clone, Debug, Serialize)]
pub struct ClickEpoch {
    pub epoch: u32,
    /// Mean over the impressions of the epoch, each with the weights before its step.
    pub loss: f64,
    /// `None` if there is no validation part.
    pub valid: Option<ClickMetrics>,
}

/// A trained head.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// (name, shape, values)
    pub weights: Vec<(String, Vec<usize>, Vec<f32>)>,
    pub curve: Vec<ClickEpoch>,
    /// The epoch of the weights.
    pub best: u32,
    /// Logits of the validation rows and of the test rows.
    pub logits: [Vec<f64>; 2],
}

/// Trains a head on `device`. `observe` is called after every epoch and may end the training with an error.
///
/// # Errors
/// A setting is out of range, the device fails, or a loss is not finite.
pub fn fit(
    device: Device,
    settings: &ClickSettings,
    data: ClickData<'_>,
    observe: &mut dyn FnMut(&ClickEpoch) -> Result<()>,
) -> Result<Fitted> {
    settings.check()?;
    let share = data.impressions.clicks_among(data.train) as f64 / data.train.len().max(1) as f64;
    let open = |plan: &Planner| backend::open(device, Precision::F32, plan);
    run(Learner::new(settings, data.inputs.width(), log_odds(share) as f32, open)?, data, observe)
}

fn run(
    mut learner: Learner,
    data: ClickData<'_>,
    observe: &mut dyn FnMut(&ClickEpoch) -> Result<()>,
) -> Result<Fitted> {
    let settings = learner.settings.clone();
    let labels =
        |rows: &[u32]| -> Vec<bool> { rows.iter().map(|r| data.impressions.rows[*r as usize].clicked).collect() };
    let valid_labels = labels(data.valid);
    let (mut order, mut curve) = (data.train.to_vec(), Vec::<ClickEpoch>::new());
    let mut best: Option<(u32, f64, Vec<Vec<f32>>)> = None;
    for epoch in 1..=settings.epochs {
        let loss = one_epoch(&mut learner, data, &mut order, epoch)?;
        let valid = match data.valid {
            [] => None,
            rows => Some(ClickMetrics::of(&predict(&mut learner, data, rows)?, &valid_labels)),
        };
        let row = ClickEpoch { epoch, loss, valid };
        observe(&row)?;
        curve.push(row);
        // Without a validation part, the newest weights are kept.
        let better = |valid: &ClickMetrics| best.as_ref().is_none_or(|(_, least, _)| valid.log_loss < *least);
        if valid.as_ref().is_none_or(better) {
            best = Some((epoch, valid.map_or(0.0, |v| v.log_loss), learner.weights()?));
        }
        let since = best.as_ref().map_or(0, |(at, ..)| epoch - at);
        if settings.patience > 0 && since >= settings.patience {
            break;
        }
    }
    let (best, _, weights) =
        best.ok_or_else(|| Error::user("no epoch had a finite log-loss on validation").hint("lower --lr"))?;
    learner.set_weights(&weights);
    let logits = [predict(&mut learner, data, data.valid)?, predict(&mut learner, data, data.test)?];
    let named = learner.plan.params().iter().zip(weights).map(|(p, values)| (p.name.clone(), p.shape.clone(), values));
    Ok(Fitted { weights: named.collect(), curve, best, logits })
}

/// Runs one pass over the training rows in a random order and returns the mean loss.
fn one_epoch(learner: &mut Learner, data: ClickData<'_>, order: &mut [u32], epoch: u32) -> Result<f64> {
    // Shuffle from the order of the data, so that the order of an epoch depends on the seed and the epoch only.
    order.copy_from_slice(data.train);
    Stream::new(learner.settings.seed, Purpose::Shuffle, epoch).shuffle(order);
    let (batch, width) = (learner.settings.batch, data.inputs.width());
    let mut x = vec![0.0; batch.min(order.len()) * width];
    let mut targets = Vec::with_capacity(batch);
    let (mut sum, mut before) = (0.0, 0);
    for rows in order.chunks(batch) {
        let x = &mut x[..rows.len() * width];
        data.inputs.fill(data.impressions, rows, x);
        targets.clear();
        targets.extend(rows.iter().map(|r| f32::from(u8::from(data.impressions.rows[*r as usize].clicked))));
        let loss = learner.launch(x, &targets)?;
        sum += loss.map_or(0.0, |loss| loss as f64 * before as f64);
        before = rows.len();
    }
    let last = learner.finish()?;
    sum += last.map_or(0.0, |loss| loss as f64 * before as f64);
    Ok(sum / order.len().max(1) as f64)
}

/// Computes the logits of the given rows.
fn predict(learner: &mut Learner, data: ClickData<'_>, rows: &[u32]) -> Result<Vec<f64>> {
    let (batch, width) = (learner.settings.batch, data.inputs.width());
    let (mut x, mut z) = (vec![0.0; batch.min(rows.len()) * width], vec![0.0; batch.min(rows.len())]);
    let mut all = Vec::with_capacity(rows.len());
    for rows in rows.chunks(batch) {
        let (x, z) = (&mut x[..rows.len() * width], &mut z[..rows.len()]);
        data.inputs.fill(data.impressions, rows, x);
        learner.logits(x, z);
        all.extend(z.iter().map(|z| *z as f64));
    }
    learner.backend.sync()?;
    match all.iter().any(|z| !z.is_finite()) {
        true => Err(Error::user("the head predicts NaN or infinity").hint("lower --lr")),
        false => Ok(all),
    }
}
