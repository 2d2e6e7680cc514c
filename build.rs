/*! Compiles the kernels in `kernels/` twice.

With nvcc: one fatbin per file (SASS for the architectures below, PTX for later ones), embedded in the binary. nvcc is
searched in $NVCC, $CUDA_HOME, $CUDA_PATH, the PATH, /usr/local/cuda and `.cuda/` (created by `scripts/get-nvcc.sh`).
Without nvcc the crate is built without CUDA kernels, with a warning; `mipgpu devices` explains what to do.

With the host's C++ compiler, in the dev profile and with the feature `emu`: the same files as a substitute for the CUDA
driver library, the emulator used by the tests. A release binary never depends on it.

It also parses the parameter structs and the KERNEL lines of the sources and generates the Rust side, so that names,
fields and block sizes are defined once. Results are cached by a hash of all inputs: only changed files are compiled
again.

Without the feature `cuda` it does nothing.
*/

#![allow(clippy::print_stdout)]

use std::{
    collections::hash_map::DefaultHasher,
    env, fs,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
};

/// Data-centre and consumer GPUs of the last generations (SASS), each with the PTX that it is assembled from. Kernels
/// have no code of their own for the others, and the front end takes more than half of the time.
const ARCHITECTURES: [(&str, &str); 5] = [("80", "80"), ("89", "80"), ("90a", "90a"), ("100", "100"), ("120", "100")];

/// The PTX that fatbins hold: the oldest for later GPUs, and that of the Hopper variants, which tests read.
const KEPT_PTX: [&str; 2] = ["80", "90a"];

fn main() {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap());
    let out = PathBuf::from(env::var("OUT_DIR").unwrap());
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rustc-check-cfg=cfg(emu)");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "CXX", "CXXFLAGS_EMU"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let files = sources(&root.join("kernels"), "cu");
    let shared: String =
        ["common", "."].iter().flat_map(|d| sources(&root.join("kernels").join(d), "cuh")).map(|f| read(&f)).collect();
    // Shared by all profiles, since the kernels are the same.
    let cache = out.ancestors().nth(4).unwrap_or(&out).join("mipgpu-kernels");
    fs::create_dir_all(&cache).unwrap();

    fs::write(out.join("kernels.rs"), rust_side(&files, &shared)).unwrap();
    let wanted = env::var("PROFILE").unwrap() == "debug" || env::var_os("CARGO_FEATURE_EMU").is_some();
    let emulated = wanted && env::var("CARGO_CFG_TARGET_OS").unwrap() == "linux";
    fs::write(out.join("fatbins.rs"), fatbins(&root, &files, &shared, &cache, emulated)).unwrap();
    if emulated {
        emulator(&root, &files, &shared, &cache);
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Files of a folder with this extension, sorted by name.
fn sources(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .collect();
    all.sort();
    all
}

fn stem(path: &Path) -> &str {
    path.file_stem().unwrap().to_str().unwrap()
}

/// The cache key of a result.
fn key(parts: &[&str]) -> String {
    let mut hash = DefaultHasher::new();
    parts.hash(&mut hash);
    format!("{:016x}", hash.finish())
}

/// Runs `jobs` on as many threads as cargo allows. The first failure stops the build and prints the compiler's output.
fn all_of(jobs: Vec<(String, Command)>) {
    let threads = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize);
    let queue = std::sync::Mutex::new(jobs.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some((what, mut command)) = queue.lock().unwrap().next() else { return };
                    let done = command.output().unwrap_or_else(|e| panic!("{what}: {command:?}: {e}"));
                    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
                    // ptxas reports only as an information message that it serializes wgmma products.
                    if !done.status.success() || err.contains("are serialized") || out.contains("are serialized") {
                        panic!("{what} failed: {command:?}\n{out}{err}");
                    }
                }
            });
        }
    });
}

// ------------------------------------------------------------------------------------------------------------- nvcc

