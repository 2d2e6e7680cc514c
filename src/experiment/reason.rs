//! Why a run is not done, as HTML.

use crate::page::plot::escape;

/// Joins what became of a run and why, escaped.
pub(super) fn reason(what: &str, why: &str) -> String {
    format!("{what}{}{}", if why.is_empty() { "" } else { ": " }, escape(why))
}
