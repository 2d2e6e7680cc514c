//! `mipgpu data`: downloads known data sets by name.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;

use crate::{
    base::{Error, Result},
    cli::{import::finish, printer::Printer},
    data::{
        ImportOptions,
        get::{Source, get},
        known::KNOWN,
    },
};

/// The flags of `mipgpu data`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Download a well-known data set from its official address, verify it and import it with its item fields
    Get(GetArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mipgpu data get ml-1m                          into data/ml-1m
  mipgpu data get ml-1m --from ~/ml-1m.zip       without a network")]
struct GetArgs {
    /// Data set
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(KNOWN.iter().map(|k| k.name)))]
    name: String,
    /// Folder to create [default: data/NAME]
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Use this zip file, or the folder that it was unpacked to, instead of downloading
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    /// Download from a mirror instead; checksums verify that the files are the original ones
    #[arg(long, value_name = "URL", conflicts_with = "from")]
    url: Option<String>,
    /// Replace an existing data set
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub fn run(args: Args, printer: Printer) -> Result<()> {
    let What::Get(args) = args.what;
    let known = KNOWN.iter().find(|k| k.name == args.name);
    let known = known.ok_or_else(|| Error::internal(format!("no data set '{}'", args.name)))?;
    let cancel = super::stop::cancel_on_signal(printer);
    let out = args.out.unwrap_or_else(|| PathBuf::from("data").join(known.name));
    let from = match (args.from, args.url) {
        (Some(path), _) => Source::Path(path),
        (None, url) => Source::Url(url.unwrap_or_else(|| known.url.into())),
    };
    printer.say(format!("{}: {}", known.title, known.terms));
    let summary = get(known, &from, &out, args.force, Some(cancel), &mut |notice| printer.notice(notice))?;
    finish(&out, &summary, &ImportOptions::default(), "data", &printer)
}
