//! Faults planted in the kernels' sources are detected by `mipgpu check`, which measures the value of its checks. Each
//! fault is compiled into a separate emulator; the unmodified sources pass the same checks
//! (`tests/emulator/parity.rs`).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::proofs::{Failures, wanted};

/// A modification of a source, and the operations with cases that must fail because of it. For `common/group.cuh`,
/// cross_entropy.cu includes the modified file, and the Hopper variants run.
struct Fault {
    what: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
    only: &'static str,
}

const FAULTS: &[Fault] = &[
    Fault {
        what: "a dropped __syncthreads: tiles are read before other warps have loaded them",
        file: "attention.cu",
        from: "    __syncthreads();  // the tile is visible",
        to: "    // the tile is visible",
        only: "attention",
    },
    Fault {
        what: "a dropped wait: tiles are read before their copies have arrived",
        file: "attention_bwd.cu",
        from: "    cp_async_wait<0>();",
        to: "",
        only: "attention",
    },
    Fault {
        what: "an off-by-one tail: one key beyond the sequence is seen",
        file: "attention.cu",
        from: "if (j >= part.len ||",
        to: "if (j > part.len ||",
        only: "attention",
    },
    Fault {
        what: "an off-by-one tail: the last rows are left out",
        file: "gelu.cu",
        from: "if (i >= p.n) return;",
        to: "if (i + 8 >= p.n) return;",
        only: "gelu",
    },
    Fault {
        what: "swapped arguments",
        file: "layer_norm.cu",
        from: "p.mean[row] = mean, p.rstd[row] = rstd;",
        to: "p.rstd[row] = mean, p.mean[row] = rstd;",
        only: "layer_norm",
    },
    Fault {
        what: "a missing barrier between two uses of shared memory",
        file: "bias.cu",
        from: "  __syncthreads();",
        to: "",
        only: "linear",
    },
    Fault {
        what: "a dropped __syncwarp: a count is advanced before all lanes have read it",
        file: "sort_ids.cu",
        from: "    __syncwarp();  // all lanes have read the count that the first lane of each digit advances",
        to: "",
        only: "sort_ids",
    },
    Fault {
        what: "a dropped __syncwarp: one lane writes the step of a row before the others have read it",
        file: "row_adamw.cu",
        from: "  __syncwarp();  // all lanes of the row have read `last` before one of them writes it",
        to: "",
        only: "catch_up_rows",
    },
    Fault {
        what: "taps in the wrong direction in the backward pass",
        file: "dilated_conv_bwd.cu",
        from: "const Taps taps = {p.taps, p.dilation, p.lead, -1};",
        to: "const Taps taps = {p.taps, p.dilation, p.lead, 1};",
        only: "dilated_conv",
    },
    Fault {
        what: "a step that begins before its state is complete",
        file: "gru.cu",
        from: "    __syncthreads();  // the next operand is complete",
        to: "    // the next operand is complete",
        only: "gru",
    },
    Fault {
        what: "negatives that a user has seen",
        file: "draw_negatives.cu",
        from: "if (slots[at] == item) return true;",
        to: "if (slots[at] == item) return false;",
        only: "draw_candidates",
    },
    Fault {
        what: "a missing barrier: one warp adds sums that the others have not written yet",
        file: "sequence_rows.cu",
        from: "  __syncthreads();",
        to: "",
        only: "pool",
    },
    Fault {
        what: "an off-by-one: the first column of a part is read from the previous part",
        file: "concat.cu",
        from: "if (col < a + b) return",
        to: "if (col <= a + b) return",
        only: "concat",
    },
    Fault {
        what: "a sum of the values of an item instead of their mean",
        file: "field_bag.cu",
        from: "share = p.share[o];",
        to: "share = 1.f;",
        only: "bag",
    },
    Fault {
        what: "maxima that reach into the previous sequence",
        file: "window_conv.cu",
        from: "j <= min(reach, before)",
        to: "j <= reach && j <= r",
        only: "window_conv",
    },
    Fault {
        what: "a missing barrier: c overwrites tiles that other warps still read",
        file: "window_conv.cu",
        from: "  __syncthreads();  // the stages are no longer read; c overwrites them",
        to: "",
        only: "window_conv",
    },
    Fault {
        what: "a dropped fence: copied data may be invisible to wgmma",
        file: "common/group.cuh",
        from: "{ fence_async(); }",
        to: "{}",
        only: "cross_entropy",
    },
    Fault {
        what: "a dropped wait: accumulators are used before wgmma has written them",
        file: "common/group.cuh",
        from: "y + k * 2);  // 16 columns are 32 bytes\n  wgmma_wait();",
        to: "y + k * 2);",
        only: "cross_entropy",
    },
    Fault {
        what: "a descriptor that advances by eight rows instead of sixteen",
        file: "common/group.cuh",
        from: "y + k * 128",
        to: "y + k * 64",
        only: "cross_entropy",
    },
];

