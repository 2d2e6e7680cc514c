//! Shared by tests of splits, evaluation and recommendation: small data sets and hand-made models.
#![allow(dead_code)] // each test binary uses its own part

use std::{ops::Range, path::PathBuf};

use mipgpu::{
    backend::Cpu,
    base::{
        Result,
        rng::{Purpose, Stream},
    },
    data::{Dataset, ImportOptions, Vocab, import, split::SplitSpec},
    eval::{Answer, Encoder, Query, Ranks, Scored},
    mem::Planner,
    ops::Backend,
    train::scoring::{Catalogue, Room, Scoring},
    train::{OpenRun, Which},
};

/// Builds a data set from (user, item, time) in input order, through a log file and its import.
pub fn dataset<U: ToString, I: ToString>(log: &[(U, I, Option<i64>)]) -> Dataset {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("log.csv"), dir.path().join("data"));
    let timed = log.iter().all(|e| e.2.is_some());
    let mut text = String::from(if timed { "user,item,timestamp\n" } else { "user,item\n" });
    for (u, i, t) in log {
        text += &format!("{},{}", u.to_string(), i.to_string());
        if timed {
            text += &format!(",{}", t.unwrap_or_default());
        }
        text.push('\n');
    }
    std::fs::write(&file, text).unwrap();
    // The columns are specified: with one column of small numbers the importer could not detect them.
    let named = |name: &str| Some(name.to_string());
    let options = ImportOptions {
        user_col: named("user"),
        item_col: named("item"),
        time_col: named(if timed { "timestamp" } else { "none" }),
        rating_col: named("none"),
        ..ImportOptions::default()
    };
    import(&[file], &out, &options, &mut |_| {}).unwrap();
    // The mapped files remain readable after the folder is deleted.
    Dataset::open(&out).unwrap()
}

/// Builds a data set from one string of items per user ("a b c", oldest first), users "u0", "u1", ...; times 0, 1, 2,
/// ...
pub fn sequences(users: &[&str]) -> Dataset {
    let mut log = Vec::new();
    for (u, items) in users.iter().enumerate() {
        for (t, item) in items.split_whitespace().enumerate() {
            log.push((format!("u{u}"), item, Some(t as i64)));
        }
    }
    dataset(&log)
}

/// Builds a random log: `users` with 1 to 40 events over `items` items of uneven popularity, times with many ties.
pub fn random_dataset(users: u32, items: u64, seed: u64) -> Dataset {
    let mut s = Stream::new(seed, Purpose::Test, 0);
    let mut log = Vec::new();
    for u in 0..users {
        for _ in 0..1 + s.below(40) {
            let item = s.below(items).min(s.below(items));
            log.push((u, format!("i{item}"), Some(1_000_000_000 + s.below(300) as i64)));
        }
    }
    dataset(&log)
}

/// A model with small whole numbers as vectors: every score is exact in f32, and many tie.
pub struct Fake {
    pub width: usize,
    pub table: Vec<f32>,
    pub bias: Vec<f32>,
    /// All histories received so far, in order.
    pub histories: Vec<Vec<u32>>,
    /// Fractions instead of whole numbers, so that no scores tie.
    pub fine: bool,
}

impl Fake {
    pub fn new(items: usize, width: usize, fine: bool) -> Fake {
        let mut s = Stream::new(11, Purpose::Test, 1);
        let mut draw = |n: usize| (0..n).map(|_| number(&mut s, fine)).collect();
        Fake { width, table: draw(items * width), bias: draw(items), histories: Vec::new(), fine }
    }

    /// Returns the vector of a history, which depends on every item and its position.
    pub fn vector(&self, history: &[u32]) -> Vec<f32> {
        let hash = history.iter().fold(17u64, |h, i| h.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(*i as u64 + 1));
        let mut s = Stream::new(hash, Purpose::Test, 2);
        (0..self.width).map(|_| number(&mut s, self.fine)).collect()
    }

