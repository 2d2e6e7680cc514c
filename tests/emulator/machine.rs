//! Tests the emulator that the kernels are proved on. Planted faults are detected, each by the tool responsible for it,
//! and their correct counterparts pass. Shuffles, tensor-core products, asynchronous copies and rounding agree with
//! plain loops. The programs are in tests/emulator/ and are built by g++, with and without sanitizers.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};

/// The instrumentation of a program: the name of the build, the flags of g++, and the options of the runtime.
const BUILDS: [(&str, &[&str], &str); 3] = [
    ("plain", &[], "-DPLAIN"),
    ("asan", &["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"], "-DSIMT_ASAN"),
    ("tsan", &["-fsanitize=thread"], "-DSIMT_TSAN"),
];
/// -O1 compiles faster than the -O2 of the real build, and these tests do not depend on it.
const FLAGS: [&str; 10] = [
    "-std=c++20",
    "-O1",
    "-g1",
    "-fno-tree-loop-distribute-patterns",
    "-fno-strict-aliasing",
    "-pthread",
    "-DMIPGPU_EMU",
    "-Wall",
    "-Wextra",
    "-Werror",
];

fn sources(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)));
    files.sort();
    files
}

fn gcc(args: &[String]) {
    let out = Command::new("g++").args(args).output().expect("the emulator's tests need g++ (apt install g++)");
    assert!(out.status.success(), "g++ {}\n{}", args.join(" "), String::from_utf8_lossy(&out.stderr));
}

/// Compiles and links everything, or reuses a build of the same sources; returns the folder of the programs.
fn build() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (emu, own) = (root.join("kernels/emu"), root.join("tests/emulator"));
    let version = Command::new("g++").arg("--version").output();
    let version = version.expect("the emulator's tests need g++ (apt install g++)").stdout;
    let mut hash = DefaultHasher::new();
    (version, FLAGS, BUILDS).hash(&mut hash);
    let common = root.join("kernels/common");
    for folder in [&emu, &own, &common] {
        for file in sources(folder, &["h", "hpp", "cpp", "cu", "cuh"]) {
            std::fs::read(file).unwrap().hash(&mut hash);
        }
    }
    let done = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("emulator-{:016x}", hash.finish()));
    if done.exists() {
        return done;
    }

    // Only the parts that call a sanitizer differ between builds; only the kernels are instrumented.
    let part = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let at = |name: String| part.path().join(name).display().to_string();
    let stem = |file: &Path| file.file_stem().unwrap().to_string_lossy().into_owned();
    let mut compile: Vec<Vec<String>> = vec![];
    let mut link: Vec<Vec<String>> = vec![];
    let mut object = |source: &Path, build: &str, flags: &[&str]| {
        let object = at(format!("{}-{}-{build}.o", stem(source), source.extension().unwrap().display()));
        let mut args: Vec<String> = FLAGS.iter().chain(flags).map(|f| f.to_string()).collect();
        args.extend(["-Wno-unknown-pragmas", "-c", "-x", "c++"].map(String::from));
        args.extend([source.display().to_string(), "-o".into(), object.clone()]);
        if !compile.contains(&args) {
            compile.push(args);
        }
        object
    };
    for (build, sanitize, told) in BUILDS {
        let runtime: Vec<String> = sources(&emu, &["cpp"])
            .iter()
            .map(|file| match std::fs::read_to_string(file).unwrap().contains("SAN(") {
                true => object(file, build, &[told]),
                false => object(file, "all", &[]),
            })
            .collect();
        for program in ["faults", "semantics"] {
            let kernels = object(&own.join(program).with_extension("cu"), build, sanitize);
            let host = object(&own.join(program).with_extension("cpp"), "all", &[]);
            let mut args: Vec<String> = sanitize.iter().map(|f| f.to_string()).collect();
            args.extend(["-pthread".into(), kernels, host]);
            args.extend(runtime.iter().cloned());
            args.extend(["-o".into(), at(format!("{program}-{build}"))]);
            link.push(args);
        }
    }
    for jobs in [compile, link] {
        let next = Mutex::new(jobs.iter());
        std::thread::scope(|s| {
            for _ in 0..std::thread::available_parallelism().map_or(2, |n| n.get()) {
                s.spawn(|| {
                    while let Some(job) = { next.lock().unwrap().next() } {
                        gcc(job);
                    }
                });
            }
        });
    }
    if std::fs::rename(part.keep(), &done).is_err() {
        assert!(done.exists(), "could not keep {}", done.display()); // another process was faster
    }
    done
}
static PROGRAMS: LazyLock<PathBuf> = LazyLock::new(build);

