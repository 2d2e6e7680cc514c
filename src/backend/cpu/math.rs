/*! exp, GELU, the logistic function, tanh and softplus on vectors, with errors measured by tests.

exp: x = n ln2 + r with |r| <= ln2/2, a polynomial in r (coefficients of Cephes' expf), and a scaling by 2^n. The
scaling yields 0, a subnormal or infinity where needed. The error is at most 2 units in the last place on [-87, 88].

GELU in its tanh form (Hendrycks & Gimpel 2016): 0.5 x (1 + tanh u) with u = sqrt(2/pi) (x + 0.044715 x^3). Since 0.5 (1
+ tanh u) = 1 / (1 + exp(-2u)), it needs one exp and one division, and avoids the cancellation of 1 + tanh.

tanh x = -e / (2 + e) with e = exp(-2x) - 1. The reduction above yields e without cancellation, since e^r - 1 is
computed before 1 is added. Small x therefore keep all their digits, and no case distinction is needed.
*/

use super::simd::{Kernel, Simd, dispatch};

/// Returns e^r - 1 and n with x = n ln2 + r. x is limited to [-105, 89.5]: beyond, e^x is 0 or infinity.
#[inline(always)]
fn reduced_exp<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    // The limit is the first operand: `min` and `max` return their second operand where one is NaN.
    let x = s.max(s.splat(-105.0), x);
    let x = s.min(s.splat(89.5), x);
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    // ln2 is split in two. The first part has few enough bits that n times it is exact.
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_1e-4);
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.0e-1] {
        p = s.fma(p, r, s.splat(c));
    }
    (s.fma(p, s.mul(r, r), r), n)
}

/// Computes exp(x), lane by lane. exp(-inf) = 0, exp(inf) = inf, NaN stays NaN.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let (less_one, n) = reduced_exp(s, x);
    s.scale2(s.add(less_one, s.splat(1.0)), n)
}

/// Computes tanh(x). NaN stays NaN.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    // tanh is 1 to the last bit from 9.02 on, and at 10 nothing overflows yet.
    let x = s.min(s.splat(10.0), s.max(s.splat(-10.0), x));
    let (less_one, n) = reduced_exp(s, s.mul(x, s.splat(-2.0)));
    // e^-2x - 1 = 2^n (e^r - 1) + (2^n - 1). For small x, n is 0 and so is the second part.
    let scale = s.scale2(s.splat(1.0), n);
    let e = s.fma(less_one, scale, s.sub(scale, s.splat(1.0)));
    s.div(s.sub(s.zero(), e), s.add(e, s.splat(2.0)))
}

/// Computes sigma(x) = 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.zero(), x))))
}

/// Computes sigma(x) and sigma(-x) = 1 - sigma(x), both without a subtraction.
#[inline(always)]
pub fn sigmoids<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let one = s.splat(1.0);
    // Kept finite, so that its product with a value near 0 is near 1.
    let e = s.min(s.splat(1e37), exp(s, s.sub(s.zero(), x)));
    let up = s.div(one, s.add(one, e));
    (up, s.mul(e, up))
}

/// Computes base + ln(1 + e^-|x|). The logarithm is ln(1 + t) = 2 atanh(t / (2 + t)) for t in (0, 1]; the series needs
/// eight terms, since its argument is at most 1/3. With base max(x, 0) the result is softplus, ln(1 + e^x).
#[inline(always)]
pub fn softplus_onto<S: Simd>(s: S, base: S::V, x: S::V) -> S::V {
    let t = exp(s, s.sub(s.zero(), s.max(x, s.sub(s.zero(), x))));
    let w = s.div(t, s.add(t, s.splat(2.0)));
    let w2 = s.mul(w, w);
    let mut series = s.splat(2.0 / 15.0);
    for odd in [13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        series = s.fma(series, w2, s.splat(2.0 / odd));
    }
    s.fma(w, series, base)
}

/// 2 sqrt(2/pi): the factor of x + 0.044715 x^3 in 2u.
const TWO_C: f32 = 1.595_769;
const CUBIC: f32 = 0.044_715;

