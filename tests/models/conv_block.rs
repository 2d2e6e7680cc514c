//! The block of dilated convolutions: compared with PyTorch, its gradient at f64, receptive fields, and rejected
//! settings.

use mipgpu::{
    backend::{Cpu, Reference},
    base::rng::{Purpose, Stream},
    layers::{BatchShape, Capacity, ConvBlock, ConvBlockConfig, Input},
    mem::{Param, Planner, Var},
    ops::{Backend, Memory},
};
use safetensors::SafeTensors;

/// Stacked blocks on packed sequences.
struct Stack {
    plan: Planner,
    input: Input,
    x: Var,
    blocks: Vec<ConvBlock>,
    cu: Vec<u32>,
    shape: BatchShape,
}

impl Stack {
    fn new(lengths: &[usize], channels: usize, taps: usize, dilations: &[usize], causal: bool) -> Self {
        let (b, n) = (lengths.len(), lengths.iter().sum());
        let mut plan = Planner::new();
        let t = lengths.iter().copied().max().unwrap();
        let input = Input::plan(&mut plan, Capacity { b, n, m: 1, t, rounding: [1, 1] });
        let x = plan.var(n * channels);
        let mut blocks: Vec<ConvBlock> = Vec::new();
        for (i, &dilation) in dilations.iter().enumerate() {
            let below = blocks.last().map_or(x, |b| b.y);
            let config = ConvBlockConfig { channels, taps, dilation, causal, std: 0.4, patch: None };
            blocks.push(ConvBlock::plan(&mut plan, &format!("block.{i}"), below, &input, &config).unwrap());
        }
        let mut cu = vec![0];
        lengths.iter().for_each(|l| cu.push(cu[cu.len() - 1] + *l as u32));
        Stack { plan, input, x, blocks, cu, shape: BatchShape { b, n, ..BatchShape::default() } }
    }

    fn y(&self) -> Var {
        self.blocks.last().unwrap().y
    }

    fn forward<B: Backend>(&self, b: &mut B) {
        b.write_ids(self.input.cu, &self.cu);
        self.blocks.iter().for_each(|block| block.forward(b, &self.shape));
    }

    fn backward<B: Backend>(&self, b: &mut B) {
        self.blocks.iter().rev().for_each(|block| block.backward(b, &self.shape));
    }

    fn params(&self) -> Vec<Param> {
        self.plan.params().to_vec()
    }
}

fn normal(len: usize, which: u32) -> Vec<f32> {
    let mut draw = Stream::new(3, Purpose::Test, which);
    (0..len).map(|_| draw.normal()).collect()
}

fn read<B: Memory>(b: &mut B, span: mipgpu::mem::RawSpan) -> Vec<f32> {
    let mut values = vec![0.0; span.len()];
    b.read(span, &mut values);
    values
}

/// Compares with the numbers of tests/fixtures/dilated_conv.py, which this test does not run.
fn beside_pytorch<B: Backend>(
    name: &str,
    (taps, dilations): (usize, &[usize]),
    open: fn(&Planner) -> B,
    tolerance: f32,
) {
    let path = format!("{}/tests/fixtures/conv-block-{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    let fixture = SafeTensors::deserialize(&bytes).unwrap();
    let four = |name: &str| -> Vec<[u8; 4]> {
        fixture.tensor(name).unwrap().data().chunks_exact(4).map(|c| c.try_into().unwrap()).collect()
    };
    let floats = |name: &str| -> Vec<f32> { four(name).into_iter().map(f32::from_le_bytes).collect() };
    let cu: Vec<usize> = four("cu").into_iter().map(|c| u32::from_le_bytes(c) as usize).collect();
    let lengths: Vec<usize> = cu.windows(2).map(|w| w[1] - w[0]).collect();
    let stack = Stack::new(&lengths, fixture.tensor("x").unwrap().shape()[1], taps, dilations, name == "causal");
    let mut b = open(&stack.plan);
    let params = stack.params();
    let weights = fixture.names().into_iter().filter(|n| n.starts_with("block.")).count();
    assert_eq!(params.len(), weights, "the fixture has the blocks' parameters");
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
            assert!((h - w).abs() <= tolerance * largest, "{name} {what}[{i}] is {h}, PyTorch {w}");
        }
    };
    compare("y", stack.y().y.raw(), floats("y"));
    // The residual: the gradients of x and of y share their memory.
    compare("dx", stack.x.dy.raw(), floats("grad.x"));
    for p in &params {
        compare(&format!("d {}", p.name), p.dw.raw(), floats(&format!("grad.{}", p.name)));
    }
}

#[test]
fn causal_blocks_agree_with_pytorch() {
    // The fixture contains f32 roundings of an f64 computation: the reference agrees to the last place or two of f32.
    beside_pytorch("causal", (3, &[1, 4]), Reference::<f64>::new, 1e-6);
    beside_pytorch("causal", (3, &[1, 4]), Cpu::new, 2e-5);
}

