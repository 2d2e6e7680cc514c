//! `mipgpu bench`: times single operations and compares them with the ceilings of the machine.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{printer::Printer, stop::flag_on_signal, thread_pool};
use crate::{
    backend::{self, Device, Precision, inventory},
    base::{Error, Result, atomic::write_atomically},
    measure::{
        bench::{BenchEvent, BenchRow, Plan, bench, operations},
        ceilings::Ceilings,
        clock::Patience,
        factors,
        shapes::{self, BenchShape},
    },
    train::{Flags, Numbers, Settings},
};

/// Times every operation, forward and backward, at the sizes that occur in models. It compares them with ceilings that
/// it measures itself: copies, a large matrix product, exponentials. `roofline` is the least time that the work can
/// take at these ceilings, as a share of the median time. Work that fits a cache is compared with a copy that fits it
/// too. Batches are full: all sequences have the maximum length.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mipgpu bench                                        all shapes, on the fastest available device
  mipgpu bench --shapes bert4rec-d64,caser-d64 --only attention
  mipgpu bench --model caser --width 128 --items 50000    a custom shape, from any settings of `mipgpu train`
  mipgpu bench --out before.json
  mipgpu bench --compare before.json --fail-below 0.8     exit code 2 if an operation lost a fifth of its speed")]
pub struct Args {
    /// Device: auto, cpu, cuda, cuda:N, emu, ptx, ptx90a, reference
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Auto)]
    device: Device,
    /// Number of CPU threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Shapes: names separated by commas, all, or none [default: all; with a custom shape: none]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    shapes: Vec<String>,
    /// Number of items in the catalogue of a custom shape [default: 3706]
    #[arg(long, value_name = "N")]
    items: Option<usize>,
    /// Time only operations with this text in their name
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Also time the cases that `mipgpu check` uses: small and odd sizes
    #[arg(long)]
    cases: bool,
    /// Seconds per operation and size
    #[arg(long, value_name = "S", default_value_t = 0.2)]
    seconds: f64,
    /// Write the result to this file: .json (complete, for --compare) or .csv
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Compare with an earlier result (a .json file of --out)
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Fail if an operation has less than this share of its earlier speed, beyond the noise. If the earlier result is
    /// from another machine, compare shares of the ceiling instead
    #[arg(long, value_name = "SHARE", requires = "compare")]
    fail_below: Option<f64>,
    /// Shrink the shapes to the smallest sizes, for tests of this command
    #[arg(long, hide = true)]
    shrink: bool,
    #[command(flatten)]
    flags: Flags,
}

/// A result, as stored in a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    program: String,
    /// The command line.
    command: String,
    /// Seconds since 1970.
    time: u64,
    machine: String,
    device: String,
    precision: String,
    threads: usize,
    ceilings: Ceilings,
    /// Whether Ctrl-C stopped the benchmark early.
    #[serde(default)]
    stopped: bool,
    rows: Vec<BenchRow>,
}

