/*! The command line. One file a command: its flags ([`clap::Args`]) and what it does with them. Commands return
[`Result`]; only this room prints ([`printer::Printer`]) or exits. Exit codes: 0 done, 1 the user's flag, file or data,
2 our failure.
*/

pub mod bench;
mod builtin;
pub mod check;
pub mod clicks;
pub mod compare;
pub mod data;
pub mod devices;
mod doubts;
pub mod evaluate;
mod expected;
pub mod experiment;
pub mod export;
pub mod finetune;
mod generate;
pub mod import;
pub mod items;
pub mod jobs_progress;
pub mod keys;
pub mod opened;
mod precision;
pub mod printer;
pub mod profile;
pub mod progress;
pub mod recommend;
pub mod runs;
pub mod search;
mod search_base;
pub mod settings_file;
pub mod split;
pub mod split_flags;
pub(crate) mod stop;
pub mod train;

use std::{
    ffi::OsString,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};

use crate::{
    base::{Error, Result},
    train::Settings,
};
use printer::Printer;

/// The way through the commands.
const START: &str = "\
Start with nothing at hand:
  mipgpu train                          on the built-in MovieLens sample
With a log of your own (a row each: user, item, time):
  mipgpu import log.csv --out data/mine
  mipgpu train data/mine --out runs/mine
  mipgpu recommend runs/mine --history KEY,KEY,KEY
`mipgpu COMMAND --help` shows the flags of a command, `mipgpu COMMAND --help-all` every one of them in full.";

/// Pre-trains sequential recommenders by masked item prediction, evaluates them and recommends with them.
#[derive(Debug, Parser)]
#[command(name = "mipgpu", version, arg_required_else_help = true, subcommand_required = true, after_help = START)]
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
    /// Fetch a well-known data set by its name
    Data(data::Args),
    /// Make two data sets of one: a source to pre-train on and a target to transfer to
    Split(split::Args),
    /// Train a model: by masked item prediction, or to predict the next item
    Train(Box<train::Args>),
    /// Continue from a trained run on other data: none, embedding, model or patch transfer
    Finetune(Box<finetune::Args>),
    /// Search settings: a grid, random draws or successive halving, by the validation measure
    Search(search::Args),
    /// Learn the probability of a click on top of a trained run; AUC and log-loss
    Clicks(Box<clicks::Args>),
    /// Score a trained model: NDCG, recall, MRR; full and sampled ranking; slices
    Eval(evaluate::Args),
    /// Whether one run is better than another: paired tests over the same users
    Compare(compare::Args),
    /// Run a grid of runs with seeds, intervals and tests: the survey's experiment, or your own
    Experiment(Box<experiment::Args>),
    /// Recommend items for users of the data or for any new history
    Recommend(recommend::Args),
    /// Find the keys of items by title or key
    Items(items::Args),
    /// List trained runs: model, progress, validation, test
    Runs(runs::Args),
    /// Write item and user vectors with their keys
    Export(export::Args),
    /// Where the time of training goes: steps op by op, memory, what bounds them
    Profile(Box<profile::Args>),
    /// What this program can run on here, and what is missing
    Devices(devices::Args),
    /// Time every operation, forward and backward, beside what the machine can do
    Bench(Box<bench::Args>),
    /// Prove a device: every operation and whole training steps against an f64 reference
    Check(check::Args),
    /// Print the completions of a shell
    Completions(generate::CompletionsArgs),
    /// Write man pages
    Man(generate::ManArgs),
}

/// Parses the command line, runs the command, reports its error.
pub fn main() -> ExitCode {
    main_with(std::env::args_os())
}

