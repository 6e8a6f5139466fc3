//! Builds the kernel programs of `../ebpf` for the kernel's virtual machine and hands the object to `load.rs`.
//!
//! `cargo xtask` sets up what this needs: bpf-linker, and the source of Rust's core library (CONTRIBUTING.md).

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The last line of bpf-linker that links against rustc 1.95's own LLVM. `xtask/src/setup.rs` installs it.
const BPF_LINKER: &str = "bpf-linker-0.10.3";

fn main() {
    for path in ["../ebpf/src", "../ebpf/Cargo.toml", "../common/src", "../common/Cargo.toml"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for name in
        ["WEIR_BPF_LINKER", "XDG_CACHE_HOME", "__CARGO_TESTS_ONLY_SRC_ROOT", "CARGO_ENCODED_RUSTFLAGS"]
    {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(variable("OUT_DIR"));
    // A folder of its own, shared by all profiles: cargo holds the lock of the outer one while we run.
    // OUT_DIR is TARGET/PROFILE/build/dataplane-HASH/out.
    let Some(target) = out.ancestors().nth(4) else {
        panic!("OUT_DIR `{}` is not as deep as cargo makes it", out.display())
    };
    let target = target.join("ebpf");
    let triple = match variable("CARGO_CFG_TARGET_ENDIAN").as_str() {
        "big" => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    let mut flags = vec![
        format!("--cfg=bpf_target_arch=\"{}\"", variable("CARGO_CFG_TARGET_ARCH")),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // Else the linker has LLVM leave every copy and clearing of a few bytes to a call of a loop: 20 ns a packet.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        format!("-Clinker={}", linker().display()),
    ];
    // Where this machine keeps sources is no business of a program that leaves it: what hides it outside does so here.
    let outside = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    flags.extend(
        outside.split('\x1f').filter(|flag| flag.starts_with("--remap-path-prefix")).map(str::to_owned),
    );
    let status = Command::new(variable("CARGO"))
        .args(["build", "--quiet", "--locked", "--package", "ebpf", "--profile", "ebpf"])
        .args(["--target", triple, "-Z", "build-std=core", "--target-dir"])
        .arg(&target)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env_remove("RUSTC")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CLIPPY_ARGS")
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!(
            "building the kernel programs failed ({status}); `cargo xtask setup` installs what it needs"
        ),
        Err(error) => panic!("run cargo for the kernel programs: {error}"),
    }
    let object = target.join(triple).join("ebpf").join("weir");
    if let Err(error) = std::fs::copy(&object, out.join("weir.bpf.o")) {
        panic!("copy {}: {error}", object.display());
    }
}

fn variable(name: &str) -> String {
    match env::var(name) {
        Ok(value) => value,
        Err(error) => panic!("cargo sets {name} for build scripts: {error}"),
    }
}

/// `WEIR_BPF_LINKER`, else the one in the cache of `cargo xtask setup`, else the one on the path.
fn linker() -> PathBuf {
    if let Some(path) = env::var_os("WEIR_BPF_LINKER") {
        return path.into();
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    cache
        .map(|cache| cache.join("weir").join(BPF_LINKER).join("bin/bpf-linker"))
        .filter(|path| path.exists())
        .unwrap_or_else(|| "bpf-linker".into())
}
