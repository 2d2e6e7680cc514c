/*! What goes into a sequence model: packed item ids, positions, sequence bounds, scored rows; on the host and planned.

A batch begins with a head: step, epoch, and of every sequence where it starts, whose it is and how many of its rows are
scored. It is one block of ids, so that it reaches a device in one copy. What follows from it (items, positions, rows to
score) is made on the device by a task's ops while training, or written from the host ([`HostInput`]).

Padding: where sizes are rounded up, so that few sizes come again and again, sequences of nobody behind the last real one
fill the rows (item 0), and rows to score behind the last are [`NO_ROW`].
*/

use crate::{
    mem::{F32, Planner, Span, U32},
    ops::{Backend, NO_ID, NO_ROW},
};

/// The largest batch a plan has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Sequences (B), those of padding among them.
    pub b: usize,
    /// Packed rows (N).
    pub n: usize,
    /// Scored rows (M).
    pub m: usize,
    /// Positions of one sequence (T).
    pub t: usize,
    /// What N and M are rounded up to where that pays.
    pub rounding: [usize; 2],
}

impl Capacity {
    /// For `b` sequences of at most `t` items of which `m` rows are scored, and the padding of such a batch: a sixteenth of
    /// its rows at most, so that a run meets few sizes and wastes little.
    pub fn new(b: usize, t: usize, m: usize) -> Self {
        let step = |most: usize, unit: usize, top: usize| (most / 16).next_multiple_of(unit).clamp(unit, top);
        let rounding = [step(b * t, 64, 1024), step(m, 16, 256)];
        let n = (b * t).next_multiple_of(rounding[0]);
        Capacity { b: b + rounding[0].div_ceil(t), n, m: m.next_multiple_of(rounding[1]), t, rounding }
    }
}

/// The sizes of the batch at hand, rounded up or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BatchShape {
    pub b: usize,
    pub n: usize,
    pub m: usize,
    /// Whether dropout is on.
    pub training: bool,
}

impl BatchShape {
    /// A number that no other shape has: what is done for it may be repeated under this key.
    pub fn key(&self) -> u64 {
        debug_assert!(self.n < 1 << 31 && self.m < 1 << 31);
        // B follows from N where sizes are rounded; where they are not, nothing is repeated.
        (self.n as u64) << 33 | (self.m as u64) << 1 | self.training as u64
    }
}

/// Where the parts of a head lie in its block.
#[derive(Clone, Copy, Debug)]
struct HeaderLayout {
    b: usize,
}

impl HeaderLayout {
    /// Parts start on 64 bytes, as all spans do.
    const UNIT: usize = 16;

    fn cu(&self) -> usize {
        Self::UNIT
    }
    fn scored(&self) -> usize {
        self.cu() + (self.b + 1).next_multiple_of(Self::UNIT)
    }
    fn user(&self) -> usize {
        self.scored() + (self.b + 1).next_multiple_of(Self::UNIT)
    }
    fn first(&self) -> usize {
        self.user() + self.b.next_multiple_of(Self::UNIT)
    }
    fn len(&self) -> usize {
        self.first() + self.b
    }
}

/// The head of a batch on the host.
#[derive(Clone, Debug)]
pub struct BatchHeader {
    block: Vec<u32>,
    layout: HeaderLayout,
    /// Sequences so far.
    b: usize,
    /// Rows to score behind those of the sequences.
    also: usize,
}

impl BatchHeader {
    /// Room for the sequences of a capacity.
    pub fn new(c: &Capacity) -> Self {
        let layout = HeaderLayout { b: c.b };
        BatchHeader { block: vec![0; layout.len()], layout, b: 0, also: 0 }
    }

    /// Empties it.
    pub fn clear(&mut self, step: u32, epoch: u32) {
        self.block.fill(0);
        (self.block[0], self.block[1], self.b, self.also) = (step, epoch, 0, 0);
    }

    pub fn set_step(&mut self, step: u32) {
        self.block[0] = step;
    }

    pub fn step(&self) -> u32 {
        self.block[0]
    }

    pub fn epoch(&self) -> u32 {
        self.block[1]
    }

    /// Adds a sequence of `user`: its length, how many of its rows are scored, where it starts in the data that the device
    /// holds ([`NO_ROW`]: nowhere).
    pub fn push(&mut self, user: u32, len: usize, scored: usize, first: u32) {
        let (b, l) = (self.b, self.layout);
        assert!(b < l.b, "a batch of more than {} sequences", l.b);
        self.block[l.cu() + b + 1] = self.block[l.cu() + b] + len as u32;
        self.block[l.scored() + b + 1] = self.block[l.scored() + b] + scored as u32;
        self.block[l.user() + b] = user;
        self.block[l.first() + b] = first;
        self.b += 1;
    }

