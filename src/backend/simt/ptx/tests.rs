//! The interpreter against independent values: loops in f64, the fragments of the ISA's formulas, and programs that
//! must be refused.

use super::{
    alu::{Registers, compute, is_fast},
    arithmetic::*,
    block::{Counts, Launch, Order, Timing, launch},
    memory::Allocation,
    module::Module,
    program::Op,
    tensor::{Sums, left_place, sum_place},
};

/// A module with one kernel `k` of one parameter, the address of memory, in `%rd1`.
fn module(body: &str) -> String {
    module_for("sm_80", body)
}

fn module_for(target: &str, body: &str) -> String {
    format!(
        ".version 9.0\n.target {target}\n.address_size 64\n.extern .shared .align 1024 .b8 smem[];\n\
         .visible .entry k(\n.param .align 8 .b8 k_param_0[8]\n)\n.maxntid 128, 1, 1\n{{\n\
         .reg .pred %p<20>;\n.reg .b16 %rs<20>;\n.reg .b32 %r<80>;\n.reg .f32 %f<80>;\n.reg .b64 %rd<20>;\n\
         ld.param.u64 %rd1, [k_param_0];\nmov.u32 %r0, %tid.x;\nmul.wide.u32 %rd2, %r0, 4;\nadd.s64 %rd3, %rd1, %rd2;\n\
         {body}\nret;\n}}\n"
    )
}

/// Settings of a launch.
#[derive(Clone, Copy)]
struct With {
    threads: u32,
    order: Order,
    timing: Timing,
    races: bool,
}

const PLAIN: With = With { threads: 32, order: Order::Forward, timing: Timing::AtWait, races: false };

/// Runs a body on `memory`, with 16 KiB of shared memory.
fn run(text: &str, memory: &mut [u8], with: With) -> Result<Counts, String> {
    let module = Module::parse(text)?;
    let kernel = module.kernel("k").unwrap()?;
    let start = 4096;
    let params = u64::to_le_bytes(start);
    let what = Launch {
        kernel,
        grid: [1, 1, 1],
        block: [with.threads, 1, 1],
        dynamic: 16384,
        shared_limit: 101_376,
        params: &params,
        order: with.order,
        timing: with.timing,
        seed: 7,
        poison: true,
        races: with.races,
        sums: Sums::InOrder,
    };
    launch(&what, vec![Allocation { start, bytes: memory }])
}

/// Runs a body that stores a word a thread, from a word a thread.
fn words(body: &str, input: &[u32], threads: u32) -> Result<Vec<u32>, String> {
    let mut memory: Vec<u8> = input.iter().flat_map(|x| x.to_le_bytes()).collect();
    run(&module(body), &mut memory, With { threads, ..PLAIN })?;
    Ok(memory.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect())
}

fn refused(body: &str, with: With, why: &str) {
    let said = run(&module(body), &mut [0; 1024], with).expect_err("a program that must be refused");
    assert!(said.contains(why), "{said}");
}

#[test]
fn arithmetic_of_floats_is_that_of_f64_rounded_once() {
    let mut x = 1u32;
    let mut draw = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from_bits(x % 0x3000_0000 + 0x2000_0000) * if x & 1 == 0 { 1.0 } else { -1.0 }
    };
    for _ in 0..2000 {
        let (a, b) = (draw(), draw());
        // A sum may need more than the 53 bits of f64; rounding it once more keeps the order of the three numbers.
        let exact = (a as f64 + b as f64).abs();
        let low = add_to_zero(a, b).abs();
        assert!(low as f64 <= exact && low.next_up() as f64 >= exact, "{a} + {b}: {low}");
        let product = a as f64 * b as f64;
        let low = fma_down(a, b, 0.0);
        assert!(low as f64 <= product && low.next_up() as f64 > product, "{a} * {b}: {low}");
    }
    assert_eq!(fma_down(1.0, 1.0, -1.0).to_bits(), (-0.0f32).to_bits());
    assert_eq!(fma_down(f32::MAX, 2.0, 0.0), f32::MAX);
    assert_eq!(add_to_zero(1.0, -f32::EPSILON / 4.0), 1.0f32.next_down());
    assert_eq!(min(f32::NAN, 3.0), 3.0);
    assert_eq!(max(-0.0, 0.0).to_bits(), 0);
    assert_eq!(min(0.0, -0.0).to_bits(), 0x8000_0000);
    assert_eq!((bf16(0x3f80_8000), bf16(0x3f81_8000), bf16(0x7fc0_0001)), (0x3f80, 0x3f82, 0x7fff));
    assert_eq!(permute(0x3322_1100, 0x7766_5544, 0x7410), 0x7744_1100);
    assert_eq!(permute(0x0000_0080, 0, 0x8888), 0xffff_ffff);
    assert_eq!((insert(0b101, u64::MAX, 4, 3) as u32, extract(0xabcd, 4, 8)), (0xffff_ffdf, 0xbc));
}

