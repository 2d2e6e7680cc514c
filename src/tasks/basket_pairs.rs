//! Pairs of baskets drawn from a dataset: the training examples of [`NextBasket`](super::NextBasket).

use std::ops::Range;

use super::Sequence;
use crate::{
    base::{
        Result,
        rng::{Purpose, Stream},
    },
    data::{Dataset, split::TrainPart},
    ops::mask_items::DRAWS,
};

/// Draws one pair per user and epoch: a basket of the training part and, with probability 1/2, the basket after it,
/// otherwise a basket of another user. A pair depends only on seed, epoch and user.
pub struct Pairs<'a> {
    data: &'a Dataset,
    train: TrainPart<'a>,
    users: Vec<u32>,
    seed: u64,
}

impl<'a> Pairs<'a> {
    pub fn new(data: &'a Dataset, train: TrainPart<'a>, seed: u64) -> Self {
        let pairs = Pairs { data, train, users: Vec::new(), seed };
        let two = |user: &u32| pairs.baskets(*user).nth(1).is_some();
        let users = (0..data.users() as u32).filter(two).collect();
        Pairs { users, ..pairs }
    }

    /// Returns the users with at least two baskets in the training part, ascending: they are trained on and provide the
    /// other users' second baskets.
    pub fn users(&self) -> &[u32] {
        &self.users
    }

    fn baskets(&self, user: u32) -> impl Iterator<Item = Range<usize>> + use<'a> {
        self.data.baskets_before(user as usize, self.train.len_of(user as usize))
    }

    /// Draws the pair of one of the [`users`](Self::users).
    ///
    /// # Errors
    /// An interaction has an invalid item: the files are corrupted.
    pub fn draw(&self, epoch: u32, user: u32) -> Result<Sequence<'a>> {
        let mut draw = Stream::new(self.seed, Purpose::Basket, epoch).at(user as u64 * DRAWS);
        let mine: Vec<Range<usize>> = self.baskets(user).collect();
        let at = draw.below(mine.len() as u64 - 1) as usize;
        let next = draw.uniform() < 0.5;
        let others = self.users.len() as u64 - 1;
        let (whose, basket) = if next || others == 0 {
            (user, mine[at + 1].clone())
        } else {
            // Any user but this one: indices from this user's on are shifted by one.
            let k = draw.below(others) as usize;
            let whose = self.users[k + usize::from(self.users[k] >= user)];
            let baskets: Vec<Range<usize>> = self.baskets(whose).collect();
            (whose, baskets[draw.below(baskets.len() as u64) as usize].clone())
        };
        let first = &self.data.items_of(user as usize)[mine[at].clone()];
        let second = &self.data.items_of(whose as usize)[basket];
        self.data.check_items(first)?;
        self.data.check_items(second)?;
        Ok(Sequence::Baskets { first, second, next: whose == user })
    }
}
