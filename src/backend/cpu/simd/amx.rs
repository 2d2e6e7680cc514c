/*! AMX: tiles of 16 rows of 64 bytes. One instruction multiplies two tiles of bf16 pairs and adds to a third tile of
f32.

Stable Rust has neither intrinsics nor detection for AMX, so this file implements both. It queries the processor with
cpuid and requests permission from Linux to use the registers (8 KB per thread, saved only for processes that requested
it). A block of a product is one piece of assembly. Within a tile the processor sums the even and the odd terms in its
own order and treats subnormal factors as zeros. The bits therefore differ from those of AVX512_BF16, and are the same
on every processor with AMX.
*/

use std::{arch::asm, marker::PhantomData, mem::MaybeUninit, sync::OnceLock};

/// Rows of a tile, and lanes of 32 bits per row.
pub const SIDE: usize = 16;

/// Returns whether the processor multiplies bf16 tiles and the system lets this process do so. Checks once.
pub fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_tiles() && permitted())
}

fn has_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const TILE: u32 = 1 << 24;
    const BF16: u32 = 1 << 22;
    #[allow(unused_unsafe)]
    // SAFETY: every x86-64 processor has the instruction; the leaf is queried only where it exists.
    unsafe {
        __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & (TILE | BF16) == TILE | BF16
    }
}

#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: usize = 158;
    const REQUEST: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let answer: isize;
    // SAFETY: the call requests a permission from the kernel and touches no memory; syscall changes rax, rcx and r11.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => answer, in("rdi") REQUEST, in("rsi") TILE_DATA,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    answer == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// The shapes of this thread's tiles. Tiles 0 to 3 hold sums, 4 and 5 whole factors, 6 and 7 the factors of the last
/// partial piece of a sum. Dropping it releases the tiles.
pub struct Shapes {
    tail: usize,
    thread: PhantomData<*const ()>,
}

