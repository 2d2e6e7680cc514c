//! Launchers of `kernels/sampled_softmax.cu`. The negatives are split like the catalogue in
//! [`cross_entropy`](super::cross_entropy).

use super::{
    Simt,
    cross_entropy::{Ranges, TILE, Walk, over_batches, scratch_bytes},
    kernels::*,
};
use crate::{
    mem::{Span, U32},
    ops::{Run, SampledSoftmaxBwd, SampledSoftmaxFwd, Valid},
};

/// Returns the blocks of the kernels of the target's column: eight rows each, then 256 negatives each.
fn target_blocks(m: usize, s: usize) -> usize {
    m.div_ceil(8) + s.div_ceil(256)
}

/// Returns the address of the bits of excluded negatives; null means that none are excluded.
fn own(simt: &Simt, own: Span<U32>) -> Ptr {
    if own.is_empty() { 0 } else { simt.at(own) }
}

/// Returns the ranges of negatives in the forward pass, and the lengths of its scratch: max, sum, z, offset.
fn forward(op: &SampledSoftmaxFwd) -> (Ranges, [usize; 4]) {
    let ranges = Ranges::of_candidates(op.s, op.m.div_ceil(TILE));
    (ranges, [ranges.count * op.m, ranges.count * op.m, op.m, op.s])
}

/// Returns the ranges of negatives for dh and of rows for dneg, and the lengths of the scratch: offset, parts (shared
/// in turn).
fn backward(op: &SampledSoftmaxBwd, chunks: usize) -> (Ranges, Ranges, [usize; 2]) {
    let negatives = Ranges::of_candidates(op.s, op.m.div_ceil(TILE) * chunks);
    let rows = Ranges::of_rows(op.m, op.s.div_ceil(TILE) * chunks);
    let parts = negatives.parts(op.m * op.d).max(rows.parts(op.s * op.d) + rows.parts(op.s));
    (negatives, rows, [op.s, parts])
}

impl Run<SampledSoftmaxFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, SampledSoftmaxFwd>) {
        let (m, d, s) = (op.m, op.d, op.s);
        let walk = Walk::forward(d, self);
        let (ranges, lengths) = forward(op);
        let [max, sum, z, offset] = self.arrays(lengths);
        // First the parts that need no tile: the targets' logits and the negatives' offsets.
        let target = SampledSoftmaxTargetParams {
            z,
            offset,
            h: self.at(op.h),
            pos: self.at(op.pos),
            bias: self.at(op.bias),
            log_q: self.at(op.log_q),
            targets: if op.in_batch { self.at(op.targets) } else { 0 },
            target: self.at(op.target),
            negative: self.at(op.negative),
            m: m as i32,
            d: d as i32,
            s: s as i32,
        };
        self.launch(self.of(SAMPLED_SOFTMAX_TARGET), [target_blocks(m, s), 1, 1], 0, target);
        let own = own(self, op.own);
        let kernel = if own == 0 { SAMPLED_SOFTMAX_FWD } else { SAMPLED_SOFTMAX_FWD_OWN };
        let params = SampledSoftmaxFwdParams {
            max,
            sum,
            h: self.at(op.h),
            neg: self.at(op.neg),
            offset,
            target: self.at(op.target),
            negative: self.at(op.negative),
            own,
            m: m as i32,
            d: d as i32,
            s: s as i32,
            per_split: ranges.each as i32,
            resident: walk.resident,
        };
        // Without negatives the one empty range still writes its result: maximum of nothing, sum 0.
        let grid = [m.div_ceil(TILE), 1, ranges.count];
        self.launch(self.of(kernel), grid, walk.shared_bytes, params);
        // The target's logit counts as one more part.
        let combine = CrossEntropyCombineParams {
            loss: self.at(op.loss),
            lse: self.at(op.lse),
            max,
            sum,
            hit: z,
            m: m as i32,
            parts: ranges.count as i32,
            count_hit: 1,
        };
        self.launch(Kernel::CrossEntropyCombine, [m.div_ceil(256), 1, 1], 0, combine);
    }

    fn need(&self, op: &SampledSoftmaxFwd) -> Result<usize, String> {
        Ok(over_batches(op.m, |m| scratch_bytes(&forward(&SampledSoftmaxFwd { m, ..*op }).1)))
    }
}

