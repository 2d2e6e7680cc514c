/*! rows: gather the scored rows, and scatter their gradients back.
gather_rows:  y_m = x[row_m]                    x (N,D)   y (M,D)   row (M), equal rows next to each other
scatter_rows: dx[r] = sum of dy_m over the m with row_m = r in order, all other rows 0 (Write) or unchanged (Acc)
Where row_m is [`NO_ROW`] (padding, any number of times), y_m is 0 and dy_m is dropped.
*/

use super::{Cost, Dst, Op, area, case::Case, fits};
use crate::{
    base::rng::{Purpose, Stream},
    mem::{Act, Lent, Planner, Scalar, U32},
};

/// The row number of padding.
pub const NO_ROW: u32 = u32::MAX;

op! {
    /// Computes y = x[row].
    GatherRows = "gather_rows" {
        write { /** (M,D) */ y: Act }
        read { /** (N,D) */ x: Act, /** (M) */ row: U32 }
        with { m: usize, n: usize, d: usize }
    }
}

op! {
    /// Computes the gradient of [`GatherRows`].
    ScatterRows = "scatter_rows" {
        grad { /** (N,D) */ dx: Act }
        read { /** (M,D) */ dy: Act, /** (M) equal rows next to each other, or NO_ROW */ row: U32 }
        with { m: usize, n: usize, d: usize }
    }
}

impl Op for GatherRows {
    fn check(&self) -> Result<(), String> {
        let d = self.d;
        fits(&[
            ("y", self.y.len(), area([self.m, d])),
            ("x", self.x.len(), area([self.n, d])),
            ("row", self.row.len(), self.m),
        ])
    }

    fn cost(&self) -> Cost {
        let (m, d) = (self.m, self.d);
        Cost::default().moves(self.y, m * d).moves(self.x, m.min(self.n) * d).moves(self.row, m)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (d, x, row) = (self.d, m.get(self.x), m.ids(self.row));
        m.compute(Dst::Write(self.y), self.m * d, |at| match row[at / d] {
            NO_ROW => S::zero(),
            row => x[row as usize * d + at % d],
        });
    }
}

impl Op for ScatterRows {
    fn check(&self) -> Result<(), String> {
        let (nd, md) = (area([self.n, self.d]), area([self.m, self.d]));
        fits(&[("dx", self.dx.len_or(nd), nd), ("dy", self.dy.len(), md), ("row", self.row.len(), self.m)])
    }

    fn cost(&self) -> Cost {
        // Rows that occur once are moved, not added.
        let (m, d) = (self.dx.wanted() as usize * self.m, self.d);
        Cost::default().scatters(self.dx, m.min(self.n) * d, self.n * d).moves(self.dy, m * d).moves(self.row, m)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (d, dy, row) = (self.d, m.get(self.dy), m.ids(self.row));
        let mut all = vec![S::zero(); self.n * d];
        for i in (0..self.m).filter(|i| row[*i] != NO_ROW) {
            let to = &mut all[row[i] as usize * d..][..d];
            to.iter_mut().zip(&dy[i * d..][..d]).for_each(|(x, y)| *x += *y);
        }
        m.compute(self.dx, self.n * d, |i| all[i]);
    }
}

pub fn cases() -> Vec<Case> {
    let all = [(0, 5, 8), (1, 1, 1), (3, 7, 3), (20, 100, 64), (333, 1000, 33)].map(|sizes| (sizes, usize::MAX));
    // Every n-th row is padding.
    let padded = [((3, 5, 2), 1), ((40, 64, 16), 3), ((257, 300, 7), 2)];
    // Every row occurs several times.
    let repeated = [((6, 5, 3), 3), ((299, 120, 17), 5)];
    let single = all.into_iter().chain(padded).map(|(sizes, padding)| (sizes, padding, 1));
    single
        .chain(repeated.map(|(sizes, times)| (sizes, 40, times)))
        .map(|((m, n, d), padding, times)| {
            let mut p = Planner::new();
            let (x, y, row) = (p.var(n * d), p.var(m * d), p.index(m));
            let mut rows: Vec<u32> = (0..n as u32).collect();
            Stream::new(4, Purpose::Test, n as u32).shuffle(&mut rows);
            let mut rows: Vec<u32> = rows.into_iter().flat_map(|row| vec![row; times]).collect();
            rows.truncate(m);
            rows.iter_mut().enumerate().filter(|(i, _)| i % padding == padding - 1).for_each(|(_, row)| *row = NO_ROW);
            let fwd = GatherRows { y: y.y, x: x.y, row, m, n, d };
            let bwd = ScatterRows { dx: Dst::Write(x.dy), dy: y.dy, row, m, n, d };
            let padding = if padding < m { format!(" padding {padding}") } else { String::new() };
            Case::new(format!("m{m} n{n} d{d}{padding} x{times}"), p, fwd, bwd)
                .input(x.y, 1.0, x.dy)
                .output(y.y, y.dy)
                .ids(row, rows)
        })
        .collect()
}
