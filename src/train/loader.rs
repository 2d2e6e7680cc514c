//! The training users of a run, their order, and the loading of batches into the engine.

use super::{engine::Engine, schedule::Schedule, settings::Settings};
use crate::{
    base::{
        Error, Result,
        rng::{Purpose, Stream},
    },
    data::{
        Dataset,
        split::{Split, TrainPart},
    },
    ops::Backend,
    tasks::{Pairs, Sequence},
};

/// The training users of a data set and their parts of it.
pub struct BatchLoader<'a> {
    data: &'a Dataset,
    train: TrainPart<'a>,
    /// Users with something to train on.
    users: Vec<u32>,
    /// Basket pairs, if the task learns from baskets.
    pairs: Option<Pairs<'a>>,
    /// Whether the task learns ratings.
    rated: bool,
    /// Whether the data are on the device.
    held: bool,
    batch: usize,
    seed: u64,
}

impl<'a> BatchLoader<'a> {
    /// # Errors
    /// No user has enough training data for the task.
    pub fn new(s: &Settings, data: &'a Dataset, split: &'a Split) -> Result<Self> {
        let (train, asks) = (split.train(), s.find()?.1);
        let mut loader = BatchLoader {
            data,
            train,
            users: Vec::new(),
            pairs: None,
            rated: asks.rated,
            held: false,
            batch: s.batch,
            seed: s.seed,
        };
        if asks.baskets {
            split.spec().check_whole_baskets()?;
            let pairs = Pairs::new(data, train, s.seed);
            if pairs.users().is_empty() {
                return Err(Error::user("no user has two baskets to train on").hint(
                    "a user whose last two baskets are held out needs four in all; --split time may hold out less",
                ));
            }
            loader.users = pairs.users().to_vec();
            loader.pairs = Some(pairs);
            return Ok(loader);
        }
        loader.users = (0..data.users() as u32).filter(|u| train.len_of(*u as usize) >= asks.shortest).collect();
        if loader.users.is_empty() {
            return Err(Error::user(format!(
                "no user has {} events to train on, which {} needs",
                asks.shortest, s.task
            ))
            .hint("the split holds out too many events, or all histories are too short"));
        }
        Ok(loader)
    }

    /// Copies the data to the device's own memory, if there is room.
    ///
    /// # Errors
    /// The data are damaged, or the device fails.
    pub fn hold<B: Backend>(&mut self, engine: &mut Engine<B>) -> Result<()> {
        let data = self.data;
        let pieces = data.all_items().map(|items| data.check_items(items).map(|()| items));
        self.held = engine.hold(data.interactions(), pieces)?;
        Ok(())
    }

    /// Whether the data are on the device.
    pub fn held(&self) -> bool {
        self.held
    }

    /// Users with something to train on.
    pub fn users(&self) -> &[u32] {
        &self.users
    }

    /// Steps per epoch.
    pub fn steps(&self) -> u64 {
        self.users.len().div_ceil(self.batch) as u64
    }

    /// The learning-rate schedule of a run.
    pub fn schedule(&self, s: &Settings) -> Schedule {
        let total = self.steps() * s.epochs as u64;
        // In a small run, a fixed number of warm-up steps could exceed the total.
        let warmup = s.warmup.min(total / 10);
        Schedule { peak: s.lr, warmup, total, end: s.final_lr, decay: s.decay }
    }

    /// Returns the users in the order of epoch `epoch` (from 1).
    pub fn order(&self, epoch: u32) -> Vec<u32> {
        let mut order = self.users.clone();
        Stream::new(self.seed, Purpose::Shuffle, epoch).shuffle(&mut order);
        order
    }

    /// Loads these users as the engine's next batch.
    ///
    /// # Errors
    /// The data are damaged, or are not those that were opened.
    pub fn fill<B: Backend>(&self, engine: &mut Engine<B>, epoch: u32, users: &[u32]) -> Result<()> {
        // Data on the device cannot have changed.
        if !self.held {
            self.data.unchanged()?;
        }
        engine.begin(epoch);
        for user in users {
            engine.push(*user as u64, self.sequence(epoch, *user)?);
        }
        Ok(())
    }

    /// Returns the part of a user's training data that an epoch learns from.
    fn sequence(&self, epoch: u32, user: u32) -> Result<Sequence<'a>> {
        let (data, u) = (self.data, user as usize);
        if let Some(pairs) = &self.pairs {
            return pairs.draw(epoch, user);
        }
        if self.held {
            return Ok(Sequence::Held { first: data.place_of(u) as u32, len: self.train.len_of(u) });
        }
        let items = self.train.items(data, u);
        data.check_items(items)?;
        Ok(match data.ratings_of(u).filter(|_| self.rated) {
            Some(ratings) => Sequence::Rated { items, ratings: &ratings[..items.len()] },
            None => Sequence::Items(items),
        })
    }
}
