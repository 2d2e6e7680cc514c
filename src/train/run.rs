//! The training loop of a run, from its first step or its last checkpoint to the end.

use std::{
    fs,
    io::Write,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use super::{
    checkpoint::{self, CheckpointMeta, EpochRow, TrainState},
    engine::{Engine, StepReport},
    folder::{RunConfig, RunFolder},
    loader::BatchLoader,
    memory::MemoryPlan,
    origin::Transfer,
    schedule::Schedule,
    side_tables::SideTables,
    step_plan::plan_step,
    transfer::{self, Base, Carried, Keys},
};
use crate::{
    backend::{self, Device},
    base::{
        Error, Result,
        atomic::write_atomically,
        error::{IoContext, typed},
    },
    data::{
        Dataset,
        split::{Split, ValidPart},
    },
    eval::{Encoder, EvalOptions, RatingOptions, evaluate::evaluate_each, evaluate_ratings},
    layers::DataSummary,
    ops::Open,
};

/// Progress reports of a run.
#[derive(Clone, Debug)]
pub enum TrainEvent {
    /// The tensors that were copied from the base run.
    Carried(Vec<Carried>),
    /// The run is planned and ready: its parameters, memory, steps per epoch, and the state it starts from.
    Ready { parameters: usize, memory: MemoryPlan, steps: u64, state: TrainState },
    /// Validation before the first step, for a run that starts from another one.
    Start(Validated),
    /// A step is done. `interactions`: interactions (without padding) trained on since the run was started or resumed.
    Step { epoch: u32, step: u64, steps: u64, loss: f32, lr: f32, interactions: u64 },
    /// An epoch is done.
    Epoch { row: EpochRow, seconds: f64, interactions_per_s: f64, best: bool },
}

/// The inputs of a run.
pub struct TrainJob<'a> {
    pub config: &'a RunConfig,
    pub data: &'a Dataset,
    pub split: &'a Split,
    pub folder: &'a RunFolder,
    pub device: Device,
    /// Continue from `last.safetensors`.
    pub resume: bool,
    /// Set to stop the run: it writes a checkpoint and returns.
    pub stop: &'a AtomicBool,
}

/// Trains to the end, or until `job.stop` is set.
///
/// # Errors
/// Settings that contradict each other, a checkpoint that does not fit, a loss that is not finite, or an I/O
/// error.
pub fn train(job: &TrainJob<'_>, observe: &mut dyn FnMut(TrainEvent)) -> Result<TrainState> {
    job.config.settings.check()?;
    let precision = job.config.settings.precision.on(job.device);
    Loop::new(job, &|plan| backend::open(job.device, precision, plan))?.run(observe)
}

/// Checks that a run with these settings can be planned for these data, and that there are users to train on.
/// Writes nothing, so it can run before the run folder exists. Whether the plan fits a device is known only on
/// the device.
///
/// # Errors
/// The model rejects the settings, nothing is left to train, or no user has enough training data.
pub fn check(config: &RunConfig, data: &Dataset, split: &Split) -> Result<()> {
    let s = &config.settings;
    s.check()?;
    BatchLoader::new(s, data, split)?;
    let summary = DataSummary { ratings: config.ratings.clone(), ..SideTables::data_summary(s, data)? };
    let (plan, ..) = plan_step(s, &summary, s.batch)?;
    if plan.params().iter().all(|p| p.frozen) {
        return Err(Error::user(format!("--freeze {} leaves nothing to train", s.freeze))
            .hint("freeze less, or add patches: --patch serial"));
    }
    Ok(())
}

/// The result of a validation.
#[derive(Clone, Copy, Debug)]
pub enum Validated {
    Ranking { ndcg: f64, hit: f64 },
    Ratings { rmse: f64, mae: f64 },
}

/// Validates `encoder` as a run does. `each` is called with every user (with the user of every rating, if the
/// run learns ratings) and may end the validation with an error.
///
/// # Errors
/// As [`evaluate_each`] and [`evaluate_ratings`].
pub fn validate(
    encoder: &mut dyn Encoder,
    config: &RunConfig,
    data: &Dataset,
    valid: &ValidPart<'_>,
    each: &mut dyn FnMut(u32) -> Result<()>,
) -> Result<Validated> {
    if let Some(scale) = &config.ratings {
        let options = RatingOptions { range: scale.range(), batch: config.settings.batch, item_map: None, users: None };
        let report = evaluate_ratings(encoder, data, valid, &options, &mut |r| each(r.user))?;
        return Ok(Validated::Ratings { rmse: report.model.rmse, mae: report.model.mae });
    }
    let keep_seen = config.settings.keep_seen;
    let options = EvalOptions { ks: vec![10.min(data.items())], keep_seen, ..EvalOptions::default() };
    let report = evaluate_each(encoder, data, valid, &options, &mut |r| each(r.user))?;
    let at = report.full.model.at[0];
    Ok(Validated::Ranking { ndcg: at.ndcg, hit: at.hr })
}

