//! `mipgpu completions` and `mipgpu man`: shell completions and man pages, generated from the definitions of `--help`.

use std::{fs, path::PathBuf};

use clap_complete::Shell;

use super::{command, printer::Printer, with_all_flags};
use crate::base::{Error, Result};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mipgpu completions bash > ~/.local/share/bash-completion/completions/mipgpu
  mipgpu completions zsh > \"${fpath[1]}/_mipgpu\"
  mipgpu completions fish > ~/.config/fish/completions/mipgpu.fish")]
pub struct CompletionsArgs {
    /// Shell
    shell: Shell,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  mipgpu man --out ~/.local/share/man/man1")]
pub struct ManArgs {
    /// Folder for mipgpu.1 and a page for each command; it is created if missing
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
}

pub fn completions(args: &CompletionsArgs, printer: Printer) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "mipgpu", &mut script);
    printer.raw(String::from_utf8_lossy(&script));
    Ok(())
}

pub fn man(args: &ManArgs, printer: Printer) -> Result<()> {
    fs::create_dir_all(&args.out).map_err(|e| Error::io(&args.out, &e))?;
    clap_mangen::generate_to(with_all_flags(command()), &args.out).map_err(|e| Error::io(&args.out, &e))?;
    printer.say(format_args!("wrote the man pages of mipgpu and its commands to {}", args.out.display()));
    Ok(())
}
