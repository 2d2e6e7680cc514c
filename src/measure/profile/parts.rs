//! The second pass: steps timed op by op.

use std::time::Instant;

use super::{
    ProfileJob, Track, data_summary,
    trace::{CallDetails, TraceEvent},
};
use crate::{
    backend::wrap::{Call, Timed},
    base::Result,
    mem::{Planner, Precision},
    ops::Open,
    train::{BatchLoader, Engine},
};

/// A step: the host's times in seconds from the start, and the calls.
pub(super) struct Step {
    /// When loading, sending and computing begin, and when computing ends.
    pub at: [f64; 4],
    pub upload_bytes: u64,
    pub calls: Vec<Call>,
}

pub(super) struct StepTimings {
    pub plan: Planner,
    pub steps: Vec<Step>,
}

pub(super) fn steps(job: &ProfileJob<'_>, open: Open<'_>) -> Result<StepTimings> {
    let s = &job.config.settings;
    let mut engine = Engine::new(s, data_summary(job)?, |plan| Ok(Timed::new(open(plan)?)))?;
    let mut loader = BatchLoader::new(s, job.data, job.split)?;
    loader.hold(&mut engine)?;
    let schedule = loader.schedule(s);
    let (mut steps, mut done, mut zero) = (Vec::new(), 0, Instant::now());
    'epochs: for epoch in 1.. {
        for users in loader.order(epoch).chunks(s.batch) {
            if done == job.untimed + job.steps {
                break 'epochs;
            }
            if done == job.untimed {
                zero = engine.backend.begin()?;
            }
            done += 1;
            let mut at = [zero.elapsed().as_secs_f64(); 4];
            loader.fill(&mut engine, epoch, users)?;
            at[1] = zero.elapsed().as_secs_f64();
            engine.backend.written = Default::default();
            let sent = engine.send(done, schedule.at(done));
            at[2] = zero.elapsed().as_secs_f64();
            let upload_bytes = engine.backend.written.bytes;
            let before = engine.start(sent);
            engine.collect(before)?;
            // Steps run one after another: the next batch must not be loaded while this step computes.
            engine.finish()?;
            at[3] = zero.elapsed().as_secs_f64();
            let calls = engine.backend.take();
            if done > job.untimed {
                steps.push(Step { at, upload_bytes, calls });
            }
        }
    }
    Ok(StepTimings { plan: engine.plan, steps })
}

impl StepTimings {
    pub fn tracks(&self, precision: Precision) -> Vec<Track> {
        let of = "op by op";
        let host = self.steps.iter().flat_map(|s| {
            ["load batch", "upload", "compute"]
                .into_iter()
                .enumerate()
                .map(|(i, name)| TraceEvent::new(name, [s.at[i], s.at[i + 1]]))
        });
        let (mut phases, mut ops): (Vec<TraceEvent>, Vec<TraceEvent>) = (Vec::new(), Vec::new());
        for step in &self.steps {
            let mut phase = None;
            for call in &step.calls {
                let end = call.start + call.seconds;
                match phases.last_mut().filter(|_| phase == Some(call.phase)) {
                    Some(event) => event.at[1] = end,
                    None => phases.push(TraceEvent::new(call.phase.word(), [call.start, end])),
                }
                phase = Some(call.phase);
                let told = CallDetails {
                    layer: self.layer(call),
                    sizes: call.sizes.clone(),
                    flop: call.cost.flop,
                    bytes: call.cost.moved(precision),
                };
                ops.push(TraceEvent { call: Some(told), ..TraceEvent::new(call.op, [call.start, end]) });
            }
        }
        vec![Track::new(of, "host", host.collect()), Track::new(of, "phases", phases), Track::new(of, "ops", ops)]
    }

    /// Returns the layer that a call belongs to.
    pub fn layer(&self, call: &Call) -> String {
        self.plan.owner(call.of).to_string()
    }
}
