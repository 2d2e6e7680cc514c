//! Times whole training steps: `cargo bench --bench step [-- --device cuda --model caser --width 64 --json ...]`.
//!
//! The mipgpu side of benches/peers: a training step as in a run, on sequences of Zipf-distributed items, of
//! full length or of the lengths in `--lengths`. Accepts all flags of `mipgpu train` that affect a step. The
//! default is BERT4Rec of width 64 with 2 heads on 64 sequences, with a fifth of the items masked. `--ops`
//! prints the time per operation. `--data` reads the batches from a data set as a run does, and prints the cost
//! of opening it and loading a batch (benches/scale.py); it also supports ratings and baskets.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::exit)]

use std::{path::PathBuf, time::Instant};

use clap::Parser;
use mipgpu::{
    backend::{self, Device, wrap::Timed},
    base::{
        Error, Result,
        rng::{Purpose, Stream},
    },
    data::{
        Dataset,
        split::{Split, SplitSpec},
    },
    layers::DataSummary,
    ops::{Backend, Open},
    tasks::Sequence,
    train::{BatchLoader, Engine, Flags, Settings, SideTables, ratings, side_tables},
};

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 3706)]
    items: usize,
    /// Lengths of sequences: one user's length per line, or one user's sequence per line [default: all of --length]
    #[arg(long)]
    lengths: Option<PathBuf>,
    /// Train on the users of this data set, shuffled: batches are read from its files, unless they fit on the device
    #[arg(long, conflicts_with_all = ["lengths", "items"])]
    data: Option<PathBuf>,
    /// Number of different batches; all of them are one pass
    #[arg(long, default_value_t = 8)]
    batches: usize,
    /// Where to run: cpu, cuda, cuda:N, emu
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Seconds to time, in whole passes, at least three, after three for warm-up
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Time every operation
    #[arg(long)]
    ops: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Added by cargo; ignored
    #[arg(long, hide = true)]
    bench: bool,
    #[command(flatten)]
    flags: Flags,
}

/// Lengths of the sequences of all batches: lines of the file 7,919 apart, in the same order as benches/peers/peer.py.
fn lengths(a: &Args, s: &Settings) -> Result<Vec<usize>> {
    let n = s.batch * a.batches;
    let Some(path) = &a.lengths else { return Ok(vec![s.length; n]) };
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, &e))?;
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    let lines: Vec<Vec<&str>> = lines.into_iter().filter(|l: &Vec<&str>| !l.is_empty()).collect();
    let no_lengths = || {
        Error::user(format!("{}: no lengths", path.display()))
            .hint("expected one user's length per line, or one user's items per line, separated by spaces")
    };
    let every: Vec<usize> = match lines.iter().all(|l| l.len() == 1) {
        true => lines.iter().map(|l| l[0].parse().map_err(|_| no_lengths())).collect::<Result<_>>()?,
        false => lines.iter().map(Vec::len).collect(),
    };
    if every.is_empty() {
        return Err(no_lengths());
    }
    Ok((0..n).map(|i| every[i * 7919 % every.len()].clamp(2, s.length)).collect())
}

/// A data set, and the time to open and split it.
struct Opened {
    data: Dataset,
    split: Split,
    open_ms: f64,
    split_ms: f64,
}

impl Opened {
    fn new(dir: &std::path::Path, s: &Settings) -> Result<Self> {
        // The split affects a step only in that a basket must stay whole.
        let spec = if s.find()?.1.baskets { SplitSpec::LastBasket } else { SplitSpec::default() };
        let clock = Instant::now();
        let data = Dataset::open(dir)?;
        let open_ms = clock.elapsed().as_secs_f64() * 1e3;
        let clock = Instant::now();
        let split = Split::new(&data, spec)?;
        let split_ms = clock.elapsed().as_secs_f64() * 1e3;
        Ok(Opened { data, split, open_ms, split_ms })
    }

    /// Summary of the data set, as in a run.
    fn summary(&self, s: &Settings) -> Result<DataSummary> {
        let counts = self.split.train_counts().iter().map(|c| *c as u64).collect();
        let ratings = if s.find()?.1.rated { Some(ratings::scale_of(&self.data, &self.split)?) } else { None };
        Ok(DataSummary { counts, ratings, ..SideTables::data_summary(s, &self.data)? })
    }
}

/// Source of the sequences.
enum Source<'a> {
    /// Generated sequences; the start of each in their concatenation, and whether the device holds them.
    Made { users: Vec<Vec<u32>>, starts: Vec<u32>, held: bool },
    /// Users of a data set, in the order of the first epoch.
    Fed { loader: BatchLoader<'a>, order: Vec<u32> },
}