struct Loop<'a> {
    job: &'a TrainJob<'a>,
    engine: Engine,
    loader: BatchLoader<'a>,
    /// Steps launched: at most one more than the steps counted in `state`.
    launched: u64,
    state: TrainState,
    vocabulary: String,
    /// The tensors that were copied from the base run, until they are reported.
    carried: Option<Vec<Carried>>,
    schedule: Schedule,
    saved: Instant,
    /// Duration of the last checkpoint.
    saving: Duration,
    started: Instant,
    interactions: u64,
}

impl<'a> Loop<'a> {
    fn new(job: &'a TrainJob<'a>, open: Open<'_>) -> Result<Self> {
        let s = &job.config.settings;
        let counts: Vec<u64> = job.split.train_counts().iter().map(|c| *c as u64).collect();
        // Read from the run folder, not from the data: the side fields may have been imported again since.
        let side_tables = SideTables::open(s, job.folder, job.data.items())?;
        let summary = side_tables.summary(counts)?;
        // Weights that a checkpoint overwrites need no random initialisation.
        let summary = DataSummary { ratings: job.config.ratings.clone(), ..summary };
        let mut engine = if job.resume { Engine::blank(s, summary, open) } else { Engine::new(s, summary, open) }?;
        let vocabulary = side_tables.fingerprint(job.data.item_keys());
        let state = if job.resume {
            let Engine { plan, backend, .. } = &mut engine;
            checkpoint::load(&job.folder.last(), backend, plan, true, &vocabulary)?
        } else {
            TrainState::default()
        };
        let keys =
            Keys { items: job.data.item_keys(), side_tables: &side_tables, content: Some(job.data.item_fields()) };
        let carried = match &job.config.from {
            Some(origin) if !job.resume => {
                let mut base = Base::open(&origin.run, origin.checkpoint)?;
                transfer::check_base(&base, origin)?;
                Some(transfer::carry(&mut engine, &mut base, origin, keys, |_| true)?)
            }
            Some(origin) if engine.params().iter().any(|p| p.frozen) => {
                transfer::complete(&mut engine, origin, keys)?;
                None
            }
            _ => None,
        };
        engine.continue_after(state.step);
        let mut loader = BatchLoader::new(s, job.data, job.split)?;
        let schedule = loader.schedule(s);
        loader.hold(&mut engine)?;
        let (now, launched) = (Instant::now(), state.step);
        Ok(Loop {
            job,
            engine,
            loader,
            launched,
            state,
            vocabulary,
            carried,
            schedule,
            saved: now,
            saving: Duration::ZERO,
            started: now,
            interactions: 0,
        })
    }

    fn run(mut self, observe: &mut dyn FnMut(TrainEvent)) -> Result<TrainState> {
        if let Some(carried) = self.carried.take() {
            observe(TrainEvent::Carried(carried));
        }
        observe(TrainEvent::Ready {
            parameters: self.engine.params().iter().map(|p| p.w.len()).sum(),
            memory: self.engine.memory_plan(),
            steps: self.loader.steps(),
            state: self.state.clone(),
        });
        if self.job.resume {
            // The curve is written after the checkpoint; a run killed between the two lacks the newest row.
            self.write_curve()?;
        } else {
            // With a first checkpoint the run can be resumed wherever it ends, and a full disk is noticed at
            // once.
            self.save_last()?;
        }
        if let Some(found) = self.validate_start()? {
            observe(TrainEvent::Start(found));
        }
        let epochs = self.job.config.settings.epochs;
        while self.state.epoch < epochs && !self.state.done {
            let (time, before) = (Instant::now(), self.interactions);
            if !self.epoch(observe)? {
                self.save_last()?;
                return Ok(self.state);
            }
            let seconds = time.elapsed().as_secs_f64();
            let rate = (self.interactions - before) as f64 / seconds;
            let best = self.close_epoch()?;
            let row = self.state.history.last().expect("an epoch was closed").clone();
            self.note_timing(&row, seconds, rate)?;
            observe(TrainEvent::Epoch { row, seconds, interactions_per_s: rate, best });
        }
        if !self.state.done {
            self.state.done = true;
            self.save_last()?;
        }
        Ok(self.state)
    }

