/*! dilated_conv: a convolution over time with W taps R rows apart, then layer norm, ReLU and the residual: half of the
block of NextItNet (Yuan et al. 2019) and PeterRec (Yuan et al. 2020), in one op.
fwd: z_t = b + sum_w x_{t + offset(w)} W_w           x (N,I)  W (W,I,O)  z,y,r (N,O)  b,gamma,beta (O)
     y = relu(xh*gamma + beta) (+ r),  xh = (z - mean)*rstd row by row
bwd: g = dy where xh*gamma + beta > 0, else 0;   dgamma = sum_N g*xh,  dbeta = sum_N g
     dz = rstd*(g gamma - mean_O(g gamma) - xh*mean_O(g gamma xh)),  db = sum_N dz
     dx_s = sum_w dz_{s - offset(w)} W_w^T,   dW_w = sum_t x_{t + offset(w)}^T dz_t

offset(w) = w*R - lead. Causal: lead = (W-1)*R, so the last tap is the row itself. Centred: lead = (W-1)*R/2 rounded
down, the `same` padding of TensorFlow and PyTorch (an even W then sees half a dilation further ahead than back).
Sequences follow each other without padding. `cu` (B+1) contains their cumulative lengths. A tap past the ends of its
sequence counts as zero. Empty sequences are allowed. Rows past the last sequence have no taps: their z is b.

Saved for the backward pass: z, mean, rstd. xh and the ReLU's mask are recomputed. The gradient of r is dy itself: both
share a span (as for all residuals), so it is no destination here. An empty `residual` means none.

The weight is (W,I,O), as in the published TensorFlow code. The forward sum over taps and channels is then one matrix
with its rows in the order of the sum and its columns contiguous. Both engines read it without a transpose. The backward
pass reads the rows of W_w directly, and x^T dz yields dW_w in this order.
*/

use std::ops::Range;

use super::{Cost, Dst, Op, area, case::Case, cost::apart, fits};
use crate::mem::{Act, F32, Lent, Planner, Scalar, U32};

/// The positions of the taps of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taps {
    /// Number of taps (W).
    pub count: usize,
    /// Rows between adjacent taps (R).
    pub dilation: usize,
    /// Whether the taps only look back.
    pub causal: bool,
}

impl Taps {
    /// Returns the number of rows from the first tap to the row itself.
    pub fn lead(&self) -> usize {
        let span = (self.count - 1) * self.dilation;
        if self.causal { span } else { span / 2 }
    }

    /// Returns the offset of tap `w`: tap `w` of row t reads row t + offset.
    pub fn offset(&self, w: usize) -> isize {
        (w * self.dilation) as isize - self.lead() as isize
    }

    /// Returns the number of taps of all rows inside their sequences ([`cost`](super::cost): as if lengths were equal).
    fn inside(&self, b: usize, n: usize) -> usize {
        (0..self.count).map(|w| apart(b, n, self.offset(w).unsigned_abs())).sum()
    }

    /// Checks the ranges. The kernels count rows inside a tile in 32 bits.
    ///
    /// # Errors
    /// A value is out of range; the text names it.
    pub fn check(&self) -> Result<(), String> {
        if self.count == 0 || self.dilation == 0 {
            return Err(format!("a convolution of {} taps with dilation {}", self.count, self.dilation));
        }
        match (self.count - 1).checked_mul(self.dilation) {
            Some(span) if span < 1 << 30 => Ok(()),
            _ => Err(format!("{} taps with dilation {} reach over 2^30 rows or more", self.count, self.dilation)),
        }
    }
}

op! {
    /// Computes y = relu(LN(conv(x))) (+ residual).
    DilatedConvFwd = "dilated_conv_fwd" {
        write {
            /** (N,O) */ y: Act, /** (N,O), kept for the backward pass */ z: Act,
            /** (N), kept */ mean: F32, /** (N), kept */ rstd: F32
        }
        read {
            /** (N,I) */ x: Act, /** (W,I,O) */ w: F32, /** (O) */ bias: F32,
            /** (O) */ gamma: F32, /** (O) */ beta: F32, /** (N,O), or empty: none */ residual: Act,
            /** (B+1) */ cu: U32
        }
        with { b: usize, n: usize, i: usize, o: usize, taps: Taps, eps: f32 }
    }
}

