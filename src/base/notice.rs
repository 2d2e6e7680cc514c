//! Notices: what the library says while it works. It prints nothing; the caller shows them.

use std::fmt;

/// A message about work in progress. It displays as one text, a warning with the prefix `warning: `.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// What was found, or how far the work is.
    Info(String),
    /// What may be wrong; the work continues.
    Warning(String),
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Info(text) => write!(f, "{text}"),
            Notice::Warning(text) => write!(f, "warning: {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_says_that_it_is_one() {
        assert_eq!(Notice::Info("  2 rows read".into()).to_string(), "  2 rows read");
        assert_eq!(Notice::Warning("2 of 9 rows".into()).to_string(), "warning: 2 of 9 rows");
    }
}
