//! Tests the presentation of hand-made profiles; nothing is run here.

use super::{
    parts::{Step, StepTimings},
    verdict::verdict,
    whole, *,
};
use crate::{
    backend::wrap::Call,
    mem::{Planner, RawSpan},
    ops::{Cost, Mark},
    page::sound::{faults, says_nan},
};

fn spread(mean: f64) -> Spread {
    Spread { median: mean, p20: 0.9 * mean, p80: 1.1 * mean, mean }
}

/// Returns a profile of steps of 10 ms on the CPU: 9 ms of ops in two phases, mostly one op at 71 % of its roofline.
fn sample() -> Profile {
    let row = |op: &str, phase, layer: &str, seconds: f64, roof, bound| ProfileRow {
        op: op.into(),
        phase: Some(phase),
        layer: layer.into(),
        sizes: "n 12 i 3".into(),
        calls: 2.0,
        seconds,
        share: seconds / 9e-3,
        spread: spread(seconds),
        flop: 1e6,
        bytes: 1e3,
        gflops: 1e-3 / seconds,
        gbps: 1e-6 / seconds,
        roof,
        bound,
        ..ProfileRow::default()
    };
    let calls = vec![
        row("linear_bwd", Phase::Backward, "block.0.ffn.up", 6.2e-3 * 0.9, Some(0.71), Some(Bound::Products)),
        row("gelu", Phase::Forward, "<b>&", 9e-3 - 6.2e-3 * 0.9, Some(0.5), Some(Bound::Exps)),
    ];
    let sums = |keep: &dyn Fn(&ProfileRow) -> ProfileRow| calls.iter().map(keep).collect::<Vec<ProfileRow>>();
    Profile {
        version: Profile::VERSION,
        program: "mipgpu 0".into(),
        verdict: String::new(),
        data: "</script><b>".into(),
        device: "cpu".into(),
        precision: Precision::F32,
        products: Precision::F32,
        processor: "one & only".into(),
        threads: 2,
        load_average: Some([0.25, 1.5, 2.0]),
        parameters: 1234,
        epoch_steps: 7,
        steps: 3,
        untimed: 1,
        whole: Whole {
            wall: spread(10e-3),
            load: spread(0.04e-3),
            upload: spread(0.06e-3),
            launch: spread(9.9e-3),
            wait: spread(0.0),
            busy: spread(9.9e-3),
            not_hidden: 0.1e-3,
            sequences: 31.5,
            walls: vec![9e-3, 10e-3, 11e-3],
            ..Whole::default()
        },
        op_by_op: OpByOp { wall: 9.5e-3, ops: 9e-3, idle: 0.1e-3, calls: 4.0, ..OpByOp::default() },
        phases: sums(&|r| ProfileRow { op: String::new(), layer: String::new(), sizes: String::new(), ..r.clone() }),
        ops: sums(&|r| ProfileRow { phase: None, layer: String::new(), sizes: String::new(), ..r.clone() }),
        layers: sums(&|r| ProfileRow { phase: None, op: String::new(), sizes: String::new(), ..r.clone() }),
        calls,
        ceilings: Ceilings { copy: 1e10, cached: Default::default(), products: 1e11, exps: 1e9 },
        validation: Some(Validation { users: 256, seconds: 0.5, all: 1024 }),
        memory: Memory::default(),
        nvtx: None,
        settings: Settings::default(),
        tracks: Vec::new(),
    }
}

#[test]
fn a_spread_is_that_of_the_sorted_values() {
    let spread = Spread::of((1..=11).rev().map(f64::from));
    assert_eq!(spread, Spread { median: 6.0, p20: 3.0, p80: 9.0, mean: 6.0 });
    assert_eq!(Spread::of(std::iter::empty()), Spread::default());
    assert!(cfg!(not(target_os = "linux")) || peak_process_bytes().unwrap() > 1 << 20);
}

