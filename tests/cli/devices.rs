//! Devices: those that are missing or unsuitable, and the CUDA backend on the emulator from the outside. Environment
//! variables of a child process set the properties of the emulated device (kernels/emu/device.h).

use std::fs;

use super::{Place, TINY, assert_no_leftovers};

const EMU: &str = "--width 16 --heads 2 --blocks 1 --length 12 --batch 32 --epochs 2 --eval-every 1 --device emu";

fn refused_with(p: &Place, env: &[(&str, &str)], line: &str, says: &[&str]) {
    let mut command = p.command(line);
    command.envs(env.iter().copied());
    let out = command.output().unwrap();
    let err = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{line} {env:?}: {err}");
    says.iter().for_each(|s| assert!(err.contains(s), "{line} {env:?}: no '{s}' in: {err}"));
}

#[test]
fn devices_that_do_not_exist_are_refused() {
    let p = Place::new();
    p.refused(&format!("train data --out run {TINY} --device gpu"), &["auto, cpu, cuda, cuda:N"]);
    p.refused(&format!("train data --out run {TINY} --device cuda:x"), &["auto, cpu, cuda, cuda:N"]);
    // Without a driver or with a driver that exposes no device, the program fails and never falls back to another
    // device.
    let nothing = [("CUDA_VISIBLE_DEVICES", "")];
    refused_with(&p, &nothing, &format!("train data --out run {TINY} --device cuda"), &["error: ", "--device cpu"]);
    assert!(!p.path("run").join("last.safetensors").exists());
    for (env, says) in [
        (("MIPGPU_EMU_DEVICES", "0"), "there is no device emu"),
        (("MIPGPU_EMU_CC", "70"), "compute capability 7.0"),
        (("MIPGPU_EMU_DRIVER", "12020"), "driver is too old: it knows CUDA 12.2"),
        (("MIPGPU_EMU_MEMORY", "100000"), "of device memory"),
    ] {
        refused_with(&p, &[env], &format!("train data --out run {EMU}"), &[says, "hint: "]);
        assert!(!p.path("run").exists(), "a run that could not begin leaves nothing: {env:?}");
    }
    // A head size without a kernel is rejected before the first step, with the supported sizes.
    p.refused(
        "train data --out run --width 512 --heads 2 --length 12 --device emu",
        &["attention_fwd", "256", "128", "--device cpu"],
    );
}

#[test]
fn a_device_that_falls_away_leaves_the_last_checkpoint_and_any_device_goes_on_from_it() {
    let p = Place::new();
    p.well(&format!("train data --out whole -q {EMU} --checkpoint-seconds 0"));
    // The device is lost later in each round, until the first of the two epochs completes and the second does not.
    for launches in (100..).step_by(60) {
        let _ = fs::remove_dir_all(p.path("lost"));
        let flags = format!("train data --out lost -q {EMU} --checkpoint-seconds 0");
        refused_with(
            &p,
            &[("MIPGPU_EMU_FAIL", &format!("lost:{launches}"))],
            &flags,
            &["emu", "failed in", "--resume"],
        );
        assert_no_leftovers(&p.path("lost"));
        match fs::read_to_string(p.path("lost/metrics.jsonl")).unwrap().lines().count() {
            0 => continue,
            done => assert_eq!(done, 1, "lost after both epochs: {launches} launches are too many"),
        }
        break;
    }
    p.copy("lost", "copy");
    // The same device gives the same bytes; the CPU gives nearly the same quality.
    p.well("train --resume lost -q --device emu");
    assert!(p.read("lost/last.safetensors") == p.read("whole/last.safetensors"));
    p.well("train --resume copy -q --device cpu");
    p.well("eval whole");
    let loss = |run: &str| {
        let curve = fs::read_to_string(p.path(run).join("metrics.jsonl")).unwrap();
        let last: serde_json::Value = serde_json::from_str(curve.lines().last().unwrap()).unwrap();
        last["loss"].as_f64().unwrap()
    };
    let (emu, cpu) = (loss("lost"), loss("copy"));
    assert!((emu - cpu).abs() < 0.02 * emu, "second epoch: loss {emu} on the emulator in bf16, {cpu} on the CPU");
    let told: Vec<_> = p.text("copy/timing.jsonl").lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |row: &serde_json::Value| [row["device"].clone(), row["precision"].clone()];
    assert_eq!(told.iter().map(of).collect::<Vec<_>>(), [["emu", "bf16"], ["cpu", "f32"]]);
}

