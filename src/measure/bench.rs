/*! Times every op by itself at the sizes of models and of the test cases. The results are the time of a call, the
bytes and operations per second, and the share of the machine's ceilings.

`Stopwatch` wraps a backend. When a step of a model reaches an op with a new name and sizes, the op runs repeatedly at
that point. It has the memory and values of the step. Then the step continues. The learning rate is 0, so repeated
updates change nothing.
*/

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use serde::{Deserialize, Serialize};

use super::{
    ceilings::{self, Ceilings},
    clock::{Keys, Patience, Timing, time},
    roof::{self, Bound},
    shapes::BenchShape,
};
use crate::{
    backend::{self, Device},
    base::{Error, Result},
    forward_to_inner,
    mem::{Planner, Precision, RawSpan},
    ops::{self, AnyOp, Backend, Cost, Op, Open, Run, Spans, Valid},
};

/// A timed call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BenchRow {
    /// The shape that the step belongs to, or `cases`.
    pub shape: String,
    /// The part of the shape, `train` or `rank`; `case` for test cases.
    pub part: String,
    pub op: String,
    pub sizes: String,
    /// Calls of these sizes in one step or for one batch of queries.
    pub calls: u64,
    /// Seconds per call.
    #[serde(flatten)]
    pub time: Timing,
    pub flop: f64,
    pub exps: f64,
    /// Minimum number of bytes moved.
    pub bytes: f64,
    /// Bytes of the op's spans, including whole tables, and of its scratch memory on a GPU.
    pub memory: u64,
    /// Least possible time by the machine's ceilings (the best measured rate of each) as a share of the median.
    pub roof: f64,
    pub bound: Bound,
}

/// Ops that are not timed: the empty op, and the catch-up of rows, which has nothing left to do after its first call.
const NOT_TIMED: [&str; 2] = [ops::NoOp::NAME, ops::CatchUpRows::NAME];

/// What to time.
#[derive(Clone, Debug)]
pub struct Plan {
    pub shapes: Vec<BenchShape>,
    /// Also time the test cases of every op.
    pub cases: bool,
    /// Time only ops with this text in their name.
    pub only: String,
    /// If set, no further shape begins.
    pub stop: Arc<AtomicBool>,
    pub patience: Patience,
}

/// A result, reported as soon as it is measured.
pub enum BenchEvent<'a> {
    Ceilings(Ceilings),
    Row(&'a BenchRow),
}

/// Times everything in the plan.
///
/// # Errors
/// The device cannot be opened, does not support a shape, or fails.
pub fn bench(
    device: Device,
    precision: Precision,
    plan: &Plan,
    observe: &mut dyn FnMut(BenchEvent<'_>) -> Result<()>,
) -> Result<()> {
    let open = |p: &Planner| backend::open(device, precision, p);
    let ceilings = ceilings::measure(&open)?;
    observe(BenchEvent::Ceilings(ceilings))?;
    let log = Rc::new(RefCell::new(Log::new(plan, ceilings)));
    let watched =
        |p: &Planner| -> Result<Box<dyn Backend>> { Ok(Box::new(Stopwatch { inner: open(p)?, log: log.clone() })) };
    for shape in plan.shapes.iter().take_while(|_| !plan.stop.load(Relaxed)) {
        run_shape(shape, &watched, &log).map_err(|e| at_shape(e, shape))?;
        log.borrow_mut().hand_over(observe)?;
    }
    if plan.cases && !plan.stop.load(Relaxed) {
        run_cases(&watched, &log)?;
        log.borrow_mut().hand_over(observe)?;
    }
    Ok(())
}

/// Returns the names of all operations.
pub fn operations() -> &'static [&'static str] {
    ops::names()
}

fn at_shape(e: Error, shape: &BenchShape) -> Error {
    let what = format!("shape {}: {}", shape.name, e.what);
    Error { what, ..e }
}

/// Runs a training step and a batch of queries.
fn run_shape(shape: &BenchShape, open: Open<'_>, log: &RefCell<Log>) -> Result<()> {
    log.borrow_mut().begin(&shape.name, "prepare");
    let data = shape.data()?;
    let (mut engine, held) = data.engine(shape, open)?;
    for part in ["train", "rank"] {
        log.borrow_mut().begin(&shape.name, part);
        match part {
            "train" => {
                data.push(&mut engine, held, 1);
                engine.step(1, 0.0)?;
            }
            _ => data.ask(&mut engine)?,
        }
    }
    log.borrow_mut().begin("", "");
    log.borrow_mut().fault.take().map_or(Ok(()), Err)
}

