//! What Ctrl-C, SIGTERM and a hang-up do: the first one asks for an orderly end, a later one ends the program at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::printer::{self, Printer};
use crate::{base::Error, experiment::jobs::ENDS_WITH_PARENT};

/// Signals this soon after the first one are the same request: `timeout` signals its child and then the process group
/// of the child, and a terminal sends Ctrl-C to everything in front of it while a parent may pass it on.
const SAME_REQUEST: Duration = Duration::from_secs(2);

/// Installs the handler. The first signal calls `stop` and prints `then`, what happens now; one that comes later than
/// [`SAME_REQUEST`] prints `lost`, what is lost, and ends the program. Where hang-ups are ignored there is no handler.
pub(crate) fn on_signal(
    printer: Printer,
    then: &'static str,
    stop: impl Fn() + Send + 'static,
    lost: impl Fn() -> Error + Send + 'static,
) {
    if hang_ups_ignored() {
        return;
    }
    let mut first: Option<Instant> = None;
    let handler = move || match first {
        None => {
            first = Some(Instant::now());
            stop();
            let seconds = SAME_REQUEST.as_secs();
            printer.say(format_args!("stopping: {then}; another Ctrl-C after {seconds} seconds ends at once"));
        }
        Some(at) if at.elapsed() < SAME_REQUEST => {}
        Some(_) => std::process::exit(printer::report(&lost()).into()),
    };
    // Without a handler a signal still ends the program, at the last checkpoint.
    let _ = ctrlc::set_handler(handler);
}

/// [`on_signal`] for commands that make data sets: they notice between two blocks and leave nothing behind. Gives what
/// is set then.
pub(crate) fn cancel_on_signal(printer: Printer) -> Arc<AtomicBool> {
    let cancel = Arc::new(AtomicBool::new(false));
    let flag = cancel.clone();
    let stop = move || flag.store(true, Ordering::Relaxed);
    on_signal(printer, "what was made so far is removed", stop, || {
        Error::user("ended at once: no data set was made")
            .hint("a folder .NAME.importing-PID may be left beside it; it can be deleted")
    });
    cancel
}

/// In a process of an experiment, calls `end` when the experiment has ended, however that came: its standard input ends
/// then.
pub(crate) fn end_with_parent(end: impl FnOnce() + Send + 'static) {
    if std::env::var_os(ENDS_WITH_PARENT).is_some() {
        std::thread::spawn(|| {
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            end();
        });
    }
}

/// Whether hang-ups are ignored, as under `nohup`: a run that is to outlive its terminal. The handler of Ctrl-C would
/// take a hang-up for Ctrl-C and end it, so such a run has none and `kill` ends it at its last checkpoint.
fn hang_ups_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // A mask in hex; SIGHUP is signal 1, its lowest bit.
    ignored.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1))
}