    /// Validates the copied weights before the first step. A result far below that of the base means that the
    /// transfer lost something.
    fn validate_start(&mut self) -> Result<Option<Validated>> {
        let (config, split) = (self.job.config, self.job.split);
        let taken = config.from.as_ref().is_some_and(|origin| origin.transfer != Transfer::None);
        if self.job.resume || !taken || split.summary().valid_users == 0 {
            return Ok(None);
        }
        validate(&mut self.engine, config, self.job.data, &split.valid(), &mut |_| Ok(())).map(Some)
    }

    /// Runs the rest of the current epoch. Returns false if the run was stopped.
    fn epoch(&mut self, observe: &mut dyn FnMut(TrainEvent)) -> Result<bool> {
        let s = &self.job.config.settings;
        let epoch = self.state.epoch + 1;
        self.check_data()?;
        let order = self.loader.order(epoch);
        let batches = order.chunks(s.batch).skip(self.state.step_in_epoch as usize);
        for batch in batches {
            if self.job.stop.load(Ordering::Relaxed) {
                self.drain(observe)?;
                return Ok(false);
            }
            self.loader.fill(&mut self.engine, epoch, batch).map_err(|e| self.point_to_resume(e))?;
            self.interactions += self.engine.rows() as u64;
            self.launched += 1;
            let lr = self.schedule.at(self.launched);
            let before = self.engine.launch(self.launched, lr);
            self.book(before, epoch, observe)?;
            // Saving a large table takes time: spend at most a tenth of the run on it. When a checkpoint is
            // written has no effect on the results.
            let wait = Duration::from_secs(s.checkpoint_seconds).max(10 * self.saving);
            if s.checkpoint_seconds > 0 && self.saved.elapsed() > wait {
                self.drain(observe)?;
                self.save_last()?;
            }
        }
        self.drain(observe)?;
        Ok(true)
    }

    /// Waits for the step in flight, if there is one.
    fn drain(&mut self, observe: &mut dyn FnMut(TrainEvent)) -> Result<()> {
        let last = self.engine.finish();
        self.book(last, self.state.epoch + 1, observe)
    }

    /// Records the result of a step.
    fn book(
        &mut self,
        report: Result<Option<StepReport>>,
        epoch: u32,
        observe: &mut dyn FnMut(TrainEvent),
    ) -> Result<()> {
        let Some(report) = report.map_err(|e| self.point_to_last(e.at(format!("epoch {epoch}"))))? else {
            return Ok(());
        };
        self.state.step = report.step;
        self.state.step_in_epoch += 1;
        self.state.loss_sum += report.loss as f64 * report.scored as f64;
        self.state.scored += report.scored as u64;
        let (step, steps) = (self.state.step_in_epoch, self.loader.steps());
        let StepReport { loss, lr, .. } = report;
        observe(TrainEvent::Step { epoch, step, steps, loss, lr, interactions: self.interactions });
        Ok(())
    }

    /// Checks that the data files are those that the run began with.
    fn check_data(&self) -> Result<()> {
        self.job.data.unchanged().map_err(|e| self.point_to_resume(e))
    }

    /// Adds to an error of the data how to continue once they are fixed.
    fn point_to_resume(&self, e: Error) -> Error {
        let (run, last) = (typed(&self.job.folder.path), self.job.folder.last());
        let mend = e.hint.as_ref().map_or(String::new(), |hint| format!("{hint}, then "));
        e.hint(format!("{mend}continue with: mipgpu train --resume {run}; what was trained is in {}", last.display()))
    }

