/*! concat: concatenation of rows.
fwd: y = [a | b | c]                         a (N,A)  b (N,B)  c (N,C)  y (N,A+B+C)
bwd: da, db, dc = their columns of dy
A missing part has width 0 and an empty span.
*/

use super::{Cost, Dst, Op, area, case::Case, fits};
use crate::mem::{Act, Lent, Planner, Scalar};

op! {
    /// y = [a | b | c].
    ConcatFwd = "concat_fwd" {
        write { /** (N,A+B+C) */ y: Act }
        read { /** (N,A) */ a: Act, /** (N,B) */ b: Act, /** (N,C) */ c: Act }
        with { n: usize, /** A, B, C */ widths: [usize; 3] }
    }
}

op! {
    /// The gradients of [`ConcatFwd`].
    ConcatBwd = "concat_bwd" {
        grad { /** (N,A) */ da: Act, /** (N,B) */ db: Act, /** (N,C) */ dc: Act }
        read { /** (N,A+B+C) */ dy: Act }
        with { n: usize, /** A, B, C */ widths: [usize; 3] }
    }
}

/// Returns the first column of each part.
pub(crate) fn starts([a, b, _]: [usize; 3]) -> [usize; 3] {
    [0, a, a + b]
}

impl Op for ConcatFwd {
    fn check(&self) -> Result<(), String> {
        let (n, [a, b, c]) = (self.n, self.widths);
        fits(&[
            ("y", self.y.len(), area([n, a.saturating_add(b).saturating_add(c)])),
            ("a", self.a.len(), area([n, a])),
            ("b", self.b.len(), area([n, b])),
            ("c", self.c.len(), area([n, c])),
        ])
    }

    fn cost(&self) -> Cost {
        let (n, [a, b, c]) = (self.n, self.widths);
        Cost::default().moves(self.y, n * (a + b + c)).moves(self.a, n * a).moves(self.b, n * b).moves(self.c, n * c)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let d: usize = self.widths.iter().sum();
        let (parts, starts) = ([m.get(self.a), m.get(self.b), m.get(self.c)], starts(self.widths));
        m.compute(Dst::Write(self.y), self.n * d, |at| {
            let (row, col) = (at / d, at % d);
            // The last non-empty part that begins at or before the column.
            let part = (0..3).rfind(|i| col >= starts[*i] && self.widths[*i] > 0).expect("a column of some part");
            parts[part][row * self.widths[part] + col - starts[part]]
        });
    }
}

impl Op for ConcatBwd {
    fn check(&self) -> Result<(), String> {
        let (n, [a, b, c]) = (self.n, self.widths);
        fits(&[
            ("da", self.da.len_or(area([n, a])), area([n, a])),
            ("db", self.db.len_or(area([n, b])), area([n, b])),
            ("dc", self.dc.len_or(area([n, c])), area([n, c])),
            ("dy", self.dy.len(), area([n, a.saturating_add(b).saturating_add(c)])),
        ])
    }

    fn cost(&self) -> Cost {
        let parts = [self.da, self.db, self.dc].into_iter().zip(self.widths);
        let part = |(dst, width): (Dst<Act>, usize)| {
            let n = dst.wanted() as usize * self.n * width;
            Cost::default().gradient(dst, n).moves(self.dy, n)
        };
        parts.map(part).sum()
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (d, dy) = (self.widths.iter().sum::<usize>(), m.get(self.dy));
        for ((to, width), start) in [self.da, self.db, self.dc].into_iter().zip(self.widths).zip(starts(self.widths)) {
            m.compute(to, self.n * width, |at| dy[at / width * d + start + at % width]);
        }
    }
}

pub fn cases() -> Vec<Case> {
    // Rows, widths: whole vectors of eight, parts of them, and missing parts.
    [
        (0, [8, 8, 8]),
        (1, [1, 1, 1]),
        (3, [7, 3, 1]),
        (40, [64, 32, 8]),
        (33, [64, 128, 0]),
        (21, [16, 0, 24]),
        (5, [0, 8, 0]),
        (19, [0, 5, 3]),
        (300, [33, 0, 0]),
        (257, [10, 6, 16]),
        (12, [256, 100, 300]),
        (4, [0, 0, 0]),
    ]
    .into_iter()
    .map(|(n, widths)| {
        let mut p = Planner::new();
        let [a, b, c] = widths.map(|w| p.var(n * w));
        let y = p.var(n * widths.iter().sum::<usize>());
        let fwd = ConcatFwd { y: y.y, a: a.y, b: b.y, c: c.y, n, widths };
        let bwd = ConcatBwd { da: Dst::Write(a.dy), db: Dst::Write(b.dy), dc: Dst::Write(c.dy), dy: y.dy, n, widths };
        let case = Case::new(format!("n{n} {widths:?}"), p, fwd, bwd).output(y.y, y.dy);
        [a, b, c].into_iter().fold(case, |case, x| case.input(x.y, 1.0, x.dy))
    })
    .collect()
}
