//! A backend wrapper that records when each op ran.

use std::time::{Duration, Instant};

use super::nvtx;
use crate::{
    base::Result,
    forward_clock,
    mem::{F32, Planner, Precision, RawSpan, Span, U32},
    ops::{Backend, Clock, Cost, Invalid, Later, MARKS, Mark, Memory, Op, Phase, Run, Schedule, Valid, valid::owner},
};

/// One call of an op.
#[derive(Clone, Debug)]
pub struct Call {
    pub op: &'static str,
    pub phase: Phase,
    /// Seconds from [`Timed::begin`] to the start of the call.
    pub start: f64,
    /// Duration in seconds.
    pub seconds: f64,
    pub cost: Cost,
    /// Whether the op consists of products ([`Op::PRODUCTS`]).
    pub products: bool,
    /// Its sizes as text.
    pub sizes: String,
    /// The span that identifies the layer of the call ([`crate::mem::Planner::owner`]).
    pub of: RawSpan,
}

/// Statistics of the host's writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    pub calls: u64,
    pub bytes: u64,
    pub seconds: f64,
}

/// Records every call of an op: its start, duration, cost and layer.
/// Times come from the clock of the executing device. Marks in the order of its work avoid waits in between. NVIDIA's
/// profilers see the name of each call. The type does not depend on the wrapped backend, so it is compiled only once.
pub struct Timed {
    inner: Box<dyn Backend>,
    pub written: Written,
    phase: Phase,
    /// Whether a range of a phase is open.
    open: bool,
    done: Vec<Call>,
    /// Calls with marks that are not yet read.
    pending: Vec<(Call, Mark, Mark)>,
    /// A mark, and the seconds from the start to it.
    last: (Mark, f64),
}

impl Timed {
    pub fn new(mut inner: Box<dyn Backend>) -> Self {
        let last = (inner.mark(), 0.0);
        let (phase, written) = (Phase::default(), Written::default());
        Timed { inner, written, phase, open: false, done: Vec::new(), pending: Vec::new(), last }
    }

    /// Discards all calls and restarts the time. Returns the host's current time.
    ///
    /// # Errors
    /// The device has failed.
    pub fn begin(&mut self) -> Result<Instant> {
        self.inner.sync()?;
        self.done.clear();
        self.pending.clear();
        self.written = Written::default();
        self.last = (self.inner.mark(), 0.0);
        Ok(Instant::now())
    }

    /// Returns the calls since [`Timed::begin`] or the last `take`. Waits for them.
    pub fn take(&mut self) -> Vec<Call> {
        self.look();
        std::mem::take(&mut self.done)
    }

    /// Returns (op, calls, time, cost) of all calls not yet taken, in the order of first calls.
    pub fn rows(&mut self) -> Vec<(&'static str, u64, Duration, Cost)> {
        self.look();
        let mut rows: Vec<(&'static str, u64, Duration, Cost)> = Vec::new();
        for call in &self.done {
            let time = Duration::from_secs_f64(call.seconds);
            match rows.iter_mut().find(|row| row.0 == call.op) {
                Some((_, calls, total, sum)) => {
                    *calls += 1;
                    *total += time;
                    *sum += call.cost;
                }
                None => rows.push((call.op, 1, time, call.cost)),
            }
        }
        rows
    }

    /// Converts marks to seconds.
    fn look(&mut self) {
        for (call, from, to) in self.pending.drain(..) {
            let mut between = |a: &Mark, b: &Mark| self.inner.seconds_between(a, b).max(0.0);
            let start = self.last.1 + between(&self.last.0, &from);
            let seconds = between(&from, &to);
            self.last = (to, start + seconds);
            self.done.push(Call { start, seconds, ..call });
        }
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.open) {
            nvtx::pop();
        }
    }

    fn write_with(&mut self, numbers: usize, write: impl FnOnce(&mut dyn Backend)) {
        let start = Instant::now();
        write(&mut *self.inner);
        self.written.calls += 1;
        self.written.bytes += 4 * numbers as u64;
        self.written.seconds += start.elapsed().as_secs_f64();
    }
}

impl<O: Op> Run<O> for Timed
where
    dyn Backend: Run<O>,
{
    fn execute(&mut self, op: &Valid<'_, O>) {
        nvtx::push(O::NAME);
        let from = self.inner.mark();
        self.inner.execute(op);
        let to = self.inner.mark();
        nvtx::pop();
        let call = Call {
            op: O::NAME,
            phase: self.phase,
            start: 0.0,
            seconds: 0.0,
            cost: op.cost(),
            products: O::PRODUCTS,
            sizes: op.sizes(),
            of: owner(&**op),
        };
        self.pending.push((call, from, to));
        // Read the marks before the backend discards them.
        if 4 * self.pending.len() >= MARKS {
            self.look();
        }
    }
    fn need(&self, op: &O) -> std::result::Result<usize, String> {
        self.inner.need(op)
    }
}

impl Memory for Timed {
    fn precision(&self) -> Precision {
        self.inner.precision()
    }
    fn products(&self) -> Precision {
        self.inner.products()
    }
    fn refuse(&mut self, why: &Invalid) {
        self.inner.refuse(why);
    }
    fn failed(&self) -> bool {
        self.inner.failed()
    }
    fn write(&mut self, span: RawSpan, values: &[f32]) {
        self.write_with(values.len(), |b| b.write(span, values));
    }
    fn read(&mut self, span: RawSpan, values: &mut [f32]) {
        self.inner.read(span, values);
    }
    fn write_ids(&mut self, span: Span<U32>, values: &[u32]) {
        self.write_with(values.len(), |b| b.write_ids(span, values));
    }
    fn read_ids(&mut self, span: Span<U32>, values: &mut [u32]) {
        self.inner.read_ids(span, values);
    }
    fn bytes(&self, plan: &Planner) -> usize {
        self.inner.bytes(plan)
    }
    fn reserve(&mut self, bytes: usize) -> Result<()> {
        self.inner.reserve(bytes)
    }
    fn scratch_taken(&mut self) -> usize {
        self.inner.scratch_taken()
    }
    fn sync(&mut self) -> Result<()> {
        self.inner.sync()
    }
    fn resident(&mut self, len: usize) -> Option<Span<U32>> {
        self.inner.resident(len)
    }
}

impl Schedule for Timed {
    fn write_ids_ahead(&mut self, span: Span<U32>, values: &[u32]) {
        self.write_with(values.len(), |b| b.write_ids_ahead(span, values));
    }
    fn read_later(&mut self, span: Span<F32>) -> Later {
        self.close();
        self.inner.read_later(span)
    }
    fn collect(&mut self, later: Later) -> [f32; 4] {
        self.inner.collect(later)
    }
    fn enter(&mut self, phase: Phase) {
        self.close();
        nvtx::push(phase.word());
        (self.phase, self.open) = (phase, true);
    }
    fn replays(&self) -> bool {
        self.inner.replays()
    }
    fn replay(&mut self, _: u64, body: &mut dyn FnMut(&mut dyn Backend)) {
        body(self);
    }
}

impl Clock for Timed {
    forward_clock!(self => self.inner);
}
