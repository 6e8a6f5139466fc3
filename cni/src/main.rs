//! `weir-cni`, the program. All of it is in the library, where fuzzers reach it.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cni::main()
}
