//! The range of a single setting.

use std::ops::{Bound, RangeBounds};

use crate::base::{Error, Result};

/// Drop probabilities are rounded to multiples of 1/65536. From this one on, they round to 1 and would drop everything.
pub(super) const DROP_ALL: f32 = 1.0 - 1.0 / 65536.0;

/// Checks that a setting lies in its range.
///
/// # Errors
/// It does not, or is not a number.
pub(super) fn in_range<T: PartialOrd + std::fmt::Display>(
    name: &str,
    x: &T,
    range: &impl RangeBounds<T>,
) -> Result<()> {
    if range.contains(x) {
        return Ok(());
    }
    let name = name.replace('_', "-");
    let hint = match (range.start_bound(), range.end_bound()) {
        (Bound::Included(least), Bound::Excluded(most)) if most.to_string() == "inf" => {
            format!("--{name} must be a finite number of at least {least}")
        }
        (Bound::Included(least), Bound::Excluded(most)) => {
            format!("--{name} must be at least {least} and below {most}")
        }
        (Bound::Included(least), Bound::Included(most)) => format!("--{name} must be between {least} and {most}"),
        (Bound::Included(least), Bound::Unbounded) => format!("--{name} must be at least {least}"),
        (_, Bound::Included(most)) => format!("--{name} must be at most {most}"),
        _ => String::new(),
    };
    Err(Error::user(format!("--{name} {x} is out of range")).hint(hint))
}
