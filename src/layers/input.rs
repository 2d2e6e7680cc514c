//! What goes into a sequence model: packed item ids, positions, sequence bounds, scored rows; on the host and planned.

use crate::{
    mem::{Planner, Span, U32},
    ops::{Memory, sort_ids::Sorted},
};

/// The largest batch a plan has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Sequences (B).
    pub b: usize,
    /// Packed rows (N), at most B*T.
    pub n: usize,
    /// Scored rows (M).
    pub m: usize,
    /// Positions of one sequence (T).
    pub t: usize,
}

/// The sizes of the batch at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    pub b: usize,
    pub n: usize,
    pub m: usize,
    /// No longer read: gradients are summed by runs of sorted ids, which are found on the device.
    pub items: usize,
    pub positions: usize,
    /// Whether dropout is on.
    pub training: bool,
}

/// A batch on the host. Vectors keep their memory from batch to batch.
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
}

impl HostInput {
    /// Room for a capacity, so that filling it allocates nothing.
    pub fn with_capacity(c: &Capacity) -> Self {
        let of = Vec::with_capacity;
        HostInput { item: of(c.n), pos: of(c.n), cu: of(c.b + 1), row: of(c.m) }
    }

    /// Empties the batch.
    pub fn clear(&mut self) {
        self.item.clear();
        self.pos.clear();
        self.row.clear();
        self.cu.clear();
        self.cu.push(0);
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

    pub fn sequences(&self) -> usize {
        self.cu.len() - 1
    }
}

/// The planned spans of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Input {
    pub item: Span<U32>,
    pub pos: Span<U32>,
    pub cu: Span<U32>,
    pub row: Span<U32>,
    /// (1) number of the step: what dropout draws are keyed by.
    pub step: Span<U32>,
    /// Room for the rows sorted by item, which gradients of item tables are summed by.
    pub by_item: Sorted,
    pub capacity: Capacity,
}

impl Input {
    pub fn plan(p: &mut Planner, capacity: Capacity) -> Self {
        let Capacity { b, n, m, .. } = capacity;
        p.label("input");
        Input {
            item: p.index(n),
            pos: p.index(n),
            cu: p.index(b + 1),
            row: p.index(m),
            step: p.index(1),
            by_item: Sorted::plan(p, n),
            capacity,
        }
    }

    /// Writes a batch to the backend.
    pub fn upload<B: Memory>(&self, b: &mut B, host: &mut HostInput, step: u32, training: bool) -> Shape {
        let shape =
            Shape { b: host.sequences(), n: host.item.len(), m: host.row.len(), items: 0, positions: 0, training };
        let c = &self.capacity;
        assert!(shape.b <= c.b && shape.n <= c.n && shape.m <= c.m, "a batch of {shape:?} does not fit {c:?}");
        b.write_ids(self.item, &host.item);
        b.write_ids(self.pos, &host.pos);
        b.write_ids(self.cu, &host.cu);
        b.write_ids(self.row, &host.row);
        b.write_ids(self.step, &[step]);
        shape
    }
}
