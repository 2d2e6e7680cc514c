//! Activations and pointwise losses compared with PyTorch 2.11 at f64: values, and gradients by its autograd, of
//! `relu`, `sigmoid`, `tanh`, `mse_loss` and `binary_cross_entropy_with_logits` (no reduction). For large arguments,
//! where a naive form overflows or cancels, the losses are compared with their closed forms.

use mipgpu::{
    backend::{Cpu, Reference},
    mem::{Dst, Planner},
    ops::{
        ActivationBwd, ActivationFwd, Backend, PointLossBwd, PointLossFwd, activation::Activation,
        point_loss::PointKind,
    },
};

const N: usize = 8;
const X: [f32; N] = [-12.0, -3.5, -0.25, -1e-3, 1e-3, 0.5, 2.75, 12.0];
/// Upstream gradients.
const G: [f32; N] = [0.5, -1.25, 2.0, 1.0, -0.75, 3.0, -2.0, 1.5];
const TARGET: [f32; N] = [0.0, 1.0, 0.25, 1.0, 0.0, 0.75, 1.0, 0.0];

/// PyTorch's results: values, gradients.
type Table = [[f64; N]; 2];
const RELU: Table = [[0.0, 0.0, 0.0, 0.0, 1e-3, 0.5, 2.75, 12.0], [0.0, 0.0, 0.0, 0.0, -0.75, 3.0, -2.0, 1.5]];
const SIGMOID: Table = [
    [
        6.144174602e-6,
        2.931223075e-2,
        4.378234991e-1,
        4.997500000e-1,
        5.002500000e-1,
        6.224593312e-1,
        9.399133498e-1,
        9.999938558e-1,
    ],
    [
        3.072068426e-6,
        -3.556627985e-2,
        4.922681655e-1,
        2.499999375e-1,
        -1.874999531e-1,
        7.050111366e-1,
        -1.129524893e-1,
        9.216205277e-6,
    ],
];
const TANH: Table = [
    [
        -9.999999999e-1,
        -9.981778976e-1,
        -2.449186624e-1,
        -9.999996667e-4,
        9.999996667e-4,
        4.621171573e-1,
        9.918597246e-1,
        9.999999999e-1,
    ],
    [
        7.550271519e-11,
        -4.551105901e-3,
        1.880029698e0,
        9.999990000e-1,
        -7.499992500e-1,
        2.359343199e0,
        -3.242857356e-2,
        2.265081456e-10,
    ],
];
const SQUARED: Table = [
    [144.0, 20.25, 0.25, 1.002001, 1e-6, 0.0625, 3.0625, 144.0],
    [-12.0, 11.25, -2.0, -2.002, -1.5e-3, -1.5, -7.0, 36.0],
];
const LOGISTIC: Table = [
    [
        6.144193478e-6,
        3.529750418e0,
        6.384394199e-1,
        6.936473056e-1,
        6.936473056e-1,
        5.990769842e-1,
        6.196758900e-2,
        1.200000614e1,
    ],
    [
        3.072087301e-6,
        1.213359712e0,
        3.756469982e-1,
        -5.002500000e-1,
        -3.751875000e-1,
        -3.826220064e-1,
        1.201733003e-1,
        1.499990784e0,
    ],
];

/// Returns values and gradients of an activation.
fn activation<B: Backend>(open: &dyn Fn(&Planner) -> B, kind: Activation) -> [Vec<f32>; 2] {
    let mut p = Planner::new();
    let (x, y) = (p.var(N), p.var(N));
    let mut b = open(&p);
    b.write(x.y.raw(), &X);
    b.write(y.dy.raw(), &G);
    b.run(&ActivationFwd { y: y.y, x: x.y, n: N, kind });
    b.run(&ActivationBwd { dx: Dst::Write(x.dy), dy: y.dy, y: y.y, n: N, kind });
    [y.y, x.dy].map(|span| read(&mut b, span.raw()))
}

