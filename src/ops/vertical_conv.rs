/*! vertical_conv: the vertical convolutions of Caser (Tang and Wang 2018): F weighted sums of the L newest rows, each
channel separately.
fwd: y[t,(f,k)] = b_f + sum_{l<L} w[f,l] x[t-L+1+l, k]        x (N,D)  w (F,L)  b (F)
     y (N,F*D), filter f at columns f*D ..
bwd: dx[r,k] = sum_f sum_l w[f,l] dy[r+L-1-l, (f,k)],   dw[f,l] = sum_t sum_k x[t-L+1+l,k] dy[t,(f,k)]
     db_f = sum_t sum_k dy[t,(f,k)]

The window of a row ends at it and stays inside its sequence (`cu`), the oldest tap first. Rows before the start of the
sequence count as zero vectors. Rows past the last sequence have no window: y is 0, and they do not contribute to the
gradients.

With F of 4 and L of 5 this is two operations per moved number, too few for tensor cores: backends compute in f32.
*/

use super::{Cost, Dst, Op, area, case::Case, cost::apart, dilated_conv::sequences, fits};
use crate::mem::{Act, F32, Lent, Planner, Scalar, U32};

op! {
    /// Computes y = F weighted sums of the window of each row.
    VerticalConvFwd = "vertical_conv_fwd" {
        write { /** (N,F*D) */ y: Act }
        read { /** (N,D) */ x: Act, /** (F,L) */ w: F32, /** (F) */ bias: F32, /** (B+1) */ cu: U32 }
        with { b: usize, n: usize, d: usize, l: usize, f: usize }
    }
}

op! {
    /// Computes the gradients of [`VerticalConvFwd`].
    VerticalConvBwd = "vertical_conv_bwd" {
        grad { /** (N,D) */ dx: Act, /** (F,L) */ dw: F32, /** (F) */ db: F32 }
        read { /** (N,F*D) */ dy: Act, /** (N,D) */ x: Act, /** (F,L) */ w: F32, /** (B+1) */ cu: U32 }
        with { b: usize, n: usize, d: usize, l: usize, f: usize }
    }
}

/// Checks the sizes. `Err` names the value out of range. The kernels count rows inside a tile in 32 bits.
fn sizes(d: usize, l: usize, f: usize) -> Result<(), String> {
    match d == 0 || f == 0 || l == 0 || l >= 1 << 30 {
        true => Err(format!("{f} vertical filters over windows of {l} rows of {d}")),
        false => Ok(()),
    }
}

/// Returns the rows inside the windows of all rows ([`cost`](super::cost): as if lengths were equal).
fn inside(b: usize, n: usize, l: usize) -> usize {
    (0..l).map(|back| apart(b, n, back)).sum()
}

impl Op for VerticalConvFwd {
    fn check(&self) -> Result<(), String> {
        let (n, d, l, f) = (self.n, self.d, self.l, self.f);
        sizes(d, l, f)?;
        fits(&[
            ("y", self.y.len(), area([n, f, d])),
            ("x", self.x.len(), area([n, d])),
            ("w", self.w.len(), area([f, l])),
            ("bias", self.bias.len(), f),
            ("cu", self.cu.len(), self.b.saturating_add(1)),
        ])
    }

    fn cost(&self) -> Cost {
        let (b, n, d, l, f) = (self.b, self.n, self.d, self.l, self.f);
        // One multiply-add each, the first onto the bias.
        Cost::work((2 * inside(b, n, l) * f * d) as f64, 0.0)
            .moves(self.y, n * f * d)
            .moves(self.x, n * d)
            .moves(self.w, f * l)
            .moves(self.bias, f)
            .moves(self.cu, b + 1)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (n, d, l, f) = (self.n, self.d, self.l, self.f);
        let sequence = sequences(&m.ids(self.cu)[..self.b + 1], n);
        let (x, w, bias) = (m.get(self.x), m.get(self.w), m.get(self.bias));
        m.compute(Dst::Write(self.y), n * f * d, |i| {
            let (t, filter, k) = (i / (f * d), i / d % f, i % d);
            if !sequence[t].contains(&t) {
                return S::zero();
            }
            let row = |tap: usize| (t + 1 + tap).checked_sub(l).filter(|row| sequence[t].contains(row));
            let of = |tap: usize| row(tap).map(|row| w[filter * l + tap] * x[row * d + k]);
            bias[filter] + (0..l).filter_map(of).sum()
        });
    }
}

impl Op for VerticalConvBwd {
    fn check(&self) -> Result<(), String> {
        let (n, d, l, f) = (self.n, self.d, self.l, self.f);
        sizes(d, l, f)?;
        fits(&[
            ("dx", self.dx.len_or(area([n, d])), area([n, d])),
            ("dw", self.dw.len_or(area([f, l])), area([f, l])),
            ("db", self.db.len_or(f), f),
            ("dy", self.dy.len(), area([n, f, d])),
            ("x", self.x.len(), area([n, d])),
            ("w", self.w.len(), area([f, l])),
            ("cu", self.cu.len(), self.b.saturating_add(1)),
        ])
    }