fn find_nvcc(root: &Path) -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = Vec::new();
    if let Some(nvcc) = env::var_os("NVCC") {
        // Set but empty: build without CUDA kernels.
        if nvcc.is_empty() {
            return None;
        }
        let nvcc = PathBuf::from(nvcc);
        assert!(nvcc.is_file(), "NVCC={}: no such file", nvcc.display());
        return Some(nvcc);
    }
    places.extend(["CUDA_HOME", "CUDA_PATH"].iter().filter_map(env::var_os).map(|d| PathBuf::from(d).join("bin/nvcc")));
    if let Some(path) = env::var_os("PATH") {
        places.extend(env::split_paths(&path).map(|d| d.join("nvcc")));
    }
    places.push("/usr/local/cuda/bin/nvcc".into());
    let ours = root.join(".cuda");
    println!("cargo:rerun-if-changed={}", ours.join("ready").display());
    if let Ok(text) = fs::read_to_string(ours.join("ready")) {
        places.push(PathBuf::from(text.trim()));
    }
    places.into_iter().find(|p| p.is_file())
}

/// Compiles the changed files and returns the Rust tables of all fatbins, and of their PTX if that is interpreted.
fn fatbins(root: &Path, files: &[PathBuf], shared: &str, cache: &Path, interpreted: bool) -> String {
    let Some(nvcc) = find_nvcc(root) else {
        println!(
            "cargo:warning=nvcc not found: building without CUDA kernels (the CPU engine is complete); \
             run scripts/get-nvcc.sh to download nvcc, see `mipgpu devices`"
        );
        return "pub static FATBINS: &[(&str, &[u8])] = &[];\npub const ARCHITECTURES: &[&str] = &[];\n\
                pub const NVCC_VERSION: (i32, i32) = (0, 0);\n\
                pub static PTX: &[(&str, &str, &str)] = &[];\n"
            .into();
    };
    let ask = |flag: &str| {
        let done = Command::new(&nvcc).arg(flag).output().unwrap_or_else(|e| panic!("{}: {e}", nvcc.display()));
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    let (version, known) = (ask("--version"), ask("--list-gpu-code"));
    let sass: Vec<(&str, &str)> = ARCHITECTURES
        .into_iter()
        // The list omits the suffix of architecture-specific targets.
        .filter(|(name, _)| known.lines().any(|l| l.trim() == format!("sm_{}", name.trim_end_matches('a'))))
        .collect();
    assert!(!sass.is_empty(), "{}: supports none of the architectures that mipgpu builds for", nvcc.display());
    // Spills and warnings are errors.
    let flags = "-std=c++17 -O3 --fatbin -lineinfo -Xptxas --warn-on-spills -Werror all-warnings";
    let mut flags: Vec<String> = flags.split(' ').map(String::from).collect();
    // The smallest form takes seconds for each file.
    if version.contains("release 13") && env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        flags.push("--compress-mode=size".into());
    }
    for same in sass.chunk_by(|a, b| a.1 == b.1) {
        let ptx = same[0].1;
        let mut code: Vec<String> = same.iter().map(|(name, _)| format!("sm_{name}")).collect();
        code.extend(KEPT_PTX.contains(&ptx).then(|| format!("compute_{ptx}")));
        flags.extend(["-gencode".into(), format!("arch=compute_{ptx},code=[{}]", code.join(","))]);
    }
    let (mut jobs, mut moves, mut table) = (Vec::new(), Vec::new(), String::new());
    let mut built = Vec::new();
    for file in files {
        let name = stem(file);
        let done = cache.join(format!("{name}-{}.fatbin", key(&[&version, &flags.join(" "), shared, &read(file)])));
        table += &format!("    ({name:?}, include_bytes!({:?})),\n", done.display().to_string());
        if !done.exists() {
            let half = done.with_extension("part");
            let mut command = Command::new(&nvcc);
            command.args(&flags).arg("-o").arg(&half).arg(file);
            jobs.push((format!("nvcc on kernels/{name}.cu"), command));
            moves.push((half, done.clone()));
        }
        built.push((name, done));
    }
    all_of(jobs);
    moves.iter().for_each(|(half, done)| fs::rename(half, done).unwrap());
    let ptx = if interpreted { ptx_of(&nvcc, &built) } else { String::new() };
    // For the tests that plant a fault in one source and compile it to PTX.
    println!("cargo:rustc-env=MIPGPU_NVCC={}", nvcc.display());
    // "Cuda compilation tools, release 13.0, V13.0.88"
    let release = version.split("release ").nth(1).and_then(|r| r.split(',').next()).and_then(|r| r.split_once('.'));
    let (major, minor) = release.unwrap_or_else(|| panic!("{}: cannot parse the version: {version}", nvcc.display()));
    let names: Vec<&str> = sass.iter().map(|(name, _)| *name).collect();
    format!(
        "pub static FATBINS: &[(&str, &[u8])] = &[\n{table}];\n\
         /// Architectures with machine code in the fatbins, oldest first: \"80\" is sm_80.\n\
         pub const ARCHITECTURES: &[&str] = &{names:?};\n\
         /// CUDA release of the nvcc that compiled the fatbins.\n\
         pub const NVCC_VERSION: (i32, i32) = ({major}, {minor});\n\
         /// The PTX in the fatbins: source file, architecture, path of the text. Only where it is interpreted.\n\
         pub static PTX: &[(&str, &str, &str)] = &[\n{ptx}];\n"
    )
}

