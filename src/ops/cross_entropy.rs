/*! cross_entropy: softmax cross-entropy of scored rows over the whole catalogue, without storing all logits.
fwd: z_mv = <h_m, table_v> + bias_v,  lse_m = log sum_v exp z_mv,  loss_m = lse_m - z_m,target
     h (M,D) act   table (V,D) f32   bias (V) f32   target (M)   loss, lse (M) f32
bwd: g_mv = dloss_m (exp(z_mv - lse_m) - [v = target_m]),  dh = g table,  dtable = g^T h,  dbias = sum_M g
     logits are recomputed tile by tile from lse; memory O(M + V*D) for any V
Exact ties and a single item are supported (V = 1 gives loss 0 and zero gradients).
*/

use super::{
    Cost, Dst, Op, area,
    case::{Case, affordable},
    fits,
};
use crate::{
    base::rng::{Purpose, Stream},
    mem::{Act, F32, Lent, Planner, Scalar, U32},
};

op! {
    /// Computes the loss of each scored row.
    CrossEntropyFwd = "cross_entropy_fwd" {
        write { /** (M) */ loss: F32, /** (M) */ lse: F32 }
        read { /** (M,D) */ h: Act, /** (V,D) */ table: F32, /** (V) */ bias: F32, /** (M) */ target: U32 }
        with { m: usize, d: usize, v: usize }
    }
}

op! {
    /// Computes the gradients of [`CrossEntropyFwd`], weighted by `dloss`.
    CrossEntropyBwd = "cross_entropy_bwd" {
        grad { /** (M,D) */ dh: Act, /** (V,D) */ dtable: F32, /** (V) */ dbias: F32 }
        read {
            /** (M), 1/M for a mean */ dloss: F32, /** (M,D) */ h: Act, /** (V,D) */ table: F32, /** (V) */ bias: F32,
            /** (M) */ target: U32, /** (M) */ lse: F32
        }
        with { m: usize, d: usize, v: usize }
    }
}

impl Op for CrossEntropyFwd {
    const PRODUCTS: bool = true;

    fn check(&self) -> Result<(), String> {
        let (m, d, v) = (self.m, self.d, self.v);
        fits(&[
            ("loss", self.loss.len(), m),
            ("lse", self.lse.len(), m),
            ("h", self.h.len(), area([m, d])),
            ("table", self.table.len(), area([v, d])),
            ("bias", self.bias.len(), v),
            ("target", self.target.len(), m),
        ])
    }

    fn cost(&self) -> Cost {
        let (m, d, v) = (self.m, self.d, self.v);
        // One exponential per logit, one logarithm per row.
        Cost::work((2 * m * d * v) as f64, (m * v + m) as f64)
            .moves(self.loss, m)
            .moves(self.lse, m)
            .moves(self.h, m * d)
            .weights(self.table, v * d)
            .moves(self.bias, v)
            .moves(self.target, m)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (d, v) = (self.d, self.v);
        let (h, table, bias, target) = (m.get(self.h), m.get(self.table), m.get(self.bias), m.ids(self.target));
        let (loss, lse) = (m.get_mut(self.loss), m.get_mut(self.lse));
        for i in 0..self.m {
            let z: Vec<S> =
                (0..v).map(|j| (0..d).map(|k| h[i * d + k].product(table[j * d + k])).sum::<S>() + bias[j]).collect();
            let max = z.iter().copied().fold(S::neg_infinity(), S::max);
            lse[i] = max + z.iter().map(|x| (*x - max).exp()).sum::<S>().ln();
            loss[i] = lse[i] - z[target[i] as usize];
        }
    }
}

impl Op for CrossEntropyBwd {
    const PRODUCTS: bool = true;

    fn check(&self) -> Result<(), String> {
        let (m, d, v) = (self.m, self.d, self.v);
        fits(&[
            ("dh", self.dh.len_or(area([m, d])), area([m, d])),
            ("dtable", self.dtable.len_or(area([v, d])), area([v, d])),
            ("dbias", self.dbias.len_or(v), v),
            ("dloss", self.dloss.len(), m),
            ("h", self.h.len(), area([m, d])),
            ("table", self.table.len(), area([v, d])),
            ("bias", self.bias.len(), v),
            ("target", self.target.len(), m),
            ("lse", self.lse.len(), m),
        ])
    }

    fn cost(&self) -> Cost {
        let (m, d, v) = (self.m, self.d, self.v);
        let [dh, dtable, dbias] = [self.dh.wanted(), self.dtable.wanted(), self.dbias.wanted()].map(usize::from);
        let any = dh | dtable | dbias;
        // The logits and their exponentials count once for all gradients that need them.
        Cost::work((2 * (any + dh + dtable) * m * d * v) as f64, (any * m * v) as f64)
            .gradient(self.dh, m * d)
            .gradient(self.dtable, v * d)
            .gradient(self.dbias, v)
            .moves(self.dloss, any * m)
            .moves(self.h, any * m * d)
            .weights(self.table, any * v * d)
            .moves(self.bias, any * v)
            .moves(self.target, any * m)
            .moves(self.lse, any * m)
    }

