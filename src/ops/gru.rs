/*! gru: the recurrent half of a gated recurrent unit (Cho et al. 2014), in the form of cuDNN and PyTorch, over packed
sequences. The input half, gx = W_ih x + b_ih of all rows, is a dense layer before it.
fwd: r = sig(gx_r + W_r h + b_r),  z = sig(gx_z + W_z h + b_z),  q = W_n h + b_n,  n = tanh(gx_n + r q)
     h' = (1-z) n + z h                  h the row before in the same sequence, zeros where it begins
     gx (N,3H) act in the order r, z, n   W (3H,H)  b (3H)   y (N,H) act = h'
bwd: from the last row of each sequence to its first, d = dy + the gradient from the next row:
     dn = d (1-z) (1-n^2),  dq = dn r,  dr = dn q r (1-r),  dz = d (h-n) z (1-z)
     dgx = (dr, dz, dn),  dgh = (dr, dz, dq),  to the row before: d z + dgh W

The reset gate applies to q, after the product with W_n, not to h before it as in the original paper. All three products
of a row are then one.

Sequences follow each other without padding. `cu` (B+1) contains their cumulative lengths; empty ones are allowed. Rows
past the last sequence are zeros in all outputs.

Saved for the backward pass: `before` = h of every row, and `gates` = r, z, n, q. `before` is y shifted by one row. It
is a separate matrix, because the gradients of W and b are then those of a dense layer: LinearBwd of x = `before`, dy =
`dgh`.
*/

use super::{Cost, Dst, Op, area, case::Case, fits};
use crate::mem::{Act, F32, Lent, Planner, Scalar, U32};

op! {
    /// Computes y = GRU(gx), sequence by sequence.
    GruFwd = "gru_fwd" {
        write {
            /** (N,H) */ y: Act, /** (N,H) the state before each row, kept for the backward pass */ before: Act,
            /** (N,4H) r, z, n, q, kept */ gates: Act
        }
        read { /** (N,3H) */ gx: Act, /** (3H,H) */ w: F32, /** (3H) */ bias: F32, /** (B+1) */ cu: U32 }
        with { b: usize, n: usize, h: usize }
    }
}

op! {
    /// Computes the gradients of [`GruFwd`]. Those of w and bias follow from `dgh` and `before` by `LinearBwd`.
    GruBwd = "gru_bwd" {
        grad { /** (N,3H) */ dgx: Act, /** (N,3H) of W h + b */ dgh: Act }
        read {
            /** (N,H) */ dy: Act, /** (N,H) */ before: Act, /** (N,4H) */ gates: Act, /** (3H,H) */ w: F32,
            /** (B+1) */ cu: U32
        }
        with { b: usize, n: usize, h: usize }
    }
}

fn sigmoid<S: Scalar>(x: S) -> S {
    S::one() / (S::one() + (-x).exp())
}

impl Op for GruFwd {
    const PRODUCTS: bool = true;

    fn check(&self) -> Result<(), String> {
        let (n, h) = (self.n, self.h);
        if h == 0 {
            return Err("a GRU of 0 columns".into());
        }
        fits(&[
            ("y", self.y.len(), area([n, h])),
            ("before", self.before.len(), area([n, h])),
            ("gates", self.gates.len(), area([4, n, h])),
            ("gx", self.gx.len(), area([3, n, h])),
            ("w", self.w.len(), area([3, h, h])),
            ("bias", self.bias.len(), area([3, h])),
            ("cu", self.cu.len(), self.b.saturating_add(1)),
        ])
    }

    fn cost(&self) -> Cost {
        let (n, h) = (self.n, self.h);
        Cost::work((6 * n * h * h) as f64, (3 * n * h) as f64)
            .moves(self.y, n * h)
            .moves(self.before, n * h)
            .moves(self.gates, 4 * n * h)
            .moves(self.gx, 3 * n * h)
            .weights(self.w, 3 * h * h)
            .moves(self.bias, 3 * h)
            .moves(self.cu, self.b + 1)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (n, h) = (self.n, self.h);
        let (gx, w, bias, cu) = (m.get(self.gx), m.get(self.w), m.get(self.bias), &m.ids(self.cu)[..self.b + 1]);
        let (y, before, gates) = (m.get_mut(self.y), m.get_mut(self.before), m.get_mut(self.gates));
        y[..n * h].fill(S::zero());
        before[..n * h].fill(S::zero());
        gates[..4 * n * h].fill(S::zero());
        for bounds in cu.windows(2) {
            let mut state = vec![S::zero(); h];
            for t in bounds[0] as usize..bounds[1] as usize {
                before[t * h..][..h].copy_from_slice(&state);
                let of_state = |part: usize, j: usize| {
                    let w = &w[(part * h + j) * h..][..h];
                    state.iter().zip(w).map(|(a, b)| a.product(*b)).sum::<S>() + bias[part * h + j]
                };
                let row = |j: usize| {
                    let x = &gx[t * 3 * h..][..3 * h];
                    let (r, z, q) =
                        (sigmoid(x[j] + of_state(0, j)), sigmoid(x[h + j] + of_state(1, j)), of_state(2, j));
                    [r, z, (x[2 * h + j] + r * q).tanh(), q]
                };
                let all: Vec<[S; 4]> = (0..h).map(row).collect();
                for (j, [r, z, new, q]) in all.into_iter().enumerate() {
                    [r, z, new, q].into_iter().enumerate().for_each(|(g, x)| gates[(t * 4 + g) * h + j] = x);
                    state[j] = (S::one() - z) * new + z * state[j];
                }
                y[t * h..][..h].copy_from_slice(&state);
            }
        }
    }
}

