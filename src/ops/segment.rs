/*! segment: the gradient of a table that rows were gathered from, run by run of sorted ids.
segment_sum:  dtable[id] = sum of the rows whose key is id, in the order of `order`; all other rows 0 (Write)   (V,D)
segment_rows: rows[j] = the same sum, where a run of one id begins at place j of `key`; all other rows 0        (R,D)

Rows come from up to three sources, taken as one list of R = N + S + M*P:
  dy (N,D)     the gradients of rows that were gathered one by one
  panel (S,D)  the gradients of rows shared by all, such as negatives
  pairs        g[j] * h[j / P], j in 0..M*P, h (M,D): the gradient of scores <h, table[id]>, which need not be stored
An empty dy or panel counts as zeros, an empty h as ones (with D = 1: the gradient of a bias).
`order` and `key` are the outputs of `SortIds` for the ids of this list. Keys that are not below V are skipped.
*/

use super::{
    Cost, Dst, GatherTable, NO_ID, NoOp, Op, area,
    case::{Case, affordable},
    fits,
    sort_ids::{Sorted, sorted},
};
use crate::{
    base::rng::{Purpose, Stream},
    mem::{Act, F32, Lent, Planner, Scalar, Span, U32},
};

op! {
    /// Computes the gradient of a table.
    SegmentSum = "segment_sum" {
        grad { /** (V,D) */ dtable: F32 }
        read {
            /** (N,D) or empty */ dy: Act, /** (S,D) or empty */ panel: Act,
            /** (M*P) */ g: F32, /** (M,D) or empty */ h: Act,
            /** (R) rows sorted by id */ order: U32, /** (R) their ids */ key: U32
        }
        with { n: usize, s: usize, m: usize, p: usize, d: usize, v: usize }
    }
}

op! {
    /// Computes the gradient of the nonzero rows of a table: sums at the places where runs begin.
    SegmentRows = "segment_rows" {
        write { /** (R,D) */ rows: F32 }
        read {
            /** (N,D) or empty */ dy: Act, /** (S,D) or empty */ panel: Act,
            /** (M*P) */ g: F32, /** (M,D) or empty */ h: Act,
            /** (R) rows sorted by id */ order: U32, /** (R) their ids */ key: U32
        }
        with { n: usize, s: usize, m: usize, p: usize, d: usize, v: usize }
    }
}

/// The rows to sum. The fields are those of the ops.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sources {
    pub dy: Span<Act>,
    pub panel: Span<Act>,
    pub g: Span<F32>,
    pub h: Span<Act>,
    pub order: Span<U32>,
    pub key: Span<U32>,
    pub n: usize,
    pub s: usize,
    pub m: usize,
    pub p: usize,
    pub d: usize,
    pub v: usize,
}

macro_rules! sources {
    ($($op:ident),*) => { $(
        impl $op {
            pub(crate) fn sources(&self) -> Sources {
                let $op { dy, panel, g, h, order, key, n, s, m, p, d, v, .. } = *self;
                Sources { dy, panel, g, h, order, key, n, s, m, p, d, v }
            }
        }
    )* };
}
sources!(SegmentSum, SegmentRows);

impl SegmentSum {
    /// Creates the sum of `n` rows of dy alone.
    pub fn of(dtable: Dst<F32>, dy: Span<Act>, by: &Sorted, [n, d, v]: [usize; 3]) -> Self {
        let (panel, g, h) = (Span::empty(), Span::empty(), Span::empty());
        SegmentSum { dtable, dy, panel, g, h, order: by.order, key: by.key, n, s: 0, m: 0, p: 0, d, v }
    }
}

impl Sources {
    /// Returns the number of rows in all sources (R).
    pub fn rows(&self) -> usize {
        self.n.saturating_add(self.s).saturating_add(area([self.m, self.p]))
    }

    fn check(&self) -> Result<(), String> {
        let (r, d) = (self.rows(), self.d);
        // Sources that may be empty.
        let or = |span: Span<Act>, need: usize| if span.is_empty() { need } else { span.len() };
        fits(&[
            ("dy", or(self.dy, area([self.n, d])), area([self.n, d])),
            ("panel", or(self.panel, area([self.s, d])), area([self.s, d])),
            ("g", self.g.len(), area([self.m, self.p])),
            ("h", or(self.h, area([self.m, d])), area([self.m, d])),
            ("order", self.order.len(), r),
            ("key", self.key.len(), r),
        ])
    }

    /// Returns the number of given rows. Those of empty sources are zeros and are not added.
    fn given(&self) -> usize {
        let or_none = |span: Span<Act>, rows: usize| if span.is_empty() { 0 } else { rows };
        or_none(self.dy, self.n) + or_none(self.panel, self.s) + self.m * self.p
    }