    fn reference<S: Scalar>(&self, mem: &Lent<'_, S>) {
        let (m, d, v) = (self.m, self.d, self.v);
        let (h, table, bias, target) = (mem.get(self.h), mem.get(self.table), mem.get(self.bias), mem.ids(self.target));
        let (lse, dloss) = (mem.get(self.lse), mem.get(self.dloss));
        let mut g = vec![S::zero(); m * v];
        for i in 0..m {
            for j in 0..v {
                let z = (0..d).map(|k| h[i * d + k].product(table[j * d + k])).sum::<S>() + bias[j];
                let hit = if target[i] as usize == j { S::one() } else { S::zero() };
                g[i * v + j] = dloss[i] * ((z - lse[i]).exp() - hit);
            }
        }
        mem.compute(self.dh, m * d, |at| (0..v).map(|j| g[at / d * v + j].product(table[j * d + at % d])).sum());
        mem.compute(self.dtable, v * d, |at| (0..m).map(|i| g[i * v + at / d].product(h[i * d + at % d])).sum());
        mem.compute(self.dbias, v, |j| (0..m).map(|i| g[i * v + j]).sum());
    }
}

pub fn cases() -> Vec<Case> {
    /// The special property of the rows.
    #[derive(Clone, Copy, PartialEq)]
    enum Plant {
        Nothing,
        /// All targets are the same item.
        SameTarget,
        /// All targets are item V-1.
        LastItem,
        /// h is parallel to its target's row: one logit of about 8 in each row, the others near 0.
        Strong,
    }
    use Plant::*;
    [
        (0, 8, 5, Nothing),
        (1, 1, 1, Nothing),
        (1, 8, 3, LastItem),
        (3, 7, 11, Nothing),
        (7, 16, 33, SameTarget),
        (16, 64, 129, Strong),
        (33, 32, 517, LastItem),
        (65, 64, 300, Nothing),
        (130, 48, 1031, Strong),
        (257, 128, 96, Nothing),
        // Widths that kernels process in pieces.
        (66, 200, 70, Nothing),
        (5, 521, 65, LastItem),
        // Three tiles of a catalogue where two slices of the width are kept, and a block's rows that do not stay in
        // shared memory.
        (70, 128, 200, Nothing),
        (5, 520, 140, Nothing),
        // A catalogue that is packed in pieces.
        (3, 4, 4200, Nothing),
    ]
    .into_iter()
    .filter(|(_, d, v, _)| affordable(d * v))
    .map(|(m, d, v, plant)| {
        let mut p = Planner::new();
        let h = p.var(m * d);
        let (table, bias, dtable, dbias) = (p.weight(v * d), p.weight(v), p.stat(v * d), p.stat(v));
        let (loss, lse, dloss, target) = (p.stat(m), p.stat(m), p.stat(m), p.index(m));
        let mut draw = Stream::new(3, Purpose::Test, (m * 1000 + v) as u32);
        let targets: Vec<u32> = (0..m)
            .map(|_| match plant {
                SameTarget => v as u32 / 2,
                LastItem => v as u32 - 1,
                _ => draw.below(v as u64) as u32,
            })
            .collect();
        let fwd = CrossEntropyFwd { loss, lse, h: h.y, table, bias, target, m, d, v };
        let bwd = CrossEntropyBwd {
            dh: Dst::Write(h.dy),
            dtable: Dst::Write(dtable),
            dbias: Dst::Write(dbias),
            dloss,
            h: h.y,
            table,
            bias,
            target,
            lse,
            m,
            d,
            v,
        };
        let name = format!("m{m} d{d} v{v}{}", ["", " same target", " last item", " strong"][plant as usize]);
        let mut case = Case::new(name, p, fwd, bwd)
            .input(h.y, 1.0, h.dy)
            .input(table, 0.5, dtable)
            .input(bias, 0.5, dbias)
            .output(loss, dloss)
            .ids(target, targets.clone());
        if plant == Strong {
            let rows: Vec<f32> = (0..v * d).map(|_| draw.normal()).collect();
            let strong = targets.iter().flat_map(|t| rows[*t as usize * d..][..d].iter().map(|x| 8.0 / d as f32 * x));
            let strong: Vec<f32> = strong.collect();
            case = case.values(table, rows).values(h.y, strong);
        }
        case
    })
    .collect()
}
