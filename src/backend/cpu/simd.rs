/*! Vectors of f32 for the running machine: one kernel source, compiled for several instruction sets, chosen at run
time.

A kernel is written once against [`Simd`] and started through [`dispatch`], which enters a function compiled for
AVX-512, for AVX2 + FMA, or for the baseline of the build target. The token `S: Simd` proves that the processor has the
instructions: only `dispatch` creates one. Everything below it is `#[inline(always)]`, because an intrinsic is a
function call unless it is inlined into a function compiled for its instruction set.

Sums over lanes are taken in a fixed order, so a result depends on the instruction set but not on the run.
*/

#[cfg(target_arch = "x86_64")]
pub mod amx;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

/// The instruction sets that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 with products of bf16 pairs and of tiles of bf16 pairs.
    Amx,
    /// AVX-512 with products of bf16 pairs.
    Avx512Bf16,
    Avx512,
    Avx2,
    Portable,
}

impl Isa {
    /// Returns the name: the value of `MIPGPU_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Amx => "amx",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Portable => "portable",
        }
    }

    /// Returns the instruction sets of this processor, best first.
    pub fn available() -> impl Iterator<Item = Isa> {
        [Isa::Amx, Isa::Avx512Bf16, Isa::Avx512, Isa::Avx2, Isa::Portable].into_iter().filter(|isa| isa.supported())
    }

    #[cfg(target_arch = "x86_64")]
    fn supported(self) -> bool {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        match self {
            Isa::Amx => Isa::Avx512Bf16.supported() && amx::available(),
            Isa::Avx512Bf16 => Isa::Avx512.supported() && is_x86_feature_detected!("avx512bf16"),
            Isa::Avx512 => {
                avx2 && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            Isa::Avx2 => avx2,
            Isa::Portable => true,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn supported(self) -> bool {
        self == Isa::Portable
    }

    /// Returns the instruction set in use: the best available one, or the one named by `MIPGPU_ISA`.
    /// A set that the processor lacks is ignored.
    /// The variable is for tests and for comparing machines.
    pub fn current() -> Isa {
        static CURRENT: OnceLock<Isa> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let wanted = std::env::var("MIPGPU_ISA").ok();
            let named = Isa::available().find(|isa| wanted.as_deref() == Some(isa.name()));
            named.or_else(|| Isa::available().next()).unwrap_or(Isa::Portable)
        })
    }

    /// Returns the number of f32 lanes of one vector.
    pub fn lanes(self) -> usize {
        match self {
            Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512 => 16,
            Isa::Avx2 => 8,
            Isa::Portable => 4,
        }
    }

    /// Returns the rows of a matrix-product tile ([`Simd::MR`]).
    pub fn tile_rows(self) -> usize {
        match self {
            Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512 => 8,
            Isa::Avx2 => 6,
            Isa::Portable => 4,
        }
    }
}

/// Code that is compiled once for each instruction set.
pub trait Kernel {
    type Out;
    /// Runs the kernel. Implementations are `#[inline(always)]`, as is everything they call with `s`.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// Runs a kernel with the instruction set in use.
#[inline]
pub fn dispatch<K: Kernel>(kernel: K) -> K::Out {
    dispatch_on(Isa::current(), kernel)
}

/// Runs [`dispatch`] for kernels that multiply pairs of bf16. Only these are compiled for processors with bf16
/// instructions.
#[inline]
pub fn dispatch_bf16<K: Kernel>(kernel: K) -> K::Out {
    dispatch_bf16_on(Isa::current(), kernel)
}

/// Runs a kernel with the given instruction set, which must be available.
#[inline]
pub fn dispatch_on<K: Kernel>(isa: Isa, kernel: K) -> K::Out {
    assert!(isa == Isa::current() || isa.supported(), "this processor has no {isa:?}");
    #[cfg(target_arch = "x86_64")]
    match isa {
        // SAFETY: the assertion holds, and `current` returns only detected sets.
        Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512 => return unsafe { x86::run_avx512(kernel) },
        // SAFETY: as above.
        Isa::Avx2 => return unsafe { x86::run_avx2(kernel) },
        Isa::Portable => {}
    }
    let _ = isa;
    kernel.run(Portable(()))
}

/// Runs [`dispatch_bf16`] with the given instruction set, which must be available.
#[inline]
pub fn dispatch_bf16_on<K: Kernel>(isa: Isa, kernel: K) -> K::Out {
    #[cfg(target_arch = "x86_64")]
    if matches!(isa, Isa::Amx | Isa::Avx512Bf16) {
        assert!(isa == Isa::current() || isa.supported(), "this processor has no {isa:?}");
        // SAFETY: the assertion holds, and `current` returns only detected sets.
        return unsafe { x86::run_avx512_bf16(kernel) };
    }
    dispatch_on(isa, kernel)
}

/// One vector of `LANES` f32 and its operations. Loads and stores need no alignment.
pub trait Simd: Copy + Send + Sync + 'static {
    type V: Copy;
    const LANES: usize;
    /// Rows of the matrix-product tile: as many accumulators as fit the registers next to two vectors of B.
    const MR: usize;

