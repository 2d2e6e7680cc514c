//! `mipgpu check`: checks a device with the code that trains on it.

use serde_json::json;

use super::thread_pool;
use crate::{
    backend::{self, Device, Precision},
    base::{Error, Result},
    cli::printer::Printer,
    train::check::{
        CheckRow, Selection, check,
        gradient::{Slope, check_gradients},
    },
};

/// Runs every case of every operation, forward and backward, and whole training steps on a device, and compares the
/// results with an f64 reference. Errors are printed as a share of the allowed error, which is 2 times (results) or 3
/// times (gradients) the error of a plain implementation in the same precision. The exit code is 0 if all cases pass,
/// else 2.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mipgpu check --device cuda            everything, in bf16 and f32
  mipgpu check --device cuda:1 --precision bf16 --only attention
  mipgpu check --gradients              every model's derived gradients against differences of the loss")]
pub struct Args {
    /// Device to check: auto, cpu, cuda, cuda:N, emu, ptx, ptx90a, reference
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Auto)]
    pub device: Device,
    /// Check only this precision [default: both]
    #[arg(long, value_enum, value_name = "FORMAT")]
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
    /// Instead, compare the derived gradient of every parameter with central differences of the loss, in f64; for
    /// authors of models, tasks and losses
    #[arg(long, conflicts_with_all = ["device", "precision", "largest", "seeds"])]
    pub gradients: bool,
}

pub fn run(args: Args, printer: Printer) -> Result<()> {
    if args.gradients {
        return gradients(&args.only, &printer);
    }
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
        return Err(nothing(&args.only));
    }
    if faults > 0 {
        return Err(Error::internal(format!("{faults} of {rows} rows failed on {device}"))
            .hint("do not train on this device; please report the lines above with the output of `mipgpu devices`"));
    }
    printer.say(format_args!("all {cases} cases pass on {device}"));
    Ok(())
}

fn nothing(only: &str) -> Error {
    Error::user(format!("no operation has '{only}' in its name")).hint("omit --only to check all")
}

/// Compares derived gradients with central differences of the loss.
fn gradients(only: &str, printer: &Printer) -> Result<()> {
    let (mut steps, mut wrong) = (0, Vec::new());
    check_gradients(only, &mut |what, slopes| {
        steps += 1;
        let worst = slopes.iter().map(Slope::error).fold(0.0, |a, e| if e.is_nan() || e > a { e } else { a });
        let faults: Vec<&Slope> = slopes.iter().filter(|s| s.error().is_nan() || s.error() > Slope::ALLOWED).collect();
        if printer.json {
            let faults: Vec<_> = faults.iter().map(|s| json!({"parameters": s.names, "error": s.error()})).collect();
            printer.event(&json!({"what": what, "directions": slopes.len(), "worst": worst, "faults": faults}));
        } else {
            let verdict = if faults.is_empty() { "ok" } else { "FAILED" };
            printer.result(format_args!("  {what:<58} {:>3} directions, error {worst:.1e}   {verdict}", slopes.len()));
            for Slope { names, analytic, numeric, .. } in &faults {
                let of = if names.len() == 1 { &names[0] } else { "all parameters together" };
                printer.result(format_args!("    {of}: derived {analytic:.6e}, difference {numeric:.6e}"));
            }
        }
        wrong.extend((!faults.is_empty()).then(|| what.to_string()));
    })?;
    match wrong.first() {
        _ if steps == 0 => Err(nothing(only)),
        Some(first) => Err(Error::internal(format!("{} of {steps} steps have a wrong gradient: {first}", wrong.len()))
            .hint("compare the backward pass with the derivative of the forward pass")),
        None => {
            printer.say(format_args!("the gradients of all {steps} steps agree with differences of the loss"));
            Ok(())
        }
    }
}

fn show(printer: &Printer, row: &CheckRow) {
    let CheckRow { what, cases, worst: (forward, gradient), fault, .. } = row;
    let precision = format!("{:?}", row.precision).to_lowercase();
    if printer.json {
        printer.event(&json!({
            "precision": precision, "what": what, "cases": cases, "ok": fault.is_none(),
            "worst_forward": forward, "worst_gradient": gradient, "fault": fault,
        }));
        return;
    }
    let verdict = fault.as_ref().map_or("ok".to_string(), |f| format!("FAILED\n    {}", f.replace('\n', "\n    ")));
    printer.result(format_args!("  {what:<44} {precision:<5} {cases:>5}  {forward:>8.2} {gradient:>9.2}   {verdict}"));
}
