//! Training on the CUDA backend, run by the emulator: whole steps against the CPU engine and the f64 reference, the NaN
//! guard, and the device memory that a step allocates. These tests need a C++ compiler (g++) at build time.

use mipgpu::{
    backend::{Cpu, Device, Reference, Simt, emulated},
    base::{
        Result,
        rng::{Purpose, Stream},
    },
    mem::{F32, Planner, Precision, Span},
    ops::{AdamW, Backend, GatherTable, Memory, Run},
    tasks::{LossKind, Sequence},
    train::{
        Engine, Freeze, Patching, Settings,
        check::{Selection, check},
    },
};

const ITEMS: usize = 40;
const LR: f32 = 3e-3;

fn settings() -> Settings {
    Settings {
        width: 16,
        heads: 2,
        blocks: 2,
        length: 18,
        batch: 5,
        mask: 0.3,
        dropout: 0.1,
        attention_dropout: 0.1,
        ..Settings::default()
    }
}

/// Returns the losses of some steps, each on a separate batch, and the weights after them.
fn run<B: Backend>(s: &Settings, steps: u64, open: impl Fn(&Planner) -> Result<B>) -> (Vec<f32>, Vec<f32>) {
    let counts: Vec<u64> = (0..ITEMS as u64).map(|i| 1 + i % 5).collect();
    let mut engine = Engine::<B>::new(s, &counts, open).unwrap();
    let mut losses = Vec::new();
    let frozen = |engine: &mut Engine<B>| -> Vec<f32> {
        let frozen: Vec<_> = engine.params().iter().filter(|p| p.frozen).map(|p| p.w).collect();
        let read = |w: &Span<F32>| {
            let mut values = vec![0.0; w.len()];
            engine.backend.read(w.raw(), &mut values);
            values
        };
        frozen.iter().flat_map(read).collect()
    };
    let before = frozen(&mut engine);
    for step in 1..=steps {
        engine.begin(step as u32);
        let mut draw = Stream::new(4, Purpose::Test, step as u32);
        for (user, len) in [20, 1, 7, 18, 11].into_iter().enumerate() {
            let start = draw.below(ITEMS as u64) as u32;
            let items: Vec<u32> = (0..len).map(|i| (start + i) % ITEMS as u32).collect();
            engine.push(user as u64, Sequence::Items(&items));
        }
        losses.push(engine.step(step, LR).unwrap().loss);
    }
    assert!(before == frozen(&mut engine), "what is frozen has moved");
    let mut weights = Vec::new();
    for p in engine.params().to_vec() {
        let mut values = vec![0.0; p.w.len()];
        engine.backend.read(p.w.raw(), &mut values);
        weights.extend(values);
    }
    (losses, weights)
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

/// bf16 has eight bits. In the mean over a batch most of its rounding cancels, in the first loss and in half of all
/// losses. But AdamW moves a weight by up to lr regardless of the size of its gradient, and a weight with a gradient
/// sign flipped by rounding ends 2 lr away. For an item's bias, so does the item's score. Such jumps have either sign.
/// Over six seeds of sampled softmax the first losses differ by 9e-5 to 3e-4, later ones by -3e-3 to 5e-3, half of them
/// by less than 4e-4.
fn rounds_like_bf16(got: &[f32], oracle: &[f32]) {
    let mut differences: Vec<f32> = got.iter().zip(oracle).map(|(a, b)| (a - b).abs()).collect();
    assert!(differences[0] < 5e-4, "the first of {got:?} against {oracle:?}");
    differences.sort_by(f32::total_cmp);
    assert!(differences[differences.len() / 2] < 2e-3, "most of {got:?} against {oracle:?}");
    assert!(differences[differences.len() - 1] < 2.0 * LR, "{got:?} against {oracle:?}");
}

#[test]
fn eight_steps_agree_with_the_cpu_and_the_reference() {
    let loss = |loss| Settings { loss, negatives: 13, ..settings() };
    let serial = Settings { patch: Patching::Serial, patch_width: 5, freeze: Freeze::ALL, ..loss(LossKind::Softmax) };
    let (patch, freeze) = (Patching::Parallel, Freeze::NETWORK);
    let parallel = Settings { patch, patches: 1, freeze, model: "sasrec".into(), ..loss(LossKind::SampledPopularity) };
    for s in [loss(LossKind::Softmax), loss(LossKind::SampledPopularity), serial, parallel] {
        let (emu, w) = run(&s, 8, |p| emulated(Precision::F32, p));
        let (cpu, cpu_w) = run(&s, 8, |p| Ok(Cpu::new(p)));
        let (oracle, _) = run(&s, 8, |p| Ok(Reference::<f64>::new(p)));
        assert!(largest_difference(&emu, &cpu) < 1e-4, "{emu:?} against {cpu:?}");
        assert!(largest_difference(&emu, &oracle) < 1e-4, "{emu:?} against {oracle:?}");
        // A weight with a gradient of mere rounding moves by up to lr per step on any backend; the mean does not.
        let mean = w.iter().zip(&cpu_w).map(|(a, b)| (a - b).abs()).sum::<f32>() / w.len() as f32;
        assert!(mean < 3e-5, "weights differ by {mean} on average");
        let (half, _) = run(&s, 8, |p| emulated(Precision::Bf16, p));
        let (products, _) = run(&s, 8, |p| Ok(Cpu::with(p, Precision::Bf16)));
        rounds_like_bf16(&half, &oracle);
        rounds_like_bf16(&products, &oracle);
        // The requested precision is used.
        assert_ne!(products, cpu);
    }
}

#[test]
fn the_same_steps_give_the_same_bits() {
    for precision in [Precision::F32, Precision::Bf16] {
        let twice: Vec<_> = (0..2).map(|_| run(&settings(), 3, |p| emulated(precision, p))).collect();
        let bits = |w: &[f32]| w.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&twice[0].1), bits(&twice[1].1), "{precision:?}");
    }
}

