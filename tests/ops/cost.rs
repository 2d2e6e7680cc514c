//! Compares every op's cost with the size of its spans, with the operations of its reference, and with closed forms.

use std::{
    any::Any,
    cell::Cell,
    cmp::Ordering,
    collections::BTreeMap,
    iter::Sum,
    ops::{Add, AddAssign, Div, Mul, Neg, Sub},
    sync::LazyLock,
};

use mipgpu::{
    for_all_ops,
    mem::{Arena, HostArenas, Mode, Planner, Precision, RawSpan, Scalar, Span},
    ops::{dilated_conv::Taps, dropout::Dropout, *},
};

thread_local! {
    /// Operations and transcendental functions since the last reset.
    static DONE: Cell<[f64; 2]> = const { Cell::new([0.0; 2]) };
}

fn done(flop: f64, exps: f64) {
    DONE.set([DONE.get()[0] + flop, DONE.get()[1] + exps]);
}

/// f64 that counts its operations.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counted(f64);

macro_rules! counted {
    ($($trait:ident $function:ident),*) => { $(
        impl $trait for Counted {
            type Output = Self;
            fn $function(self, other: Self) -> Self {
                done(1.0, 0.0);
                Counted($trait::$function(self.0, other.0))
            }
        }
    )* };
}
counted!(Add add, Sub sub, Mul mul, Div div);

impl PartialOrd for Counted {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        done(1.0, 0.0);
        self.0.partial_cmp(&other.0)
    }
}

impl Neg for Counted {
    type Output = Self;
    fn neg(self) -> Self {
        Counted(-self.0)
    }
}

impl AddAssign for Counted {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Counted {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Counted(0.0), Add::add)
    }
}

macro_rules! transcendental {
    ($($function:ident),*) => { $(
        fn $function(self) -> Self {
            done(0.0, 1.0);
            Counted(self.0.$function())
        }
    )* };
}

impl Scalar for Counted {
    fn of(x: f64) -> Self {
        Counted(x)
    }
    fn f64(self) -> f64 {
        self.0
    }
    transcendental!(exp, ln, sqrt, tanh);
    fn max(self, other: Self) -> Self {
        done(1.0, 0.0);
        Counted(self.0.max(other.0))
    }
    fn min(self, other: Self) -> Self {
        done(1.0, 0.0);
        Counted(self.0.min(other.0))
    }
}

/// The gradient modes of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted {
    /// All written (or there are none).
    Written,
    /// All skipped.
    None,
    /// All accumulated.
    Added,
    /// All written except this one, which has the given mode.
    But(usize, Mode),
}

/// A call with its cost.
#[derive(Debug)]
struct Price {
    op: &'static str,
    wanted: Wanted,
    cost: Cost,
    spans: Vec<(Access, RawSpan)>,
    /// Operations and transcendental functions of the reference, for [`Wanted::Written`].
    done: [f64; 2],
}

fn price(op: &dyn AnyOp, wanted: Wanted, done: [f64; 2]) -> Price {
    let mut spans = Vec::new();
    op.visit(&mut |access, span| spans.push((access, span)));
    Price { op: op.name(), wanted, cost: op.price(), spans, done }
}

/// Runs the reference of an op of any type, counting.
fn reference(op: &dyn AnyOp, m: &mut HostArenas<Counted>) {
    macro_rules! of_its_type {
        ($($op:ident),*) => {
            $(if let Some(op) = (op as &dyn Any).downcast_ref::<$op>() {
                return op.reference(&m.lend(Valid::of(op).unwrap().spans()));
            })*
        };
    }
    for_all_ops!(of_its_type);
    unreachable!("every op is on the list");
}

/// Returns the calls of a case: forward, then backward in all combinations of gradient modes.
fn prices(case: &case::Case) -> Vec<Price> {
    let mut memory = case.host::<Counted>(1.0, &case.inputs_f32(Precision::F32));
    let mut count = |run: &dyn Fn(&mut HostArenas<Counted>)| {
        DONE.set([0.0; 2]);
        run(&mut memory);
        DONE.get()
    };
    let forward = count(&|m| reference(&*case.fwd, m));
    let backward = count(&|m| reference(&*case.bwd, m));
    let mut gradients = 0;
    case.bwd.in_modes(&mut |i| {
        gradients = i + 1;
        Mode::Write
    });
    let each = (0..gradients).flat_map(|i| [Mode::Skip, Mode::Accumulate].map(|mode| Wanted::But(i, mode)));
    let ways = [Wanted::Written, Wanted::None, Wanted::Added].into_iter().chain(each);
    let backward = ways.map(|wanted| {
        let op = case.bwd.in_modes(&mut |i| match wanted {
            Wanted::None => Mode::Skip,
            Wanted::Added => Mode::Accumulate,
            Wanted::But(at, mode) if at == i => mode,
            _ => Mode::Write,
        });
        price(&*op, wanted, backward)
    });
    [price(&*case.fwd, Wanted::Written, forward)].into_iter().chain(backward).collect()
}

