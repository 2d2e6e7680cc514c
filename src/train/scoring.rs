/*! Ranks and top-k lists, computed on the model's backend with the ops of [`crate::ops::top_k`] and
[`crate::ops::rank`], for lists of any length.

The encoded vectors stay on the backend. The host receives counts, lists of k items and the scores of sampled
items, never the item table or the scores of the whole catalogue. The spans for lists are planned once, before
the first step. Users are divided into as many calls as their lists need to fit.
*/

use std::ops::Range;

use crate::{
    base::{Error, Result},
    eval::{Answer, Fault, Query, Ranks, Scored, rank::ranks_among},
    mem::{Act, F32, Planner, Span, U32},
    ops::{Backend, CountAtLeast, NO_ROW, Run, ScoreItems, TopK},
};

/// The vectors and the catalogue that they are scored against.
#[derive(Clone, Copy, Debug)]
pub struct Catalogue {
    /// (B,D) the vectors of a batch.
    pub h: Span<Act>,
    /// (V,D), possibly followed by special rows.
    pub table: Span<F32>,
    /// (V)
    pub bias: Span<F32>,
    pub d: usize,
    pub v: usize,
}

/// Capacity of one call.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Users.
    pub users: usize,
    /// Targets, sampled items or list entries, summed over the users.
    pub pairs: usize,
    /// Excluded items, summed over the users; at least the number of items, so that any single user fits.
    pub excluded: usize,
}

impl Room {
    /// The capacity for a catalogue of `v` items. It takes 12 bytes per pair and 4 per excluded item: a few MB,
    /// and 4 bytes per item above a million.
    pub fn new(users: usize, v: usize) -> Room {
        const USUAL: usize = 1 << 17;
        Room { users, pairs: v.clamp(USUAL, 8 * USUAL), excluded: v.max(USUAL) }
    }
}

/// The planned spans of [`crate::eval::Encoder::rank`] and [`crate::eval::Encoder::top_k`].
#[derive(Clone, Debug)]
pub struct Scoring {
    catalogue: Catalogue,
    room: Room,
    /// (pairs) targets or sampled items, and the start of each user's.
    id: Span<U32>,
    start: Span<U32>,
    /// (pairs) counts of the targets or items of the lists, and their scores.
    found: Span<U32>,
    score: Span<F32>,
    excluded: Span<U32>,
    excluded_start: Span<U32>,
    bad: Span<U32>,
}

/// Divides users into calls. Neither of the two total lengths of their lists may exceed its capacity, unless a
/// single user's does.
fn cut(lengths: impl Iterator<Item = [usize; 2]>, users: usize, room: [usize; 2]) -> Vec<Range<usize>> {
    let (mut ranges, mut sum) = (Vec::<Range<usize>>::new(), [0; 2]);
    for (i, [a, b]) in lengths.enumerate() {
        match ranges.last_mut() {
            Some(last) if last.len() < users && sum[0] + a <= room[0] && sum[1] + b <= room[1] => {
                last.end = i + 1;
                sum = [sum[0] + a, sum[1] + b];
            }
            _ => {
                ranges.push(i..i + 1);
                sum = [a, b];
            }
        }
    }
    ranges
}

/// Returns the lists of a call. A single list longer than the capacity is divided into several calls.
fn passes(lists: Vec<&[u32]>, room: usize) -> Vec<Vec<&[u32]>> {
    match lists[..] {
        [one] if one.len() > room => one.chunks(room).map(|part| vec![part]).collect(),
        _ => vec![lists],
    }
}

/// Writes the concatenated lists and their start positions; returns the total length.
fn upload(b: &mut dyn Backend, to: Span<U32>, start_to: Span<U32>, lists: &[&[u32]]) -> usize {
    let flat: Vec<u32> = lists.concat();
    let mut start = vec![0];
    lists.iter().for_each(|list| start.push(start[start.len() - 1] + list.len() as u32));
    b.write_ids(to, &flat);
    b.write_ids(start_to, &start);
    flat.len()
}

