//! Products of pairs in AMX tiles: 32 rows by two vectors at a time, over the same panels as all other products of
//! pairs.

use super::{
    super::simd::{Simd, amx},
    Ahead, Epilogue, NV, Packed, Terms, View,
};

const SIDE: usize = amx::SIDE;

/// Computes [`multiply`](super::multiply) where AMX is in use. The rows of A are contiguous.
#[inline(always)]
pub(super) fn multiply<S: Simd, T: Terms, E: Epilogue>(s: S, a: View<T>, b: Packed<T>, e: &mut E, ahead: &mut Ahead) {
    assert!(S::LANES == SIDE && NV == 2 && a.cs == 1 && !a.tiled && T::EACH == 2);
    let lines = b.k.div_ceil(T::EACH);
    if a.rows == 0 || b.n == 0 {
        return;
    }
    let rows = a.rows.min(SIDE);
    // SAFETY: this path runs only where AMX is available.
    let shapes = unsafe { amx::Shapes::load(rows, lines % SIDE) };
    let mut sums = amx::Sums::NEW;
    for j0 in (0..b.n).step_by(NV * SIDE) {
        let panel = &b.data[j0 * b.depth..];
        assert!(panel.len() >= lines * NV * SIDE);
        let width = (NV * SIDE).min(b.n - j0);
        for i0 in (0..a.rows).step_by(2 * SIDE) {
            let tiles = if a.rows - i0 > SIDE { 2 } else { 1 };
            // The last tile ends at the last row. The overlap with the tile before it is dropped.
            let first = [i0, i0 + SIDE].map(|i| i.min(a.rows - rows));
            let from = first.map(|i| a.data.as_ptr().wrapping_add(i * a.rs));
            let next = a.data.as_ptr().wrapping_add((i0 + 2 * SIDE) * a.rs);
            let (fetch, step) = ahead.next(lines, (next, 2 * SIDE));
            (0..lines).for_each(|p| s.prefetch(fetch.wrapping_add(p * step)));
            for i in i0..(i0 + tiles * SIDE).min(a.rows) {
                if let Some(p) = e.address(i, j0) {
                    s.prefetch_write(p);
                    s.prefetch_write(p.wrapping_add(SIDE));
                }
            }
            // SAFETY: the rows lie inside the view. The view and the panel hold the lines of k columns. The epilogue
            // receives vectors that the block has written, which are elements of the product.
            unsafe {
                let panel = panel.as_ptr();
                match (tiles, width > SIDE) {
                    (2, true) => amx::block::<2, 2>(&shapes, from, a.rs, panel, lines, &mut sums),
                    (2, false) => amx::block::<2, 1>(&shapes, from, a.rs, panel, lines, &mut sums),
                    (_, true) => amx::block::<1, 2>(&shapes, from, a.rs, panel, lines, &mut sums),
                    (_, false) => amx::block::<1, 1>(&shapes, from, a.rs, panel, lines, &mut sums),
                }
                for (t, first) in first.iter().enumerate().take(tiles) {
                    for i in (i0 + t * SIDE)..(i0 + (t + 1) * SIDE).min(a.rows) {
                        for j in (0..width).step_by(SIDE) {
                            let v = s.load(sums.vector(t, i - first, j / SIDE));
                            e.take(s, i, j0 + j, v, SIDE.min(width - j));
                        }
                    }
                }
            }
        }
    }
}