/// Returns the costs of all cases, by name.
fn all_prices() -> &'static [(String, Vec<Price>)] {
    static ALL: LazyLock<Vec<(String, Vec<Price>)>> =
        LazyLock::new(|| all_cases().into_iter().map(|case| (case.name.clone(), prices(&case))).collect());
    &ALL
}

/// Ops that need not access all of their spans.
/// Rows are picked by ids from tables (or cells, or the data), and sequences may be empty. Candidates need the
/// sequences only where their items are excluded. The guard writes only after a failure.
const PICK: [&str; 20] = [
    "adamw_rows",
    "bag_bwd",
    "bag_fwd",
    "catch_up_rows",
    "draw_candidates",
    "draw_negatives",
    "embedding_fwd",
    "gather_rows",
    "gather_sequences",
    "gather_table",
    "guard",
    "item_dot_bwd",
    "item_dot_fwd",
    "negative_loss_bwd",
    "negative_loss_fwd",
    "pool_bwd",
    "sampled_softmax_bwd",
    "sampled_softmax_fwd",
    "score_items",
    "spread_fwd",
];

/// Ops with a sparse gradient. All of it is written, but only nonzero rows are accumulated, which may be fewer.
const SPARSE: [&str; 4] = ["bag_bwd", "position_sum", "scatter_rows", "segment_sum"];

/// The spans of cases are exactly as long as their ops require.
#[test]
fn the_traffic_is_that_of_the_spans() {
    for (case, prices) in all_prices() {
        for Price { op, wanted, cost, spans, .. } in prices {
            let what = format!("{case}: {op} {wanted:?} {cost:?}");
            let (mut act, mut other, mut written) = (0.0, 0.0, 0.0);
            // Part of them: weights that may count as either.
            let mut either = 0.0;
            for (access, span) in spans {
                let times = if matches!(access, Access::Accumulate | Access::Update) { 2.0 } else { 1.0 };
                let n = times * span.len() as f64;
                *if span.arena() == Arena::Act { &mut act } else { &mut other } += n;
                either += if span.arena() == Arena::Param && *access == Access::Read { n } else { 0.0 };
                written += if *access == Access::Write { n } else { 0.0 };
            }
            assert!([cost.flop, cost.exps].iter().all(|x| x.is_finite() && *x >= 0.0), "{what}");
            assert!(cost.act <= act + either && cost.bytes <= 4.0 * other, "{what}: {act} {other}");
            let (moved, all) = (cost.moved(Precision::F32), 4.0 * (act + other));
            assert!(4.0 * written <= moved && moved <= all, "{what}: {all}");
            assert_eq!(cost.moved(Precision::Bf16), moved - 2.0 * cost.act, "{what}");
            let part = PICK.contains(op)
                || SPARSE.contains(op) && *wanted != Wanted::Written
                || *op == "segment_sum"
                || !matches!(wanted, Wanted::Written | Wanted::Added);
            assert!(part || moved == all, "{what}: {all} in all spans");
        }
    }
}

#[test]
fn a_gradient_that_is_not_wanted_costs_nothing_and_one_that_is_added_to_costs_more() {
    for (case, prices) in all_prices() {
        let parts = |c: Cost| [c.flop, c.exps, c.act, c.bytes];
        // The first entry is the forward pass.
        let (written, none) = (prices[1].cost, &prices[2]);
        let all_less = |less: Cost, more: Cost| parts(less).into_iter().zip(parts(more)).all(|(l, m)| l <= m);
        assert!(all_less(none.cost, written), "{case}: {:?} {written:?}", none.cost);
        let writes = none.spans.iter().any(|(access, _)| *access != Access::Read);
        assert!(writes || none.cost == Cost::default(), "{case}: nothing is written for {:?}", none.cost);
        let gradients: Vec<RawSpan> = {
            let destinations = prices[3].spans.iter().filter(|(access, _)| *access == Access::Accumulate);
            destinations.map(|(_, span)| *span).collect()
        };
        for Price { op, wanted, cost, .. } in &prices[3..] {
            let what = format!("{case}: {op} {wanted:?} {cost:?}, written: {written:?}");
            match wanted {
                Wanted::But(_, Mode::Skip) => assert!(all_less(*cost, written), "{what}"),
                Wanted::But(i, _) if !SPARSE.contains(op) => {
                    let more = 4.0 * gradients[*i].len() as f64;
                    assert_eq!(cost.moved(Precision::F32) - written.moved(Precision::F32), more, "{what}");
                    assert_eq!((cost.flop, cost.exps), (written.flop, written.exps), "{what}");
                }
                _ => {}
            }
        }
    }
}