impl<'a> Source<'a> {
    fn made(lengths: &[usize], items: usize) -> Self {
        let mut draw = Stream::new(1, Purpose::Test, 0);
        let mut zipf = || ((draw.uniform() as f64 * (items as f64).ln()).exp() as u32).min(items as u32 - 1);
        let users: Vec<Vec<u32>> = lengths.iter().map(|len| (0..*len).map(|_| zipf()).collect()).collect();
        let starts = users.iter().scan(0, |at, u| {
            *at += u.len() as u32;
            Some(*at - u.len() as u32)
        });
        Source::Made { starts: starts.collect(), users, held: false }
    }

    fn fed(s: &Settings, opened: &'a Opened) -> Result<Self> {
        let loader = BatchLoader::new(s, &opened.data, &opened.split)?;
        Ok(Source::Fed { order: loader.order(1), loader })
    }

    /// Copies the interactions to the device's memory, if the device has its own.
    fn hold<B: Backend>(&mut self, engine: &mut Engine<B>) -> Result<()> {
        match self {
            Source::Made { users, held, .. } => {
                *held = engine.hold(users.iter().map(|u| u.len() as u64).sum(), users.iter().map(|u| Ok(&u[..])))?;
            }
            Source::Fed { loader, .. } => loader.hold(engine)?,
        }
        Ok(())
    }

    /// Loads batch number `n` (from 0) into the engine. Random draws differ from batch to batch.
    fn fill<B: Backend>(&self, engine: &mut Engine<B>, n: usize, batch: usize) -> Result<()> {
        let (epoch, taken) = (n as u32 + 1, n * batch..(n + 1) * batch);
        match self {
            Source::Made { users, starts, held } => {
                engine.begin(epoch);
                for u in taken.map(|i| i % users.len()) {
                    let (first, items) = (starts[u], &users[u][..]);
                    let sequence =
                        if *held { Sequence::Held { first, len: items.len() } } else { Sequence::Items(items) };
                    engine.push(u as u64, sequence);
                }
                Ok(())
            }
            Source::Fed { loader, order } => {
                let users: Vec<u32> = taken.map(|i| order[i % order.len()]).collect();
                loader.fill(engine, epoch, &users)
            }
        }
    }
}

/// Resident memory of this process in KiB: the peak, and the current size of its own and of mapped files; 0 if the
/// system does not report it.
fn resident() -> [u64; 3] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ["VmHWM:", "RssAnon:", "RssFile:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    })
}

/// The measured values.
struct Timing {
    /// Median over the passes of the mean time per step.
    ms: f64,
    passes: usize,
    /// Steps in the timed passes.
    steps: usize,
    /// Rows per pass, and scored rows per pass.
    rows: usize,
    scored: usize,
    /// Median over the passes of the mean time to select and pack a batch, in milliseconds.
    load_ms: f64,
    /// Loss of the first and of the last step.
    loss: [f32; 2],
}

/// Warms up, calls `warm`, and measures.
fn time<B: Backend>(
    engine: &mut Engine<B>,
    a: &Args,
    s: &Settings,
    source: &mut Source<'_>,
    warm: impl Fn(&mut Engine<B>),
) -> Result<Timing> {
    // In the device's memory, as in a run.
    source.hold(engine)?;
    let (mut passes, mut loads, mut seen, mut n, mut rows) = (Vec::new(), Vec::new(), Vec::new(), 0u64, 0);
    // A GPU captures the graph of a batch size when it occurs for the second time.
    for pass in 0.. {
        if pass >= 6 && passes.iter().sum::<f64>() >= a.seconds {
            break;
        }
        if pass == 3 {
            warm(engine);
        }
        let (clock, mut load) = (Instant::now(), 0.0);
        for _ in 0..a.batches {
            let loading = Instant::now();
            source.fill(engine, n as usize, s.batch)?;
            n += 1;
            load += loading.elapsed().as_secs_f64();
            if pass == 0 {
                rows += engine.rows();
            }
            // Waits for the previous step only: the device is never idle between steps.
            seen.extend(engine.launch(n, 1e-3)?);
        }
        if pass >= 3 {
            passes.push(clock.elapsed().as_secs_f64());
            loads.push(load);
        }
    }
    seen.extend(engine.finish()?);
    let scored = seen[..a.batches].iter().map(|r| r.scored).sum();
    let loss = [seen[0].loss, seen[seen.len() - 1].loss];
    let steps = passes.len() * a.batches;
    let median = |mut seconds: Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2] * 1e3 / a.batches as f64
    };
    Ok(Timing { passes: passes.len(), ms: median(passes), load_ms: median(loads), steps, rows, scored, loss })
}