    fn cost(&self) -> Cost {
        let (b, n, d, l, f) = (self.b, self.n, self.d, self.l, self.f);
        let [dx, dw, db] = [self.dx.wanted(), self.dw.wanted(), self.db.wanted()].map(usize::from);
        let any = dx | dw | db;
        Cost::work(((2 * (dx + dw) * inside(b, n, l) + db * n) * f * d) as f64, 0.0)
            .gradient(self.dx, n * d)
            .gradient(self.dw, f * l)
            .gradient(self.db, f)
            .moves(self.dy, any * n * f * d)
            .moves(self.x, dw * n * d)
            .moves(self.w, dx * f * l)
            .moves(self.cu, any * (b + 1))
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (n, d, l, f) = (self.n, self.d, self.l, self.f);
        let sequence = sequences(&m.ids(self.cu)[..self.b + 1], n);
        let (dy, x, w) = (m.get(self.dy), m.get(self.x), m.get(self.w));
        m.compute(self.dx, n * d, |i| {
            let (r, k) = (i / d, i % d);
            // The row that sees r with this tap.
            let seen_by = |tap: usize| Some(r + l - 1 - tap).filter(|t| sequence[r].contains(t));
            let of =
                |tap: usize| seen_by(tap).map(|t| (0..f).map(|j| w[j * l + tap] * dy[(t * f + j) * d + k]).sum::<S>());
            (0..l).filter_map(of).sum()
        });
        m.compute(self.dw, f * l, |i| {
            let (filter, tap) = (i / l, i % l);
            let pair = |t: usize| (t + 1 + tap).checked_sub(l).filter(|r| sequence[t].contains(r)).map(|r| (t, r));
            let dot = |(t, r): (usize, usize)| (0..d).map(|k| x[r * d + k] * dy[(t * f + filter) * d + k]).sum::<S>();
            (0..n).filter_map(pair).map(dot).sum()
        });
        m.compute(self.db, f, |filter| {
            let all = (0..n).filter(|t| sequence[*t].contains(t));
            all.map(|t| (0..d).map(|k| dy[(t * f + filter) * d + k]).sum::<S>()).sum()
        });
    }
}

pub fn cases() -> Vec<Case> {
    // Many short sequences, a third of them empty: a tile's rows belong to dozens of sequences.
    let crumbs: Vec<usize> = (0..150).map(|s| [0, 1, 3, 0, 2, 1][s % 6]).collect();
    // (lengths, rows past the last sequence, D, L, F)
    let shapes: [(&[usize], usize, usize, usize, usize); 15] = [
        (&[1], 0, 1, 1, 1),
        (&[5, 1, 3], 0, 8, 3, 4),
        (&[7, 0, 2, 9], 0, 3, 5, 2),
        (&[12, 1, 1, 15], 3, 7, 4, 3),
        (&[9, 0, 4], 6, 16, 2, 8),
        (&[2, 1, 3], 0, 5, 9, 3),
        (&[], 0, 8, 2, 3),
        (&[], 5, 8, 2, 3),
        (&[0, 0], 0, 8, 3, 3),
        (&[33, 8], 0, 9, 1, 5),
        (&crumbs, 3, 24, 3, 5),
        // Several tiles of rows and parts of the sums, several groups of filters and of taps.
        (&[150, 3, 301, 70], 9, 64, 5, 4),
        (&[40, 120], 2, 50, 9, 6),
        (&[70, 20], 0, 130, 20, 9),
        (&[2100], 0, 8, 33, 1),
    ];
    shapes
        .into_iter()
        .map(|(lengths, rest, d, l, f)| {
            let (b, n) = (lengths.len(), lengths.iter().sum::<usize>() + rest);
            let mut p = Planner::new();
            let (x, y, cu) = (p.var(n * d), p.var(n * f * d), p.index(b + 1));
            let (w, dw, bias, db) = (p.weight(f * l), p.stat(f * l), p.weight(f), p.stat(f));
            let mut ends = vec![0u32];
            lengths.iter().for_each(|len| ends.push(ends[ends.len() - 1] + *len as u32));
            let fwd = VerticalConvFwd { y: y.y, x: x.y, w, bias, cu, b, n, d, l, f };
            let (dx, dw_to, db_to) = (Dst::Write(x.dy), Dst::Write(dw), Dst::Write(db));
            let bwd = VerticalConvBwd { dx, dw: dw_to, db: db_to, dy: y.dy, x: x.y, w, cu, b, n, d, l, f };
            let name = match lengths.len() {
                0..=8 => format!("lengths{lengths:?}+{rest}"),
                many => format!("{many} sequences +{rest}"),
            };
            Case::new(format!("{name} d{d} l{l} f{f}"), p, fwd, bwd)
                .input(x.y, 1.0, x.dy)
                .input(w, 0.5, dw)
                .input(bias, 0.5, db)
                .output(y.y, y.dy)
                .ids(cu, ends)
        })
        .collect()
}
