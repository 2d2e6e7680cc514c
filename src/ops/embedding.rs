/*! embedding: rows of tables by id, and the deterministic way back.
embedding_fwd: y_n = item_table[item_n] + pos_table[pos_n]      y (N,D) act   item_table (V,D), pos_table (T,D) f32
gather_table:  y_n = table[id_n]                                y (N,D) act   table (V,D) f32
segment_sum:   dtable[id_s] = sum of dy[order_j], j in start_s..start_s+1, in this order; all other rows 0 (Write)

Segments are made from the ids when the batch is built (`Segments::fill`): positions sorted by id, ties by position.
Every table row is written by one owner in a fixed order: no atomics, the same bits every time.
*/

use super::{Cost, Dst, Op, case::Case, fits};
use crate::{
    base::rng::{Purpose, Stream},
    mem::{Act, F32, HostArenas, Planner, Scalar, Span, U32},
};

op! {
    /// y = item_table[item] + pos_table[pos].
    EmbeddingFwd = "embedding_fwd" {
        write { /** (N,D) */ y: Act }
        read { /** (V,D) */ item_table: F32, /** (T,D) */ pos_table: F32, /** (N) */ item: U32, /** (N) */ pos: U32 }
        with { n: usize, d: usize, v: usize, t: usize }
    }
}

op! {
    /// y = table[id].
    GatherTable = "gather_table" {
        write { /** (N,D) */ y: Act }
        read { /** (V,D) */ table: F32, /** (N) */ id: U32 }
        with { n: usize, d: usize, v: usize }
    }
}

op! {
    /// The gradient of any gather from a table: rows of dy summed by id.
    SegmentSum = "segment_sum" {
        grad { /** (V,D) */ dtable: F32 }
        read {
            /** (N,D) */ dy: Act, /** (N) rows of dy sorted by id */ order: U32,
            /** (S+1) where each segment starts in `order` */ start: U32, /** (S) its id, ascending */ id: U32
        }
        with { n: usize, d: usize, v: usize, /** segments, at most N */ s: usize }
    }
}

/// The spans of a segmentation of at most `n` ids.
#[derive(Clone, Copy, Debug)]
pub struct Segments {
    pub order: Span<U32>,
    pub start: Span<U32>,
    pub id: Span<U32>,
}

impl Segments {
    pub fn plan(p: &mut Planner, n: usize) -> Self {
        Segments { order: p.index(n), start: p.index(n + 1), id: p.index(n) }
    }
}

/// Host side of [`Segments`]: sorts `ids` into `order`, `start`, `id` (cleared first); allocates only while these grow.
pub fn segment(ids: &[u32], order: &mut Vec<u32>, start: &mut Vec<u32>, id: &mut Vec<u32>) {
    order.clear();
    order.extend(0..ids.len() as u32);
    order.sort_unstable_by_key(|i| (ids[*i as usize], *i));
    start.clear();
    id.clear();
    for (j, i) in order.iter().enumerate() {
        if id.last() != Some(&ids[*i as usize]) {
            start.push(j as u32);
            id.push(ids[*i as usize]);
        }
    }
    start.push(ids.len() as u32);
}

impl Op for EmbeddingFwd {
    fn check(&self) -> Result<(), String> {
        let (n, d) = (self.n, self.d);
        fits(&[
            ("y", self.y.len(), n * d),
            ("item_table", self.item_table.len(), self.v * d),
            ("pos_table", self.pos_table.len(), self.t * d),
            ("item", self.item.len(), n),
            ("pos", self.pos.len(), n),
        ])
    }

    fn cost(&self) -> Cost {
        let nd = (self.n * self.d) as f64;
        Cost { flop: nd, bytes: 12.0 * nd }
    }

    fn reference<S: Scalar>(&self, m: &HostArenas<S>) {
        let d = self.d;
        let (items, positions) = (m.get(self.item_table), m.get(self.pos_table));
        let (item, pos) = (m.ids(self.item), m.ids(self.pos));
        m.compute(Dst::Write(self.y), self.n * d, |at| {
            let (i, k) = (at / d, at % d);
            items[item[i] as usize * d + k] + positions[pos[i] as usize * d + k]
        });
    }
}

impl Op for GatherTable {
    fn check(&self) -> Result<(), String> {
        fits(&[
            ("y", self.y.len(), self.n * self.d),
            ("table", self.table.len(), self.v * self.d),
            ("id", self.id.len(), self.n),
        ])
    }

    fn cost(&self) -> Cost {
        Cost { flop: 0.0, bytes: 8.0 * (self.n * self.d) as f64 }
    }

    fn reference<S: Scalar>(&self, m: &HostArenas<S>) {
        let d = self.d;
        let (table, id) = (m.get(self.table), m.ids(self.id));
        m.compute(Dst::Write(self.y), self.n * d, |at| table[id[at / d] as usize * d + at % d]);
    }
}

