//! A profile as text.

use std::fmt::Write;

use super::{Profile, ProfileRow};
use crate::{
    base::table::{Align, Table},
    data::digits,
    page::{NOTHING, plain},
};

/// Formats a share in percent, with one decimal if it is small.
pub(super) fn percent(share: f64) -> String {
    match share * 100.0 {
        x if !x.is_finite() => NOTHING.into(),
        x if x > 0.0 && x < 0.1 => "<0.1 %".into(),
        x if x < 10.0 => format!("{x:.1} %"),
        x => format!("{x:.0} %"),
    }
}

/// Formats milliseconds with about three digits.
pub(super) fn ms(seconds: f64) -> String {
    match seconds * 1e3 {
        x if !x.is_finite() => NOTHING.into(),
        x if x < 10.0 => format!("{x:.3}"),
        x if x < 100.0 => format!("{x:.2}"),
        x => format!("{x:.1}"),
    }
}

pub(super) fn size(bytes: f64) -> String {
    match bytes {
        b if !b.is_finite() => NOTHING.into(),
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b if b >= 1e3 => format!("{:.1} KB", b / 1e3),
        b => format!("{b:.0} B"),
    }
}

/// Formats calls or sequences per step: whole if every step has the same number.
pub(super) fn calls(n: f64) -> String {
    if (n - n.round()).abs() < 1e-9 { format!("{n:.0}") } else { format!("{n:.1}") }
}

/// Formats a rate or an amount with about three digits; a dash if there is none.
pub(super) fn rate(x: f64) -> String {
    match x {
        x if !x.is_finite() || x <= 0.0 => NOTHING.into(),
        x if x < 0.005 => "<0.01".into(),
        x if x < 10.0 => format!("{x:.2}"),
        x if x < 100.0 => format!("{x:.1}"),
        x => format!("{x:.0}"),
    }
}

/// Returns the parts of whole steps, in order: name, seconds, and a description.
pub(super) fn pieces(p: &Profile) -> Vec<(&'static str, super::Spread, String)> {
    let w = &p.whole;
    let between = ("between", w.between, "the gap to the next step; at an epoch's end, shuffling".to_string());
    let mut pieces = vec![
        ("load batch", w.load, "the host reads the sequences of a batch".to_string()),
        ("upload", w.upload, format!("{} from the host", size(p.op_by_op.upload_bytes))),
    ];
    match w.hidden {
        None => {
            pieces.push(("compute", w.busy, "all ops".into()));
            pieces.push(("read loss", w.wait, "loss and gradient norm".into()));
            pieces.push(between);
        }
        Some(hidden) => {
            pieces.push(("launch", w.launch, "the host launches the step".into()));
            pieces.push(("wait", w.wait, "the host waits for the preceding step".into()));
            pieces.push(between);
            let says = format!(
                "the device computes; {} per step it does not; {} of loading and uploading is hidden behind it",
                ms(w.not_hidden) + " ms",
                percent(hidden)
            );
            pieces.push(("device", w.busy, says));
        }
    }
    pieces
}

/// Compares the op-by-op times with those of whole steps.
pub(super) fn beside(p: &Profile) -> String {
    let (w, o) = (&p.whole, &p.op_by_op);
    let than = match o.ops / w.busy.mean {
        r if r > 1.05 => format!("{} more than", percent(r - 1.0)),
        r if r < 0.95 => format!("{} less than", percent(1.0 - r)),
        _ => "as much as".into(),
    };
    let mut says = format!(
        "Op by op, {} calls per step take {} ms, {than} the {} ms of a whole step; {} ms pass between them.",
        calls(o.calls),
        ms(o.ops),
        ms(w.busy.mean),
        ms(o.idle)
    );
    if w.wall.p80 > UNEVEN * w.wall.p20 {
        let _ = write!(
            says,
            " Whole steps differ widely (p80 is {:.1} times p20): other load on this machine, or batches of \
             different lengths.",
            w.wall.p80 / w.wall.p20
        );
    }
    says
}

/// If steps differ by more than this factor, the report says so: a single run is then unreliable.
const UNEVEN: f64 = 1.25;

/// Describes the validation.
pub(super) fn validation(p: &Profile) -> Option<String> {
    let v = p.validation?;
    let all = v.seconds / v.users.max(1) as f64 * v.all as f64;
    let asked = match v.users < v.all {
        true => format!("{} of {} users in {} ms; all of them take", digits(v.users), digits(v.all), ms(v.seconds)),
        false => format!("{} users take", digits(v.all)),
    };
    let (steps, epoch) = (plain(all / p.whole.wall.mean, 0), digits(p.epoch_steps));
    let unit = if steps == "1" { "step" } else { "steps" };
    Some(format!("Validation: {asked} about {} ms, as long as {steps} {unit} (an epoch has {epoch}).", ms(all)))
}

/// Returns (purpose, bytes) of each kind of memory.
pub(super) fn memory(p: &Profile) -> Vec<(&'static str, Option<u64>)> {
    let m = &p.memory.plan;
    vec![
        ("weights", Some(m.weights)),
        ("gradients", Some(m.gradients)),
        ("moments", Some(m.moments)),
        ("activations", Some(m.activations)),
        ("ids of a batch", Some(m.batch)),
        ("partial sums", Some(m.workspace)),
        ("data", m.data),
        ("planned in total", Some(m.total())),
        ("process peak", p.memory.peak_process_bytes),
    ]
}

