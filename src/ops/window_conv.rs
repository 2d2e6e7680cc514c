/*! window_conv: the horizontal convolutions of Caser (Tang and Wang 2018): filters of every height over the window of
the L newest rows, and the maximum over the window of each.
fwd: c_h[s,f] = b_hf + sum_{k<h} x_{s-h+1+k} w_hk[:,f]        x (N,D)  w (L(L+1)/2,D,F)  b (L,F)   h = 1 .. L
     y[t,(h,f)] = max over s = t-L+h .. t of relu(c_h[s,f])   y (N,L*F), height h at columns (h-1)*F ..
     at[t,(h,f)] = t - s of the maximum, the smallest where several are equal; NO_ROW where the relu is 0
bwd: dc_h[s,f] = sum of dy[t,(h,f)] over the t with at[t,(h,f)] = t - s
     dx_r = sum_h sum_{k<h} dc_h[r+h-1-k] w_hk^T,   dw_hk = sum_s x_{s-h+1+k}^T dc_h[s]
     db_hf = sum of dy[t,(h,f)] over the t with a maximum above 0

w contains one (D,F) matrix per tap: that of height 1, the two of height 2, and so on, the oldest row's first. Every row
t has its own window, which ends at t and stays inside t's sequence (`cu`). Rows before the start of the sequence count
as zero vectors. A convolution there sees only zeros and gives b. Such places take part in the maximum. They have no row
for a gradient, only the bias.

A row of c belongs to up to L windows. c is therefore computed once per row, not once per window.
Rows past the last sequence have no window: y is 0, `at` is NO_ROW.
*/

use super::{Cost, Dst, NO_ROW, Op, area, case::Case, cost::apart, dilated_conv::sequences, fits};
use crate::mem::{Act, F32, Lent, Planner, Scalar, U32};

op! {
    /// Computes y = the maximum over its window of each convolution.
    WindowConvFwd = "window_conv_fwd" {
        write { /** (N,L*F) */ y: Act, /** (N,L*F), kept for the backward pass: rows back to the maximum */ at: U32 }
        read {
            /** (N,D) */ x: Act, /** (L(L+1)/2,D,F) */ w: F32, /** (L,F) */ bias: F32, /** (B+1) */ cu: U32
        }
        with { b: usize, n: usize, d: usize, l: usize, f: usize }
    }
}

op! {
    /// Computes the gradients of [`WindowConvFwd`].
    WindowConvBwd = "window_conv_bwd" {
        grad { /** (N,D) */ dx: Act, /** (L(L+1)/2,D,F) */ dw: F32, /** (L,F) */ db: F32 }
        read {
            /** (N,L*F) */ dy: Act, /** (N,L*F) */ at: U32, /** (N,D) */ x: Act, /** (L(L+1)/2,D,F) */ w: F32,
            /** (B+1) */ cu: U32
        }
        with { b: usize, n: usize, d: usize, l: usize, f: usize }
    }
}

/// Returns the number of taps of all heights up to `l`.
pub fn taps(l: usize) -> usize {
    area([l, l.saturating_add(1)]) / 2
}

/// Returns the taps of all heights and rows inside their sequences ([`cost`](super::cost): as if lengths were equal).
/// Taps `back` rows back belong to the l - back heights above.
fn inside(b: usize, n: usize, l: usize) -> usize {
    (0..l).map(|back| (l - back) * apart(b, n, back)).sum()
}

/// Checks the sizes. `Err` names the value out of range. Rows back are counted in 32 bits.
fn sizes(d: usize, l: usize, f: usize) -> Result<(), String> {
    match d == 0 || f == 0 || l == 0 || l >= 1 << 15 {
        true => Err(format!("convolutions of {f} filters a height over windows of {l} rows of {d}")),
        false => Ok(()),
    }
}

impl Op for WindowConvFwd {
    const PRODUCTS: bool = true;

    fn check(&self) -> Result<(), String> {
        let (n, d, l, f) = (self.n, self.d, self.l, self.f);
        sizes(d, l, f)?;
        fits(&[
            ("y", self.y.len(), area([n, l, f])),
            ("at", self.at.len(), area([n, l, f])),
            ("x", self.x.len(), area([n, d])),
            ("w", self.w.len(), area([taps(l), d, f])),
            ("bias", self.bias.len(), area([l, f])),
            ("cu", self.cu.len(), self.b.saturating_add(1)),
        ])
    }

