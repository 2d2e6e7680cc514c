//! The GRU layer: compared with PyTorch, its gradient at f64, receptive fields, and the independence of its bits.

use mipgpu::{
    backend::{Cpu, Reference},
    base::rng::{Purpose, Stream},
    layers::{BatchShape, Capacity, Gru, Input},
    mem::{Mode, Param, Planner, RawSpan, Var},
    ops::{Backend, Memory},
};
use safetensors::SafeTensors;

/// Stacked layers on packed sequences.
struct Stack {
    plan: Planner,
    input: Input,
    x: Var,
    layers: Vec<Gru>,
    cu: Vec<u32>,
    shape: BatchShape,
}

impl Stack {
    /// `rest`: number of rows after the last sequence.
    fn new(lengths: &[usize], rest: usize, d: usize, widths: &[usize]) -> Self {
        let (b, n) = (lengths.len(), lengths.iter().sum::<usize>() + rest);
        let mut plan = Planner::new();
        let t = lengths.iter().copied().max().unwrap();
        let input = Input::plan(&mut plan, Capacity { b, n, m: 1, t, rounding: [1, 1] });
        let x = plan.var(n * d);
        let (mut layers, mut below): (Vec<Gru>, _) = (Vec::new(), (x, d));
        for (i, &h) in widths.iter().enumerate() {
            let layer = Gru::plan(&mut plan, &format!("gru.{i}"), below.0, &input, (below.1, h));
            below = (layer.y, h);
            layers.push(layer);
        }
        let mut cu = vec![0];
        lengths.iter().for_each(|l| cu.push(cu[cu.len() - 1] + *l as u32));
        Stack { plan, input, x, layers, cu, shape: BatchShape { b, n, ..BatchShape::default() } }
    }

    fn y(&self) -> Var {
        self.layers.last().unwrap().y
    }

    fn forward<B: Backend>(&self, b: &mut B) {
        b.write_ids(self.input.cu, &self.cu);
        self.layers.iter().for_each(|layer| layer.forward(b, &self.shape));
    }

    fn backward<B: Backend>(&self, b: &mut B) {
        self.layers.iter().rev().for_each(|layer| layer.backward(b, &self.shape, Mode::Write));
    }

    fn params(&self) -> Vec<Param> {
        self.plan.params().to_vec()
    }

