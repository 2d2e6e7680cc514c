//! Steps on the device, on the emulator. Recorded work is compared with single launches, batches made on the device
//! with batches made on the host, and data on the device with streamed data. All give the same bits. The tests also
//! cover a step that fails while the next one is running. They need a C++ compiler (g++) at build time.

use mipgpu::{
    backend::{Cpu, Simt, emulated},
    base::rng::{Purpose, Stream},
    layers::HostInput,
    mem::{Planner, Precision, Span, U32},
    ops::{Backend, Clock, MARKS, Mark, Memory, NO_ROW},
    tasks::{LossKind, MaskedItem, SamplerKind, Sequence, Task},
    train::{Engine, Freeze, Patching, Settings, TableUpdate},
};

const ITEMS: usize = 300;
const USERS: usize = 40;

fn settings(loss: LossKind) -> Settings {
    Settings {
        width: 16,
        heads: 2,
        blocks: 1,
        length: 12,
        batch: 8,
        mask: 0.3,
        mask_last: 0.2,
        dropout: 0.1,
        attention_dropout: 0.1,
        loss,
        negatives: 20,
        ..Settings::default()
    }
}

/// Returns histories of 1 to 30 items.
fn histories() -> Vec<Vec<u32>> {
    let mut draw = Stream::new(7, Purpose::Test, 0);
    let one = |draw: &mut Stream| {
        let len = 1 + draw.below(30);
        (0..len).map(|_| draw.below(ITEMS as u64) as u32).collect()
    };
    (0..USERS).map(|_| one(&mut draw)).collect()
}

fn counts() -> Vec<u64> {
    (0..ITEMS as u64).map(|i| 1 + i % 5).collect()
}

/// The source of the items.
#[derive(Clone, Copy, PartialEq)]
enum From {
    Host,
    Device,
}

/// Returns the losses of `steps` steps over shuffled users, and all weights after them, as bits.
fn train<B: Backend>(mut engine: Engine<B>, from: From, steps: u64) -> (Vec<u32>, Vec<u32>, Engine<B>) {
    let users = histories();
    let places: Vec<usize> = users.iter().scan(0, |at, h| Some(std::mem::replace(at, *at + h.len()))).collect();
    if from == From::Device {
        let total = users.iter().map(Vec::len).sum::<usize>() as u64;
        assert!(engine.hold(total, users.iter().map(|h| Ok(&h[..]))).unwrap());
    }
    let mut losses = Vec::new();
    let mut draw = Stream::new(8, Purpose::Test, 0);
    for step in 1..=steps {
        engine.begin(step as u32);
        // Batches of four to eight sequences: some sizes recur and some do not.
        for _ in 0..4 + draw.below(5) {
            let user = draw.below(USERS as u64) as usize;
            let (first, len) = (places[user] as u32, users[user].len());
            let sequence = match from {
                From::Host => Sequence::Items(&users[user]),
                From::Device => Sequence::Held { first, len },
            };
            engine.push(user as u64, sequence);
        }
        losses.extend(engine.launch(step, 2e-3).unwrap().map(|r| r.loss.to_bits()));
    }
    losses.extend(engine.finish().unwrap().map(|r| r.loss.to_bits()));
    assert_eq!(losses.len() as u64, steps);
    (losses, weights(&mut engine), engine)
}

fn weights<B: Backend>(engine: &mut Engine<B>) -> Vec<u32> {
    let mut all = Vec::new();
    for p in engine.params().to_vec() {
        let mut values = vec![0.0; p.w.len()];
        engine.backend.read(p.w.raw(), &mut values);
        all.extend(values.into_iter().map(f32::to_bits));
    }
    all
}

fn engine(s: &Settings, precision: Precision) -> Engine<Simt> {
    Engine::new(s, &counts(), |p| emulated(precision, p)).unwrap()
}

#[test]
fn a_hundred_replayed_steps_are_a_hundred_launched_ones() {
    let own = Settings { exclude_seen: true, sampler: SamplerKind::LogUniform, ..settings(LossKind::Gbce) };
    let in_batch = Settings { exclude_seen: true, sampler: SamplerKind::InBatch, ..settings(LossKind::SampledSoftmax) };
    let serial =
        Settings { patch: Patching::Serial, patch_width: 5, freeze: Freeze::ALL, ..settings(LossKind::Softmax) };
    let (patch, freeze) = (Patching::Parallel, Freeze::NETWORK);
    let parallel = Settings { patch, freeze, model: "sasrec".into(), ..settings(LossKind::SampledSoftmax) };
    for (precision, s, steps) in [
        (Precision::F32, settings(LossKind::Softmax), 100),
        (Precision::Bf16, settings(LossKind::SampledPopularity), 100),
        (Precision::Bf16, own, 25),
        (Precision::F32, in_batch, 25),
        (Precision::Bf16, serial, 25),
        (Precision::Bf16, parallel, 25),
    ] {
        let (losses, replayed, e) = train(engine(&s, precision), From::Device, steps);
        assert!((1..=12).contains(&e.backend.recorded()), "{} sizes were recorded", e.backend.recorded());
        let mut direct = engine(&s, precision);
        direct.backend.set_replay(false);
        let (direct_losses, launched, e) = train(direct, From::Device, steps);
        assert_eq!(e.backend.recorded(), 0);
        assert_eq!(losses, direct_losses, "{precision:?}");
        assert_eq!(replayed, launched, "{precision:?}");
    }
}

