//! The convolutions of Caser: compared with PyTorch, on the CPU and on the kernels; receptive fields; ties; rejected
//! settings.

use mipgpu::{
    backend::{Cpu, Reference, emulated},
    base::rng::{Purpose, Stream},
    layers::{BatchShape, Capacity, CaserConv, CaserConvConfig, Input},
    mem::{Mode, Planner, Precision, RawSpan, Var},
    ops::{Backend, Memory, NO_ROW, Run, WindowConvFwd},
};
use safetensors::SafeTensors;

/// The layer on packed sequences.
struct Layer {
    plan: Planner,
    input: Input,
    x: Var,
    conv: CaserConv,
    cu: Vec<u32>,
    shape: BatchShape,
}

impl Layer {
    /// `rest`: number of rows after the last sequence.
    fn new(lengths: &[usize], rest: usize, c: CaserConvConfig) -> Self {
        let (b, n) = (lengths.len(), lengths.iter().sum::<usize>() + rest);
        let mut plan = Planner::new();
        let t = lengths.iter().copied().max().unwrap();
        let input = Input::plan(&mut plan, Capacity { b, n, m: 1, t, rounding: [1, 1] });
        let x = plan.var(n * c.width);
        let conv = CaserConv::plan(&mut plan, "caser", x, &input, &c).unwrap();
        let mut cu = vec![0];
        lengths.iter().for_each(|l| cu.push(cu[cu.len() - 1] + *l as u32));
        Layer { plan, input, x, conv, cu, shape: BatchShape { b, n, ..BatchShape::default() } }
    }

    fn forward<B: Backend>(&self, b: &mut B) {
        b.write_ids(self.input.cu, &self.cu);
        self.conv.forward(b, &self.shape);
    }
}

fn normal(len: usize, which: u32) -> Vec<f32> {
    let mut draw = Stream::new(3, Purpose::Test, which);
    (0..len).map(|_| draw.normal()).collect()
}

fn read<B: Memory>(b: &mut B, span: RawSpan) -> Vec<f32> {
    let mut values = vec![0.0; span.len()];
    b.read(span, &mut values);
    values
}

const SMALL: CaserConvConfig = CaserConvConfig { width: 8, window: 4, horizontal: 3, vertical: 2, std: 0.4 };

