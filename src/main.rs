//! The `dsync` program: everything is in the library, see `dsync::cli`.

fn main() -> std::process::ExitCode {
    dsync::cli::main()
}
