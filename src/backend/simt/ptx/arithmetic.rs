//! The arithmetic of single numbers, as the PTX ISA defines it.

use super::program::Comparison;

/// The NaN that f32 arithmetic returns.
pub const NAN: u32 = 0x7fff_ffff;

pub fn float(bits: u32) -> f32 {
    f32::from_bits(bits)
}

/// The bits of a result: every NaN is [`NAN`].
#[inline(always)]
pub fn result(x: f32) -> u32 {
    if x.is_nan() { NAN } else { x.to_bits() }
}

/// `.ftz`: subnormal numbers become zeros of their sign.
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// Rounds f32 bits to bf16, to nearest even.
#[inline(always)]
pub fn bf16(bits: u32) -> u32 {
    if float(bits).is_nan() {
        return 0x7fff;
    }
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1))) >> 16
}

/// `min.f32`: the number where one operand is NaN, and -0 < +0.
#[inline(always)]
pub fn min(a: f32, b: f32) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => float(NAN),
        (true, false) => b,
        (false, true) => a,
        _ if a == b => {
            if a.is_sign_negative() {
                a
            } else {
                b
            }
        }
        _ if a < b => a,
        _ => b,
    }
}

/// `max.f32`, see [`min`].
#[inline(always)]
pub fn max(a: f32, b: f32) -> f32 {
    -min(-a, -b)
}

/// The sum of two f64, rounded, and the exact error of the rounding.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_part = sum - a;
    (sum, (a - (sum - b_part)) + (b - b_part))
}

/// Whether `t`, the nearest f32 of `sum`, is above or below the exact value `sum + error`.
fn above_or_below(t: f32, sum: f64, error: f64) -> (bool, bool) {
    let t = t as f64;
    (t > sum || (t == sum && error < 0.0), t < sum || (t == sum && error > 0.0))
}

/// a * b + c, rounded towards minus infinity. The product of two f32 is exact in f64.
pub fn fma_down(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (a as f64 * b as f64, c as f64);
    let (sum, error) = two_sum(product, c);
    let t = sum as f32;
    if sum == 0.0 {
        // Zeros of different signs, and numbers that cancel, give -0.
        return if product.is_sign_positive() && c.is_sign_positive() { 0.0 } else { -0.0 };
    }
    match t.is_finite() || (sum.is_finite() && t > 0.0) {
        true if above_or_below(t, sum, error).0 => t.next_down(),
        _ => t,
    }
}

/// a + b, rounded towards zero.
pub fn add_to_zero(a: f32, b: f32) -> f32 {
    let (sum, error) = two_sum(a as f64, b as f64);
    let t = sum as f32;
    if !sum.is_finite() {
        return t;
    }
    match above_or_below(t, sum, error) {
        (above, _) if t > 0.0 && above => t.next_down(),
        (_, below) if t < 0.0 && below => t.next_up(),
        _ => t,
    }
}

/// `prmt.b32`: bytes of b and a chosen by the digits of `selector`; the high bit of a digit repeats the byte's sign.
#[inline(always)]
pub fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (b as u64) << 32 | a as u64;
    let byte = |i: u32| {
        let digit = selector >> (4 * i) & 0xf;
        let byte = (bytes >> (8 * (digit & 7))) as u8;
        let chosen = if digit & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 };
        (chosen as u32) << (8 * i)
    };
    byte(0) | byte(1) | byte(2) | byte(3)
}

/// `bfi.b64`: the low `bits` bits of a, put into b at `position`. For 32 bits, the low half of the result.
pub fn insert(a: u64, b: u64, position: u32, bits: u32) -> u64 {
    let (position, bits) = (position & 0xff, bits & 0xff);
    if position >= 64 {
        return b;
    }
    let ones = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
    (b & !(ones << position)) | ((a & ones) << position)
}

/// `bfe.u32`.
#[inline(always)]
pub fn extract(a: u32, position: u32, bits: u32) -> u32 {
    let (position, bits) = (position & 0xff, bits & 0xff);
    let rest = if position > 31 { 0 } else { a >> position };
    if bits >= 32 { rest } else { rest & ((1 << bits) - 1) }
}

/// Compares two floats; the forms that end in u are true for NaN.
#[inline(always)]
pub fn compare_floats(how: Comparison, a: f32, b: f32) -> bool {
    use Comparison::*;
    let unordered = a.is_nan() || b.is_nan();
    match how {
        Eq => a == b,
        Ne => !unordered && a != b,
        Lt => a < b,
        Le => a <= b,
        Gt => a > b,
        Ge => a >= b,
        Equ => unordered || a == b,
        Neu => unordered || a != b,
        Ltu => unordered || a < b,
        Leu => unordered || a <= b,
        Gtu => unordered || a > b,
        Geu => unordered || a >= b,
        Num => !unordered,
        Nan => unordered,
    }
}

/// A sum of products as tensor cores of sm_80 are reported to make it (Fasi, Higham, Mikaitis, Pranesh 2021): exact
/// products; all addends are cut off one bit below the last place of the largest, added, and the sum is cut off.
pub fn tensor_sum(c: f32, a: &[f32], b: &[f32]) -> f32 {
    let mut addends = [0f32; 17];
    addends[0] = c;
    for (to, (x, y)) in addends[1..].iter_mut().zip(a.iter().zip(b)) {
        *to = x * y;
    }
    let addends = &addends[..=a.len()];
    if addends.iter().any(|x| !x.is_finite()) {
        return addends.iter().sum();
    }
    let exponent = |x: &f32| (x.to_bits() >> 23 & 0xff).max(1) as i32;
    let top = addends.iter().filter(|x| **x != 0.0).map(exponent).max().unwrap_or(1);
    let sum: i64 = addends
        .iter()
        .map(|x| {
            let bits = x.to_bits();
            let mantissa = (bits & 0x7f_ffff) as i64 | if bits >> 23 & 0xff != 0 { 1 << 23 } else { 0 };
            let cut = (mantissa << 1) >> (top - exponent(x)).min(60);
            if bits >> 31 != 0 { -cut } else { cut }
        })
        .sum();
    let exact = sum as f64 * f64::from_bits(((top - 127 - 24 + 1023) as u64) << 52);
    let t = exact as f32;
    match (t as f64).abs() > exact.abs() {
        true if t > 0.0 => t.next_down(),
        true => t.next_up(),
        false => t,
    }
}
