//! Registers of a warp, and the instructions that only read and write registers: all lanes at once.
//!
//! The code is compiled twice, for any processor and for one with AVX2 and FMA. Both compute the same bits:
//! `f32::mul_add` is a fused multiply-add in either case, only slow without the instruction.

use super::{arithmetic::*, program::*};

/// All lanes.
pub const FULL: u32 = u32::MAX;

/// One value a lane.
pub type Word = [u32; 32];
pub type Long = [u64; 32];

/// The register files of a warp. Predicates have one bit a lane.
#[derive(Debug, Default)]
pub struct Registers {
    pub words: Vec<Word>,
    pub longs: Vec<Long>,
    pub predicates: Vec<u32>,
}

/// Whether the processor has the instructions of the fast variant.
pub fn is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Carries an instruction out for the lanes of `lanes`, if it only concerns registers. Returns whether it does.
pub fn compute(registers: &mut Registers, i: &Instruction, lanes: u32, fast: bool) -> bool {
    #[cfg(target_arch = "x86_64")]
    if fast {
        // SAFETY: `fast` is `is_fast`: the processor has AVX2 and FMA.
        return unsafe { compute_fast(registers, i, lanes) };
    }
    let _ = fast;
    compute_anywhere(registers, i, lanes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn compute_fast(registers: &mut Registers, i: &Instruction, lanes: u32) -> bool {
    compute_anywhere(registers, i, lanes)
}

impl Registers {
    #[inline(always)]
    pub fn put(&mut self, to: u32, value: Word, lanes: u32) {
        blend(&mut self.words[to as usize], value, lanes);
    }

    #[inline(always)]
    pub fn put_long(&mut self, to: u32, value: Long, lanes: u32) {
        blend(&mut self.longs[to as usize], value, lanes);
    }

    #[inline(always)]
    pub fn put_predicate(&mut self, to: u32, value: u32, lanes: u32) {
        let p = &mut self.predicates[to as usize];
        *p = (*p & !lanes) | (value & lanes);
    }

    pub fn word(&self, register: u32) -> &Word {
        &self.words[register as usize]
    }

    pub fn long(&self, register: u32) -> &Long {
        &self.longs[register as usize]
    }

    pub fn predicate(&self, register: u32) -> u32 {
        self.predicates[register as usize]
    }

    /// The addresses of all lanes.
    #[inline(always)]
    pub fn addresses(&self, at: Address) -> Long {
        let offset = at.offset as u64;
        match at.base {
            Base::None => [offset; 32],
            Base::Long(r) => each(|l| self.longs[r as usize][l].wrapping_add(offset)),
            Base::Word(r) => each(|l| (self.words[r as usize][l] as u64).wrapping_add(offset) & 0xffff_ffff),
        }
    }
}

#[inline(always)]
fn blend<T: Copy>(to: &mut [T; 32], value: [T; 32], lanes: u32) {
    if lanes == FULL {
        *to = value;
        return;
    }
    for l in 0..32 {
        if lanes >> l & 1 != 0 {
            to[l] = value[l];
        }
    }
}

#[inline(always)]
fn each<T: Copy + Default>(f: impl Fn(usize) -> T) -> [T; 32] {
    let mut all = [T::default(); 32];
    for (l, x) in all.iter_mut().enumerate() {
        *x = f(l);
    }
    all
}

/// A bit for each lane where `f` is true.
#[inline(always)]
pub fn bits_where(f: impl Fn(usize) -> bool) -> u32 {
    let mut bits = 0;
    for l in 0..32 {
        bits |= (f(l) as u32) << l;
    }
    bits
}

#[inline(always)]
fn compare<T: Copy + PartialOrd>(how: Comparison, a: impl Fn(usize) -> T, b: impl Fn(usize) -> T) -> u32 {
    match how {
        Comparison::Eq => bits_where(|l| a(l) == b(l)),
        Comparison::Ne => bits_where(|l| a(l) != b(l)),
        Comparison::Lt => bits_where(|l| a(l) < b(l)),
        Comparison::Le => bits_where(|l| a(l) <= b(l)),
        Comparison::Gt => bits_where(|l| a(l) > b(l)),
        Comparison::Ge => bits_where(|l| a(l) >= b(l)),
        _ => unreachable!("the decoder allows these comparisons for f32 alone"),
    }
}

#[inline(always)]
fn compute_anywhere(registers: &mut Registers, i: &Instruction, lanes: u32) -> bool {
    words(registers, i, lanes)
        || floats(registers, i, lanes)
        || longs(registers, i, lanes)
        || predicates_and_conversions(registers, i, lanes)
}

/// Defines the macros `w!`, `l!`... that compute a destination lane by lane: `w1!(|a| a + 1)`.
macro_rules! lanewise {
    ($r:ident, $i:ident, $lanes:ident) => {
        macro_rules! w1 {
            (|$a:ident| $e:expr) => {{
                let pa = &$r.words[$i.a as usize];
                let value = each(|l| {
                    let $a = pa[l];
                    $e
                });
                $r.put($i.to, value, $lanes)
            }};
        }
        macro_rules! w2 {
            (|$a:ident, $b:ident| $e:expr) => {{
                let (pa, pb) = (&$r.words[$i.a as usize], &$r.words[$i.b as usize]);
                let value = each(|l| {
                    let ($a, $b) = (pa[l], pb[l]);
                    $e
                });
                $r.put($i.to, value, $lanes)
            }};
        }
        macro_rules! w3 {
            (|$a:ident, $b:ident, $c:ident| $e:expr) => {{
                let (pa, pb, pc) = (&$r.words[$i.a as usize], &$r.words[$i.b as usize], &$r.words[$i.c as usize]);
                let value = each(|l| {
                    let ($a, $b, $c) = (pa[l], pb[l], pc[l]);
                    $e
                });
                $r.put($i.to, value, $lanes)
            }};
        }
        macro_rules! l1 {
            (|$a:ident| $e:expr) => {{
                let pa = &$r.longs[$i.a as usize];
                let value = each(|l| {
                    let $a = pa[l];
                    $e
                });
                $r.put_long($i.to, value, $lanes)
            }};
        }
        macro_rules! l2 {
            (|$a:ident, $b:ident| $e:expr) => {{
                let (pa, pb) = (&$r.longs[$i.a as usize], &$r.longs[$i.b as usize]);
                let value = each(|l| {
                    let ($a, $b) = (pa[l], pb[l]);
                    $e
                });
                $r.put_long($i.to, value, $lanes)
            }};
        }
        /// A long from a long and a word.
        macro_rules! lw {
            (|$a:ident, $b:ident| $e:expr) => {{
                let (pa, pb) = (&$r.longs[$i.a as usize], &$r.words[$i.b as usize]);
                let value = each(|l| {
                    let ($a, $b) = (pa[l], pb[l]);
                    $e
                });
                $r.put_long($i.to, value, $lanes)
            }};
        }
        /// A long from two words.
        macro_rules! ww {
            (|$a:ident, $b:ident| $e:expr) => {{
                let (pa, pb) = (&$r.words[$i.a as usize], &$r.words[$i.b as usize]);
                let value = each(|l| {
                    let ($a, $b) = (pa[l], pb[l]);
                    $e
                });
                $r.put_long($i.to, value, $lanes)
            }};
        }
        /// A word from a long.
        macro_rules! narrow {
            (|$a:ident| $e:expr) => {{
                let pa = &$r.longs[$i.a as usize];
                let value = each(|l| {
                    let $a = pa[l];
                    $e
                });
                $r.put($i.to, value, $lanes)
            }};
        }
        /// A long from a word.
        macro_rules! widen {
            (|$a:ident| $e:expr) => {{
                let pa = &$r.words[$i.a as usize];
                let value = each(|l| {
                    let $a = pa[l];
                    $e
                });
                $r.put_long($i.to, value, $lanes)
            }};
        }
    };
}

#[allow(unused_macros, reason = "each function uses some of them")]
#[inline(always)]
fn words(r: &mut Registers, i: &Instruction, lanes: u32) -> bool {
    lanewise!(r, i, lanes);
    match i.op {
        Op::Add32 => w2!(|a, b| a.wrapping_add(b)),
        Op::Sub32 => w2!(|a, b| a.wrapping_sub(b)),
        Op::Mul32 => w2!(|a, b| a.wrapping_mul(b)),
        Op::MulHiU32 => w2!(|a, b| ((a as u64 * b as u64) >> 32) as u32),
        Op::MulHiS32 => w2!(|a, b| ((a as i32 as i64 * b as i32 as i64) >> 32) as u32),
        Op::Mad32 => w3!(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        // A division by zero gives an unspecified value.
        Op::DivU32 => w2!(|a, b| a.checked_div(b).unwrap_or(FULL)),
        Op::DivS32 => w2!(|a, b| if b == 0 { FULL } else { (a as i32).wrapping_div(b as i32) as u32 }),
        Op::RemU32 => w2!(|a, b| a.checked_rem(b).unwrap_or(FULL)),
        Op::RemS32 => w2!(|a, b| if b == 0 { FULL } else { (a as i32).wrapping_rem(b as i32) as u32 }),
        Op::MinU32 => w2!(|a, b| a.min(b)),
        Op::MinS32 => w2!(|a, b| (a as i32).min(b as i32) as u32),
        Op::MaxU32 => w2!(|a, b| a.max(b)),
        Op::MaxS32 => w2!(|a, b| (a as i32).max(b as i32) as u32),
        Op::Shl32 => w2!(|a, b| if b > 31 { 0 } else { a << (b & 31) }),
        Op::ShrU32 => w2!(|a, b| if b > 31 { 0 } else { a >> (b & 31) }),
        Op::ShrS32 => w2!(|a, b| (a as i32 >> b.min(31)) as u32),
        Op::And32 => w2!(|a, b| a & b),
        Op::Or32 => w2!(|a, b| a | b),
        Op::Xor32 => w2!(|a, b| a ^ b),
        Op::Not32 => w1!(|a| !a),
        Op::Neg32 => w1!(|a| a.wrapping_neg()),
        Op::Abs32 => w1!(|a| (a as i32).wrapping_abs() as u32),
        Op::BfeU32 => w3!(|a, b, c| extract(a, b, c)),
        Op::BfindShift => w1!(|a| if a == 0 { FULL } else { a.leading_zeros() }),
        Op::Brev32 => w1!(|a| a.reverse_bits()),
        Op::Popc32 => w1!(|a| a.count_ones()),
        Op::Clz32 => w1!(|a| a.leading_zeros()),
        Op::Prmt => w3!(|a, b, c| permute(a, b, c)),
        Op::Mov32 => w1!(|a| a),
        Op::Bfi32 => {
            let (a, b, position, bits) = (r.word(i.a), r.word(i.b), r.word(i.list[0]), r.word(i.list[1]));
            let value = each(|l| insert(a[l] as u64, b[l] as u64, position[l], bits[l]) as u32);
            r.put(i.to, value, lanes);
        }
        Op::Select32 => {
            let (a, b, p) = (r.word(i.a), r.word(i.b), r.predicate(i.c));
            let value = each(|l| if p >> l & 1 != 0 { a[l] } else { b[l] });
            r.put(i.to, value, lanes);
        }
        Op::Add16 => w2!(|a, b| a.wrapping_add(b) & 0xffff),
        Op::Sub16 => w2!(|a, b| a.wrapping_sub(b) & 0xffff),
        Op::Mul16 => w2!(|a, b| a.wrapping_mul(b) & 0xffff),
        Op::Shl16 => w2!(|a, b| if b > 15 { 0 } else { a << (b & 15) & 0xffff }),
        Op::ShrU16 => w2!(|a, b| if b > 15 { 0 } else { a >> (b & 15) }),
        Op::ShrS16 => w2!(|a, b| (a as i16 >> b.min(15)) as u16 as u32),
        Op::Not16 => w1!(|a| !a & 0xffff),
        Op::MulWideU16 => w2!(|a, b| a.wrapping_mul(b)),
        Op::MulWideS16 => w2!(|a, b| (a as i16 as i32 * b as i16 as i32) as u32),
        _ => return false,
    }
    true
}

#[allow(unused_macros, reason = "each function uses some of them")]
#[inline(always)]
fn floats(r: &mut Registers, i: &Instruction, lanes: u32) -> bool {
    lanewise!(r, i, lanes);
    match i.op {
        Op::AddF => w2!(|a, b| result(float(a) + float(b))),
        Op::SubF => w2!(|a, b| result(float(a) - float(b))),
        Op::MulF => w2!(|a, b| result(float(a) * float(b))),
        Op::FmaF => w3!(|a, b, c| result(float(a).mul_add(float(b), float(c)))),
        Op::DivF => w2!(|a, b| result(float(a) / float(b))),
        Op::RcpF => w1!(|a| result(1.0 / float(a))),
        Op::SqrtF => w1!(|a| result(float(a).sqrt())),
        // The approximate functions are exact to f32 here: their error on a GPU is not modelled.
        Op::RcpFtz => w1!(|a| result(flush(1.0 / flush(float(a))))),
        Op::Exp2 => w1!(|a| result(float(a).exp2())),
        Op::Exp2Ftz => w1!(|a| result(flush(flush(float(a)).exp2()))),
        Op::Log2 => w1!(|a| result(float(a).log2())),
        Op::TanhF => w1!(|a| result(float(a).tanh())),
        Op::MinF => w2!(|a, b| result(min(float(a), float(b)))),
        Op::MaxF => w2!(|a, b| result(max(float(a), float(b)))),
        Op::AbsF => w1!(|a| a & 0x7fff_ffff),
        Op::NegF => w1!(|a| a ^ 0x8000_0000),
        // The sign of a, the value of b.
        Op::CopySign => w2!(|a, b| (a & 0x8000_0000) | (b & 0x7fff_ffff)),
        Op::AddRz => w2!(|a, b| result(add_to_zero(float(a), float(b)))),
        Op::FmaRm => w3!(|a, b, c| result(fma_down(float(a), float(b), float(c)))),
        Op::CompareF(how) => {
            let (a, b) = (r.word(i.a), r.word(i.b));
            let value = bits_where(|l| compare_floats(how, float(a[l]), float(b[l])));
            r.put_predicate(i.to, value, lanes);
        }
        _ => return false,
    }
    true
}

#[allow(unused_macros, reason = "each function uses some of them")]
#[inline(always)]
fn longs(r: &mut Registers, i: &Instruction, lanes: u32) -> bool {
    lanewise!(r, i, lanes);
    match i.op {
        Op::Add64 => l2!(|a, b| a.wrapping_add(b)),
        Op::Sub64 => l2!(|a, b| a.wrapping_sub(b)),
        Op::Mul64 => l2!(|a, b| a.wrapping_mul(b)),
        Op::MulHiU64 => l2!(|a, b| ((a as u128 * b as u128) >> 64) as u64),
        Op::DivU64 => l2!(|a, b| a.checked_div(b).unwrap_or(u64::MAX)),
        Op::DivS64 => l2!(|a, b| if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 }),
        Op::RemU64 => l2!(|a, b| a.checked_rem(b).unwrap_or(u64::MAX)),
        Op::RemS64 => l2!(|a, b| if b == 0 { u64::MAX } else { (a as i64).wrapping_rem(b as i64) as u64 }),
        Op::MinU64 => l2!(|a, b| a.min(b)),
        Op::MinS64 => l2!(|a, b| (a as i64).min(b as i64) as u64),
        Op::MaxU64 => l2!(|a, b| a.max(b)),
        Op::MaxS64 => l2!(|a, b| (a as i64).max(b as i64) as u64),
        Op::Shl64 => lw!(|a, b| if b > 63 { 0 } else { a << (b & 63) }),
        Op::ShrU64 => lw!(|a, b| if b > 63 { 0 } else { a >> (b & 63) }),
        Op::ShrS64 => lw!(|a, b| (a as i64 >> b.min(63)) as u64),
        Op::And64 => l2!(|a, b| a & b),
        Op::Or64 => l2!(|a, b| a | b),
        Op::Xor64 => l2!(|a, b| a ^ b),
        Op::Not64 => l1!(|a| !a),
        Op::Neg64 => l1!(|a| a.wrapping_neg()),
        Op::Mov64 => l1!(|a| a),
        Op::Brev64 => l1!(|a| a.reverse_bits()),
        Op::Popc64 => narrow!(|a| a.count_ones()),
        Op::Clz64 => narrow!(|a| a.leading_zeros()),
        Op::MulWideU32 => ww!(|a, b| a as u64 * b as u64),
        Op::MulWideS32 => ww!(|a, b| (a as i32 as i64 * b as i32 as i64) as u64),
        Op::Mad64 => {
            let (a, b, c) = (r.long(i.a), r.long(i.b), r.long(i.c));
            let value = each(|l| a[l].wrapping_mul(b[l]).wrapping_add(c[l]));
            r.put_long(i.to, value, lanes);
        }
        Op::MadWideU32 => {
            let (a, b, c) = (r.word(i.a), r.word(i.b), r.long(i.c));
            let value = each(|l| (a[l] as u64 * b[l] as u64).wrapping_add(c[l]));
            r.put_long(i.to, value, lanes);
        }
        Op::MadWideS32 => {
            let (a, b, c) = (r.word(i.a), r.word(i.b), r.long(i.c));
            let value = each(|l| (a[l] as i32 as i64 * b[l] as i32 as i64).wrapping_add(c[l] as i64) as u64);
            r.put_long(i.to, value, lanes);
        }
        Op::Bfi64 => {
            let (a, b, position, bits) = (r.long(i.a), r.long(i.b), r.word(i.list[0]), r.word(i.list[1]));
            let value = each(|l| insert(a[l], b[l], position[l], bits[l]));
            r.put_long(i.to, value, lanes);
        }
        Op::Select64 => {
            let (a, b, p) = (r.long(i.a), r.long(i.b), r.predicate(i.c));
            let value = each(|l| if p >> l & 1 != 0 { a[l] } else { b[l] });
            r.put_long(i.to, value, lanes);
        }
        Op::DivD => l2!(|a, b| (f64::from_bits(a) / f64::from_bits(b)).to_bits()),
        Op::DoubleOfU64 => l1!(|a| (a as f64).to_bits()),
        Op::DoubleOfS64 => l1!(|a| (a as i64 as f64).to_bits()),
        Op::ToGeneric(space) => l1!(|a| a.wrapping_add(window(space))),
        Op::FromGeneric(space) => l1!(|a| a.wrapping_sub(window(space))),
        _ => return false,
    }
    true
}

/// Where the generic addresses of a state space begin.
pub fn window(space: Space) -> u64 {
    match space {
        Space::Shared => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Param => PARAM_WINDOW,
        Space::Global | Space::Generic => 0,
    }
}

#[allow(unused_macros, reason = "each function uses some of them")]
#[inline(always)]
fn predicates_and_conversions(r: &mut Registers, i: &Instruction, lanes: u32) -> bool {
    lanewise!(r, i, lanes);
    macro_rules! compare {
        ($file:ident, $how:ident, $t:ty) => {{
            let (a, b) = (&r.$file[i.a as usize], &r.$file[i.b as usize]);
            let value = compare($how, |l| a[l] as $t, |l| b[l] as $t);
            r.put_predicate(i.to, value, lanes)
        }};
    }
    match i.op {
        Op::CompareU32(how) => compare!(words, how, u32),
        Op::CompareS32(how) => compare!(words, how, i32),
        Op::CompareS16(how) => compare!(words, how, i16),
        Op::CompareU64(how) => compare!(longs, how, u64),
        Op::CompareS64(how) => compare!(longs, how, i64),
        Op::AndP => r.put_predicate(i.to, r.predicate(i.a) & r.predicate(i.b), lanes),
        Op::OrP => r.put_predicate(i.to, r.predicate(i.a) | r.predicate(i.b), lanes),
        Op::XorP => r.put_predicate(i.to, r.predicate(i.a) ^ r.predicate(i.b), lanes),
        Op::NotP => r.put_predicate(i.to, !r.predicate(i.a), lanes),
        Op::MovP => r.put_predicate(i.to, r.predicate(i.a), lanes),
        Op::SignExtend => widen!(|a| a as i32 as i64 as u64),
        Op::ZeroExtend => widen!(|a| a as u64),
        Op::SignExtendLow => l1!(|a| a as i32 as i64 as u64),
        Op::ZeroExtendLow => l1!(|a| a as u32 as u64),
        Op::Low32 => narrow!(|a| a as u32),
        Op::Low16 => w1!(|a| a & 0xffff),
        Op::Low16Of64 => narrow!(|a| a as u32 & 0xffff),
        Op::SignExtend16 => w1!(|a| a as i16 as i32 as u32),
        Op::FloatOfBf16 => w1!(|a| a << 16),
        Op::Bf16OfFloat => w1!(|a| bf16(a)),
        // a goes to the upper half, b to the lower.
        Op::Bf16PairOfFloats => w2!(|a, b| bf16(a) << 16 | bf16(b)),
        Op::FloatOfS32 => w1!(|a| (a as i32 as f32).to_bits()),
        Op::FloatOfU32 => w1!(|a| (a as f32).to_bits()),
        Op::FloatOfS64 => narrow!(|a| (a as i64 as f32).to_bits()),
        Op::FloatOfU64 => narrow!(|a| (a as f32).to_bits()),
        Op::FloatOfDouble => narrow!(|a| result(f64::from_bits(a) as f32)),
        // NaN gives 0; -0 gives 0.
        Op::Saturate => w1!(|a| max(0.0, min(1.0, float(a))).to_bits() & if float(a).is_nan() { 0 } else { FULL }),
        // NaN gives 0, too large numbers the nearest.
        Op::ToU32 => w1!(|a| float(a) as u32),
        Op::ToS32 => w1!(|a| float(a) as i32 as u32),
        Op::RoundEven => w1!(|a| result(float(a).round_ties_even())),
        Op::Pack16 => w2!(|a, b| (a & 0xffff) | b << 16),
        Op::Pack32 => ww!(|a, b| a as u64 | (b as u64) << 32),
        Op::Unpack16 => {
            let whole = *r.word(i.a);
            r.put(i.list[0], whole.map(|x| x & 0xffff), lanes);
            r.put(i.list[1], whole.map(|x| x >> 16), lanes);
        }
        Op::Unpack32 => {
            let whole = *r.long(i.a);
            r.put(i.list[0], whole.map(|x| x as u32), lanes);
            r.put(i.list[1], whole.map(|x| (x >> 32) as u32), lanes);
        }
        _ => return false,
    }
    true
}