#[test]
fn whole_steps_count_what_they_hold_and_what_lies_between_them() {
    // 33 users at a batch of 32, twice. The steps of 32 take 8 ms to the beginning of the next step, those of 1 take 2
    // ms. Of each step, 1 ms is neither loading, sending, launching nor waiting.
    let now = Mark::Now(std::time::Instant::now());
    let step = |from: f64, long: f64, sequences| whole::Step {
        at: [0.0, 0.1e-3, 0.2e-3, long - 1.1e-3, long - 1e-3, long].map(|at| from + at),
        busy: [from + 0.2e-3, from + long - 1.2e-3],
        marks: [now; 2],
        sequences,
        interactions: 10 * sequences,
        sizes: [sequences, 12 * sequences, 3],
    };
    let steps = [step(0.0, 8e-3, 32), step(8e-3, 2e-3, 1), step(10e-3, 8e-3, 32), step(18e-3, 2e-3, 1)];
    let w = whole::sum(&steps, false, 0.0);
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9 * b.abs(), "{a} and {b}");
    let told = [(w.wall.mean, 5e-3), (w.between.mean, 1e-3), (w.busy.mean, 3.6e-3), (w.not_hidden, 1.4e-3)];
    told.into_iter().for_each(|(found, expected)| near(found, expected));
    // 66 users in 20 ms.
    let rates = [(w.sequences, 16.5), (w.sequences_per_s, 3300.0), (w.interactions_per_s, 33_000.0), (w.rows, 198.0)];
    rates.into_iter().for_each(|(found, expected)| near(found, expected));
    assert_eq!((w.shapes, w.walls.len(), w.hidden), (2, 4, None));
    // On a device, the 1.4 ms of a step in which it does not compute exceed the 0.2 ms that could be hidden.
    assert_eq!(whole::sum(&steps, true, 0.0).hidden, Some(0.0));
}

#[test]
fn the_clock_is_looked_at_between_batches() {
    assert_eq!(whole::between_looks(None), 256);
    // Every multiple of the result is a multiple of the batch.
    for (batch, users) in [(1, 256), (32, 256), (100, 300), (256, 256), (300, 300), (4096, 4096)] {
        assert_eq!(whole::between_looks(Some(batch)), users);
    }
}

#[test]
fn calls_are_summed_with_the_gaps_before_them() {
    let call = |op, phase, start, seconds, flop| Call {
        op,
        phase,
        start,
        seconds,
        cost: Cost { flop, bytes: 1e6, ..Cost::default() },
        products: flop > 0.0,
        sizes: "n 1".into(),
        of: RawSpan::NOWHERE,
    };
    // 10 ms: 1 for loading, 1 for sending, then 6 of ops with a gap of 1 before `b`.
    let step = |at: f64| Step {
        at: [at, at + 1e-3, at + 2e-3, at + 10e-3],
        upload_bytes: 8,
        calls: vec![
            call("a", Phase::Forward, at + 2e-3, 2e-3, 1e8),
            call("b", Phase::Loss, at + 5e-3, 1e-3, 0.0),
            call("a", Phase::Backward, at + 6e-3, 3e-3, 1e8),
        ],
    };
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9 * b.abs().max(1e-3), "{a} and {b}");
    let parts = StepTimings { plan: Planner::new(), steps: vec![step(0.0), step(10e-3)] };
    let ceilings = Ceilings { copy: 1e10, products: 1e11, exps: 1e9, ..Ceilings::default() };
    let sums = sum::sums(&parts, Precision::F32, &ceilings);
    let (o, [a, b]) = (&sums.total, &sums.ops[..]) else { panic!("{:?}", sums.ops) };
    let told = [(o.wall, 10e-3), (o.load, 1e-3), (o.upload, 1e-3), (o.ops, 6e-3), (o.idle, 1e-3), (o.calls, 3.0)];
    told.into_iter().for_each(|(found, expected)| near(found, expected));
    // A product of 10^8 operations takes at least 1 ms; moving 10^6 bytes takes at least 0.1 ms.
    assert_eq!((&a.op[..], a.bound, &b.op[..], b.bound), ("a", Some(Bound::Products), "b", Some(Bound::Memory)));
    let of_a = [(a.seconds, 5e-3), (a.calls, 2.0), (a.share, 5.0 / 6.0), (a.idle, 0.0), (a.flop, 2e8), (a.bytes, 2e6)];
    of_a.into_iter().for_each(|(found, expected)| near(found, expected));
    let rates = [(a.gflops, 40.0), (a.gbps, 0.4), (a.roof.unwrap(), 0.4), (b.idle, 1e-3), (b.roof.unwrap(), 0.1)];
    rates.into_iter().for_each(|(found, expected)| near(found, expected));
    let phases: Vec<_> = sums.phases.iter().map(|r| r.phase.unwrap().word()).collect();
    assert_eq!((phases, sums.calls.len()), (vec!["forward", "loss", "backward"], 3));
}

