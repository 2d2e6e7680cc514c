/*! embedding: rows of tables by id, and the gradient by position.
embedding_fwd: y_n = item_table[item_n] + pos_table[pos_n]      y (N,D) act   item_table (V,D), pos_table (T,D) f32
gather_table:  y_n = table[id_n]                                y (N,D) act   table (V,D) f32
Rows with id `NO_ID` (padding) are zeros.
position_sum:  dpos_table[p] = sum over sequences b of at least T-p rows of dy[cu_b+1 - (T-p)], b ascending   (T,D) f32
               dy (N,D) act   cu (B+1): sequence b is rows cu_b..cu_b+1, the last of which has position T-1

The gradient of the item table is `segment_sum` of `segment.rs`.
*/

use super::{
    Cost, Dst, NO_ID, Op, SegmentSum, area,
    case::{Case, affordable},
    fits,
    sort_ids::{Sorted, sorted},
};
use crate::{
    base::rng::{Purpose, Stream},
    mem::{Act, F32, Lent, Planner, Scalar, Span, U32},
};

op! {
    /// Computes y = item_table[item] + pos_table[pos].
    EmbeddingFwd = "embedding_fwd" {
        write { /** (N,D) */ y: Act }
        read { /** (V,D) */ item_table: F32, /** (T,D) */ pos_table: F32, /** (N) */ item: U32, /** (N) */ pos: U32 }
        with { n: usize, d: usize, v: usize, t: usize }
    }
}

op! {
    /// Computes y = table[id].
    GatherTable = "gather_table" {
        write { /** (N,D) */ y: Act }
        read { /** (V,D) */ table: F32, /** (N) */ id: U32 }
        with { n: usize, d: usize, v: usize }
    }
}

op! {
    /// Computes the gradient of the position table, with positions counted from the end of each sequence.
    PositionSum = "position_sum" {
        grad { /** (T,D) */ dtable: F32 }
        read { /** (N,D) */ dy: Act, /** (B+1) */ cu: U32 }
        with { n: usize, d: usize, b: usize, t: usize }
    }
}

impl Op for EmbeddingFwd {
    fn check(&self) -> Result<(), String> {
        let (n, d) = (self.n, self.d);
        fits(&[
            ("y", self.y.len(), area([n, d])),
            ("item_table", self.item_table.len(), area([self.v, d])),
            ("pos_table", self.pos_table.len(), area([self.t, d])),
            ("item", self.item.len(), n),
            ("pos", self.pos.len(), n),
        ])
    }

    fn cost(&self) -> Cost {
        let (n, d) = (self.n, self.d);
        Cost::work((n * d) as f64, 0.0)
            .moves(self.y, n * d)
            .weights(self.item_table, n.min(self.v) * d)
            .weights(self.pos_table, n.min(self.t) * d)
            .moves(self.item, n)
            .moves(self.pos, n)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let d = self.d;
        let (items, positions) = (m.get(self.item_table), m.get(self.pos_table));
        let (item, pos) = (m.ids(self.item), m.ids(self.pos));
        m.compute(Dst::Write(self.y), self.n * d, |at| {
            let (i, k) = (at / d, at % d);
            match item[i] {
                NO_ID => S::zero(),
                id => items[id as usize * d + k] + positions[pos[i] as usize * d + k],
            }
        });
    }
}

impl Op for GatherTable {
    fn check(&self) -> Result<(), String> {
        fits(&[
            ("y", self.y.len(), area([self.n, self.d])),
            ("table", self.table.len(), area([self.v, self.d])),
            ("id", self.id.len(), self.n),
        ])
    }

    fn cost(&self) -> Cost {
        let (n, d) = (self.n, self.d);
        Cost::default().moves(self.y, n * d).weights(self.table, n.min(self.v) * d).moves(self.id, n)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let d = self.d;
        let (table, id) = (m.get(self.table), m.ids(self.id));
        m.compute(Dst::Write(self.y), self.n * d, |at| match id[at / d] {
            NO_ID => S::zero(),
            id => table[id as usize * d + at % d],
        });
    }
}

impl Op for PositionSum {
    fn check(&self) -> Result<(), String> {
        let (n, d, td) = (self.n, self.d, area([self.t, self.d]));
        fits(&[
            ("dtable", self.dtable.len_or(td), td),
            ("dy", self.dy.len(), area([n, d])),
            ("cu", self.cu.len(), self.b.saturating_add(1)),
        ])
    }

    fn cost(&self) -> Cost {
        let (n, d, wanted) = (self.n, self.d, self.dtable.wanted() as usize);
        Cost::work((wanted * n * d) as f64, 0.0)
            .scatters(self.dtable, n.min(self.t) * d, self.t * d)
            .moves(self.dy, wanted * n * d)
            .moves(self.cu, wanted * (self.b + 1))
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (d, t, dy, cu) = (self.d, self.t, m.get(self.dy), m.ids(self.cu));
        let mut sum = vec![S::zero(); t * d];
        for bounds in cu[..=self.b].windows(2) {
            for row in bounds[0] as usize..bounds[1] as usize {
                let p = t - (bounds[1] as usize - row);
                for k in 0..d {
                    sum[p * d + k] += dy[row * d + k];
                }
            }
        }
        m.compute(self.dtable, t * d, |i| sum[i]);
    }
}

