//! The first pass: whole steps, as training runs them.

use std::{collections::HashSet, time::Instant};

use super::{ProfileJob, Spread, Stage, Track, Validation, Whole, data_summary, trace::TraceEvent};
use crate::{
    backend::nvtx,
    base::{Error, Result},
    data::split::HeldOut,
    eval::Encoder,
    mem::Precision,
    ops::{Backend, MARKS, Mark, Open},
    train::{BatchLoader, Engine, MemoryPlan, run::validate},
};

/// The results of the pass.
pub(super) struct Found {
    pub whole: Whole,
    pub precision: Precision,
    pub products: Precision,
    pub parameters: u64,
    pub epoch_steps: u64,
    pub memory: MemoryPlan,
    pub validation: Option<Validation>,
    pub tracks: Vec<Track>,
}

/// A step by the host's clock, in seconds from the start. Loading, sending, launching, waiting and the gap to the next
/// step follow one another.
pub(super) struct Step {
    /// When each part begins, and when the next step does.
    pub at: [f64; 6],
    /// When the step's computation begins and ends, once that is known.
    pub busy: [f64; 2],
    pub marks: [Mark; 2],
    /// The last batch of an epoch may have fewer.
    pub sequences: usize,
    pub interactions: usize,
    pub sizes: [usize; 3],
}

/// Names of the parts of a step.
const PARTS: [&str; 5] = ["load batch", "upload", "launch", "wait", "between"];

/// The number of steps that are read together: reading marks takes microseconds on a device, which belong to no step.
/// Each step has two marks, and a backend keeps at most [`MARKS`].
const TOGETHER: usize = MARKS / 4;

pub(super) fn steps(job: &ProfileJob<'_>, tell: &mut dyn FnMut(Stage), open: Open<'_>) -> Result<Found> {
    let s = &job.config.settings;
    let mut engine = Engine::new(s, data_summary(job)?, open)?;
    let mut loader = BatchLoader::new(s, job.data, job.split)?;
    loader.hold(&mut engine)?;
    let schedule = loader.schedule(s);
    let (mut steps, mut shuffle, mut done, mut read): (Vec<Step>, f64, u64, usize) = (Vec::new(), 0.0, 0, 0);
    // Both clocks start when the device is idle.
    engine.backend.sync()?;
    let (mut last, zero) = ((engine.backend.mark(), 0.0), Instant::now());
    'epochs: for epoch in 1.. {
        let began = Instant::now();
        let order = loader.order(epoch);
        shuffle = began.elapsed().as_secs_f64();
        for users in order.chunks(s.batch) {
            let now = zero.elapsed().as_secs_f64();
            if let Some(before) = steps.last_mut() {
                before.at[5] = now;
            }
            if done == job.untimed + job.steps {
                break 'epochs;
            }
            done += 1;
            nvtx::push("step");
            let mut at = [now; 6];
            loader.fill(&mut engine, epoch, users)?;
            let interactions = engine.rows();
            at[1] = zero.elapsed().as_secs_f64();
            let sent = engine.send(done, schedule.at(done));
            let sizes = sent.sizes();
            at[2] = zero.elapsed().as_secs_f64();
            let from = engine.backend.mark();
            let before = engine.start(sent);
            let marks = [from, engine.backend.mark()];
            at[3] = zero.elapsed().as_secs_f64();
            engine.collect(before)?;
            at[4] = zero.elapsed().as_secs_f64();
            nvtx::pop();
            // All steps but the newest are complete: the loop waited for them.
            if steps.len() - read == TOGETHER {
                time(&mut engine.backend, &mut steps[read..], &mut last);
                read = steps.len();
            }
            let sequences = users.len();
            steps.push(Step { at, busy: [0.0; 2], marks, sequences, interactions, sizes });
        }
    }
    engine.finish()?;
    engine.backend.sync()?;
    time(&mut engine.backend, &mut steps[read..], &mut last);
    let device = matches!(last.0, Mark::Device(_));
    steps.drain(..job.untimed as usize);
    let whole = sum(&steps, device, shuffle);
    tell(Stage::Validation);
    Ok(Found {
        whole,
        precision: engine.backend.precision(),
        products: engine.backend.products(),
        parameters: engine.params().iter().map(|p| p.w.len() as u64).sum(),
        epoch_steps: loader.steps(),
        memory: engine.memory_plan(),
        validation: validation(job, &mut engine)?,
        tracks: tracks(&steps, device),
    })
}

