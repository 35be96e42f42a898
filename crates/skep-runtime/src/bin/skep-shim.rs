//! The shim of a pod, as a program of its own: for tests, and where a binary of a few hundred kilobytes is wanted.

fn main() -> std::process::ExitCode {
    skep_runtime::shim::run(std::env::args_os().skip(1))
}