#[test]
fn centred_blocks_agree_with_pytorch() {
    beside_pytorch("centred", (4, &[2, 1]), Reference::<f64>::new, 1e-6);
    beside_pytorch("centred", (4, &[2, 1]), Cpu::new, 2e-5);
}

/// Checks <dy, y> along a random direction of each parameter, of the input, and of all at once.
#[test]
fn the_gradient_of_a_stack_is_right() {
    for (taps, causal) in [(3, true), (3, false), (2, false)] {
        let stack = Stack::new(&[7, 1, 0, 12, 4], 6, taps, &[1, 2], causal);
        let mut b = Reference::<f64>::new(&stack.plan);
        let wide = |v: Vec<f32>| -> Vec<f64> { v.into_iter().map(f64::from).collect() };
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
            assert!(error < 1e-6, "{taps} taps, causal {causal}, {names:?}: {analytic} against {numeric}");
        }
    }
}

/// Returns which rows of y change with one row of x: (sequence, position) of every row with different bits.
fn seen_from(causal: bool, changed: usize) -> Vec<usize> {
    const C: usize = 8;
    let stack = Stack::new(&[30, 3, 25], C, 3, &[1, 4], causal);
    let mut b = Cpu::new(&stack.plan);
    for (i, p) in stack.params().iter().enumerate() {
        b.write(p.w.raw(), &normal(p.w.len(), i as u32));
    }
    let mut x = normal(stack.x.y.len(), 50);
    b.write(stack.x.y.raw(), &x);
    stack.forward(&mut b);
    let before = read(&mut b, stack.y().y.raw());
    x[changed * C..][..C].iter_mut().for_each(|x| *x += 1.0);
    b.write(stack.x.y.raw(), &x);
    stack.forward(&mut b);
    let after = read(&mut b, stack.y().y.raw());
    let rows = before.chunks(C).zip(after.chunks(C)).enumerate();
    rows.filter(|(_, (a, b))| a.iter().zip(*b).any(|(a, b)| a.to_bits() != b.to_bits())).map(|(row, _)| row).collect()
}

#[test]
fn causal_blocks_never_look_ahead_nor_into_another_sequence() {
    let seen = seen_from(true, 10);
    assert!(seen.iter().all(|row| (10..30).contains(row)) && seen.contains(&10) && seen.len() > 10, "{seen:?}");
    let seen = seen_from(true, 30);
    assert!(seen.iter().all(|row| (30..33).contains(row)) && seen.contains(&30), "{seen:?}");
}

#[test]
fn centred_blocks_look_both_ways_but_into_no_other_sequence() {
    let seen = seen_from(false, 45);
    assert!(seen.iter().all(|row| (33..58).contains(row)), "{seen:?}");
    assert!(seen.iter().any(|row| *row < 45) && seen.contains(&45) && seen.iter().any(|row| *row > 45), "{seen:?}");
}

#[test]
fn what_no_sequence_could_use_is_refused() {
    let plan = |t: usize, channels: usize, taps: usize, dilation: usize, causal: bool| {
        let mut p = Planner::new();
        let input = Input::plan(&mut p, Capacity { b: 2, n: 2 * t, m: 1, t, rounding: [1, 1] });
        let x = p.var(2 * t * channels);
        let config = ConvBlockConfig { channels, taps, dilation, causal, std: 0.1, patch: None };
        ConvBlock::plan(&mut p, "block.3", x, &input, &config).map(|_| ()).map_err(|e| e.to_string())
    };
    assert!(plan(9, 4, 3, 4, true).is_ok(), "2R = 8 still joins the first row and the last");
    let e = plan(9, 4, 3, 5, true).unwrap_err();
    assert!(e.contains("block.3: the second convolution has dilation 10") && e.contains("at most 9"), "{e}");
    assert!(e.contains("hint: lower the dilation to 4 or less"), "{e}");
    let e = plan(9, 4, 3, 9, false).unwrap_err();
    assert!(e.contains("the first convolution has dilation 9"), "{e}");
    // An even number of centred taps is offset by half a dilation on either side.
    assert!(plan(9, 4, 2, 8, false).is_ok());
    assert!(plan(9, 4, 2, 9, false).is_err());
    assert!(plan(1, 4, 1, 1000, true).is_ok(), "one tap is the row's own");
    assert!(plan(1, 4, 3, 1, true).unwrap_err().contains("use one tap"));
    for (channels, taps, dilation) in [(0, 3, 1), (4, 0, 1), (4, 3, 0)] {
        assert!(plan(9, channels, taps, dilation, true).unwrap_err().contains("each is at least 1"));
    }
    assert!(plan(9, 4, 3, usize::MAX, true).unwrap_err().contains("lower the taps or the dilation"));
}