/// Ops with a reference that does exactly the counted work.
const SAME: [&str; 8] = [
    "activation_bwd",
    "dropout_add_fwd",
    "dropout_bwd",
    "dropout_fwd",
    "gelu_fwd",
    "grad_norm",
    "score_items",
    "weighted_mean",
];

/// Ops with a reference that does the counted work and more.
/// The rest is work once per row, on the elements of products, or repeated to save memory. It also includes pairs of
/// rows, which sequences of unequal length have more of.
const MORE: [&str; 12] = [
    "attention_bwd",
    "attention_fwd",
    "count_at_least",
    "cross_entropy_bwd",
    "cross_entropy_fwd",
    "gelu_bwd",
    "layer_norm_bwd",
    "layer_norm_fwd",
    "linear_bwd",
    "linear_fwd",
    "point_loss_bwd",
    "point_loss_fwd",
];

/// Ops that only move numbers. All other work of the reference is once per row, or times one and plus zero.
const MOVE: [&str; 4] = ["mask_items", "next_items", "scatter_rows", "spread_fwd"];

/// Work of the other ops depends on the contents of memory, which a cost does not know. References do work in plain
/// loops that could be shared. In the case with the most work, neither effect reaches a factor of four.
#[test]
fn the_work_is_that_of_the_reference() {
    let mut most: BTreeMap<&str, (&Price, &str)> = BTreeMap::new();
    for (case, prices) in all_prices() {
        for price in prices.iter().filter(|p| p.wanted == Wanted::Written) {
            let Price { op, cost, done: [flop, exps], .. } = price;
            let what = format!("{case}: {op} {cost:?}, the reference {flop} {exps}");
            assert!(!SAME.contains(op) || (cost.flop, cost.exps) == (*flop, *exps), "{what}");
            // A small tolerance for the rounding of mean lengths.
            let less = |a: f64, b: f64| a <= b * (1.0 + 1e-12);
            assert!(!MORE.contains(op) || less(cost.flop, *flop) && less(cost.exps, *exps), "{what}");
            assert!(!MOVE.contains(op) || (cost.flop, cost.exps) == (0.0, 0.0), "{what}");
            let seen = most.entry(op).or_insert((price, case));
            if seen.0.done[0] <= *flop {
                *seen = (price, case);
            }
        }
    }
    for (op, (Price { cost, done: [flop, exps], .. }, case)) in most {
        // The lag of a row determines its work.
        if MOVE.contains(&op) || op == "catch_up_rows" {
            continue;
        }
        let near = |cost: f64, done: f64| (0.25 * done..=1.5 * done).contains(&cost);
        assert!(near(cost.flop, *flop), "{case}: {op} {cost:?}, the reference {flop}");
        // The reference recomputes the exponentials of a row for every column.
        assert!(op == "attention_fwd" || near(cost.exps, *exps), "{case}: {op} {cost:?}, the reference {exps}");
    }
}

/// Checks work, and bytes in f32 and bf16.
fn closed(op: &impl Op, flop: f64, exps: f64, [f32s, bf16s]: [f64; 2]) {
    op.check().unwrap();
    let cost = op.cost();
    let have = (cost.flop, cost.exps, cost.moved(Precision::F32), cost.moved(Precision::Bf16));
    assert_eq!(have, (flop, exps, f32s, bf16s), "{op:?}");
}