    /// Builds it on the CPU, with fixed random weights.
    fn on_cpu(&self) -> Cpu {
        let mut b = Cpu::new(&self.plan);
        for (i, p) in self.params().iter().enumerate() {
            b.write(p.w.raw(), &normal(p.w.len(), i as u32).iter().map(|w| 0.3 * w).collect::<Vec<_>>());
        }
        b
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

/// Compares with the numbers of tests/fixtures/gru.py, which this test does not run.
fn beside_pytorch<B: Backend>(open: fn(&Planner) -> B, tolerance: f32) {
    let bytes = std::fs::read(format!("{}/tests/fixtures/gru.safetensors", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let fixture = SafeTensors::deserialize(&bytes).unwrap();
    let four = |name: &str| -> Vec<[u8; 4]> {
        fixture.tensor(name).unwrap().data().chunks_exact(4).map(|c| c.try_into().unwrap()).collect()
    };
    let floats = |name: &str| -> Vec<f32> { four(name).into_iter().map(f32::from_le_bytes).collect() };
    let cu: Vec<usize> = four("cu").into_iter().map(|c| u32::from_le_bytes(c) as usize).collect();
    let lengths: Vec<usize> = cu.windows(2).map(|w| w[1] - w[0]).collect();
    let stack = Stack::new(&lengths, 0, fixture.tensor("x").unwrap().shape()[1], &[12, 9]);
    let mut b = open(&stack.plan);
    let params = stack.params();
    let weights = fixture.names().into_iter().filter(|n| n.starts_with("gru.")).count();
    assert_eq!(params.len(), weights, "the fixture has the layers' parameters");
    for p in &params {
        assert_eq!(fixture.tensor(&p.name).unwrap().shape(), p.shape, "{}", p.name);
        b.write(p.w.raw(), &floats(&p.name));
    }
    b.write(stack.x.y.raw(), &floats("x"));
    stack.forward(&mut b);
    b.write(stack.y().dy.raw(), &floats("grad.y"));
    stack.backward(&mut b);
    let mut compare = |what: &str, span, want: Vec<f32>| {
        let largest = want.iter().fold(1e-3f32, |a, x| a.max(x.abs()));
        for (i, (h, w)) in read(&mut b, span).iter().zip(&want).enumerate() {
            assert!((h - w).abs() <= tolerance * largest, "{what}[{i}] is {h}, PyTorch {w}");
        }
    };
    compare("y", stack.y().y.raw(), floats("y"));
    compare("dx", stack.x.dy.raw(), floats("grad.x"));
    for p in &params {
        compare(&format!("d {}", p.name), p.dw.raw(), floats(&format!("grad.{}", p.name)));
    }
}

#[test]
fn layers_agree_with_pytorch() {
    // The fixture contains f32 roundings of an f64 computation: the reference agrees to the last place or two of f32.
    beside_pytorch(Reference::<f64>::new, 1e-6);
    beside_pytorch(Cpu::new, 2e-5);
}

/// Checks <dy, y> along a random direction of each parameter, of the input, and of all at once.
#[test]
fn the_gradient_of_a_stack_is_right() {
    let stack = Stack::new(&[7, 1, 0, 12, 4], 3, 5, &[6, 4]);
    let mut b = Reference::<f64>::new(&stack.plan);
    let wide = |v: Vec<f32>| -> Vec<f64> { v.into_iter().map(|x| 0.5 * f64::from(x)).collect() };
    let mut spans = vec![(stack.x.y.raw(), stack.x.dy.raw(), "x".to_string())];
    spans.extend(stack.params().iter().map(|p| (p.w.raw(), p.dw.raw(), p.name.clone())));
    for (i, (span, ..)) in spans.iter().enumerate() {
        b.set(*span, &wide(normal(span.len(), i as u32)));
    }
    let dy = wide(normal(stack.y().dy.len(), 99));
    stack.forward(&mut b);
    b.set(stack.y().dy.raw(), &dy);
    stack.backward(&mut b);
    let gradients: Vec<Vec<f64>> = spans.iter().map(|(_, g, _)| b.values(*g)).collect();
    let start: Vec<Vec<f64>> = spans.iter().map(|(s, ..)| b.values(*s)).collect();
    let direction: Vec<Vec<f64>> =
        spans.iter().enumerate().map(|(i, (s, ..))| wide(normal(s.len(), 200 + i as u32))).collect();
    let mut sets: Vec<Vec<usize>> = (0..spans.len()).map(|i| vec![i]).collect();
    sets.push((0..spans.len()).collect());
    for set in sets {
        let mut at = |k: f64| {
            for &i in &set {
                let moved: Vec<f64> = start[i].iter().zip(&direction[i]).map(|(w, u)| w + k * u).collect();
                b.set(spans[i].0, &moved);
            }
            stack.forward(&mut b);
            b.values(stack.y().y.raw()).iter().zip(&dy).map(|(y, dy)| y * dy).sum::<f64>()
        };
        const STEP: f64 = 1e-6;
        let numeric = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        at(0.0);
        let dot = |i: &usize| gradients[*i].iter().zip(&direction[*i]).map(|(g, u)| g * u).sum::<f64>();
        let analytic: f64 = set.iter().map(dot).sum();
        let norm: f64 = set.iter().map(|i| gradients[*i].iter().map(|g| g * g).sum::<f64>()).sum::<f64>().sqrt();
        let names: Vec<&str> = set.iter().map(|i| spans[*i].2.as_str()).collect();
        let error = (analytic - numeric).abs() / analytic.abs().max(numeric.abs()).max(1e-2 * norm).max(1e-7);
        assert!(error < 1e-6, "{names:?}: {analytic} against {numeric}");
    }
}

#[test]
fn a_row_reaches_those_behind_it_in_its_sequence_and_no_other() {
    const D: usize = 8;
    let stack = Stack::new(&[30, 3, 25], 2, D, &[10, 8]);
    let mut b = stack.on_cpu();
    let x = normal(stack.x.y.len(), 50);
    b.write(stack.x.y.raw(), &x);
    stack.forward(&mut b);
    let before = read(&mut b, stack.y().y.raw());
    assert!(before[58 * 8..].iter().all(|y| *y == 0.0), "rows behind the last sequence");
    for (changed, last) in [(10, 30), (30, 33), (57, 58)] {
        let mut x = x.clone();
        x[changed * D..][..D].iter_mut().for_each(|x| *x += 1.0);
        b.write(stack.x.y.raw(), &x);
        stack.forward(&mut b);
        let after = read(&mut b, stack.y().y.raw());
        let rows = before.chunks(8).zip(after.chunks(8)).enumerate();
        let seen: Vec<usize> = rows.filter(|(_, (a, b))| a != b).map(|(row, _)| row).collect();
        assert!(seen.iter().all(|row| (changed..last).contains(row)) && seen.contains(&changed), "{changed}: {seen:?}");
    }
}

/// The result of a sequence must depend neither on the other sequences of the batch nor on the number of threads.
#[test]
fn the_bits_of_a_sequence_are_its_own() {
    const D: usize = 5;
    const H: usize = 40;
    let lengths: Vec<usize> = (0..70).map(|s| [13, 0, 4, 29, 1, 8, 8][s % 7]).collect();
    // Returns y and dx of all rows with this number of threads.
    let run = |lengths: &[usize], x: &[f32], dy: &[f32], threads: usize| {
        let stack = Stack::new(lengths, 0, D, &[H]);
        let mut b = stack.on_cpu();
        b.write(stack.x.y.raw(), x);
        b.write(stack.y().dy.raw(), dy);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            stack.forward(&mut b);
            stack.backward(&mut b);
        });
        (read(&mut b, stack.y().y.raw()), read(&mut b, stack.x.dy.raw()))
    };
    let n: usize = lengths.iter().sum();
    let (x, dy) = (normal(n * D, 1), normal(n * H, 2));
    let all = run(&lengths, &x, &dy, 2);
    for threads in [1, 3, 8] {
        assert!(run(&lengths, &x, &dy, threads) == all, "{threads} threads");
    }
    let mut first = 0;
    for length in &lengths[..7] {
        let rows = first..first + length;
        first += length;
        let of = |v: &[f32], width: usize| v[rows.start * width..rows.end * width].to_vec();
        if *length > 0 {
            let alone = run(&[*length], &of(&x, D), &of(&dy, H), 1);
            assert!(alone == (of(&all.0, H), of(&all.1, D)), "a sequence of {length} alone");
        }
    }
}
