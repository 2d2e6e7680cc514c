/*! Click-through: the probability that a user clicks an item shown, from a pre-trained user vector and an item vector.

The run is frozen. It gives each impression the vector u of what the user had clicked before ([`crate::data::impressions`]),
and of who the user is where it knows users; its item table (or a file of contents) gives v, and a small head learns from [u | v | u v] whether it was clicked
(`inputs`, `head`). What was shown and not clicked is real here, unlike the sampled negatives of pre-training.

What is held out is the split's: prefixes of each user's rows train, validation chooses the epoch (least log-loss), the test
reports. Histories roll on through the parts: a click that is held out is history for what was shown later, as it would
have been on that day. Two things make such numbers too good, and both are looked after: a run that was pre-trained on clicks held out here (its
users are left out of both held-out parts, or all is refused: [`trained_on`]), and a head judged on rows that stood beside
training rows in one basket (only a split by time keeps baskets whole; the report counts them otherwise). One bias is left
and only worth knowing: the run has seen the clicks of *training* impressions, so u fits them better than it will fit later
ones; a head learned on what was shown after the run's own cut in time is free of it.

Steps are ops as in [`super::engine`], on any backend; a batch crosses to the device as M rows of x. All is f32: a head has
a few thousand weights. Everything random (first weights, order of rows) is a function of the seed.

[`trained_on`]: crate::data::impressions::trained_on
*/

mod head;
mod inputs;

pub use head::ClickHead;
pub use inputs::{Inputs, NO_VECTOR, encode};

use serde::Serialize;

use super::engine::draw_weights;
use crate::{
    backend::{self, Device, Precision, WithBackend, wrap::DryRun},
    base::{
        Error, Result,
        rng::{Purpose, Stream},
    },
    data::impressions::Impressions,
    eval::clicks::{ClickMetrics, log_odds},
    mem::Planner,
    ops::{Backend, Later},
};

/// How a head is made and trained.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClickSettings {
    /// Widths of the hidden layers; none: logistic regression.
    pub hidden: Vec<usize>,
    pub lr: f32,
    /// Impressions a step.
    pub batch: usize,
    /// Epochs at most.
    pub epochs: u32,
    /// Epochs without a better validation after which it ends; 0: never.
    pub patience: u32,
    pub weight_decay: f32,
    /// Global norm that gradients are clipped to; 0: never.
    pub clip: f32,
    pub seed: u64,
}

impl ClickSettings {
    /// # Errors
    /// The first setting out of range.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: String, hint: &str| Err(Error::user(what).hint(hint));
        if let Some(width) = self.hidden.iter().find(|w| !(1..=1 << 14).contains(*w)) {
            return refuse(format!("--hidden {width} is out of range"), "a layer has 1 to 16384 units");
        }
        if self.hidden.len() > 16 {
            return refuse(format!("--hidden names {} layers", self.hidden.len()), "16 are the most");
        }
        if !(1..=1 << 20).contains(&self.batch) {
            return refuse(format!("--batch {} is out of range", self.batch), "it can be 1 to 1048576");
        }
        if self.epochs == 0 {
            return refuse("--epochs 0 makes no sense".into(), "--epochs must be at least 1");
        }
        for (name, x) in [("lr", self.lr), ("weight-decay", self.weight_decay), ("clip", self.clip)] {
            if !x.is_finite() || x < 0.0 {
                return refuse(format!("--{name} {x} is out of range"), "it must be a number of at least 0");
            }
        }
        Ok(())
    }
}

/// A head on a backend.
pub struct Learner<B> {
    pub plan: Planner,
    pub backend: B,
    pub head: ClickHead,
    settings: ClickSettings,
    /// Steps done.
    step: u64,
    /// The loss of the step before, on its way.
    pending: Option<Later>,
}

impl<B: Backend> Learner<B> {
    /// Over `width` inputs, predicting near the log-odds `start` at first.
    ///
    /// # Errors
    /// A device that cannot be opened, has no room, or does not serve the sizes.
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

    /// Writes a batch: x (M,I) and labels (M).
    fn write(&mut self, x: &[f32], targets: &[f32]) -> usize {
        let m = targets.len();
        self.backend.write(self.head.x.first(x.len()).raw(), x);
        self.backend.write(self.head.target.first(m).raw(), targets);
        self.backend.write(self.head.weight.first(m).raw(), &vec![1.0 / m.max(1) as f32; m]);
        m
    }