/// Times steps on backends that `open` opens.
fn bench(a: Args, mut s: Settings, open: Open<'_>) -> Result<()> {
    let opened = a.data.as_ref().map(|dir| Opened::new(dir, &s)).transpose()?;
    if let Some(opened) = &opened {
        side_tables::name_fields(&mut s, opened.data.item_fields())?;
    }
    let (mut source, summary) = match &opened {
        Some(opened) => (Source::fed(&s, opened)?, opened.summary(&s)?),
        None => {
            let lengths = lengths(&a, &s)?;
            let summary = DataSummary { counts: vec![1; a.items], users: lengths.len(), ..DataSummary::default() };
            (Source::made(&lengths, a.items), summary)
        }
    };
    if a.ops {
        let mut engine = Engine::new(&s, summary, |plan| Ok(Timed::new(open(plan)?)))?;
        let t = time(&mut engine, &a, &s, &mut source, |engine| drop(engine.backend.take()))?;
        let mut rows = engine.backend.rows();
        rows.sort_by_key(|r| std::cmp::Reverse(r.2));
        let per_step: Vec<_> = rows
            .iter()
            .map(|(name, calls, total, cost)| {
                let (ms, rate) = (total.as_secs_f64() * 1e3 / t.steps as f64, cost.flop / total.as_secs_f64() / 1e9);
                (*name, ms, *calls as f64 / t.steps as f64, rate)
            })
            .collect();
        if a.json {
            let ops: Vec<_> = per_step
                .iter()
                .map(|(op, ms, calls, gflops)| {
                    serde_json::json!({
                        "op": op, "ms": ms, "calls": calls, "gflops": gflops
                    })
                })
                .collect();
            println!("{}", serde_json::json!({"what": "ops", "ms_step": t.ms, "ops": ops}));
        } else {
            println!("{:.2} ms per step; by operation:", t.ms);
            for (name, ms, calls, rate) in per_step {
                println!("{name:24} {ms:8.3} ms {calls:5.0} calls {rate:8.1} GFLOP/s");
            }
        }
        return Ok(());
    }
    let mut engine = Engine::new(&s, summary, open)?;
    let t = time(&mut engine, &a, &s, &mut source, |_| ())?;
    let rate = s.batch as f64 / t.ms * 1e3;
    if a.json {
        let sum =
            |frozen: bool| -> usize { engine.params().iter().filter(|p| frozen || !p.frozen).map(|p| p.w.len()).sum() };
        let precision = engine.backend.products();
        let plan = engine.memory_plan();
        let [peak, own, mapped] = resident();
        let mut record = serde_json::json!({
            "what": "train", "model": s.model, "task": s.task, "dtype": precision, "params": sum(true),
            "trained": sum(false), "rows": t.rows, "scored": t.scored, "passes": t.passes, "ms_step": t.ms,
            "seq_s": rate, "load_ms": t.load_ms, "loss_first": t.loss[0], "loss_last": t.loss[1],
            "plan": plan, "plan_total": plan.total(),
            "resident_kib": {"peak": peak, "own": own, "mapped": mapped},
        });
        if let (Some(Opened { data, open_ms, split_ms, .. }), Source::Fed { loader, .. }) = (&opened, &source) {
            record["data"] = serde_json::json!({
                "users": data.users(), "items": data.items(), "interactions": data.interactions(),
                "learners": loader.users().len(), "held": loader.held(), "open_ms": open_ms, "split_ms": split_ms,
            });
        }
        println!("{record}");
    } else {
        println!("{:.2} ms per step, {rate:.1} sequences/s (median of {} passes)", t.ms, t.passes);
    }
    Ok(())
}

fn run(a: Args) -> Result<()> {
    let mut s = Settings { width: 64, heads: 2, batch: 64, mask_last: 0.0, ..Settings::default() };
    a.flags.apply(&mut s);
    s.name_task()?;
    let (_, task) = s.find()?;
    if a.data.is_none() && (task.rated || task.baskets) {
        let what = if task.rated { "ratings" } else { "baskets" };
        return Err(Error::user(format!("--task {} needs {what}, which generated sequences do not have", task.name))
            .hint("specify a data set that has them with --data"));
    }
    if a.batches == 0 || a.items == 0 {
        return Err(Error::user("no batches or no items").hint("--batches and --items must be at least 1"));
    }
    let pool = rayon::ThreadPoolBuilder::new().build().expect("threads");
    let (device, precision) = (a.device, s.precision.on(a.device));
    pool.install(|| bench(a, s, &|plan| backend::open(device, precision, plan)))
}

fn main() {
    if let Err(e) = run(Args::parse()) {
        eprintln!("{e}");
        std::process::exit(1);
    }
}
