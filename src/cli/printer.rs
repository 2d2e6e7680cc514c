//! All output of the program: results on stdout, messages on stderr, according to `--quiet` and `--json`. A broken pipe
//! is a normal exit.

use std::io::{self, IsTerminal, Write};

use serde_json::json;

use crate::base::{Error, Notice, error::ErrorKind};

/// The output options of the user.
#[derive(Clone, Copy, Debug, Default)]
pub struct Printer {
    /// Prints only errors on stderr.
    pub quiet: bool,
    /// Prints results as JSON, one object per line.
    pub json: bool,
    /// Prints warnings and errors also as JSON to stdout, for the program that reads it.
    pub events: bool,
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

    /// Prints a notice of a module that does not print.
    pub fn notice(&self, notice: Notice) {
        match notice {
            Notice::Info(text) => self.say(text),
            Notice::Warning(text) => self.warn(text),
        }
    }

    /// Prints a warning; the work continues. `--quiet` suppresses it.
    pub fn warn(&self, text: impl std::fmt::Display) {
        let text = text.to_string();
        self.say(format_args!("mipgpu: warning: {text}"));
        if !self.quiet {
            self.tell(&json!({"event": "warning", "text": text}));
        }
    }

    /// Prints the error that ends the command, and returns the exit code.
    pub fn error(&self, e: &Error) -> u8 {
        let code = report(e);
        self.tell(&json!({"event": "error", "what": e.what, "hint": e.hint}));
        code
    }

    /// Prints an event that is also on stderr. Without a reader nothing is lost.
    fn tell(&self, event: &serde_json::Value) {
        if self.events {
            let _ = writeln!(io::stdout().lock(), "{event}");
        }
    }

    /// Returns whether to show a progress bar: stderr is a terminal, and neither `--quiet` nor `--json` is given.
    pub fn progress_bar(&self) -> bool {
        !self.quiet && !self.json && io::stderr().is_terminal()
    }
}

/// Prints an error as `mipgpu: error: what` with its hint to stderr, and returns the exit code. It never waits for the
/// reader of the results.
pub fn report(e: &Error) -> u8 {
    let _ = writeln!(io::stderr().lock(), "mipgpu: error: {e}");
    match e.kind {
        ErrorKind::User => 1,
        ErrorKind::Internal => 2,
    }
}