    /// Sets off a step on a batch and gives the mean loss of the step before, which is looked at only now so that the device
    /// need not wait.
    ///
    /// # Errors
    /// That loss or its gradient norm is not finite; the weights are as before it.
    pub fn launch(&mut self, x: &[f32], targets: &[f32]) -> Result<Option<f32>> {
        self.step += 1;
        let m = self.write(x, targets);
        let bias = |beta: f32| (1.0 / (1.0 - (beta as f64).powf(self.step as f64))) as f32;
        self.backend.write(self.head.hyper.raw(), &[self.settings.lr, bias(ClickHead::BETA1), bias(ClickHead::BETA2)]);
        let head = &self.head;
        self.backend.replay((m as u64) << 1 | 1, |b| head.step(b, m));
        let later = self.backend.read_later(self.head.report);
        let before = self.pending.replace(later);
        before.map(|later| self.checked_loss(later, self.step - 1)).transpose()
    }

    /// The loss of the last step.
    ///
    /// # Errors
    /// As [`Learner::launch`], for that step; a failing device.
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
        Err(Error::user(format!("step {step}: loss {loss}, gradient norm {norm}: not finite")).hint("lower --lr"))
    }

    /// Loss and gradients of a batch, without an update.
    pub fn gradients(&mut self, x: &[f32], targets: &[f32]) -> f32 {
        let m = self.write(x, targets);
        self.head.passes(&mut self.backend, m);
        let mut loss = [0.0];
        self.backend.read(self.head.report.first(1).raw(), &mut loss);
        loss[0]
    }

    /// The logits of a batch x (M,I).
    pub fn logits(&mut self, x: &[f32], out: &mut [f32]) {
        let m = out.len();
        self.backend.write(self.head.x.first(x.len()).raw(), x);
        let head = &self.head;
        self.backend.replay((m as u64) << 1, |b| head.forward(b, m));
        self.backend.read(self.head.z.first(m).raw(), out);
    }

    /// All weights in the order of the plan.
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

/// What is learned from and judged on.
#[derive(Clone, Copy)]
pub struct ClickData<'a> {
    pub inputs: &'a Inputs,
    pub impressions: &'a Impressions,
    /// Numbers of the rows of each part.
    pub train: &'a [u32],
    pub valid: &'a [u32],
    pub test: &'a [u32],
}

/// One epoch.
#[derive(Clone, Debug, Serialize)]
pub struct ClickEpoch {
    pub epoch: u32,
    /// Mean over the epoch's impressions, each at the weights before its step.
    pub loss: f64,
    /// `None` where nothing is held out for validation.
    pub valid: Option<ClickMetrics>,
}

/// A trained head.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// (name, shape, values)
    pub weights: Vec<(String, Vec<usize>, Vec<f32>)>,
    pub curve: Vec<ClickEpoch>,
    /// The epoch that the weights are of.
    pub best: u32,
    /// Of the rows of validation and test.
    pub logits: [Vec<f64>; 2],
}

/// Trains a head on `device`; `observe` is told of every epoch, and may end it with an error.
///
/// # Errors
/// Settings out of range; the device's; a loss that is not finite.
pub fn fit(
    device: Device,
    settings: &ClickSettings,
    data: ClickData<'_>,
    observe: &mut dyn FnMut(&ClickEpoch) -> Result<()>,
) -> Result<Fitted> {
    struct OnBackend<'a, 'o>(&'a ClickSettings, ClickData<'a>, &'o mut dyn FnMut(&ClickEpoch) -> Result<()>);
    impl WithBackend for OnBackend<'_, '_> {
        type Out = Result<Fitted>;
        fn call<B: Backend + 'static>(self, open: &dyn Fn(&Planner) -> Result<B>) -> Self::Out {
            let share = self.1.impressions.clicks_among(self.1.train) as f64 / self.1.train.len().max(1) as f64;
            let learner = Learner::<B>::new(self.0, self.1.inputs.width(), log_odds(share) as f32, open)?;
            run(learner, self.1, self.2)
        }
    }
    settings.check()?;
    backend::with(device, Precision::F32, OnBackend(settings, data, observe))
}

fn run<B: Backend>(
    mut learner: Learner<B>,
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
        // Without a validation the newest weights are taken.
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

/// One pass over the training rows in an order of its own; gives the mean loss.
fn one_epoch<B: Backend>(learner: &mut Learner<B>, data: ClickData<'_>, order: &mut [u32], epoch: u32) -> Result<f64> {
    // From the rows as they stand in the data, so that an epoch's order is a function of seed and epoch alone.
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

/// The logits of some rows.
fn predict<B: Backend>(learner: &mut Learner<B>, data: ClickData<'_>, rows: &[u32]) -> Result<Vec<f64>> {
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
        true => Err(Error::user("the head predicts a NaN or an infinity").hint("lower --lr")),
        false => Ok(all),
    }
}