    /// Closes a finished epoch, validates if due, and returns whether it is the best epoch so far. Of equal
    /// validations the newest is the best, because it has trained longer; `patience` does not count it as an
    /// improvement.
    fn close_epoch(&mut self) -> Result<bool> {
        self.check_weights()?;
        let s = &self.job.config.settings;
        let state = &mut self.state;
        state.epoch += 1;
        state.step_in_epoch = 0;
        let loss = state.loss_sum / state.scored.max(1) as f64;
        (state.loss_sum, state.scored) = (0.0, 0);
        let (epoch, step) = (state.epoch, state.step);
        let mut row = EpochRow { epoch, step, loss, ndcg: None, hit: None, rmse: None, mae: None };
        let (mut best, mut better) = (false, false);
        if state.epoch.is_multiple_of(s.eval_every) || state.epoch == s.epochs {
            self.engine.settle(state.step);
            if self.job.split.summary().valid_users > 0 {
                self.check_data()?;
                let (config, valid) = (self.job.config, self.job.split.valid());
                match validate(&mut self.engine, config, self.job.data, &valid, &mut |_| Ok(()))? {
                    Validated::Ranking { ndcg, hit } => (row.ndcg, row.hit) = (Some(ndcg), Some(hit)),
                    Validated::Ratings { rmse, mae } => (row.rmse, row.mae) = (Some(rmse), Some(mae)),
                }
                let before = self.state.history.iter().filter_map(EpochRow::goodness).reduce(f64::max);
                let above = |than: fn(&f64, &f64) -> bool| {
                    before.is_none_or(|before| row.goodness().is_some_and(|now| than(&now, &before)))
                };
                (best, better) = (above(f64::ge), above(f64::gt));
            } else {
                // Without validation users, the newest weights are the best.
                (best, better) = (true, true);
            }
        }
        self.state.history.push(row);
        let epoch = self.state.epoch;
        let measure = self.state.history.last().and_then(EpochRow::measure);
        if best {
            self.state.best = measure.map(|measure| (epoch, measure));
        }
        if better {
            self.state.stale = 0;
        } else if measure.is_some() {
            self.state.stale += 1;
            self.state.done = s.patience > 0 && self.state.stale >= s.patience;
        }
        if best {
            self.save(&self.job.folder.best(), false)?;
        }
        self.state.done |= epoch == s.epochs;
        if best || self.state.done || s.checkpoint_seconds == 0 {
            self.save_last()?;
        }
        Ok(best)
    }

    /// Adds to the error of a step the path of the last good checkpoint.
    fn point_to_last(&self, e: Error) -> Error {
        let hint = e.hint.clone().unwrap_or_default();
        let last = self.job.folder.last();
        e.hint(format!("{hint}, in a new run; the last good checkpoint of this one is {}", last.display()))
    }

    /// Checks the weights before a checkpoint or a validation: the last step may have made them NaN or
    /// infinite.
    fn check_weights(&mut self) -> Result<()> {
        let epoch = self.state.epoch + 1;
        let checked = self.engine.check_weights(self.state.step);
        checked.map_err(|e| self.point_to_last(e.at(format!("epoch {epoch}"))))
    }

    fn save(&mut self, path: &Path, moments: bool) -> Result<()> {
        let Engine { plan, backend, .. } = &mut self.engine;
        // Frozen tensors stay in the base's checkpoint.
        let origin = self.job.config.from.as_ref().filter(|_| plan.params().iter().any(|p| p.frozen));
        let beside = CheckpointMeta {
            vocabulary: &self.vocabulary,
            base: origin.map(|o| o.sha256.as_str()),
            settings: &self.job.config.settings,
        };
        checkpoint::save(path, backend, plan, moments, beside, &self.state)
    }

    fn save_last(&mut self) -> Result<()> {
        let began = Instant::now();
        self.check_weights()?;
        self.save(&self.job.folder.last(), true)?;
        self.write_curve()?;
        self.saving = began.elapsed();
        self.saved = Instant::now();
        Ok(())
    }

    /// Writes `metrics.jsonl` as of the current state.
    fn write_curve(&self) -> Result<()> {
        write_atomically(&self.job.folder.path.join("metrics.jsonl"), |f| {
            self.state.history.iter().try_for_each(|row| writeln!(f, "{}", serde_json::json!(row)))
        })
    }

    fn note_timing(&self, row: &EpochRow, seconds: f64, rate: f64) -> Result<()> {
        let path = self.job.folder.path.join("timing.jsonl");
        // A run may be resumed on another device, so each epoch records its device.
        let (device, _) = backend::choose(self.job.device);
        let line = serde_json::json!({
            "epoch": row.epoch, "train_s": seconds, "interactions_per_s": rate,
            "elapsed_s": self.started.elapsed().as_secs_f64(),
            "device": device.to_string(), "precision": self.job.config.settings.precision.on(device),
        });
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&path).at_path(&path)?;
        writeln!(file, "{line}").at_path(&path)
    }
}