op! {
    /// Computes the gradients of [`DilatedConvFwd`]. That of the residual is `dy`.
    DilatedConvBwd = "dilated_conv_bwd" {
        grad {
            /** (N,I) */ dx: Act, /** (W,I,O) */ dw: F32, /** (O) */ db: F32,
            /** (O) */ dgamma: F32, /** (O) */ dbeta: F32
        }
        read {
            /** (N,O) */ dy: Act, /** (N,O) */ z: Act, /** (N,I) */ x: Act, /** (W,I,O) */ w: F32,
            /** (O) */ gamma: F32, /** (O) */ beta: F32, /** (N) */ mean: F32, /** (N) */ rstd: F32,
            /** (B+1) */ cu: U32
        }
        with { b: usize, n: usize, i: usize, o: usize, taps: Taps }
    }
}

/// Returns the row range of every row's sequence; empty past the last sequence.
pub(super) fn sequences(cu: &[u32], n: usize) -> Vec<Range<usize>> {
    let mut all = vec![0..0; n];
    for bounds in cu.windows(2) {
        let rows = bounds[0] as usize..bounds[1] as usize;
        rows.clone().for_each(|r| all[r] = rows.clone());
    }
    all
}

/// Returns the row `offset` rows from `row`, if it lies in the same sequence.
fn shifted(sequence: &Range<usize>, row: usize, offset: isize) -> Option<usize> {
    row.checked_add_signed(offset).filter(|at| sequence.contains(at))
}

impl Op for DilatedConvFwd {
    const PRODUCTS: bool = true;

    fn check(&self) -> Result<(), String> {
        self.taps.check()?;
        let (n, i, o) = (self.n, self.i, self.o);
        if i == 0 || o == 0 {
            return Err(format!("a convolution from {i} to {o} channels"));
        }
        fits(&[
            ("y", self.y.len(), area([n, o])),
            ("z", self.z.len(), area([n, o])),
            ("mean", self.mean.len(), n),
            ("rstd", self.rstd.len(), n),
            ("x", self.x.len(), area([n, i])),
            ("w", self.w.len(), area([self.taps.count, i, o])),
            ("bias", self.bias.len(), o),
            ("gamma", self.gamma.len(), o),
            ("beta", self.beta.len(), o),
            ("residual", self.residual.len(), if self.residual.is_empty() { 0 } else { area([n, o]) }),
            ("cu", self.cu.len(), self.b.saturating_add(1)),
        ])
    }

    fn cost(&self) -> Cost {
        let (n, i, o, w) = (self.n, self.i, self.o, self.taps.count * self.i * self.o);
        Cost::work((2 * self.taps.inside(self.b, n) * i * o) as f64, n as f64)
            .moves(self.y, n * o)
            .moves(self.z, n * o)
            .moves(self.mean, n)
            .moves(self.rstd, n)
            .moves(self.x, n * i)
            .weights(self.w, w)
            .moves(self.bias, o)
            .moves(self.gamma, o)
            .moves(self.beta, o)
            .moves(self.residual, n * o)
            .moves(self.cu, self.b + 1)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (n, i, o) = (self.n, self.i, self.o);
        let sequence = sequences(&m.ids(self.cu)[..self.b + 1], n);
        let (x, w, bias, residual) = (m.get(self.x), m.get(self.w), m.get(self.bias), m.get(self.residual));
        let (gamma, beta) = (m.get(self.gamma), m.get(self.beta));
        let (y, z, mean, rstd) = (m.get_mut(self.y), m.get_mut(self.z), m.get_mut(self.mean), m.get_mut(self.rstd));
        for t in 0..n {
            let z = &mut z[t * o..][..o];
            z.copy_from_slice(&bias[..o]);
            for tap in 0..self.taps.count {
                let Some(at) = shifted(&sequence[t], t, self.taps.offset(tap)) else { continue };
                for c in 0..i {
                    let (x, w) = (x[at * i + c], &w[(tap * i + c) * o..][..o]);
                    z.iter_mut().zip(w).for_each(|(z, w)| *z += x.product(*w));
                }
            }
            let by_o = S::one() / S::of(o as f64);
            mean[t] = z.iter().copied().sum::<S>() * by_o;
            let var = z.iter().map(|z| (*z - mean[t]) * (*z - mean[t])).sum::<S>() * by_o;
            rstd[t] = S::one() / (var + S::of(self.eps as f64)).sqrt();
            for j in 0..o {
                let xh = (z[j] - mean[t]) * rstd[t];
                let relu = S::zero().max(xh * gamma[j] + beta[j]);
                y[t * o + j] = if residual.is_empty() { relu } else { relu + residual[t * o + j] };
            }
        }
    }
}