pub fn run(args: Args, printer: Printer) -> Result<()> {
    let mut plan = plan(&args)?;
    let before = args.compare.as_deref().map(read).transpose()?;
    let format = args.out.as_deref().map(Format::of).transpose()?;
    // Fail before anything is measured.
    let folder = args.out.as_deref().and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(Error::user(format!("--out: there is no folder {}", folder.display())).hint("create it first"));
    }
    let (device, chosen) = backend::choose(args.device);
    let wanted = args.flags.precision.unwrap_or_default();
    let precision = wanted.on(device);
    if wanted == Numbers::Bf16 && precision == Precision::F32 {
        let what = format!("--precision bf16: {device} computes in f32");
        return Err(Error::user(what).hint("omit --precision"));
    }
    let pool = thread_pool(args.threads)?;
    let mut kept = Kept {
        program: concat!("mipgpu ", env!("CARGO_PKG_VERSION")).into(),
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()),
        machine: machine(device),
        device: device.to_string(),
        precision: format!("{precision:?}").to_lowercase(),
        threads: pool.current_num_threads(),
        ceilings: Ceilings::default(),
        stopped: false,
        rows: Vec::new(),
    };
    printer.say(format_args!("device  {chosen}: {}, {}", kept.machine, kept.precision));
    if device == Device::Cpu && precision == Precision::Bf16 {
        let ratio = pool.install(factors::bf16_over_f32);
        printer.say(format_args!(
            "        bf16 products take {ratio:.2} times as long as f32 products (measured on a dense layer)"
        ));
    }
    printer.say("measuring the ceilings ...");
    plan.stop = flag_on_signal(printer, "the benchmark ends after this shape", || {
        Error::user("ended at once: the measurements are lost").hint("select fewer --shapes for a shorter run")
    });
    let earlier = before.as_ref().map(Earlier::of);
    let mut table = Table { printer, shape: String::new(), all: args.only.is_empty(), sum: 0.0 };
    pool.install(|| {
        bench(device, precision, &plan, &mut |event| {
            match event {
                BenchEvent::Ceilings(c) => {
                    kept.ceilings = c;
                    table.head(&kept);
                }
                BenchEvent::Row(row) => {
                    table.row(row, earlier.as_ref().and_then(|e| e.of_row(row)));
                    kept.rows.push(row.clone());
                }
            }
            Ok(())
        })
    })?;
    table.end_of_shape();
    let above = kept.rows.iter().filter(|row| row.roof > 1.1 && row.time.median > 1e-5).count();
    if above > 0 {
        printer.warn(format_args!(
            "{above} rows exceed the measured ceiling by a tenth or more: the load of the machine changed between the \
             measurement of the ceilings and of the rows"
        ));
    }
    let stopped = plan.stop.load(Relaxed);
    if kept.rows.is_empty() && !stopped {
        return Err(Error::user(format!("no operation of these shapes has '{}' in its name", args.only))
            .hint("select other --shapes, or omit --only to time all operations"));
    }
    kept.stopped = stopped;
    if let (Some(path), Some(format)) = (&args.out, format)
        && !kept.rows.is_empty()
    {
        // A partial result does not overwrite a complete one.
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        let beside = path.with_extension(format!("part.{extension}"));
        let path = if stopped && path.exists() { &beside } else { path };
        format.write(path, &kept)?;
        printer.say(format_args!("written to {}", path.display()));
    }
    if stopped {
        return Err(Error::user(format!("stopped after {} rows: the result is incomplete", kept.rows.len()))
            .hint("use --shapes to time only some shapes"));
    }
    match (&earlier, &before) {
        (Some(earlier), Some(before)) => judge(&printer, earlier, before, &kept, args.fail_below),
        _ => Ok(()),
    }
}

