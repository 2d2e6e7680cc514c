//! `mipgpu export`: writes item and user vectors with their keys, for other programs.

use std::path::PathBuf;

use super::opened::{RunFlags, data_of, open_run};
use crate::{
    base::{Result, error::typed},
    cli::printer::Printer,
    data::{Dataset, digits},
    eval::vectors::Format,
    train::{
        OpenRun,
        export::{ExportOptions, Exported, export_vectors},
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum What {
    Items,
    Users,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FormatFlag {
    Safetensors,
    Parquet,
}

/// Writes `items.*` and `users.*` into a folder. The score of an item for a user is the dot product of their vectors
/// plus the item's bias. A user's vector encodes the whole history, including held-out events.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mipgpu export runs/mine --out vectors
  mipgpu export runs/mine --out vectors --what items --format parquet")]
pub struct Args {
    /// Folder of the trained run
    pub run: PathBuf,
    /// Folder to write into
    #[arg(short, long, value_name = "DIR")]
    pub out: PathBuf,
    /// Which vectors to write
    #[arg(long, value_enum, value_delimiter = ',', default_value = "items,users", value_name = "WHAT,…")]
    pub what: Vec<What>,
    /// File formats
    #[arg(long, value_enum, value_delimiter = ',', default_value = "safetensors,parquet", value_name = "FORMAT,…")]
    pub format: Vec<FormatFlag>,
    /// Data set folder with the users to write [default: the data set of the run]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Replace vectors of another run or checkpoint; those of its files that are not rewritten are removed
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub from: RunFlags,
    /// Number of users per batch
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub batch: usize,
}

pub fn run(args: Args, printer: Printer) -> Result<()> {
    super::thread_pool(args.from.threads)?.install(|| put(&args, printer))
}

fn put(args: &Args, printer: Printer) -> Result<()> {
    let mut run = open_run(&args.run, &args.from)?;
    let moved = format!("mipgpu export {} --data DIR", typed(&args.run));
    let users = args.what.contains(&What::Users);
    let data = users.then(|| data_of(&run, args.data.as_deref(), &moved)).transpose()?;
    let checkpoint = run.checkpoint()?;
    for Exported { path, rows } in write(&mut run, data.as_ref(), &checkpoint, args)? {
        if printer.json {
            let width = run.encoder.width();
            let path = path.display().to_string();
            printer.event(&serde_json::json!({ "event": "export", "file": path, "rows": rows, "width": width }));
        } else {
            printer.result(format_args!(
                "{}  {} vectors of {}",
                path.display(),
                digits(rows as u64),
                run.encoder.width()
            ));
        }
    }
    Ok(())
}

/// Writes the vectors that the flags select. `data` is required for users, `checkpoint` is the SHA-256 of the weights.
///
/// # Errors
/// As [`export_vectors`].
pub fn write(run: &mut OpenRun, data: Option<&Dataset>, checkpoint: &str, args: &Args) -> Result<Vec<Exported>> {
    let formats = args.format.iter().map(|flag| match flag {
        FormatFlag::Safetensors => Format::Safetensors,
        FormatFlag::Parquet => Format::Parquet,
    });
    let options = ExportOptions {
        items: args.what.contains(&What::Items),
        users: args.what.contains(&What::Users),
        formats: formats.collect(),
        force: args.force,
        batch: args.batch,
    };
    export_vectors(run, data, checkpoint, &args.out, &options)
}
