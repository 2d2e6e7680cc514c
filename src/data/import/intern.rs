/*! Maps keys to dense ids in order of first appearance, compactly: all key bytes in one buffer, one offset per key, and
an open-addressing table of 8-byte slots (32 bits of hash to avoid most key comparisons, 32 bits of id). A distinct key
takes about 24 bytes plus its length, where a `HashMap<String, u32>` takes about 80.
*/

use std::hash::Hasher;

use rustc_hash::FxHasher;

use crate::base::{Error, Result};

/// Ids are u32; the highest 256 are reserved for special tokens ([PAD], [MASK], …).
pub(crate) const MAX_IDS: u64 = u32::MAX as u64 - 255;

/// The hash of a key for [`Interner::intern`]; parsers compute it in parallel.
#[inline]
pub(crate) fn hash_key(key: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(key);
    hasher.finish()
}

/// The id of the `count`-th distinct key (from 0), or an error if ids exceed u32.
pub(crate) fn next_id(count: u64, what: &str) -> Result<u32> {
    if count >= MAX_IDS {
        return Err(Error::user(format!("more than {MAX_IDS} distinct {what}s: ids are 32-bit"))
            .hint("split the log, or leave rare keys out before importing"));
    }
    Ok(count as u32)
}

pub(crate) struct Interner {
    /// What the keys are, for messages: `user` or `item`.
    what: &'static str,
    bytes: Vec<u8>,
    /// `ends[id]`: end of key `id` in `bytes`.
    ends: Vec<u64>,
    /// `tag << 32 | id + 1`, 0 = free; the length is a power of two, at most 5/8 are used.
    slots: Vec<u64>,
}

