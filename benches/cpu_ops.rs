//! Times the CPU backend's building blocks and ops at the sizes of a BERT4Rec step (d 64, T 200, B 64), with medians.
//! `cargo bench --bench cpu_ops [-- FILTER]`; `MIPGPU_ISA=avx2` compares instruction sets.

use mipgpu::backend::cpu::{
    gemm::{self, View},
    simd::Isa,
};
use std::time::Instant;

/// Median seconds of `runs` calls after two to warm up.
fn median(runs: usize, mut f: impl FnMut()) -> f64 {
    f();
    f();
    let mut times: Vec<f64> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
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
            median(15, || {
                let b = gemm::pack(&mut scratch, View::dense(&w, n, k).t());
                gemm::product(&mut c, View::dense(&a, m, k), b, 1.0, false)
            })
        });
        report("y = x W^T", m, n, k, seconds);
    }
    for (k, m, n) in [(10240, 192, 64), (10240, 256, 64), (10240, 64, 256), (10240, 64, 64), (2048, 3456, 64)] {
        let (a, b, mut c) = (random(m * k), random(n * k), vec![0.0; m * n]);
        let seconds = pool
            .install(|| median(15, || gemm::product_t(&mut c, View::dense(&a, k, m), View::dense(&b, k, n), false)));
        report("dW = dy^T x", m, n, k, seconds);
    }
}

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    println!("{:?}", Isa::current());
    if "products".contains(&filter) {
        products(1);
        products(2);
    }
}
