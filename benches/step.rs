//! Times whole training steps: `cargo bench --bench step [-- --device cuda --model caser --width 64 --json ...]`.
//!
//! The other side of benches/peers: what a run does with a batch, on sequences of Zipf-like items, of full length or as long
//! as `--lengths` says. All flags of `mipgpu train` that shape a step are taken; without them it is BERT4Rec of width 64 with
//! 2 heads on 64 sequences, a fifth of whose items are hidden. `--ops` says where the time goes.

use std::{path::PathBuf, time::Instant};

use clap::Parser;
use mipgpu::{
    backend::{self, Device, WithBackend, wrap::Timed},
    base::{
        Error, Result,
        rng::{Purpose, Stream},
    },
    layers::Facts,
    mem::Planner,
    ops::Backend,
    tasks::Sequence,
    train::{Engine, Flags, Settings},
};

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 3706)]
    items: usize,
    /// Lengths of sequences: a user's length a line, or a user's sequence a line [default: all of --length]
    #[arg(long)]
    lengths: Option<PathBuf>,
    /// Different batches; all of them are a pass
    #[arg(long, default_value_t = 8)]
    batches: usize,
    /// Where to run: cpu, cuda, cuda:N, emu
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Seconds to time, in whole passes, at least three, after three to warm up
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Time every op
    #[arg(long)]
    ops: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// Given by cargo; means nothing here
    #[arg(long, hide = true)]
    bench: bool,
    #[command(flatten)]
    flags: Flags,
}