/// Extracts the PTX of the fatbins, next to them, with the tool that lies next to nvcc. Returns rows of a Rust table.
fn ptx_of(nvcc: &Path, fatbins: &[(&str, PathBuf)]) -> String {
    let tool = nvcc.with_file_name("cuobjdump");
    if !tool.is_file() {
        println!("cargo:warning={}: not found, building without the PTX interpreter's kernels", tool.display());
        return String::new();
    }
    let mut table = String::new();
    for (name, fatbin) in fatbins {
        let texts: Vec<PathBuf> = KEPT_PTX.iter().map(|ptx| fatbin.with_extension(format!("{ptx}.ptx"))).collect();
        if !texts.iter().all(|text| text.exists()) {
            // The tool writes to the current folder.
            let folder = fatbin.with_extension("ptx.part");
            fs::create_dir_all(&folder).unwrap();
            let mut extract = Command::new(&tool);
            extract.args(["-xptx", "all"]).arg(fatbin).current_dir(&folder);
            all_of(vec![(format!("cuobjdump on the fatbin of kernels/{name}.cu"), extract)]);
            for (ptx, text) in KEPT_PTX.iter().zip(&texts) {
                let end = format!(".sm_{ptx}.ptx");
                let written = sources(&folder, "ptx").into_iter().find(|p| p.display().to_string().ends_with(&end));
                let written = written.unwrap_or_else(|| panic!("{}: no PTX of compute_{ptx}", fatbin.display()));
                fs::rename(written, text).unwrap();
            }
            fs::remove_dir_all(&folder).unwrap();
        }
        for (ptx, text) in KEPT_PTX.iter().zip(&texts) {
            table += &format!("    ({name:?}, {ptx:?}, {:?}),\n", text.display().to_string());
        }
    }
    table
}

// --------------------------------------------------------------------------------------------------------- emulator