#[repr(C, align(64))]
struct Config {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    /// Bytes per row.
    bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// Loads shapes for left factors of `rows` rows per tile (1 to 16).
    /// The last piece of each sum has `tail` lines (0 to 15; 0: none).
    ///
    /// # Safety
    /// AMX is [`available`].
    pub unsafe fn load(rows: usize, tail: usize) -> Self {
        assert!((1..=SIDE).contains(&rows) && tail < SIDE);
        let mut config = Config { palette: 1, start: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
        let mut tile = |i: usize, rows: usize, lanes: usize| {
            config.rows[i] = rows as u8;
            config.bytes[i] = 4 * lanes as u16;
        };
        (0..4).for_each(|sum| tile(sum, rows, SIDE));
        tile(4, rows, SIDE);
        tile(5, SIDE, SIDE);
        // The processor rejects empty shapes. This one is not used.
        tile(6, rows, tail.max(1));
        tile(7, tail.max(1), SIDE);
        // SAFETY: 64 bytes in the format of palette 1.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        Shapes { tail, thread: PhantomData }
    }
}

impl Drop for Shapes {
    fn drop(&mut self) {
        // SAFETY: tiles were in use.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Sums of two by two tiles, row after row.
#[repr(C, align(64))]
pub struct Sums(MaybeUninit<[f32; 4 * SIDE * SIDE]>);

impl Sums {
    pub const NEW: Self = Sums(MaybeUninit::uninit());

    /// Returns the address of the `v`th vector of a row of the `t`th tile. The last block must have written it.
    #[inline(always)]
    pub fn vector(&self, t: usize, row: usize, v: usize) -> *const f32 {
        debug_assert!(t < 2 && row < SIDE && v < 2);
        self.0.as_ptr().cast::<f32>().wrapping_add(((t * SIDE + row) * 2 + v) * SIDE)
    }
}

/// One step of a sum. `$a` and `$b` are the tiles that hold the factors. Two products use each pair of loads.
macro_rules! step {
    (2, 2, $a:literal, $b:literal) => {
        concat!(
            "tileloadd ",
            $a,
            ", [{a0} + {lda}*1]\n",
            "tileloadd ",
            $b,
            ", [{b} + {ldb}*1]\n",
            "tdpbf16ps tmm0, ",
            $a,
            ", ",
            $b,
            "\n",
            "tileloadd ",
            $b,
            ", [{b} + {ldb}*1 + 64]\n",
            "tdpbf16ps tmm1, ",
            $a,
            ", ",
            $b,
            "\n",
            "tileloadd ",
            $a,
            ", [{a1} + {lda}*1]\n",
            "tdpbf16ps tmm3, ",
            $a,
            ", ",
            $b,
            "\n",
            "tileloadd ",
            $b,
            ", [{b} + {ldb}*1]\n",
            "tdpbf16ps tmm2, ",
            $a,
            ", ",
            $b,
            "\n",
        )
    };
    (2, 1, $a:literal, $b:literal) => {
        concat!(
            "tileloadd ",
            $b,
            ", [{b} + {ldb}*1]\n",
            "tileloadd ",
            $a,
            ", [{a0} + {lda}*1]\n",
            "tdpbf16ps tmm0, ",
            $a,
            ", ",
            $b,
            "\n",
            "tileloadd ",
            $a,
            ", [{a1} + {lda}*1]\n",
            "tdpbf16ps tmm2, ",
            $a,
            ", ",
            $b,
            "\n",
        )
    };
    (1, 2, $a:literal, $b:literal) => {
        concat!(
            "tileloadd ",
            $a,
            ", [{a0} + {lda}*1]\n",
            "tileloadd ",
            $b,
            ", [{b} + {ldb}*1]\n",
            "tdpbf16ps tmm0, ",
            $a,
            ", ",
            $b,
            "\n",
            "tileloadd ",
            $b,
            ", [{b} + {ldb}*1 + 64]\n",
            "tdpbf16ps tmm1, ",
            $a,
            ", ",
            $b,
            "\n",
        )
    };
    (1, 1, $a:literal, $b:literal) => {
        concat!(
            "tileloadd ",
            $a,
            ", [{a0} + {lda}*1]\n",
            "tileloadd ",
            $b,
            ", [{b} + {ldb}*1]\n",
            "tdpbf16ps tmm0, ",
            $a,
            ", ",
            $b,
            "\n",
        )
    };
}

macro_rules! sum {
    (
        $rows:tt, $vectors:tt, [$a0:expr, $a1:expr, $lda:expr], $b:expr, $steps:expr, $tail:expr, $to:expr, $store:expr
    ) => {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "test {steps}, {steps}", "jz 3f",
            "2:",
            step!($rows, $vectors, "tmm4", "tmm5"),
            "add {a0}, 64", "add {a1}, 64", "add {b}, {down}", "dec {steps}", "jnz 2b",
            "3:",
            "test {tail}, {tail}", "jz 4f",
            step!($rows, $vectors, "tmm6", "tmm7"),
            "4:",
            $store,
            a0 = inout(reg) $a0 => _, a1 = inout(reg) $a1 => _, b = inout(reg) $b => _, lda = in(reg) 4 * $lda,
            ldb = in(reg) LINE, down = const SIDE * LINE, steps = inout(reg) $steps => _, tail = in(reg) $tail,
            to = in(reg) $to, options(nostack)
        )
    };
}

/// Bytes of a line of a panel: two vectors.
const LINE: usize = 2 * 4 * SIDE;

/// Multiplies one or two tiles of rows of A with `VECTORS` vectors of a panel of `lines` lines, into `to`.
/// `a[..]` points to the first row of each tile; `lda` is the number of elements between rows.
///
/// # Safety
/// The rows of both tiles (as many as `shapes` specifies) are readable for `lines` elements, the panel for `lines`
/// lines of two vectors. `lines % 16` is the tail of `shapes`.
#[inline(always)]
pub unsafe fn block<const ROWS: usize, const VECTORS: usize>(
    shapes: &Shapes,
    a: [*const f32; 2],
    lda: usize,
    panel: *const f32,
    lines: usize,
    to: &mut Sums,
) {
    debug_assert_eq!(lines % SIDE, shapes.tail);
    let (steps, tail, to) = (lines / SIDE, shapes.tail, to.0.as_mut_ptr());
    // SAFETY: guaranteed by the caller; `to` holds four tiles.
    unsafe {
        match (ROWS, VECTORS) {
            (2, 2) => sum!(
                2,
                2,
                [a[0], a[1], lda],
                panel,
                steps,
                tail,
                to,
                concat!(
                    "tilestored [{to} + {ldb}*1], tmm0\n",
                    "tilestored [{to} + {ldb}*1 + 64], tmm1\n",
                    "tilestored [{to} + {ldb}*1 + 2048], tmm2\n",
                    "tilestored [{to} + {ldb}*1 + 2112], tmm3\n"
                )
            ),
            (2, 1) => sum!(
                2,
                1,
                [a[0], a[1], lda],
                panel,
                steps,
                tail,
                to,
                concat!("tilestored [{to} + {ldb}*1], tmm0\n", "tilestored [{to} + {ldb}*1 + 2048], tmm2\n")
            ),
            (1, 2) => sum!(
                1,
                2,
                [a[0], a[1], lda],
                panel,
                steps,
                tail,
                to,
                concat!("tilestored [{to} + {ldb}*1], tmm0\n", "tilestored [{to} + {ldb}*1 + 64], tmm1\n")
            ),
            _ => sum!(1, 1, [a[0], a[1], lda], panel, steps, tail, to, "tilestored [{to} + {ldb}*1], tmm0\n"),
        }
    }
}
