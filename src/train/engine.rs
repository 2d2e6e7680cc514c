/*! A planned model with its loss and optimiser on a backend. It runs training steps and encodes histories.

A step builds its batch, draws negatives, runs the forward and backward passes, computes the gradient norm, and
updates the weights if loss and norm are finite. All of it is ops, and everything that changes between steps is
in memory, so a backend can record a step once and replay it ([`crate::ops::Schedule::replay`]). The host writes
the header of the batch and the learning rate before a step, and reads loss and norm one step later
([`Engine::launch`]), so the device never waits for the host. After a step that is not finite, no further step
updates the weights; the step is repeated op by op to find the first op that failed.
*/

use crate::{
    backend::wrap::{DryRun, NanCheck},
    base::{
        Error, Result,
        rng::{Purpose, Stream},
    },
    eval::{Query, Question},
    layers::{BatchShape, DataSummary, HostInput, Input, RatingScale, Users},
    mem::{F32, Init, Param, Planner, Span},
    models::Representations,
    ops::{Backend, Later},
    tasks::{self, Batch, Rating, Sequence},
};

use super::{
    memory::MemoryPlan,
    scoring::Scoring,
    settings::Settings,
    step_plan::{LAG, Rings, StepPlan, plan_step},
};

/// The result of a step.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Number of the step, from 1.
    pub step: u64,
    /// Mean loss of the batch.
    pub loss: f32,
    /// Global norm of the gradients before clipping.
    pub norm: f32,
    /// Number of rows in the mean.
    pub scored: usize,
    pub lr: f32,
}

/// A step whose batch has been sent but that has not been launched.
#[must_use]
#[derive(Debug)]
pub struct Sent {
    shape: BatchShape,
    step: u64,
    lr: f32,
}

impl Sent {
    /// Sequences, rows and scored rows of the batch, including padding.
    pub fn sizes(&self) -> [usize; 3] {
        [self.shape.b, self.shape.n, self.shape.m]
    }
}

/// A launched step whose result has not been read.
#[must_use]
#[derive(Debug)]
pub struct Pending {
    step: u64,
    lr: f32,
    later: Later,
}

/// A model on a backend.
pub struct Engine<B = Box<dyn Backend>> {
    pub plan: Planner,
    pub backend: B,
    step_plan: StepPlan,
    input: Input,
    settings: Settings,
    /// The batch to launch next, and the batch launched last.
    batches: [Batch; 2],
    host: HostInput,
    pub(super) r: Representations,
    pending: Option<Pending>,
    /// Bytes of scratch memory, and of the data kept on the device.
    workspace: usize,
    data: Option<u64>,
    /// The batch of the last training step, as long as it is on the backend.
    trained_on: Option<BatchShape>,
    /// Sum of ln(1 - lr * weight decay) over the steps since all rows were last brought up to date.
    decay: f32,
}

impl<B: Backend> Engine<B> {
    /// Plans the model for the data that `summary` describes (for a plain catalogue: the training interactions
    /// of each item), opens the backend with `open` and draws the initial weights.
    ///
    /// # Errors
    /// Settings that contradict each other or need more memory than there is, or sizes that the backend does
    /// not support.
    pub fn new(
        settings: &Settings,
        summary: impl Into<DataSummary>,
        open: impl Fn(&Planner) -> Result<B>,
    ) -> Result<Self> {
        let mut engine = Self::blank(settings, summary, open)?;
        draw_weights(&engine.plan, &mut engine.backend, engine.settings.seed);
        Ok(engine)
    }