fn plan(args: &Args) -> Result<Plan> {
    if !(args.seconds > 0.0 && args.seconds.is_finite()) {
        return Err(Error::user(format!("--seconds {} is out of range", args.seconds))
            .hint("use a positive number, such as --seconds 0.2"));
    }
    // --precision alone does not define a custom shape.
    let own = args.flags.given().iter().any(|flag| flag != "precision");
    let names: Vec<&str> = args.shapes.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).collect();
    let mut shapes = match names[..] {
        [] if own => Vec::new(),
        [] | ["all"] => shapes::all(),
        ["none"] => Vec::new(),
        _ => shapes::named(&names)?,
    };
    if own {
        let mut settings = Settings::default();
        args.flags.apply(&mut settings);
        settings.name_task()?;
        settings.check()?;
        refuse_untimed(&args.flags)?;
        settings.refuse_idle(&args.flags.given(), None)?;
        let items = args.items.unwrap_or(3706);
        if !(1..1 << 31).contains(&items) {
            return Err(
                Error::user(format!("--items {items} is out of range")).hint("it must be between 1 and 2,147,483,647")
            );
        }
        settings.loss().check(Some(items))?;
        shapes.insert(0, BenchShape { name: "own".into(), settings, items });
    } else if args.items.is_some() {
        return Err(
            Error::user("--items has no effect without a custom shape").hint("add a setting, such as --model bert4rec")
        );
    }
    if args.fail_below.is_some_and(|share| !(share > 0.0 && share.is_finite())) {
        return Err(Error::user("--fail-below is out of range").hint("use a positive share, such as --fail-below 0.8"));
    }
    if shapes.is_empty() && !args.cases {
        return Err(Error::user("--shapes none leaves nothing to time").hint("add --cases, or select shapes"));
    }
    if !operations().iter().any(|name| name.contains(&args.only)) {
        return Err(Error::user(format!("--only {}: no operation has this text in its name", args.only))
            .hint(format!("operations: {}", operations().join(", "))));
    }
    if args.shrink {
        shapes = shapes.into_iter().map(BenchShape::shrunk).collect();
    }
    Ok(Plan {
        shapes,
        cases: args.cases,
        only: args.only.clone(),
        stop: Arc::default(),
        patience: Patience::of(args.seconds),
    })
}

/// Rejects settings that do not affect the time of an operation. Batches are synthetic, and a step is repeated with a
/// learning rate of 0.
///
/// # Errors
/// Such a flag is given.
fn refuse_untimed(flags: &Flags) -> Result<()> {
    const UNTIMED: &[&str] = &[
        "epochs",
        "lr",
        "warmup",
        "decay",
        "final-lr",
        "weight-decay",
        "beta1",
        "beta2",
        "init-std",
        "eval-every",
        "patience",
        "checkpoint-seconds",
    ];
    match flags.given().into_iter().find(|name| UNTIMED.contains(&name.as_str())) {
        Some(name) => Err(Error::user(format!("--{name} has no effect on the time of an operation")).hint("omit it")),
        None => Ok(()),
    }
}

/// Returns the name of the device.
fn machine(device: Device) -> String {
    let s = inventory::inventory();
    match (device, &s.gpus) {
        (Device::Cuda(n), Ok(gpus)) => {
            gpus.cards.iter().find(|gpu| gpu.card.ordinal == n).map_or("a GPU".into(), |gpu| gpu.card.name.clone())
        }
        _ => format!("{}, {}", s.cpu.name, s.cpu.instructions),
    }
}

fn read(path: &Path) -> Result<Kept> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, &e))?;
    serde_json::from_str(&text).map_err(|e| {
        Error::user(format!("{}: not a result of mipgpu bench: {e}", path.display()))
            .hint("create one with: mipgpu bench --out FILE.json")
    })
}

/// The format of a result file.
#[derive(Clone, Copy)]
enum Format {
    Json,
    Csv,
}

impl Format {
    fn of(path: &Path) -> Result<Format> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("json") => Ok(Format::Json),
            Some("csv") => Ok(Format::Csv),
            _ => Err(Error::user(format!("--out {}: the name ends in neither .json nor .csv", path.display()))
                .hint("the extension selects the format: result.json or result.csv")),
        }
    }

    fn write(self, path: &Path, kept: &Kept) -> Result<()> {
        match self {
            Format::Json => write_atomically(path, |f| writeln!(f, "{:#}", serde_json::json!(kept))),
            Format::Csv => {
                let mut csv = csv::Writer::from_writer(Vec::new());
                let mut line = |cells: &[String]| csv.write_record(cells).expect("memory takes all");
                line(&CSV_HEAD.map(String::from));
                for r in &kept.rows {
                    let time = &r.time;
                    let numbers = [time.median, time.p20, time.p80].map(|s| format!("{:.3}", s * 1e6));
                    let [median, p20, p80] = numbers;
                    let rates = [r.bytes, r.flop, r.exps].map(|x| format!("{:.3}", x / time.median / 1e9));
                    let [gb, gflop, gexp] = rates;
                    let words = [&kept.device, &kept.precision, &r.shape, &r.part, &r.op, &r.sizes].map(String::clone);
                    let rest = [
                        r.calls.to_string(),
                        median,
                        p20,
                        p80,
                        gb,
                        gflop,
                        gexp,
                        format!("{:.4}", r.roof),
                        r.bound.word().into(),
                        r.memory.to_string(),
                    ];
                    line(&[&words[..], &rest[..]].concat());
                }
                let bytes = csv.into_inner().expect("memory takes all");
                write_atomically(path, |f| f.write_all(&bytes))
            }
        }
    }
}

