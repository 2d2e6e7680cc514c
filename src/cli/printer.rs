//! All output of the program: results on stdout, messages on stderr, according to `--quiet` and `--json`. A broken pipe
//! is a normal exit.

use std::io::{self, IsTerminal, Write};

use crate::{
    base::{Error, error::ErrorKind, notice},
    data::WARNING,
};

/// The output options of the user.
#[derive(Clone, Copy, Debug, Default)]
pub struct Printer {
    /// Prints only errors on stderr.
    pub quiet: bool,
    /// Prints results as JSON, one object per line.
    pub json: bool,
}

impl Printer {
    /// Prints a line of the result to stdout.
    pub fn result(&self, line: impl std::fmt::Display) {
        self.raw(format_args!("{line}\n"));
    }

    /// Prints a part of the result to stdout, unchanged.
    pub fn raw(&self, text: impl std::fmt::Display) {
        let mut out = io::stdout().lock();
        match write!(out, "{text}").and_then(|()| out.flush()) {
            Ok(()) => {}
            // The reader has closed the pipe.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            // Results that cannot be written are a failure, such as a full disk behind a redirection.
            Err(e) => std::process::exit(report(&Error::internal(format!("standard output: {e}"))).into()),
        }
    }

    /// Prints a JSON object on its own line to stdout.
    pub fn event(&self, value: &serde_json::Value) {
        self.result(value);
    }

    /// Prints a message about the work to stderr.
    pub fn say(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            let _ = writeln!(io::stderr().lock(), "{line}");
        }
    }

    /// Prints a message from a module that does not print. A line that begins with `warning: ` is a warning.
    pub fn talk(&self, line: &str) {
        match line.strip_prefix(WARNING) {
            Some(warning) => self.warn(warning),
            None => self.say(line),
        }
    }

    /// Prints a warning; the work continues. `--quiet` suppresses it.
    pub fn warn(&self, line: impl std::fmt::Display) {
        self.say(format_args!("{}{line}", notice::WARNING));
    }

    /// Returns whether to show a progress bar: stderr is a terminal, and neither `--quiet` nor `--json` is given.
    pub fn progress_bar(&self) -> bool {
        !self.quiet && !self.json && io::stderr().is_terminal()
    }
}

/// Prints an error as `mipgpu: error: what` with its hint, and returns the exit code.
pub fn report(e: &Error) -> u8 {
    let _ = writeln!(io::stderr().lock(), "{}{e}", notice::ERROR);
    match e.kind {
        ErrorKind::User => 1,
        ErrorKind::Internal => 2,
    }
}