impl Run<SampledSoftmaxBwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, SampledSoftmaxBwd>) {
        let (m, d, s) = (op.m, op.d, op.s);
        let walk = Walk::backward(d, self);
        let (negatives, rows, lengths) = backward(op, walk.chunks);
        let ([offset, part], own) = (self.arrays(lengths), own(self, op.own));
        let kernel = |plain, with_own| if own == 0 { plain } else { with_own };
        // The other launches need its g0 and offset, so it runs even if they are skipped.
        let g0 = self.at(op.g0);
        let target = SampledSoftmaxTargetBwdParams {
            g0,
            offset,
            dloss: self.at(op.dloss),
            h: self.at(op.h),
            pos: self.at(op.pos),
            bias: self.at(op.bias),
            log_q: self.at(op.log_q),
            targets: if op.in_batch { self.at(op.targets) } else { 0 },
            target: self.at(op.target),
            negative: self.at(op.negative),
            lse: self.at(op.lse),
            m: m as i32,
            d: d as i32,
            s: s as i32,
        };
        self.launch(self.of(SAMPLED_SOFTMAX_TARGET_BWD), [target_blocks(m, s), 1, 1], 0, target);

        let (dh, add) = self.grad(op.dh);
        if dh != 0 {
            let split = negatives.count > 1;
            let params = SampledSoftmaxDhParams {
                dh,
                part: if split { part } else { 0 },
                dloss: self.at(op.dloss),
                g0,
                h: self.at(op.h),
                pos: self.at(op.pos),
                neg: self.at(op.neg),
                offset,
                target: self.at(op.target),
                negative: self.at(op.negative),
                own,
                lse: self.at(op.lse),
                m: m as i32,
                d: d as i32,
                s: s as i32,
                per_split: negatives.each as i32,
                resident: walk.resident,
                add,
            };
            let grid = [m.div_ceil(TILE), walk.chunks, negatives.count];
            let kernel = kernel(SAMPLED_SOFTMAX_DH, SAMPLED_SOFTMAX_DH_OWN);
            self.launch(self.of(kernel), grid, walk.shared_bytes, params);
            if split {
                self.sum_parts(self.of(CROSS_ENTROPY_SUM), dh, part, m * d, negatives, add);
            }
        }

        // Parts replace the outputs, in f32. The sums are rounded once.
        let (dneg, add_dneg) = self.grad(op.dneg);
        let (dneg_bias, add_dneg_bias) = self.grad(op.dneg_bias);
        if dneg != 0 || dneg_bias != 0 {
            let (split, part_bias) = (rows.count > 1, part + 4 * rows.parts(s * d) as Ptr);
            let in_parts = |wanted: Ptr, part: Ptr| if wanted != 0 && split { part } else { 0 };
            let params = SampledSoftmaxDnegParams {
                dneg,
                dneg_bias,
                part: in_parts(dneg, part),
                part_bias: in_parts(dneg_bias, part_bias),
                dloss: self.at(op.dloss),
                h: self.at(op.h),
                neg: self.at(op.neg),
                offset,
                target: self.at(op.target),
                negative: self.at(op.negative),
                own,
                lse: self.at(op.lse),
                m: m as i32,
                d: d as i32,
                s: s as i32,
                per_split: rows.each as i32,
                resident: walk.resident,
                add_dneg,
                add_dneg_bias,
            };
            let chunks = if dneg != 0 { walk.chunks } else { 1 };
            let grid = [s.div_ceil(TILE), chunks, rows.count];
            let kernel = kernel(SAMPLED_SOFTMAX_DNEG, SAMPLED_SOFTMAX_DNEG_OWN);
            self.launch(self.of(kernel), grid, walk.shared_bytes, params);
            if split && dneg != 0 {
                self.sum_parts(self.of(CROSS_ENTROPY_SUM), dneg, part, s * d, rows, add_dneg);
            }
            if split && dneg_bias != 0 {
                self.sum_parts(self.of(CROSS_ENTROPY_SUM), dneg_bias, part_bias, s, rows, add_dneg_bias);
            }
        }
    }

    fn need(&self, op: &SampledSoftmaxBwd) -> Result<usize, String> {
        let walk = Walk::backward(op.d, self);
        Ok(over_batches(op.m, |m| scratch_bytes(&backward(&SampledSoftmaxBwd { m, ..*op }, walk.chunks).2)))
    }
}
