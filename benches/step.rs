//! Times whole training steps of BERT4Rec: `cargo bench --bench step [-- --device cuda --width 64 --json ...]`.
//!
//! Sequences of full length with Zipf-like items, as benches/peers/bert4rec_torch.py makes them: 20 % masked, dropout 0.1,
//! no attention dropout. `--ops` prints where the time goes.

use std::time::Instant;

use clap::Parser;
use mipgpu::{
    backend::{self, Device, WithBackend, wrap::Timed},
    base::{
        Result,
        rng::{Purpose, Stream},
    },
    mem::{Planner, Precision},
    ops::Backend,
    tasks::{LossKind, Sequence},
    train::{Engine, Settings, TableUpdate},
};

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 64)]
    width: usize,
    #[arg(long, default_value_t = 2)]
    blocks: usize,
    #[arg(long, default_value_t = 2)]
    heads: usize,
    #[arg(long, default_value_t = 200)]
    length: usize,
    #[arg(long, default_value_t = 64)]
    batch: usize,
    #[arg(long, default_value_t = 3706)]
    items: usize,
    /// Loss: softmax, sampled-softmax, bce, gbce, bpr
    #[arg(long, value_enum, default_value = "softmax")]
    loss: LossKind,
    /// Negatives of a batch, or of each row
    #[arg(long, default_value_t = 1024)]
    negatives: usize,
    /// Which rows of the item table are updated: auto, dense, rows
    #[arg(long, value_enum, default_value = "auto")]
    table_update: TableUpdate,
    /// Where to run: cpu, cuda, cuda:N, emu
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// On a GPU
    #[arg(long, value_enum, default_value = "bf16")]
    precision: Precision,
    /// Seconds to time, after three steps to warm up
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
}

/// Median milliseconds of a step.
fn time<B: Backend>(engine: &mut Engine<B>, a: &Args) -> (f64, usize) {
    let mut draw = Stream::new(1, Purpose::Test, 0);
    let zipf =
        |draw: &mut Stream| ((draw.uniform() as f64 * (a.items as f64).ln()).exp() as u32).min(a.items as u32 - 1);
    let users: Vec<Vec<u32>> = (0..a.batch).map(|_| (0..a.length).map(|_| zipf(&mut draw)).collect()).collect();
    // In the device's memory, as in a run.
    let held = engine.hold((a.batch * a.length) as u64, users.iter().map(|u| Ok(&u[..]))).expect("the device works");
    let (mut times, mut n, start) = (Vec::new(), 0u64, Instant::now());
    while n < 10 || start.elapsed().as_secs_f64() < a.seconds {
        n += 1;
        let clock = Instant::now();
        engine.begin(n as u32);
        for (u, items) in users.iter().enumerate() {
            let first = (u * a.length) as u32;
            let sequence = if held { Sequence::Held { first, len: a.length } } else { Sequence::Items(items) };
            engine.push(u as u64, sequence);
        }
        // Waits for the step before: the device is never idle in between.
        engine.launch(n, 1e-3).expect("a finite loss");
        if n > 3 {
            times.push(clock.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times.len())
}

/// What is timed, waiting for a backend.
struct Bench(Args, Settings);

impl WithBackend for Bench {
    type Out = Result<()>;
    fn call<B: Backend + 'static>(self, open: &dyn Fn(&Planner) -> Result<B>) -> Result<()> {
        let Bench(a, s) = self;
        let counts = vec![1; a.items];
        if a.ops {
            let mut engine = Engine::new(&s, &counts, |plan| Ok(Timed::new(open(plan)?)))?;
            let (ms, steps) = time(&mut engine, &a);
            println!("{ms:.2} ms a step; op by op, each waited for:");
            let mut rows = engine.backend.rows.clone();
            rows.sort_by_key(|r| std::cmp::Reverse(r.2));
            for (name, calls, total, cost) in rows {
                let per = total.as_secs_f64() * 1e3 / (steps + 3) as f64;
                let rate = cost.flop / total.as_secs_f64() / 1e9;
                println!("{name:24} {per:8.3} ms {:5} calls {rate:8.1} GFLOP/s", calls / (steps as u64 + 3));
            }
            return Ok(());
        }
        let mut engine = Engine::new(&s, &counts, open)?;
        let (ms, steps) = time(&mut engine, &a);
        let rate = a.batch as f64 / ms * 1e3;
        if a.json {
            println!("{{\"ms_step\": {ms:.3}, \"seq_s\": {rate:.1}, \"steps\": {steps}}}");
        } else {
            println!("{ms:.2} ms a step, {rate:.1} sequences/s (median of {steps})");
        }
        Ok(())
    }
}

fn main() {
    let a = Args::parse();
    let s = Settings {
        width: a.width,
        blocks: a.blocks,
        heads: a.heads,
        length: a.length,
        batch: a.batch,
        mask_last: 0.0,
        loss: a.loss,
        negatives: a.negatives,
        table_update: a.table_update,
        ..Settings::default()
    };
    let pool = rayon::ThreadPoolBuilder::new().build().expect("threads");
    if let Err(e) = pool.install(|| backend::with(a.device, a.precision, Bench(a, s))) {
        eprintln!("{e}");
        std::process::exit(1);
    }
}
