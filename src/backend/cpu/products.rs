/*! Multi-threaded matrix products: C = A B (+ bias) over blocks of rows, and C = A^T B summed over many rows.

Work is cut by sizes alone, never by the number of threads, and partial sums are added in a fixed order. The result is
therefore the same to the bit for any number of threads.
*/

use rayon::prelude::*;

use super::{
    gemm::{
        Accumulate, Ahead, Bias, Dest, Packed, Store, Terms, View, multiply_ahead, pack, pack_rows, packed_len,
        rows_len,
    },
    scratch,
};

/// Rows per task of a parallel product: the parts of A and C stay in the second-level cache.
pub const ROWS: usize = 128;

/// Lines of a panel that fit the first-level cache together with a tile of A. Longer sums go in pieces of this length.
const DEPTH: usize = 128;

/// Returns the pieces (first, length) that a sum of `k` terms is cut into. An empty sum is one empty piece.
pub(super) fn pieces<T: Terms>(k: usize) -> impl Iterator<Item = (usize, usize)> {
    let depth = DEPTH * T::EACH;
    (0..k.max(1)).step_by(depth).map(move |start| (start, depth.min(k - start)))
}

/// Calls `f(c, a, b, first piece?, next data)` for blocks of rows of C in parallel, piece after piece of the sum. `a`
/// is in the form of left factors.
fn blocks<T: Terms>(
    c: &mut [f32],
    a: View,
    b: Packed<T>,
    f: impl Fn(Dest, View<T>, Packed<T>, bool, Ahead) + Send + Sync,
) {
    assert_eq!(c.len(), a.rows * b.n);
    c.par_chunks_mut((ROWS * b.n).max(1)).enumerate().for_each(|(block, c)| {
        let rows = c.len() / b.n;
        let (here, next) = (a.rows(block * ROWS, rows), (block + 1) * ROWS);
        let after = a.rows(next.min(a.rows), ROWS.min(a.rows.saturating_sub(next)));
        let c = Dest::new(c, rows, b.n, b.n);
        scratch::borrow(T::room(rows, b.k.min(DEPTH * T::EACH)), |room| {
            for (start, k) in pieces::<T>(b.k) {
                // Data that is copied before multiplication is prefetched one piece ahead. The product reads other data
                // itself.
                let (rows, from) = if start + k < b.k { (here, start + k) } else { (after, 0) };
                let ahead = match T::EACH {
                    1 => Ahead::NOTHING,
                    _ => Ahead::of(rows.cols(from, (b.k - from).min(DEPTH * T::EACH)), None),
                };
                f(c, T::of(room, here.cols(start, k)), b.rows(start, k), start == 0, ahead);
            }
        });
    });
}

/// Computes C (m, n) = alpha A B in parallel over row blocks, with C dense. `acc` adds to C.
pub fn product<T: Terms>(c: &mut [f32], a: View, b: Packed<T>, alpha: f32, acc: bool) {
    blocks(c, a, b, |c, a, b, first, ahead| match acc || !first {
        true => multiply_ahead(a, b, &mut Accumulate { c, alpha }, ahead),
        false => multiply_ahead(a, b, &mut Store { c, alpha }, ahead),
    });
}

/// Computes C (m, n) = A B + bias in parallel over row blocks, with C dense.
pub fn product_bias<T: Terms>(c: &mut [f32], a: View, b: Packed<T>, bias: &[f32]) {
    assert_eq!(bias.len(), b.n);
    blocks(c, a, b, |c, a, b, first, ahead| match first {
        true => multiply_ahead(a, b, &mut Bias { c, bias }, ahead),
        false => multiply_ahead(a, b, &mut Accumulate { c, alpha: 1.0 }, ahead),
    });
}

/// Passes x (rows, cols) to `f(x, elements of a row)` in a form with rows that products can read.
pub fn held<T: Terms, R>(x: &[f32], rows: usize, cols: usize, f: impl FnOnce(&[f32], usize) -> R) -> R {
    let lines = cols.div_ceil(T::EACH);
    let room = T::room(rows, cols);
    if room == 0 {
        return f(x, lines);
    }
    scratch::borrow(room, |to| {
        to.par_chunks_mut(ROWS * lines).zip(x.par_chunks(ROWS * cols)).for_each(|(to, x)| {
            T::of(to, View::dense(x, x.len() / cols, cols));
        });
        f(to, lines)
    })
}