const CSV_HEAD: [&str; 16] = [
    "device",
    "precision",
    "shape",
    "part",
    "op",
    "sizes",
    "calls",
    "median_us",
    "p20_us",
    "p80_us",
    "gb_s",
    "gflop_s",
    "gexp_s",
    "roof",
    "bound",
    "memory_bytes",
];

/// An earlier result, for look-ups by row.
struct Earlier<'a>(HashMap<[&'a str; 4], &'a BenchRow>);

fn key(row: &BenchRow) -> [&str; 4] {
    [&row.shape, &row.part, &row.op, &row.sizes]
}

impl Earlier<'_> {
    fn of(kept: &Kept) -> Earlier<'_> {
        Earlier(kept.rows.iter().map(|row| (key(row), row)).collect())
    }

    fn of_row(&self, row: &BenchRow) -> Option<&BenchRow> {
        self.0.get(&key(row)).copied()
    }
}

/// Reports what became slower, and fails if `fail_below` is given and reached.
fn judge(printer: &Printer, earlier: &Earlier, before: &Kept, kept: &Kept, fail_below: Option<f64>) -> Result<()> {
    let place = |k: &Kept| format!("{} ({}) with {} thread(s) in {}", k.device, k.machine, k.threads, k.precision);
    // Earlier versions wrote the instruction set as `Avx512`.
    let same = place(before).eq_ignore_ascii_case(&place(kept));
    if !same {
        printer.warn(format_args!(
            "the earlier result is from {}: compare shares of the ceiling, not times",
            place(before)
        ));
    }
    if before.stopped {
        printer.warn("the earlier result is incomplete: its run was stopped");
    }
    let pairs: Vec<(&BenchRow, &BenchRow)> =
        kept.rows.iter().filter_map(|row| Some((earlier.of_row(row)?, row))).collect();
    if pairs.is_empty() {
        return Err(Error::user("the earlier result has no row with these shapes, operations and sizes")
            .hint("use the same --shapes, --only and settings for both runs"));
    }
    let beyond = |slow: &BenchRow, fast: &BenchRow| slow.time.p20 > fast.time.p80;
    let slower = pairs.iter().filter(|(old, new)| beyond(new, old)).count();
    let faster = pairs.iter().filter(|(old, new)| beyond(old, new)).count();
    let (all, missing) = (pairs.len(), before.rows.len().saturating_sub(pairs.len()));
    printer.say(format_args!(
        "compared with the earlier result: of {all} rows, {slower} are slower and {faster} faster (beyond the middle \
         three fifths of the samples); {missing} earlier rows have no counterpart"
    ));
    let Some(least) = fail_below else { return Ok(()) };
    // Ceilings vary between runs as times do, so times are compared where possible.
    let speed = |row: &BenchRow| if same { 1.0 / row.time.median } else { row.roof };
    let fell = |old: &BenchRow, new: &BenchRow| speed(new) < least * speed(old) && (!same || beyond(new, old));
    let lost: Vec<&(&BenchRow, &BenchRow)> = pairs.iter().filter(|(old, new)| fell(old, new)).collect();
    match lost.first() {
        None => Ok(()),
        Some((old, new)) => Err(Error::internal(format!(
            "{} rows fell below {least} of their {}, such as {} ({}, {}): {} us and {:.3} of the ceiling before, {} us \
             and {:.3} now",
            lost.len(),
            if same { "speed" } else { "share of the ceiling" },
            new.op,
            new.shape,
            new.sizes,
            micro(old.time.median),
            old.roof,
            micro(new.time.median),
            new.roof
        ))
        .hint("see all rows above; times on a busy machine are unreliable")),
    }
}

