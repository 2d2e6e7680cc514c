//! Warnings and the error of a process, from the events that it prints with `--json`.

use serde_json::Value;

use crate::base::Error;

/// What a process has said so far.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// The warnings, in order.
    pub warnings: Vec<String>,
    error: Option<Error>,
}

impl Notices {
    /// Keeps an event if it is a warning or an error.
    pub fn read(&mut self, event: &Value) {
        let text = |key: &str| event[key].as_str().map(str::to_owned);
        match event["event"].as_str() {
            Some("warning") => self.warnings.extend(text("text")),
            Some("error") => {
                self.error = text("what").map(|what| Error { hint: text("hint"), ..Error::user(what) });
            }
            _ => {}
        }
    }

    /// Returns why the process failed: its error with the hint. Without one, for example after a crash, it is the last
    /// line of its stderr.
    pub fn why(&self, stderr: &str) -> String {
        let last = || stderr.trim().lines().last().unwrap_or("it ended without a message").to_owned();
        self.error.as_ref().map_or_else(last, Error::to_string)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(events: &[Value]) -> Notices {
        let mut notices = Notices::default();
        events.iter().for_each(|event| notices.read(event));
        notices
    }

    #[test]
    fn errors_are_found_among_events() {
        let error = json!({"event": "error", "what": "bad", "hint": "mend it"});
        let told = read(&[json!({"event": "epoch", "epoch": 1}), error]);
        assert_eq!(told.why("data x\nmipgpu: error: bad\n  hint: mend it\n"), "bad\n  hint: mend it");
        assert_eq!(read(&[json!({"event": "error", "what": "bad", "hint": null})]).why(""), "bad");
    }

    #[test]
    fn without_an_error_the_last_line_is_told() {
        let told = read(&[json!({"event": "warning", "text": "one"}), json!({"event": "epoch"})]);
        assert_eq!(told.why("thread panicked\nat line 3\n"), "at line 3");
        assert_eq!(told.why(""), "it ended without a message");
    }

    #[test]
    fn warnings_are_found_among_events() {
        let warning = |text: &str| json!({"event": "warning", "text": text});
        let told = read(&[warning("one"), json!({"event": "ready", "text": "no warning"}), warning("two"), json!(3)]);
        assert_eq!(told.warnings, ["one", "two"]);
    }
}