    fn cost(&self) -> Cost {
        let (b, n, d, l, f) = (self.b, self.n, self.d, self.l, self.f);
        Cost::work((2 * inside(b, n, l) * d * f) as f64, 0.0)
            .moves(self.y, n * l * f)
            .moves(self.at, n * l * f)
            .moves(self.x, n * d)
            .weights(self.w, taps(l) * d * f)
            .moves(self.bias, l * f)
            .moves(self.cu, b + 1)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (n, d, l, f) = (self.n, self.d, self.l, self.f);
        let sequence = sequences(&m.ids(self.cu)[..self.b + 1], n);
        let (x, w, bias) = (m.get(self.x), m.get(self.w), m.get(self.bias));
        let (y, at) = (m.get_mut(self.y), m.ids_mut(self.at));
        let mut c = vec![S::zero(); f];
        for (t, rows) in sequence.iter().enumerate() {
            for h in 1..=l {
                let first = (t * l + h - 1) * f;
                let (y, at) = (&mut y[first..][..f], &mut at[first..][..f]);
                y.fill(S::zero());
                at.fill(NO_ROW);
                if !rows.contains(&t) {
                    continue;
                }
                // One window, from its newest place back. A value that is not larger than all newer ones changes
                // nothing.
                for back in 0..=l - h {
                    c.copy_from_slice(&bias[(h - 1) * f..][..f]);
                    for k in 0..h {
                        let Some(row) = (t + k + 1).checked_sub(back + h).filter(|row| rows.contains(row)) else {
                            continue;
                        };
                        for i in 0..d {
                            let (x, w) = (x[row * d + i], &w[((taps(h - 1) + k) * d + i) * f..][..f]);
                            c.iter_mut().zip(w).for_each(|(c, w)| *c += x.product(*w));
                        }
                    }
                    for (j, c) in c.iter().enumerate() {
                        if c.beats(y[j]) {
                            (y[j], at[j]) = (*c, back as u32);
                        }
                    }
                }
            }
        }
    }
}

impl Op for WindowConvBwd {
    const PRODUCTS: bool = true;

    fn check(&self) -> Result<(), String> {
        let (n, d, l, f) = (self.n, self.d, self.l, self.f);
        sizes(d, l, f)?;
        let weights = area([taps(l), d, f]);
        fits(&[
            ("dx", self.dx.len_or(area([n, d])), area([n, d])),
            ("dw", self.dw.len_or(weights), weights),
            ("db", self.db.len_or(area([l, f])), area([l, f])),
            ("dy", self.dy.len(), area([n, l, f])),
            ("at", self.at.len(), area([n, l, f])),
            ("x", self.x.len(), area([n, d])),
            ("w", self.w.len(), weights),
            ("cu", self.cu.len(), self.b.saturating_add(1)),
        ])
    }

    fn cost(&self) -> Cost {
        let (b, n, d, l, f) = (self.b, self.n, self.d, self.l, self.f);
        let [dx, dw, db] = [self.dx.wanted(), self.dw.wanted(), self.db.wanted()].map(usize::from);
        let any = dx | dw | db;
        // dc is zero where a row of c is the maximum of no window. It is multiplied as a whole.
        Cost::work((2 * (dx + dw) * inside(b, n, l) * d * f) as f64, 0.0)
            .gradient(self.dx, n * d)
            .gradient(self.dw, taps(l) * d * f)
            .gradient(self.db, l * f)
            .moves(self.dy, any * n * l * f)
            .moves(self.at, any * n * l * f)
            .moves(self.x, dw * n * d)
            .weights(self.w, dx * taps(l) * d * f)
            .moves(self.cu, (dx | dw) * (b + 1))
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (n, d, l, f) = (self.n, self.d, self.l, self.f);
        let columns = l * f;
        let sequence = sequences(&m.ids(self.cu)[..self.b + 1], n);
        let (dy, at, x, w) = (m.get(self.dy), m.ids(self.at), m.get(self.x), m.get(self.w));
        // Each dy goes to the row of c with the maximum. A maximum before the sequence's start has no row.
        let mut dc = vec![S::zero(); n * columns];
        for i in (0..n * columns).filter(|i| at[*i] != NO_ROW) {
            let t = i / columns;
            if at[i] as usize <= t - sequence[t].start {
                dc[i - at[i] as usize * columns] += dy[i];
            }
        }
        let mut dx = vec![S::zero(); n * d];
        let mut dw = vec![S::zero(); taps(l) * d * f];
        for s in 0..n {
            for h in 1..=l {
                let dc = &dc[(s * l + h - 1) * f..][..f];
                for k in 0..h {
                    let Some(row) = (s + k + 1).checked_sub(h).filter(|row| sequence[s].contains(row)) else {
                        continue;
                    };
                    for i in 0..d {
                        let at = ((taps(h - 1) + k) * d + i) * f;
                        dx[row * d + i] += dc.iter().zip(&w[at..]).map(|(dc, w)| dc.product(*w)).sum();
                        let x = x[row * d + i];
                        dw[at..][..f].iter_mut().zip(dc).for_each(|(dw, dc)| *dw += x.product(*dc));
                    }
                }
            }
        }
        m.compute(self.dx, n * d, |i| dx[i]);
        m.compute(self.dw, dw.len(), |i| dw[i]);
        let seen = |c: usize| (0..n).map(move |t| t * columns + c).filter(|i| at[*i] != NO_ROW);
        m.compute(self.db, columns, |c| seen(c).map(|i| dy[i]).sum());
    }
}