#[test]
fn a_dense_layer_in_closed_form() {
    let (n, i, o, mut p) = (3, 5, 7, Planner::new());
    let (x, y, w, b, flat) = (p.var(n * i), p.var(n * o), p.weight(o * i), p.weight(o), p.stat(o * i));
    let (dw, db) = (p.stat(o * i), p.stat(o));
    let fwd = LinearFwd { y: y.y, x: x.y, w, b, n, i, o };
    closed(&fwd, 210.0, 0.0, [4.0 * 78.0, 2.0 * 78.0]);
    // Spans outside the parameter arena have no shadow.
    closed(&LinearFwd { w: flat, ..fwd }, 210.0, 0.0, [4.0 * 78.0, 2.0 * 43.0 + 4.0 * 35.0]);
    let (dx, dw, db) = (Dst::Write(x.dy), Dst::Write(dw), Dst::Write(db));
    let bwd = LinearBwd { dx, dw, db, dy: y.dy, x: x.y, w, n, i, o };
    closed(&bwd, 420.0, 0.0, [4.0 * (86.0 + 42.0), 2.0 * 86.0 + 4.0 * 42.0]);
    closed(&LinearBwd { dw: Dst::Skip, db: Dst::Skip, ..bwd }, 210.0, 0.0, [4.0 * 71.0, 2.0 * 71.0]);
    closed(&LinearBwd { dx: Dst::Skip, dw: Dst::Skip, ..bwd }, 0.0, 0.0, [4.0 * 28.0, 2.0 * 21.0 + 4.0 * 7.0]);
}

#[test]
fn norms_and_gelu_in_closed_form() {
    let (n, d, mut p) = (4, 8, Planner::new());
    let (x, y) = (p.var(n * d), p.var(n * d));
    let [gamma, beta, dgamma, dbeta] = [(); 4].map(|()| p.weight(d));
    let [mean, rstd] = [(); 2].map(|()| p.stat(n));
    let fwd = LayerNormFwd { y: y.y, mean, rstd, x: x.y, gamma, beta, n, d, eps: 0.0 };
    closed(&fwd, 256.0, 4.0, [4.0 * (64.0 + 24.0), 2.0 * 64.0 + 4.0 * 24.0]);
    let (dx, dgamma, dbeta) = (Dst::Write(x.dy), Dst::Write(dgamma), Dst::Write(dbeta));
    let bwd = LayerNormBwd { dx, dgamma, dbeta, dy: y.dy, x: x.y, gamma, mean, rstd, n, d };
    closed(&bwd, 416.0, 0.0, [4.0 * (96.0 + 32.0), 2.0 * 96.0 + 4.0 * 32.0]);
    let frozen = LayerNormBwd { dx: Dst::Acc(x.dy), dgamma: Dst::Skip, dbeta: Dst::Skip, ..bwd };
    closed(&frozen, 320.0, 0.0, [4.0 * (128.0 + 16.0), 2.0 * 128.0 + 4.0 * 16.0]);

    let (x, y) = (p.var(10), p.var(10));
    closed(&GeluFwd { y: y.y, x: x.y, n: 10 }, 80.0, 10.0, [80.0, 40.0]);
    let bwd = GeluBwd { dx: Dst::Write(x.dy), dy: y.dy, x: x.y, n: 10 };
    closed(&bwd, 180.0, 10.0, [120.0, 60.0]);
    closed(&GeluBwd { dx: Dst::Acc(x.dy), ..bwd }, 180.0, 10.0, [160.0, 80.0]);
    closed(&GeluBwd { dx: Dst::Skip, ..bwd }, 0.0, 0.0, [0.0, 0.0]);
}

#[test]
fn cross_entropy_and_embedding_in_closed_form() {
    let (m, d, v, mut p) = (2, 3, 5, Planner::new());
    let (h, table, bias, target) = (p.var(m * d), p.weight(v * d), p.weight(v), p.index(m));
    let (loss, lse, dloss, dtable, dbias) = (p.stat(m), p.stat(m), p.stat(m), p.stat(v * d), p.stat(v));
    let fwd = CrossEntropyFwd { loss, lse, h: h.y, table, bias, target, m, d, v };
    closed(&fwd, 60.0, 12.0, [4.0 * (21.0 + 11.0), 2.0 * 21.0 + 4.0 * 11.0]);
    let (dh, dtable, dbias) = (Dst::Write(h.dy), Dst::Write(dtable), Dst::Write(dbias));
    let bwd = CrossEntropyBwd { dh, dtable, dbias, dloss, h: h.y, table, bias, target, lse, m, d, v };
    closed(&bwd, 180.0, 10.0, [4.0 * (27.0 + 31.0), 2.0 * 27.0 + 4.0 * 31.0]);
    let frozen = CrossEntropyBwd { dtable: Dst::Skip, dbias: Dst::Skip, ..bwd };
    closed(&frozen, 120.0, 10.0, [4.0 * (27.0 + 11.0), 2.0 * 27.0 + 4.0 * 11.0]);

    // More items than rows, fewer positions.
    let (n, d, v, t) = (6, 4, 100, 5);
    let (y, item_table, pos_table) = (p.act(n * d), p.weight(v * d), p.weight(t * d));
    let (item, pos) = (p.index(n), p.index(n));
    let op = EmbeddingFwd { y, item_table, pos_table, item, pos, n, d, v, t };
    closed(&op, 24.0, 0.0, [4.0 * (68.0 + 12.0), 2.0 * 68.0 + 4.0 * 12.0]);
}