#[test]
fn fused_multiply_add_is_fused_with_and_without_the_instruction() {
    // 1 + 2^-12 squared is 1 + 2^-11 + 2^-24: a product and a sum would lose the last term.
    let x = 1.0 + 2f32.powi(-12);
    let text = module("ld.global.f32 %f1, [%rd3];\nfma.rn.f32 %f2, %f1, %f1, 0fBF800000;\nst.global.f32 [%rd3], %f2;");
    let mut memory: Vec<u8> = [x; 32].iter().flat_map(|x| x.to_le_bytes()).collect();
    run(&text, &mut memory, PLAIN).unwrap();
    let got = f32::from_le_bytes(memory[..4].try_into().unwrap());
    assert_eq!(got as f64, (x as f64 * x as f64 - 1.0) as f32 as f64);
    let module = Module::parse(&text).unwrap();
    let kernel = module.kernel("k").unwrap().unwrap();
    let i = kernel.code.iter().find(|i| i.op == Op::FmaF).unwrap();
    for fast in [false, is_fast()] {
        let mut r = Registers { words: vec![[0; 32]; kernel.words], ..Registers::default() };
        (r.words[i.a as usize], r.words[i.c as usize]) = ([x.to_bits(); 32], [(-1f32).to_bits(); 32]);
        assert!(compute(&mut r, i, u32::MAX, fast));
        assert_eq!(r.words[i.to as usize], [got.to_bits(); 32]);
    }
}

#[test]
fn integers_shifts_and_conversions() {
    let input: Vec<u32> = (0..32).map(|i| i * 0x0765_4321).collect();
    let got = words(
        "ld.global.u32 %r1, [%rd3];\nshr.s32 %r2, %r1, 40;\nshl.b32 %r3, %r1, 33;\nbrev.b32 %r4, %r1;\n\
         popc.b32 %r5, %r1;\nbfind.shiftamt.u32 %r6, %r1;\nmul.hi.u32 %r7, %r1, %r1;\nadd.s32 %r8, %r2, %r3;\n\
         add.s32 %r8, %r8, %r4;\nadd.s32 %r8, %r8, %r5;\nadd.s32 %r8, %r8, %r6;\nadd.s32 %r8, %r8, %r7;\n\
         st.global.u32 [%rd3], %r8;",
        &input,
        32,
    )
    .unwrap();
    for (x, got) in input.iter().zip(got) {
        let high = ((*x as u64 * *x as u64) >> 32) as u32;
        let want = ((*x as i32 >> 31) as u32)
            .wrapping_add(x.reverse_bits())
            .wrapping_add(x.count_ones())
            .wrapping_add(if *x == 0 { u32::MAX } else { x.leading_zeros() })
            .wrapping_add(high);
        assert_eq!(got, want, "{x:#x}");
    }
}

#[test]
fn shuffles_and_votes_by_the_formulas_of_the_isa() {
    let input: Vec<u32> = (0..32).map(|i| 100 + i).collect();
    let shuffle = |how: &str, b: u32, c: u32| {
        let body = format!(
            "ld.global.u32 %r1, [%rd3];\nshfl.sync.{how}.b32 %r2|%p1, %r1, {b}, {c}, -1;\nst.global.u32 [%rd3], %r2;"
        );
        words(&body, &input, 32).unwrap()
    };
    for lane in 0..32u32 {
        let l = lane as usize;
        assert_eq!(shuffle("bfly", 5, 31)[l], 100 + (lane ^ 5));
        assert_eq!(shuffle("up", 3, 0)[l], 100 + if lane >= 3 { lane - 3 } else { lane });
        assert_eq!(shuffle("down", 3, 31)[l], 100 + if lane + 3 < 32 { lane + 3 } else { lane });
        // Segments of eight lanes.
        assert_eq!(shuffle("idx", 2, 0x181f)[l], 100 + lane / 8 * 8 + 2);
    }
    let odd = words(
        "and.b32 %r1, %r0, 1;\nsetp.ne.s32 %p1, %r1, 0;\nvote.sync.ballot.b32 %r2, %p1, -1;\n\
         st.global.u32 [%rd3], %r2;",
        &input,
        32,
    );
    assert_eq!(odd.unwrap(), [0xaaaa_aaaa; 32]);
}