#[test]
fn the_sentence_names_what_bounds_the_run() {
    let p = sample();
    assert_eq!(
        verdict(&p),
        "61 % of the step is linear_bwd at 71 % of this machine's product rate: bound by products; loading \
         data is 0.4 %."
    );
    let with = |change: &dyn Fn(&mut Profile)| {
        let mut p = sample();
        change(&mut p);
        verdict(&p)
    };
    let slow = with(&|p| p.ops[0].roof = Some(0.03));
    assert!(slow.contains("at 3.0 % of this machine's product rate: far from its roofline"), "{slow}");
    let cached = with(&|p| (p.ops[0].roof, p.ops[0].bound) = (Some(1.7), Some(Bound::Memory)));
    assert!(cached.contains("faster than this machine's copy rate: its data stay in caches"), "{cached}");
    let gaps = with(&|p| p.op_by_op.idle = 9e-3);
    assert!(gaps.contains("50 % of the time is between calls"), "{gaps}");
    // A device that waits for the host.
    let starved = with(&|p| {
        p.whole.hidden = Some(0.0);
        (p.whole.busy, p.whole.not_hidden) = (spread(3e-3), 7e-3);
        (p.whole.load, p.whole.launch) = (spread(6e-3), spread(1e-3));
    });
    assert_eq!(starved, "Bound by the host: no op runs for 70 % of the step; loading batches takes 60 %.");
    // On the CPU, launching a step means computing it, which does not count against the host.
    let host = |load, between| {
        with(&|p| {
            assert_eq!(p.whole.hidden, None);
            (p.whole.launch, p.whole.busy, p.whole.not_hidden) = (spread(4.5e-3), spread(4.5e-3), 5.5e-3);
            (p.whole.load, p.whole.between) = (spread(load), spread(between));
        })
    };
    let says = "Bound by the host: no op runs for 55 % of the step; ";
    assert_eq!(host(4e-3, 1e-3), format!("{says}loading batches takes 40 %."));
    assert_eq!(host(1e-3, 4e-3), format!("{says}the gap between steps takes 40 %."));
    let hidden = with(&|p| p.whole.hidden = Some(1.0));
    assert!(hidden.ends_with("loading data is 0.4 %, 100 % of it hidden behind the device."), "{hidden}");
    assert_eq!(with(&|p| p.ops.clear()), "No op ran; loading data is 0.4 %.");
    // A busy machine: two clocks differ on the same work.
    let apart = |idle| with(&|p| (p.op_by_op.ops, p.op_by_op.idle) = (9e-3, idle));
    assert!(!apart(1e-3).contains("kept the machine busy"), "{}", apart(1e-3));
    let says = "op by op the calls of a step took 18.00 ms, in whole steps ";
    assert!(apart(9e-3).contains(says), "{}", apart(9e-3));
    // On a device the op-by-op pass launches work differently, so the passes may differ.
    let device = with(&|p| (p.op_by_op.idle, p.whole.hidden) = (9e-3, Some(1.0)));
    assert!(!device.contains("busy"), "{device}");
}