/// Converts the marks of completed steps to seconds; `last` is a mark and its time.
fn time(b: &mut dyn Backend, steps: &mut [Step], last: &mut (Mark, f64)) {
    for step in steps {
        let [from, to] = step.marks;
        let start = last.1 + b.seconds_between(&last.0, &from);
        let end = start + b.seconds_between(&from, &to);
        step.busy = [start, end];
        *last = (to, end);
    }
}

pub(super) fn sum(steps: &[Step], device: bool, shuffle: f64) -> Whole {
    let n = steps.len() as f64;
    let part = |i: usize| Spread::of(steps.iter().map(|s| s.at[i + 1] - s.at[i]));
    let mean = |of: &dyn Fn(&Step) -> usize| steps.iter().map(of).sum::<usize>() as f64 / n;
    let walls: Vec<f64> = steps.iter().map(|s| s.at[5] - s.at[0]).collect();
    let wall = Spread::of(walls.iter().copied());
    let busy = Spread::of(steps.iter().map(|s| s.busy[1] - s.busy[0]));
    let (load, upload) = (part(0), part(1));
    let not_hidden = (wall.mean - busy.mean).max(0.0);
    let host = load.mean + upload.mean;
    let (sequences, interactions) = (mean(&|s| s.sequences), mean(&|s| s.interactions));
    let shapes: HashSet<[usize; 3]> = steps.iter().map(|s| s.sizes).collect();
    Whole {
        wall,
        load,
        upload,
        launch: part(2),
        wait: part(3),
        between: part(4),
        busy,
        not_hidden,
        hidden: device.then(|| 1.0 - (not_hidden / host).min(1.0)),
        shuffle,
        sequences_per_s: sequences / wall.mean,
        interactions_per_s: interactions / wall.mean,
        sequences,
        interactions,
        rows: mean(&|s| s.sizes[1]),
        scored: mean(&|s| s.sizes[2]),
        shapes: shapes.len(),
        walls,
    }
}

fn tracks(steps: &[Step], device: bool) -> Vec<Track> {
    let zero = steps[0].at[0];
    let event = |name, at: [f64; 2]| TraceEvent::new(name, at.map(|t| t - zero));
    let parts =
        |s: &Step| PARTS.iter().enumerate().map(|(i, name)| event(name, [s.at[i], s.at[i + 1]])).collect::<Vec<_>>();
    let host = steps.iter().flat_map(parts);
    let mut tracks = vec![Track::new("whole steps", "host", host.collect())];
    if device {
        let busy = steps.iter().map(|s| event("step", s.busy)).collect();
        tracks.push(Track::new("whole steps", "device", busy));
    }
    tracks
}

/// Runs at least one batch of users, then as many as a second allows.
fn validation(job: &ProfileJob<'_>, encoder: &mut dyn Encoder) -> Result<Option<Validation>> {
    const SECONDS: f64 = 1.0;
    let valid = job.split.valid();
    let all = valid.users().len() as u64;
    if all == 0 {
        return Ok(None);
    }
    let between = between_looks(job.config.ratings.as_ref().map(|_| job.config.settings.batch));
    let (began, mut users, mut last, mut enough) = (Instant::now(), 0, None, None);
    let asked = validate(encoder, job.config, job.data, &valid, &mut |user| {
        // Ratings come one at a time.
        if last.replace(user) != Some(user) {
            users += 1;
        }
        let seconds = began.elapsed().as_secs_f64();
        if users % between == 0 && seconds > SECONDS {
            enough = Some(seconds);
            return Err(Error::internal("enough users"));
        }
        Ok(())
    });
    match (asked, enough) {
        (_, Some(seconds)) => Ok(Some(Validation { users, seconds, all })),
        (Ok(_), None) => Ok(Some(Validation { users, seconds: began.elapsed().as_secs_f64(), all })),
        (Err(e), None) => Err(e),
    }
}

/// Returns the number of users between two readings of the clock: whole batches, because the time of a batch is known
/// at its end. Ranking batches have 256 users. Rating batches have the given number of ratings, and as many users if
/// each has one.
pub(super) fn between_looks(ratings: Option<usize>) -> u64 {
    const USERS: u64 = 256;
    ratings.map_or(USERS, |batch| USERS.next_multiple_of(batch as u64))
}
