//! Launchers of `kernels/gru.cu`: the packed weight in scratch, and the widest state that fits shared memory.

use super::{Simt, kernels::*};
use crate::{
    mem::{F32, Precision, Span},
    ops::{GruBwd, GruFwd, Run, Valid},
};

/// Returns the sequences per block: kRows of `GruTiles`.
fn rows(precision: Precision) -> usize {
    match precision {
        Precision::Bf16 => 16,
        Precision::F32 => 8,
    }
}

/// Returns the columns that the summed index of products is padded to.
fn padded(h: usize) -> usize {
    h.next_multiple_of(32)
}

fn act_bytes(precision: Precision) -> usize {
    match precision {
        Precision::Bf16 => 2,
        Precision::F32 => 4,
    }
}

/// Returns the shared memory of a block: the state in whole tiles of 8 columns, and two operands of `parts` matrices.
fn shared_bytes(h: usize, parts: usize, precision: Precision) -> usize {
    let hp = padded(h);
    let ld = match precision {
        Precision::F32 => hp + 4,
        Precision::Bf16 if hp.is_multiple_of(64) => hp + 32,
        Precision::Bf16 => hp,
    };
    rows(precision) * (4 * h.next_multiple_of(8) + 2 * parts * ld * act_bytes(precision))
}

/// Number of matrices in the operand of the forward and of the backward pass.
const FWD: usize = 1;
const BWD: usize = 3;

/// Returns the number of elements of the packed weight.
fn packed(h: usize) -> usize {
    3 * h.next_multiple_of(8) * padded(h)
}

/// Returns the bytes of scratch, if a block with `room` bytes of shared memory supports sequences of `h` columns.
/// Both passes check the needs of the backward pass, so that a device that predicts can also train and vice versa.
fn served(h: usize, precision: Precision, room: usize) -> Result<usize, String> {
    if shared_bytes(h, BWD, precision) > room {
        let most = (1..h).rev().find(|h| shared_bytes(*h, BWD, precision) <= room).unwrap_or(0);
        return Err(format!("a GRU of {h} columns: the shared memory of this device supports 1 to {most}"));
    }
    Ok(packed(h) * act_bytes(precision))
}

impl Simt {
    /// Packs the weight in the order in which the kernels read it.
    fn pack_gru(&mut self, w: Span<F32>, h: usize, transposed: bool) -> Ptr {
        let out = self.scratch(packed(h) * self.act_bytes());
        let params = GruPackParams { out, w: self.weight(w), h: h as i32, transposed: transposed as i32 };
        self.launch(self.of(GRU_PACK), [packed(h).div_ceil(256), 1, 1], 0, params);
        out
    }

    /// Returns one block per few sequences, and one even without any, for the rows past the last sequence.
    fn gru_grid(&self, b: usize) -> [usize; 3] {
        [b.div_ceil(rows(self.precision)).max(1), 1, 1]
    }
}

impl Run<GruFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, GruFwd>) {
        if op.n == 0 {
            return;
        }
        let params = GruFwdParams {
            y: self.at(op.y),
            before: self.at(op.before),
            gates: self.at(op.gates),
            gx: self.at(op.gx),
            w: self.pack_gru(op.w, op.h, false),
            bias: self.at(op.bias),
            cu: self.at(op.cu),
            n: op.n as i64,
            b: op.b as i32,
            h: op.h as i32,
        };
        let bytes = shared_bytes(op.h, FWD, self.precision);
        self.launch(self.of(GRU_FWD), self.gru_grid(op.b), bytes, params);
    }

    fn need(&self, op: &GruFwd) -> Result<usize, String> {
        served(op.h, self.precision, self.device.card.shared_bytes as usize)
    }
}

impl Run<GruBwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, GruBwd>) {
        let ((dgx, add_dgx), (dgh, add_dgh)) = (self.grad(op.dgx), self.grad(op.dgh));
        if op.n == 0 || (dgx == 0 && dgh == 0) {
            return;
        }
        let params = GruBwdParams {
            dgx,
            dgh,
            dy: self.at(op.dy),
            before: self.at(op.before),
            gates: self.at(op.gates),
            w: self.pack_gru(op.w, op.h, true),
            cu: self.at(op.cu),
            n: op.n as i64,
            b: op.b as i32,
            h: op.h as i32,
            add_dgx,
            add_dgh,
        };
        let bytes = shared_bytes(op.h, BWD, self.precision);
        self.launch(self.of(GRU_BWD), self.gru_grid(op.b), bytes, params);
    }

    fn need(&self, op: &GruBwd) -> Result<usize, String> {
        served(op.h, self.precision, self.device.card.shared_bytes as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// sm_89 and sm_120 give a block 99 KiB, the least of all compiled architectures; sm_80 163, sm_90 and later 227.
    #[test]
    fn wide_states_fit_and_wider_ones_are_refused_in_words() {
        for precision in [Precision::Bf16, Precision::F32] {
            for (room, most) in [(99, 352), (163, 608), (227, 864)] {
                assert!(served(most, precision, room << 10).is_ok(), "{most} columns in {room} KiB");
                let said = served(4 * most, precision, room << 10).unwrap_err();
                assert!(said.contains("shared memory of this device supports 1 to"), "{said}");
            }
        }
        for h in [1, 7, 8, 31, 33, 100] {
            assert!(shared_bytes(h, FWD, Precision::F32) < shared_bytes(h, BWD, Precision::F32));
            assert_eq!(shared_bytes(h, BWD, Precision::Bf16) % 16, 0);
        }
    }
}
