//! `mipgpu profile`: measures the time of the steps of a training run.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    printer::Printer,
    train::{JobArgs, Prepared, introduce, prepare},
};
use crate::{
    backend,
    base::{
        Error, Result,
        atomic::{make_folder, write_atomically},
    },
    data::split::Split,
    measure::profile::{Profile, ProfileJob, Stage, page, profile, text, trace},
    train::{folder::free_name, run},
};

/// Runs steps of a training run, discards their result, and reports where the time goes: first whole steps as training
/// runs them, then operation by operation. The flags that describe the run are those of `mipgpu train`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mipgpu profile                                    the built-in sample
  mipgpu profile data/mine --model sasrec --batch 64 --steps 50 --out profiles/mine
  MIPGPU_GRAPHS=off nsys profile mipgpu profile data/mine --device cuda

The folder holds profile.json, profile.txt, profile.html (a self-contained page) and trace.json
(open it in ui.perfetto.dev or chrome://tracing). If NVIDIA's NVTX library is found, phases and ops
are annotated for NVIDIA's profilers.

More settings (layers, losses, schedule): mipgpu profile --help-all")]
pub struct Args {
    /// Number of timed steps
    #[arg(long, value_name = "N", default_value_t = 20)]
    steps: u64,
    /// Number of warm-up steps before them: caches are cold, and a GPU records its graphs
    #[arg(long, value_name = "N", default_value_t = 5)]
    untimed: u64,
    /// Folder to create [default: profiles/DATA-MODEL-N]
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    job: JobArgs,
}

/// Maximum number of steps. More steps add no information, and their trace is too large to view.
const MOST: u64 = 10_000;

pub fn run(args: Args, printer: Printer) -> Result<()> {
    let Args { steps, untimed, out, job: asked } = args;
    for (flag, given, least) in [("steps", steps, 1), ("untimed", untimed, 0)] {
        if !(least..=MOST).contains(&given) {
            return Err(Error::user(format!("--{flag} {given} is out of range"))
                .hint(format!("it must be between {least} and {MOST}")));
        }
    }
    // Before anything is computed.
    out.as_deref().map_or(Ok(()), check_free)?;
    let Prepared { config, data, device, threads } = prepare(asked, "mipgpu profile", &printer)?;
    let pool = super::thread_pool(threads)?;
    let split = Split::for_task(&data, config.split, config.settings.find()?.1.baskets)?;
    backend::probe(device, config.settings.precision.on(device))?;
    run::check(&config, &data, &split)?;
    let threads = pool.current_num_threads();
    introduce(&printer, &config, &data, &split, device, threads);
    let job = ProfileJob { config: &config, data: &data, split: &split, device, steps, untimed, threads };
    let mut tell = |stage| {
        printer.say(match stage {
            Stage::Whole => "timing  whole steps",
            Stage::Validation => "timing  validation",
            Stage::OpByOp => "timing  op by op",
            Stage::Ceilings => "timing  the ceilings of the machine",
        });
    };
    let found = pool.install(|| profile(&job, &mut tell))?;
    let out = out.unwrap_or_else(|| free_name("profiles", &config.data, &config.settings.model));
    write(&out, &found)?;
    if printer.json {
        printer.event(&found.json());
    } else {
        printer.raw(text::text(&found));
    }
    printer.say(format_args!("\n{} holds profile.json, profile.txt, profile.html and trace.json", out.display()));
    Ok(())
}

/// Checks that the folder can be created without overwriting files.
fn check_free(out: &Path) -> Result<()> {
    if let Some(file) = out.ancestors().find(|at| at.is_file()) {
        return Err(Error::user(format!("{}: this is a file, not a folder", file.display()))
            .hint("choose a new folder with --out"));
    }
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(
            Error::user(format!("{}: the folder is not empty", out.display())).hint("choose a new folder with --out")
        );
    }
    Ok(())
}

/// Writes all files of the folder, the page last, so that a folder with the page is complete.
fn write(out: &Path, found: &Profile) -> Result<()> {
    check_free(out)?;
    make_folder(out)?;
    write_atomically(&out.join("profile.json"), |f| writeln!(f, "{:#}", found.json()))?;
    write_atomically(&out.join("profile.txt"), |f| f.write_all(text::text(found).as_bytes()))?;
    write_atomically(&out.join("trace.json"), |f| trace::write(found, f))?;
    write_atomically(&out.join("profile.html"), |f| f.write_all(page::html(found).as_bytes()))
}
