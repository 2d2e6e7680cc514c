//! The one door to the terminal: results on stdout, talk on stderr, `--quiet` and `--json` honoured, a broken pipe is
//! a normal end.

use std::io::{self, IsTerminal, Write};

use crate::{
    base::{Error, error::ErrorKind, notice},
    data::WARNING,
};

/// How the user wants to be spoken to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Printer {
    /// No talk on stderr, only errors.
    pub quiet: bool,
    /// Results as JSON, one object a line.
    pub json: bool,
}

impl Printer {
    /// A line of the result, to stdout.
    pub fn result(&self, line: impl std::fmt::Display) {
        self.raw(format_args!("{line}\n"));
    }

    /// Part of the result, to stdout, as it stands.
    pub fn raw(&self, text: impl std::fmt::Display) {
        let mut out = io::stdout().lock();
        match write!(out, "{text}").and_then(|()| out.flush()) {
            Ok(()) => {}
            // Whoever reads has seen enough.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            // Results that were not written are no success: a full disk behind a redirection, say.
            Err(e) => std::process::exit(report(&Error::internal(format!("standard output: {e}"))).into()),
        }
    }

    /// One JSON object on a line of its own, to stdout.
    pub fn event(&self, value: &serde_json::Value) {
        self.result(value);
    }

    /// Talk: what is being done and why, to stderr.
    pub fn say(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            let _ = writeln!(io::stderr().lock(), "{line}");
        }
    }

    /// A line of talk from where nothing is printed: one that begins with `warning: ` is a warning.
    pub fn talk(&self, line: &str) {
        match line.strip_prefix(WARNING) {
            Some(warning) => self.warn(warning),
            None => self.say(line),
        }
    }

    /// Something the user should know although the work goes on; silent under `--quiet`, which asks for results and
    /// errors alone.
    pub fn warn(&self, line: impl std::fmt::Display) {
        self.say(format_args!("{}{line}", notice::WARNING));
    }

    /// Whether a progress bar makes sense: a person watches and has not asked for silence.
    pub fn progress_bar(&self) -> bool {
        !self.quiet && !self.json && io::stderr().is_terminal()
    }
}

/// Prints an error as `mipgpu: error: what` with its hint, and gives the exit code.
pub fn report(e: &Error) -> u8 {
    let _ = writeln!(io::stderr().lock(), "{}{e}", notice::ERROR);
    match e.kind {
        ErrorKind::User => 1,
        ErrorKind::Internal => 2,
    }
}
