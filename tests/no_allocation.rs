//! A training step in its steady state allocates nothing; the global allocator of this test binary counts.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use mipgpu::{
    backend::Cpu,
    base::rng::{Purpose, Stream},
    layers::{BatchShape, Capacity, ConvBlock, ConvBlockConfig, DataSummary, Input, RatingScale},
    mem::Planner,
    ops::{BagLists, Memory},
    tasks::{LossKind, Sequence},
    train::{Engine, Settings},
};

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: guaranteed by the caller.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: guaranteed by the caller.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Requires ten consecutive steps without an allocation. Scratch memory grows once on every thread, and on a busy
/// machine a thread may run its first part of some op late. An allocation at every step, or at every tenth, would
/// prevent ten such steps.
fn assert_settles(step: &mut dyn FnMut(u64), what: &str) {
    (1..=20).for_each(&mut *step);
    let mut counts = Vec::new();
    for ten in 2..12 {
        let before = COUNT.load(Ordering::Relaxed);
        (10 * ten + 1..=10 * ten + 10).for_each(&mut *step);
        counts.push(COUNT.load(Ordering::Relaxed) - before);
        if counts.last() == Some(&0) {
            return;
        }
    }
    panic!("allocations in each ten steps {what}: {counts:?}");
}

#[test]
fn a_step_allocates_nothing() {
    const ITEMS: usize = 500;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for loss in [LossKind::Softmax, LossKind::SampledPopularity, LossKind::Gbce] {
        let s = Settings {
            width: 32,
            length: 50,
            batch: 16,
            attention_dropout: 0.1,
            loss,
            exclude_seen: true,
            negatives: 100,
            // The last one has users and side fields in addition to items.
            user_width: if loss == LossKind::Gbce { 12 } else { 0 },
            fields: if loss == LossKind::Gbce { "all" } else { "none" }.into(),
            ..Settings::default()
        };
        let values: Vec<u32> = (0..7).collect();
        let fields = BagLists::new(ITEMS, &[7], |item, _| &values[item % 5..][..item % 3]).unwrap();
        let summary = DataSummary { counts: (0..ITEMS as u64).collect(), users: 20, fields, ratings: None };
        let mut engine = Engine::<Cpu>::new(&s, summary, |p| Ok(Cpu::new(p))).unwrap();
        let mut draw = Stream::new(1, Purpose::Test, 0);
        let users: Vec<Vec<u32>> =
            (0..16).map(|_| (0..60).map(|_| draw.below(ITEMS as u64) as u32).collect()).collect();
        pool.install(|| {
            let mut step = |n: u64| {
                engine.begin(n as u32);
                for (u, items) in users.iter().enumerate() {
                    engine.push(u as u64, Sequence::Items(items));
                }
                engine.step(n, 1e-3).unwrap();
            };
            assert_settles(&mut step, &format!("with {loss:?}"));
        });
    }
    // Ratings: the host makes their batches.
    for model in ["bert4rec", "dacf"] {
        let task = "rating".into();
        let s = Settings { model: model.into(), task, width: 32, length: 50, batch: 16, ..Settings::default() };
        let ratings = Some(RatingScale { levels: vec![1.0, 2.0, 3.0], mean: 2.0 });
        let summary = DataSummary { counts: vec![1; ITEMS], ratings, ..DataSummary::default() };
        let mut engine = Engine::<Cpu>::new(&s, summary, |p| Ok(Cpu::new(p))).unwrap();
        let items: Vec<u32> = (0..60).map(|i| i * 7 % ITEMS as u32).collect();
        let ratings: Vec<f32> = (0..60).map(|i| 1.0 + (i % 3) as f32).collect();
        pool.install(|| {
            let mut step = |n: u64| {
                engine.begin(n as u32);
                for u in 0..16 {
                    engine.push(u, Sequence::Rated { items: &items[u as usize..], ratings: &ratings[u as usize..] });
                }
                engine.step(n, 1e-3).unwrap();
            };
            assert_settles(&mut step, &format!("of {model} on ratings"));
        });
    }
    // Convolution blocks, which no model of the list has.
    let mut plan = Planner::new();
    let (b, n, t, channels) = (40, 40 * 25, 25, 48);
    let input = Input::plan(&mut plan, Capacity { b, n, m: 1, t, rounding: [1, 1] });
    let x = plan.var(n * channels);
    let config = ConvBlockConfig { channels, taps: 3, dilation: 2, causal: true, std: 0.1, patch: None };
    let block = ConvBlock::plan(&mut plan, "block", x, &input, &config).unwrap();
    let mut cpu = Cpu::new(&plan);
    cpu.write_ids(input.cu, &(0..=b).map(|s| (s * t) as u32).collect::<Vec<_>>());
    pool.install(|| {
        let mut step = |_| {
            block.forward(&mut cpu, &BatchShape { b, n, ..BatchShape::default() });
            block.backward(&mut cpu, &BatchShape { b, n, ..BatchShape::default() });
        };
        assert_settles(&mut step, "of a block of convolutions");
    });
}