fn emulator(root: &Path, files: &[PathBuf], shared: &str, cache: &Path) {
    let cxx = env::var("CXX").unwrap_or_else(|_| "g++".into());
    let Ok(version) = Command::new(&cxx).arg("--version").output() else {
        println!("cargo:warning=C++ compiler {cxx} not found: building without the emulator, its tests will fail");
        return;
    };
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let emu = root.join("kernels/emu");
    let headers: String = ["h", "hpp"].iter().flat_map(|e| sources(&emu, e)).map(|f| read(&f)).collect();
    let extra = env::var("CXXFLAGS_EMU").unwrap_or_default();
    let mut flags = vec![
        "-std=c++20",
        "-O2",
        "-g1",
        "-fPIC",
        "-fvisibility=hidden",
        "-fno-tree-loop-distribute-patterns",
        "-fno-strict-aliasing",
    ];
    flags.extend(["-pthread", "-DMIPGPU_EMU", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]);
    flags.extend(extra.split_whitespace());
    let (mut jobs, mut moves, mut objects) = (Vec::new(), Vec::new(), Vec::new());
    for file in files.iter().cloned().chain(sources(&emu, "cpp")) {
        let text = key(&[&version, &flags.join(" "), shared, &headers, &read(&file)]);
        let object = cache.join(format!("{}-{text}.o", stem(&file)));
        if !object.exists() {
            let half = object.with_extension("part");
            let mut command = Command::new(&cxx);
            command.args(&flags).args(["-c", "-x", "c++"]).arg(&file).arg("-o").arg(&half);
            jobs.push((format!("{cxx} on {}", file.display()), command));
            moves.push((half, object.clone()));
        }
        objects.push(object);
    }
    all_of(jobs);
    moves.iter().for_each(|(half, done)| fs::rename(half, done).unwrap());
    // The SONAME is that of the driver: once loaded, the search for libcuda.so finds this library.
    let names: Vec<String> = objects.iter().map(|o| o.display().to_string()).collect();
    let library =
        cache.join(format!("libmipgpu-emu-{}.so", key(&names.iter().map(String::as_str).collect::<Vec<_>>())));
    if !library.exists() {
        let half = library.with_extension("part");
        let mut link = Command::new(&cxx);
        link.args(["-shared", "-pthread", "-Wl,-soname,libcuda.so"])
            .args(extra.split_whitespace())
            .args(&objects)
            .arg("-o")
            .arg(&half);
        all_of(vec![("linking the emulator".into(), link)]);
        fs::rename(&half, &library).unwrap();
    }
    println!("cargo:rustc-cfg=emu");
    println!("cargo:rustc-env=MIPGPU_EMU_LIB_BUILT={}", library.display());
    // For the tests that plant a fault in one source and link the other objects unchanged.
    println!("cargo:rustc-env=MIPGPU_EMU_OBJECTS={}", names.join(":"));
    println!("cargo:rustc-env=MIPGPU_EMU_COMPILE={cxx} {}", flags.join(" "));
}

// ---------------------------------------------------------------------------------------- the Rust side of the kernels

/// A parameter struct of the sources: name, (field, type, comment).
type Struct = (String, Vec<(String, String, String)>);

fn camel(name: &str) -> String {
    name.split('_').map(|w| w[..1].to_uppercase() + &w[1..]).collect()
}

/// Structs passed to kernels: `*Params` and their members (`Drop`).
fn structs(text: &str, found: &mut Vec<Struct>) {
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("struct ").and_then(|l| l.strip_suffix(" {")) else { continue };
        if !(name.ends_with("Params") || name == "Drop") || found.iter().any(|(n, _)| n == name) {
            continue;
        }
        let mut fields = Vec::new();
        for line in lines.by_ref() {
            let line = line.trim();
            if line == "};" {
                break;
            }
            let (code, comment) = line.split_once("//").unwrap_or((line, ""));
            let code = code.trim().trim_end_matches(';');
            if code.is_empty() {
                continue;
            }
            let at = code.rfind([' ', '*']).unwrap_or_else(|| panic!("struct {name}: `{line}` is not `type name;`"));
            let (kind, field) = (code[..=at].trim().trim_start_matches("const "), code[at + 1..].trim());
            let kind = match kind {
                k if k.ends_with('*') => "Ptr",
                "int" => "i32",
                "u32" => "u32",
                "float" => "f32",
                "i64" => "i64",
                "u64" => "u64",
                "Drop" => "Drop",
                _ => panic!("struct {name}: build.rs has no Rust type for `{line}`"),
            };
            fields.push((field.to_string(), kind.to_string(), comment.trim().to_string()));
        }
        found.push((name.to_string(), fields));
    }
}

