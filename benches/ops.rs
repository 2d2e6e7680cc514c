//! `cargo bench --bench ops -- FLAGS` is `mipgpu bench FLAGS`.

fn main() -> std::process::ExitCode {
    // Cargo adds --bench.
    let given = std::env::args_os().skip(1).filter(|arg| arg != "--bench");
    mipgpu::cli::main_with(["mipgpu".into(), "bench".into()].into_iter().chain(given))
}