impl Op for GruBwd {
    const PRODUCTS: bool = true;

    fn check(&self) -> Result<(), String> {
        let (n, h) = (self.n, self.h);
        if h == 0 {
            return Err("a GRU of 0 columns".into());
        }
        fits(&[
            ("dgx", self.dgx.len_or(area([3, n, h])), area([3, n, h])),
            ("dgh", self.dgh.len_or(area([3, n, h])), area([3, n, h])),
            ("dy", self.dy.len(), area([n, h])),
            ("before", self.before.len(), area([n, h])),
            ("gates", self.gates.len(), area([4, n, h])),
            ("w", self.w.len(), area([3, h, h])),
            ("cu", self.cu.len(), self.b.saturating_add(1)),
        ])
    }

    fn cost(&self) -> Cost {
        let (n, h) = (self.n, self.h);
        if !self.dgx.wanted() && !self.dgh.wanted() {
            return Cost::default();
        }
        // The gates are stored, so there are no exponentials.
        Cost::work((6 * n * h * h) as f64, 0.0)
            .gradient(self.dgx, 3 * n * h)
            .gradient(self.dgh, 3 * n * h)
            .moves(self.dy, n * h)
            .moves(self.before, n * h)
            .moves(self.gates, 4 * n * h)
            .weights(self.w, 3 * h * h)
            .moves(self.cu, self.b + 1)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (n, h) = (self.n, self.h);
        let (dy, before, gates, w) = (m.get(self.dy), m.get(self.before), m.get(self.gates), m.get(self.w));
        let one = S::one();
        // (N,H,4): the gradients of r, z, n and q before their activation functions.
        let mut d_pre = vec![[S::zero(); 4]; n * h];
        for bounds in m.ids(self.cu)[..self.b + 1].windows(2) {
            let mut passed = vec![S::zero(); h];
            for t in (bounds[0] as usize..bounds[1] as usize).rev() {
                for j in 0..h {
                    let [r, z, new, q] = [0, 1, 2, 3].map(|g| gates[(t * 4 + g) * h + j]);
                    let d = dy[t * h + j] + passed[j];
                    let dn = d * (one - z) * (one - new * new);
                    let dr = dn * q * (r * (one - r));
                    let dz = d * (before[t * h + j] - new) * (z * (one - z));
                    d_pre[t * h + j] = [dr, dz, dn, dn * r];
                    passed[j] = d * z;
                }
                for (part, g) in [0, 1, 3].into_iter().enumerate() {
                    for i in 0..h {
                        let (d, w) = (d_pre[t * h + i][g], &w[(part * h + i) * h..][..h]);
                        passed.iter_mut().zip(w).for_each(|(p, w)| *p += d.product(*w));
                    }
                }
            }
        }
        let element = |at: usize, parts: [usize; 3]| d_pre[at / (3 * h) * h + at % h][parts[at / h % 3]];
        m.compute(self.dgx, 3 * n * h, |at| element(at, [0, 1, 2]));
        m.compute(self.dgh, 3 * n * h, |at| element(at, [0, 1, 3]));
    }
}

pub fn cases() -> Vec<Case> {
    // More sequences than any block or task processes together, of all lengths, including empty ones.
    let many: Vec<usize> = (0..41).map(|s| [3, 0, 1, 7, 2, 5][s % 6]).collect();
    // (lengths, rows past the last sequence, columns)
    let shapes: [(&[usize], usize, usize); 13] = [
        (&[1], 0, 1),
        (&[4, 0, 2], 0, 1),
        (&[5, 1, 3], 0, 8),
        (&[], 0, 8),
        (&[], 3, 8),
        (&[0, 0], 0, 5),
        (&[7, 0, 2, 9], 4, 3),
        (&[2, 11], 1, 15),
        (&many, 0, 33),
        (&many, 5, 24),
        (&[30, 1], 0, 32),
        (&[3, 12, 6], 0, 64),
        (&[4, 9], 2, 130),
    ];
    shapes
        .into_iter()
        .map(|(lengths, rest, h)| {
            let (b, n) = (lengths.len(), lengths.iter().sum::<usize>() + rest);
            let mut p = Planner::new();
            let (y, gx) = (p.var(n * h), p.var(3 * n * h));
            let (before, gates, dgh) = (p.act(n * h), p.act(4 * n * h), p.act(3 * n * h));
            let (w, bias, cu) = (p.weight(3 * h * h), p.weight(3 * h), p.index(b + 1));
            let mut ends = vec![0u32];
            lengths.iter().for_each(|l| ends.push(ends[ends.len() - 1] + *l as u32));
            let fwd = GruFwd { y: y.y, before, gates, gx: gx.y, w, bias, cu, b, n, h };
            let (dgx, dgh) = (Dst::Write(gx.dy), Dst::Write(dgh));
            let bwd = GruBwd { dgx, dgh, dy: y.dy, before, gates, w, cu, b, n, h };
            let name = match b {
                0..=8 => format!("lengths{lengths:?}+{rest} h{h}"),
                many => format!("{many} sequences +{rest} h{h}"),
            };
            // Rows of W of length one and a half: gates move, and the state stays far from chaos.
            Case::new(name, p, fwd, bwd)
                .input(gx.y, 1.0, gx.dy)
                .normal(w, 1.5 / (h as f32).sqrt())
                .normal(bias, 0.5)
                .ids(cu, ends)
                .output(y.y, y.dy)
        })
        .collect()
}