impl Interner {
    pub fn new(what: &'static str) -> Self {
        Interner { what, bytes: Vec::new(), ends: Vec::new(), slots: vec![0; 1024] }
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    #[inline]
    pub fn key(&self, id: usize) -> &[u8] {
        let start = if id == 0 { 0 } else { self.ends[id - 1] as usize };
        &self.bytes[start..self.ends[id] as usize]
    }

    /// Bytes of memory used.
    pub fn memory(&self) -> u64 {
        (self.bytes.capacity() + 8 * self.ends.capacity() + 8 * self.slots.len()) as u64
    }

    /// The id of a key; new keys get the next id.
    #[inline]
    pub fn intern(&mut self, key: &[u8], hash: u64) -> Result<u32> {
        let (mask, tag) = (self.slots.len() - 1, hash & 0xffff_ffff_0000_0000);
        let mut at = Self::home(hash) & mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return self.insert(key, hash, at);
            }
            if slot & 0xffff_ffff_0000_0000 == tag {
                let id = (slot as u32 - 1) as usize;
                if self.key(id) == key {
                    return Ok(id as u32);
                }
            }
            at = (at + 1) & mask;
        }
    }

    /// The id of a key, if it exists.
    pub fn find(&self, key: &[u8]) -> Option<u32> {
        let (mask, hash) = (self.slots.len() - 1, hash_key(key));
        let mut at = Self::home(hash) & mask;
        while self.slots[at] != 0 {
            let id = self.slots[at] as u32 - 1;
            if self.key(id as usize) == key {
                return Some(id);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// Writes the ids of `n` keys, in order, to `ids`. With a table larger than the caches each lookup takes three
    /// memory accesses (slot, end, key); processing a batch in rounds overlaps their latencies.
    pub fn intern_all<'k>(
        &mut self,
        n: usize,
        key: impl Fn(usize) -> (&'k [u8], u64),
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        const BATCH: usize = 32;
        ids.clear();
        for start in (0..n).step_by(BATCH) {
            let batch = BATCH.min(n - start);
            let (mut slots, mut places) = ([0u64; BATCH], [(0usize, 0usize); BATCH]);
            let mask = self.slots.len() - 1;
            for (i, slot) in slots[..batch].iter_mut().enumerate() {
                let hash = key(start + i).1;
                let mut at = Self::home(hash) & mask;
                *slot = self.slots[at];
                // Neighbouring slots are in the same cache line, so probing on is almost free.
                while *slot != 0 && (*slot ^ hash) >> 32 != 0 {
                    at = (at + 1) & mask;
                    *slot = self.slots[at];
                }
            }
            for i in 0..batch {
                if slots[i] != 0 {
                    let id = (slots[i] as u32 - 1) as usize;
                    places[i] = (if id == 0 { 0 } else { self.ends[id - 1] as usize }, self.ends[id] as usize);
                }
            }
            for i in 0..batch {
                let (key, hash) = key(start + i);
                // Values read from slots stay valid while keys are added: ids and keys never change. New keys, and the
                // rare keys with equal tags, take the slow path.
                let hit = slots[i] != 0 && &self.bytes[places[i].0..places[i].1] == key;
                ids.push(if hit { slots[i] as u32 - 1 } else { self.intern(key, hash)? });
            }
        }
        Ok(())
    }

    /// The tag takes the high bits, so the slot index uses low bits, mixed with high ones.
    #[inline]
    fn home(hash: u64) -> usize {
        (hash ^ (hash >> 29)) as usize
    }

    #[cold]
    fn insert(&mut self, key: &[u8], hash: u64, at: usize) -> Result<u32> {
        let id = next_id(self.ends.len() as u64, self.what)?;
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len() as u64);
        self.slots[at] = hash & 0xffff_ffff_0000_0000 | (id as u64 + 1);
        if self.ends.len() * 8 > self.slots.len() * 5 {
            self.grow();
        }
        Ok(id)
    }

    fn grow(&mut self) {
        let mut slots = vec![0u64; self.slots.len() * 2];
        let mask = slots.len() - 1;
        for id in 0..self.len() {
            let hash = hash_key(self.key(id));
            let mut at = Self::home(hash) & mask;
            while slots[at] != 0 {
                at = (at + 1) & mask;
            }
            slots[at] = hash & 0xffff_ffff_0000_0000 | (id as u64 + 1);
        }
        self.slots = slots;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_first_appearance_like_a_plain_map() {
        let mut interner = Interner::new("user");
        let mut plain = std::collections::HashMap::new();
        // Miri is too slow for all rows; 2,000 also make the table grow.
        let (rows, distinct) = if cfg!(miri) { (2000u64, 1511) } else { (50_000, 30_011) };
        for i in 0..rows {
            let key = (i * i % distinct).to_string();
            let next = plain.len() as u32;
            let expected = *plain.entry(key.clone()).or_insert(next);
            assert_eq!(interner.intern(key.as_bytes(), hash_key(key.as_bytes())).unwrap(), expected);
        }
        assert_eq!(interner.len(), plain.len());
        for (key, id) in plain {
            assert_eq!(interner.key(id as usize), key.as_bytes());
            assert_eq!(interner.find(key.as_bytes()), Some(id));
        }
        assert_eq!(interner.find(b"-1"), None);
    }

    #[test]
    fn batches_give_the_ids_that_single_keys_get() {
        let keys: Vec<Vec<u8>> =
            (0..if cfg!(miri) { 300 } else { 5000u64 }).map(|i| (i * i % 1201).to_string().into_bytes()).collect();
        let (mut one, mut all, mut ids) = (Interner::new("user"), Interner::new("user"), Vec::new());
        for part in keys.chunks(77) {
            all.intern_all(part.len(), |i| (&part[i], hash_key(&part[i])), &mut ids).unwrap();
            let expected: Vec<u32> = part.iter().map(|k| one.intern(k, hash_key(k)).unwrap()).collect();
            assert_eq!(ids, expected);
        }
    }

    #[test]
    fn equal_hashes_are_told_apart_by_their_keys() {
        let mut interner = Interner::new("item");
        let ids: Vec<u32> = (0..100).map(|i| interner.intern(format!("k{i}").as_bytes(), 42).unwrap()).collect();
        assert_eq!(ids, (0..100).collect::<Vec<_>>());
        assert_eq!(interner.intern(b"k99", 42).unwrap(), 99);
    }

    #[test]
    fn ids_beyond_u32_are_refused() {
        assert_eq!(next_id(MAX_IDS - 1, "user").unwrap(), u32::MAX - 256);
        let refused = next_id(MAX_IDS, "item").unwrap_err();
        assert!(refused.what.contains("distinct items: ids are 32-bit"), "{refused}");
    }
}
