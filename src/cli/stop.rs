//! Handling of Ctrl-C, SIGTERM and SIGHUP: the first signal requests an orderly end, a later one ends the program at
//! once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use super::printer::{self, Printer};
use crate::{base::Error, experiment::jobs::ENDS_WITH_PARENT};

/// Signals within this time after the first one count as the same request. `timeout` signals its child and then the
/// child's process group, and a terminal sends Ctrl-C to all foreground processes while a parent may forward it.
const SAME_REQUEST: Duration = Duration::from_secs(2);

/// Installs the handler. The first signal calls `stop` and prints `then`, which describes what happens next. A signal
/// later than [`SAME_REQUEST`] prints `lost`, which describes what is lost, and ends the program. An ignored SIGHUP, as
/// under `nohup`, stays ignored, so that the run outlives its terminal.
pub(crate) fn on_signal(
    printer: Printer,
    then: &'static str,
    stop: impl Fn() + Send + 'static,
    lost: impl Fn() -> Error + Send + 'static,
) {
    let mut handled = vec![SIGINT, SIGTERM];
    handled.extend((!hang_ups_ignored()).then_some(SIGHUP));
    // Without a handler, a signal still ends the program, and the last checkpoint remains.
    let Ok(mut signals) = Signals::new(handled) else { return };
    let mut first: Option<Instant> = None;
    let mut handle = move || match first {
        None => {
            first = Some(Instant::now());
            stop();
            let seconds = SAME_REQUEST.as_secs();
            printer.say(format_args!("stopping: {then}; press Ctrl-C again after {seconds} seconds to end at once"));
        }
        Some(at) if at.elapsed() < SAME_REQUEST => {}
        Some(_) => std::process::exit(printer::report(&lost()).into()),
    };
    std::thread::spawn(move || signals.forever().for_each(|_| handle()));
}

/// Installs [`on_signal`] and returns a flag that the first signal sets.
pub(crate) fn flag_on_signal(
    printer: Printer,
    then: &'static str,
    lost: impl Fn() -> Error + Send + 'static,
) -> Arc<AtomicBool> {
    let stopped = Arc::new(AtomicBool::new(false));
    let flag = stopped.clone();
    on_signal(printer, then, move || flag.store(true, Ordering::Relaxed), lost);
    stopped
}

/// Installs [`on_signal`] for commands that create data sets. They check the returned flag between blocks and leave no
/// files behind.
pub(crate) fn cancel_on_signal(printer: Printer) -> Arc<AtomicBool> {
    flag_on_signal(printer, "the incomplete data set is removed", || {
        Error::user("ended at once: no data set was created")
            .hint("a folder .NAME.importing-PID may remain next to the output; it can be deleted")
    })
}

/// Calls `end` in a process of an experiment when the experiment ends for any reason. Its standard input is closed
/// then.
pub(crate) fn end_with_parent(end: impl FnOnce() + Send + 'static) {
    if std::env::var_os(ENDS_WITH_PARENT).is_some() {
        std::thread::spawn(|| {
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            end();
        });
    }
}

/// Returns whether SIGHUP is ignored.
fn hang_ups_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // A hexadecimal mask; SIGHUP is signal 1, the lowest bit.
    ignored.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1))
}
