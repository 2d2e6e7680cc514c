/*! item_dot: the score of one item for each row, to predict a rating or whether there is one.
fwd: z_m = <h_m, table[id_m]> + bias[id_m] + shift
     h (M,D) act   table (V,D) weight   bias (V) f32, or empty: none   shift a constant   id (M)   z (M) f32
bwd: dh_m = dz_m table[id_m]                                                              dh (M,D) act
     The gradients of table and bias are sums over equal ids of dz_m h_m and dz_m. `SegmentSum` computes them as pairs
     with one id per row ([`ItemDotFwd::table_gradient`], [`ItemDotFwd::bias_gradient`]).
Ids from V on (NO_ID) mean no item: z = 0, dh = 0, for any dz.
*/

use super::{
    Cost, Dst, NO_ID, Op, SegmentSum, area,
    case::Case,
    fits,
    sort_ids::{Sorted, sorted},
};
use crate::{
    base::rng::{Purpose, Stream},
    mem::{Act, F32, Lent, Planner, Scalar, Span, U32, Var},
};

op! {
    /// Computes the score of one item per row.
    ItemDotFwd = "item_dot_fwd" {
        write { /** (M) */ z: F32 }
        read {
            /** (M,D) */ h: Act, /** (V,D) */ table: F32, /** (V), or empty */ bias: F32,
            /** (M) */ id: U32
        }
        with { m: usize, d: usize, v: usize, shift: f32 }
    }
}

op! {
    /// Computes the gradient of the rows of [`ItemDotFwd`].
    ItemDotBwd = "item_dot_bwd" {
        grad { /** (M,D) */ dh: Act }
        read { /** (M) */ dz: F32, /** (V,D) */ table: F32, /** (M) */ id: U32 }
        with { m: usize, d: usize, v: usize }
    }
}

impl ItemDotFwd {
    /// Returns the op for the gradient of the table into `dtable` (V,D), from that of the scores. `by` contains the
    /// sorted ids.
    pub fn table_gradient(&self, dtable: Dst<F32>, dz: Span<F32>, by: &Sorted) -> SegmentSum {
        let ItemDotFwd { h, m, d, v, .. } = *self;
        let (none, Sorted { order, key }) = (Span::empty(), *by);
        SegmentSum { dtable, dy: none, panel: none, g: dz, h, order, key, n: 0, s: 0, m, p: 1, d, v }
    }

    /// Returns the op for the gradient of the bias into `dbias` (V), like [`ItemDotFwd::table_gradient`].
    pub fn bias_gradient(&self, dbias: Dst<F32>, dz: Span<F32>, by: &Sorted) -> SegmentSum {
        SegmentSum { h: Span::empty(), d: 1, ..self.table_gradient(dbias, dz, by) }
    }
}

impl Op for ItemDotFwd {
    fn check(&self) -> Result<(), String> {
        let (m, d, v) = (self.m, self.d, self.v);
        fits(&[
            ("z", self.z.len(), m),
            ("h", self.h.len(), area([m, d])),
            ("table", self.table.len(), area([v, d])),
            ("bias", self.bias.len(), if self.bias.is_empty() { 0 } else { v }),
            ("id", self.id.len(), m),
        ])
    }

    fn cost(&self) -> Cost {
        let (m, d, rows) = (self.m, self.d, self.m.min(self.v));
        Cost::work((m * (2 * d + 1 + !self.bias.is_empty() as usize)) as f64, 0.0)
            .moves(self.z, m)
            .moves(self.h, m * d)
            .weights(self.table, rows * d)
            .moves(self.bias, rows)
            .moves(self.id, m)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (d, h, table, bias) = (self.d, m.get(self.h), m.get(self.table), m.get(self.bias));
        let id = m.ids(self.id);
        m.compute(Dst::Write(self.z), self.m, |i| {
            let k = id[i] as usize;
            if k >= self.v {
                return S::zero();
            }
            let dot: S = h[i * d..][..d].iter().zip(&table[k * d..][..d]).map(|(a, b)| *a * *b).sum();
            dot + bias.get(k).copied().unwrap_or(S::zero()) + S::of(self.shift as f64)
        });
    }
}

impl Op for ItemDotBwd {
    fn check(&self) -> Result<(), String> {
        let (m, d) = (self.m, self.d);
        fits(&[
            ("dh", self.dh.len_or(area([m, d])), area([m, d])),
            ("dz", self.dz.len(), m),
            ("table", self.table.len(), area([self.v, d])),
            ("id", self.id.len(), m),
        ])
    }

    fn cost(&self) -> Cost {
        let (m, d) = (self.dh.wanted() as usize * self.m, self.d);
        Cost::work((m * d) as f64, 0.0)
            .gradient(self.dh, m * d)
            .moves(self.dz, m)
            .weights(self.table, m.min(self.v) * d)
            .moves(self.id, m)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (d, dz, table, id) = (self.d, m.get(self.dz), m.get(self.table), m.ids(self.id));
        m.compute(self.dh, self.m * d, |at| match id[at / d] as usize {
            k if k < self.v => dz[at / d] * table[k * d + at % d],
            _ => S::zero(),
        });
    }
}

