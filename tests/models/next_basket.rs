//! Next basket: the pairs that are drawn, the contents of a batch, its loss against a plain sum, and the same bits from
//! recorded steps.

use std::collections::HashSet;

use crate::evaluation::dataset;
use mipgpu::{
    backend::{Cpu, Reference, emulated},
    base::rng::{Purpose, Stream},
    data::{
        Dataset,
        split::{Split, SplitSpec},
    },
    layers::{BatchShape, HostInput, Input},
    mem::{F32, Param, Planner, Precision, Span, U32},
    ops::{Backend, NO_ID},
    tasks::{NextBasket, Pairs, Sequence, Task, TaskSettings},
    train::{Engine, Settings},
};

const ITEMS: u32 = 50;
const MASK: u32 = ITEMS;
const CLS: u32 = ITEMS + 1;
const SEP: u32 = ITEMS + 2;

/// The task over 50 items with its memory.
struct Rig<B> {
    task: NextBasket,
    b: B,
    input: Input,
    params: Vec<Param>,
}

/// The contents of a batch.
#[derive(Clone, Debug, PartialEq)]
struct Made {
    item: Vec<u32>,
    raw: Vec<u32>,
    segment: Vec<u32>,
    row: Vec<u32>,
    target: Vec<u32>,
    weight: Vec<f32>,
    /// Per scored row: whether it predicts the second basket, the label, and its weight.
    id: Vec<u32>,
    next: Vec<f32>,
    share: Vec<f32>,
    cu: Vec<u32>,
}

fn settings(mask: f32, mask_last: f32, length: usize) -> TaskSettings {
    crate::common::task_settings(mask, mask_last, length, 3)
}

fn rig<B: Backend>(c: &TaskSettings, sequences: usize, open: impl FnOnce(&Planner) -> B) -> Rig<B> {
    let mut p = Planner::new();
    let (input, task) = crate::common::task::<NextBasket>(&mut p, c, ITEMS as usize, sequences);
    let mut b = open(&p);
    task.objective().prepare(&mut b, &(&vec![1; ITEMS as usize]).into()).unwrap();
    Rig { task, b, input, params: p.params().to_vec() }
}

type Pair<'a> = (u64, &'a [u32], &'a [u32], bool);

impl<B: Backend> Rig<B> {
    fn upload(&mut self, epoch: u32, pairs: &[Pair]) -> BatchShape {
        let mut batch = self.task.batches().empty();
        self.task.batches().clear(&mut batch, epoch);
        for (user, first, second, next) in pairs {
            self.task.push(&mut batch, *user, Sequence::Baskets { first, second, next: *next });
        }
        let s = self.task.upload(&mut self.b, &mut batch, 1);
        self.task.make(&mut self.b, &s);
        s
    }

    fn make(&mut self, epoch: u32, pairs: &[Pair]) -> Made {
        let s = self.upload(epoch, pairs);
        let (id, next, share) = self.task.asked();
        let loss = self.task.loss();
        let ids = |b: &mut B, span: Span<U32>, n: usize| {
            let mut ids = vec![0; n];
            b.read_ids(span.first(n), &mut ids);
            ids
        };
        let numbers = |b: &mut B, span: Span<F32>| {
            let mut x = vec![0.0; s.m];
            b.read(span.first(s.m).raw(), &mut x);
            x
        };
        let (b, input) = (&mut self.b, &self.input);
        Made {
            item: ids(b, input.item, s.n),
            raw: ids(b, input.raw, s.n),
            segment: ids(b, input.pos, s.n),
            row: ids(b, input.row, s.m),
            target: ids(b, loss.target, s.m),
            weight: numbers(b, loss.weight),
            id: ids(b, id, s.m),
            next: numbers(b, next),
            share: numbers(b, share),
            cu: ids(b, input.cu, s.b + 1),
        }
    }
}

fn cpu(p: &Planner) -> Cpu {
    Cpu::new(p)
}