/// Rows packed and multiplied at a time in [`product_t`]: a panel of B and a tile of A fit the first-level cache
/// together.
const KC: usize = 128;
/// Columns of A per task of [`product_t`].
const MC: usize = 256;

/// Computes C (m, n) = or += A^T B, summed over the many rows that A (k, m) and B (k, n) share.
///
/// Rows are cut into parts and columns of A into blocks of 256, by the sizes alone. This yields enough pieces for any
/// number of threads and few partial sums. Each part is summed in order, then the parts are added in order.
pub fn product_t<T: Terms>(c: &mut [f32], a: View, b: View, acc: bool) {
    assert!(a.rows == b.rows && c.len() == a.cols * b.cols);
    let (k, m, n) = (a.rows, a.cols, b.cols);
    let blocks = m.div_ceil(MC);
    let wanted = 48usize.div_ceil(blocks.max(1)).clamp(1, 16);
    let part_rows = k.div_ceil(wanted).next_multiple_of(KC * T::EACH).max(KC * T::EACH);
    let parts = k.div_ceil(part_rows);
    if parts == 0 || c.is_empty() {
        if !acc {
            c.fill(0.0);
        }
        return;
    }
    // Partial sums [block][part][MC rows of C].
    let size = scratch::room(MC * n);
    scratch::borrow(blocks * parts * size, |partials| {
        partials.par_chunks_mut(size).enumerate().for_each(|(task, sum)| {
            let (block, part) = (task / parts, task % parts);
            let (i0, k0) = (block * MC, part * part_rows);
            let (mc, rows) = (MC.min(m - i0), part_rows.min(k - k0));
            product_t_part::<T>(&mut sum[..mc * n], a.cols(i0, mc).rows(k0, rows), b.rows(k0, rows));
        });
        // There are few elements, so this pass is short. Every element adds its parts in order.
        c.par_chunks_mut(MC * n).zip(partials.par_chunks(parts * size)).for_each(|(c, sums)| {
            let mut sums = sums.chunks_exact(size);
            if !acc {
                c.copy_from_slice(&sums.next().expect("at least one part")[..c.len()]);
            }
            for sum in sums {
                for (c, x) in c.iter_mut().zip(sum) {
                    *c += x;
                }
            }
        });
    });
}