fn ids(n: usize, v: usize, kind: &str) -> Vec<u32> {
    let mut draw = Stream::new(8, Purpose::Test, (n + v) as u32);
    (0..n)
        .map(|i| match kind {
            "equal" => (v / 3) as u32,
            "last" => v as u32 - 1,
            "some none" if i % 3 == 0 => NO_ID,
            _ => draw.below(v as u64) as u32,
        })
        .collect()
}

/// (rows, width, table rows, kind of ids).
const SHAPES: [(usize, usize, usize, &str); 12] = [
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
    (131, 24, 20, "some none"),
];

/// Returns the op for the gradient of a gather by `ids`, and the contents of its spans.
fn segments(
    p: &mut Planner,
    case_ids: &[u32],
    dtable: Dst<F32>,
    dy: Span<Act>,
    d: usize,
    v: usize,
) -> (SegmentSum, [Vec<u32>; 2]) {
    let by = Sorted::plan(p, case_ids.len());
    let (order, key) = sorted(case_ids, v).into_iter().unzip();
    (SegmentSum::of(dtable, dy, &by, [case_ids.len(), d, v]), [order, key])
}

/// Returns cases of position plus item. The tested backward pass is that of the item table.
pub fn cases() -> Vec<Case> {
    SHAPES
        .into_iter()
        .filter(|(n, ..)| affordable(*n))
        .map(|(n, d, v, kind)| {
            let mut p = Planner::new();
            let (t, y) = (11, p.var(n * d));
            let (item_table, pos_table, dtable) = (p.weight(v * d), p.weight(t * d), p.stat(v * d));
            let (item, pos) = (p.index(n), p.index(n));
            let ids = ids(n, v, kind);
            let fwd = EmbeddingFwd { y: y.y, item_table, pos_table, item, pos, n, d, v, t };
            let (bwd, [order, key]) = segments(&mut p, &ids, Dst::Write(dtable), y.dy, d, v);
            Case::new(format!("n{n} d{d} v{v} {kind}"), p, fwd, bwd)
                .input(item_table, 1.0, dtable)
                .output(y.y, y.dy)
                .normal(pos_table, 1.0)
                .ids(item, ids)
                .ids(pos, (0..n as u32).map(|i| i % t as u32).collect())
                .ids(bwd.order, order)
                .ids(bwd.key, key)
        })
        .collect()
}

pub fn gather_cases() -> Vec<Case> {
    SHAPES
        .into_iter()
        .filter(|(n, ..)| affordable(*n))
        .map(|(n, d, v, kind)| {
            let mut p = Planner::new();
            let y = p.var(n * d);
            let (table, dtable, id) = (p.weight(v * d), p.stat(v * d), p.index(n));
            let ids = ids(n, v, kind);
            let fwd = GatherTable { y: y.y, table, id, n, d, v };
            let (bwd, [order, key]) = segments(&mut p, &ids, Dst::Write(dtable), y.dy, d, v);
            Case::new(format!("n{n} d{d} v{v} {kind}"), p, fwd, bwd)
                .input(table, 1.0, dtable)
                .output(y.y, y.dy)
                .ids(id, ids)
                .ids(bwd.order, order)
                .ids(bwd.key, key)
        })
        .collect()
}

/// Returns cases of packed sequences. The tested backward pass is that of the position table.
pub fn position_cases() -> Vec<Case> {
    // Lengths of the sequences, rows past them that belong to none, positions, width.
    let many: Vec<usize> = (0..77).map(|i| i * 31 % 41).collect();
    [
        (&[][..], 0, 5, 8),
        (&[0, 0], 3, 4, 7),
        (&[1], 0, 1, 1),
        (&[3, 0, 7, 5], 0, 7, 33),
        (&[2, 9, 1, 4, 4, 0, 12, 3, 3, 8, 12], 9, 12, 64),
        (&many, 5, 40, 130),
        (&many, 0, 200, 2),
    ]
    .into_iter()
    .map(|(lengths, padding, t, d)| {
        let mut p = Planner::new();
        let cu: Vec<u32> = (0..=lengths.len()).map(|b| lengths[..b].iter().sum::<usize>() as u32).collect();
        let packed = lengths.iter().sum::<usize>();
        let (n, b, v) = (packed + padding, lengths.len(), 3);
        let y = p.var(n * d);
        let (item_table, pos_table, dtable) = (p.weight(v * d), p.weight(t * d), p.stat(t * d));
        let (item, pos, cu_span) = (p.index(n), p.index(n), p.index(b + 1));
        let fwd = EmbeddingFwd { y: y.y, item_table, pos_table, item, pos, n, d, v, t };
        let bwd = PositionSum { dtable: Dst::Write(dtable), dy: y.dy, cu: cu_span, n, d, b, t };
        // Padding has no item and therefore no gradient.
        let items = (0..n).map(|i| if i < packed { (i % v) as u32 } else { NO_ID }).collect();
        let at = lengths.iter().flat_map(|len| t - len..t).chain(vec![0; padding]).map(|p| p as u32).collect();
        Case::new(format!("b{b} n{packed}+{padding} t{t} d{d}"), p, fwd, bwd)
            .input(pos_table, 1.0, dtable)
            .output(y.y, y.dy)
            .normal(item_table, 1.0)
            .ids(item, items)
            .ids(pos, at)
            .ids(cu_span, cu)
    })
    .collect()
}
