//! The sizes at which ops are timed: training steps of models. An op is timed because a model runs it, with the memory
//! and the values that it has there. A new model needs a line in [`all`]; a new op needs nothing.

use crate::{
    base::{
        Error, Result,
        rng::{Purpose, Stream},
    },
    eval::{Encoder, Fault, Query, Question},
    layers::{DataSummary, RatingScale},
    mem::Planner,
    ops::{Backend, BagLists},
    tasks::{LossKind, SamplerKind, Sequence},
    train::{Engine, Freeze, Patching, Settings, TableUpdate},
};

/// A model and its sizes.
#[derive(Clone, Debug)]
pub struct BenchShape {
    pub name: String,
    pub settings: Settings,
    /// Items of the catalogue (V).
    pub items: usize,
}

/// Returns the shapes that are timed by default. Losses, samplers and side inputs are distributed over the models, so
/// that every op occurs in one.
pub fn all() -> Vec<BenchShape> {
    // The sizes of MovieLens-1M.
    let base = Settings { width: 64, heads: 2, length: 200, batch: 64, mask_last: 0.0, ..Settings::default() };
    let short = Settings { length: 50, ..base.clone() };
    let of = |model: &str, s: &Settings| Settings { model: model.into(), ..s.clone() };
    let task = |task: &str, s: Settings| Settings { task: task.into(), ..s };
    let negatives = |s: Settings| Settings { loss: LossKind::SampledSoftmax, negatives: 1024, ..s };
    let rows = |s: Settings| Settings { table_update: TableUpdate::Rows, ..s };
    let mut all = Vec::new();
    let mut add = |name: &str, items: usize, settings: Settings| {
        all.push(BenchShape { name: name.into(), settings, items });
    };
    add("bert4rec-d64", 3706, base.clone());
    add("bert4rec-d128", 3706, Settings { width: 128, heads: 4, projection: true, ..base.clone() });
    add("bert4rec-d256", 26_744, Settings { width: 256, heads: 4, ..base.clone() });
    add("bert4rec-sampled", 200_000, rows(Settings { exclude_seen: true, ..negatives(short.clone()) }));
    let popular = Settings { sampler: SamplerKind::Popularity, exclude_seen: true, ..short.clone() };
    add("sasrec-gbce", 26_744, Settings { loss: LossKind::Gbce, negatives: 256, ..of("sasrec", &popular) });
    let own = Settings { per_position: true, attention_dropout: 0.1, ..negatives(of("sasrec", &short)) };
    add("sasrec-own-negatives", 26_744, Settings { negatives: 128, ..own });
    let in_batch = Settings { sampler: SamplerKind::InBatch, ..negatives(of("gru4rec", &short)) };
    add("gru4rec-in-batch", 3706, in_batch);
    add("nextitnet-d64", 3706, task("next-item", of("peterrec", &short)));
    add("nextitnet-d256", 3706, task("next-item", Settings { width: 256, blocks: 8, ..of("peterrec", &short) }));
    let patched = Settings { patch: Patching::Serial, freeze: Freeze::NETWORK, ..of("peterrec", &short) };
    add("peterrec-patches", 3706, patched);
    add("caser-d64", 3706, Settings { user_width: 32, ..of("caser", &short) });
    let sides = Settings { fields: "all".into(), user_width: 32, ..base.clone() };
    add("bert4rec-sides", 3706, sides);
    add("bert4rec-baskets", 3706, task("next-basket", short.clone()));
    add("bert4rec-rating", 3706, task("rating", base.clone()));
    add("dacf-d256", 3706, Settings { width: 256, ..of("dacf", &base) });
    add("mlp-d64", 3706, Settings { user_width: 32, ..of("mlp", &short) });
    all
}

/// Returns the shapes with these names.
///
/// # Errors
/// A name is unknown.
pub fn named(names: &[&str]) -> Result<Vec<BenchShape>> {
    let all = all();
    let find = |name: &&str| {
        all.iter().find(|s| s.name == *name).cloned().ok_or_else(|| {
            let known: Vec<&str> = all.iter().map(|s| s.name.as_str()).collect();
            Error::user(format!("there is no shape '{name}'")).hint(format!("shapes: {}", known.join(", ")))
        })
    };
    names.iter().map(find).collect()
}

/// Synthetic data of a shape: item popularity follows Zipf's law.
pub struct Data {
    summary: DataSummary,
    /// The users of one batch, oldest item first.
    users: Vec<Vec<u32>>,
    ratings: Vec<f32>,
    /// Items that targets are ranked among, one list per user.
    among: Vec<[Vec<u32>; 1]>,
}

/// The rating levels.
const LEVELS: [f32; 5] = [1.0, 2.0, 3.0, 4.0, 5.0];

impl BenchShape {
    /// Returns the same model and loss at the smallest sizes, for tests.
    pub fn shrunk(mut self) -> BenchShape {
        let s = &mut self.settings;
        *s = Settings { width: 16, heads: 2, blocks: s.blocks.min(2), length: 12, batch: 4, ..s.clone() };
        s.negatives = s.negatives.min(20);
        self.items = 97;
        self
    }