impl Op for DilatedConvBwd {
    const PRODUCTS: bool = true;

    fn check(&self) -> Result<(), String> {
        self.taps.check()?;
        let (n, i, o, w) = (self.n, self.i, self.o, area([self.taps.count, self.i, self.o]));
        if i == 0 || o == 0 {
            return Err(format!("a convolution from {i} to {o} channels"));
        }
        fits(&[
            ("dx", self.dx.len_or(area([n, i])), area([n, i])),
            ("dw", self.dw.len_or(w), w),
            ("db", self.db.len_or(o), o),
            ("dgamma", self.dgamma.len_or(o), o),
            ("dbeta", self.dbeta.len_or(o), o),
            ("dy", self.dy.len(), area([n, o])),
            ("z", self.z.len(), area([n, o])),
            ("x", self.x.len(), area([n, i])),
            ("w", self.w.len(), w),
            ("gamma", self.gamma.len(), o),
            ("beta", self.beta.len(), o),
            ("mean", self.mean.len(), n),
            ("rstd", self.rstd.len(), n),
            ("cu", self.cu.len(), self.b.saturating_add(1)),
        ])
    }

    fn cost(&self) -> Cost {
        let (n, i, o, w) = (self.n, self.i, self.o, self.taps.count * self.i * self.o);
        let norm = self.db.wanted() || self.dgamma.wanted() || self.dbeta.wanted();
        let [dx, dw, norm] = [self.dx.wanted(), self.dw.wanted(), norm].map(usize::from);
        let any = dx | dw | norm;
        Cost::work((2 * (dx + dw) * self.taps.inside(self.b, n) * i * o) as f64, 0.0)
            .gradient(self.dx, n * i)
            .gradient(self.dw, w)
            .gradient(self.db, o)
            .gradient(self.dgamma, o)
            .gradient(self.dbeta, o)
            .moves(self.dy, any * n * o)
            .moves(self.z, any * n * o)
            .moves(self.x, dw * n * i)
            .weights(self.w, dx * w)
            .moves(self.gamma, any * o)
            .moves(self.beta, any * o)
            .moves(self.mean, any * n)
            .moves(self.rstd, any * n)
            .moves(self.cu, (dx | dw) * (self.b + 1))
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (n, i, o) = (self.n, self.i, self.o);
        let sequence = sequences(&m.ids(self.cu)[..self.b + 1], n);
        let (dy, z, x, w) = (m.get(self.dy), m.get(self.z), m.get(self.x), m.get(self.w));
        let (gamma, beta, mean, rstd) = (m.get(self.gamma), m.get(self.beta), m.get(self.mean), m.get(self.rstd));
        let xh: Vec<S> = (0..n * o).map(|at| (z[at] - mean[at / o]) * rstd[at / o]).collect();
        let before = |at: usize| xh[at] * gamma[at % o] + beta[at % o];
        let g: Vec<S> = (0..n * o).map(|at| dy[at].gate(before(at))).collect();
        let by_o = S::one() / S::of(o as f64);
        let mut dz = vec![S::zero(); n * o];
        for t in 0..n {
            let gg = |j: usize| g[t * o + j] * gamma[j];
            let mean_g = (0..o).map(gg).sum::<S>() * by_o;
            let mean_gx = (0..o).map(|j| gg(j) * xh[t * o + j]).sum::<S>() * by_o;
            for j in 0..o {
                dz[t * o + j] = rstd[t] * (gg(j) - mean_g - xh[t * o + j] * mean_gx);
            }
        }
        let mut dx = vec![S::zero(); n * i];
        let mut dw = vec![S::zero(); self.taps.count * i * o];
        for t in 0..n {
            for tap in 0..self.taps.count {
                let Some(at) = shifted(&sequence[t], t, self.taps.offset(tap)) else { continue };
                let dz = &dz[t * o..][..o];
                for c in 0..i {
                    let row = (tap * i + c) * o;
                    dx[at * i + c] += dz.iter().zip(&w[row..]).map(|(dz, w)| dz.product(*w)).sum();
                    let x = x[at * i + c];
                    dw[row..][..o].iter_mut().zip(dz).for_each(|(dw, dz)| *dw += x.product(*dz));
                }
            }
        }
        m.compute(self.dx, n * i, |at| dx[at]);
        m.compute(self.dw, dw.len(), |at| dw[at]);
        m.compute(self.db, o, |j| (0..n).map(|t| dz[t * o + j]).sum());
        m.compute(self.dgamma, o, |j| (0..n).map(|t| g[t * o + j] * xh[t * o + j]).sum());
        m.compute(self.dbeta, o, |j| (0..n).map(|t| g[t * o + j]).sum());
    }
}