/// Compares with the numbers of tests/fixtures/caser_conv.py, which this test does not run.
fn beside_pytorch<B: Backend>(open: impl Fn(&Planner) -> B, tolerance: f32) {
    let path = format!("{}/tests/fixtures/caser-conv.safetensors", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    let fixture = SafeTensors::deserialize(&bytes).unwrap();
    let four = |name: &str| -> Vec<[u8; 4]> {
        fixture.tensor(name).unwrap().data().chunks_exact(4).map(|c| c.try_into().unwrap()).collect()
    };
    let floats = |name: &str| -> Vec<f32> { four(name).into_iter().map(f32::from_le_bytes).collect() };
    let shape = |name: &str| fixture.tensor(name).unwrap().shape().to_vec();
    let cu: Vec<usize> = four("cu").into_iter().map(|c| u32::from_le_bytes(c) as usize).collect();
    let lengths: Vec<usize> = cu.windows(2).map(|w| w[1] - w[0]).collect();
    let vertical = shape("caser.vertical.weight");
    let horizontal = shape("caser.horizontal.weight");
    let c = CaserConvConfig {
        width: horizontal[1],
        window: vertical[1],
        horizontal: horizontal[2],
        vertical: vertical[0],
        std: 0.4,
    };
    let layer = Layer::new(&lengths, 0, c);
    let mut b = open(&layer.plan);
    let params = layer.plan.params().to_vec();
    assert_eq!(params.len(), 4);
    for p in &params {
        assert_eq!(shape(&p.name), p.shape, "{}", p.name);
        b.write(p.w.raw(), &floats(&p.name));
    }
    b.write(layer.x.y.raw(), &floats("x"));
    layer.forward(&mut b);
    b.write(layer.conv.horizontal.dy.raw(), &floats("grad.horizontal"));
    b.write(layer.conv.vertical.dy.raw(), &floats("grad.vertical"));
    layer.conv.backward(&mut b, &layer.shape, Mode::Write);
    let mut compare = |what: &str, span, want: Vec<f32>| {
        let largest = want.iter().fold(1e-3f32, |a, x| a.max(x.abs()));
        for (i, (h, w)) in read(&mut b, span).iter().zip(&want).enumerate() {
            assert!((h - w).abs() <= tolerance * largest, "{what}[{i}] is {h}, PyTorch {w}");
        }
    };
    compare("horizontal", layer.conv.horizontal.y.raw(), floats("y.horizontal"));
    compare("vertical", layer.conv.vertical.y.raw(), floats("y.vertical"));
    compare("dx", layer.x.dy.raw(), floats("grad.x"));
    for p in &params {
        compare(&format!("d {}", p.name), p.dw.raw(), floats(&format!("grad.{}", p.name)));
    }
    b.sync().unwrap();
}

#[test]
fn the_layer_agrees_with_pytorch() {
    // The fixture contains f32 roundings of an f64 computation: the reference agrees to the last place or two of f32.
    beside_pytorch(Reference::<f64>::new, 1e-6);
    beside_pytorch(Cpu::new, 1e-5);
    beside_pytorch(|plan| emulated(Precision::F32, plan).unwrap(), 1e-5);
}

#[test]
fn a_window_sees_its_rows_and_no_others() {
    let layer = Layer::new(&[12, 3, 9], 2, SMALL);
    let mut b = Cpu::new(&layer.plan);
    for (i, p) in layer.plan.params().to_vec().iter().enumerate() {
        b.write(p.w.raw(), &normal(p.w.len(), i as u32));
    }
    let mut both = |x: &[f32]| {
        b.write(layer.x.y.raw(), x);
        layer.forward(&mut b);
        [(layer.conv.horizontal.y, 12), (layer.conv.vertical.y, 16)].map(|(y, width)| {
            let y = read(&mut b, y.raw());
            y.chunks(width).map(<[f32]>::to_vec).collect::<Vec<_>>()
        })
    };
    let x = normal(layer.x.y.len(), 50);
    let before = both(&x);
    for changed in 0..26 {
        let mut x = x.clone();
        x[changed * 8..][..8].iter_mut().for_each(|x| *x += 3.0);
        let after = both(&x);
        let end = [12, 15, 24].into_iter().find(|end| changed < *end);
        // The row's own window, those of the three rows after it in its sequence, and no others.
        let want: Vec<usize> = end.map_or(Vec::new(), |end| (changed..end.min(changed + 4)).collect());
        for (before, after) in before.iter().zip(&after) {
            let rows = before.iter().zip(after).enumerate().filter(|(_, (a, b))| a != b).map(|(row, _)| row);
            assert_eq!(rows.collect::<Vec<_>>(), want, "row {changed} has changed");
        }
        assert!(after.iter().all(|y| y[24..].iter().flatten().all(|y| *y == 0.0)), "behind the last sequence");
    }
}

/// A worked example of the position of the maximum.
#[test]
fn of_equal_maxima_the_newest_counts_and_places_before_the_start_take_part() {
    let (n, l) = (4, 3);
    let mut p = Planner::new();
    let (x, y, at, cu) = (p.var(n), p.var(n * l), p.index(n * l), p.index(2));
    let (w, bias) = (p.weight(6), p.stat(l));
    let op = WindowConvFwd { y: y.y, at, x: x.y, w, bias, cu, b: 1, n, d: 1, l, f: 1 };
    let mut b = Cpu::new(&p);
    // Height 1 is x, height 2 is 0.5 - x of the newer row, height 3 is x of the oldest row minus 1.
    b.write(x.y.raw(), &[2.0, 1.0, 2.0, -5.0]);
    b.write(w.raw(), &[1.0, 0.0, -1.0, 1.0, 0.0, 0.0]);
    b.write(bias.raw(), &[0.0, 0.5, -1.0]);
    b.write_ids(cu, &[0, 4]);
    b.run(&op);
    let mut rows_back = vec![0; n * l];
    b.read_ids(at, &mut rows_back);
    let maxima = read(&mut b, y.y.raw());
    assert_eq!(maxima, [2.0, 0.5, 0.0, 2.0, 0.0, 0.0, 2.0, 0.0, 1.0, 2.0, 5.5, 0.0]);
    let want = [0, 1, NO_ROW, 1, NO_ROW, NO_ROW, 0, NO_ROW, 0, 1, 0, NO_ROW];
    assert_eq!(rows_back, want);
}

#[test]
fn what_cannot_be_is_refused() {
    let plan = |t: usize, c: CaserConvConfig| {
        let mut p = Planner::new();
        let input = Input::plan(&mut p, Capacity { b: 2, n: 2 * t, m: 1, t, rounding: [1, 1] });
        let x = p.var(2 * t * c.width);
        CaserConv::plan(&mut p, "caser", x, &input, &c).map(|_| ()).map_err(|e| e.to_string())
    };
    assert!(plan(4, SMALL).is_ok());
    let e = plan(3, SMALL).unwrap_err();
    assert!(e.contains("caser: windows of 4 rows, and sequences hold at most 3"), "{e}");
    assert!(e.contains("hint: lower the window to 3 or less"), "{e}");
    for c in [
        CaserConvConfig { width: 0, ..SMALL },
        CaserConvConfig { window: 0, ..SMALL },
        CaserConvConfig { horizontal: 0, ..SMALL },
        CaserConvConfig { vertical: 0, ..SMALL },
    ] {
        assert!(plan(9, c).unwrap_err().contains("each is at least 1"));
    }
}