/// Computes one piece of [`product_t`]: C = A^T B, row chunk after row chunk.
fn product_t_part<T: Terms>(c: &mut [f32], a: View, b: View) {
    let (m, n) = (a.cols, b.cols);
    let chunk = KC * T::EACH;
    scratch::borrow(scratch::room(packed_len(KC, n)) + rows_len(m, KC), |mut rest| {
        let packed_b = scratch::split(&mut rest, packed_len(KC, n));
        for k0 in (0..a.rows).step_by(chunk) {
            let kc = chunk.min(a.rows - k0);
            let next = chunk.min(a.rows - k0 - kc);
            // The next rows come from distant memory. They are prefetched while these are multiplied.
            let ahead = Ahead::of(a.rows(k0 + kc, next), Some(b.rows(k0 + kc, next)));
            let b = pack::<T>(packed_b, b.rows(k0, kc));
            let a = pack_rows::<T>(rest, a.rows(k0, kc).t());
            let c = Dest::new(c, m, n, n);
            match k0 {
                0 => multiply_ahead(a, b, &mut Store { c, alpha: 1.0 }, ahead),
                _ => multiply_ahead(a, b, &mut Accumulate { c, alpha: 1.0 }, ahead),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::{
        super::gemm::{Bf16Operand, F32Operand, Store, multiply},
        *,
    };
    use crate::{
        base::rng::{Purpose, Stream},
        mem::round_bf16,
    };

    fn random(len: usize, a: u32) -> Vec<f32> {
        let mut s = Stream::new(5, Purpose::Test, a);
        (0..len).map(|_| s.uniform() * 2.0 - 1.0).collect()
    }

    /// Returns the product in f64, element by element, of factors rounded to the operand type.
    fn naive<T: Terms>(a: View, b: View) -> Vec<f64> {
        let term = |x: f32| if T::EACH == 2 { round_bf16(x) as f64 } else { x as f64 };
        let mut c = vec![0.0; a.rows * b.cols];
        for i in 0..a.rows {
            for j in 0..b.cols {
                for p in 0..a.cols {
                    c[i * b.cols + j] += term(a.at(i, p)) * term(b.at(p, j));
                }
            }
        }
        c
    }

    fn close(got: &[f32], want: &[f64], k: usize, what: &str) {
        // Sums of k products of numbers below 1, each rounded to half a unit.
        let limit = 1e-7 * k as f64 + 1e-7;
        for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
            assert!((g as f64 - w).abs() <= limit, "{what}: element {i} is {g}, want {w}");
        }
    }

    #[test]
    fn products_of_ragged_sizes_match_f64() {
        ragged::<F32Operand>();
        ragged::<Bf16Operand>();
    }

    fn ragged<T: Terms>() {
        for &(m, n, k) in &[
            (1, 1, 1),
            (7, 33, 5),
            (8, 32, 64),
            (13, 65, 17),
            (130, 96, 31),
            (9, 40, 300),
            (3, 7, 0),
            (0, 5, 4),
            (261, 3, 9),
        ] {
            let (a, b) = (random(m * k, 1), random(n * k, 2));
            for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
                let av = if ta { View::dense(&a, k, m).t() } else { View::dense(&a, m, k) };
                let bv = if tb { View::dense(&b, n, k).t() } else { View::dense(&b, k, n) };
                let mut scratch = vec![f32::NAN; packed_len(k, n)];
                let packed = pack::<T>(&mut scratch, bv);
                let want = naive::<T>(av, bv);
                // A guard band past C must stay unwritten.
                let mut c = vec![f32::NAN; m * n + 64];
                c[m * n..].fill(7.0);
                product(&mut c[..m * n], av, packed, 1.0, false);
                close(&c[..m * n], &want, k, "product");
                assert!(c[m * n..].iter().all(|&x| x == 7.0));
                product(&mut c[..m * n], av, packed, -1.0, true);
                // Sums of several pieces are rounded between them, so the difference need not be exactly 0.
                close(&c[..m * n], &vec![0.0; m * n], k, "c - c");
                let bias = random(n, 3);
                product_bias(&mut c[..m * n], av, packed, &bias);
                let with: Vec<f64> = want.iter().enumerate().map(|(i, w)| w + bias[i % n] as f64).collect();
                close(&c[..m * n], &with, k + 1, "product_bias");
            }
        }
    }

    #[test]
    fn reductions_over_rows_match_f64_whatever_the_threads() {
        reductions::<F32Operand>();
        reductions::<Bf16Operand>();
    }

    fn reductions<T: Terms>() {
        for &(k, m, n) in &[(1, 3, 5), (127, 8, 32), (1000, 17, 33), (5000, 64, 40), (300, 261, 9), (0, 4, 4)] {
            let (a, b) = (random(k * m, 1), random(k * n, 2));
            let (av, bv) = (View::dense(&a, k, m), View::dense(&b, k, n));
            let want = naive::<T>(av.t(), bv);
            let runs: Vec<Vec<f32>> = [1, 2, 5]
                .map(|threads| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let mut c = vec![f32::NAN; m * n];
                    pool.install(|| product_t::<T>(&mut c, av, bv, false));
                    c
                })
                .into();
            close(&runs[0], &want, k, "product_t");
            assert!(runs[1] == runs[0] && runs[2] == runs[0]);
            let mut twice = runs[0].clone();
            product_t::<T>(&mut twice, av, bv, true);
            let double: Vec<f64> = want.iter().map(|w| 2.0 * w).collect();
            close(&twice, &double, 2 * k, "product_t, accumulated");
        }
    }

    #[test]
    fn strided_parts_of_a_matrix_multiply_too() {
        strided::<F32Operand>();
        strided::<Bf16Operand>();
    }

    fn strided<T: Terms>() {
        // Columns 5..12 of a (9, 20) matrix, laid out like the heads of a fused projection.
        let (a, b) = (random(9 * 20, 1), random(7 * 4, 2));
        let (av, bv) = (View::dense(&a, 9, 20).cols(5, 7), View::dense(&b, 7, 4));
        let mut scratch = vec![0.0; packed_len(7, 4)];
        let mut c = vec![f32::NAN; 9 * 10];
        let dest = Dest::new(&mut c[3..], 9, 4, 10);
        let mut room = vec![f32::NAN; T::room(9, 7)];
        multiply(T::of(&mut room, av), pack(&mut scratch, bv), &mut Store { c: dest, alpha: 1.0 });
        let want = naive::<T>(av, bv);
        for i in 0..9 {
            close(&c[i * 10 + 3..][..4], &want[i * 4..][..4], 7, "strided");
            assert!(c[i * 10..][..3].iter().chain(&c[i * 10 + 7..][..3]).all(|x| x.is_nan()));
        }
    }
}
