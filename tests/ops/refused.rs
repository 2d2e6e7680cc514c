//! Every backend rejects ops with overlapping spans or spans too short for their sizes: the error names the op, its
//! layer and its sizes, and no memory changes.

use std::collections::{BTreeMap, BTreeSet};

use mipgpu::{
    backend::{Cpu, Reference, simt::driver::emulator_is_built, wrap::DryRun},
    base::{Error, Result, error::ErrorKind},
    mem::{Planner, Precision},
    ops::{
        Backend, Dst, LayerNormFwd, LinearBwd, LinearFwd, Memory, Run, all_cases,
        case::Case,
        misuse::{self, Misuse, Tried},
    },
};

/// Spans that ids index, such as the interactions of all users and the biases of all items: their required length
/// depends on the ids, not on the sizes.
const BY_ID: [(&str, usize); 3] = [("gather_sequences", 1), ("sampled_softmax_bwd", 8), ("sampled_softmax_fwd", 5)];

/// Without a check of some span, the op could write or read past its end.
#[test]
fn every_check_covers_every_span() {
    // By op and span, whether a span one element too short was ever rejected.
    let mut short: BTreeMap<(&str, usize), bool> = BTreeMap::new();
    for case in all_cases() {
        for Tried { op, misuse, refused, .. } in misuse::tried(&case) {
            match misuse {
                Misuse::Short(i) => *short.entry((op, i)).or_default() |= refused,
                Misuse::Onto(..) => assert!(refused, "{}: {misuse:?} passes", case.name),
            }
        }
    }
    let forgotten: BTreeSet<_> = short.iter().filter(|(_, refused)| !**refused).map(|(which, _)| *which).collect();
    assert_eq!(forgotten, BTreeSet::from(BY_ID));
    assert!(short.len() > 250, "{} spans were tried", short.len());
}

/// One case of each op suffices, a small one that can be misused in most ways: all memory is compared each time.
fn refuses<B: Backend + 'static>(what: &str, open: &dyn Fn(&Planner) -> Result<B>) {
    let open = &|plan: &Planner| open(plan).map(|b| Box::new(b) as Box<dyn Backend>);
    let ways = |case: &Case| misuse::tried(case).iter().filter(|tried| tried.refused).count();
    let mut chosen: BTreeMap<&str, Case> = BTreeMap::new();
    for case in all_cases() {
        let Some(op) = misuse::tried(&case).iter().map(|tried| tried.op).next() else { continue };
        let rank = |case: &Case| (ways(case), std::cmp::Reverse(case.elements()));
        if chosen.get(op).is_none_or(|old| rank(&case) > rank(old)) {
            chosen.insert(op, case);
        }
    }
    let expected: usize = chosen.values().map(ways).sum();
    let refused: usize = chosen
        .values()
        .map(|case| misuse::refused(case, open).unwrap_or_else(|e| panic!("{what}: {}: {e}", case.name)))
        .sum();
    assert_eq!(refused, expected, "{what}");
    assert!(refused > 290, "{what}: {refused} ops were refused");
}

#[test]
fn the_reference_refuses_them() {
    refuses("reference", &|plan| Ok(Reference::<f32>::new(plan)));
}

#[test]
fn the_cpu_refuses_them() {
    refuses("cpu", &|plan| Ok(Cpu::with(plan, Precision::Bf16)));
}

#[test]
fn the_kernels_refuse_them() {
    if emulator_is_built() {
        refuses("emulator", &|plan| mipgpu::backend::emulated(Precision::Bf16, plan));
    }
}

