//! Measures whether matrix products are faster in bf16 than in f32 on this processor. Two processors with the same
//! instructions differ in their throughput, so it cannot be derived from the instruction set.

use std::{sync::OnceLock, time::Instant};

use crate::{
    backend::Cpu,
    mem::{Dst, Planner, Precision},
    ops::{LinearBwd, LinearFwd, Memory, Run},
};

/// Rows and width of the timed dense layer: those of a small model's batch.
const SIZES: (usize, usize) = (512, 128);
/// Number of alternating repetitions.
const TURNS: usize = 40;

/// Returns the time of a dense layer in bf16 divided by its time in f32, on the threads of the current pool: below 1 if
/// bf16 is faster. It is measured once per process, in some milliseconds.
pub fn bf16_over_f32() -> f64 {
    static RATIO: OnceLock<f64> = OnceLock::new();
    *RATIO.get_or_init(|| {
        let mut layers = [Layer::new(Precision::F32), Layer::new(Precision::Bf16)];
        let mut times: [Vec<f64>; 2] = Default::default();
        for _ in 0..TURNS {
            for (layer, times) in layers.iter_mut().zip(&mut times) {
                times.push(layer.seconds());
            }
        }
        // Other load on the machine only adds to a time, so the minimum counts.
        let [single, pairs] = times.map(|t| t.into_iter().fold(f64::INFINITY, f64::min));
        pairs / single
    })
}

/// A dense layer, forward and backward.
struct Layer {
    cpu: Cpu,
    fwd: LinearFwd,
    bwd: LinearBwd,
}

impl Layer {
    fn new(precision: Precision) -> Self {
        let (mut p, (n, d)) = (Planner::new(), SIZES);
        let (x, y) = (p.var(n * d), p.var(n * d));
        let (w, dw, b, db) = (p.weight(d * d), p.stat(d * d), p.weight(d), p.stat(d));
        let mut cpu = Cpu::with(&p, precision);
        let values: Vec<f32> = (0..n * d).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect();
        [x.y.raw(), y.dy.raw()].into_iter().for_each(|span| cpu.write(span, &values));
        cpu.write(w.raw(), &values[..d * d]);
        let fwd = LinearFwd { y: y.y, x: x.y, w, b, n, i: d, o: d };
        let (dx, dw, db) = (Dst::Write(x.dy), Dst::Write(dw), Dst::Write(db));
        let mut layer = Layer { cpu, fwd, bwd: LinearBwd { dx, dw, db, dy: y.dy, x: x.y, w, n, i: d, o: d } };
        layer.seconds();
        layer
    }

    fn seconds(&mut self) -> f64 {
        let start = Instant::now();
        self.cpu.run(&self.fwd);
        self.cpu.run(&self.bwd);
        start.elapsed().as_secs_f64()
    }
}