impl Scoring {
    pub fn plan(p: &mut Planner, catalogue: Catalogue, room: Room) -> Scoring {
        p.label("scoring");
        assert!(room.users > 0 && room.pairs > 0 && room.excluded >= catalogue.v);
        Scoring {
            catalogue,
            room,
            id: p.index(room.pairs),
            start: p.index(room.users + 1),
            found: p.index(room.pairs),
            score: p.stat(room.pairs),
            excluded: p.index(room.excluded),
            excluded_start: p.index(room.users + 1),
            bad: p.index(room.users),
        }
    }

    /// Maximum number of users per call.
    pub fn users(&self) -> usize {
        self.room.users
    }

    /// Runs the largest call of each op, for a backend that only computes memory needs.
    pub fn largest(&self, b: &mut dyn Backend) {
        let Room { users, pairs, excluded } = self.room;
        b.run(&self.count(0..users, pairs, excluded));
        b.run(&self.pairs(0..users, pairs));
        let k = 10.min(self.catalogue.v).min(pairs);
        b.run(&self.best(0..users.min(pairs / k), k, excluded));
    }

    /// The vectors of some of the batch's users.
    fn vectors(&self, users: &Range<usize>) -> Span<Act> {
        let d = self.catalogue.d;
        self.catalogue.h.slice(users.start * d, users.len() * d)
    }

    fn count(&self, users: Range<usize>, n: usize, e: usize) -> CountAtLeast {
        let Catalogue { table, bias, d, v, .. } = self.catalogue;
        CountAtLeast {
            count: self.found,
            score: self.score,
            bad: self.bad,
            h: self.vectors(&users),
            table,
            bias,
            target: self.id,
            target_start: self.start,
            excluded: self.excluded,
            excluded_start: self.excluded_start,
            b: users.len(),
            d,
            v,
            n,
            e,
        }
    }

    fn pairs(&self, users: Range<usize>, p: usize) -> ScoreItems {
        let Catalogue { table, bias, d, v, .. } = self.catalogue;
        let h = self.vectors(&users);
        ScoreItems { score: self.score, h, table, bias, item: self.id, start: self.start, b: users.len(), d, v, p }
    }

    fn best(&self, users: Range<usize>, k: usize, e: usize) -> TopK {
        let Catalogue { table, bias, d, v, .. } = self.catalogue;
        TopK {
            item: self.found,
            score: self.score,
            bad: self.bad,
            h: self.vectors(&users),
            table,
            bias,
            excluded: self.excluded,
            excluded_start: self.excluded_start,
            b: users.len(),
            d,
            v,
            k,
            e,
        }
    }

    /// Reads the results of the last call for `n` pairs. Fails if a user has a score that is NaN or infinite.
    fn read(&self, b: &mut dyn Backend, users: &Range<usize>, n: usize) -> Answer<(Vec<u32>, Vec<f32>)> {
        let (mut found, mut score, mut bad) = (vec![0; n], vec![0.0; n], vec![0; users.len()]);
        b.read_ids(self.found.first(n), &mut found);
        b.read(self.score.first(n).raw(), &mut score);
        b.read_ids(self.bad.first(users.len()), &mut bad);
        b.sync()?;
        match bad.iter().position(|item| *item != NO_ROW) {
            Some(i) => Err(Fault::NotFinite { query: users.start + i, item: bad[i] }),
            None => Ok((found, score)),
        }
    }