/// Returns e = exp(-2u), kept finite, and the GELU gate 1 / (1 + e).
#[inline(always)]
fn gate<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let x2 = s.mul(x, x);
    let minus_2u = s.mul(x, s.fma(x2, s.splat(-TWO_C * CUBIC), s.splat(-TWO_C)));
    let e = s.min(s.splat(1e37), exp(s, minus_2u));
    let one = s.splat(1.0);
    (e, s.div(one, s.add(one, e)))
}

/// Computes GELU(x) in tanh form.
#[inline(always)]
pub fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    s.mul(x, gate(s, x).1)
}

/// Computes the derivative of [`gelu`]: g + x g (1-g) 2u' with the gate g. 1-g is computed as e g, which does not
/// cancel.
#[inline(always)]
pub fn gelu_grad<S: Simd>(s: S, x: S::V) -> S::V {
    let (e, g) = gate(s, x);
    let two_du = s.fma(s.mul(x, x), s.splat(3.0 * TWO_C * CUBIC), s.splat(TWO_C));
    let slope = s.mul(s.mul(x, s.mul(e, g)), two_du);
    s.fma(g, slope, g)
}

/// Runs a body for each vector of `n` elements, `lanes!(S, n, |offset, lanes| body)`: full vectors first, then a
/// partial one. It is a macro because a closure would be compiled without the kernel's instruction set.
macro_rules! lanes {
    ($simd:ty, $n:expr, |$i:ident, $k:ident| $body:expr) => {{
        let n: usize = $n;
        let mut $i = 0;
        while $i + <$simd>::LANES <= n {
            let $k = <$simd>::LANES;
            $body;
            $i += $k;
        }
        if $i < n {
            let $k = n - $i;
            $body;
        }
    }};
}
#[allow(unused_imports)]
pub(crate) use lanes;

/// Loads `k` lanes. A full vector uses an ordinary load.
///
/// # Safety
/// `p` is readable for `k` elements.
#[inline(always)]
pub unsafe fn load<S: Simd>(s: S, p: *const f32, k: usize) -> S::V {
    // SAFETY: guaranteed by the caller.
    unsafe { if k == S::LANES { s.load(p) } else { s.load_first(p, k) } }
}

/// Stores `k` lanes. A full vector uses an ordinary store.
///
/// # Safety
/// `p` is writable for `k` elements.
#[inline(always)]
pub unsafe fn store<S: Simd>(s: S, p: *mut f32, v: S::V, k: usize) {
    // SAFETY: guaranteed by the caller.
    unsafe { if k == S::LANES { s.store(p, v) } else { s.store_first(p, v, k) } }
}

/// A function of one vector, for [`map`] and [`zip`]-like loops over slices.
pub trait Map {
    fn at<S: Simd>(&self, s: S, x: S::V) -> S::V;
}

/// Computes y = f(x) element by element over slices of equal length.
pub fn map<F: Map>(y: &mut [f32], x: &[f32], f: F) {
    struct Task<'a, F>(&'a mut [f32], &'a [f32], F);
    impl<F: Map> Kernel for Task<'_, F> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let (y, x) = (self.0.as_mut_ptr(), self.1.as_ptr());
            lanes!(S, self.1.len(), |i, k| {
                // SAFETY: i + k is at most the common length of both slices.
                unsafe { store(s, y.add(i), self.2.at(s, load(s, x.add(i), k)), k) }
            });
        }
    }
    assert_eq!(y.len(), x.len());
    dispatch(Task(y, x, f))
}

/// [`exp`] as a [`Map`].
pub struct Exp;
impl Map for Exp {
    #[inline(always)]
    fn at<S: Simd>(&self, s: S, x: S::V) -> S::V {
        exp(s, x)
    }
}

/// [`gelu`] as a [`Map`].
pub struct Gelu;
impl Map for Gelu {
    #[inline(always)]
    fn at<S: Simd>(&self, s: S, x: S::V) -> S::V {
        gelu(s, x)
    }
}

/// [`tanh`] as a [`Map`].
pub struct Tanh;
impl Map for Tanh {
    #[inline(always)]
    fn at<S: Simd>(&self, s: S, x: S::V) -> S::V {
        tanh(s, x)
    }
}