impl Op for SegmentSum {
    fn check(&self) -> Result<(), String> {
        let (n, d, v, s) = (self.n, self.d, self.v, self.s);
        fits(&[
            ("dtable", self.dtable.len_or(v * d), v * d),
            ("dy", self.dy.len(), n * d),
            ("order", self.order.len(), n),
            ("start", self.start.len(), s + 1),
            ("id", self.id.len(), s),
        ])
    }

    fn cost(&self) -> Cost {
        let (nd, vd) = ((self.n * self.d) as f64, (self.v * self.d) as f64);
        Cost { flop: nd, bytes: 4.0 * (nd + if self.dtable.accumulates() { 2.0 * nd } else { vd }) }
    }

    fn reference<S: Scalar>(&self, m: &HostArenas<S>) {
        let d = self.d;
        let (dy, order, start, id) = (m.get(self.dy), m.ids(self.order), m.ids(self.start), m.ids(self.id));
        let mut sum = vec![S::zero(); self.v * d];
        for s in 0..self.s {
            for j in start[s]..start[s + 1] {
                for k in 0..d {
                    sum[id[s] as usize * d + k] += dy[order[j as usize] as usize * d + k];
                }
            }
        }
        m.compute(self.dtable, self.v * d, |i| sum[i]);
    }
}

fn ids(n: usize, v: usize, kind: &str) -> Vec<u32> {
    let mut draw = Stream::new(8, Purpose::Test, (n + v) as u32);
    (0..n)
        .map(|_| match kind {
            "equal" => (v / 3) as u32,
            "last" => v as u32 - 1,
            _ => draw.below(v as u64) as u32,
        })
        .collect()
}

/// (rows, width, table rows, which ids).
const SHAPES: [(usize, usize, usize, &str); 11] = [
    (0, 8, 3, "any"),
    (1, 1, 1, "any"),
    (3, 7, 5, "any"),
    (50, 16, 7, "any"),
    (33, 8, 200, "last"),
    (300, 32, 9, "equal"),
    (1000, 64, 333, "any"),
    (77, 33, 5000, "any"),
    (5000, 16, 40, "any"),
    (640, 130, 4, "any"),
    (1500, 1, 20, "any"),
];

fn segments(case_ids: &[u32], p: &mut Planner) -> (Segments, [Vec<u32>; 3]) {
    let (mut order, mut start, mut id) = (vec![], vec![], vec![]);
    segment(case_ids, &mut order, &mut start, &mut id);
    let spans = Segments { order: p.index(order.len()), start: p.index(start.len()), id: p.index(id.len()) };
    (spans, [order, start, id])
}

/// Position plus item; the backward pass under test is that of the item table.
pub fn cases() -> Vec<Case<EmbeddingFwd, SegmentSum>> {
    SHAPES
        .into_iter()
        .map(|(n, d, v, kind)| {
            let mut p = Planner::new();
            let (t, y) = (11, p.var(n * d));
            let (item_table, pos_table, dtable) = (p.weight(v * d), p.weight(t * d), p.stat(v * d));
            let (item, pos) = (p.index(n), p.index(n));
            let ids = ids(n, v, kind);
            let (seg, [order, start, id]) = segments(&ids, &mut p);
            let fwd = EmbeddingFwd { y: y.y, item_table, pos_table, item, pos, n, d, v, t };
            let s = id.len();
            let bwd = SegmentSum {
                dtable: Dst::Write(dtable),
                dy: y.dy,
                order: seg.order,
                start: seg.start,
                id: seg.id,
                n,
                d,
                v,
                s,
            };
            Case::new(format!("n{n} d{d} v{v} {kind}"), p, fwd, bwd)
                .input(item_table, 1.0, dtable)
                .output(y.y, y.dy)
                .normal(pos_table, 1.0)
                .ids(item, ids)
                .ids(pos, (0..n as u32).map(|i| i % t as u32).collect())
                .ids(seg.order, order)
                .ids(seg.start, start)
                .ids(seg.id, id)
        })
        .collect()
}

pub fn gather_cases() -> Vec<Case<GatherTable, SegmentSum>> {
    SHAPES
        .into_iter()
        .map(|(n, d, v, kind)| {
            let mut p = Planner::new();
            let y = p.var(n * d);
            let (table, dtable, id_span) = (p.weight(v * d), p.stat(v * d), p.index(n));
            let ids = ids(n, v, kind);
            let (seg, [order, start, id]) = segments(&ids, &mut p);
            let fwd = GatherTable { y: y.y, table, id: id_span, n, d, v };
            let s = id.len();
            let bwd = SegmentSum {
                dtable: Dst::Write(dtable),
                dy: y.dy,
                order: seg.order,
                start: seg.start,
                id: seg.id,
                n,
                d,
                v,
                s,
            };
            Case::new(format!("n{n} d{d} v{v} {kind}"), p, fwd, bwd)
                .input(table, 1.0, dtable)
                .output(y.y, y.dy)
                .ids(id_span, ids)
                .ids(seg.order, order)
                .ids(seg.start, start)
                .ids(seg.id, id)
        })
        .collect()
}