#[test]
fn lanes_that_diverge_meet_again() {
    let body = "setp.lt.u32 %p1, %r0, 10;\nmov.u32 %r1, 1;\n@%p1 bra $L_less;\nmov.u32 %r1, 2;\nbra.uni $L_end;\n\
                $L_less:\nadd.s32 %r1, %r1, 4;\n$L_end:\nredux.sync.add.u32 %r2, %r1, -1;\nst.global.u32 [%rd3], %r2;";
    assert_eq!(words(body, &[0; 32], 32).unwrap(), [10 * 5 + 22 * 2; 32]);
}

#[test]
fn products_of_mma_have_the_layout_of_the_isa() {
    // a (16, 16) and b (16, 8): small integers, exact in bf16.
    let a = |row: usize, k: usize| ((row * 3 + k * 5) % 7) as f32 - 3.0;
    let b = |k: usize, column: usize| ((k * 2 + column * 3) % 5) as f32 - 2.0;
    let pair = |x: f32, y: f32| x.to_bits() >> 16 | (y.to_bits() & 0xffff_0000);
    let mut memory = vec![0u8; 32 * 40];
    for lane in 0..32 {
        // The figures of the ISA: thread t has group g = t / 4 and number n = t % 4 in it.
        let (g, n) = (lane / 4, lane % 4 * 2);
        let registers = [
            pair(a(g, n), a(g, n + 1)),
            pair(a(g + 8, n), a(g + 8, n + 1)),
            pair(a(g, n + 8), a(g, n + 9)),
            pair(a(g + 8, n + 8), a(g + 8, n + 9)),
            pair(b(n, g), b(n + 1, g)),
            pair(b(n + 8, g), b(n + 9, g)),
        ];
        for (i, r) in registers.iter().enumerate() {
            memory[lane * 40 + i * 4..][..4].copy_from_slice(&r.to_le_bytes());
        }
    }
    let body = "mul.wide.u32 %rd4, %r0, 40;\nadd.s64 %rd5, %rd1, %rd4;\nld.global.v2.u32 {%r1, %r2}, [%rd5];\n\
                ld.global.v2.u32 {%r3, %r4}, [%rd5+8];\nld.global.v2.u32 {%r5, %r6}, [%rd5+16];\n\
                mov.f32 %f1, 0f3F800000;\n\
                mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f2,%f3,%f4,%f5}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, \
                {%f1,%f1,%f1,%f1};\n\
                st.global.v2.f32 [%rd5+24], {%f2, %f3};\nst.global.v2.f32 [%rd5+32], {%f4, %f5};";
    run(&module(body), &mut memory, PLAIN).unwrap();
    for lane in 0..32 {
        let (g, n) = (lane / 4, lane % 4 * 2);
        for (i, (row, column)) in [(g, n), (g, n + 1), (g + 8, n), (g + 8, n + 1)].into_iter().enumerate() {
            let bytes = memory[lane * 40 + 24 + i * 4..][..4].try_into().unwrap();
            let want = 1.0 + (0..16).map(|k| a(row, k) as f64 * b(k, column) as f64).sum::<f64>();
            assert_eq!(f32::from_le_bytes(bytes) as f64, want, "row {row}, column {column}");
            assert_eq!(sum_place(lane, i), (row, column));
        }
        assert_eq!([2, 4].map(|i| left_place(lane, i)), [(g + 8, n), (g, n + 8)]);
    }
}