    /// Adds rows to score that stand behind those of all sequences: a loss over items takes them for padding.
    pub fn also(&mut self, rows: usize) {
        self.also += rows;
    }

    /// Sequences.
    pub fn b(&self) -> usize {
        self.b
    }

    /// Packed rows.
    pub fn n(&self) -> usize {
        self.block[self.layout.cu() + self.b] as usize
    }

    /// Scored rows.
    pub fn m(&self) -> usize {
        self.block[self.layout.scored() + self.b] as usize
    }

    /// Where each sequence starts (B+1), where its scored rows start (B+1), whose it is (B).
    pub fn sequences(&self) -> (&[u32], &[u32], &[u32]) {
        let (b, l) = (self.b, self.layout);
        (&self.block[l.cu()..][..b + 1], &self.block[l.scored()..][..b + 1], &self.block[l.user()..][..b])
    }

    /// Fills the batch up to rounded sizes; gives them.
    fn pad(&mut self, c: &Capacity) -> (usize, usize) {
        let round = |x: usize, to: usize| x.max(1).next_multiple_of(to);
        let (n, m) = (round(self.n(), c.rounding[0]), round(self.m() + self.also, c.rounding[1]));
        assert!(n <= c.n && m <= c.m, "a batch of {n} rows, {m} scored, does not fit {c:?}");
        while self.b < c.b {
            self.push(NO_ID, (n - self.n()).min(c.t), 0, NO_ROW);
        }
        assert!(self.n() == n, "{} sequences have no room for {n} rows", c.b);
        (n, m)
    }
}

/// A batch on the host, whole. Vectors keep their memory from batch to batch.
#[derive(Clone, Debug, Default)]
pub struct HostInput {
    /// (N) item ids of all sequences, one after another, oldest first.
    pub item: Vec<u32>,
    /// (N) positions, counted so that the last item of a sequence stands at T-1.
    pub pos: Vec<u32>,
    /// (B+1) where each sequence starts.
    pub cu: Vec<u32>,
    /// (M) rows to score.
    pub row: Vec<u32>,
    /// (N) ratings, as [`Input::rating`] has them; empty of a batch without.
    pub rating: Vec<f32>,
    /// (N) their classes.
    pub class: Vec<u32>,
    /// Whose the first sequences are; all further ones are nobody's.
    pub user: Vec<u32>,
}

impl HostInput {
    /// Empties the batch.
    pub fn clear(&mut self) {
        self.item.clear();
        self.pos.clear();
        self.row.clear();
        self.rating.clear();
        self.class.clear();
        self.user.clear();
        self.cu.clear();
        self.cu.push(0);
    }

    /// Fills rows up to those of `s`: item 0 without a rating, and rows to score that are none.
    fn pad(&mut self, s: &BatchShape) {
        self.item.resize(s.n, 0);
        self.pos.resize(s.n, 0);
        self.row.resize(s.m, NO_ROW);
        if !self.rating.is_empty() {
            self.rating.resize(s.n, 0.0);
            self.class.resize(s.n, 0);
        }
    }

    /// Adds a sequence of at most `t` items; gives the row of its first item.
    pub fn push(&mut self, items: &[u32], t: usize) -> usize {
        let first = self.item.len();
        let len = items.len();
        debug_assert!(len <= t);
        self.item.extend_from_slice(items);
        self.pos.extend((t - len..t).map(|p| p as u32));
        self.cu.push(self.item.len() as u32);
        first
    }
}

/// The planned spans of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Input {
    /// (N) the items as they are, before a task hides any.
    pub raw: Span<U32>,
    pub item: Span<U32>,
    pub pos: Span<U32>,
    pub row: Span<U32>,
    /// (1) number of the step: what dropout and negatives are drawn by.
    pub step: Span<U32>,
    /// (1) what masks are drawn by.
    pub epoch: Span<U32>,
    /// (B+1) where each sequence starts.
    pub cu: Span<U32>,
    /// (B+1) where the scored rows of each sequence start.
    pub scored: Span<U32>,
    /// (B) whose sequence it is, [`NO_ID`] for nobody's.
    pub user: Span<U32>,
    /// (B) where it starts in the data that the device holds.
    pub first: Span<U32>,
    /// (N) the rating of each item as far as the model may see it, counted from the mean: 0 where it is hidden. Empty where
    /// the task is not about ratings ([`Input::with_ratings`]).
    pub rating: Span<F32>,
    /// (N) the classes of the same ratings; a hidden one has the class behind all levels.
    pub class: Span<U32>,
    head: Span<U32>,
    pub capacity: Capacity,
}

