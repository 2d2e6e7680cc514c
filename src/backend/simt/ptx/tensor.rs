//! Products of tensor cores and the layout of their operands over the lanes of a warp, by the formulas of the PTX ISA.

use super::{
    alu::{FULL, Registers, Word, is_fast},
    arithmetic::{float, tensor_sum},
    program::Instruction,
};

/// How products are summed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sums {
    /// In f32, in the order of k, as the emulator does.
    #[default]
    InOrder,
    /// As tensor cores of sm_80 are reported to: see [`tensor_sum`].
    Truncated,
}

/// Row and column of element i (0 to 7) of the left operand of m16n8k16 that a lane holds.
pub fn left_place(lane: usize, i: usize) -> (usize, usize) {
    let row = lane / 4 + if matches!(i, 0 | 1 | 4 | 5) { 0 } else { 8 };
    (row, lane % 4 * 2 + i % 2 + if i >= 4 { 8 } else { 0 })
}

/// Row and column of element i (0 to 3) of the right operand.
fn right_place(lane: usize, i: usize) -> (usize, usize) {
    (lane % 4 * 2 + i % 2 + if i >= 2 { 8 } else { 0 }, lane / 4)
}

/// Row and column of element i of an accumulator. Those of wgmma continue with the next eight columns.
pub fn sum_place(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + if i % 4 >= 2 { 8 } else { 0 }, i / 4 * 8 + lane % 4 * 2 + i % 2)
}

/// The low or high bf16 of a word, as f32.
pub fn half(word: u32, high: usize) -> f32 {
    float(if high == 0 { word << 16 } else { word & 0xffff_0000 })
}

/// The 16 x 16 left operand in four registers.
pub fn left_operand(registers: &Registers, list: &[u32]) -> [[f32; 16]; 16] {
    let mut a = [[0.0; 16]; 16];
    for lane in 0..32 {
        for i in 0..8 {
            let (row, column) = left_place(lane, i);
            a[row][column] = half(registers.word(list[i / 2])[lane], i % 2);
        }
    }
    a
}

/// sums (16, N) += a (16, 16) b (16, N).
pub fn multiply<const N: usize>(sums: &mut [[f32; N]; 16], a: &[[f32; 16]; 16], b: &[[f32; N]; 16], how: Sums) {
    match how {
        Sums::Truncated => {
            for column in 0..N {
                let right: [f32; 16] = std::array::from_fn(|k| b[k][column]);
                for row in 0..16 {
                    // A product of sm_80 takes eight of k.
                    for k in [0, 8] {
                        let sum = &mut sums[row][column];
                        *sum = tensor_sum(*sum, &a[row][k..k + 8], &right[k..k + 8]);
                    }
                }
            }
        }
        #[cfg(target_arch = "x86_64")]
        Sums::InOrder if is_fast() => {
            // SAFETY: `is_fast`: the processor has AVX2 and FMA.
            unsafe { multiply_fast(sums, a, b) }
        }
        Sums::InOrder => multiply_anywhere(sums, a, b),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_fast<const N: usize>(sums: &mut [[f32; N]; 16], a: &[[f32; 16]; 16], b: &[[f32; N]; 16]) {
    multiply_anywhere(sums, a, b);
}

/// Products of bf16 are exact in f32, so that a fused multiply-add rounds as a product and a sum do.
#[inline(always)]
fn multiply_anywhere<const N: usize>(sums: &mut [[f32; N]; 16], a: &[[f32; 16]; 16], b: &[[f32; N]; 16]) {
    for row in 0..16 {
        for k in 0..16 {
            let x = a[row][k];
            for column in 0..N {
                sums[row][column] = x.mul_add(b[k][column], sums[row][column]);
            }
        }
    }
}

/// `mma.m16n8k16`: registers d (4), a (4), b (2), c (4).
pub fn mma(registers: &mut Registers, i: &Instruction, how: Sums) {
    let list = &i.list;
    let a = left_operand(registers, &list[4..8]);
    let (mut b, mut sums) = ([[0.0; 8]; 16], [[0.0; 8]; 16]);
    for lane in 0..32 {
        for e in 0..4 {
            let (row, column) = right_place(lane, e);
            b[row][column] = half(registers.word(list[8 + e / 2])[lane], e % 2);
            let (row, column) = sum_place(lane, e);
            sums[row][column] = float(registers.word(list[10 + e])[lane]);
        }
    }
    multiply(&mut sums, &a, &b, how);
    for (e, to) in list[..4].iter().enumerate() {
        let mut value = [0; 32];
        for (lane, value) in value.iter_mut().enumerate() {
            let (row, column) = sum_place(lane, e);
            *value = sums[row][column].to_bits();
        }
        registers.put(*to, value, FULL);
    }
}

/// What `ldmatrix` gives to the lanes: of matrix i, lane t gets elements 2 (t % 4) and the next of row t / 4;
/// transposed, of column t / 4. `offsets` are those of the rows, eight a matrix.
pub fn load_matrix(shared: &[u8], offsets: &[usize; 32], count: usize, transposed: bool) -> [Word; 4] {
    let element = |matrix: usize, row: usize, column: usize| {
        let at = offsets[matrix * 8 + row] + column * 2;
        u16::from_le_bytes([shared[at], shared[at + 1]]) as u32
    };
    let lane_of = |matrix: usize, lane: usize| {
        let (first, second) = (lane / 4, lane % 4 * 2);
        match transposed {
            false => element(matrix, first, second) | element(matrix, first, second + 1) << 16,
            true => element(matrix, second, first) | element(matrix, second + 1, first) << 16,
        }
    };
    let mut words = [[0; 32]; 4];
    for (matrix, words) in words[..count].iter_mut().enumerate() {
        for (lane, word) in words.iter_mut().enumerate() {
            *word = lane_of(matrix, lane);
        }
    }
    words
}