/// Returns values and gradients of a loss.
fn loss<B: Backend>(open: &dyn Fn(&Planner) -> B, kind: PointKind, [x, t, g]: [&[f32]; 3]) -> [Vec<f32>; 2] {
    let mut p = Planner::new();
    let m = x.len();
    let [z, dz, target, loss, dloss] = [(); 5].map(|()| p.stat(m));
    let mut b = open(&p);
    for (span, values) in [(z, x), (target, t), (dloss, g)] {
        b.write(span.raw(), values);
    }
    b.run(&PointLossFwd { loss, z, target, m, kind });
    b.run(&PointLossBwd { dz: Dst::Write(dz), dloss, z, target, m, kind });
    [loss, dz].map(|span| read(&mut b, span.raw()))
}

fn read<B: Backend>(b: &mut B, span: mipgpu::mem::RawSpan) -> Vec<f32> {
    let mut values = vec![f32::NAN; span.len()];
    b.read(span, &mut values);
    values
}

/// The tables have nine digits; f32 has seven, of numbers up to 1 in tanh's 1 - y^2.
fn same(what: &str, have: [Vec<f32>; 2], want: &Table) {
    for (part, (have, want)) in ["value", "gradient"].iter().zip(have.iter().zip(want)) {
        for (i, (h, w)) in have.iter().zip(want).enumerate() {
            let off = (*h as f64 - w).abs();
            assert!(off <= 1e-6 * w.abs().max(0.3), "{what}: {part} at {} is {h}, PyTorch says {w}", X[i]);
        }
    }
}

fn all_agree<B: Backend>(open: &dyn Fn(&Planner) -> B) {
    same("relu", activation(open, Activation::Relu), &RELU);
    same("sigmoid", activation(open, Activation::Sigmoid), &SIGMOID);
    same("tanh", activation(open, Activation::Tanh), &TANH);
    same("squared", loss(open, PointKind::Squared, [&X, &TARGET, &G]), &SQUARED);
    same("logistic", loss(open, PointKind::Logistic, [&X, &TARGET, &G]), &LOGISTIC);
}

#[test]
fn values_and_gradients_agree_with_pytorch() {
    all_agree(&Reference::<f64>::new);
    all_agree(&Cpu::new);
}

/// loss = max(z,0) - t z and slope = [z > 0] - t there, except for e^-|z|, which small gradients consist of.
#[test]
fn the_logistic_loss_neither_overflows_nor_cancels() {
    let z = [1e3, -1e3, 1e3, -1e3, 3e38, -3e38, 20.0, -20.0];
    let t = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0];
    let [value, gradient] = loss(&Cpu::new, PointKind::Logistic, [&z, &t, &[1.0; N]]);
    assert_eq!(value[..6], [0.0, 0.0, 1e3, 1e3, 0.0, 3e38]);
    let (far, near) = (&gradient[..6], &gradient[6..]);
    let ends = [0.0, 0.0, 1.0, -1.0, 0.0, -1.0];
    assert!(far.iter().zip(ends).all(|(g, want)| (g - want).abs() < 1e-30 || (g / want - 1.0).abs() < 1e-6), "{far:?}");
    // sigma(20) - 1 is 0 in f32; the gradient is not.
    let tiny = 1.0 / (1.0 + 20f64.exp());
    for (g, want) in value[6..].iter().zip([tiny; 2]).chain(near.iter().zip([-tiny, tiny])) {
        assert!((*g as f64 / want - 1.0).abs() < 1e-6, "{g}, should be {want}");
    }
}

#[test]
fn a_nan_is_not_hidden_by_relu() {
    let mut p = Planner::new();
    let (x, y) = (p.act(1), p.act(1));
    let mut b = Cpu::new(&p);
    mipgpu::ops::Memory::write(&mut b, x.raw(), &[f32::NAN]);
    mipgpu::ops::Run::run(&mut b, &ActivationFwd { y, x, n: 1, kind: Activation::Relu });
    assert!(read(&mut b, y.raw())[0].is_nan());
}
