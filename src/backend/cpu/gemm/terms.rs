//! The operand types of products and their memory formats.

use super::{
    super::simd::{Isa, Kernel, Simd, dispatch, dispatch_bf16},
    View,
    pack::{pair_columns, pair_rows},
};

/// A kind of factor. Its elements are 32 bits wide and are stored in slices of f32, whatever their bits mean.
pub trait Terms: Copy + Send + Sync + 'static {
    /// Number of terms of a sum per element.
    const EACH: usize;

    /// Returns whether products use AMX tiles, which require contiguous rows of A.
    fn in_tiles() -> bool {
        false
    }

    /// Computes acc + a b lane by lane, summed over the terms of an element.
    fn mul_add<S: Simd>(s: S, a: S::V, b: S::V, acc: S::V) -> S::V;

    /// Forms one line of a panel from the rows of B that it holds. `second` is zero past the last row of B.
    fn line<S: Simd>(s: S, first: S::V, second: S::V) -> S::V;

    /// Runs a kernel with the best available instructions for these factors.
    fn dispatch<K: Kernel>(kernel: K) -> K::Out;

    /// Returns the number of elements that [`Terms::of`] needs for (rows, cols).
    fn room(rows: usize, cols: usize) -> usize;

    /// Returns `a` as a left factor: in place where possible, else copied to `to`. Its rows or its columns are
    /// contiguous.
    fn of<'a>(to: &'a mut [f32], a: View<'a>) -> View<'a, Self>;
}

/// f32.
#[derive(Clone, Copy)]
pub struct F32Operand;

impl Terms for F32Operand {
    const EACH: usize = 1;

    #[inline(always)]
    fn mul_add<S: Simd>(s: S, a: S::V, b: S::V, acc: S::V) -> S::V {
        s.fma(a, b, acc)
    }

    #[inline(always)]
    fn line<S: Simd>(_: S, first: S::V, _: S::V) -> S::V {
        first
    }

    fn dispatch<K: Kernel>(kernel: K) -> K::Out {
        dispatch(kernel)
    }

    fn room(_: usize, _: usize) -> usize {
        0
    }

    fn of<'a>(_: &'a mut [f32], a: View<'a>) -> View<'a> {
        a
    }
}

/// Two bf16 values, the earlier term in the low half, rounded to nearest, ties to even. Sums are f32.
#[derive(Clone, Copy)]
pub struct Bf16Operand;

impl Terms for Bf16Operand {
    const EACH: usize = 2;

    fn in_tiles() -> bool {
        Isa::current() == Isa::Amx
    }

    #[inline(always)]
    fn mul_add<S: Simd>(s: S, a: S::V, b: S::V, acc: S::V) -> S::V {
        s.dot2(a, b, acc)
    }

    #[inline(always)]
    fn line<S: Simd>(s: S, first: S::V, second: S::V) -> S::V {
        s.pair(first, second)
    }

    fn dispatch<K: Kernel>(kernel: K) -> K::Out {
        dispatch_bf16(kernel)
    }

    fn room(rows: usize, cols: usize) -> usize {
        rows * cols.div_ceil(2)
    }

    fn of<'a>(to: &'a mut [f32], a: View<'a>) -> View<'a, Bf16Operand> {
        if a.cs == 1 || a.cols <= 1 { pair_columns(to, a) } else { pair_rows(to, a) }
    }
}
