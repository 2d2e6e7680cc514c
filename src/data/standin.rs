//! Stand-in for the real `Dataset` and `Vocab` until they are merged; to be dropped then.

use std::{collections::HashMap, path::Path};

use crate::base::{Error, Result};

#[derive(Clone, Debug, Default)]
pub struct Vocab {
    keys: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Vocab {
    pub fn from_keys<I: IntoIterator<Item: AsRef<str>>>(keys: I) -> Vocab {
        let mut v = Vocab::default();
        for key in keys {
            v.id(key.as_ref());
        }
        v
    }
    fn id(&mut self, key: &str) -> u32 {
        if let Some(&id) = self.ids.get(key) {
            return id;
        }
        self.keys.push(key.to_owned());
        self.ids.insert(key.to_owned(), self.keys.len() as u32 - 1);
        self.keys.len() as u32 - 1
    }
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.keys.len()
    }
    pub fn key(&self, id: usize) -> &str {
        &self.keys[id]
    }
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|k| k.as_str())
    }
    pub fn find(&self, key: &str) -> Option<u32> {
        self.ids.get(key).copied()
    }
}

pub struct Dataset {
    sequences: Vec<Vec<u32>>,
    times: Option<Vec<Vec<i64>>>,
    users: Vocab,
    items: Vocab,
    counts: Vec<u32>,
    print: String,
}

impl Dataset {
    pub fn open(dir: &Path) -> Result<Dataset> {
        Err(Error::user(format!("{}: no such data", dir.display())))
    }
    /// (user, item, time) in input order.
    pub fn from_log(log: &[(String, String, Option<i64>)]) -> Dataset {
        let (mut users, mut items) = (Vocab::default(), Vocab::default());
        let mut rows: Vec<Vec<(i64, u32)>> = Vec::new();
        for (u, i, t) in log {
            let (u, i) = (users.id(u) as usize, items.id(i));
            if rows.len() <= u {
                rows.resize(u + 1, Vec::new());
            }
            rows[u].push((t.unwrap_or(0), i));
        }
        let mut counts = vec![0; items.len()];
        for r in &mut rows {
            r.sort_by_key(|e| e.0);
            r.iter().for_each(|e| counts[e.1 as usize] += 1);
        }
        let timed = log.iter().all(|e| e.2.is_some());
        Dataset {
            sequences: rows.iter().map(|r| r.iter().map(|e| e.1).collect()).collect(),
            times: timed.then(|| rows.iter().map(|r| r.iter().map(|e| e.0).collect()).collect()),
            print: format!("{}-{}-{}", users.len(), items.len(), log.len()),
            users,
            items,
            counts,
        }
    }
    pub fn users(&self) -> usize {
        self.sequences.len()
    }
    pub fn items(&self) -> usize {
        self.items.len()
    }
    pub fn items_of(&self, user: usize) -> &[u32] {
        &self.sequences[user]
    }
    pub fn times_of(&self, user: usize) -> Option<&[i64]> {
        self.times.as_ref().map(|t| &t[user][..])
    }
    pub fn interactions(&self) -> u64 {
        self.sequences.iter().map(|s| s.len() as u64).sum()
    }
    pub fn ticks_per_second(&self) -> Option<i64> {
        self.times.as_ref().map(|_| 1)
    }
    pub fn user_keys(&self) -> &Vocab {
        &self.users
    }
    pub fn item_keys(&self) -> &Vocab {
        &self.items
    }
    pub fn item_counts(&self) -> &[u32] {
        &self.counts
    }
    pub fn fingerprint(&self) -> &str {
        &self.print
    }
}

pub fn digits(n: u64) -> String {
    let plain = n.to_string();
    let mut text = String::new();
    for (i, digit) in plain.chars().enumerate() {
        if i > 0 && (plain.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl Vocab {
    pub fn open(_: &Path) -> Result<Vocab> {
        unimplemented!()
    }
    pub fn save(&self, _: &Path) -> Result<()> {
        Ok(())
    }
    pub fn fingerprint(&self) -> String {
        "x".into()
    }
}
