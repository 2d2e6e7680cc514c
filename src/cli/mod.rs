/*! The command line. Each command has one file with its flags ([`clap::Args`]) and its implementation. Commands return
[`Result`]. Only this module prints ([`printer::Printer`]) or exits.

| exit code | meaning |
|---|---|
| 0 | success |
| 1 | error in a flag, a file or the data |
| 2 | failure of the program |
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
pub mod run_flags;
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

use clap::{Arg, ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};

use crate::{
    base::{Error, Result},
    train::Settings,
};
use printer::Printer;

/// The first steps, printed by `--help`.
const START: &str = "\
Without data:
  mipgpu train                          on the built-in MovieLens sample
With your own log (one row per interaction: user, item, time):
  mipgpu import log.csv --out data/mine
  mipgpu train data/mine --out runs/mine
  mipgpu recommend runs/mine --history KEY,KEY,KEY
`mipgpu COMMAND --help` lists the usual flags of a command, `mipgpu COMMAND --help-all` all flags.";

/// Pre-trains sequential recommenders by masked item prediction, evaluates them and recommends with them.
#[derive(Debug, Parser)]
#[command(name = "mipgpu", version, arg_required_else_help = true, subcommand_required = true, after_help = START)]
struct Cli {
    /// Print only results and errors (no progress, no warnings)
    #[arg(short, long, global = true, display_order = 900)]
    quiet: bool,
    /// Print results as JSON, one object per line
    #[arg(long, global = true, display_order = 901)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Convert a log (CSV, TSV, .dat, .inter, JSON lines, Parquet) to a data set of memory-mapped shards
    Import(import::Args),
    /// Download a well-known data set by name
    Data(data::Args),
    /// Split a data set in two: a source to pre-train on and a target to transfer to
    Split(split::Args),
    /// Train a model by masked item prediction, next item prediction or another task
    Train(Box<train::Args>),
    /// Continue from a trained run on other data: none, embedding, model or patch transfer
    Finetune(Box<finetune::Args>),
    /// Search hyperparameters by validation: grid search, random search or successive halving
    Search(search::Args),
    /// Train a click-through model on top of a trained run; AUC and log-loss
    Clicks(Box<clicks::Args>),
    /// Evaluate a trained model: NDCG, recall, MRR; full and sampled ranking; slices
    Eval(evaluate::Args),
    /// Test whether one run is better than another: paired tests over the same users
    Compare(compare::Args),
    /// Run a grid of runs with seeds, intervals and tests: the built-in grid `survey` (Zeng et al. 2021) or your own
    Experiment(Box<experiment::Args>),
    /// Recommend items for users of the data set or for a new history
    Recommend(recommend::Args),
    /// Find the keys of items by title or key
    Items(items::Args),
    /// List trained runs: model, progress, validation, test
    Runs(runs::Args),
    /// Write item and user vectors with their keys
    Export(export::Args),
    /// Profile training: time of steps by operation, memory, what bounds them
    Profile(Box<profile::Args>),
    /// List the devices of this machine and what is missing to use them
    Devices(devices::Args),
    /// Time every operation, forward and backward, and compare it with the ceilings of the machine
    Bench(Box<bench::Args>),
    /// Check a device: compare every operation and whole training steps with an f64 reference
    Check(check::Args),
    /// Print shell completions
    Completions(generate::CompletionsArgs),
    /// Write man pages
    Man(generate::ManArgs),
}

/// Parses the command line, runs the command and reports its error.
pub fn main() -> ExitCode {
    main_with(std::env::args_os())
}

/// Runs [`main`] with the given words instead of the command line. The first word is the name of the program.
pub fn main_with(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut words = with_values(words);
    let mut command = command();
    // `--help` prints the short form, which fits one or two screens.
    for word in words.iter_mut().take_while(|word| *word != "--") {
        if word == "--help" {
            *word = "-h".into();
        } else if word == HELP_ALL {
            *word = "--help".into();
            command = with_all_flags(command);
        }
    }
    let told = events(&words);
    let parsed = command.try_get_matches_from(words).and_then(|found| Cli::from_arg_matches(&found));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) if is_help(&e) => {
            let _ = e.print();
            return ExitCode::from(u8::from(e.use_stderr()));
        }
        Err(e) => return ExitCode::from(Printer { events: told, ..Printer::default() }.error(&expected::worded(&e))),
    };
    let printer = Printer { quiet: cli.quiet, json: cli.json, events: told };
    ExitCode::from(exit_code(printer, || match cli.command {
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

/// Checks that the program accepts these words, without running them. The first word is the name of the program.
///
/// # Errors
/// They are not a command line of the program.
pub fn accepts(words: impl IntoIterator<Item = OsString>) -> Result<()> {
    let parsed = command().try_get_matches_from(with_values(words)).and_then(|found| Cli::from_arg_matches(&found));
    match parsed {
        Err(e) if e.use_stderr() => Err(expected::worded(&e)),
        _ => Ok(()),
    }
}

/// Rewrites a flag of a yes-or-no setting without a value, such as `--projection`, as `--projection=true`. The next
/// word is its value only if it is `true` or `false`.
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

/// Commands that print warnings and errors as events with `--json`. `experiment` and `search` run them and read these.
const WITH_EVENTS: [&str; 3] = ["train", "finetune", "eval"];

/// Returns whether a command line, which may be invalid, asks for warnings and errors as events.
fn events(words: &[OsString]) -> bool {
    // The flags before a command have no values.
    let command = words.iter().skip(1).find(|word| !word.to_string_lossy().starts_with('-'));
    command.is_some_and(|command| WITH_EVENTS.iter().any(|name| command == name))
        && words.iter().take_while(|word| *word != "--").any(|word| word == "--json")
}

/// The flag that prints the full help of a command, with all settings.
const HELP_ALL: &str = "--help-all";

/// Returns the definition of the command line. The help of each command says what `--help-all` adds to it.
fn command() -> clap::Command {
    Cli::command().mut_subcommands(|command| {
        let hides = command.get_arguments().any(Arg::is_hide_set);
        let describes = command.get_arguments().any(|arg| {
            arg.get_long_help().is_some() || arg.get_possible_values().iter().any(|value| value.get_help().is_some())
        });
        let text = match (hides, describes) {
            (true, _) => "Print the usual flags; all flags: --help-all",
            (false, true) => "Print help; descriptions of values: --help-all",
            (false, false) => "Print help",
        };
        let help = Arg::new("help").short('h').long("help").action(ArgAction::Help).help(text);
        command.disable_help_flag(true).arg(help.help_heading(None::<&'static str>).display_order(902))
    })
}

/// Shows all flags in the help of the commands, including rarely used ones that `--help` hides.
fn with_all_flags(command: clap::Command) -> clap::Command {
    command.mut_subcommands(|c| c.mut_args(|a| a.hide(false)))
}

/// Returns whether the parser only prints help or the version.
fn is_help(e: &clap::Error) -> bool {
    !e.use_stderr() || e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// Converts the error for words that are not a command line that runs something.
fn clap_error(e: &clap::Error) -> Error {
    match is_help(e) {
        true => Error::user("the command prints help or the version and runs nothing"),
        false => expected::worded(e),
    }
}

/// Runs a command, reports its error and returns the exit code. A panic is a failure of the program.
fn exit_code(printer: Printer, command: impl FnOnce() -> Result<()>) -> u8 {
    let done = catch_unwind(AssertUnwindSafe(command)).unwrap_or_else(|_| {
        Err(Error::internal("mipgpu stopped because of a bug").hint("please report the lines above and the command"))
    });
    done.map_or_else(|e| printer.error(&e), |()| 0)
}

/// Creates a pool of `threads` workers, by default one per core. Work runs inside the pool, so that a step queues and
/// allocates nothing.
pub(crate) fn thread_pool(threads: Option<usize>) -> Result<rayon::ThreadPool> {
    if threads == Some(0) {
        return Err(Error::user("--threads 0 is out of range").hint("omit it to use all cores"));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0));
    pool.build().map_err(|e| Error::internal(format!("threads cannot be started: {e}")))
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
    fn commands_that_others_run_print_their_errors_as_events() {
        let asked = |text: &str| events(&text.split(' ').map(OsString::from).collect::<Vec<_>>());
        for text in ["mipgpu train data --json", "mipgpu -q --json eval run", "mipgpu finetune --json --no-such-flag"] {
            assert!(asked(text), "{text}");
        }
        for text in ["mipgpu train data", "mipgpu --json", "mipgpu runs train --json", "mipgpu search -- train --json"]
        {
            assert!(!asked(text), "{text}");
        }
    }

    #[test]
    fn exit_codes_tell_whose_fault_it_is() {
        let exit_code = |command: fn() -> Result<()>| exit_code(Printer::default(), command);
        assert_eq!(exit_code(|| Ok(())), 0);
        assert_eq!(exit_code(|| Err(Error::user("yours"))), 1);
        assert_eq!(exit_code(|| Err(Error::internal("ours"))), 2);
        assert_eq!(exit_code(|| panic!("a panic, on purpose")), 2);
    }
}