#[test]
fn the_interpreter_refuses_what_the_isa_does_not_allow() {
    refused("frobnicate.u32 %r1, %r2;", PLAIN, "line 19: `frobnicate.u32 %r1, %r2`");
    refused("add.sat.s32 %r1, %r1, %r2;", PLAIN, "not known");
    refused("add.s32 %r1, %rd1, %r2;", PLAIN, "%rd1 has not 32 bits");
    refused("ld.global.u32 %r1, [%rd1+1022];", PLAIN, "not a multiple");
    refused("ld.global.u32 %r1, [%rd1+1024];", PLAIN, "1024 bytes into an allocation of 1024");
    refused("mov.u32 %r1, 16384;\nst.shared.u32 [%r1], %r0;", PLAIN, "shared memory by lane 0");
    let half = "setp.lt.u32 %p1, %r0, 16;\n@%p1 bra $L_skip;\nbar.sync 0;\n$L_skip:\n";
    // Half of the warp ends before the barrier: then it need not come.
    run(&module(&half.replace("$L_skip:", "$L_skip:\nret;")), &mut [0; 1024], PLAIN).unwrap();
    refused(&format!("{half}bar.sync 0;"), PLAIN, "not all lanes");
    refused("shfl.sync.idx.b32 %r1, %r0, 0, 31, 1;", PLAIN, "not in its own member mask");
    refused("mov.u32 %r1, smem;\ncp.async.cg.shared.global [%r1], [%rd1], 16;", PLAIN, "has not waited for");
}

#[test]
fn races_between_warps_are_found() {
    let exchange = |barrier: &str| {
        format!(
            "mov.u32 %r1, smem;\nshl.b32 %r2, %r0, 2;\nadd.s32 %r3, %r1, %r2;\nst.shared.u32 [%r3], %r0;\n{barrier}\n\
             xor.b32 %r4, %r2, 128;\nadd.s32 %r5, %r1, %r4;\nld.shared.u32 %r6, [%r5];\nst.global.u32 [%rd3], %r6;"
        )
    };
    for order in [Order::Forward, Order::Backward, Order::Random] {
        let with = With { threads: 64, order, races: true, ..PLAIN };
        refused(&exchange(""), with, "a race: ");
        let mut memory = [0; 256];
        run(&module(&exchange("bar.sync 0;")), &mut memory, with).unwrap();
        assert_eq!(memory[4], 33);
    }
}

#[test]
fn a_copy_arrives_at_its_wait_at_the_latest_and_its_request_at_the_earliest() {
    let body = |wait: &str| {
        format!(
            "mov.u32 %r1, smem;\nshl.b32 %r2, %r0, 4;\nadd.s32 %r3, %r1, %r2;\nmul.wide.u32 %rd4, %r0, 16;\n\
             add.s64 %rd5, %rd1, %rd4;\ncp.async.cg.shared.global [%r3], [%rd5], 16;\ncp.async.commit_group;\n\
             cp.async.wait_group {wait};\nld.shared.u32 %r4, [%r3];\ncp.async.wait_all;\nst.global.u32 [%rd5+4], %r4;"
        )
    };
    let read = |wait: &str, timing: Timing| {
        let mut memory = [1; 512];
        run(&module(&body(wait)), &mut memory, With { timing, ..PLAIN }).unwrap();
        memory[4]
    };
    assert_eq!((read("0", Timing::AtWait), read("1", Timing::AtIssue)), (1, 1));
    assert_eq!(read("1", Timing::AtWait), 0xff, "read before the copy has arrived");
}

/// A product of 64 x 64 x 16 by four warps: both operands in shared memory, with the swizzle of 128 bytes.
/// `before` stands before the product, `after` behind the last commit.
fn wgmma(before: &str, fence: &str, after: &str) -> String {
    let accumulators: Vec<String> = (10..42).map(|i| format!("%f{i}")).collect();
    let zeros: String = accumulators.iter().map(|f| format!("mov.f32 {f}, 0f00000000;\n")).collect();
    // Descriptor: start / 16, stride 1024 / 16 at bit 32, swizzle of 128 bytes at bit 62. A row holds 64 of k.
    let body = format!(
        "mov.u32 %r1, smem;\nmov.u32 %r2, %r0;\n$L_fill:\nshl.b32 %r3, %r2, 2;\nadd.s32 %r4, %r1, %r3;\n\
         st.shared.u32 [%r4], 1065369472;\nadd.s32 %r2, %r2, 128;\nsetp.lt.u32 %p1, %r2, 4096;\n@%p1 bra $L_fill;\n\
         {before}\nbar.sync 0;\n{zeros}mov.u64 %rd4, 4611686293305294848;\n\
         mov.u64 %rd5, 4611686293305295360;\n{fence}\n\
         setp.eq.u32 %p2, 0, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {{{list}}}, %rd4, %rd5, %p2, \
         1, 1, 0, 0;\nwgmma.commit_group.sync.aligned;\n{after}\nst.global.f32 [%rd3], %f10;\n\
         wgmma.wait_group.sync.aligned 0;",
        list = accumulators.join(",")
    );
    module_for("sm_90a", &body)
}

