//! Extracts warnings and errors from the stderr of a process. They are on stderr even with `--json`, not in events.

use crate::base::notice::{ERROR, WARNING};

/// Returns the warnings, in order.
pub(super) fn warnings_in(stderr: &str) -> impl Iterator<Item = String> {
    stderr.lines().filter_map(|line| line.strip_prefix(WARNING)).map(str::to_string)
}

/// Returns the error message in the stderr of a process, up to the end; without one, the last line.
pub(super) fn error_in(stderr: &str) -> String {
    match stderr.rfind(ERROR) {
        Some(at) => stderr[at + ERROR.len()..].trim().to_string(),
        None => stderr.trim().lines().last().unwrap_or("it ended without a message").to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_found_among_talk() {
        assert_eq!(error_in("data x\nmipgpu: error: bad\n  hint: mend it\n"), "bad\n  hint: mend it");
        assert_eq!(error_in("thread panicked\nat line 3\n"), "at line 3");
        assert_eq!(error_in(""), "it ended without a message");
    }

    #[test]
    fn warnings_are_found_among_talk() {
        let talk = format!("data x\n{WARNING}one\n  {WARNING}no line of its own\n{WARNING}two\n{ERROR}bad\n");
        assert_eq!(warnings_in(&talk).collect::<Vec<_>>(), ["one", "two"]);
    }
}
