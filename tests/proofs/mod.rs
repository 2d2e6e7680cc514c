//! Shared by suites of many cases: a filter, and a report of all failures instead of only the first.
//!
//! `MIPGPU_ONLY=layer_norm cargo test --test ops` runs the cases with `layer_norm` in the name of the case or of one of
//! its operations. Unset or empty, all run.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use mipgpu::{base::Result, ops::Backend};

/// Returns a backend as the checks of ops take it.
pub fn boxed(backend: impl Backend + 'static) -> Result<Box<dyn Backend>> {
    Ok(Box::new(backend))
}

/// Returns the part of a name in the environment variable `MIPGPU_ONLY`.
pub fn filter() -> Option<String> {
    std::env::var("MIPGPU_ONLY").ok().filter(|only| !only.is_empty())
}

/// Returns whether `MIPGPU_ONLY` selects one of these names.
pub fn wanted(names: &[&str]) -> bool {
    filter().is_none_or(|only| names.iter().any(|name| name.contains(&only)))
}

/// The failures of a suite.
#[derive(Debug, Default)]
pub struct Failures {
    tried: usize,
    all: Vec<String>,
}

impl Failures {
    /// Runs one case, called `what` in the report. A panic is a failure of this case alone. A case with several faults
    /// returns one in each line.
    pub fn of(&mut self, what: &str, case: impl FnOnce() -> std::result::Result<(), String>) {
        self.tried += 1;
        match catch_unwind(AssertUnwindSafe(case)) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => self.all.push(format!("{what}: {e}")),
            Err(panic) => self.all.push(format!("{what}: panicked: {}", words(&*panic))),
        }
    }

    /// Adds those of another part of the suite.
    pub fn and(mut self, others: Failures) -> Failures {
        self.tried += others.tried;
        self.all.extend(others.all);
        self
    }

    /// Cases run so far.
    pub fn tried(&self) -> usize {
        self.tried
    }

    /// # Panics
    /// A case has failed; lists all that have.
    pub fn report(self) {
        let Failures { tried, all } = self;
        assert!(all.is_empty(), "{} of {tried} cases failed:\n{}", all.len(), all.join("\n"));
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without words")
}
