//! Ranks and best items: the same bits from plain loops in f32, the CPU engine and the CUDA kernels on the emulator.
//! Lists of any length work in calls with little memory. These tests need a C++ compiler (g++) at build time.

use crate::{evaluation::on_backend, proofs::boxed};
use mipgpu::{
    backend::{Cpu, Reference, emulated},
    base::{
        Result,
        rng::{Purpose, Stream},
    },
    eval::{Answer, Encoder, Fault, Query, Ranks, Scored},
    mem::{Planner, Precision, round_bf16},
    ops::{Backend, NO_ROW, case::Case, prove, rank, top_k},
    train::{
        Engine, Settings,
        scoring::{Room, Scoring},
    },
};

/// The results of a case on three backends must be the same to the bit, because a rank must not depend on the machine.
/// But NaN equals NaN, and ids that look like one (`NO_ROW`) do not.
fn same_bits(cases: Vec<Case>) {
    let one_nan = |bits: Vec<u32>| -> Vec<u32> {
        bits.into_iter()
            .map(|x| if f32::from_bits(x).is_nan() && x != NO_ROW { f32::NAN.to_bits() } else { x })
            .collect()
    };
    for case in cases {
        let plain = one_nan(prove::fingerprint(&case, &|p| boxed(Reference::<f32>::new(p))).unwrap());
        let cpu = one_nan(prove::fingerprint(&case, &|p| boxed(Cpu::new(p))).unwrap());
        let emu = one_nan(prove::fingerprint(&case, &|p| boxed(emulated(Precision::F32, p)?)).unwrap());
        assert!(cpu == plain, "{}: the CPU engine gives other bits than the plain loops", case.name);
        assert!(emu == plain, "{}: the kernels give other bits than the plain loops", case.name);
    }
}

#[test]
fn every_backend_lists_the_same() {
    same_bits(top_k::cases());
}

#[test]
fn every_backend_counts_the_same() {
    same_bits(rank::cases());
}

#[test]
fn every_backend_scores_the_same() {
    same_bits(rank::score_cases());
}

/// Random queries: histories of all lengths, and one user who has seen everything.
struct Asked {
    histories: Vec<Vec<u32>>,
    targets: Vec<Vec<u32>>,
    among: Vec<Vec<Vec<u32>>>,
    vectors: Vec<f32>,
    table: Vec<f32>,
    bias: Vec<f32>,
}

const D: usize = 12;

impl Asked {
    fn new(users: usize, v: usize) -> Asked {
        let mut s = Stream::new(31, Purpose::Test, v as u32);
        // Multiples of one half: products and sums are exact in f32, and many tie.
        let mut numbers = |n: usize| (0..n).map(|_| round_bf16(s.below(9) as f32 * 0.5 - 2.0)).collect::<Vec<f32>>();
        let (vectors, table, bias) = (numbers(users * D), numbers(v * D), numbers(v));
        let mut some = |share: u64| (0..v as u32).filter(|_| s.below(100) < share).collect::<Vec<u32>>();
        let histories = (0..users).map(|u| some([0, 5, 40, 100][u % 4])).collect();
        let targets = (0..users).map(|u| some([2, 0, 60, 1][u % 4])).collect();
        let among = (0..users).map(|u| vec![some(20), some([0, 90][u % 2])]).collect();
        Asked { histories, targets, among, vectors, table, bias }
    }

    fn queries(&self) -> Vec<Query<'_>> {
        (0..self.histories.len())
            .map(|u| Query {
                history: &[],
                user: None,
                excluded: &self.histories[u],
                targets: &self.targets[u],
                among: &self.among[u],
            })
            .collect()
    }

    fn on<B: Backend, T>(
        &self,
        room: Room,
        open: impl FnOnce(&Planner) -> Result<B>,
        ask: impl FnOnce(&Scoring, &mut B) -> T,
    ) -> T {
        on_backend(&self.vectors, (&self.table, &self.bias), Some(room), open, ask)
    }

    /// Computes the results by sorting and counting in f64.
    fn by_hand(&self, k: usize) -> (Vec<Ranks>, Vec<Vec<Scored>>) {
        let (mut ranks, mut lists) = (Vec::new(), Vec::new());
        for (u, q) in self.queries().iter().enumerate() {
            let vector = &self.vectors[u * D..][..D];
            let score = |i: u32| {
                let row = &self.table[i as usize * D..][..D];
                row.iter().zip(vector).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>() + self.bias[i as usize] as f64
            };
            let candidates: Vec<u32> = (0..self.bias.len() as u32).filter(|i| !q.excluded.contains(i)).collect();
            let at_least = |among: &[u32], t: u32| among.iter().filter(|i| score(**i) >= score(t)).count();
            ranks.push(Ranks {
                full: q.targets.iter().map(|t| at_least(&candidates, *t)).collect(),
                among: (q.among.iter())
                    .map(|list| q.targets.iter().map(|t| at_least(list, *t) + at_least(q.targets, *t)).collect())
                    .collect(),
            });
            let mut best = candidates;
            best.sort_by(|a, b| score(*b).total_cmp(&score(*a)).then(a.cmp(b)));
            lists.push(best.iter().take(k).map(|&item| Scored { item, score: score(item) as f32 }).collect());
        }
        (ranks, lists)
    }
}

