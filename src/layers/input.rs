/*! The input of a sequence model: packed item ids, positions, sequence bounds and scored rows, on the host and planned.

A batch begins with a header: step, epoch, and for every sequence its start, its user and the number of its scored rows.
The header is one block of ids, so that it reaches a device in one copy. The data that depends on it (items, positions,
rows to score) is computed on the device by a task's ops during training, or written from the host ([`HostInput`]).

Padding: sizes are rounded up where this makes few sizes recur. Sequences without a user after the last real one fill
the rows (item 0), and rows to score after the last are [`NO_ROW`].
*/

use crate::{
    mem::{F32, Planner, Span, U32},
    ops::{Backend, NO_ID, NO_ROW},
};

/// The largest batch that a plan has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Sequences (B), including those of padding.
    pub b: usize,
    /// Packed rows (N).
    pub n: usize,
    /// Scored rows (M).
    pub m: usize,
    /// Positions of one sequence (T).
    pub t: usize,
    /// N and M are rounded up to multiples of these where that pays.
    pub rounding: [usize; 2],
}

impl Capacity {
    /// Creates a capacity for `b` sequences of at most `t` items, of which `m` rows are scored, and their padding.
    /// Padding is at most a sixteenth of the rows, so that a run has few sizes and wastes little.
    pub fn new(b: usize, t: usize, m: usize) -> Self {
        let step = |most: usize, unit: usize, top: usize| (most / 16).next_multiple_of(unit).clamp(unit, top);
        let rounding = [step(b * t, 64, 1024), step(m, 16, 256)];
        let n = (b * t).next_multiple_of(rounding[0]);
        Capacity { b: b + rounding[0].div_ceil(t), n, m: m.next_multiple_of(rounding[1]), t, rounding }
    }
}

/// The sizes of the current batch, rounded up or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BatchShape {
    pub b: usize,
    pub n: usize,
    pub m: usize,
    /// Whether dropout is on.
    pub training: bool,
}

impl BatchShape {
    /// Returns a number that no other shape has. Recorded work for the shape uses it as the key.
    pub fn key(&self) -> u64 {
        debug_assert!(self.n < 1 << 31 && self.m < 1 << 31);
        // Where sizes are rounded, N determines B. Where they are not, no work is replayed.
        (self.n as u64) << 33 | (self.m as u64) << 1 | self.training as u64
    }
}

/// The offsets of the parts of a header in its block.
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

/// The header of a batch on the host.
#[derive(Clone, Debug)]
pub struct BatchHeader {
    block: Vec<u32>,
    layout: HeaderLayout,
    /// Number of sequences so far.
    b: usize,
    /// Rows to score after those of the sequences.
    also: usize,
}

impl BatchHeader {
    /// Creates a header for the sequences of a capacity.
    pub fn new(c: &Capacity) -> Self {
        let layout = HeaderLayout { b: c.b };
        BatchHeader { block: vec![0; layout.len()], layout, b: 0, also: 0 }
    }

    /// Removes all sequences.
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

    /// Adds a sequence of `user`: its length, its number of scored rows, and its start in the data that the device
    /// holds ([`NO_ROW`]: none).
    pub fn push(&mut self, user: u32, len: usize, scored: usize, first: u32) {
        let (b, l) = (self.b, self.layout);
        assert!(b < l.b, "a batch of more than {} sequences", l.b);
        self.block[l.cu() + b + 1] = self.block[l.cu() + b] + len as u32;
        self.block[l.scored() + b + 1] = self.block[l.scored() + b] + scored as u32;
        self.block[l.user() + b] = user;
        self.block[l.first() + b] = first;
        self.b += 1;
    }

    /// Adds rows to score after those of all sequences. A loss over items treats them as padding.
    pub fn also(&mut self, rows: usize) {
        self.also += rows;
    }

    /// Returns the number of sequences.
    pub fn b(&self) -> usize {
        self.b
    }

