/*! Ranks and best items where the model is: the ops of [`crate::ops::top_k`] and [`crate::ops::rank`] on lists of any length.

A model that has encoded some histories leaves their vectors on the backend; what comes back to the host are counts, lists
of k items and the scores of sampled items, never the item table and never scores of the whole catalogue. The spans for
lists are planned once, before the first step; users are taken in as many calls as it needs for their lists to fit.
*/

use std::ops::Range;

use crate::{
    base::{Error, Result},
    eval::{Answer, Fault, Query, Ranks, Scored, rank::ranks_among},
    mem::{Act, F32, Planner, Span, U32},
    ops::{Backend, CountAtLeast, NO_ROW, Run, ScoreItems, TopK},
};

/// What is scored: vectors against a catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Catalogue {
    /// (B,D) the vectors of a batch.
    pub h: Span<Act>,
    /// (V,D), maybe with special rows behind.
    pub table: Span<F32>,
    /// (V)
    pub bias: Span<F32>,
    pub d: usize,
    pub v: usize,
}

/// How much one call takes.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Users.
    pub users: usize,
    /// Targets, sampled items or list entries of all users together.
    pub pairs: usize,
    /// Excluded items of all users together; at least as many as there are items, so that any one user fits.
    pub excluded: usize,
}

impl Room {
    /// For a catalogue of `v` items: 12 bytes a pair, 4 an excluded item; a few MB, and 4 bytes an item beyond a million.
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
    /// (pairs) targets or sampled items, and where each user's start.
    id: Span<U32>,
    start: Span<U32>,
    /// (pairs) counts of targets, or the items of lists; their scores.
    found: Span<U32>,
    score: Span<F32>,
    excluded: Span<U32>,
    excluded_start: Span<U32>,
    bad: Span<U32>,
}

/// Cuts users into calls: neither of the two lengths of their lists may add up to more than its room, unless a single user's
/// does.
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

/// The lists of a call; a single list that is longer than the room is cut into several calls.
fn passes(lists: Vec<&[u32]>, room: usize) -> Vec<Vec<&[u32]>> {
    match lists[..] {
        [one] if one.len() > room => one.chunks(room).map(|part| vec![part]).collect(),
        _ => vec![lists],
    }
}

/// Writes lists one after another, and where each starts; gives their length.
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

    /// Users that one call takes.
    pub fn users(&self) -> usize {
        self.room.users
    }

    /// Runs the largest call of each op: for a backend that only asks what they need.
    pub fn largest<B: Backend>(&self, b: &mut B) {
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

    /// Reads what the last call found for `n` pairs, and which user has a score that is no number.
    fn read<B: Backend>(&self, b: &mut B, users: &Range<usize>, n: usize) -> Answer<(Vec<u32>, Vec<f32>)> {
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

    /// Ranks the targets of queries whose vectors stand in the first rows of the batch, in order.
    ///
    /// # Errors
    /// As [`crate::eval::Encoder::rank`].
    pub fn rank<B: Backend>(&self, b: &mut B, queries: &[Query]) -> Answer<Vec<Ranks>> {
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

    /// Ranks targets of known scores among their queries' lists. `first` is the first query's row in the batch.
    fn rank_among<B: Backend>(
        &self,
        b: &mut B,
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

    /// The best k candidates of queries whose vectors stand in the first rows of the batch, in order.
    ///
    /// # Errors
    /// As [`crate::eval::Encoder::top_k`].
    pub fn top_k<B: Backend>(&self, b: &mut B, queries: &[Query], k: usize) -> Answer<Vec<Vec<Scored>>> {
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
            // What was asked for in advance was a short list.
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

/// Splits the first `n` off.
fn take<'a, T>(rest: &mut &'a [T], n: usize) -> &'a [T] {
    let (head, tail) = rest.split_at(n);
    *rest = tail;
    head
}