/// Returns the facts about machine, model and run.
pub(super) fn facts(p: &Profile) -> Vec<(&'static str, String)> {
    let w = &p.whole;
    let c = &p.ceilings;
    let cached = c.cached.iter().fold(c.copy, |best, (_, rate)| best.max(*rate));
    let nvtx = p.nvtx.map_or("no library for ranges found".into(), |library| format!("ranges through {library}"));
    let load = p.load_average.map(|load| {
        let [one, five, fifteen] = load.map(|l| format!("{l:.2}"));
        ("Load", format!("{one} over the last minute, {five} over 5, {fifteen} over 15, before the first step"))
    });
    let mut facts = vec![
        ("Machine", format!("{}, {} threads", p.processor, p.threads)),
        ("Device", format!("{}, {}", p.device, format!("{:?}", p.products).to_lowercase())),
        ("Model", format!("{}, {} parameters, task {}", p.settings.model, digits(p.parameters), p.settings.task)),
        (
            "Batch",
            format!(
                "{} sequences, {:.0} interactions in {:.0} rows, {:.0} scored; {} different sizes",
                calls(w.sequences),
                w.interactions,
                w.rows,
                w.scored,
                w.shapes
            ),
        ),
        ("Steps", format!("{} timed after {} untimed", digits(p.steps), digits(p.untimed))),
        (
            "Ceilings",
            format!(
                "copies {} GB/s (in caches up to {}), products {} GFLOP/s, exponentials {} G/s",
                rate(c.copy * 1e-9),
                rate(cached * 1e-9),
                rate(c.products * 1e-9),
                rate(c.exps * 1e-9)
            ),
        ),
        ("NVTX", nvtx),
    ];
    facts.splice(1..1, load);
    facts
}

/// Returns the whole report.
pub fn text(p: &Profile) -> String {
    let mut out = String::new();
    let w = &p.whole;
    let _ = writeln!(out, "{}\n\n{}\n", p.title(), p.verdict);
    facts(p).iter().for_each(|(name, value)| {
        let _ = writeln!(out, "{name:<9}{value}");
    });
    let mut steps = Table::new().left("whole steps").right("median ms").right("p20").right("p80").right("mean");
    steps.column("share", Align::Right);
    steps.column("", Align::Left);
    let mut row = |name: &str, s: super::Spread, says: &str| {
        let share = percent(s.mean / w.wall.mean);
        steps.row([name, &ms(s.median), &ms(s.p20), &ms(s.p80), &ms(s.mean), &share, says]);
    };
    let rates = format!(
        "{} interactions/s, {} sequences/s",
        digits(w.interactions_per_s as u64),
        digits(w.sequences_per_s as u64)
    );
    row("step", w.wall, &rates);
    pieces(p).iter().for_each(|(name, spread, says)| row(&format!("  {name}"), *spread, says));
    let _ = writeln!(out, "\n{steps}\n{}", beside(p));
    let _ = writeln!(out, "Shuffling the users takes {} ms per epoch.", ms(w.shuffle));
    if let Some(says) = validation(p) {
        let _ = writeln!(out, "{says}");
    }
    let _ = writeln!(out, "\n{}", COLUMNS.join("\n"));
    table(&mut out, "phase", &p.phases, |r| r.phase.map_or("", |p| p.word()).to_string());
    table(&mut out, "op", &p.ops, |r| r.op.clone());
    table(&mut out, "layer", &p.layers, |r| r.layer.clone());
    let mut kinds = Table::new().left("memory").right("bytes");
    for (name, bytes) in memory(p) {
        kinds.row([name, &bytes.map_or(NOTHING.into(), |b| size(b as f64))]);
    }
    let _ = write!(out, "\n{kinds}");
    out
}

/// The meaning of the tables' columns.
pub(super) const COLUMNS: [&str; 3] = [
    "Idle: time right before these calls in which no call runs.",
    "MFLOP and MB: operations of a step, and the minimum number of bytes that it moves.",
    "Roofline: the least time that this machine's ceilings allow, as a share of the time taken.",
];

fn table(out: &mut String, what: &str, rows: &[ProfileRow], name: impl Fn(&ProfileRow) -> String) {
    let mut table = Table::new().left(what);
    for head in ["calls", "ms/step", "share", "idle ms", "MFLOP", "MB", "GFLOP/s", "GB/s"] {
        table.column(head, Align::Right);
    }
    table.column("roofline", Align::Left);
    for r in rows {
        let roof = match (r.roof, r.bound) {
            (Some(roof), Some(bound)) => format!("{} of {}", percent(roof), bound.word()),
            _ => NOTHING.into(),
        };
        table.row([
            name(r),
            calls(r.calls),
            ms(r.seconds),
            percent(r.share),
            ms(r.idle),
            rate(r.flop * 1e-6),
            rate(r.bytes * 1e-6),
            rate(r.gflops),
            rate(r.gbps),
            roof,
        ]);
    }
    let _ = write!(out, "\n{table}");
}