/// The ids of a case.
#[derive(Clone, Copy, Debug)]
enum Ids {
    /// Row m has item m: the gradient of the bias is that of z.
    Own,
    /// Any ids; every fifth row has none.
    Any,
    /// The last item in all rows.
    Last,
    /// No item in any row.
    None,
}

/// (M, D, V, kind of ids, shift)
const SHAPES: [(usize, usize, usize, Ids, f32); 13] = [
    (0, 8, 3, Ids::Any, 1.0),
    (1, 1, 1, Ids::Own, 0.0),
    (3, 1, 3, Ids::Own, 3.5),
    (3, 7, 5, Ids::Any, -1.0),
    (7, 8, 7, Ids::Own, 3.5),
    (9, 64, 4, Ids::None, 3.5),
    (33, 64, 33, Ids::Own, 0.0),
    (65, 16, 10, Ids::Last, 3.5),
    (257, 33, 50, Ids::Any, 3.5),
    (1001, 64, 3000, Ids::Any, 0.0),
    (130, 128, 20, Ids::Any, 2.5),
    // Wider than one pass of a warp's lanes.
    (19, 264, 90, Ids::Any, 3.5),
    (10, 520, 90, Ids::Any, 0.0),
];

/// Plans the op of a shape with all its sources. Returns the op, its ids, and the gradient of its output.
fn planned(p: &mut Planner, at: usize) -> (ItemDotFwd, Var, Vec<u32>, Span<F32>) {
    let (m, d, v, ids, shift) = SHAPES[at];
    let h = p.var(m * d);
    let (z, dz, id) = (p.stat(m), p.stat(m), p.index(m));
    // Every third case has no bias, except where its gradient is tested.
    let bias = if let Ids::Own = ids { v } else { [0, v, v][at % 3] };
    let fwd = ItemDotFwd { z, h: h.y, table: p.weight(v * d), bias: p.stat(bias), id, m, d, v, shift };
    let mut draw = Stream::new(29, Purpose::Test, at as u32);
    let ids = (0..m).map(|i| match ids {
        Ids::Own => i as u32,
        // The first id out of range means no item, like NO_ID.
        Ids::Any if i % 5 == 3 => [NO_ID, v as u32][i / 5 % 2],
        Ids::Any => draw.below(v as u64) as u32,
        Ids::Last => v as u32 - 1,
        Ids::None => NO_ID,
    });
    (fwd, h, ids.collect(), dz)
}

fn name(at: usize) -> String {
    let (m, d, v, ids, shift) = SHAPES[at];
    format!("m{m} d{d} v{v} {ids:?} shift{shift}")
}

pub fn cases() -> Vec<Case> {
    (0..SHAPES.len())
        .map(|at| {
            let mut p = Planner::new();
            let (fwd, h, ids, dz) = planned(&mut p, at);
            let ItemDotFwd { z, table, bias, id, m, d, v, .. } = fwd;
            let bwd = ItemDotBwd { dh: Dst::Write(h.dy), dz, table, id, m, d, v };
            let case =
                Case::new(name(at), p, fwd, bwd).input(h.y, 1.0, h.dy).output(z, dz).normal(table, 1.0).ids(id, ids);
            // Central differences of the bias match its gradient where every row has its own item.
            if let Ids::Own = SHAPES[at].3 { case.input(bias, 0.5, dz) } else { case.normal(bias, 0.5) }
        })
        .collect()
}

/// Returns the cases of the gradients.
/// The tested backward pass is that of the table, then that of the bias.
pub fn gradient_cases() -> Vec<Case> {
    let of_table = (0..SHAPES.len()).map(|at| (at, true));
    let of_bias = (0..SHAPES.len()).filter(|at| at % 3 != 0).map(|at| (at, false));
    of_table
        .chain(of_bias)
        .map(|(at, of_table)| {
            let mut p = Planner::new();
            let (fwd, _, ids, dz) = planned(&mut p, at);
            let by = Sorted::plan(&mut p, fwd.m);
            let (order, key) = sorted(&ids, fwd.v).into_iter().unzip();
            let of = if of_table { fwd.table } else { fwd.bias };
            let gradient = p.stat(of.len());
            let to = Dst::Write(gradient);
            let bwd = if of_table { fwd.table_gradient(to, dz, &by) } else { fwd.bias_gradient(to, dz, &by) };
            let what = if of_table { "table" } else { "bias" };
            Case::new(format!("{}, gradient of the {what}", name(at)), p, fwd, bwd)
                .normal(fwd.h, 1.0)
                .normal(fwd.table, 1.0)
                .normal(fwd.bias, 0.5)
                // Its fill comes last and takes precedence.
                .input(of, 1.0, gradient)
                .output(fwd.z, dz)
                .ids(fwd.id, ids)
                .ids(by.order, order)
                .ids(by.key, key)
        })
        .collect()
}