impl Input {
    pub fn plan(p: &mut Planner, capacity: Capacity) -> Self {
        let Capacity { b, n, m, .. } = capacity;
        p.label("input");
        let l = HeaderLayout { b };
        let head = p.index(l.len());
        Input {
            raw: p.index(n),
            item: p.index(n),
            pos: p.index(n),
            row: p.index(m),
            step: head.slice(0, 1),
            epoch: head.slice(1, 1),
            cu: head.slice(l.cu(), b + 1),
            scored: head.slice(l.scored(), b + 1),
            user: head.slice(l.user(), b),
            first: head.slice(l.first(), b),
            rating: Span::empty(),
            class: Span::empty(),
            head,
            capacity,
        }
    }

    /// The same with room for ratings.
    pub fn with_ratings(self, p: &mut Planner) -> Self {
        p.label("input");
        Input { rating: p.stat(self.capacity.n), class: p.index(self.capacity.n), ..self }
    }

    /// Writes the head of a training batch, filled up where the backend repeats work of the same sizes.
    pub fn begin(&self, b: &mut dyn Backend, head: &mut BatchHeader) -> BatchShape {
        let c = &self.capacity;
        let (n, m) = if b.replays() { head.pad(c) } else { (head.n(), head.m() + head.also) };
        assert!(head.b() <= c.b && n <= c.n && m <= c.m, "a batch of {n} rows, {m} scored, does not fit {c:?}");
        b.write_ids(self.head, &head.block);
        BatchShape { b: head.b(), n, m, training: true }
    }

    /// Writes the rows of a batch that the host has made, filled up to the sizes `s` of its head, which is there already.
    pub fn write(&self, b: &mut dyn Backend, host: &mut HostInput, s: &BatchShape) {
        host.pad(s);
        b.write_ids(self.item, &host.item);
        b.write_ids(self.pos, &host.pos);
        b.write_ids(self.row, &host.row);
        self.write_ratings(b, host);
    }

    fn write_ratings(&self, b: &mut dyn Backend, host: &HostInput) {
        if !self.rating.is_empty() {
            b.write(self.rating.raw(), &host.rating);
            b.write_ids(self.class, &host.class);
        }
    }

    /// Writes a whole batch.
    pub fn upload(&self, b: &mut dyn Backend, host: &HostInput, step: u32) -> BatchShape {
        let shape = BatchShape { b: host.cu.len() - 1, n: host.item.len(), m: host.row.len(), training: false };
        let c = &self.capacity;
        assert!(shape.b <= c.b && shape.n <= c.n && shape.m <= c.m, "a batch of {shape:?} does not fit {c:?}");
        b.write_ids(self.item, &host.item);
        b.write_ids(self.pos, &host.pos);
        b.write_ids(self.cu, &host.cu);
        b.write_ids(self.row, &host.row);
        let nobody = std::iter::repeat(&NO_ID);
        b.write_ids(self.user, &host.user.iter().chain(nobody).take(shape.b).copied().collect::<Vec<_>>());
        b.write_ids(self.step, &[step]);
        if !self.rating.is_empty() {
            self.write_ratings(b, host);
            let before = |end: &u32| host.row.partition_point(|row| row < end) as u32;
            b.write_ids(self.scored, &host.cu.iter().map(before).collect::<Vec<_>>());
        }
        shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_fills_rows_with_sequences_and_scores_none_of_them() {
        for (b, t, m) in [(1, 2, 1), (5, 18, 30), (32, 200, 1280), (256, 200, 10_240), (3, 3000, 900)] {
            let c = Capacity::new(b, t, m);
            let mut head = BatchHeader::new(&c);
            head.clear(7, 3);
            (0..b).for_each(|u| head.push(u as u32, 1 + u * 37 % t, 1, u as u32));
            let real = head.n();
            let (n, rows) = head.pad(&c);
            assert!(n >= real && n - real < c.rounding[0] && rows - b < c.rounding[1], "{c:?}");
            assert_eq!((head.b(), head.n(), head.m(), head.step(), head.epoch()), (c.b, n, b, 7, 3));
            assert!(head.sequences().0.windows(2).all(|w| w[1] - w[0] <= t as u32), "no sequence is longer than T");
        }
    }

    #[test]
    fn a_full_batch_has_room_for_its_padding() {
        let c = Capacity::new(4, 50, 40);
        let mut head = BatchHeader::new(&c);
        head.clear(1, 1);
        (0..4).for_each(|u| head.push(u, 50, 10, 0));
        assert_eq!(head.pad(&c), (c.n, c.m));
    }
}