#[test]
fn a_batch_is_two_marked_baskets_with_hidden_items_and_one_question_each() {
    let mut rig = rig(&settings(0.4, 0.0, 40), 2, cpu);
    let pairs: [Pair; 2] = [(3, &[1, 2, 3, 4], &[5, 6, 7], true), (9, &[8], &[9], false)];
    let made = rig.make(5, &pairs);
    assert_eq!(made.raw, [CLS, 1, 2, 3, 4, SEP, 5, 6, 7, CLS, 8, SEP, 9]);
    assert_eq!(made.segment, [0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1]);
    assert_eq!(made.cu, [0, 9, 13]);
    // 0.4 of seven items are three, of two one; then the rows of both [CLS].
    assert_eq!((made.row.len(), &made.row[4..]), (6, &[0, 9][..]));
    assert!(made.row[..3].windows(2).all(|w| w[0] < w[1]) && made.row[2] < 9 && (10..13).contains(&made.row[3]));
    let marks = [CLS, SEP];
    for (row, target) in made.row.iter().zip(&made.target).take(4) {
        assert_eq!(made.raw[*row as usize], *target);
        assert!(!marks.contains(target));
    }
    let hidden: HashSet<usize> = made.row[..4].iter().map(|r| *r as usize).collect();
    for (at, (item, raw)) in made.item.iter().zip(&made.raw).enumerate() {
        assert!(item == raw || hidden.contains(&at), "row {at} shows {item} for {raw}");
    }
    assert_eq!(made.weight, [0.25, 0.25, 0.25, 0.25, 0.0, 0.0]);
    assert_eq!(made.id, [NO_ID, NO_ID, NO_ID, NO_ID, 0, 0]);
    assert_eq!((&made.next[4..], &made.share[..]), (&[1.0, 0.0][..], &[0.0, 0.0, 0.0, 0.0, 0.5, 0.5][..]));
}

#[test]
fn a_share_of_what_followed_asks_as_a_query_does() {
    let mut rig = rig(&settings(0.5, 0.3, 40), 1, cpu);
    let (mut queries, mut found, epochs) = (0, [0; 4], 4000);
    for epoch in 0..epochs {
        let made = rig.make(epoch, &[(7, &[1, 2, 3], &[10, 11, 12, 13], true)]);
        if made.item.len() == 6 {
            assert_eq!(made.item, [CLS, 1, 2, 3, SEP, MASK]);
            assert_eq!((&made.segment[..], &made.row[..]), (&[0, 0, 0, 0, 0, 1][..], &[5, 0][..]));
            queries += 1;
            found[made.target[0] as usize - 10] += 1;
        }
        let other = rig.make(epoch, &[(7, &[1, 2, 3], &[10, 11, 12, 13], false)]);
        assert_eq!(other.item.len(), 9, "what did not follow is no answer");
    }
    // Five standard deviations of the binomial share; each item of the basket has the same probability.
    let share = queries as f64 / epochs as f64;
    assert!((share - 0.3).abs() < 5.0 * (0.21 / epochs as f64).sqrt(), "{share}");
    let expected = queries as f64 / 4.0;
    assert!(found.iter().all(|n| (*n as f64 - expected).abs() < 5.0 * expected.sqrt()), "{found:?}");
    // The query itself.
    let mut input = HostInput::default();
    input.clear();
    rig.task.push_query(&mut input, &[1, 2, 3]);
    rig.task.push_query(&mut input, &[]);
    assert_eq!(input.item, [CLS, 1, 2, 3, SEP, MASK, CLS, SEP, MASK]);
    assert_eq!((input.pos, input.row, input.cu), (vec![0, 0, 0, 0, 0, 1, 0, 0, 1], vec![5, 8], vec![0, 6, 9]));
}

#[test]
fn large_baskets_are_sampled_to_what_there_is_room_for() {
    let all: Vec<u32> = (0..ITEMS).collect();
    for (first, second, kept) in
        [(30, 20, [5, 5]), (30, 3, [7, 3]), (2, 20, [2, 8]), (6, 5, [5, 5]), (1, 10, [1, 9]), (10, 1, [9, 1])]
    {
        let mut rig = rig(&settings(0.2, 0.0, 12), 1, cpu);
        let (mut seen, epochs) = (HashSet::new(), 400);
        for epoch in 0..epochs {
            let made = rig.make(epoch, &[(1, &all[..first], &all[first..first + second], true)]);
            let sep = made.raw.iter().position(|i| *i == SEP).unwrap();
            let (one, two) = (&made.raw[1..sep], &made.raw[sep + 1..]);
            assert_eq!([one.len(), two.len()], kept, "{first} and {second}");
            assert!(one.iter().all(|i| (*i as usize) < first) && two.iter().all(|i| *i as usize >= first));
            assert_eq!(made.raw.iter().collect::<HashSet<_>>().len(), made.raw.len(), "an item came twice");
            seen.extend(one.iter().chain(two).copied());
        }
        assert_eq!(seen.len(), first + second, "some items were never kept");
    }
    // A query keeps the newest items.
    let (mut input, rig) = (HostInput::default(), rig(&settings(0.2, 0.0, 5), 1, cpu));
    input.clear();
    rig.task.push_query(&mut input, &all[..9]);
    assert_eq!(input.item, [CLS, 7, 8, SEP, MASK]);
}