/// The same for other words than those of the command line, the program's name first.
pub fn main_with(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut words = with_values(words);
    let mut command = Cli::command();
    // `--help` is the short form, which fits a screen or two.
    for word in words.iter_mut().take_while(|word| *word != "--") {
        if word == "--help" {
            *word = "-h".into();
        } else if word == HELP_ALL {
            *word = "--help".into();
            command = with_all_flags(command);
        }
    }
    let parsed = command.try_get_matches_from(words).and_then(|found| Cli::from_arg_matches(&found));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) if is_help(&e) => {
            let _ = e.print();
            return ExitCode::from(u8::from(e.use_stderr()));
        }
        Err(e) => return ExitCode::from(printer::report(&expected::worded(&e))),
    };
    let printer = Printer { quiet: cli.quiet, json: cli.json };
    ExitCode::from(exit_code(|| match cli.command {
        Command::Import(args) => import::run(args, printer),
        Command::Data(args) => data::run(args, printer),
        Command::Split(args) => split::run(args, printer),
        Command::Train(args) => train::run(*args, printer),
        Command::Finetune(args) => finetune::run(*args, printer),
        Command::Search(args) => search::run(args, printer),
        Command::Clicks(args) => clicks::run(*args, printer),
        Command::Eval(args) => evaluate::run(args, printer),
        Command::Compare(args) => compare::run(args, printer),
        Command::Experiment(args) => experiment::run(*args, printer),
        Command::Recommend(args) => recommend::run(args, printer),
        Command::Items(args) => items::run(&args, printer),
        Command::Runs(args) => runs::run(args, printer),
        Command::Export(args) => export::run(args, printer),
        Command::Profile(args) => profile::run(*args, printer),
        Command::Devices(args) => devices::run(args, printer),
        Command::Bench(args) => bench::run(*args, printer),
        Command::Check(args) => check::run(args, printer),
        Command::Completions(args) => generate::completions(&args, printer),
        Command::Man(args) => generate::man(&args, printer),
    }))
}

/// The words with `--projection` alone, or another flag of a yes-or-no setting, written as `--projection=true`: the next word
/// is its value only where it is `true` or `false`.
fn with_values(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let settings = serde_json::json!(Settings::default());
    let yes_or_no = |word: &OsString| {
        word.to_str().and_then(|w| w.strip_prefix("--")).is_some_and(|name| settings[name].is_boolean())
    };
    let mut words = words.into_iter().peekable();
    let mut all = Vec::new();
    while let Some(mut word) = words.next() {
        if yes_or_no(&word) && words.peek().is_none_or(|next| next != "true" && next != "false") {
            word.push("=true");
        }
        all.push(word);
    }
    all
}

/// The flag that shows every setting in the help of a command, with all that is known of it.
const HELP_ALL: &str = "--help-all";

/// Commands with the help of all flags, those included that `--help` leaves out because few need them.
fn with_all_flags(command: clap::Command) -> clap::Command {
    command.mut_subcommands(|c| c.mut_args(|a| a.hide(false)))
}

/// Whether the parser only shows help or the version.
fn is_help(e: &clap::Error) -> bool {
    !e.use_stderr() || e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// Why words are not a command line that runs something.
fn clap_error(e: &clap::Error) -> Error {
    match is_help(e) {
        true => Error::user("it asks for help or the version, not for a run"),
        false => expected::worded(e),
    }
}

/// Runs a command and reports its error; gives the exit code. A panic is our failure as well.
fn exit_code(command: impl FnOnce() -> Result<()>) -> u8 {
    let done = catch_unwind(AssertUnwindSafe(command)).unwrap_or_else(|_| {
        Err(Error::internal("a bug in mipgpu stopped it").hint("please report the lines above and what you did"))
    });
    done.map_or_else(|e| printer::report(&e), |()| 0)
}

/// A pool of `threads` workers, or one a core. Work runs inside it, so that a step queues and allocates nothing.
pub(crate) fn thread_pool(threads: Option<usize>) -> Result<rayon::ThreadPool> {
    if threads == Some(0) {
        return Err(Error::user("--threads 0 makes no sense").hint("leave it out to use all cores"));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0));
    pool.build().map_err(|e| Error::internal(format!("no threads: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yes_or_no_flag_takes_no_other_word_for_its_value() {
        let spelled = |text: &str| {
            let words = with_values(text.split(' ').map(OsString::from));
            words.into_iter().map(|w| w.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(spelled("eval --keep-seen run"), "eval --keep-seen=true run");
        assert_eq!(spelled("eval run --keep-seen"), "eval run --keep-seen=true");
        assert_eq!(spelled("train --keep-seen false data"), "train --keep-seen false data");
        assert_eq!(spelled("train --projection data --log-q false"), "train --projection=true data --log-q false");
        assert_eq!(spelled("train --width 8"), "train --width 8");
        assert_eq!(spelled("search -- train --keep-seen --lr 1"), "search -- train --keep-seen=true --lr 1");
    }

    #[test]
    fn exit_codes_tell_whose_fault_it_is() {
        assert_eq!(exit_code(|| Ok(())), 0);
        assert_eq!(exit_code(|| Err(Error::user("yours"))), 1);
        assert_eq!(exit_code(|| Err(Error::internal("ours"))), 2);
        assert_eq!(exit_code(|| panic!("a panic, on purpose")), 2);
    }
}