    /// Returns the number of packed rows.
    pub fn n(&self) -> usize {
        self.block[self.layout.cu() + self.b] as usize
    }

    /// Returns the number of scored rows.
    pub fn m(&self) -> usize {
        self.block[self.layout.scored() + self.b] as usize
    }

    /// Returns the start of each sequence (B+1), the start of its scored rows (B+1), and its user (B).
    pub fn sequences(&self) -> (&[u32], &[u32], &[u32]) {
        let (b, l) = (self.b, self.layout);
        (&self.block[l.cu()..][..b + 1], &self.block[l.scored()..][..b + 1], &self.block[l.user()..][..b])
    }

    /// Pads the batch to rounded sizes and returns them.
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

/// A whole batch on the host. Vectors keep their memory from batch to batch.
#[derive(Clone, Debug, Default)]
pub struct HostInput {
    /// (N) item ids of all sequences, one after another, oldest first.
    pub item: Vec<u32>,
    /// (N) positions. The last item of a sequence has position T-1.
    pub pos: Vec<u32>,
    /// (B+1) the start of each sequence.
    pub cu: Vec<u32>,
    /// (M) rows to score.
    pub row: Vec<u32>,
    /// (N) ratings in the form of [`Input::rating`]; empty without ratings.
    pub rating: Vec<f32>,
    /// (N) the classes of the ratings.
    pub class: Vec<u32>,
    /// The users of the first sequences. All further sequences have no user.
    pub user: Vec<u32>,
}

impl HostInput {
    /// Removes all sequences.
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

    /// Pads the rows to those of `s`: item 0 without a rating, and [`NO_ROW`] as rows to score.
    fn pad(&mut self, s: &BatchShape) {
        self.item.resize(s.n, 0);
        self.pos.resize(s.n, 0);
        self.row.resize(s.m, NO_ROW);
        if !self.rating.is_empty() {
            self.rating.resize(s.n, 0.0);
            self.class.resize(s.n, 0);
        }
    }

    /// Adds a sequence of at most `t` items. Returns the row of its first item.
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
    /// (N) the original items, before a task masks any.
    pub raw: Span<U32>,
    pub item: Span<U32>,
    pub pos: Span<U32>,
    pub row: Span<U32>,
    /// (1) step number, the counter for dropout and negatives.
    pub step: Span<U32>,
    /// (1) the counter for masks.
    pub epoch: Span<U32>,
    /// (B+1) the start of each sequence.
    pub cu: Span<U32>,
    /// (B+1) the start of the scored rows of each sequence.
    pub scored: Span<U32>,
    /// (B) the user of each sequence, [`NO_ID`] for none.
    pub user: Span<U32>,
    /// (B) the start of each sequence in the data that the device holds.
    pub first: Span<U32>,
    /// (N) the rating of each item relative to the mean, 0 where it is hidden from the model. Empty for tasks without
    /// ratings ([`Input::with_ratings`]).
    pub rating: Span<F32>,
    /// (N) the classes of the same ratings. A hidden rating has the class after all levels.
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

    /// Adds spans for ratings.
    pub fn with_ratings(self, p: &mut Planner) -> Self {
        p.label("input");
        Input { rating: p.stat(self.capacity.n), class: p.index(self.capacity.n), ..self }
    }

    /// Writes the header of a training batch, padded where the backend replays work of the same sizes.
    pub fn begin(&self, b: &mut dyn Backend, head: &mut BatchHeader) -> BatchShape {
        let c = &self.capacity;
        let (n, m) = if b.replays() { head.pad(c) } else { (head.n(), head.m() + head.also) };
        assert!(head.b() <= c.b && n <= c.n && m <= c.m, "a batch of {n} rows, {m} scored, does not fit {c:?}");
        b.write_ids(self.head, &head.block);
        BatchShape { b: head.b(), n, m, training: true }
    }

    /// Writes the rows of a batch built on the host, padded to the sizes `s` of its header. The header is already
    /// written.
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
