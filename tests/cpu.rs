//! Guarantees of the CPU backend beyond agreement with the reference: the same bits with any number of threads, and no
//! allocation once its scratch memory has grown.

use mipgpu::{
    backend::Cpu,
    base::rng::{Purpose, Stream},
    mem::{Act, Arena, Dst, F32, Planner, Precision, Span, U32, Var},
    ops::{dropout::Dropout, sort_ids::Sorted, *},
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

/// The system's allocator with a counter.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls are passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        // SAFETY: guaranteed by the caller.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: guaranteed by the caller.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Sizes that leave a remainder everywhere and need several tasks.
const LENGTHS: [usize; 5] = [130, 200, 1, 77, 191];
const T: usize = 200;
const D: usize = 48;
const H: usize = 3;
const V: usize = 1500;
const S: usize = 300;

type Call = Box<dyn Fn(&mut Cpu) + Send + Sync>;

fn call<O: Op>(op: O) -> Call
where
    Cpu: Run<O>,
{
    op.check().unwrap();
    Box::new(move |cpu| cpu.run(&op))
}

/// Builds a backend with the inputs of every op filled in, and a call of every op.
fn everything(products: Precision) -> (Planner, Cpu, Vec<Call>) {
    let n: usize = LENGTHS.iter().sum();
    let m = 333;
    let mut p = Planner::new();
    let (x, y, qkv, wide) = (p.var(n * D), p.var(n * D), p.var(n * 3 * D), p.var(n * 4 * D));
    let (r, wide2, scored, pos_rows, neg_rows) =
        (p.act(n * D), p.var(n * 4 * D), p.var(m * D), p.act(m * D), p.var(S * D));
    let neg_bias = p.act(S);
    let (table, dtable, dtable2, bias, dbias, log_q) =
        (p.stat(V * D), p.stat(V * D), p.stat(V * D), p.stat(V), p.stat(V), p.stat(V));
    let (w, dw, b, db, gamma, dgamma, dbeta) =
        (p.stat(4 * D * D), p.stat(4 * D * D), p.stat(4 * D), p.stat(4 * D), p.stat(D), p.stat(D), p.stat(D));
    let (mean, rstd, lse) = (p.stat(n), p.stat(n), p.stat(H * n));
    let (loss, loss_lse, dloss, mean_loss, norm, ok, hyper) =
        (p.stat(m), p.stat(m), p.stat(m), p.stat(1), p.stat(1), p.stat(1), p.stat(3));
    let (w2, m2, v2) = (p.stat(V * D), p.stat(V * D), p.stat(V * D));
    let (cu, step, target, row, item, pos) = (p.index(6), p.index(1), p.index(m), p.index(m), p.index(n), p.index(n));
    let (by, by2, negative) = (Sorted::plan(&mut p, n), Sorted::plan(&mut p, n + 2 * m + S), p.index(S));
    let (pairs, pair_g, pair_z, g0) = (p.index(2 * m), p.stat(2 * m), p.stat(2 * m), p.stat(m));
    let (scored_rows, own, no_alias) = (p.index(6), p.index(m * S.div_ceil(32)), Span::empty());
    let (free, one) = (p.stat(m), p.index(1));
    let (last, history) = (p.index(V), p.stat(4 * 90));
    let rows = p.stat((n + 2 * m + S) * D);
    let (windows, at, dx) = (p.var(n * 4 * 12), p.index(n * 4 * 12), p.act(n * D));
    // Rank counting and lists: one target per row, but 40 for the first; every third item is excluded for the last row.
    let (target_start, excluded, excluded_start) = (p.index(m + 1), p.index(V / 3), p.index(m + 1));
    let (found, found_score, bad, ranked) = (p.index(m * 10), p.stat(m * 10), p.index(m), p.stat(m));

    let side = SideSpans::plan(&mut p, n);
    let mut cpu = Cpu::with(&p, products);
    side.fill(&mut cpu);
    for (i, span) in
        [x.y, x.dy, y.y, y.dy, qkv.y, wide.y, wide.dy, r, scored.y, pos_rows, neg_rows.y].iter().enumerate()
    {
        let mut draw = Stream::new(1, Purpose::Test, i as u32);
        cpu.write(span.raw(), &(0..span.len()).map(|_| draw.normal()).collect::<Vec<_>>());
    }
    for (i, span) in [table, bias, w, b, gamma, dloss, w2, m2, pair_g].iter().enumerate() {
        let mut draw = Stream::new(2, Purpose::Test, i as u32);
        cpu.write(span.raw(), &(0..span.len()).map(|_| 0.3 * draw.normal()).collect::<Vec<_>>());
    }
    cpu.write(ok.raw(), &[1.0]);
    cpu.write(hyper.raw(), &[1e-3, 1.5, 2.5]);
    cpu.write(ok.raw(), &[1.0]);
    let fill = |cpu: &mut Cpu, span: Span<U32>, f: &dyn Fn(usize) -> usize| {
        cpu.write_ids(span, &(0..span.len()).map(|i| f(i) as u32).collect::<Vec<_>>());
    };
    fill(&mut cpu, cu, &|i| LENGTHS[..i].iter().sum());
    fill(&mut cpu, target, &|i| i * 7919 % V);
    fill(&mut cpu, row, &|i| i + i / 2);
    fill(&mut cpu, item, &|i| i * 31 % 97);
    fill(&mut cpu, pos, &|i| i % T);
    fill(&mut cpu, scored_rows, &|i| m * i / 5);
    // Rows are up to 80 steps behind.
    cpu.write(history.raw(), &(0..4 * 90).map(|i| [1e-3, 1.5, 2.5, -0.01][i % 4]).collect::<Vec<_>>());
    fill(&mut cpu, step, &|_| 80);
    fill(&mut cpu, last, &|i| i % 80);
    fill(&mut cpu, target_start, &|i| if i == 0 { 0 } else { (i + 39).min(m) });
    fill(&mut cpu, excluded, &|i| 3 * i);
    fill(&mut cpu, excluded_start, &|i| if i < m { 0 } else { V / 3 });
    let drop = Dropout { p: 0.2, seed: 3, site: 4 };
    let (b_, k) = (LENGTHS.len(), D / H);
    let (h, contrast) = (scored.y, negative_loss::Contrast::Bce { beta: 0.4 });
    let mut calls = vec![
        call(EmbeddingFwd { y: x.y, item_table: table, pos_table: w2, item, pos, n, d: D, v: V, t: T }),
        call(DropoutFwd { y: y.y, x: x.y, step, n: n * D, drop }),
        call(LayerNormFwd { y: y.y, mean, rstd, x: x.y, gamma, beta: b, n, d: D, eps: 1e-5 }),
        call(LinearFwd { y: qkv.y, x: y.y, w, b, n, i: D, o: 3 * D }),
        call(AttentionFwd { o: y.y, lse, qkv: qkv.y, cu, step, b: b_, n, h: H, k, t: T, causal: true, drop }),
        call(AttentionBwd {
            dqkv: Dst::Write(qkv.dy),
            d_o: y.dy,
            o: y.y,
            qkv: qkv.y,
            lse,
            cu,
            step,
            b: b_,
            n,
            h: H,
            k,
            t: T,
            causal: true,
            drop,
        }),
        call(LinearBwd {
            dx: Dst::Acc(x.dy),
            dw: Dst::Write(dw),
            db: Dst::Write(db),
            dy: qkv.dy,
            x: y.y,
            w,
            n,
            i: D,
            o: 3 * D,
        }),
        call(DropoutAddFwd { y: y.y, residual: r, x: x.y, step, n: n * D, drop }),
        call(GeluFwd { y: wide2.y, x: wide.y, n: n * 4 * D }),
        call(GeluBwd { dx: Dst::Write(wide2.dy), dy: wide.dy, x: wide.y, n: n * 4 * D }),
        call(GatherRows { y: h, x: y.y, row, m, n, d: D }),
        call(CrossEntropyFwd { loss, lse: loss_lse, h, table, bias, target, m, d: D, v: V }),
        call(CrossEntropyBwd {
            dh: Dst::Write(scored.dy),
            dtable: Dst::Write(dtable),
            dbias: Dst::Write(dbias),
            dloss,
            h,
            table,
            bias,
            target,
            lse: loss_lse,
            m,
            d: D,
            v: V,
        }),
        call(WeightedMean { y: mean_loss, x: loss, w: dloss, n: m }),
        call(ScatterRows { dx: Dst::Acc(x.dy), dy: scored.dy, row, m, n, d: D }),
        call(LayerNormBwd {
            dx: Dst::Acc(y.dy),
            dgamma: Dst::Write(dgamma),
            dbeta: Dst::Write(dbeta),
            dy: x.dy,
            x: x.y,
            gamma,
            mean,
            rstd,
            n,
            d: D,
        }),
        call(DropoutBwd { dx: Dst::Acc(y.dy), dy: x.dy, step, n: n * D, drop }),
        call(by.sort(&[(item, n)], V)),
        call(SegmentSum::of(Dst::Acc(dtable), y.dy, &by, [n, D, V])),
        call(PositionSum { dtable: Dst::Write(dtable2.first(T * D)), dy: y.dy, cu, n, d: D, b: b_, t: T }),
        call(DrawNegatives {
            negative,
            alias: no_alias,
            step,
            s: S,
            v: V,
            sampling: draw_negatives::Sampling::Unique,
            seed: 5,
        }),
        call(MarkOwn { own, negative, raw: item, cu, scored: scored_rows, m, s: S, n, b: b_, t: T }),
        call(DrawCandidates {
            id: pairs,
            free,
            mass: no_alias,
            target,
            raw: item,
            cu,
            scored: scored_rows,
            alias: no_alias,
            step,
            m,
            s: 1,
            n,
            b: b_,
            v: V,
            sampling: draw_negatives::Sampling::Uniform,
            own: true,
            seed: 5,
            t: T,
        }),
        call(NegativeLossFwd {
            loss,
            z: pair_z,
            h,
            table,
            bias,
            log_q,
            free,
            id: pairs,
            m,
            d: D,
            s: 1,
            v: V,
            contrast,
        }),
        call(NegativeLossBwd {
            g: pair_g,
            dh: Dst::Write(scored.dy),
            dloss,
            z: pair_z,
            table,
            id: pairs,
            m,
            d: D,
            s: 1,
            v: V,
            contrast,
        }),
        call(GatherTable { y: neg_rows.y, table, id: negative, n: S, d: D, v: V }),
        call(GatherTable { y: pos_rows, table, id: target, n: m, d: D, v: V }),
        call(SampledSoftmaxFwd {
            loss,
            lse: loss_lse,
            h,
            pos: pos_rows,
            neg: neg_rows.y,
            bias,
            log_q,
            target,
            negative,
            own,
            targets: one,
            m,
            d: D,
            s: S,
            in_batch: true,
        }),
        call(SampledSoftmaxBwd {
            g0,
            dh: Dst::Acc(scored.dy),
            dneg: Dst::Write(neg_rows.dy),
            dneg_bias: Dst::Write(neg_bias),
            dloss,
            h,
            pos: pos_rows,
            neg: neg_rows.y,
            bias,
            log_q,
            target,
            negative,
            own,
            targets: one,
            lse: loss_lse,
            m,
            d: D,
            s: S,
            in_batch: true,
        }),
        // Items, negatives, and targets in pairs, twice each.
        call(by2.sort(&[(item, n), (negative, S), (pairs, 2 * m)], V)),
        call(SegmentRows {
            rows,
            dy: y.dy,
            panel: neg_rows.dy,
            g: pair_g,
            h,
            order: by2.order,
            key: by2.key,
            n,
            s: S,
            m,
            p: 2,
            d: D,
            v: V,
        }),
        call(TopK {
            item: found,
            score: found_score,
            bad,
            h,
            table,
            bias,
            excluded,
            excluded_start,
            b: m,
            d: D,
            v: V,
            k: 10,
            e: V / 3,
        }),
        call(CountAtLeast {
            count: found,
            score: ranked,
            bad,
            h,
            table,
            bias,
            target,
            target_start,
            excluded,
            excluded_start,
            b: m,
            d: D,
            v: V,
            n: m,
            e: V / 3,
        }),
        call(ScoreItems { score: ranked, h, table, bias, item: target, start: target_start, b: m, d: D, v: V, p: m }),
        call(CatchUpRows {
            p: w2,
            m: m2,
            v: v2,
            last,
            key: by2.key,
            history,
            ok,
            step,
            n: n + S + 2 * m,
            d: D,
            rows: V,
            ring: 90,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.1,
            all: false,
        }),
        call(AdamWRows {
            p: w2,
            m: m2,
            v: v2,
            last,
            g: rows,
            key: by2.key,
            norm,
            ok,
            hyper,
            step,
            n: n + S + 2 * m,
            d: D,
            rows: V,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.1,
            max_norm: 1.0,
        }),
        call(GradNorm { norm, g: dtable, n: V * D }),
        call(WindowConvFwd { y: windows.y, at, x: x.y, w, bias: b, cu, b: b_, n, d: D, l: 4, f: 12 }),
        call(WindowConvBwd {
            dx: Dst::Write(dx),
            dw: Dst::Write(dw),
            db: Dst::Write(db),
            dy: windows.y,
            at,
            x: x.y,
            w,
            cu,
            b: b_,
            n,
            d: D,
            l: 4,
            f: 12,
        }),
        call(VerticalConvFwd { y: wide.y, x: x.y, w, bias: b, cu, b: b_, n, d: D, l: 7, f: 4 }),
        call(VerticalConvBwd {
            dx: Dst::Acc(dx),
            dw: Dst::Acc(dw),
            db: Dst::Acc(db),
            dy: wide.y,
            x: x.y,
            w,
            cu,
            b: b_,
            n,
            d: D,
            l: 7,
            f: 4,
        }),
        call(AdamW {
            p: w2,
            m: m2,
            v: v2,
            g: dtable,
            norm,
            ok,
            hyper,
            n: V * D,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.1,
            max_norm: 1.0,
        }),
    ];
    calls.extend(side.calls(x, y, cu, item));
    (p, cpu, calls)
}

/// The spans of ops of side fields and user vectors that other ops do not have.
struct SideSpans {
    lists: BagLists,
    start: Span<U32>,
    value: Span<U32>,
    owner: Span<U32>,
    key: Span<U32>,
    share: Span<F32>,
    bags: Span<Act>,
    ditem: Span<F32>,
    dtable: Span<F32>,
    of: Var,
    wide: Var,
    part: Span<Act>,
    w: Span<F32>,
    n: usize,
}

impl SideSpans {
    fn plan(p: &mut Planner, n: usize) -> Self {
        // One value of the second field belongs to all items: a run of many parts.
        let first: Vec<Vec<u32>> = (0..V).map(|i| (0..i % 4).map(|k| (i * (k + 3) % 90) as u32).collect()).collect();
        let lists = BagLists::new(V, &[90, 2], |item, f| if f == 0 { &first[item] } else { &[1] }).unwrap();
        let (z, pairs) = (lists.size().values, lists.size().pairs());
        SideSpans {
            start: p.index(pairs + 1),
            value: p.index(z),
            owner: p.index(z),
            key: p.index(z),
            share: p.stat(pairs),
            bags: p.act(n * 2 * D),
            ditem: p.stat(pairs * D),
            dtable: p.stat(92 * D),
            of: p.var(LENGTHS.len() * D),
            wide: p.var(n * 2 * D),
            part: p.act(n * D),
            w: p.stat(n),
            lists,
            n,
        }
    }

    fn fill(&self, cpu: &mut Cpu) {
        let l = &self.lists;
        for (span, ids) in [(self.start, &l.start), (self.value, &l.value), (self.owner, &l.owner), (self.key, &l.key)]
        {
            cpu.write_ids(span, ids);
        }
        cpu.write(self.share.raw(), &l.share);
        for (i, span) in [self.ditem, self.w, self.dtable].iter().enumerate() {
            let mut draw = Stream::new(3, Purpose::Test, i as u32);
            cpu.write(span.raw(), &(0..span.len()).map(|_| draw.normal()).collect::<Vec<_>>());
        }
    }

    fn calls(&self, x: Var, y: Var, cu: Span<U32>, item: Span<U32>) -> Vec<Call> {
        let SideSpans { start, value, owner, key, share, bags, ditem, dtable, of, wide, part, w, n, .. } = *self;
        let (b, d, size, widths) = (LENGTHS.len(), D, self.lists.size(), [D, D, 0]);
        let none = Span::empty();
        vec![
            call(BagFwd { y: bags, table: dtable, item, start, value, share, n, size, d }),
            call(BagBwd { dtable: Dst::Write(dtable), ditem, owner, key, share, size, d }),
            call(PoolFwd { y: of.y, x: x.y, w, cu, b, n, d }),
            call(PoolBwd { dx: Dst::Write(part), dy: of.y, w, cu, b, n, d }),
            call(SpreadBwd { dx: Dst::Write(of.dy), dy: y.dy, cu, b, n, d }),
            call(SpreadFwd { y: part, x: of.dy, cu, b, n, d }),
            call(ConcatFwd { y: wide.y, a: x.y, b: part, c: none, n, widths }),
            call(ConcatBwd { da: Dst::Skip, db: Dst::Write(part), dc: Dst::Skip, dy: wide.y, n, widths }),
        ]
    }
}

fn bits(p: &Planner, cpu: &mut Cpu) -> Vec<u32> {
    [Arena::Act, Arena::Stat]
        .iter()
        .flat_map(|&arena| {
            let mut values = vec![0.0; p.len(arena)];
            cpu.read(p.whole(arena), &mut values);
            values
        })
        .map(f32::to_bits)
        .collect()
}

/// One test, because the allocations of a second one would be counted too.
#[test]
fn threads_change_no_bit_and_a_second_step_allocates_nothing() {
    for products in [Precision::F32, Precision::Bf16] {
        promises(products);
    }
}

fn promises(products: Precision) {
    let mut results = Vec::new();
    for threads in [1, 2, 3, 8] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (p, mut cpu, calls) = everything(products);
        pool.install(|| calls.iter().for_each(|call| call(&mut cpu)));
        results.push(bits(&p, &mut cpu));
        if threads <= 2 {
            // Threads take tasks in arbitrary order, so every thread's scratch memory has grown only after some steps.
            let mut clean = 0;
            for _ in 0..200 {
                let before = ALLOCATIONS.load(SeqCst);
                pool.install(|| calls.iter().for_each(|call| call(&mut cpu)));
                let grew = ALLOCATIONS.load(SeqCst) - before;
                clean = if grew == 0 { clean + 1 } else { 0 };
                if clean == 5 {
                    break;
                }
            }
            assert_eq!(clean, 5, "{threads} threads still allocate");
        }
    }
    assert!(f32::from_bits(results[0][0]).is_finite());
    for r in &results[1..] {
        let differing = r.iter().zip(&results[0]).filter(|(a, b)| a != b).count();
        assert_eq!(differing, 0, "elements that depend on the number of threads");
    }
}