/// The choice of a case's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Numbers {
    Random,
    /// Rows of x all equal: maxima inside a sequence are ties.
    Equal,
    /// A bias so large that the places before a sequence's start often win.
    LargeBias,
}

pub fn cases() -> Vec<Case> {
    use Numbers::{Equal, LargeBias, Random};
    // Many short sequences, a third of them empty: a tile's rows belong to dozens of sequences.
    let crumbs: Vec<usize> = (0..150).map(|s| [0, 1, 3, 0, 2, 1][s % 6]).collect();
    // (lengths, rows past the last sequence, D, L, F)
    type Shape<'a> = (&'a [usize], usize, usize, usize, usize, Numbers);
    let shapes: [Shape; 20] = [
        (&[1], 0, 1, 1, 1, Random),
        (&[5, 1, 3], 0, 8, 3, 4, Random),
        (&[7, 0, 2, 9], 0, 3, 5, 2, Random),
        (&[12, 1, 1, 15], 3, 7, 4, 3, Random),
        (&[9, 0, 4], 6, 16, 2, 8, LargeBias),
        // A window longer than every sequence.
        (&[2, 1, 3], 0, 5, 9, 3, Random),
        (&[2, 1, 3], 0, 5, 9, 3, LargeBias),
        (&[], 0, 8, 2, 3, Random),
        (&[], 5, 8, 2, 3, Random),
        (&[0, 0], 0, 8, 3, 3, Random),
        (&[6, 3], 0, 4, 1, 5, Random),
        (&[20, 3], 0, 16, 5, 16, Equal),
        (&crumbs, 3, 24, 3, 5, Random),
        (&[1; 40], 0, 8, 4, 8, LargeBias),
        // Several tiles of rows, and more than one part of the sums.
        (&[150, 3, 301, 70], 9, 64, 5, 16, Random),
        // Several tiles of columns, which begin inside a height.
        (&[40, 120], 2, 24, 9, 20, Random),
        (&[70], 0, 33, 2, 70, Equal),
        // Wider than a tile of the backward pass.
        (&[60, 31], 0, 130, 3, 7, Random),
        // The longest window that every backend supports.
        (&[90, 100], 0, 3, 32, 2, Random),
        (&[90, 60], 0, 2, 32, 3, LargeBias),
    ];
    shapes
        .into_iter()
        .map(|(lengths, rest, d, l, f, numbers)| {
            let (b, n) = (lengths.len(), lengths.iter().sum::<usize>() + rest);
            let mut p = Planner::new();
            let (x, y, at, cu) = (p.var(n * d), p.var(n * l * f), p.index(n * l * f), p.index(b + 1));
            let (w, dw) = (p.weight(taps(l) * d * f), p.stat(taps(l) * d * f));
            let (bias, db) = (p.stat(l * f), p.stat(l * f));
            let mut ends = vec![0u32];
            lengths.iter().for_each(|len| ends.push(ends[ends.len() - 1] + *len as u32));
            let fwd = WindowConvFwd { y: y.y, at, x: x.y, w, bias, cu, b, n, d, l, f };
            let (dx, dw_to, db_to) = (Dst::Write(x.dy), Dst::Write(dw), Dst::Write(db));
            let bwd = WindowConvBwd { dx, dw: dw_to, db: db_to, dy: y.dy, at, x: x.y, w, cu, b, n, d, l, f };
            let name = match lengths.len() {
                0..=8 => format!("lengths{lengths:?}+{rest}"),
                many => format!("{many} sequences +{rest}"),
            };
            let case = Case::new(format!("{name} d{d} l{l} f{f} {numbers:?}"), p, fwd, bwd);
            let case = case.output(y.y, y.dy).ids(cu, ends);
            let case = match numbers {
                LargeBias => case.values(bias, (0..l * f).map(|i| (i % 7) as f32 * 1.25 - 0.5).collect()),
                _ => case.normal(bias, 0.5),
            };
            // Among many maxima some are so close that the two sides of a central difference straddle one; ties do so
            // everywhere. These cases test tiles and rules, not derivatives.
            match numbers {
                Equal => case.values(x.y, (0..n * d).map(|i| ((i % d) as f32 * 0.7).sin()).collect()).normal(w, 0.5),
                _ if n * l * f > 1000 => case.normal(x.y, 1.0).normal(w, 0.5),
                _ => {
                    let mut case = case.input(x.y, 1.0, x.dy).input(w, 0.5, dw);
                    case.inputs.push((bias.raw(), db.raw()));
                    case
                }
            }
        })
        .collect()
}
