fn main() -> std::process::ExitCode {
    mipgpu::cli::main()
}