/// Tables updated by rows: recorded work equals launched work, in both precisions.
#[test]
fn replayed_steps_by_rows_are_launched_ones() {
    for precision in [Precision::F32, Precision::Bf16] {
        let s = Settings { table_update: TableUpdate::Rows, ..settings(LossKind::SampledSoftmax) };
        let (losses, replayed, e) = train(engine(&s, precision), From::Device, 40);
        assert!(e.backend.recorded() > 0 && e.by_rows());
        let mut direct = engine(&s, precision);
        direct.backend.set_replay(false);
        let (direct_losses, launched, _) = train(direct, From::Device, 40);
        assert_eq!((losses, replayed), (direct_losses, launched), "{precision:?}");
    }
}

#[test]
fn streamed_data_trains_to_the_same_bits_as_data_held() {
    let s = settings(LossKind::Softmax);
    let (losses, held, _) = train(engine(&s, Precision::Bf16), From::Device, 12);
    let (streamed_losses, streamed, _) = train(engine(&s, Precision::Bf16), From::Host, 12);
    assert_eq!((losses, held), (streamed_losses, streamed));
}

/// Returns the ids of a span.
fn ids<B: Backend>(b: &mut B, span: Span<U32>, n: usize) -> Vec<u32> {
    let mut ids = vec![0; n];
    b.read_ids(span.first(n), &mut ids);
    ids
}

/// Compares batches made on the device, padded and from its own memory, with those made on the host, item by item.
#[test]
fn batches_made_on_the_device_are_those_of_the_host() {
    let users = histories();
    let places: Vec<usize> = users.iter().scan(0, |at, h| Some(std::mem::replace(at, *at + h.len()))).collect();
    let (t, b) = (12, 8);
    let c = crate::common::task_settings(0.3, 0.2, t, 11);
    let plan = || {
        let mut p = Planner::new();
        let (input, task) = crate::common::task::<MaskedItem>(&mut p, &c, ITEMS, b);
        (p, input, task)
    };
    let (p, input, mut task) = plan();
    let (target, weight) = (task.loss().target, task.loss().weight);
    let host_task = plan().2;
    let mut device = emulated(Precision::Bf16, &p).unwrap();
    let total = users.iter().map(Vec::len).sum();
    let data = device.resident(total).unwrap();
    device.write_ids(data, &users.concat());
    task.batches_mut().hold(data);
    for epoch in 1..=30u32 {
        let mut draw = Stream::new(3, Purpose::Test, epoch);
        let (mut batch, mut on_host) = (task.batches().empty(), host_task.batches().empty());
        task.batches().clear(&mut batch, epoch);
        host_task.batches().clear(&mut on_host, epoch);
        for _ in 0..1 + draw.below(b as u64) {
            let user = draw.below(USERS as u64) as usize;
            let first = places[user] as u32;
            task.push(&mut batch, user as u64, Sequence::Held { first, len: users[user].len() });
            host_task.push(&mut on_host, user as u64, Sequence::Items(&users[user]));
        }
        let s = task.batches().upload(&mut device, &mut batch, epoch);
        task.make(&mut device, &s);
        let (mut want, mut want_target) = (HostInput::default(), Vec::new());
        host_task.make_on_host(&on_host, &mut want, &mut want_target);
        let (n, m) = (want.item.len(), want.row.len());
        assert!(
            s.n >= n && s.m >= m && s.n.is_multiple_of(64) && s.m.is_multiple_of(16),
            "{s:?} of {n} rows, {m} scored"
        );
        assert_eq!(ids(&mut device, input.item, n), want.item);
        assert_eq!(ids(&mut device, input.pos, n), want.pos);
        assert_eq!(ids(&mut device, input.cu, want.cu.len()), want.cu);
        let (row, targets) = (ids(&mut device, input.row, s.m), ids(&mut device, target, s.m));
        assert_eq!((&row[..m], &targets[..m]), (&want.row[..], &want_target[..]));
        assert!(row[m..].iter().all(|r| *r == NO_ROW) && targets[m..].iter().all(|t| *t == 0));
        let mut weights = vec![0.0; s.m];
        device.read(weight.raw(), &mut weights);
        assert!(weights[..m].iter().all(|w| *w == 1.0 / m as f32) && weights[m..].iter().all(|w| *w == 0.0));
    }
}