fn rust_side(files: &[PathBuf], shared: &str) -> String {
    let mut all = Vec::new();
    structs(shared, &mut all);
    // (symbol, parameters, threads, index of its file)
    let mut kernels: Vec<(String, String, String, usize)> = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let text = read(file);
        structs(&text, &mut all);
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("KERNEL(") else { continue };
            let inside = rest.split_once(')').unwrap_or_else(|| panic!("{}: {line}", file.display())).0;
            let parts: Vec<&str> = inside.split(',').map(str::trim).collect();
            let ([symbol, params, threads] | [symbol, params, threads, _]) = parts[..] else {
                panic!("{}: {line}", file.display())
            };
            assert!(all.iter().any(|(n, _)| n == params), "{}: {symbol}: no struct {params}", file.display());
            kernels.push((symbol.into(), params.into(), threads.into(), index));
        }
    }
    for (symbol, params, threads, _) in &kernels {
        let Some(base) = symbol.strip_suffix("_wgmma") else { continue };
        let alike =
            |k: &&(String, String, String, usize)| k.0 == format!("{base}_bf16") && k.1 == *params && k.2 == *threads;
        assert!(kernels.iter().any(|k| alike(&k)), "{symbol}: no {base}_bf16 with its parameters and threads");
    }
    let mut text = String::from("// Generated by build.rs from kernels/*.cu.\n\n");
    for (name, fields) in &all {
        text += &format!("#[repr(C)]\n#[derive(Clone, Copy, Debug, Default)]\npub struct {name} {{\n");
        for (field, kind, comment) in fields {
            if !comment.is_empty() {
                text += &format!("    /** {comment} */\n");
            }
            text += &format!("    pub {field}: {kind},\n");
        }
        text += &format!("}}\nimpl Sealed for {name} {{}}\n\n");
    }
    text += "/// All kernels.\n#[derive(Clone, Copy, Debug, PartialEq, Eq)]\n#[repr(usize)]\npub enum Kernel {\n";
    for (symbol, ..) in &kernels {
        text += &format!("    {},\n", camel(symbol));
    }
    text += "}\n\n/// Properties of each kernel, in the order of [`Kernel`].\npub static KERNELS: &[Info] = &[\n";
    for (symbol, params, threads, file) in &kernels {
        text += &format!(
            "    Info {{ symbol: {symbol:?}, file: {file}, threads: {threads}, params: size_of::<{params}>() }},\n"
        );
    }
    text += "];\n\n";
    for (symbol, ..) in &kernels {
        let Some(base) = symbol.strip_suffix("_bf16") else { continue };
        let f32 = format!("{base}_f32");
        assert!(kernels.iter().any(|k| k.0 == f32), "{symbol} has no f32 variant {f32}");
        let wgmma = format!("{base}_wgmma");
        let wgmma = match kernels.iter().any(|k| k.0 == wgmma) {
            true => format!("Some(Kernel::{})", camel(&wgmma)),
            false => "None".into(),
        };
        text += &format!(
            "pub const {}: Pair = Pair {{ bf16: Kernel::{}, f32: Kernel::{}, wgmma: {wgmma} }};\n",
            base.to_uppercase(),
            camel(symbol),
            camel(&f32)
        );
    }
    text += &format!(
        "\n/// Stems of the source files, in the order of their fatbins.\npub static FILES: &[&str] = &{:?};\n",
        files.iter().map(|f| stem(f)).collect::<Vec<_>>()
    );
    text
}