fn run_cases(open: Open<'_>, log: &RefCell<Log>) -> Result<()> {
    for case in ops::all_cases() {
        log.borrow_mut().begin("cases", "case");
        ops::prove::play(&case, open)?;
    }
    log.borrow_mut().begin("", "");
    log.borrow_mut().fault.take().map_or(Ok(()), Err)
}

/// The measurements and the state of the stopwatch.
struct Log {
    only: String,
    patience: Patience,
    ceilings: Ceilings,
    keys: Keys,
    shape: String,
    part: String,
    /// Rows by name and sizes: the same work is timed once, even if several shapes contain it.
    known: HashMap<(&'static str, String), BenchRow>,
    rows: Vec<BenchRow>,
    fault: Option<Error>,
}

impl Log {
    fn new(plan: &Plan, ceilings: Ceilings) -> Log {
        Log {
            only: plan.only.clone(),
            patience: plan.patience,
            ceilings,
            keys: Keys::default(),
            shape: String::new(),
            part: String::new(),
            known: HashMap::new(),
            rows: Vec::new(),
            fault: None,
        }
    }

    fn begin(&mut self, shape: &str, part: &str) {
        (self.shape, self.part) = (shape.into(), part.into());
    }

    /// Returns whether calls of this op are to be timed now.
    fn wants(&self, op: &str) -> bool {
        let timed = matches!(self.part.as_str(), "train" | "rank" | "case");
        timed && self.fault.is_none() && op.contains(&self.only) && !NOT_TIMED.contains(&op)
    }

    fn hand_over(&mut self, observe: &mut dyn FnMut(BenchEvent<'_>) -> Result<()>) -> Result<()> {
        self.rows.drain(..).try_for_each(|row| observe(BenchEvent::Row(&row)))
    }
}

/// A backend that times every op it runs.
struct Stopwatch {
    inner: Box<dyn Backend>,
    log: Rc<RefCell<Log>>,
}

impl<O: Op> Run<O> for Stopwatch
where
    for<'a> dyn Backend + 'a: Run<O>,
{
    fn execute(&mut self, op: &Valid<'_, O>) {
        self.inner.execute(op);
        let mut log = self.log.borrow_mut();
        if !log.wants(O::NAME) {
            return;
        }
        let sizes = op.sizes();
        let Log { shape, part, rows, .. } = &mut *log;
        if let Some(row) =
            rows.iter_mut().find(|r| (&r.shape, &r.part, r.op.as_str(), &r.sizes) == (shape, part, O::NAME, &sizes))
        {
            row.calls += 1;
            return;
        }
        let key = (O::NAME, sizes.clone());
        let row = match log.known.get(&key) {
            Some(row) => row.clone(),
            None => match measure(&mut *self.inner, &**op, &mut log) {
                Ok(row) => row,
                Err(e) => {
                    log.fault = Some(e);
                    return;
                }
            },
        };
        log.known.entry(key).or_insert_with(|| row.clone());
        let row = BenchRow { shape: log.shape.clone(), part: log.part.clone(), calls: 1, ..row };
        log.rows.push(row);
    }
    fn need(&self, op: &O) -> std::result::Result<usize, String> {
        self.inner.need(op)
    }
}

fn measure(b: &mut dyn Backend, op: &dyn AnyOp, log: &mut Log) -> Result<BenchRow> {
    b.sync()?;
    let time = time(b, op, log.patience, &mut log.keys)?;
    let (precision, cost) = (b.precision(), op.price());
    let mut memory = op.need_on(b).unwrap_or(0) as u64;
    op.visit(&mut |_, span| memory += (span.len() * bytes_of(span, precision)) as u64);
    // The preceding call leaves in the caches what fits there.
    let bytes = cost.moved(precision);
    let (floor, bound) = roof::floor(&cost, op.is_product(), precision, &log.ceilings.warm(bytes));
    let Cost { flop, exps, .. } = cost;
    Ok(BenchRow {
        shape: String::new(),
        part: String::new(),
        op: op.name().into(),
        sizes: op.sizes_text(),
        calls: 0,
        time,
        flop,
        exps,
        bytes,
        memory,
        roof: floor / time.median,
        bound,
    })
}

fn bytes_of(span: RawSpan, precision: Precision) -> usize {
    if span.arena() == crate::mem::Arena::Act && precision == Precision::Bf16 { 2 } else { 4 }
}

forward_to_inner!(Stopwatch);