/// Padding changes only the order of sums.
#[test]
fn padded_batches_train_as_the_bare_ones_do() {
    let in_batch = Settings { sampler: SamplerKind::InBatch, ..settings(LossKind::SampledSoftmax) };
    let own = Settings { per_position: true, exclude_seen: true, ..settings(LossKind::SampledPopularity) };
    for s in [settings(LossKind::Softmax), settings(LossKind::SampledUniform), in_batch, own] {
        // Draws of dropout and negatives are numbered by row and position, so padding at the end does not change them.
        let loss = (s.loss, s.sampler);
        let (padded, w, _) = train(engine(&s, Precision::F32), From::Device, 6);
        let cpu = Engine::new(&s, &counts(), |p| Ok(Cpu::new(p))).unwrap();
        let (bare, cpu_w, _) = train(cpu, From::Host, 6);
        for (a, b) in padded.iter().zip(&bare) {
            let (a, b) = (f32::from_bits(*a), f32::from_bits(*b));
            assert!((a - b).abs() < 1e-4 * b, "{loss:?}: {a} against {b}");
        }
        let difference = |(a, b): (&u32, &u32)| (f32::from_bits(*a) - f32::from_bits(*b)).abs();
        let mean = w.iter().zip(&cpu_w).map(difference).sum::<f32>() / w.len() as f32;
        assert!(mean < 3e-5, "{loss:?}: weights differ by {mean} on average");
    }
}

/// The host detects a failed step only after it has launched the next: neither may change a weight, and the error must
/// name the failed one.
#[test]
fn a_broken_step_freezes_the_weights_until_it_is_seen() {
    for held in [From::Host, From::Device] {
        let s = Settings { clip: 0.0, ..settings(LossKind::Softmax) };
        let (_, _, mut e) = train(engine(&s, Precision::Bf16), held, 3);
        let users = histories();
        let push = |e: &mut Engine<Simt>, epoch| {
            e.begin(epoch);
            for user in 0..4u64 {
                let items = &users[user as usize];
                let first = users[..user as usize].iter().map(Vec::len).sum::<usize>() as u32;
                e.push(
                    user,
                    if held == From::Host {
                        Sequence::Items(items)
                    } else {
                        Sequence::Held { first, len: items.len() }
                    },
                );
            }
        };
        let gamma = e.params().iter().find(|p| p.name == "block.0.ffn_norm.gamma").unwrap().clone();
        let mut sound = vec![0.0; gamma.w.len()];
        e.backend.read(gamma.w.raw(), &mut sound);
        e.backend.write(gamma.w.raw(), &vec![f32::NAN; sound.len()]);
        let before = weights(&mut e);
        push(&mut e, 4);
        assert!(e.launch(4, 1e-3).unwrap().is_none());
        push(&mut e, 5);
        let error = e.launch(5, 1e-3).unwrap_err().to_string();
        assert!(error.contains("step 4") && error.contains("layer_norm_fwd of block.0.ffn_norm"), "{error}");
        assert_eq!(before, weights(&mut e));
    }
}

#[test]
fn marks_are_moments_of_the_device_and_old_ones_are_forgotten() {
    let mut p = Planner::new();
    let span = p.stat(64);
    let mut b = emulated(Precision::F32, &p).unwrap();
    let marks: Vec<Mark> = (0..4)
        .map(|i| {
            b.write(span.raw(), &[i as f32; 64]);
            b.mark()
        })
        .collect();
    let parts: f64 = marks.windows(2).map(|m| b.seconds_between(&m[0], &m[1])).sum();
    let whole = b.seconds_between(&marks[0], &marks[3]);
    // The driver returns milliseconds in f32.
    assert!(whole > 0.0 && (parts - whole).abs() <= 1e-6 * whole.max(1e-3), "{parts} and {whole}");
    // The ring wraps around once: the first mark is overwritten, the second not yet.
    for _ in 0..MARKS - 3 {
        b.mark();
    }
    let newest = b.mark();
    assert!(b.seconds_between(&marks[0], &newest).is_nan());
    b.mark();
    assert!(b.seconds_between(&newest, &newest) == 0.0 && b.seconds_between(&marks[3], &newest) > 0.0);
    assert!(b.seconds_between(&marks[1], &newest).is_nan());
    assert!(b.seconds_between(&Mark::Now(std::time::Instant::now()), &newest).is_nan());
    b.sync().unwrap();
    // A synchronous backend uses the clock.
    let mut cpu = Cpu::new(&p);
    let first = cpu.mark();
    std::thread::sleep(std::time::Duration::from_millis(2));
    let second = cpu.mark();
    assert!(cpu.seconds_between(&first, &second) >= 2e-3 && cpu.seconds_between(&second, &first) == 0.0);
}