/// A layer with a gamma planned for seven columns of eight, and a correct one.
fn layers() -> (Planner, LayerNormFwd, LinearFwd) {
    let mut p = Planner::new();
    p.label("embed");
    let x = p.act(4 * 8);
    p.label("block.0.norm");
    let (y, gamma, beta, mean, rstd) = (p.act(4 * 8), p.weight(7), p.weight(8), p.stat(4), p.stat(4));
    let norm = LayerNormFwd { y, mean, rstd, x, gamma, beta, n: 4, d: 8, eps: 1e-5 };
    p.label("block.0.linear");
    let linear = LinearFwd { y: p.act(4 * 8), x, w: p.weight(64), b: p.weight(8), n: 4, i: 8, o: 8 };
    (p, norm, linear)
}

const SAYS: &str = "layer_norm_fwd of block.0.norm (n 4 d 8) was not run: gamma has 7 elements, needs 8";

fn is_it(e: &Error) {
    assert_eq!((e.kind, e.what.as_str()), (ErrorKind::Internal, SAYS));
    assert!(e.hint.as_ref().is_some_and(|hint| hint.contains("report it")), "{e}");
}

fn layer_is_refused<B: Backend>(what: &str, open: impl Fn(&Planner) -> B) {
    let (p, norm, linear) = layers();
    // Before the first step, when the needs of a step are queried.
    let backend = open(&p);
    let mut dry_run = DryRun::new(&backend);
    dry_run.run(&linear);
    dry_run.run(&norm);
    is_it(&dry_run.finish(p.owners()).unwrap_err());
    // And in a step, after any other calls.
    let mut backend = open(&p);
    backend.write(linear.x.raw(), &[1.0; 32]);
    backend.write(linear.w.raw(), &[1.0; 64]);
    backend.write(linear.b.raw(), &[0.5; 8]);
    backend.run(&linear);
    backend.sync().unwrap();
    let mut y = [0.0; 32];
    backend.read(linear.y.raw(), &mut y);
    assert_eq!(y, [8.5; 32], "{what}");
    backend.run(&norm);
    backend.write(linear.b.raw(), &[1.5; 8]);
    backend.run(&linear);
    backend.read(linear.y.raw(), &mut y);
    assert_eq!(y, [8.5; 32], "{what}: nothing is run after an op that was refused");
    is_it(&backend.sync().unwrap_err());
    is_it(&backend.sync().unwrap_err());
    let later = backend.read_later(norm.mean);
    assert!(backend.collect(later).iter().all(|x| x.is_nan()), "{what}: what a step reports is worth nothing");
}

#[test]
fn a_layer_of_a_wrong_size_is_named() {
    layer_is_refused("reference", Reference::<f32>::new);
    layer_is_refused("oracle", Reference::<f64>::new);
    layer_is_refused("cpu", Cpu::new);
    if emulator_is_built() {
        layer_is_refused("emulator", |plan| mipgpu::backend::emulated(Precision::F32, plan).unwrap());
    }
}

/// The rows of batches vary: each call is checked for its own sizes.
#[test]
fn a_batch_larger_than_planned_is_refused_and_a_smaller_one_is_not() {
    let mut p = Planner::new();
    p.label("head");
    let (n, i, o) = (6, 4, 3);
    let (x, y) = (p.var(n * i), p.var(n * o));
    let (w, b, dw, db) = (p.weight(o * i), p.weight(o), p.stat(o * i), p.stat(o));
    let fwd = |n| LinearFwd { y: y.y, x: x.y, w, b, n, i, o };
    let bwd = |n| {
        let (dx, dw, db) = (Dst::Write(x.dy), Dst::Write(dw), Dst::Write(db));
        LinearBwd { dx, dw, db, dy: y.dy, x: x.y, w, n, i, o }
    };
    let mut cpu = Cpu::new(&p);
    for n in 0..=n {
        cpu.run(&fwd(n));
        cpu.run(&bwd(n));
        cpu.sync().unwrap();
    }
    cpu.run(&bwd(n + 1));
    let e = cpu.sync().unwrap_err();
    assert_eq!(e.what, "linear_bwd of head (n 7 i 4 o 3) was not run: dx has 24 elements, needs 28");
}