/// [`sigmoid`] as a [`Map`].
pub struct Sigmoid;
impl Map for Sigmoid {
    #[inline(always)]
    fn at<S: Simd>(&self, s: S, x: S::V) -> S::V {
        sigmoid(s, x)
    }
}

/// [`gelu_grad`] as a [`Map`].
pub struct GeluGrad;
impl Map for GeluGrad {
    #[inline(always)]
    fn at<S: Simd>(&self, s: S, x: S::V) -> S::V {
        gelu_grad(s, x)
    }
}

#[cfg(test)]
#[allow(clippy::print_stdout)]
mod tests {
    use super::{
        super::simd::{Isa, dispatch_on},
        *,
    };

    struct On<'a, F>(&'a mut [f32], &'a [f32], F);
    impl<F: Map> Kernel for On<'_, F> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for (y, x) in self.0.chunks_mut(S::LANES).zip(self.1.chunks(S::LANES)) {
                // SAFETY: both chunks have the same length, at most the lanes.
                unsafe { store(s, y.as_mut_ptr(), self.2.at(s, load(s, x.as_ptr(), x.len())), x.len()) }
            }
        }
    }

    fn eval<F: Map>(isa: Isa, xs: &[f32], f: F) -> Vec<f32> {
        let mut ys = vec![f32::NAN; xs.len()];
        dispatch_on(isa, On(&mut ys, xs, f));
        ys
    }

    /// Returns the distance to `want` in units of the last place of f32 there.
    fn ulps(got: f32, want: f64) -> f64 {
        let exponent = want.abs().log2().floor().max(-126.0);
        (got as f64 - want).abs() / 2f64.powf(exponent - 23.0)
    }

    #[test]
    fn exp_is_within_two_ulps() {
        // The step is prime to powers of two, so that the grid does not match a pattern of the reduction.
        let xs: Vec<f32> = (0..400_001).map(|i| -87.0 + i as f32 * (175.0 / 400_000.0)).collect();
        for isa in Isa::available() {
            let ys = eval(isa, &xs, Exp);
            let worst = xs.iter().zip(&ys).map(|(&x, &y)| ulps(y, (x as f64).exp())).fold(0.0, f64::max);
            println!("exp {isa:?}: {worst:.2} ulp");
            assert!(worst <= 2.0, "{isa:?}: {worst} ulp");
        }
    }

    #[test]
    fn exp_keeps_its_limits() {
        for isa in Isa::available() {
            let xs = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 0.0, -200.0, 200.0, -1e30, -95.0, 88.7, 89.0];
            let ys = eval(isa, &xs, Exp);
            assert_eq!(ys[..2], [0.0, f32::INFINITY], "{isa:?}");
            assert!(ys[2].is_nan(), "{isa:?}");
            assert_eq!(ys[3..7], [1.0, 0.0, f32::INFINITY, 0.0], "{isa:?}");
            // -95 gives a subnormal result, 88.7 a finite one, 89 an infinite one.
            assert!(ys[7] > 0.0 && (ys[7] as f64 - (-95f64).exp()).abs() < 1e-45, "{isa:?}: {}", ys[7]);
            assert!(ys[8].is_finite() && ys[9] == f32::INFINITY, "{isa:?}");
        }
    }

    /// Returns grids over the whole range, and powers of two down to the smallest f32.
    fn everywhere(limit: f32) -> Vec<f32> {
        let grid = (0..200_001).map(|i| limit * (i as f32 / 100_000.0 - 1.0));
        let small = (0..=126).flat_map(|k| [1.0, 1.37].map(|x| x * 2f32.powi(-k))).flat_map(|x| [x, -x]);
        grid.chain(small).collect()
    }

    #[test]
    fn tanh_keeps_its_digits_everywhere() {
        let xs = everywhere(12.0);
        for isa in Isa::available() {
            let ys = eval(isa, &xs, Tanh);
            let worst = xs.iter().zip(&ys).filter(|(x, _)| **x != 0.0).map(|(&x, &y)| ulps(y, (x as f64).tanh()));
            let worst = worst.fold(0.0, f64::max);
            println!("tanh {isa:?}: {worst:.2} ulp");
            assert!(worst <= 4.0, "{isa:?}: {worst} ulp");
            let ends = eval(isa, &[0.0, 1e30, -1e30, f32::INFINITY, f32::NEG_INFINITY, f32::NAN], Tanh);
            assert_eq!(ends[..5], [0.0, 1.0, -1.0, 1.0, -1.0], "{isa:?}");
            assert!(ends[5].is_nan(), "{isa:?}");
        }
    }

    /// Selects one result of [`sigmoids`] or [`softplus_onto`].
    enum Part {
        Up,
        Down,
        Tail,
    }
    impl Map for Part {
        #[inline(always)]
        fn at<S: Simd>(&self, s: S, x: S::V) -> S::V {
            match self {
                Part::Up => sigmoids(s, x).0,
                Part::Down => sigmoids(s, x).1,
                Part::Tail => softplus_onto(s, s.zero(), x),
            }
        }
    }

    #[test]
    fn the_logistic_function_and_its_kin_match_f64() {
        let xs = everywhere(80.0);
        let sigma = |x: f64| 1.0 / (1.0 + (-x).exp());
        for isa in Isa::available() {
            let worst = |got: Vec<f32>, want: &dyn Fn(f64) -> f64| {
                assert!(got.iter().all(|y| y.is_finite()), "{isa:?}");
                xs.iter().zip(got).map(|(&x, y)| ulps(y, want(x as f64))).fold(0.0, f64::max)
            };
            let all = [
                worst(eval(isa, &xs, Sigmoid), &sigma),
                worst(eval(isa, &xs, Part::Up), &sigma),
                worst(eval(isa, &xs, Part::Down), &|x| sigma(-x)),
                worst(eval(isa, &xs, Part::Tail), &|x| (-x.abs()).exp().ln_1p()),
            ];
            println!("sigma, both sigmas, softplus's tail {isa:?}: {all:.2?} ulp");
            assert!(all.iter().all(|worst| *worst <= 5.0), "{isa:?}: {all:?} ulp");
            let ends = [f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, f32::NAN];
            let [one, up, down, tail] = [
                eval(isa, &ends, Sigmoid),
                eval(isa, &ends, Part::Up),
                eval(isa, &ends, Part::Down),
                eval(isa, &ends, Part::Tail),
            ];
            assert_eq!(one[..4], [1.0, 0.0, 1.0, 0.0], "{isa:?}");
            assert!((0..4).all(|i| (up[i] - one[i]).abs() < 1e-30 && (down[i] + one[i] - 1.0).abs() < 1e-6), "{isa:?}");
            assert_eq!(tail[..4], [0.0; 4], "{isa:?}");
            assert!([one, up, down, tail].iter().all(|y| y[4].is_nan()), "{isa:?}");
        }
    }

    #[test]
    fn gelu_and_its_derivative_match_f64() {
        let c = (2.0 / std::f64::consts::PI).sqrt();
        let tanh_u = |x: f64| (c * (x + 0.044715 * x * x * x)).tanh();
        let gelu64 = |x: f64| 0.5 * x * (1.0 + tanh_u(x));
        let grad64 = |x: f64| {
            let t = tanh_u(x);
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * c * (1.0 + 3.0 * 0.044715 * x * x)
        };
        let xs: Vec<f32> = (0..200_001).map(|i| -30.0 + i as f32 * (60.0 / 200_000.0)).collect();
        for isa in Isa::available() {
            let (y, g) = (eval(isa, &xs, Gelu), eval(isa, &xs, GeluGrad));
            for (i, &x) in xs.iter().enumerate() {
                let (want, grad) = (gelu64(x as f64), grad64(x as f64));
                assert!((y[i] as f64 - want).abs() <= 3e-7 * want.abs().max(0.2), "{isa:?} gelu({x}) = {}", y[i]);
                assert!((g[i] as f64 - grad).abs() <= 5e-7, "{isa:?} gelu'({x}) = {}, {grad}", g[i]);
            }
        }
    }
}
