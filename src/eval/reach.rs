//! Counts the held-out items that a ranking can hit at all, before any training.

use rayon::prelude::*;
use rustc_hash::FxHashSet;

use crate::data::{Dataset, split::HeldOut};

/// The held-out items of a part, each counted once per user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    pub items: u64,
    /// Items in the history of their user: ranked only if the history is kept.
    pub seen: u64,
    /// Of the others, those that do not occur in training.
    pub untrained: u64,
}

impl Reach {
    pub fn of(data: &Dataset, part: &dyn HeldOut) -> Reach {
        let counts = part.split().train_counts();
        let user = |user: &u32| {
            let (all, held) = (data.items_of(*user as usize), part.held_out(*user as usize));
            let mut items: FxHashSet<u32> = all[held.clone()].iter().copied().collect();
            let held_out = items.len();
            all[..held.start].iter().for_each(|item| {
                items.remove(item);
            });
            let untrained = items.iter().filter(|item| counts[**item as usize] == 0).count();
            [held_out, held_out - items.len(), untrained].map(|n| n as u64)
        };
        let add = |a: [u64; 3], b: [u64; 3]| [a[0] + b[0], a[1] + b[1], a[2] + b[2]];
        let [items, seen, untrained] = part.users().par_iter().map(user).reduce(|| [0; 3], add);
        Reach { items, seen, untrained }
    }

    /// Returns the share of the items that is in the history.
    pub fn share_seen(&self) -> f64 {
        self.seen as f64 / self.items.max(1) as f64
    }

    /// Returns the share of the items that is not in the history and does not occur in training.
    pub fn share_untrained(&self) -> f64 {
        self.untrained as f64 / self.items.max(1) as f64
    }
}
