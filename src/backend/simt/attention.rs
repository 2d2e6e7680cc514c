//! Launchers of `kernels/attention.cu` and `kernels/attention_bwd.cu`. They select the kernel for heads of K columns
//! and compute the shared memory of its tiles.

use super::{Simt, kernels::*};
use crate::{
    mem::Precision,
    ops::{AttentionBwd, AttentionFwd, Run, Valid},
};

/// The kernels for heads of up to `most` columns.
struct Width {
    /// Number of columns that shared tiles are padded to.
    most: usize,
    fwd: Pair,
    bwd_q: Pair,
    bwd_kv: Pair,
}

const WIDTHS: [Width; 4] = [
    Width { most: 16, fwd: ATTENTION_FWD_K16, bwd_q: ATTENTION_BWD_Q_K16, bwd_kv: ATTENTION_BWD_KV_K16 },
    Width { most: 32, fwd: ATTENTION_FWD_K32, bwd_q: ATTENTION_BWD_Q_K32, bwd_kv: ATTENTION_BWD_KV_K32 },
    Width { most: 64, fwd: ATTENTION_FWD_K64, bwd_q: ATTENTION_BWD_Q_K64, bwd_kv: ATTENTION_BWD_KV_K64 },
    Width { most: 128, fwd: ATTENTION_FWD_K128, bwd_q: ATTENTION_BWD_Q_K128, bwd_kv: ATTENTION_BWD_KV_K128 },
];

fn width(k: usize) -> Option<&'static Width> {
    WIDTHS.iter().find(|w| k <= w.most)
}

/// The rows of a block, and the rows of each tile that it iterates over.
struct Tiles {
    rows: usize,
    step: usize,
}

impl Tiles {
    /// Mirrors FwdTiles of `kernels/common/attention.cuh`.
    fn fwd(width: usize) -> Tiles {
        Tiles { rows: 64, step: if width == 128 { 32 } else { 64 } }
    }

    /// Mirrors BwdTiles of `kernels/common/attention.cuh`.
    fn bwd(width: usize, precision: Precision) -> Tiles {
        match (precision, width) {
            (Precision::F32, 64 | 128) => Tiles { rows: 32, step: 16 },
            (Precision::F32, _) | (_, 128) => Tiles { rows: 64, step: 32 },
            _ => Tiles { rows: 64, step: 64 },
        }
    }

    /// Returns the bytes of `own` tiles of the block's rows and two stages of two tiles. Each row has 16 bytes of
    /// padding.
    fn bytes(&self, own: usize, width: usize, act_bytes: usize) -> usize {
        (own * self.rows + 4 * self.step) * (width * act_bytes + 16)
    }

    /// Returns the grid with one block per tile, head and sequence, as `find_part` decodes it.
    fn grid(&self, b: usize, h: usize, t: usize) -> [usize; 3] {
        [b * h * t.div_ceil(self.rows), 1, 1]
    }
}

/// Checks that `h` heads of `k` columns are supported.
fn served(b: usize, h: usize, k: usize, t: usize) -> Result<(), String> {
    if width(k).is_none() {
        let most = WIDTHS[WIDTHS.len() - 1].most;
        return Err(format!("attention with {k} columns per head: the kernels support 1 to {most}; use more heads"));
    }
    // Holds for any tiling: no block has fewer than 32 rows.
    if b * h * t.div_ceil(32) >= 1 << 31 {
        return Err(format!("attention over {b} sequences of up to {t} positions in {h} heads: 2^31 blocks or more"));
    }
    Ok(())
}

impl Run<AttentionFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, AttentionFwd>) {
        let w = width(op.k).expect("`need` was called");
        let tiles = Tiles::fwd(w.most);
        let params = AttentionFwdParams {
            o: self.at(op.o),
            lse: self.at(op.lse),
            qkv: self.at(op.qkv),
            cu: self.at(op.cu),
            step: self.at(op.step),
            n: op.n as i64,
            h: op.h as i32,
            k: op.k as i32,
            t: op.t as i32,
            causal: op.causal as i32,
            scale: (1.0 / (op.k as f64).sqrt()) as f32,
            drop: op.drop.into(),
        };
        let bytes = tiles.bytes(1, w.most, self.act_bytes());
        self.launch(self.of(w.fwd), tiles.grid(op.b, op.h, op.t), bytes, params);
    }

    fn need(&self, op: &AttentionFwd) -> Result<usize, String> {
        served(op.b, op.h, op.k, op.t).map(|()| 0)
    }
}

impl Run<AttentionBwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, AttentionBwd>) {
        let (dqkv, add) = self.grad(op.dqkv);
        if dqkv == 0 {
            return;
        }
        let w = width(op.k).expect("`need` was called");
        let tiles = Tiles::bwd(w.most, self.precision);
        let params = AttentionBwdParams {
            dqkv,
            delta: self.scratch(4 * op.h * op.n),
            d_o: self.at(op.d_o),
            o: self.at(op.o),
            qkv: self.at(op.qkv),
            lse: self.at(op.lse),
            cu: self.at(op.cu),
            step: self.at(op.step),
            n: op.n as i64,
            h: op.h as i32,
            k: op.k as i32,
            t: op.t as i32,
            causal: op.causal as i32,
            add,
            scale: (1.0 / (op.k as f64).sqrt()) as f32,
            drop: op.drop.into(),
        };
        // k, v (or q, do) of the block's rows and two stages of the other two. bwd_kv adds lse and delta to each stage.
        let (grid, bytes) = (tiles.grid(op.b, op.h, op.t), tiles.bytes(2, w.most, self.act_bytes()));
        // The order matters: the second launch reads the delta that the first one writes.
        self.launch(self.of(w.bwd_q), grid, bytes, params);
        self.launch(self.of(w.bwd_kv), grid, bytes + 16 * tiles.step, params);
    }

    fn need(&self, op: &AttentionBwd) -> Result<usize, String> {
        served(op.b, op.h, op.k, op.t).map(|()| 4 * op.h * op.n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_no_kernel_takes_are_named() {
        for k in [1, 16, 17, 64, 100, 128] {
            assert!(width(k).unwrap().most >= k && served(2, 4, k, 500).is_ok());
        }
        assert!(served(2, 1, 129, 500).unwrap_err().contains("129 columns per head: the kernels support 1 to 128"));
        assert!(served(1 << 20, 1 << 10, 16, 500).unwrap_err().contains("2^31 blocks"));
    }

    /// sm_89 and sm_120 give a block 99 KiB, the least of all compiled architectures.
    #[test]
    fn tiles_fit_into_the_smallest_shared_memory() {
        for (precision, act_bytes) in [(Precision::F32, 4), (Precision::Bf16, 2)] {
            for w in &WIDTHS {
                let (fwd, bwd) = (Tiles::fwd(w.most), Tiles::bwd(w.most, precision));
                assert!(fwd.bytes(1, w.most, act_bytes) <= 99 << 10);
                assert!(bwd.bytes(2, w.most, act_bytes) + 16 * bwd.step <= 99 << 10);
            }
        }
    }
}