/// Returns everything a program prints, and whether it succeeds.
fn run(program: &str, args: &[&str], environment: &[(&str, &str)]) -> (String, bool) {
    let path = PROGRAMS.join(program);
    // TSan requires fixed memory addresses, which the address randomization of some kernels prevents.
    let mut command = match program.ends_with("tsan") && Path::new("/usr/bin/setarch").exists() {
        true => Command::new("setarch"),
        false => Command::new("env"),
    };
    if program.ends_with("tsan") && Path::new("/usr/bin/setarch").exists() {
        command.arg("-R");
    }
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MIPGPU_EMU_")) {
        command.env_remove(name);
    }
    command.env("ASAN_OPTIONS", "detect_leaks=0").env("TSAN_OPTIONS", "exitcode=66");
    let out = command.arg(path).args(args).envs(environment.iter().copied()).output().unwrap();
    let text = [out.stdout, out.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
    (text, out.status.success())
}

/// A planted fault and the message about it: from the emulator itself, from ASan, from TSan. An empty message means
/// that the tool cannot detect it, or need not, because the emulator reports it in any build.
struct Fault {
    kernel: &'static str,
    emulator: &'static str,
    asan: &'static str,
    tsan: &'static str,
}
const fn fault(kernel: &'static str, emulator: &'static str, asan: &'static str, tsan: &'static str) -> Fault {
    Fault { kernel, emulator, asan, tsan }
}
const OVERRUN: &str = "AddressSanitizer: use-after-poison";
const RACE: &str = "ThreadSanitizer: data race";
const FAULTS: [Fault; 19] = [
    fault("barrier", "is nan", "", RACE),
    fault("second_barrier", "wrong", "", RACE),
    fault("divergent_barrier", "__syncthreads reached from two places", "", "__syncthreads reached from two places"),
    fault("stuck", "deadlock", "deadlock", "deadlock"),
    fault("shuffle", "lanes of one warp meet at different calls", "", ""),
    fault("shuffle_mask", "wrong", "", ""),
    fault("async_copy", "is nan", "", RACE),
    fault("async_groups", "is nan", "", RACE),
    fault("warp_order", "is nan", "", RACE),
    fault("shared_write", "past the 512 bytes of dynamic shared memory", OVERRUN, ""),
    fault("shared_read", "is nan", OVERRUN, ""),
    fault("static_write", "past a static shared array", OVERRUN, ""),
    fault("uninitialised", "is nan", "", ""),
    fault("tail", "past the end of an allocation of 800 bytes", OVERRUN, ""),
    fault("global_read", "wrong", OVERRUN, ""),
    fault("global_write", "4 bytes before an allocation of 800 bytes", OVERRUN, ""),
    fault("across_blocks", "", "", RACE),
    fault("last_block", "", "", RACE),
    fault("launch_bound", "the launch bound is 64", "", ""),
];