    /// Ranks the targets of queries whose vectors are the first rows of the batch, in order.
    ///
    /// # Errors
    /// As [`crate::eval::Encoder::rank`].
    pub fn rank(&self, b: &mut dyn Backend, queries: &[Query]) -> Answer<Vec<Ranks>> {
        let Room { users, pairs, excluded } = self.room;
        let mut ranks = Vec::with_capacity(queries.len());
        let lengths = queries.iter().map(|q| [q.targets.len(), q.excluded.len()]);
        for range in cut(lengths, users, [pairs, excluded]) {
            let queries = &queries[range.clone()];
            let lists: Vec<&[u32]> = queries.iter().map(|q| q.excluded).collect();
            let e = upload(b, self.excluded, self.excluded_start, &lists);
            let (mut counts, mut scores) = (Vec::new(), Vec::new());
            for lists in passes(queries.iter().map(|q| q.targets).collect(), pairs) {
                let n = upload(b, self.id, self.start, &lists);
                b.run(&self.count(range.clone(), n, e));
                let (count, score) = self.read(b, &range, n)?;
                counts.extend(count);
                scores.extend(score);
            }
            let (mut counts, mut scores) = (&counts[..], &scores[..]);
            let mut targets = Vec::with_capacity(range.len());
            for q in queries {
                let full = take(&mut counts, q.targets.len()).iter().map(|n| *n as usize).collect();
                ranks.push(Ranks { full, among: Vec::new() });
                targets.push(take(&mut scores, q.targets.len()));
            }
            let first = ranks.len() - range.len();
            self.rank_among(b, queries, range.start, &targets, &mut ranks[first..])?;
        }
        Ok(ranks)
    }

    /// Ranks targets with known scores among their queries' lists. `first` is the first query's row in the
    /// batch.
    fn rank_among(
        &self,
        b: &mut dyn Backend,
        queries: &[Query],
        first: usize,
        targets: &[&[f32]],
        ranks: &mut [Ranks],
    ) -> Result<()> {
        let items: Vec<Vec<u32>> = queries.iter().map(|q| q.among.concat()).collect();
        let Room { users, pairs, .. } = self.room;
        for range in cut(items.iter().map(|i| [i.len(), 0]), users, [pairs, 0]) {
            let mut scores = Vec::new();
            for lists in passes(items[range.clone()].iter().map(|i| &i[..]).collect(), pairs) {
                let n = upload(b, self.id, self.start, &lists);
                if n > 0 {
                    b.run(&self.pairs(first + range.start..first + range.end, n));
                    let from = scores.len();
                    scores.resize(from + n, 0.0);
                    b.read(self.score.first(n).raw(), &mut scores[from..]);
                }
            }
            b.sync()?;
            let mut scores = &scores[..];
            for i in range {
                let among = queries[i].among.iter();
                ranks[i].among = among.map(|l| ranks_among(targets[i], take(&mut scores, l.len()))).collect();
            }
        }
        Ok(())
    }

    /// Returns the best k candidates of queries whose vectors are the first rows of the batch, in order.
    ///
    /// # Errors
    /// As [`crate::eval::Encoder::top_k`].
    pub fn top_k(&self, b: &mut dyn Backend, queries: &[Query], k: usize) -> Answer<Vec<Vec<Scored>>> {
        let Room { users, pairs, excluded } = self.room;
        let refused = |why: String| {
            Fault::Failed(Error::user(why).hint("ask for fewer with --k; --device cpu may serve more than a GPU"))
        };
        if k > pairs {
            let e = Error::user(format!("the best {k} items: at most {pairs} are listed"));
            return Err(Fault::Failed(e.hint(format!("ask for at most {pairs} with --k"))));
        }
        let mut lists = Vec::with_capacity(queries.len());
        for range in cut(queries.iter().map(|q| [k, q.excluded.len()]), users, [pairs, excluded]) {
            let excluded: Vec<&[u32]> = queries[range.clone()].iter().map(|q| q.excluded).collect();
            let e = upload(b, self.excluded, self.excluded_start, &excluded);
            let op = self.best(range.clone(), k, e);
            // The memory reserved in advance was for a short list.
            let bytes = Run::<TopK>::need(b, &op).map_err(refused)?;
            b.reserve(bytes)?;
            b.run(&op);
            let (item, score) = self.read(b, &range, range.len() * k)?;
            lists.extend(item.chunks(k).zip(score.chunks(k)).map(|(item, score)| {
                let all = item.iter().zip(score).take_while(|(item, _)| **item != NO_ROW);
                all.map(|(&item, &score)| Scored { item, score }).collect()
            }));
        }
        Ok(lists)
    }
}

/// Splits off the first `n` elements.
fn take<'a, T>(rest: &mut &'a [T], n: usize) -> &'a [T] {
    let (head, tail) = rest.split_at(n);
    *rest = tail;
    head
}
