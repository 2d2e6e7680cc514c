/*! sequence_rows: one row per sequence copied to each of its rows, and rows summed to one per sequence.
spread: y_n = x_b                          n in cu_b..cu_b+1        x (B,D)  y (N,D)  cu (B+1)
        dx_b = sum of dy_n over n in cu_b..cu_b+1                  rows in their order
pool:   y_b = sum of w_n x_n over the same rows                     x (N,D)  w (N) or empty: ones  y (B,D)
        dx_n = w_n dy_b

The first passes a user vector to every row of the user's sequence. The second makes one vector of a sequence: its mean,
with weights 1/length. Empty sequences are allowed: their sums are zeros. Rows past the last sequence (padding) get
zeros and are never read, nor are their weights. The weights are no parameters and have no gradient.
*/

use super::{Cost, Dst, Op, area, case::Case, fits};
use crate::mem::{Act, F32, Lent, Planner, Scalar, Span, U32};

op! {
    /// Computes y_n = x of the row's sequence.
    SpreadFwd = "spread_fwd" {
        write { /** (N,D) */ y: Act }
        read { /** (B,D) */ x: Act, /** (B+1) */ cu: U32 }
        with { b: usize, n: usize, d: usize }
    }
}

op! {
    /// Computes the gradient of [`SpreadFwd`].
    SpreadBwd = "spread_bwd" {
        grad { /** (B,D) */ dx: Act }
        read { /** (N,D) */ dy: Act, /** (B+1) */ cu: U32 }
        with { b: usize, n: usize, d: usize }
    }
}

op! {
    /// Computes y_b = weighted sum of the sequence's rows.
    PoolFwd = "pool_fwd" {
        write { /** (B,D) */ y: Act }
        read { /** (N,D) */ x: Act, /** (N), or empty: ones */ w: F32, /** (B+1) */ cu: U32 }
        with { b: usize, n: usize, d: usize }
    }
}

op! {
    /// Computes the gradient of [`PoolFwd`] with respect to the rows.
    PoolBwd = "pool_bwd" {
        grad { /** (N,D) */ dx: Act }
        read { /** (B,D) */ dy: Act, /** (N), or empty: ones */ w: F32, /** (B+1) */ cu: U32 }
        with { b: usize, n: usize, d: usize }
    }
}

/// Returns the length of a span of weights, where an empty one counts as `n` ones.
fn weights(w: Span<F32>, n: usize) -> usize {
    if w.is_empty() { n } else { w.len() }
}

/// Computes element (n,k) of the rows: w_n x_b, zero past the last sequence.
fn spread<S: Scalar>(m: &Lent<'_, S>, to: Dst<Act>, x: Span<Act>, w: Span<F32>, cu: Span<U32>, [b, n, d]: [usize; 3]) {
    let (x, w, cu) = (m.get(x), m.get(w), &m.ids(cu)[..=b]);
    let mut rows = vec![S::zero(); n * d];
    for (s, bounds) in cu.windows(2).enumerate() {
        for row in bounds[0] as usize..bounds[1] as usize {
            let factor = if w.is_empty() { S::one() } else { w[row] };
            (0..d).for_each(|k| rows[row * d + k] = factor * x[s * d + k]);
        }
    }
    m.compute(to, n * d, |at| rows[at]);
}

/// Computes element (b,k) of the sums: over the rows of the sequence, w_n x_n.
fn pool<S: Scalar>(m: &Lent<'_, S>, to: Dst<Act>, x: Span<Act>, w: Span<F32>, cu: Span<U32>, [b, d]: [usize; 2]) {
    let (x, w, cu) = (m.get(x), m.get(w), m.ids(cu));
    m.compute(to, b * d, |at| {
        let (s, k) = (at / d, at % d);
        let term = |row: usize| if w.is_empty() { x[row * d + k] } else { w[row] * x[row * d + k] };
        (cu[s] as usize..cu[s + 1] as usize).map(term).sum()
    });
}

impl Op for SpreadFwd {
    fn check(&self) -> Result<(), String> {
        let (b, n, d) = (self.b, self.n, self.d);
        fits(&[
            ("y", self.y.len(), area([n, d])),
            ("x", self.x.len(), area([b, d])),
            ("cu", self.cu.len(), b.saturating_add(1)),
        ])
    }

    fn cost(&self) -> Cost {
        let (b, n, d) = (self.b, self.n, self.d);
        Cost::default().moves(self.y, n * d).moves(self.x, b.min(n) * d).moves(self.cu, b + 1)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        spread(m, Dst::Write(self.y), self.x, Span::empty(), self.cu, [self.b, self.n, self.d]);
    }
}

impl Op for SpreadBwd {
    fn check(&self) -> Result<(), String> {
        let (b, n, d) = (self.b, self.n, self.d);
        fits(&[
            ("dx", self.dx.len_or(area([b, d])), area([b, d])),
            ("dy", self.dy.len(), area([n, d])),
            ("cu", self.cu.len(), b.saturating_add(1)),
        ])
    }

    fn cost(&self) -> Cost {
        let (b, nd, wanted) = (self.b, self.n * self.d, self.dx.wanted() as usize);
        Cost::work((wanted * nd) as f64, 0.0)
            .gradient(self.dx, b * self.d)
            .moves(self.dy, wanted * nd)
            .moves(self.cu, wanted * (b + 1))
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        pool(m, self.dx, self.dy, Span::empty(), self.cu, [self.b, self.d]);
    }
}