#[test]
fn a_pair_is_a_function_of_seed_epoch_and_user() {
    let mut rig = rig(&settings(0.3, 0.2, 16), 2, cpu);
    let all: Vec<u32> = (0..ITEMS).collect();
    let pair: Pair = (11, &all[..20], &all[20..40], true);
    let alone = rig.make(5, &[pair]);
    let both = rig.make(5, &[(12, &all[..3], &all[7..9], false), pair]);
    let n = both.item.len() - alone.item.len();
    assert_eq!((&both.item[n..], &both.raw[n..]), (&alone.item[..], &alone.raw[..]));
    assert_ne!(rig.make(6, &[pair]).raw, alone.raw);
}

/// The loss by its definition, in plain f64.
#[test]
fn the_loss_is_the_sum_of_both_means() {
    let mut rig = rig(&settings(0.4, 0.2, 20), 3, Reference::<f64>::new);
    let pairs: [Pair; 3] =
        [(1, &[1, 2, 3, 4], &[5, 6, 7], true), (2, &[8], &[9], false), (3, &[20, 21], &[30, 31, 32], true)];
    let made = rig.make(4, &pairs);
    let s = rig.upload(4, &pairs);
    let mut draw = Stream::new(3, Purpose::Test, 0);
    let mut random = |n: usize| -> Vec<f64> { (0..n).map(|_| 2.0 * draw.normal() as f64).collect() };
    let mut values = Vec::new();
    for p in &rig.params {
        values.push(random(p.w.len()));
        rig.b.set(p.w.raw(), values.last().unwrap());
    }
    let find = |name: &str| &values[rig.params.iter().position(|p| p.name == name).unwrap()];
    let (table, bias) = (find("item.weight"), find("item.bias"));
    let (head, head_bias) = (find("basket.head.weight")[0], find("basket.head.bias")[0]);
    let h = random(s.m);
    rig.b.set(rig.task.scored_rows().first(s.m).raw(), &h);
    rig.task.objective().begin(&mut rig.b, &s);
    rig.task.objective().forward(&mut rig.b, &s);
    let got = rig.b.values(rig.task.objective().value().raw())[0];
    let (mut items, mut followed, mut counts) = (0.0, 0.0, [0.0; 2]);
    for (m, h) in h.iter().enumerate() {
        if made.id[m] == 0 {
            let z = h * head + head_bias;
            let p = 1.0 / (1.0 + (-z).exp());
            followed -= if made.next[m] == 1.0 { p.ln() } else { (1.0 - p).ln() };
            counts[1] += 1.0;
        } else {
            let z = |v: usize| h * table[v] + bias[v];
            let sum: f64 = (0..ITEMS as usize).map(|v| z(v).exp()).sum();
            items += sum.ln() - z(made.target[m] as usize);
            counts[0] += 1.0;
        }
    }
    let expected = items / counts[0] + followed / counts[1];
    assert!((got - expected).abs() < 1e-6 * expected, "{got}, by hand {expected}");
}

/// Recorded steps pad their batches; they train like the CPU and the reference.
#[test]
fn padded_and_recorded_steps_learn_the_same() {
    let s = Settings {
        task: "next-basket".into(),
        width: 16,
        heads: 2,
        blocks: 1,
        length: 14,
        batch: 5,
        mask: 0.3,
        mask_last: 0.4,
        dropout: 0.1,
        ..Settings::default()
    };
    let emu = losses(&s, |p| emulated(Precision::F32, p).unwrap());
    let oracle = losses(&s, Reference::<f64>::new);
    for other in [losses(&s, cpu), emu] {
        assert!(oracle.iter().zip(&other).all(|(a, b)| (a - b).abs() < 1e-4), "{other:?} against {oracle:?}");
    }
    let half = losses(&s, |p| emulated(Precision::Bf16, p).unwrap());
    assert!(oracle.iter().zip(&half).all(|(a, b)| (a - b).abs() < 6e-3), "{half:?} against {oracle:?}");
}