#[test]
fn the_page_is_whole_and_says_what_the_text_says() {
    let mut p = sample();
    p.verdict = verdict(&p);
    let page = page::html(&p);
    assert_eq!(faults(&page), Vec::<String>::new());
    assert!(!page.contains("</script><b>") && page.contains("&lt;/script&gt;&lt;b&gt;"));
    let seen = page.split("<script").next().unwrap();
    assert!(
        !says_nan(seen) && seen.contains("linear_bwd") && seen.contains("n 12 i 3") && seen.contains("one &amp; only")
    );
    // The picture of a step, the bars by op, the curve of steps.
    assert_eq!(page.matches("<svg class=\"plot\"").count(), 3);
    assert_eq!(page.matches("class=\"part\"").count(), 1 + 2 + (2 + 1) + (1 + 1));
    assert!(page.contains("<title>block.0: 5.580 ms, 62 %</title>") && page.contains(">ffn.up</text>"));
    let text = text::text(&p);
    for word in [
        &p.verdict[..],
        "10.00",
        "linear_bwd",
        "71 % of products",
        "256 of 1,024 users",
        "as long as 200 steps",
        "no library",
        "31.5 sequences, ",
        "0.25 over the last minute, 1.50 over 5, 2.00 over 15",
        "copies 10.0 GB/s (in caches up to 10.0), products 100 GFLOP/s, exponentials 1.00 G/s",
    ] {
        assert!(text.contains(word), "{word} is missing in:\n{text}");
    }
    assert!(seen.contains("31.5 sequences, ") && seen.contains("0.25 over the last minute"));
    // The system does not report the load average.
    p.load_average = None;
    assert!(!text::text(&p).contains("over the last minute"));
    // Values that are not numbers are printed as dashes.
    p.whole.wall = spread(f64::NAN);
    p.ops[0].gflops = f64::INFINITY;
    p.op_by_op.ops = f64::NAN;
    assert!(!says_nan(page::html(&p).split("<script").next().unwrap()) && !says_nan(&text::text(&p)));
    assert_eq!(faults(&page::html(&p)), Vec::<String>::new());
}

#[test]
fn events_of_a_track_do_not_overlap_in_print() {
    let events = vec![
        TraceEvent::new("a", [0.0, 1.0006e-6]),
        TraceEvent::new("b\"", [1.0004e-6, 2e-6]),
        TraceEvent {
            call: Some(trace::CallDetails { layer: "x".into(), sizes: String::new(), flop: 1.0, bytes: 2.0 }),
            ..TraceEvent::new("c", [2e-6, 2e-6])
        },
    ];
    let tracks = vec![Track::new("whole", "host", events.clone()), Track::new("parts", "ops", events)];
    let mut written = Vec::new();
    trace::write(&Profile { tracks, ..sample() }, &mut written).unwrap();
    let read: serde_json::Value = serde_json::from_slice(&written).unwrap();
    let all = read["traceEvents"].as_array().unwrap();
    let complete: Vec<_> = all.iter().filter(|e| e["ph"] == "X").collect();
    assert_eq!((all.len(), complete.len()), (2 * (3 + 3), 6));
    let at = |i: usize, key: &str| complete[i][key].as_f64().unwrap();
    assert_eq!((at(0, "ts"), at(0, "dur"), at(1, "ts"), at(1, "dur"), at(2, "dur")), (0.0, 1.001, 1.001, 0.999, 0.0));
    assert_eq!(
        (complete[0]["pid"].as_u64(), complete[3]["pid"].as_u64(), complete[3]["tid"].as_u64()),
        (Some(1), Some(2), Some(2))
    );
    assert_eq!(complete[2]["args"], serde_json::json!({ "layer": "x", "flop": 1.0, "bytes": 2.0 }));
}