    /// As [`Engine::new`], with all weights zero, for loading a checkpoint.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn blank(
        settings: &Settings,
        summary: impl Into<DataSummary>,
        open: impl Fn(&Planner) -> Result<B>,
    ) -> Result<Self> {
        let summary = summary.into();
        settings.check()?;
        let (plan, input, mut step_plan) = plan_step(settings, &summary, settings.batch)?;
        step_plan.task.learn(&summary);
        let smaller = |e| Self::too_large(e, settings, &summary, &open);
        let mut backend = open(&plan).map_err(smaller)?;
        step_plan.model.prepare(&mut backend, &summary)?;
        step_plan.task.objective().prepare(&mut backend, &summary)?;
        backend.write(step_plan.ok().raw(), &[1.0]);
        let mut engine = Engine {
            plan,
            batches: [step_plan.task.batches().empty(), step_plan.task.batches().empty()],
            r: step_plan.model.representations(),
            backend,
            step_plan,
            input,
            settings: settings.clone(),
            host: HostInput::default(),
            pending: None,
            workspace: 0,
            data: None,
            trained_on: None,
            decay: 0.0,
        };
        engine.reserve().map_err(smaller)?;
        Ok(engine)
    }

    /// Returns the parameters of a run with these settings.
    ///
    /// # Errors
    /// Settings that contradict each other.
    pub fn parameters(settings: &Settings, summary: &DataSummary) -> Result<Vec<Param>> {
        settings.check()?;
        Ok(plan_step(settings, summary, 1)?.0.params().to_vec())
    }

    /// Checks every op of a full batch, asks the backend whether it supports them all, and reserves their
    /// scratch memory. Each call is checked again when it runs ([`crate::ops::Run::run`]), with the sizes of
    /// its batch.
    fn reserve(&mut self) -> Result<()> {
        self.workspace = dry_run(&self.backend, &self.step_plan, &self.input).finish(self.plan.owners())?;
        self.backend.reserve(self.workspace)?;
        self.backend.sync()
    }

    /// Copies `len` interactions to the device's own memory, if there is room. Batches then refer to them by
    /// start position ([`Sequence::Held`]). `pieces` yields them in order. Returns false if they stay on the
    /// host.
    ///
    /// # Errors
    /// Errors from `pieces`, or the device fails.
    pub fn hold<'d>(&mut self, len: u64, pieces: impl Iterator<Item = Result<&'d [u32]>>) -> Result<bool> {
        if !self.settings.find()?.1.holds {
            return Ok(false);
        }
        // Positions have 32 bits, and the last number means "none".
        let Some(data) =
            usize::try_from(len).ok().filter(|l| *l < u32::MAX as usize).and_then(|l| self.backend.resident(l))
        else {
            return Ok(false);
        };
        let mut at = 0;
        for piece in pieces {
            let piece = piece?;
            self.backend.write_ids(data.slice(at, piece.len()), piece);
            at += piece.len();
        }
        assert_eq!(at, data.len(), "the pieces are not the whole");
        self.step_plan.task.batches_mut().hold(data);
        self.data = Some(4 * len);
        self.batches = [self.step_plan.task.batches().empty(), self.step_plan.task.batches().empty()];
        self.backend.sync().map(|()| true)
    }

    /// Returns the use of memory.
    pub fn memory_plan(&self) -> MemoryPlan {
        MemoryPlan {
            workspace: self.workspace as u64,
            data: self.data,
            ..MemoryPlan::of(&self.plan, self.backend.precision())
        }
    }

    /// Begins a batch of the given epoch.
    pub fn begin(&mut self, epoch: u32) {
        self.step_plan.task.batches().clear(&mut self.batches[0], epoch);
    }

    /// Adds a user's sequence to the batch.
    pub fn push(&mut self, user: u64, sequence: Sequence<'_>) {
        self.step_plan.task.push(&mut self.batches[0], user, sequence);
    }

    /// Rows of the batch so far, one per trained interaction.
    pub fn rows(&self) -> usize {
        self.batches[0].header.n()
    }

    /// Launches training step `step` (from 1) on the batch, and returns the report of the step before it.
    ///
    /// # Errors
    /// Loss or gradient norm of the previous step is not finite; the error names the first failing op and
    /// layer. The weights are those before that step.
    pub fn launch(&mut self, step: u64, lr: f32) -> Result<Option<StepReport>> {
        let sent = self.send(step, lr);
        let before = self.start(sent);
        self.collect(before)
    }

    /// First part of [`Engine::launch`]: sends the batch and the step's own values to the backend.
    pub fn send(&mut self, step: u64, lr: f32) -> Sent {
        if step % LAG == 1 && step > 1 {
            self.settle(step - 1);
        }
        let shape = self.upload(step);
        let bias = |beta: f32| (1.0 / (1.0 - (beta as f64).powf(step as f64))) as f32;
        let hyper = [lr, bias(self.settings.beta1), bias(self.settings.beta2)];
        self.backend.write(self.step_plan.hyper.raw(), &hyper);
        if self.step_plan.rings.is_some() {
            // Rounded at every step, so that a resumed run continues from the same sum.
            self.decay = (self.decay as f64 + (-(lr * self.settings.weight_decay) as f64).ln_1p()) as f32;
            self.remember(step, hyper);
        }
        Sent { shape, step, lr }
    }

    /// Second part: launches the step. Returns the previous step, whose result has not been read.
    pub fn start(&mut self, Sent { shape, step, lr }: Sent) -> Option<Pending> {
        let step_plan = &self.step_plan;
        self.backend.replay(shape.key(), &mut |b| step_plan.step(b, &shape));
        let later = self.backend.read_later(self.step_plan.report);
        self.batches.swap(0, 1);
        self.pending.replace(Pending { step, lr, later })
    }

    /// Last part: reads the result of the previous step.
    ///
    /// # Errors
    /// As [`Engine::launch`].
    pub fn collect(&mut self, before: Option<Pending>) -> Result<Option<StepReport>> {
        // Its batch was overwritten by the one launched last, but its header is still in the slot filled next.
        before.map(|p| self.step_report(p, 0)).transpose()
    }

    /// Writes the learning rate and bias corrections of a step to the ring that lagging rows read.
    fn remember(&mut self, step: u64, [lr, c1, c2]: [f32; 3]) {
        if let Some(rings) = self.step_plan.rings {
            for (ring, decay) in [(rings.decaying, self.decay), (rings.lasting, 0.0)] {
                self.backend.write(Rings::at(step, ring).raw(), &[lr, c1, c2, decay]);
            }
        }
    }

    /// Brings every row of every table up to step `step`, the last one launched. Needed before anything but a
    /// step reads weights.
    pub fn settle(&mut self, step: u64) {
        let Some(rings) = self.step_plan.rings else { return };
        self.backend.write_ids(self.input.step, &[step as u32 + 1]);
        self.step_plan.settle(&mut self.backend);
        // The sum starts again at zero, also in the entry of this step.
        let mut hyper = [0.0; 4];
        self.backend.read(Rings::at(step, rings.decaying).raw(), &mut hyper);
        self.decay = 0.0;
        self.remember(step, [hyper[0], hyper[1], hyper[2]]);
    }

    /// Continues after step `step`, whose state has been loaded.
    pub fn continue_after(&mut self, step: u64) {
        if let Some(rings) = self.step_plan.rings {
            let mut hyper = [0.0; 4];
            self.backend.read(Rings::at(step, rings.decaying).raw(), &mut hyper);
            self.decay = hyper[3];
        }
    }

    /// Whether tables are updated by rows, so that weights in a checkpoint may be from earlier steps.
    pub fn by_rows(&self) -> bool {
        self.step_plan.rings.is_some()
    }

    /// Returns the report of the last launched step, if it has not been returned yet.
    ///
    /// # Errors
    /// As [`Engine::launch`], for that step.
    pub fn finish(&mut self) -> Result<Option<StepReport>> {
        self.pending.take().map(|p| self.step_report(p, 1)).transpose()
    }

    /// [`Engine::launch`] and [`Engine::finish`]: runs one step and waits for it.
    ///
    /// # Errors
    /// As [`Engine::launch`], for this step.
    pub fn step(&mut self, step: u64, lr: f32) -> Result<StepReport> {
        self.launch(step, lr)?;
        self.finish().map(|report| report.expect("a step was launched"))
    }

    /// Writes the batch.
    fn upload(&mut self, step: u64) -> BatchShape {
        let shape = self.step_plan.task.upload(&mut self.backend, &mut self.batches[0], step as u32);
        self.trained_on = Some(shape);
        shape
    }

    fn step_report(&mut self, p: Pending, batch: usize) -> Result<StepReport> {
        let [loss, norm, ok, _] = self.backend.collect(p.later);
        if ok != 1.0 || !loss.is_finite() || !norm.is_finite() {
            self.backend.sync()?;
            self.pending = None;
            self.batches.swap(0, batch);
            let shape = self.upload(p.step);
            let place = first_fault(&mut self.backend, (&self.plan, &self.step_plan), &shape, true);
            let what = format!("step {}: loss {loss}, gradient norm {norm}: not finite, {place}", p.step);
            return Err(not_finite(what));
        }
        let scored = self.batches[batch].header.m();
        Ok(StepReport { step: p.step, loss, norm, scored, lr: p.lr })
    }

    /// Checks that the weights after step `step` still give a finite loss on its own batch. The loss of a step
    /// is computed with the weights before it, so the effect of the last update is otherwise not seen. Does
    /// nothing once the batch has been overwritten.
    ///
    /// # Errors
    /// The loss is not finite; the error names the first failing op and layer.
    pub fn check_weights(&mut self, step: u64) -> Result<()> {
        let Some(shape) = self.trained_on else { return Ok(()) };
        self.step_plan.model.forward(&mut self.backend, &shape);
        self.step_plan.task.objective().forward(&mut self.backend, &shape);
        let loss = self.read_one(self.loss_span());
        self.backend.sync()?;
        if loss.is_finite() {
            return Ok(());
        }
        let place = first_fault(&mut self.backend, (&self.plan, &self.step_plan), &shape, false);
        Err(not_finite(format!("after step {step}: loss {loss}: not finite, {place}")))
    }

    fn read_one(&mut self, span: Span<F32>) -> f32 {
        let mut x = [0.0];
        self.backend.read(span.raw(), &mut x);
        x[0]
    }

    /// The task.
    pub fn task(&self) -> &'static tasks::TaskEntry {
        self.settings.find().expect("the settings were checked").1
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// All parameters.
    pub fn params(&self) -> &[Param] {
        self.plan.params()
    }

    /// The scored rows, and the table and bias that score them.
    pub fn representations(&self) -> &Representations {
        &self.r
    }

    /// Returns the scoring plan and its backend.
    pub(super) fn scoring(&mut self) -> (&Scoring, &mut B) {
        (&self.step_plan.scoring, &mut self.backend)
    }

    /// As [`crate::tasks::Task::last_basket`].
    pub(super) fn asks_last_basket(&self) -> bool {
        self.step_plan.task.last_basket()
    }

    /// Encodes the histories of up to a batch of queries (oldest item first; the newest T-1 items count) and
    /// leaves their vectors in the first scored rows.
    pub(super) fn forward_queries(&mut self, queries: &[Query<'_>]) {
        self.trained_on = None;
        self.host.clear();
        for query in queries {
            self.step_plan.task.push_query(&mut self.host, query.history);
            self.host.user.push(query.user.unwrap_or(Users::NOBODY));
        }
        let shape = self.input.upload(&mut self.backend, &self.host, 0);
        self.step_plan.model.forward(&mut self.backend, &shape);
    }

    /// The rating scale of the model, if it predicts ratings.
    pub(super) fn scale(&self) -> Option<&RatingScale> {
        self.step_plan.task.rating().map(Rating::scale)
    }

    /// Predicts up to a batch of ratings and writes them to `out`.
    pub(super) fn forward_questions(&mut self, questions: &[Question<'_>], out: &mut [f32]) -> Result<()> {
        let task = self.step_plan.task.rating().ok_or_else(|| super::ratings::no_model(&self.settings.task))?;
        self.trained_on = None;
        self.host.clear();
        for q in questions {
            task.push_question(&mut self.host, q.items, q.ratings, q.item);
            self.host.user.push(q.user.unwrap_or(Users::NOBODY));
        }
        let shape = self.input.upload(&mut self.backend, &self.host, 0);
        self.step_plan.model.forward(&mut self.backend, &shape);
        let asked: Vec<u32> = questions.iter().map(|q| q.item).collect();
        let z = task.predict(&mut self.backend, &asked, &shape);
        self.backend.read(z.first(out.len()).raw(), out);
        let mean = task.scale().mean;
        out.iter_mut().for_each(|z| *z += mean);
        Ok(())
    }

    /// Runs the forward and backward passes of the pushed batch without an update, for tests and profiles.
    /// Returns the loss.
    pub fn gradients(&mut self, step: u64, training: bool) -> f32 {
        let shape = BatchShape { training, ..self.upload(step) };
        self.step_plan.make(&mut self.backend, &shape);
        self.step_plan.passes(&mut self.backend, &shape);
        self.read_one(self.loss_span())
    }

    /// As [`Engine::gradients`], in training mode, for a batch that is given complete with its `target`s.
    pub fn gradients_of(&mut self, input: &HostInput, target: &[u32], step: u64) -> f32 {
        let shape = BatchShape { training: true, ..self.input.upload(&mut self.backend, input, step as u32) };
        let (to, weight) = self.step_plan.task.objective().targets().expect("the task asks for items");
        self.backend.write_ids(to, target);
        self.backend.write(weight.raw(), &vec![1.0 / target.len().max(1) as f32; target.len()]);
        // Negatives may have to exclude seen items: these need the unmasked items and the user of each row.
        let mut raw = input.item.clone();
        input.row.iter().zip(target).for_each(|(row, target)| raw[*row as usize] = *target);
        let before = |end: &u32| input.row.partition_point(|row| row < end) as u32;
        self.backend.write_ids(self.input.raw, &raw);
        self.backend.write_ids(self.input.scored, &input.cu.iter().map(before).collect::<Vec<_>>());
        self.step_plan.task.objective().begin(&mut self.backend, &shape);
        self.step_plan.passes(&mut self.backend, &shape);
        self.read_one(self.loss_span())
    }

    /// The span that receives the mean loss.
    pub fn loss_span(&self) -> Span<F32> {
        self.step_plan.task.objective().value()
    }

    /// Adds to an out-of-memory error `e` the largest batch that would fit.
    fn too_large(e: Error, settings: &Settings, summary: &DataSummary, open: impl Fn(&Planner) -> Result<B>) -> Error {
        // A backend without a plan can still compute the scratch memory of ops.
        let (Some(there), Ok(bare)) = (e.available_bytes, open(&Planner::new())) else { return e };
        // Leave a margin: copies, graphs and the driver need memory too.
        let there = there - there / 32;
        let fits = |batch: usize| {
            let Ok((plan, input, step_plan)) = plan_step(settings, summary, batch) else { return false };
            let Ok(scratch) = dry_run(&bare, &step_plan, &input).finish(plan.owners()) else { return false };
            (bare.bytes(&plan) + scratch.next_multiple_of(1 << 20)) as u64 <= there
        };
        let (mut low, mut high) = (0, settings.batch);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if fits(middle) { low = middle } else { high = middle }
        }
        let negatives = if settings.loss.sampled() { ", --negatives" } else { "" };
        match low {
            0 => e.hint(format!("not even one sequence a step fits: lower --width, --length{negatives} or --blocks")),
            batch => e.hint(format!("--batch {batch} would fit; or lower --length, --width{negatives} or --blocks")),
        }
    }
}