pub fn cases() -> Vec<Case> {
    let causal = |count, dilation| Taps { count, dilation, causal: true };
    let centred = |count, dilation| Taps { count, dilation, causal: false };
    // Many short sequences, a third of them empty: a tile's rows belong to dozens of sequences.
    let crumbs: Vec<usize> = (0..150).map(|s| [0, 1, 3, 0, 2, 1][s % 6]).collect();
    // (lengths, rows past the last sequence, channels in, channels out, taps, with residual)
    type Shape<'a> = (&'a [usize], usize, usize, usize, Taps, bool);
    let shapes: [Shape; 21] = [
        (&[1], 0, 1, 1, causal(1, 1), false),
        (&[5, 1, 3], 0, 8, 8, causal(3, 1), true),
        (&[7, 0, 2, 9], 0, 3, 5, centred(3, 2), false),
        (&[12, 1, 1, 30], 0, 7, 9, centred(2, 3), true),
        (&[20, 3], 0, 16, 17, centred(4, 2), true),
        (&[33], 0, 31, 15, causal(2, 5), false),
        (&[], 0, 8, 8, causal(3, 1), true),
        (&[0, 0], 0, 8, 8, centred(3, 1), true),
        (&[9, 0, 4], 6, 16, 24, causal(3, 2), true),
        // Dilations longer than every sequence: causal keeps the row itself, an even W with an even R keeps nothing.
        (&[4, 6, 2], 0, 8, 16, causal(3, 50), true),
        (&[4, 1, 2], 0, 8, 16, centred(2, 8), false),
        (&crumbs, 0, 24, 40, causal(3, 1), true),
        (&crumbs, 3, 5, 7, centred(5, 1), false),
        (&[1; 40], 0, 8, 8, causal(7, 1), true),
        // Several tiles of rows, and more than one part of the sum for dW.
        (&[150, 3, 301, 70], 0, 64, 64, causal(3, 4), true),
        (&[40, 200], 0, 48, 72, centred(3, 8), false),
        // Wider than a tile of columns, on either side.
        (&[50, 21], 0, 33, 130, centred(3, 1), true),
        (&[13, 28], 0, 130, 64, causal(2, 3), false),
        (&[19, 51], 0, 40, 300, causal(2, 1), true),
        (&[21], 0, 300, 20, centred(3, 1), false),
        (&[65, 8], 0, 72, 256, causal(3, 2), true),
    ];
    shapes
        .into_iter()
        .map(|(lengths, rest, i, o, taps, with_residual)| {
            let (b, n) = (lengths.len(), lengths.iter().sum::<usize>() + rest);
            let mut p = Planner::new();
            let (x, y, z) = (p.var(n * i), p.var(n * o), p.act(n * o));
            let residual = p.act(if with_residual { n * o } else { 0 });
            let (mean, rstd, cu) = (p.stat(n), p.stat(n), p.index(b + 1));
            let (w, dw) = (p.weight(taps.count * i * o), p.stat(taps.count * i * o));
            let [bias, gamma, beta, db, dgamma, dbeta] = [(); 6].map(|()| p.stat(o));
            let mut ends = vec![0u32];
            lengths.iter().for_each(|l| ends.push(ends[ends.len() - 1] + *l as u32));
            let x_y = x.y;
            let fwd = DilatedConvFwd {
                y: y.y,
                z,
                mean,
                rstd,
                x: x_y,
                w,
                bias,
                gamma,
                beta,
                residual,
                cu,
                b,
                n,
                i,
                o,
                taps,
                eps: 1e-5,
            };
            let bwd = DilatedConvBwd {
                dx: Dst::Write(x.dy),
                dw: Dst::Write(dw),
                db: Dst::Write(db),
                dgamma: Dst::Write(dgamma),
                dbeta: Dst::Write(dbeta),
                dy: y.dy,
                z,
                x: x_y,
                w,
                gamma,
                beta,
                mean,
                rstd,
                cu,
                b,
                n,
                i,
                o,
                taps,
            };
            let name = match lengths.len() {
                0..=8 => format!("lengths{lengths:?}+{rest}"),
                many => format!("{many} sequences +{rest}"),
            };
            let name = format!("{name} i{i} o{o} w{} r{} causal{}", taps.count, taps.dilation, taps.causal);
            let case = Case::new(name, p, fwd, bwd).output(y.y, y.dy).ids(cu, ends);
            // (input, spread, gradient). The gradient of the residual is the gradient of y.
            let acts = [(x.y, 1.0, x.dy), (residual, 1.0, y.dy.first(residual.len()))];
            let weights = [(w, 0.5, dw), (bias, 0.5, db), (gamma, 1.0, dgamma), (beta, 0.5, dbeta)];
            // Among many thousand elements, some lie so close to the ReLU's corner that the two sides of a central
            // difference straddle it. Large cases test tiles, not derivatives.
            if n * o > 2000 {
                let case = acts.into_iter().fold(case, |case, (span, std, _)| case.normal(span, std));
                weights.into_iter().fold(case, |case, (span, std, _)| case.normal(span, std))
            } else {
                let case = acts.into_iter().fold(case, |case, (span, std, grad)| case.input(span, std, grad));
                weights.into_iter().fold(case, |case, (span, std, grad)| case.input(span, std, grad))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taps_stand_where_same_padding_puts_them() {
        let offsets = |count, dilation, causal| {
            let taps = Taps { count, dilation, causal };
            (0..count).map(|w| taps.offset(w)).collect::<Vec<_>>()
        };
        assert_eq!(offsets(3, 4, true), [-8, -4, 0]);
        assert_eq!(offsets(3, 4, false), [-4, 0, 4]);
        assert_eq!(offsets(2, 1, false), [0, 1]);
        assert_eq!(offsets(4, 3, false), [-4, -1, 2, 5]);
        assert_eq!(offsets(2, 8, false), [-4, 4]);
        assert_eq!(offsets(1, 9, true), [0]);
    }

    #[test]
    fn taps_that_cannot_be_are_named() {
        let check = |count, dilation| Taps { count, dilation, causal: true }.check();
        assert!(check(3, 1).is_ok() && check(1, usize::MAX).is_ok());
        assert!(check(0, 1).unwrap_err().contains("0 taps"));
        assert!(check(3, 0).unwrap_err().contains("dilation 0"));
        assert!(check(3, usize::MAX).unwrap_err().contains("2^30"));
    }
}