#[test]
fn attention_and_convolutions_in_closed_form() {
    // Two sequences of four, two heads of eight.
    let (b, n, h, k, t, mut p) = (2, 8, 2, 8, 4, Planner::new());
    let (qkv, o, lse) = (p.var(3 * n * h * k), p.var(n * h * k), p.stat(h * n));
    let (cu, step, drop) = (p.index(b + 1), p.index(1), Dropout::NONE);
    let fwd = AttentionFwd { o: o.y, lse, qkv: qkv.y, cu, step, b, n, h, k, t, causal: false, drop };
    let bytes = |act: f64| [4.0 * (act + 20.0), 2.0 * act + 4.0 * 20.0];
    closed(&fwd, 4.0 * 8.0 * 64.0, 64.0 + 16.0, bytes(512.0));
    closed(&AttentionFwd { causal: true, ..fwd }, 4.0 * 8.0 * 40.0, 40.0 + 16.0, bytes(512.0));
    let (dqkv, d_o, o, qkv) = (Dst::Write(qkv.dy), o.dy, o.y, qkv.y);
    let bwd = AttentionBwd { dqkv, d_o, o, qkv, lse, cu, step, b, n, h, k, t, causal: false, drop };
    closed(&bwd, 10.0 * 8.0 * 64.0, 64.0, bytes(1024.0));
    closed(&AttentionBwd { causal: true, ..bwd }, 10.0 * 8.0 * 40.0, 40.0, bytes(1024.0));

    // Two sequences of five. All rows see themselves; per sequence, three see the row two before, one the row four
    // before.
    let (n, i, o, w) = (10, 3, 4, 3 * 3 * 4);
    let (x, y, z, r) = (p.var(n * i), p.var(n * o), p.act(n * o), p.act(n * o));
    let (w, dw, mean, rstd) = (p.weight(w), p.stat(w), p.stat(n), p.stat(n));
    let [bias, gamma, beta, db, dgamma, dbeta] = [(); 6].map(|()| p.weight(o));
    let taps = Taps { count: 3, dilation: 2, causal: true };
    let (y, dy, x, dx) = (y.y, y.dy, x.y, Dst::Write(x.dy));
    let fwd = DilatedConvFwd { y, z, mean, rstd, x, w, bias, gamma, beta, residual: r, cu, b, n, i, o, taps, eps: 0.0 };
    closed(&fwd, 432.0, 10.0, [4.0 * (186.0 + 35.0), 2.0 * 186.0 + 4.0 * 35.0]);
    let alone = DilatedConvFwd { residual: Span::empty(), ..fwd };
    closed(&alone, 432.0, 10.0, [4.0 * (146.0 + 35.0), 2.0 * 146.0 + 4.0 * 35.0]);
    let centred = DilatedConvFwd { taps: Taps { causal: false, ..taps }, ..fwd };
    closed(&centred, 528.0, 10.0, [4.0 * (186.0 + 35.0), 2.0 * 186.0 + 4.0 * 35.0]);
    let (dw, db, dgamma, dbeta) = (Dst::Write(dw), Dst::Write(db), Dst::Write(dgamma), Dst::Write(dbeta));
    let bwd = DilatedConvBwd { dx, dw, db, dgamma, dbeta, dy, z, x, w, gamma, beta, mean, rstd, cu, b, n, i, o, taps };
    closed(&bwd, 864.0, 0.0, [4.0 * (176.0 + 79.0), 2.0 * 176.0 + 4.0 * 79.0]);
    closed(&DilatedConvBwd { dx: Dst::Skip, ..bwd }, 432.0, 0.0, [4.0 * (110.0 + 79.0), 2.0 * 110.0 + 4.0 * 79.0]);
}

#[test]
fn costs_add_up() {
    let cost = |x: f64| Cost { flop: x, exps: 2.0 * x, act: 3.0 * x, bytes: 4.0 * x };
    let mut sum = cost(1.0) + cost(2.0);
    sum += cost(4.0);
    assert_eq!((sum, [cost(3.0), cost(4.0)].into_iter().sum()), (cost(7.0), cost(7.0)));
}
