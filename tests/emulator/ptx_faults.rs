//! Faults planted in the inline assembly of the kernels, which the emulator cannot see: it runs host versions of these
//! instructions. Each must be found by `mipgpu check` on the interpreter. Those of Ampere are planted in a copy of the
//! source and compiled to PTX by nvcc. Those of Hopper are planted in the PTX itself, which holds the assembly
//! unchanged: nvcc takes long for cross_entropy.cu. Without nvcc at build time, this test says so and does nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use mipgpu::backend::simt::kernels::PTX;

use crate::{
    proofs::{Failures, wanted},
    ptx_parity::there_is_ptx,
};

/// A modification of `kernels/common/ptx.cuh`, or of the PTX of a Hopper variant.
struct Fault {
    what: &'static str,
    from: &'static str,
    to: &'static str,
    hopper: bool,
}

const fn fault(what: &'static str, from: &'static str, to: &'static str) -> Fault {
    Fault { what, from, to, hopper: false }
}

const fn in_hopper(what: &'static str, from: &'static str, to: &'static str) -> Fault {
    Fault { what, from, to, hopper: true }
}

/// The products of gemm.cu use ldmatrix, mma and cp.async.
const FAULTS: &[Fault] = &[
    fault(
        "fragments of ldmatrix in the wrong order",
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}",
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%1,%0,%2,%3}",
    ),
    fault("fragments of a left operand in the wrong order", "{%4,%5,%6,%7}, {%8,%9}", "{%4,%6,%5,%7}, {%8,%9}"),
    fault("fragments of a right operand in the wrong order", "{%8,%9}, {%0", "{%9,%8}, {%0"),
    fault("a transposition left out", "m8n8.x4.trans.shared", "m8n8.x4.shared"),
    fault("a copy that reads what is not wanted", "\"r\"(wanted ? 16 : 0)", "\"r\"(16)"),
    fault("a wait that leaves one group too many", "::\"n\"(N) : \"memory\"", "::\"n\"(N + 1) : \"memory\""),
    fault("copies in no group", "asm volatile(\"cp.async.commit_group;\" ::: \"memory\");", ""),
    in_hopper("a right operand that is not transposed", "p, 1, 1, 1; }", "p, 1, 1, 0; }"),
    in_hopper("a right operand that is transposed", "p, 1, 1, 0, 0; }", "p, 1, 1, 0, 1; }"),
    in_hopper("registers that are not fenced", "wgmma.fence.sync.aligned;", ""),
    in_hopper("products that are not waited for", "wgmma.wait_group.sync.aligned 0;", ""),
    in_hopper("a wait that leaves one group", "wgmma.wait_group.sync.aligned 0;", "wgmma.wait_group.sync.aligned 1;"),
    in_hopper("sums that begin anew", "setp.eq.u32 p, 0, 0;", "setp.ne.u32 p, 0, 0;"),
    in_hopper("copies that are not fenced for wgmma", "fence.proxy.async.shared::cta;", ""),
];

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

/// Writes the PTX of a file with a fault to `folder`.
fn plant_in_ptx(fault: &Fault, unit: &str, target: &str, folder: &Path) {
    let (.., path) = PTX.iter().find(|(name, of, _)| (*name, *of) == (unit, target)).unwrap();
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(fault.from), "{unit}: `{}` is not there any more: plant it anew", fault.from);
    fs::write(folder.join(format!("{unit}.{target}.ptx")), text.replace(fault.from, fault.to)).unwrap();
}

/// Compiles one source with a fault to PTX in `folder`.
fn plant(fault: &Fault, unit: &str, target: &str, folder: &Path) {
    let text = fs::read_to_string(kernels().join("common/ptx.cuh")).unwrap();
    assert!(text.contains(fault.from), "ptx.cuh: `{}` is not there any more: plant it anew", fault.from);
    fs::create_dir(folder.join("common")).unwrap();
    for header in fs::read_dir(kernels().join("common")).unwrap() {
        let header = header.unwrap();
        fs::copy(header.path(), folder.join("common").join(header.file_name())).unwrap();
    }
    fs::write(folder.join("common/ptx.cuh"), text.replace(fault.from, fault.to)).unwrap();
    let source = folder.join(format!("{unit}.cu"));
    fs::copy(kernels().join(format!("{unit}.cu")), &source).unwrap();
    let out = Command::new(option_env!("MIPGPU_NVCC").unwrap_or("nvcc"))
        .args(["-std=c++17", "-O3", "-ptx", "-gencode", &format!("arch=compute_{target},code=compute_{target}"), "-o"])
        .arg(folder.join(format!("{unit}.{target}.ptx")))
        .arg(&source)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}: {}", fault.what, String::from_utf8_lossy(&out.stderr));
}

/// Returns whether `mipgpu check` passes with the PTX of this folder.
fn passes(folder: &Path, fault: &Fault, only: &str, (order, copies): (&str, &str)) -> bool {
    let out = Command::new(env!("CARGO_BIN_EXE_mipgpu"))
        .args(["check", "--device", if fault.hopper { "ptx90a" } else { "ptx" }, "--only", only])
        // The Hopper variants are of bf16.
        .args(["--precision", "bf16"].iter().filter(|_| fault.hopper))
        .env("MIPGPU_PTX_FOLDER", folder)
        .envs([("MIPGPU_EMU_ORDER", order), ("MIPGPU_EMU_COPY", copies)])
        .env("MIPGPU_WGMMA", if fault.hopper { "1" } else { "" })
        .output()
        .unwrap();
    let said = [out.stdout, out.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
    // Exit code 1 means that the device was lost: the interpreter has refused an instruction.
    assert!(matches!(out.status.code(), Some(0..=2)), "{said}");
    out.status.success()
}

#[test]
#[ignore = "takes over ten minutes: cargo test --test emulator ptx_faults -- --ignored"]
fn every_fault_in_the_assembly_is_found() {
    if !there_is_ptx() {
        return;
    }
    let mut failures = Failures::default();
    let whole = tempfile::tempdir().unwrap();
    for fault in FAULTS.iter().filter(|fault| wanted(&[fault.what])) {
        let (unit, only, target) =
            if fault.hopper { ("cross_entropy", "cross_entropy", "90a") } else { ("gemm", "linear", "80") };
        failures.of(fault.what, || {
            let folder = tempfile::tempdir_in(&whole).unwrap();
            match fault.hopper {
                true => plant_in_ptx(fault, unit, target, folder.path()),
                false => plant(fault, unit, target, folder.path()),
            }
            let orders = [("forward", "wait"), ("random", "random")];
            let found = orders.into_iter().any(|order| !passes(folder.path(), fault, only, order));
            if found { Ok(()) } else { Err("not found".into()) }
        });
    }
    failures.report();
}