/// Lists that do not fit one call are split; the result stays the same, down to room for one pair at a time.
#[test]
fn any_lists_fit_into_any_room() {
    let (users, v) = (9, 130);
    let asked = Asked::new(users, v);
    let queries = asked.queries();
    for (pairs, excluded, most) in [(10_000, 10_000, users), (200, 200, users), (17, v, 3), (1, v, users)] {
        let room = Room { users: most, pairs, excluded };
        for k in [1, 7, v].into_iter().filter(|k| *k <= pairs) {
            let (ranks, lists) = asked.by_hand(k);
            let ask = |s: &Scoring, b: &mut Cpu| (s.rank(b, &queries).unwrap(), s.top_k(b, &queries, k).unwrap());
            let (cpu_ranks, cpu_lists) = asked.on(room, |p| Ok(Cpu::new(p)), ask);
            assert!(cpu_ranks == ranks, "ranks in room for {pairs}");
            assert!(cpu_lists == lists, "lists of {k} in room for {pairs}");
        }
        let too_many = asked.on(room, |p| Ok(Cpu::new(p)), |s, b| s.top_k(b, &queries, pairs + 1));
        let Err(Fault::Failed(e)) = too_many else { panic!("a list longer than the room") };
        assert!(e.to_string().contains("at most") && e.to_string().contains("hint"), "{e}");
    }
}

/// The same vectors on the kernels, in bf16: half steps are exact in it.
#[test]
fn the_kernels_answer_as_the_cpu_does() {
    for (users, v, k) in [(9, 130, 7), (70, 300, 20)] {
        let asked = Asked::new(users, v);
        let (queries, room) = (asked.queries(), Room { users, pairs: 700, excluded: 2_000.max(v) });
        let (ranks, lists) = asked.by_hand(k);
        for precision in [Precision::F32, Precision::Bf16] {
            let open = |p: &Planner| emulated(precision, p);
            let (emu_ranks, emu_lists) =
                asked.on(room, open, |s, b| (s.rank(b, &queries).unwrap(), s.top_k(b, &queries, k).unwrap()));
            assert!(emu_ranks == ranks && emu_lists == lists, "{users} users, {v} items, {precision:?}");
        }
    }
}

#[test]
fn a_score_that_is_no_number_is_named_alike() {
    let mut asked = Asked::new(9, 130);
    // Of every user but the sixth, who has a separate NaN: the first user is named.
    asked.table[77 * D] = f32::INFINITY;
    asked.vectors[5 * D + 3] = f32::NAN;
    let queries = asked.queries();
    let room = Room { users: 9, pairs: 60, excluded: 130 };
    fn named<T>(answer: Answer<Vec<T>>) -> (usize, u32) {
        match answer {
            Err(Fault::NotFinite { query, item }) => (query, item),
            Err(Fault::Failed(e)) => panic!("{e}"),
            Ok(_) => panic!("no fault was found"),
        }
    }
    fn both<B: Backend>(s: &Scoring, b: &mut B, queries: &[Query]) -> [(usize, u32); 2] {
        [named(s.rank(b, queries)), named(s.top_k(b, queries, 3))]
    }
    assert_eq!(asked.on(room, |p| Ok(Cpu::new(p)), |s, b| both(s, b, &queries)), [(0, 77); 2]);
    assert_eq!(asked.on(room, |p| emulated(Precision::F32, p), |s, b| both(s, b, &queries)), [(0, 77); 2]);
    asked.table[77 * D] = 0.0;
    let queries = asked.queries();
    assert_eq!(asked.on(room, |p| Ok(Cpu::new(p)), |s, b| both(s, b, &queries)), [(5, 0); 2]);
    assert_eq!(asked.on(room, |p| emulated(Precision::Bf16, p), |s, b| both(s, b, &queries)), [(5, 0); 2]);
}