    /// Returns the scores of all items, by plain loops in f64.
    pub fn scores(&self, history: &[u32]) -> Vec<f64> {
        let vector = self.vector(history);
        let score =
            |row: &[f32], b: &f32| row.iter().zip(&vector).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>() + *b as f64;
        self.table.chunks(self.width).zip(&self.bias).map(|(row, b)| score(row, b)).collect()
    }
}

fn number(s: &mut Stream, fine: bool) -> f32 {
    if fine { s.normal() } else { s.below(7) as f32 - 3.0 }
}

/// Scores `vectors` against a catalogue on a separate backend, on which `ask` runs its queries.
pub fn on_backend<B: Backend, T>(
    vectors: &[f32],
    (table, bias): (&[f32], &[f32]),
    room: Option<Room>,
    open: impl FnOnce(&Planner) -> Result<B>,
    ask: impl FnOnce(&Scoring, &mut B) -> T,
) -> T {
    let (mut p, v) = (Planner::new(), bias.len());
    let d = table.len() / v;
    let catalogue = Catalogue { h: p.act(vectors.len()), table: p.weight(v * d), bias: p.weight(v), d, v };
    let room = room.unwrap_or(Room { users: vectors.len() / d, pairs: 10_000, excluded: 10_000.max(v) });
    let scoring = Scoring::plan(&mut p, catalogue, room);
    let mut b = open(&p).unwrap();
    b.write(catalogue.h.raw(), vectors);
    b.write(catalogue.table.raw(), table);
    b.write(catalogue.bias.raw(), bias);
    ask(&scoring, &mut b)
}

impl Fake {
    /// Runs the queries on the CPU engine.
    fn answer<T>(
        &mut self,
        queries: &[Query],
        ask: impl FnOnce(&Scoring, &mut Cpu) -> Answer<Vec<T>>,
    ) -> Answer<Vec<T>> {
        let mut vectors = vec![0.0; queries.len() * self.width];
        self.encode(queries, &mut vectors)?;
        on_backend(&vectors, (&self.table, &self.bias), None, |p| Ok(Cpu::new(p)), ask)
    }
}

impl Encoder for Fake {
    fn width(&self) -> usize {
        self.width
    }
    fn items(&self) -> usize {
        self.bias.len()
    }
    fn item_vectors(&mut self, items: Range<usize>, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&self.table[items.start * self.width..items.end * self.width]);
        Ok(())
    }
    fn item_biases(&mut self, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&self.bias);
        Ok(())
    }
    fn encode(&mut self, queries: &[Query<'_>], out: &mut [f32]) -> Result<()> {
        assert_eq!(out.len(), queries.len() * self.width);
        for (query, out) in queries.iter().zip(out.chunks_mut(self.width)) {
            out.copy_from_slice(&self.vector(query.history));
            self.histories.push(query.history.to_vec());
        }
        Ok(())
    }
    fn rank(&mut self, queries: &[Query<'_>]) -> Answer<Vec<Ranks>> {
        self.answer(queries, |scoring, cpu| scoring.rank(cpu, queries))
    }
    fn top_k(&mut self, queries: &[Query<'_>], k: usize) -> Answer<Vec<Vec<Scored>>> {
        self.answer(queries, |scoring, cpu| scoring.top_k(cpu, queries, k))
    }
}

/// Opens a run of `encoder` on `data`.
pub fn run_of(encoder: Fake, data: &Dataset) -> OpenRun {
    OpenRun {
        folder: "runs/test".into(),
        which: Which::Best,
        from: None,
        ratings: None,
        name: "runs/test (best)".into(),
        encoder: Box::new(encoder),
        item_keys: Vocab::from_keys(data.item_keys().keys()),
        user_keys: None,
        data: PathBuf::from("data/test"),
        data_fingerprint: data.fingerprint().to_owned(),
        split: SplitSpec::LeaveOneOut,
        keep_seen: false,
    }
}

/// Parses flags like the command line.
pub fn flags<A: clap::Args>(words: &[&str]) -> A {
    let command = A::augment_args(clap::Command::new("test").no_binary_name(true));
    A::from_arg_matches(&command.try_get_matches_from(words).unwrap()).unwrap()
}