fn healthy(program: &str, environment: &[(&str, &str)]) {
    let names: Vec<String> = FAULTS.iter().map(|f| format!("{}_healthy", f.kernel)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (text, well) = run(program, &names, environment);
    let want: String = names.iter().map(|n| format!("{n} ok\n")).collect();
    assert!(well && text == want, "{program} {environment:?}\n{text}");
}

fn broken(build: &str, kernel: &str, said: &str, environment: &[(&str, &str)]) {
    let (text, well) = run(&format!("faults-{build}"), &[&format!("{kernel}_broken")], environment);
    let text = text.replace("-nan", "nan");
    assert!(!well && text.contains(said), "{kernel}, {build}, {environment:?}: expected \"{said}\" in\n{text}");
}

#[test]
fn healthy_kernels_pass_in_every_order_and_with_every_timing_of_copies() {
    for order in ["forward", "backward", "random"] {
        for copy in ["wait", "issue", "random"] {
            for (poison, threads) in [("1", "1"), ("1", "3"), ("0", "1")] {
                let environment = [
                    ("MIPGPU_EMU_ORDER", order),
                    ("MIPGPU_EMU_COPY", copy),
                    ("MIPGPU_EMU_POISON", poison),
                    ("MIPGPU_EMU_THREADS", threads),
                ];
                healthy("faults-plain", &environment);
            }
        }
    }
}

#[test]
fn the_emulator_catches_planted_faults_in_every_order() {
    for f in FAULTS.iter().filter(|f| !f.emulator.is_empty()) {
        for order in ["forward", "backward", "random"] {
            broken("plain", f.kernel, f.emulator, &[("MIPGPU_EMU_ORDER", order)]);
        }
    }
}

#[test]
fn address_sanitizer_catches_overruns() {
    healthy("faults-asan", &[]);
    for f in FAULTS.iter().filter(|f| !f.asan.is_empty()) {
        broken("asan", f.kernel, f.asan, &[]);
    }
}

#[test]
fn thread_sanitizer_catches_races_of_lanes_warps_and_blocks() {
    healthy("faults-tsan", &[]);
    for f in FAULTS.iter().filter(|f| !f.tsan.is_empty()) {
        broken("tsan", f.kernel, f.tsan, &[]);
    }
}

#[test]
fn warps_tensor_cores_copies_and_rounding_do_what_their_definitions_say() {
    assert_eq!(run("semantics-plain", &["kernels"], &[]), ("ok\n".into(), true));
    assert_eq!(run("semantics-asan", &["kernels"], &[]), ("ok\n".into(), true));
}

#[test]
fn the_driver_checks_what_it_is_given_and_loses_the_device_on_demand() {
    assert_eq!(run("semantics-plain", &["driver"], &[]), ("ok\n".into(), true));
}

#[test]
fn the_environment_makes_other_devices() {
    let open = |name, value| run("semantics-plain", &["open"], &[(name, value)]).0;
    let usual = open("MIPGPU_EMU_SEED", "7");
    assert_eq!(usual, "driver 13000\ndevices 1 capability 8.0 memory 8589934592\n");
    assert!(open("MIPGPU_EMU_DEVICES", "0").contains("cuInit CUDA_ERROR_NO_DEVICE"));
    assert!(open("MIPGPU_EMU_DEVICES", "3").contains("devices 3 "));
    assert!(open("MIPGPU_EMU_MEMORY", "4096").contains("memory 4096\n"));
    assert!(open("MIPGPU_EMU_FAIL", "oom:5000").contains("memory 5000\n"));
    assert!(open("MIPGPU_EMU_CC", "70").contains("capability 7.0"));
    assert!(open("MIPGPU_EMU_CC", "70").contains("cuModuleLoadData CUDA_ERROR_NO_BINARY_FOR_GPU"));
    assert!(open("MIPGPU_EMU_DRIVER", "12020").starts_with("driver 12020\n"));
    assert!(open("MIPGPU_EMU_DRIVER", "12020").contains("cuModuleLoadData CUDA_ERROR_UNSUPPORTED_PTX_VERSION"));
    for (name, value) in [("MIPGPU_EMU_ORDER", "sideways"), ("MIPGPU_EMU_FAIL", "lost:"), ("MIPGPU_EMU_SEED", "-1")] {
        let text = open(name, value);
        assert!(
            text.contains("cuInit CUDA_ERROR_INVALID_VALUE") && text.contains(&format!("{name}={value}")),
            "{text}"
        );
    }
    let (text, well) = run("faults-plain", &["barrier_healthy", "tail_healthy"], &[("MIPGPU_EMU_FAIL", "lost:1")]);
    assert!(!well && text.starts_with("barrier_healthy ok\nerror") && text.contains("the device was lost"), "{text}");
}