/// A list longer than the kernel supports is rejected before anything runs.
#[test]
fn a_list_too_long_for_the_kernel_is_refused() {
    let v = 20_000;
    let (vectors, table, bias) = (vec![1.0; 2], vec![0.5; 2 * v], vec![0.0; v]);
    let room = Room { users: 1, pairs: v, excluded: v };
    let query = [Query::default()];
    let answer = on_backend(
        &vectors,
        (&table, &bias),
        Some(room),
        |p| emulated(Precision::F32, p),
        |s, b| s.top_k(b, &query, 17_000),
    );
    let Err(Fault::Failed(e)) = answer else { panic!("it is not served") };
    assert!(e.to_string().contains("keeps at most 16384") && e.to_string().contains("hint"), "{e}");
}

/// Runs a model of random weights on more users than it processes at a time: its results follow from its own vectors,
/// by the same arithmetic in plain loops.
fn a_model_stands_by_its_vectors<B: Backend>(open: impl Fn(&Planner) -> Result<B>) {
    let (v, k) = (150, 12);
    let s = Settings { width: 16, heads: 2, blocks: 1, length: 10, batch: 4, init_std: 0.3, ..Settings::default() };
    let mut engine = Engine::<B>::new(&s, &vec![1; v], open).unwrap();
    let mut draw = Stream::new(6, Purpose::Test, 0);
    let mut some = |n: u64| {
        let mut items: Vec<u32> = (0..n).map(|_| draw.below(v as u64) as u32).collect();
        items.sort_unstable();
        items.dedup();
        items
    };
    let lists: Vec<[Vec<u32>; 3]> = (0..11).map(|u| [some(u * 2), some(1 + u % 3 * 7), some(20)]).collect();
    let among: Vec<[Vec<u32>; 1]> = lists.iter().map(|l| [l[2].clone()]).collect();
    let queries: Vec<Query> = lists
        .iter()
        .zip(&among)
        .map(|(l, among)| Query { history: &l[0], user: None, excluded: &l[0], targets: &l[1], among })
        .collect();
    let (mut vectors, mut table, mut bias) = (vec![0.0; 11 * 16], vec![0.0; v * 16], vec![0.0; v]);
    engine.encode(&queries, &mut vectors).unwrap();
    for items in [0..70, 70..v] {
        engine.item_vectors(items.clone(), &mut table[items.start * 16..items.end * 16]).unwrap();
    }
    engine.item_biases(&mut bias).unwrap();
    let (ranks, best) = (engine.rank(&queries).unwrap(), engine.top_k(&queries, k).unwrap());
    for (u, q) in queries.iter().enumerate() {
        let score = |i: u32| {
            let mut sum = 0.0f32;
            for d in 0..16 {
                sum += vectors[u * 16 + d] * table[i as usize * 16 + d];
            }
            sum + bias[i as usize]
        };
        let mut candidates: Vec<u32> = (0..v as u32).filter(|i| !q.excluded.contains(i)).collect();
        let at_least = |among: &[u32], t: u32| among.iter().filter(|i| score(**i) >= score(t)).count();
        let full: Vec<usize> = q.targets.iter().map(|t| at_least(&candidates, *t)).collect();
        let sampled: Vec<usize> =
            q.targets.iter().map(|t| at_least(&q.among[0], *t) + at_least(q.targets, *t)).collect();
        assert_eq!(ranks[u], Ranks { full, among: vec![sampled] }, "user {u}");
        candidates.sort_by(|a, b| score(*b).total_cmp(&score(*a)).then(a.cmp(b)));
        let expected: Vec<Scored> =
            candidates.iter().take(k).map(|&item| Scored { item, score: score(item) }).collect();
        assert_eq!(best[u], expected, "user {u}");
    }
}

#[test]
fn models_stand_by_their_vectors_on_every_backend() {
    a_model_stands_by_its_vectors(|p| Ok(Cpu::new(p)));
    for precision in [Precision::F32, Precision::Bf16] {
        a_model_stands_by_its_vectors(|p| emulated(precision, p));
    }
}