/// The results of `mipgpu check` for whole steps.
#[test]
fn the_check_of_whole_steps_holds() {
    for (device, precision) in
        [(Device::Emulator, Precision::F32), (Device::Emulator, Precision::Bf16), (Device::Cpu, Precision::Bf16)]
    {
        let mut rows = 0;
        check(device, &[precision], Selection { name: "step", ..Selection::ALL }, &mut |row| {
            rows += 1;
            assert!(row.fault.is_none(), "{device} {precision:?}: {row:?}");
        })
        .unwrap();
        // Seven variants of losses, and patches of three models in two places; the rest is every model with every task.
        assert!(rows >= 7 + 6 + mipgpu::models::ALL.len());
    }
}

#[test]
fn weights_that_are_not_finite_stop_a_step_and_are_named() {
    let s = settings();
    let counts = vec![1; ITEMS];
    let mut engine = Engine::<Simt>::new(&s, &counts, |p| emulated(Precision::Bf16, p)).unwrap();
    let gamma = engine.params().iter().find(|p| p.name == "block.1.ffn_norm.gamma").unwrap().clone();
    engine.backend.write(gamma.w.raw(), &[f32::NAN; 16]);
    engine.begin(1);
    engine.push(0, Sequence::Items(&[1, 2, 3, 4, 5]));
    let error = engine.step(17, 1e-3).unwrap_err().to_string();
    assert!(error.contains("step 17") && error.contains("layer_norm_fwd of block.1.ffn_norm"), "{error}");
}

/// Products and gathers read the bf16 copy of a weight, which must follow every update.
#[test]
fn the_bf16_copy_follows_the_weights() {
    let (n, d) = (24, 16);
    let mut p = Planner::new();
    let weight = p.weight(n * d);
    let (m, v, g) = (p.stat(n * d), p.stat(n * d), p.stat(n * d));
    let (norm, ok, hyper) = (p.stat(1), p.stat(1), p.stat(3));
    let (y, id) = (p.act(n * d), p.index(n));
    let mut k = emulated(Precision::Bf16, &p).unwrap();
    let start: Vec<f32> = (0..n * d).map(|i| (i as f32 * 0.37).sin()).collect();
    k.write(weight.raw(), &start);
    k.write(g.raw(), &vec![0.5; n * d]);
    k.write(norm.raw(), &[1.0]);
    k.write(ok.raw(), &[1.0]);
    k.write(hyper.raw(), &[0.25, 10.0, 1000.0]);
    k.write_ids(id, &(0..n as u32).collect::<Vec<_>>());
    let mut gathered = vec![0.0; n * d];
    for updated in [false, true] {
        if updated {
            let (beta1, beta2, eps) = (0.9, 0.999, 1e-8);
            let op = AdamW {
                p: weight,
                m,
                v,
                g,
                norm,
                ok,
                hyper,
                n: n * d,
                beta1,
                beta2,
                eps,
                weight_decay: 0.0,
                max_norm: 0.0,
            };
            k.run(&op);
        }
        k.run(&GatherTable { y, table: weight, id, n, d, v: n });
        k.read(y.raw(), &mut gathered);
        let mut master = vec![0.0; n * d];
        k.read(weight.raw(), &mut master);
        assert_eq!(updated, largest_difference(&master, &start) > 0.2, "an update moves every weight by lr");
        for (x, y) in master.iter().zip(&gathered) {
            assert_eq!(mipgpu::mem::round_bf16(*x), *y);
        }
    }
}