#[test]
fn devices_and_check_tell_what_there_is() {
    let p = Place::new();
    let said = p.well("devices");
    for word in ["cpu ", "kernels ", "emu ", "auto "] {
        assert!(said.contains(word), "{said}");
    }
    // An installed program has no clone next to it.
    assert!(!said.contains("scripts/"), "{said}");
    let built = said.lines().find(|l| l.starts_with("kernels ")).unwrap();
    assert_eq!(built.contains("none: built without the CUDA kernels"), built.contains("NVCC=/path/to/nvcc"), "{built}");
    let json: serde_json::Value = serde_json::from_str(&p.well("devices --json")).unwrap();
    assert_eq!(json["emulator"], true);
    let said = p.well("check --device emu --only gelu");
    assert!(said.contains("gelu_fwd") && said.contains("ok") && !said.contains("FAILED"), "{said}");
    p.well("check --device cpu --only weighted_mean");
    p.refused("check --device cpu --only nothing-of-the-kind", &["nothing-of-the-kind"]);
}

/// Every op and every whole step of the CPU engine in f32, as a user checks it.
#[test]
fn the_cpu_passes_its_check_in_f32() {
    let p = Place::new();
    let said = p.well("check --device cpu --precision f32");
    for word in ["linear_fwd", "attention_fwd", "step ("] {
        assert!(said.contains(word), "no {word}: {said}");
    }
    assert!(!said.contains("FAILED"), "{said}");
}

/// Returns the memory plan that `train --json` prints.
fn memory_of(p: &Place, run: &str, env: &[(&str, &str)]) -> serde_json::Value {
    let out = p.command(&format!("train data --out {run} --json {EMU}")).envs(env.iter().copied()).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(0), "{text} {}", String::from_utf8_lossy(&out.stderr));
    let ready = text.lines().find(|l| l.contains("\"ready\"")).expect("the run tells when it is ready");
    let ready: serde_json::Value = serde_json::from_str(ready).unwrap();
    let parts = ready["memory"].as_object().unwrap();
    assert_eq!(parts.values().filter_map(|v| v.as_u64()).sum::<u64>(), ready["bytes"].as_u64().unwrap(), "{ready}");
    ready["memory"].clone()
}

#[test]
fn data_that_the_device_cannot_hold_pass_by_batch_by_batch_to_the_same_bytes() {
    let p = Place::new();
    let roomy = memory_of(&p, "held", &[]);
    let rows: u64 = (0..120).map(|u| 6 + u % 30).sum();
    assert_eq!(roomy["data"].as_u64(), Some(4 * rows), "the interactions are held");
    // Slightly more than everything else needs, and less than the sixteenth that is left to other programs.
    let rest = roomy.as_object().unwrap().iter().filter(|(k, _)| *k != "data").filter_map(|(_, v)| v.as_u64());
    let memory = (rest.sum::<u64>() + (1 << 20)) * 103 / 100;
    let tight = memory_of(&p, "streamed", &[("MIPGPU_EMU_MEMORY", &memory.to_string())]);
    assert!(tight["data"].is_null(), "{tight}");
    p.assert_same_run("held", "streamed");
}

#[test]
fn a_plan_that_does_not_fit_names_the_largest_batch_that_does() {
    let p = Place::new();
    let memory = [("MIPGPU_EMU_MEMORY", "9000000")];
    let line = |batch: &str| format!("train data --out run -q {} --batch {batch}", EMU.replace("--batch 32", ""));
    let out = p.command(&line("512")).envs(memory).output().unwrap();
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(1) && err.contains("MB of device memory"), "{err}");
    let named = err.split("--batch ").nth(1).expect("a batch is named").split(' ').next().unwrap();
    let named: usize = named.parse().unwrap_or_else(|_| panic!("{err}"));
    assert!((2..512).contains(&named), "{err}");
    // The named batch fits, including scratch memory; twice as much does not.
    let tried = |batch: usize| p.command(&line(&batch.to_string())).envs(memory).output().unwrap().status.code();
    assert_eq!((tried(named), tried(2 * named)), (Some(0), Some(1)), "{err}");
    let elsewhere = line("512").replace("--out run", "--out none");
    refused_with(&p, &[("MIPGPU_EMU_MEMORY", "100000")], &elsewhere, &["not even one sequence"]);
}