const HOPPER: &str = "common/group.cuh";

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

/// Builds the emulator with every occurrence of `from` in one source replaced.
fn plant(fault: &Fault, folder: &Path) -> PathBuf {
    let text = fs::read_to_string(kernels().join(fault.file)).unwrap();
    assert!(text.contains(fault.from), "{}: `{}` is not there any more: plant it anew", fault.file, fault.from);
    let unit = if fault.file == HOPPER { "cross_entropy.cu" } else { fault.file };
    let (source, object, library) = (folder.join(unit), folder.join("altered.o"), folder.join("emu.so"));
    // The included files of a source must be next to it.
    fs::create_dir(folder.join("common")).unwrap();
    std::os::unix::fs::symlink(kernels().join("emu"), folder.join("emu")).unwrap();
    for header in fs::read_dir(kernels().join("common")).unwrap() {
        let header = header.unwrap();
        fs::copy(header.path(), folder.join("common").join(header.file_name())).unwrap();
    }
    fs::copy(kernels().join(unit), &source).unwrap();
    fs::write(folder.join(fault.file), text.replace(fault.from, fault.to)).unwrap();
    let mut words = env!("MIPGPU_EMU_COMPILE").split_whitespace();
    let cxx = words.next().unwrap();
    let run = |c: &mut Command| {
        let out = c.output().unwrap_or_else(|e| panic!("{cxx} (a C++ compiler) is needed: {e}"));
        assert!(out.status.success(), "{}: {}", fault.what, String::from_utf8_lossy(&out.stderr));
    };
    run(Command::new(cxx).args(words).arg("-O1").args(["-c", "-x", "c++"]).arg(&source).arg("-o").arg(&object));
    let stem = unit.trim_end_matches(".cu");
    let ours = |o: &&str| Path::new(o).file_name().unwrap().to_str().unwrap().rsplit_once('-').unwrap().0 != stem;
    let rest: Vec<&str> = env!("MIPGPU_EMU_OBJECTS").split(':').filter(ours).collect();
    assert_eq!(rest.len() + 1, env!("MIPGPU_EMU_OBJECTS").split(':').count());
    run(Command::new(cxx)
        .args(["-shared", "-pthread", "-Wl,-soname,libcuda.so"])
        .args(rest)
        .arg(&object)
        .arg("-o")
        .arg(&library));
    library
}

/// Returns whether `mipgpu check` passes on this emulator in some order of threads and copies.
fn passes(library: &Path, fault: &Fault, order: &str, copies: &str) -> (bool, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_mipgpu"))
        .args(["check", "--device", "emu", "--only", fault.only])
        .env("MIPGPU_EMU_LIB", library)
        .envs([("MIPGPU_EMU_ORDER", order), ("MIPGPU_EMU_COPY", copies)])
        .env("MIPGPU_WGMMA", if fault.file == HOPPER { "1" } else { "" })
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    // Exit code 1 means that the device was lost; no further check is possible then.
    assert!(matches!(out.status.code(), Some(0..=2)), "{said}{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.status.success(), !said.contains("FAILED"), "{said}");
    (out.status.success(), said)
}

#[test]
fn every_planted_fault_is_caught() {
    let mut failures = Failures::default();
    for fault in FAULTS.iter().filter(|fault| wanted(&[fault.only, fault.file])) {
        failures.of(&format!("{} ({}, cases of {})", fault.what, fault.file, fault.only), || {
            let folder = tempfile::tempdir().unwrap();
            let library = plant(fault, folder.path());
            // A fault of order shows in one order or the other, which is why parity runs in all of them.
            let orders = [("forward", "wait"), ("backward", "issue"), ("random", "random")];
            let caught = orders.iter().any(|(order, copies)| !passes(&library, fault, order, copies).0);
            if caught { Ok(()) } else { Err("not caught".into()) }
        });
    }
    failures.report();
}