/// Draws the initial weights of a plan, each parameter from its own random stream.
pub(super) fn draw_weights(plan: &Planner, backend: &mut dyn Backend, seed: u64) {
    // In pieces, because a table may exceed the free memory.
    const PIECE: usize = 1 << 22;
    let mut values = Vec::new();
    for (i, p) in plan.params().iter().enumerate() {
        let mut draw = Stream::new(seed, Purpose::Init, i as u32);
        for at in (0..p.w.len()).step_by(PIECE) {
            let piece = p.w.slice(at, PIECE.min(p.w.len() - at));
            values.clear();
            values.extend((0..piece.len()).map(|_| match p.init {
                Init::Constant(c) => c,
                Init::TruncatedNormal(std) => loop {
                    let x = draw.normal();
                    if x.abs() <= 2.0 {
                        break x * std;
                    }
                },
            }));
            backend.write(piece.raw(), &values);
        }
    }
}

fn not_finite(what: String) -> Error {
    Error::user(what).hint("lower --lr, raise --warmup or lower --clip (0 clips nothing)")
}

// Not methods: a method of a generic type is compiled again for each backend, and so are the wrappers of all ops.

/// Dry run of the ops of a full batch: a step, the update of lagging rows, and encoding, ranking and
/// rating.
fn dry_run<'b>(backend: &'b dyn Backend, step_plan: &StepPlan, input: &Input) -> DryRun<'b> {
    let (c, mut dry_run) = (input.capacity, DryRun::new(backend));
    step_plan.step(&mut dry_run, &BatchShape { b: c.b, n: c.n, m: c.m, training: true });
    step_plan.settle(&mut dry_run);
    let users = step_plan.scoring.users();
    let histories = BatchShape { b: users, n: c.n, m: users, training: false };
    step_plan.model.forward(&mut dry_run, &histories);
    step_plan.scoring.largest(&mut dry_run);
    if let Some(task) = step_plan.task.rating() {
        task.predict(&mut dry_run, &[], &histories);
    }
    dry_run
}

/// Repeats the passes of a step (with `make`, also the ops that build its batch) and reads every result
/// back, to name the failing op and layer.
fn first_fault(
    backend: &mut dyn Backend,
    (plan, step_plan): (&Planner, &StepPlan),
    shape: &BatchShape,
    make: bool,
) -> String {
    let mut checked = NanCheck::new(backend);
    if make {
        step_plan.make(&mut checked, shape);
    }
    step_plan.passes(&mut checked, shape);
    match checked.first_fault {
        Some((op, span)) => {
            let layer = plan.params().iter().find(|p| p.w.raw() == span || p.dw.raw() == span);
            let layer = layer.map_or(plan.owner(span), |p| &p.name);
            format!("first in {op} of {layer}")
        }
        None => "in the gradient norm".to_string(),
    }
}
