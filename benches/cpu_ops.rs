//! Times the CPU backend's building blocks and ops at the sizes of a BERT4Rec step (d 64, T 200, B 64), with medians.
//! `cargo bench --bench cpu_ops [-- FILTER]`; `MIPGPU_ISA=avx2` compares instruction sets.

use mipgpu::{
    backend::{
        Cpu,
        cpu::{
            gemm::{self, View},
            products,
            simd::Isa,
        },
    },
    mem::{Dst, Planner, Precision, Span, U32},
    ops::{dropout::Drop, sort_ids::Sorted, *},
};
use std::time::Instant;

/// Seconds on the clock; with `MIPGPU_BENCH=cpu`, seconds that this thread has run (Linux, one-thread numbers only), for
/// a machine that others use too.
fn now() -> f64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    if std::env::var("MIPGPU_BENCH").as_deref() == Ok("cpu") {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("schedstat");
        return stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).expect("schedstat") * 1e-9;
    }
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}

/// Median seconds of `runs` calls after two to warm up.
fn median(runs: usize, mut f: impl FnMut()) -> f64 {
    f();
    f();
    if std::env::var("MIPGPU_BENCH").as_deref() == Ok("cpu") {
        // That clock ticks every few milliseconds: a mean over many calls.
        let (clock, start, mut calls) = (Instant::now(), now(), 0);
        while clock.elapsed().as_secs_f64() < 0.6 {
            f();
            calls += 1;
        }
        return (now() - start) / calls as f64;
    }
    let mut times: Vec<f64> = (0..runs)
        .map(|_| {
            let start = now();
            f();
            now() - start
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[runs / 2]
}

fn random(len: usize) -> Vec<f32> {
    let mut x = 12345u32;
    let mut next = || {
        x = x.wrapping_mul(1664525).wrapping_add(1013904223);
        (x >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

fn products(threads: usize) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let report = |what: &str, m: usize, n: usize, k: usize, seconds: f64| {
        let gflops = 2e-9 * (m * n * k) as f64 / seconds;
        println!("{what:10} {m:6} x {n:5} x {k:6}  {threads} threads  {:8.3} ms  {gflops:7.1} GFLOP/s", seconds * 1e3);
    };
    for (m, k, n) in [(10240, 64, 192), (10240, 64, 256), (10240, 256, 64), (2048, 64, 3456), (2048, 3456, 64)] {
        let (a, w, mut c) = (random(m * k), random(n * k), vec![0.0; m * n]);
        let mut scratch = vec![0.0; gemm::packed_len(k, n)];
        // W lies as a layer keeps it, (n, k): packing it is part of the time.
        let seconds = pool.install(|| {
            median(25, || {
                let b = gemm::pack(&mut scratch, View::dense(&w, n, k).t());
                products::product(&mut c, View::dense(&a, m, k), b, 1.0, false)
            })
        });
        report("y = x W^T", m, n, k, seconds);
    }
    for (k, m, n) in [(10240, 192, 64), (10240, 256, 64), (10240, 64, 256), (10240, 64, 64), (2048, 3456, 64)] {
        let (a, b, mut c) = (random(m * k), random(n * k), vec![0.0; m * n]);
        let seconds = pool.install(|| {
            median(25, || products::product_t(&mut c, View::dense(&a, k, m), View::dense(&b, k, n), false))
        });
        report("dW = dy^T x", m, n, k, seconds);
    }
}

/// Sizes of the step: B, T, D, heads, D of the feed-forward, scored rows, items.
const B: usize = 64;
const T: usize = 200;
const D: usize = 64;
const H: usize = 2;
const F: usize = 256;
const M: usize = 2560;
const V: usize = 3706;

/// What a step runs, collected with the number of calls in it.
struct Bench {
    cpu: Cpu,
    pool: rayon::ThreadPool,
    filter: String,
    total: f64,
}

impl Bench {
    fn op<O: Op>(&mut self, what: &str, calls: usize, op: O)
    where
        Cpu: Run<O>,
    {
        op.check().unwrap();
        let name = format!("{} {what}", O::NAME);
        if !name.contains(&self.filter) {
            return;
        }
        let (cpu, cost) = (&mut self.cpu, op.cost());
        let seconds = self.pool.install(|| median(25, || cpu.run(&op)));
        self.total += calls as f64 * seconds * 1e3;
        println!(
            "{name:34} {:8.3} ms {:8.1} GFLOP/s {:7.1} GB/s   {calls:2} a step: {:7.2} ms",
            seconds * 1e3,
            cost.flop / seconds * 1e-9,
            cost.moved(Precision::F32) / seconds * 1e-9,
            calls as f64 * seconds * 1e3
        );
    }
}

/// Every op of a training step of BERT4Rec, two blocks, post-norm, and what they add up to.
fn step(threads: usize, filter: &str) {
    let n = B * T;
    let mut p = Planner::new();
    let (x, y, wide, wide2, qkv) = (p.var(n * D), p.var(n * D), p.var(n * F), p.var(n * F), p.var(n * 3 * D));
    let (r, scored) = (p.act(n * D), p.var(M * D));
    let (table, dtable, bias, dbias) = (p.stat(V * D), p.stat(V * D), p.stat(V), p.stat(V));
    let (w, dw, b, db) = (p.stat(F * D), p.stat(F * D), p.stat(F), p.stat(F));
    let (mean, rstd, lse) = (p.stat(n), p.stat(n), p.stat(H * n));
    let (loss, loss_lse, dloss, mean_loss) = (p.stat(M), p.stat(M), p.stat(M), p.stat(1));
    let params = V * (D + 1) + T * D + 2 * 12 * D * D + D * D;
    let flat = [(); 4].map(|_| p.stat(params));
    let (norm, ok, hyper) = (p.stat(1), p.stat(1), p.stat(3));
    let (cu, step, target, row, item, pos) =
        (p.index(B + 1), p.index(1), p.index(M), p.index(M), p.index(n), p.index(n));
    let by = Sorted::plan(&mut p, n);

    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let mut bench = Bench { cpu: Cpu::new(&p), pool, filter: filter.into(), total: 0.0 };
    let cpu = &mut bench.cpu;
    for span in [x.y, x.dy, y.y, y.dy, wide.y, wide.dy, wide2.y, wide2.dy, qkv.y, r, scored.y] {
        cpu.write(span.raw(), &random(span.len()));
    }
    for span in [table, bias, w, b, dloss, flat[0], flat[3]] {
        cpu.write(span.raw(), &random(span.len()));
    }
    cpu.write(ok.raw(), &[1.0]);
    let ids = |cpu: &mut Cpu, span: Span<U32>, f: &dyn Fn(usize) -> usize| {
        cpu.write_ids(span, &(0..span.len()).map(|i| f(i) as u32).collect::<Vec<_>>());
    };
    ids(cpu, cu, &|i| i * T);
    ids(cpu, target, &|i| i * 7919 % V);
    ids(cpu, row, &|i| i * 5);
    ids(cpu, pos, &|i| i % T);
    // A fifth of all positions hold the mask item.
    let items: Vec<u32> = (0..n).map(|i| if i % 5 == 0 { 1 } else { (i * 7919 % V) as u32 }).collect();
    cpu.write_ids(item, &items);
    let drop = Drop { p: 0.1, seed: 1, site: 1 };
    println!("-- {threads} threads");
    bench.op("", 1, EmbeddingFwd { y: x.y, item_table: table, pos_table: table, item, pos, n, d: D, v: V, t: T });
    bench.op("", 1, DropoutFwd { y: y.y, x: x.y, step, n: n * D, drop });
    bench.op("", 6, LayerNormFwd { y: y.y, mean, rstd, x: x.y, gamma: w, beta: b, n, d: D, eps: 1e-5 });
    bench.op("qkv", 2, LinearFwd { y: qkv.y, x: x.y, w, b, n, i: D, o: 3 * D });
    let k = D / H;
    let none = Drop::NONE;
    let attention =
        AttentionFwd { o: y.y, lse, qkv: qkv.y, cu, step, b: B, n, h: H, k, t: T, causal: false, drop: none };
    bench.op("", 2, attention);
    bench.op("dropout 0.1", 0, AttentionFwd { drop, ..attention });
    bench.op("causal", 0, AttentionFwd { causal: true, ..attention });
    bench.op("out", 2, LinearFwd { y: y.y, x: x.y, w, b, n, i: D, o: D });
    bench.op("", 4, DropoutAddFwd { y: y.y, residual: r, x: x.y, step, n: n * D, drop });
    bench.op("ffn up", 2, LinearFwd { y: wide.y, x: x.y, w, b, n, i: D, o: F });
    bench.op("", 2, GeluFwd { y: wide2.y, x: wide.y, n: n * F });
    bench.op("ffn down", 2, LinearFwd { y: y.y, x: wide2.y, w, b, n, i: F, o: D });
    bench.op("", 1, GatherRows { y: scored.y, x: x.y, row, m: M, n, d: D });
    let h = scored.y;
    bench.op("", 1, CrossEntropyFwd { loss, lse: loss_lse, h, table, bias, target, m: M, d: D, v: V });
    bench.op("", 1, WeightedMean { y: mean_loss, x: loss, w: dloss, n: M });
    let (dh, dt, dbi) = (Dst::Write(scored.dy), Dst::Write(dtable), Dst::Write(dbias));
    let lse2 = loss_lse;
    bench.op(
        "",
        1,
        CrossEntropyBwd { dh, dtable: dt, dbias: dbi, dloss, h, table, bias, target, lse: lse2, m: M, d: D, v: V },
    );
    bench.op("", 1, ScatterRows { dx: Dst::Write(x.dy), dy: scored.dy, row, m: M, n, d: D });
    let (dw, db) = (Dst::Write(dw), Dst::Write(db));
    let (dgamma, dbeta) = (dw, db);
    let dx = Dst::Write(x.dy);
    bench.op("", 6, LayerNormBwd { dx, dgamma, dbeta, dy: y.dy, x: x.y, gamma: w, mean, rstd, n, d: D });
    bench.op("", 5, DropoutBwd { dx, dy: y.dy, step, n: n * D, drop });
    bench.op("ffn down", 2, LinearBwd { dx: Dst::Write(wide2.dy), dw, db, dy: y.dy, x: wide2.y, w, n, i: F, o: D });
    bench.op("", 2, GeluBwd { dx: Dst::Write(wide.dy), dy: wide2.dy, x: wide.y, n: n * F });
    bench.op("ffn up", 2, LinearBwd { dx, dw, db, dy: wide.dy, x: x.y, w, n, i: D, o: F });
    bench.op("out", 2, LinearBwd { dx, dw, db, dy: y.dy, x: x.y, w, n, i: D, o: D });
    let dqkv = Dst::Write(qkv.dy);
    let attention = AttentionBwd {
        dqkv,
        d_o: y.dy,
        o: y.y,
        qkv: qkv.y,
        lse,
        cu,
        step,
        b: B,
        n,
        h: H,
        k,
        t: T,
        causal: false,
        drop: none,
    };
    bench.op("", 2, attention);
    bench.op("dropout 0.1", 0, AttentionBwd { drop, ..attention });
    bench.op("causal", 0, AttentionBwd { causal: true, ..attention });
    bench.op("qkv", 2, LinearBwd { dx, dw, db, dy: qkv.dy, x: x.y, w, n, i: D, o: 3 * D });
    bench.op("items", 1, by.sort(&[(item, n)], V));
    bench.op("items", 1, SegmentSum::of(Dst::Acc(dtable), x.dy, &by, [n, D, V]));
    let positions = PositionSum { dtable: Dst::Write(dtable.first(T * D)), dy: x.dy, cu, n, d: D, b: B, t: T };
    bench.op("", 1, positions);
    let [p, m, v, g] = flat;
    bench.op("", 1, GradNorm { norm, g, n: params });
    let (beta1, beta2) = (0.9, 0.999);
    bench.op(
        "",
        1,
        AdamW { p, m, v, g, norm, ok, hyper, n: params, beta1, beta2, eps: 1e-8, weight_decay: 0.01, max_norm: 1.0 },
    );
    println!("{:34} {:8.2} ms a step, added up", "", bench.total);
}

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    println!("{:?}", Isa::current());
    if filter == "products" {
        products(1);
        products(2);
        return;
    }
    step(1, &filter);
    step(2, &filter);
}
