//! `mipgpu check`: checks a device with the code that trains on it.

use super::thread_pool;
use crate::{
    backend::{self, Device, Precision},
    base::{Error, Result},
    cli::printer::Printer,
    train::check::{CheckRow, Selection, check},
};

/// Runs every case of every operation, forward and backward, and whole training steps on a device, and compares the
/// results with an f64 reference. Errors are printed as a share of the allowed error, which is 2 times (results) or 3
/// times (gradients) the error of a plain implementation in the same precision. The exit code is 0 if all cases pass,
/// else 2.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mipgpu check --device cuda            everything, in bf16 and f32
  mipgpu check --device cuda:1 --precision bf16 --only attention")]
pub struct Args {
    /// Device to check: auto, cpu, cuda, cuda:N, emu, reference
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Auto)]
    pub device: Device,
    /// Check only this precision [default: both]
    #[arg(long, value_enum)]
    pub precision: Option<Precision>,
    /// Check only operations and steps with this text in their name
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub only: String,
    /// Check only cases with at most this many numbers, for slow tools such as sanitizers
    #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    pub largest: usize,
    /// Number of repetitions, each with different random inputs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
}

pub fn run(args: Args, printer: Printer) -> Result<()> {
    let (device, chosen) = backend::choose(args.device);
    if device == Device::Reference && args.precision == Some(Precision::Bf16) {
        return Err(Error::user(format!("--precision bf16: {device} computes in f32")).hint("omit --precision"));
    }
    let precisions = match (args.precision, device) {
        (_, Device::Reference) => vec![Precision::F32],
        (Some(one), _) => vec![one],
        (None, _) => vec![Precision::F32, Precision::Bf16],
    };
    printer.say(format_args!("device  {chosen}"));
    let only = Selection { name: &args.only, elements: args.largest, seeds: args.seeds };
    let (mut rows, mut cases, mut faults) = (0, 0, 0);
    let mut observe = |row: CheckRow| {
        if rows == 0 && !printer.json {
            let head = format!("{:<46} {:<5} {:>5}  {:>8} {:>9}", "", "", "cases", "forward", "gradient");
            printer.result(format_args!("{head}   worst error as a share of the allowed error"));
        }
        rows += 1;
        cases += row.cases;
        faults += row.fault.is_some() as usize;
        show(&printer, &row);
    };
    thread_pool(None)?.install(|| check(device, &precisions, only, &mut observe))?;
    if rows == 0 {
        return Err(
            Error::user(format!("no operation has '{}' in its name", args.only)).hint("omit --only to check all")
        );
    }
    if faults > 0 {
        return Err(Error::internal(format!("{faults} of {rows} rows failed on {device}"))
            .hint("do not train on this device; please report the lines above with the output of `mipgpu devices`"));
    }
    printer.say(format_args!("all {cases} cases pass on {device}"));
    Ok(())
}

fn show(printer: &Printer, row: &CheckRow) {
    let CheckRow { what, cases, worst: (forward, gradient), fault, .. } = row;
    let precision = format!("{:?}", row.precision).to_lowercase();
    if printer.json {
        printer.event(&serde_json::json!({
            "precision": precision, "what": what, "cases": cases, "ok": fault.is_none(),
            "worst_forward": forward, "worst_gradient": gradient, "fault": fault,
        }));
        return;
    }
    let verdict = fault.as_ref().map_or("ok".to_string(), |f| format!("FAILED\n    {f}"));
    printer.result(format_args!("  {what:<44} {precision:<5} {cases:>5}  {forward:>8.2} {gradient:>9.2}   {verdict}"));
}