    fn splat(self, x: f32) -> Self::V;
    /// Loads `LANES` elements.
    /// # Safety
    /// `p` is readable for `LANES` elements.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// Stores `LANES` elements.
    /// # Safety
    /// `p` is writable for `LANES` elements.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// Loads the first `n <= LANES` elements, with zeros past them.
    /// # Safety
    /// `p` is readable for `n` elements; nothing past them is accessed.
    unsafe fn load_first(self, p: *const f32, n: usize) -> Self::V;
    /// Writes the first `n <= LANES` elements.
    /// # Safety
    /// `p` is writable for `n` elements; nothing past them is accessed.
    unsafe fn store_first(self, p: *mut f32, v: Self::V, n: usize);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// Computes a * b + c, rounded once where the processor supports it.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Returns the larger operand, or `b` where one is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns the smaller operand, or `b` where one is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    /// Rounds to the nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// Computes a * 2^n for integers n in -252..=254. The result can be zero, a subnormal or infinity.
    fn scale2(self, a: Self::V, n: Self::V) -> Self::V;
    /// Converts lanes of two bf16 each to f32: the low halves and the high halves.
    fn halves(self, pairs: Self::V) -> (Self::V, Self::V);
    /// Rounds `low` and `high` to bf16 (nearest, ties to even) and packs them into lanes of two.
    fn pair(self, low: Self::V, high: Self::V) -> Self::V;
    /// Computes [`Simd::pair`] of neighbours: the 2 LANES numbers of `a`, then `b`, become LANES pairs in order.
    fn pair_up(self, a: Self::V, b: Self::V) -> Self::V;
    /// Transposes 16 vectors of 16 lanes. Other lane counts are unsupported.
    #[inline(always)]
    fn transpose16(self, _: &mut [Self::V; 16]) {
        unreachable!("vectors of {} lanes", Self::LANES)
    }
    /// Computes acc + a b over both bf16 of each lane.
    #[inline(always)]
    fn dot2(self, a: Self::V, b: Self::V, acc: Self::V) -> Self::V {
        let ((a0, a1), (b0, b1)) = (self.halves(a), self.halves(b));
        self.fma(a1, b1, self.fma(a0, b0, acc))
    }
    /// Returns the sum of all lanes, adding halves until one lane is left.
    fn sum(self, a: Self::V) -> f32;
    /// Returns the largest lane.
    fn largest(self, a: Self::V) -> f32;

    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }

    /// Prefetches the cache line at `p`, which need not be readable, into the second-level cache. The first level holds
    /// the current factors.
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        let _ = p;
    }

    /// Prefetches the cache line at `p` for writing.
    #[inline(always)]
    fn prefetch_write(self, p: *const f32) {
        let _ = p;
    }
}

/// Plain arrays, for processors without a dedicated implementation. The compiler vectorises what it can.
#[derive(Clone, Copy)]
pub struct Portable(());

const P: usize = 4;

/// Returns the bits of two bf16 in one f32.
#[inline(always)]
fn pair_of(low: f32, high: f32) -> f32 {
    let bits = |x: f32| half::bf16::from_f32(x).to_bits() as u32;
    f32::from_bits(bits(low) | bits(high) << 16)
}

impl Simd for Portable {
    type V = [f32; P];
    const LANES: usize = P;
    const MR: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; P]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: guaranteed by the caller; arrays of f32 are read without alignment.
        unsafe { p.cast::<[f32; P]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        // SAFETY: guaranteed by the caller.
        unsafe { p.cast::<[f32; P]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> Self::V {
        // SAFETY: only the first n elements are read.
        std::array::from_fn(|i| if i < n { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, v: Self::V, n: usize) {
        for (i, &x) in v.iter().enumerate().take(n) {
            // SAFETY: only the first n elements are written.
            unsafe { *p.add(i) = x }
        }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `mul_add`: without an FMA instruction it is a slow library call.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        // Adding and subtracting 1.5 * 2^23 rounds |a| < 2^22 to an integer, ties to even. Kernels clamp larger numbers
        // before they call this.
        const MAGIC: f32 = 12_582_912.0;
        a.map(|x| (x + MAGIC) - MAGIC)
    }
    #[inline(always)]
    fn scale2(self, a: Self::V, n: Self::V) -> Self::V {
        // Two steps, since 2^n itself may not be an f32 although a * 2^n is.
        let pow2 = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
        std::array::from_fn(|i| {
            let n = n[i] as i32;
            a[i] * pow2(n >> 1) * pow2(n - (n >> 1))
        })
    }
    #[inline(always)]
    fn halves(self, pairs: Self::V) -> (Self::V, Self::V) {
        let bits = pairs.map(f32::to_bits);
        (bits.map(|x| f32::from_bits(x << 16)), bits.map(|x| f32::from_bits(x & 0xffff_0000)))
    }
    #[inline(always)]
    fn pair(self, low: Self::V, high: Self::V) -> Self::V {
        std::array::from_fn(|i| pair_of(low[i], high[i]))
    }
    #[inline(always)]
    fn pair_up(self, a: Self::V, b: Self::V) -> Self::V {
        [pair_of(a[0], a[1]), pair_of(a[2], a[3]), pair_of(b[0], b[1]), pair_of(b[2], b[3])]
    }
    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }
    #[inline(always)]
    fn largest(self, a: Self::V) -> f32 {
        a[0].max(a[2]).max(a[1].max(a[3]))
    }
}