    /// Generates the data of the shape.
    ///
    /// # Errors
    /// The side fields cannot be laid out.
    pub fn data(&self) -> Result<Data> {
        let (v, s) = (self.items, &self.settings);
        let mut draw = Stream::new(1, Purpose::Test, 0);
        let mut item = || ((draw.uniform() as f64 * (v as f64).ln()).exp() as u32).min(v as u32 - 1);
        let users: Vec<Vec<u32>> = (0..s.batch).map(|_| (0..s.length).map(|_| item()).collect()).collect();
        let among = (0..s.batch).map(|_| [(0..100).map(|_| item()).collect()]).collect();
        let counts = (0..v as u64).map(|i| 1 + 1_000_000 / (i + 1)).collect();
        // Genres: one to three of eighteen. Makers: one of many.
        let (genres, makers): (Vec<u32>, Vec<u32>) = ((0..18).collect(), (0..v as u32 / 3 + 1).collect());
        let of = |item: usize, field: usize| match field {
            0 => &genres[item % 16..][..1 + item % 3],
            _ => &makers[item / 3..][..1],
        };
        let fields = match s.field_names().is_empty() {
            true => BagLists::default(),
            false => BagLists::new(v, &[genres.len(), makers.len()], of)?,
        };
        let users_known = if s.user_width > 0 { 10 * s.batch } else { 0 };
        let scale = RatingScale { levels: LEVELS.into(), mean: 3.5 };
        let summary = DataSummary { counts, users: users_known, fields, ratings: s.find()?.1.rated.then_some(scale) };
        Ok(Data { summary, users, ratings: LEVELS.iter().copied().cycle().take(s.length).collect(), among })
    }
}

impl Data {
    /// Builds the shape's model on a backend, with its data placed as in a run. The flag states whether the device
    /// holds the data.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn engine<B: Backend>(
        &self,
        shape: &BenchShape,
        open: impl Fn(&Planner) -> Result<B>,
    ) -> Result<(Engine<B>, bool)> {
        let mut engine = Engine::new(&shape.settings, self.summary.clone(), open)?;
        let all = self.users.iter().map(Vec::len).sum::<usize>() as u64;
        let held = engine.hold(all, self.users.iter().map(|u| Ok(&u[..])))?;
        Ok((engine, held))
    }

    /// Puts a batch of full sequences into the engine. `held`: the device holds the data.
    pub fn push<B: Backend>(&self, engine: &mut Engine<B>, held: bool, epoch: u32) {
        engine.begin(epoch);
        let task = engine.task();
        let mut first = 0;
        for (user, items) in self.users.iter().enumerate() {
            let len = items.len();
            // [CLS] and [SEP] occupy two positions.
            let (a, b) = items[..len.saturating_sub(2).max(2)].split_at(len.saturating_sub(2).max(2) / 2);
            let sequence = match task {
                t if t.rated => Sequence::Rated { items, ratings: &self.ratings[..len] },
                t if t.baskets => Sequence::Baskets { first: a, second: b, next: user % 2 == 0 },
                _ if held => Sequence::Held { first, len },
                _ => Sequence::Items(items),
            };
            engine.push(user as u64, sequence);
            first += len as u32;
        }
    }

    /// Runs the queries of a validation and a recommendation: a batch of users, ten items each.
    ///
    /// # Errors
    /// The device fails.
    pub fn ask<B: Backend>(&self, engine: &mut Engine<B>) -> Result<()> {
        let last = |items: &[u32]| items.len() - 1;
        if engine.task().rated {
            let questions: Vec<Question> = self
                .users
                .iter()
                .map(|items| {
                    let (n, item) = (last(items), items[last(items)]);
                    Question { items: &items[..n], ratings: &self.ratings[..n], user: None, item }
                })
                .collect();
            return engine.predict(&questions).map(|_| ());
        }
        let seen: Vec<Vec<u32>> = self
            .users
            .iter()
            .map(|items| {
                let (target, mut seen) = (items[last(items)], items[..last(items)].to_vec());
                seen.sort_unstable();
                seen.dedup();
                seen.retain(|item| *item != target);
                seen
            })
            .collect();
        let queries: Vec<Query> = self
            .users
            .iter()
            .zip(seen.iter().zip(&self.among))
            .map(|(items, (excluded, among))| {
                let (history, targets) = items.split_at(last(items));
                // A basket model gets the last basket alone, which includes its special tokens.
                let history = if engine.task().baskets { &history[history.len().div_ceil(2)..] } else { history };
                Query { history, user: None, excluded, targets, among }
            })
            .collect();
        let failed = |fault: Fault| fault.error(|_| String::new());
        engine.rank(&queries).map_err(failed)?;
        engine.top_k(&queries, 10.min(engine.items())).map(|_| ()).map_err(failed)
    }
}