/// Formats seconds as microseconds with three digits.
fn micro(seconds: f64) -> String {
    let us = seconds * 1e6;
    let decimals = if us > 0.0 { (2 - us.log10().floor() as i32).clamp(0, 4) } else { 0 };
    format!("{us:.*}", decimals as usize)
}

/// Prints the table row by row.
struct Table {
    printer: Printer,
    shape: String,
    /// Whether the table shows all operations.
    all: bool,
    /// Seconds of all calls in a training step.
    sum: f64,
}

impl Table {
    fn head(&self, kept: &Kept) {
        let c = kept.ceilings;
        if self.printer.json {
            return self.printer.event(&serde_json::json!({
                "event": "ceilings", "program": kept.program, "machine": kept.machine, "device": kept.device,
                "precision": kept.precision, "threads": kept.threads, "copy_bytes_s": c.copy,
                "cached_bytes_s": c.cached, "products_flop_s": c.products, "exps_s": c.exps,
            }));
        }
        self.printer.result(format_args!(
            "ceilings  copy {:.1} GB/s ({:.1} in caches), products {:.1} GFLOP/s, exponentials {:.2} G/s   ({}, {} \
             thread(s), {})",
            c.copy / 1e9,
            c.cached.iter().map(|(_, rate)| *rate).fold(0.0, f64::max) / 1e9,
            c.products / 1e9,
            c.exps / 1e9,
            kept.machine,
            kept.threads,
            kept.precision
        ));
    }

    fn row(&mut self, row: &BenchRow, before: Option<&BenchRow>) {
        let ratio = before.map(|b| row.time.median / b.time.median);
        if self.printer.json {
            let mut value = serde_json::json!(row);
            value["event"] = "row".into();
            value["time_ratio"] = ratio.into();
            return self.printer.event(&value);
        }
        if row.shape != self.shape {
            self.end_of_shape();
            self.shape.clone_from(&row.shape);
            self.printer.result(format_args!(
                "\n{:<20} {:>6} {:>11} {:>23} {:>8} {:>9} {:>8}  {:<8} {:>8}",
                row.shape, "calls", "median us", "p20 - p80", "GB/s", "GFLOP/s", "roofline", "bound", "spans"
            ));
        }
        if row.part == "train" {
            self.sum += row.calls as f64 * row.time.median;
        }
        let t = &row.time;
        let beside = match ratio {
            None => String::new(),
            Some(r) => format!("  x{r:.2}"),
        };
        self.printer.result(format_args!(
            "{:<20} {:>6} {:>11} {:>23} {:>8.1} {:>9.1} {:>7.0}%  {:<8} {:>8}{beside}  {}{}",
            row.op,
            row.calls,
            micro(t.median),
            format!("{} - {}", micro(t.p20), micro(t.p80)),
            row.bytes / t.median / 1e9,
            row.flop / t.median / 1e9,
            100.0 * row.roof,
            row.bound.word(),
            bytes(row.memory),
            if row.part == "rank" { "(ranking) " } else { "" },
            row.sizes,
        ));
    }

    fn end_of_shape(&mut self) {
        let sum = std::mem::take(&mut self.sum);
        if sum > 0.0 && self.all && !self.printer.json {
            self.printer.result(format_args!("{:<20} {:>18.3} ms of operations in a training step", "", sum * 1e3));
        }
    }
}

/// Formats bytes in a suitable unit.
fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} B"),
        10_000..10_000_000 => format!("{:.0} kB", n as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.0} MB", n as f64 / 1e6),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}
