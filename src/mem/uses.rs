//! The accesses of an op to its spans, and the proof that all of them can be borrowed at once.

use super::span::RawSpan;

/// The access of an op to a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read.
    Read,
    /// Overwritten regardless of its old value.
    Write,
    /// Added to.
    Accumulate,
    /// Read and rewritten in place (optimiser state).
    Update,
}

/// The spans of one op. Written spans overlap neither each other nor read ones. Only [`Uses::of`] creates a value, so
/// holding one is the proof.
#[derive(Clone, Copy, Debug)]
pub struct Uses {
    list: [(Access, RawSpan); Uses::MOST],
    len: usize,
}

impl Uses {
    /// Largest number of spans of an op. [`super::Lent`] marks each with a bit of a `u32`.
    const MOST: usize = 24;

    /// Collects the spans that `walk` visits.
    ///
    /// # Errors
    /// A written span overlaps another one, or there are too many spans.
    pub fn of(walk: impl FnOnce(&mut dyn FnMut(Access, RawSpan))) -> Result<Uses, String> {
        let mut uses = Uses { list: [(Access::Read, RawSpan::NOWHERE); Uses::MOST], len: 0 };
        walk(&mut |access, span| {
            if let Some(place) = uses.list.get_mut(uses.len) {
                *place = (access, span);
            }
            uses.len += 1;
        });
        if uses.len > Uses::MOST {
            return Err(format!("has {} spans, at most {} are possible", uses.len, Uses::MOST));
        }
        for (i, (access, span)) in uses.iter().enumerate() {
            if access == Access::Read {
                continue;
            }
            if let Some((_, (_, other))) = uses.iter().enumerate().find(|(j, (_, s))| *j != i && span.overlaps(s)) {
                return Err(format!("writes {span:?}, which overlaps {other:?}"));
            }
        }
        Ok(uses)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Access, RawSpan)> + '_ {
        self.list[..self.len].iter().copied()
    }

    /// Returns the index of a span that contains all of `span` and is written (or, without `written`, read).
    pub(super) fn find(&self, span: RawSpan, written: bool) -> Option<usize> {
        self.iter().position(|(access, whole)| (access != Access::Read) == written && whole.contains(&span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Arena, Planner};

    fn of(list: &[(Access, RawSpan)]) -> Result<Uses, String> {
        Uses::of(|visit| list.iter().for_each(|(access, span)| visit(*access, *span)))
    }

    /// Compares every pair of pieces of a small arena with the definition: a common element.
    #[test]
    fn overlaps_are_found_wherever_they_begin() {
        let mut p = Planner::new();
        let whole = p.act(16);
        let other = p.stat(16);
        let pieces: Vec<(usize, usize)> = (0..6).flat_map(|at| (0..4).map(move |len| (at, len))).collect();
        for &(a, n) in &pieces {
            for &(b, m) in &pieces {
                let shared = (a..a + n).any(|i| (b..b + m).contains(&i));
                let (x, y) = (whole.slice(a, n).raw(), whole.slice(b, m).raw());
                assert_eq!(of(&[(Access::Write, x), (Access::Read, y)]).is_err(), shared, "{x:?} {y:?}");
                assert_eq!(of(&[(Access::Read, x), (Access::Accumulate, y)]).is_err(), shared);
                assert_eq!(of(&[(Access::Update, x), (Access::Write, y)]).is_err(), shared);
                assert!(of(&[(Access::Read, x), (Access::Read, y)]).is_ok(), "sources may be the same");
                assert!(of(&[(Access::Write, x), (Access::Write, other.slice(b, m).raw())]).is_ok(), "two arenas");
                let inside = m == 0 || (b >= a && b + m <= a + n);
                assert_eq!(x.contains(&y) || m == 0, inside, "{x:?} {y:?}");
            }
        }
    }

    #[test]
    fn more_spans_than_there_is_room_for_are_an_error() {
        let mut p = Planner::new();
        let list: Vec<_> = (0..25).map(|_| (Access::Write, p.act(1).raw())).collect();
        assert!(of(&list[..24]).is_ok());
        assert!(of(&list).unwrap_err().contains("25 spans"));
        assert_eq!(RawSpan::NOWHERE.arena(), Arena::Index);
    }
}