/// Returns the losses of eight steps with recurring sizes.
fn losses<B: Backend>(s: &Settings, open: impl Fn(&Planner) -> B) -> Vec<f32> {
    let mut engine = Engine::<B>::new(s, &vec![1; ITEMS as usize], |p| Ok(open(p))).unwrap();
    let all: Vec<u32> = (0..2 * ITEMS).map(|i| i * 7 % ITEMS).collect();
    let mut losses = Vec::new();
    for step in 1..=8u64 {
        engine.begin(step as u32);
        for user in 0..3 + step % 3 {
            let at = (user * 5 + step) as usize;
            let (first, second) = (&all[at..at + 1 + at % 6], &all[at + 20..at + 21 + at % 4]);
            engine.push(user, Sequence::Baskets { first, second, next: at.is_multiple_of(2) });
        }
        losses.extend(engine.launch(step, 3e-3).unwrap().map(|r| r.loss));
    }
    losses.extend(engine.finish().unwrap().map(|r| r.loss));
    losses
}

/// Users with `n` baskets of one to three items, with equal times as a basket; user 0 has one basket, user 1 two.
fn baskets() -> Dataset {
    let mut log = Vec::new();
    for u in 0..30u32 {
        for basket in 0..(1 + u % 9) {
            for i in 0..1 + (u + basket) % 3 {
                log.push((u, format!("u{u}b{basket}i{i}"), Some(basket as i64)));
            }
        }
    }
    dataset(&log)
}

#[test]
fn pairs_follow_each_other_or_come_from_somebody_else() {
    let data = baskets();
    let split = Split::new(&data, SplitSpec::LastBasket).unwrap();
    let pairs = Pairs::new(&data, split.train(), 5);
    // Two baskets are kept; of three or more, the last two are not.
    let train = |user: u32| [1, 2, 1, 2, 3, 4, 5, 6, 7][user as usize % 9];
    let able: Vec<u32> = (0..30).filter(|u| train(*u) >= 2).collect();
    assert_eq!(pairs.users(), able);
    let basket_of = |items: &[u32]| -> (u32, u32) {
        let of = |item: &u32| {
            let key = data.item_keys().key(*item as usize);
            let mut parts = key[1..].split(['b', 'i']).map(|n| n.parse::<u32>().unwrap());
            (parts.next().unwrap(), parts.next().unwrap())
        };
        let name = of(&items[0]);
        assert!(items.iter().all(|i| of(i) == name) && items.len() as u32 == 1 + (name.0 + name.1) % 3, "not whole");
        name
    };
    let (mut followed, mut lenders, mut places, epochs) = (0, HashSet::new(), HashSet::new(), 300);
    for epoch in 0..epochs {
        for &user in pairs.users() {
            let Sequence::Baskets { first, second, next } = pairs.draw(epoch, user).unwrap() else { panic!() };
            let ((a, at), (b, then)) = (basket_of(first), basket_of(second));
            assert!(a == user && at + 1 < train(user) && then < train(b), "{user} {at}, {b} {then}");
            assert_eq!(next, b == user);
            if next {
                assert_eq!(then, at + 1);
                followed += 1;
            } else {
                lenders.insert((user, b));
            }
            places.insert((user, at));
        }
    }
    let share = followed as f64 / (epochs as usize * able.len()) as f64;
    assert!((share - 0.5).abs() < 5.0 * (0.25 / (epochs as usize * able.len()) as f64).sqrt(), "{share}");
    assert_eq!(places.len() as u32, able.iter().map(|u| train(*u) - 1).sum::<u32>(), "every pair comes");
    assert!(lenders.len() > able.len() * (able.len() - 1) * 9 / 10, "everybody lends to everybody");
    // Without other users, every second basket is the user's next one.
    let alone = dataset(&[("u", "a", Some(1)), ("u", "b", Some(2)), ("u", "c", Some(3)), ("u", "d", Some(4))]);
    let split = Split::new(&alone, SplitSpec::LastN { valid: 1, test: 1 }).unwrap();
    let pairs = Pairs::new(&alone, split.train(), 5);
    for epoch in 0..20 {
        let Sequence::Baskets { first, second, next } = pairs.draw(epoch, 0).unwrap() else { panic!() };
        assert_eq!((first, second, next), (&[0][..], &[1][..], true));
    }
}