    /// Counts one addition per element, one multiplication where pairs have one, and each source once. No destination.
    fn cost(&self) -> Cost {
        let times = if self.h.is_empty() { 0 } else { self.m * self.p };
        Cost::work(((self.given() + times) * self.d) as f64, 0.0)
            .moves(self.dy, self.n * self.d)
            .moves(self.panel, self.s * self.d)
            .moves(self.g, self.m * self.p)
            .moves(self.h, self.m * self.d)
            .moves(self.order, self.rows())
            .moves(self.key, self.rows())
    }

    /// Calls `add(place where the run begins, id, k, term)` for every term, in order.
    fn each<S: Scalar>(&self, m: &Lent<'_, S>, add: &mut dyn FnMut(usize, usize, usize, S)) {
        let (dy, panel, g, h) = (m.get(self.dy), m.get(self.panel), m.get(self.g), m.get(self.h));
        let (order, key, d) = (m.ids(self.order), m.ids(self.key), self.d);
        let mut begin = 0;
        for j in 0..self.rows() {
            if j > 0 && key[j] != key[j - 1] {
                begin = j;
            }
            if key[j] as usize >= self.v {
                continue;
            }
            let row = order[j] as usize;
            for k in 0..d {
                let zero_if_empty = |x: &[S], at: usize| if x.is_empty() { S::zero() } else { x[at * d + k] };
                let term = if row < self.n {
                    zero_if_empty(dy, row)
                } else if row < self.n + self.s {
                    zero_if_empty(panel, row - self.n)
                } else {
                    let pair = row - self.n - self.s;
                    g[pair] * if h.is_empty() { S::one() } else { h[pair / self.p * d + k] }
                };
                add(begin, key[j] as usize, k, term);
            }
        }
    }
}

impl Op for SegmentSum {
    fn check(&self) -> Result<(), String> {
        let vd = area([self.v, self.d]);
        fits(&[("dtable", self.dtable.len_or(vd), vd)])?;
        self.sources().check()
    }

    fn cost(&self) -> Cost {
        let of = self.sources();
        if !self.dtable.wanted() {
            return Cost::default();
        }
        of.cost().scatters(self.dtable, of.given().min(self.v) * self.d, self.v * self.d)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let mut sum = vec![S::zero(); self.v * self.d];
        self.sources().each(m, &mut |_, id, k, term| sum[id * self.d + k] += term);
        m.compute(self.dtable, sum.len(), |i| sum[i]);
    }
}

impl Op for SegmentRows {
    fn check(&self) -> Result<(), String> {
        let of = self.sources();
        fits(&[("rows", self.rows.len(), area([of.rows(), self.d]))])?;
        of.check()
    }

    fn cost(&self) -> Cost {
        let of = self.sources();
        of.cost().moves(self.rows, of.rows() * self.d)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let mut sum = vec![S::zero(); self.sources().rows() * self.d];
        self.sources().each(m, &mut |begin, _, k, term| sum[begin * self.d + k] += term);
        m.compute(Dst::Write(self.rows), sum.len(), |i| sum[i]);
    }
}

/// [N, S, M, P, D, V], kind of ids, empty sources.
const SHAPES: [([usize; 6], &str, &str); 17] = [
    ([0, 0, 0, 1, 8, 3], "any", ""),
    ([1, 0, 0, 0, 1, 1], "any", ""),
    ([0, 1, 0, 0, 7, 2], "any", ""),
    ([0, 0, 1, 1, 3, 2], "any", ""),
    ([3, 7, 5, 3, 5, 7], "some none", ""),
    ([64, 0, 0, 0, 8, 5], "equal", ""),
    ([65, 64, 32, 2, 16, 9], "equal", ""),
    ([70, 130, 90, 3, 33, 6], "any", ""),
    ([300, 50, 40, 4, 64, 333], "some none", ""),
    ([100, 33, 21, 7, 10, 5000], "any", ""),
    ([0, 600, 200, 1, 130, 4], "any", ""),
    ([50, 60, 70, 2, 1, 20], "some none", "dy h"),
    ([50, 60, 70, 1, 12, 20], "any", "panel"),
    ([200, 60, 70, 2, 1, 20], "any", "dy panel h"),
    ([90, 20, 30, 2, 24, 40], "none", ""),
    // A run over many chunks, between others.
    ([2500, 300, 400, 2, 8, 50], "hot", ""),
    ([9000, 300, 400, 1, 1, 50], "hot", "h"),
];