impl Op for PoolFwd {
    fn check(&self) -> Result<(), String> {
        let (b, n, d) = (self.b, self.n, self.d);
        let w = weights(self.w, n);
        fits(&[
            ("y", self.y.len(), area([b, d])),
            ("x", self.x.len(), area([n, d])),
            ("w", w, n),
            ("cu", self.cu.len(), b.saturating_add(1)),
        ])
    }

    fn cost(&self) -> Cost {
        let (b, n, d) = (self.b, self.n, self.d);
        let flop = if self.w.is_empty() { 1 } else { 2 };
        Cost::work((flop * n * d) as f64, 0.0)
            .moves(self.y, b * d)
            .moves(self.x, n * d)
            .moves(self.w, n)
            .moves(self.cu, b + 1)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        pool(m, Dst::Write(self.y), self.x, self.w, self.cu, [self.b, self.d]);
    }
}

impl Op for PoolBwd {
    fn check(&self) -> Result<(), String> {
        let (b, n, d) = (self.b, self.n, self.d);
        let (dx, w) = (self.dx.len_or(area([n, d])), weights(self.w, n));
        fits(&[
            ("dx", dx, area([n, d])),
            ("dy", self.dy.len(), area([b, d])),
            ("w", w, n),
            ("cu", self.cu.len(), b.saturating_add(1)),
        ])
    }

    fn cost(&self) -> Cost {
        let (b, n, d, wanted) = (self.b, self.n, self.d, self.dx.wanted() as usize);
        let flop = if self.w.is_empty() { 0 } else { wanted };
        Cost::work((flop * n * d) as f64, 0.0)
            .gradient(self.dx, n * d)
            .moves(self.dy, wanted * b.min(n) * d)
            .moves(self.w, wanted * n)
            .moves(self.cu, wanted * (b + 1))
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        spread(m, self.dx, self.dy, self.w, self.cu, [self.b, self.n, self.d]);
    }
}

/// (lengths of the sequences, rows past them, width).
type Shape = (Vec<usize>, usize, usize);

fn shapes() -> Vec<Shape> {
    // All lengths from zero to forty, and one sequence longer than one pass of all warps of a block.
    let many: Vec<usize> = (0..77).map(|i| i * 31 % 41).collect();
    vec![
        (vec![], 0, 8),
        (vec![], 5, 7),
        (vec![1], 0, 1),
        (vec![0, 0], 3, 8),
        (vec![3, 0, 7, 5, 0], 0, 33),
        (vec![2, 9, 1, 4, 4, 0, 12, 3, 3, 8, 12], 9, 64),
        (many.clone(), 5, 130),
        (many, 0, 2),
        (vec![700, 1, 300], 4, 24),
        (vec![40, 3], 0, 520),
    ]
}

/// Returns the start of each sequence (B+1).
fn ends(lengths: &[usize]) -> Vec<u32> {
    (0..=lengths.len()).map(|b| lengths[..b].iter().sum::<usize>() as u32).collect()
}

pub fn spread_cases() -> Vec<Case> {
    shapes()
        .into_iter()
        .map(|(lengths, rest, d)| {
            let (b, n) = (lengths.len(), lengths.iter().sum::<usize>() + rest);
            let mut p = Planner::new();
            let (x, y, cu) = (p.var(b * d), p.var(n * d), p.index(b + 1));
            let fwd = SpreadFwd { y: y.y, x: x.y, cu, b, n, d };
            let bwd = SpreadBwd { dx: Dst::Write(x.dy), dy: y.dy, cu, b, n, d };
            Case::new(format!("b{b} n{}+{rest} d{d}", n - rest), p, fwd, bwd)
                .input(x.y, 1.0, x.dy)
                .output(y.y, y.dy)
                .ids(cu, ends(&lengths))
        })
        .collect()
}

pub fn pool_cases() -> Vec<Case> {
    shapes()
        .into_iter()
        .flat_map(|shape| [(shape.clone(), false), (shape, true)])
        .map(|((lengths, rest, d), weighted)| {
            let (b, n) = (lengths.len(), lengths.iter().sum::<usize>() + rest);
            let mut p = Planner::new();
            let (x, y, cu) = (p.var(n * d), p.var(b * d), p.index(b + 1));
            let w = if weighted { p.stat(n) } else { Span::empty() };
            let fwd = PoolFwd { y: y.y, x: x.y, w, cu, b, n, d };
            let bwd = PoolBwd { dx: Dst::Write(x.dy), dy: y.dy, w, cu, b, n, d };
            let name = format!("b{b} n{}+{rest} d{d}{}", n - rest, if weighted { " weighted" } else { "" });
            let case = Case::new(name, p, fwd, bwd).input(x.y, 1.0, x.dy).output(y.y, y.dy).ids(cu, ends(&lengths));
            if !weighted {
                return case;
            }
            // Values past the last sequence must not contribute, not even as a NaN times zero.
            let values = (0..n).map(|i| if i < n - rest { (i % 7) as f32 / 3.0 - 0.6 } else { f32::NAN });
            case.values(w, values.collect())
        })
        .collect()
}