/// How long the sequences are, batch after batch: lines of the file 7,919 apart, as benches/peers/peer.py takes them.
fn lengths(a: &Args, s: &Settings) -> Result<Vec<usize>> {
    let n = s.batch * a.batches;
    let Some(path) = &a.lengths else { return Ok(vec![s.length; n]) };
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, &e))?;
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    let lines: Vec<Vec<&str>> = lines.into_iter().filter(|l: &Vec<&str>| !l.is_empty()).collect();
    let no_lengths = || {
        Error::user(format!("{}: no lengths", path.display()))
            .hint("a user's length a line, or a user's items a line with spaces between them")
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

/// What was timed.
struct Timing {
    /// Median over the passes of a step's mean.
    ms: f64,
    passes: usize,
    /// Of the passes that were timed.
    steps: usize,
    /// Items and rows scored of a pass.
    rows: usize,
    scored: usize,
    /// Loss of the first and of the last step.
    loss: [f32; 2],
}

/// Warms up, tells `warm`, and times.
fn time<B: Backend>(
    engine: &mut Engine<B>,
    a: &Args,
    s: &Settings,
    lengths: &[usize],
    warm: impl Fn(&mut Engine<B>),
) -> Result<Timing> {
    let mut draw = Stream::new(1, Purpose::Test, 0);
    let mut zipf = || ((draw.uniform() as f64 * (a.items as f64).ln()).exp() as u32).min(a.items as u32 - 1);
    let users: Vec<Vec<u32>> = lengths.iter().map(|len| (0..*len).map(|_| zipf()).collect()).collect();
    let starts: Vec<u32> = users
        .iter()
        .scan(0, |at, u| {
            *at += u.len() as u32;
            Some(*at - u.len() as u32)
        })
        .collect();
    let rows = lengths.iter().sum();
    // In the device's memory, as in a run.
    let held = engine.hold(rows as u64, users.iter().map(|u| Ok(&u[..])))?;
    let (mut passes, mut seen, mut n) = (Vec::new(), Vec::new(), 0u64);
    // A GPU records the graph of a size when it meets it for the second time.
    for pass in 0.. {
        if pass >= 6 && passes.iter().sum::<f64>() >= a.seconds {
            break;
        }
        if pass == 3 {
            warm(engine);
        }
        let clock = Instant::now();
        for batch in 0..a.batches {
            n += 1;
            engine.begin(n as u32);
            for u in batch * s.batch..(batch + 1) * s.batch {
                let held_at = Sequence::Held { first: starts[u], len: users[u].len() };
                engine.push(u as u64, if held { held_at } else { Sequence::Items(&users[u]) });
            }
            // Waits for the step before: the device is never idle in between.
            seen.extend(engine.launch(n, 1e-3)?);
        }
        if pass >= 3 {
            passes.push(clock.elapsed().as_secs_f64());
        }
    }
    seen.extend(engine.finish()?);
    let scored = seen[..a.batches].iter().map(|r| r.scored).sum();
    let loss = [seen[0].loss, seen[seen.len() - 1].loss];
    passes.sort_by(f64::total_cmp);
    let ms = passes[passes.len() / 2] * 1e3 / a.batches as f64;
    Ok(Timing { ms, passes: passes.len(), steps: passes.len() * a.batches, rows, scored, loss })
}

/// What is timed, waiting for a backend.
struct Bench(Args, Settings);

impl WithBackend for Bench {
    type Out = Result<()>;
    fn call<B: Backend + 'static>(self, open: &dyn Fn(&Planner) -> Result<B>) -> Result<()> {
        let Bench(a, s) = self;
        let lengths = lengths(&a, &s)?;
        let facts = || Facts { counts: vec![1; a.items], users: lengths.len(), ..Facts::default() };
        if a.ops {
            let mut engine = Engine::new(&s, facts(), |plan| Ok(Timed::new(Box::new(open(plan)?))))?;
            let t = time(&mut engine, &a, &s, &lengths, |engine| drop(engine.backend.take()))?;
            let mut rows = engine.backend.rows();
            rows.sort_by_key(|r| std::cmp::Reverse(r.2));
            let per_step: Vec<_> = rows
                .iter()
                .map(|(name, calls, total, cost)| {
                    let (ms, rate) =
                        (total.as_secs_f64() * 1e3 / t.steps as f64, cost.flop / total.as_secs_f64() / 1e9);
                    (*name, ms, *calls as f64 / t.steps as f64, rate)
                })
                .collect();
            if a.json {
                let ops: Vec<_> = per_step
                    .iter()
                    .map(|(op, ms, calls, gflops)| serde_json::json!({"op": op, "ms": ms, "calls": calls, "gflops": gflops}))
                    .collect();
                println!("{}", serde_json::json!({"what": "ops", "ms_step": t.ms, "ops": ops}));
            } else {
                println!("{:.2} ms a step; op by op:", t.ms);
                for (name, ms, calls, rate) in per_step {
                    println!("{name:24} {ms:8.3} ms {calls:5.0} calls {rate:8.1} GFLOP/s");
                }
            }
            return Ok(());
        }
        let mut engine = Engine::new(&s, facts(), open)?;
        let t = time(&mut engine, &a, &s, &lengths, |_| ())?;
        let rate = s.batch as f64 / t.ms * 1e3;
        if a.json {
            let sum = |frozen: bool| -> usize {
                engine.params().iter().filter(|p| frozen || !p.frozen).map(|p| p.w.len()).sum()
            };
            let precision = engine.backend.products();
            let record = serde_json::json!({
                "what": "train", "model": s.model, "task": s.task, "dtype": precision, "params": sum(true),
                "trained": sum(false), "rows": t.rows, "scored": t.scored, "passes": t.passes, "ms_step": t.ms,
                "seq_s": rate, "loss_first": t.loss[0], "loss_last": t.loss[1],
            });
            println!("{record}");
        } else {
            println!("{:.2} ms a step, {rate:.1} sequences/s (median of {} passes)", t.ms, t.passes);
        }
        Ok(())
    }
}

fn run(a: Args) -> Result<()> {
    let mut s = Settings { width: 64, heads: 2, batch: 64, mask_last: 0.0, ..Settings::default() };
    a.flags.apply(&mut s);
    s.name_task()?;
    let (_, task) = s.find()?;
    if task.rated || task.baskets {
        return Err(Error::user(format!("--task {} learns from more than sequences of items", task.name))
            .hint("masked-item and next-item can be timed here"));
    }
    if a.batches == 0 || a.items == 0 {
        return Err(Error::user("no batches or no items").hint("--batches and --items are at least 1"));
    }
    let pool = rayon::ThreadPoolBuilder::new().build().expect("threads");
    let (device, precision) = (a.device, s.precision.on(a.device));
    pool.install(|| backend::with(device, precision, Bench(a, s)))
}

fn main() {
    if let Err(e) = run(Args::parse()) {
        eprintln!("{e}");
        std::process::exit(1);
    }
}