/// Returns the cases of [`SegmentSum`].
/// The case of `segment_sum` is the backward pass of a gather of all R rows. Its upstream gradient is assembled from
/// the three sources.
pub fn cases() -> Vec<Case> {
    SHAPES
        .into_iter()
        .filter(|([n, s, m, p, d, _], ..)| affordable((n + s + m * p) * d))
        .map(|(sizes, kind, empty)| {
            let [n, s, m, p, d, v] = sizes;
            let mut plan = Planner::new();
            let rows = n + s + m * p;
            let (y, table, dtable, id) = (plan.var(rows * d), plan.weight(v * d), plan.stat(v * d), plan.index(rows));
            let fwd = GatherTable { y: y.y, table, id, n: rows, d, v };
            let (of, fills) = planned(&mut plan, y.dy, sizes, kind, empty);
            let Sources { dy, panel, g, h, order, key, .. } = of;
            let bwd = SegmentSum { dtable: Dst::Write(dtable), dy, panel, g, h, order, key, n, s, m, p, d, v };
            let case = Case::new(format!("for segment_sum {sizes:?} {kind}, empty: {empty}"), plan, fwd, bwd)
                .input(table, 1.0, dtable)
                .output(y.y, y.dy)
                .ids(id, fills.ids.clone());
            fills.into(case, &of, y.dy)
        })
        .collect()
}

pub fn rows_cases() -> Vec<Case> {
    SHAPES
        .into_iter()
        .filter(|([n, s, m, p, d, _], ..)| affordable((n + s + m * p) * d))
        .map(|(sizes, kind, empty)| {
            let [n, s, m, p, d, v] = sizes;
            let mut plan = Planner::new();
            let r = n + s + m * p;
            let (dy, rows) = (plan.act(r * d), plan.stat(r * d));
            let (of, fills) = planned(&mut plan, dy, sizes, kind, empty);
            let Sources { dy: first, panel, g, h, order, key, .. } = of;
            let op = SegmentRows { rows, dy: first, panel, g, h, order, key, n, s, m, p, d, v };
            fills.into(Case::new(format!("{sizes:?} {kind}, empty: {empty}"), plan, op, NoOp), &of, dy)
        })
        .collect()
}

/// The contents of the spans of [`planned`].
struct Fills {
    ids: Vec<u32>,
    dy: Vec<f32>,
    g: Vec<f32>,
    h: Vec<f32>,
    order: Vec<u32>,
    key: Vec<u32>,
}

impl Fills {
    fn into(self, case: Case, of: &Sources, dy: Span<Act>) -> Case {
        let case = case.values(dy, self.dy).values(of.g, self.g).ids(of.order, self.order).ids(of.key, self.key);
        if of.h.is_empty() { case } else { case.values(of.h, self.h) }
    }
}

/// Plans sources that equal `all` (R,D), the gradients of all rows.
/// h are powers of two and g small numbers, so that their products are exact in bf16 too.
fn planned(plan: &mut Planner, all: Span<Act>, sizes: [usize; 6], kind: &str, empty: &str) -> (Sources, Fills) {
    let [n, s, m, p, d, v] = sizes;
    let (rows, none) = (n + s + m * p, |name: &str| empty.split(' ').any(|e| e == name));
    let by = Sorted::plan(plan, rows);
    let part = |name: &str, start: usize, len: usize| if none(name) { Span::empty() } else { all.slice(start, len) };
    let of = Sources {
        dy: part("dy", 0, n * d),
        panel: part("panel", n * d, s * d),
        g: plan.stat(m * p),
        h: if none("h") { Span::empty() } else { plan.act(m * d) },
        order: by.order,
        key: by.key,
        n,
        s,
        m,
        p,
        d,
        v,
    };
    let mut draw = Stream::new(8, Purpose::Test, (rows + v) as u32);
    let ids: Vec<u32> = (0..rows)
        .map(|i| match kind {
            "equal" => (v / 3) as u32,
            "none" => NO_ID,
            "some none" if i % 5 == 0 => [NO_ID, v as u32][i / 5 % 2],
            "hot" if i % 7 < 5 => 17,
            _ => draw.below(v as u64) as u32,
        })
        .collect();
    let g: Vec<f32> = (0..m * p).map(|_| (draw.below(15) as f32 - 7.0) / 8.0).collect();
    let h: Vec<f32> = (0..m * d).map(|_| if none("h") { 1.0 } else { 2f32.powi(draw.below(5) as i32 - 2) }).collect();
    let dy = (0..rows * d)
        .map(|at| match at / d {
            row if row < n => draw.normal() * !none("dy") as u8 as f32,
            row if row < n + s => draw.normal() * !none("panel") as u8 as f32,
            row => g[row - n - s] * h[(row - n - s) / p * d + at % d],
        })
        .collect();
    let (order, key) = sorted(&ids, v + 1).into_iter().unzip();
    // A special row past `dtable` is skipped like NO_ID. The gather has no such row and sees NO_ID.
    let ids = ids.into_iter().map(|id| if id as usize == v { NO_ID } else { id }).collect();
    (of, Fills { ids, dy, g, h, order, key })
}