#[test]
fn wgmma_needs_its_fences_and_its_wait() {
    let (fence, wait) = ("wgmma.fence.sync.aligned;", "wgmma.wait_group.sync.aligned 0;");
    let proxy = "fence.proxy.async.shared::cta;";
    for timing in [Timing::AtWait, Timing::AtIssue, Timing::Random] {
        let with = With { threads: 128, timing, races: true, ..PLAIN };
        let first = |text: &str| {
            let mut memory = [0; 512];
            run(text, &mut memory, with).map(|_| f32::from_le_bytes(memory[..4].try_into().unwrap()))
        };
        // All elements are 1 (0x3f80 twice in a word).
        assert_eq!(first(&wgmma(proxy, fence, wait)), Ok(16.0));
        let said = first(&wgmma("", fence, wait)).unwrap_err();
        assert!(said.contains("without fence.proxy.async"), "{said}");
        let said = first(&wgmma(proxy, "", wait)).unwrap_err();
        assert!(said.contains("without wgmma.fence"), "{said}");
        if timing == Timing::AtWait {
            assert!(first(&wgmma(proxy, fence, "")).unwrap().is_nan(), "read before the wait");
        }
    }
}

#[test]
fn the_parameter_is_read_by_name_and_by_address() {
    let body = "mov.b64 %rd4, k_param_0;\nmov.u64 %rd5, %rd4;\nld.param.u64 %rd6, [%rd5+0];\n\
                sub.s64 %rd7, %rd6, %rd1;\ncvt.u32.u64 %r1, %rd7;\nadd.s32 %r1, %r1, 9;\nst.global.u32 [%rd3], %r1;";
    assert_eq!(words(body, &[0; 32], 32).unwrap(), [9; 32]);
    refused(
        "mov.b64 %rd4, k_param_0;\nld.param.u32 %r1, [%rd4+8];",
        PLAIN,
        "a read of 4 bytes at 8 of 8 of parameters",
    );
}

#[test]
fn functions_are_called_with_arguments_in_memory() {
    let text = module(
        "{\n.reg .b32 temp_param_reg;\n.param .b32 param0;\nst.param.b32 [param0+0], %r0;\n.param .b32 retval0;\n\
         call.uni (retval0),\ntwice,\n(\nparam0\n);\nld.param.b32 %r1, [retval0+0];\n}\nst.global.u32 [%rd3], %r1;",
    );
    let function = ".func (.param .b32 func_retval0) twice(\n.param .b32 twice_param_0\n)\n{\n.reg .b32 %r<3>;\n\
                    ld.param.u32 %r1, [twice_param_0];\nadd.s32 %r2, %r1, %r1;\nst.param.b32 [func_retval0+0], %r2;\n\
                    ret;\n}\n";
    let mut memory = [0; 128];
    run(&text.replace(".visible", &format!("{function}.visible")), &mut memory, PLAIN).unwrap();
    assert_eq!((memory[0], memory[4], memory[124]), (0, 2, 62));
}

#[test]
fn truncated_sums_drop_what_the_largest_addend_hides() {
    // 2^24 hides 1 below its last place but one: eight of them are lost, where exact sums would keep them.
    let ones = [1.0; 8];
    assert_eq!(tensor_sum(0.0, &ones, &ones), 8.0);
    assert_eq!(tensor_sum(2f32.powi(26), &ones, &ones), 2f32.powi(26));
    assert_eq!(tensor_sum(2f32.powi(23), &ones, &ones), 2f32.powi(23) + 8.0);
}
