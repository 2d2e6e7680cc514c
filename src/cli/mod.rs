/*! The command line. One file a command: its flags ([`clap::Args`]) and what it does with them. Commands return
[`Result`]; only this room prints ([`printer::Printer`]) or exits. Exit codes: 0 done, 1 the user's flag, file or data,
2 our failure.
*/

mod builtin;
pub mod evaluate;
pub mod export;
pub mod import;
pub mod opened;
pub mod printer;
pub mod recommend;
pub mod split_flags;
pub mod train;

use std::{io::Write, process::ExitCode};

use clap::{Parser, Subcommand, error::ErrorKind};

use crate::base::{Error, Result};
use printer::Printer;

/// The way through the commands.
const START: &str = "\
Start with nothing at hand:
  mipgpu train                          on the built-in MovieLens sample
With a log of your own (a row each: user, item, time):
  mipgpu import log.csv --out data/mine
  mipgpu train data/mine --out runs/mine
  mipgpu recommend runs/mine --history KEY,KEY,KEY
`mipgpu COMMAND --help` tells the rest.";

/// Pre-trains sequential recommenders by masked item prediction, evaluates them and recommends with them.
#[derive(Debug, Parser)]
#[command(name = "mipgpu", version, about, arg_required_else_help = true, subcommand_required = true, after_help = START)]
struct Cli {
    /// Say nothing but results and errors (no progress, no warnings)
    #[arg(short, long, global = true, display_order = 900)]
    quiet: bool,
    /// Print results as JSON, one object a line
    #[arg(long, global = true, display_order = 901)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Turn a log of interactions (CSV, TSV, .dat, .inter, Parquet) into memory-mapped shards
    Import(import::Args),
    /// Pre-train a model by masked item prediction
    Train(Box<train::Args>),
    /// Score a trained model: NDCG, recall, MRR; full and sampled ranking; slices
    Eval(evaluate::Args),
    /// Recommend items for users of the data or for any new history
    Recommend(recommend::Args),
    /// Write item and user vectors with their keys
    Export(export::Args),
}

/// Parses the command line, runs the command, reports its error.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version go to stdout and are no errors; the rest speaks as our own errors do.
            if e.use_stderr() && e.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
                let _ = write!(std::io::stderr(), "mipgpu: ");
            }
            let _ = e.print();
            return ExitCode::from(u8::from(e.use_stderr()));
        }
    };
    let printer = Printer { quiet: cli.quiet, json: cli.json };
    let done = match cli.command {
        Command::Import(args) => import::run(args, printer),
        Command::Train(args) => train::run(*args, printer),
        Command::Eval(args) => evaluate::run(args, printer),
        Command::Recommend(args) => recommend::run(args, printer),
        Command::Export(args) => export::run(args, printer),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => ExitCode::from(printer::report(&e)),
    }
}

/// A pool of `threads` workers, or one a core. Work runs inside it, so that a step queues and allocates nothing.
pub(crate) fn thread_pool(threads: Option<usize>) -> Result<rayon::ThreadPool> {
    if threads == Some(0) {
        return Err(Error::user("--threads 0 makes no sense").hint("leave it out to use all cores"));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0));
    pool.build().map_err(|e| Error::internal(format!("no threads: {e}")))
}
