//! Set-up: what a build needs beyond Rust and a C compiler.
//!
//! Two things: bpf-linker, and the source of the core library (the kernel's target has no precompiled one). Tools go to
//! the cache by version, so that a second clone finds them. Nothing on the system is changed, except that rustup, where
//! there is one, gets its own component `rust-src`. When all is there this takes a few milliseconds.

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;

use crate::{debian, process, workspace};

/// The last line of bpf-linker that links against the LLVM inside rustc 1.95 itself (CONTRIBUTING.md, "Versions").
const BPF_LINKER: &str = "0.10.3";
/// Cargo looks here for the standard library's source; it is how cargo's own tests move it.
const CORE_SOURCE_VARIABLE: &str = "__CARGO_TESTS_ONLY_SRC_ROOT";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How to get the core library's source; `auto` tries the ways in this order
    #[arg(long, value_enum, default_value_t = Way::Auto)]
    core_source: Way,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    Auto,
    /// `rustup component add rust-src`
    Rustup,
    /// Debian's package of exactly the compiler's version, unpacked into the cache
    Debian,
}

/// What set-up found or made.
pub(crate) struct Tools {
    bpf_linker: PathBuf,
    core_source: CoreSource,
}

/// Where cargo finds the core library's source.
enum CoreSource {
    /// In the toolchain itself, where cargo looks by default.
    Toolchain,
    /// Somewhere else: a folder that holds `core/`, and whose it is.
    Folder { path: PathBuf, origin: &'static str },
}

impl Tools {
    /// A cargo call at the root of this clone that can build everything.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
        command.current_dir(workspace::root());
        command.env("WEIR_BPF_LINKER", &self.bpf_linker);
        if let CoreSource::Folder { path, .. } = &self.core_source {
            command.env(CORE_SOURCE_VARIABLE, path);
        }
        command
    }

    /// Where the core library's source is, if not in the toolchain.
    pub(crate) fn core_source(&self) -> Option<&Path> {
        match &self.core_source {
            CoreSource::Toolchain => None,
            CoreSource::Folder { path, .. } => Some(path),
        }
    }
}

pub(crate) fn command(args: Args) -> Result<()> {
    set_up(args.core_source).map(|_| ())
}

/// Everything that a build needs, got in the first way that works.
pub(crate) fn tools() -> Result<Tools> {
    set_up(Way::Auto)
}

fn set_up(way: Way) -> Result<Tools> {
    let cache = workspace::cache()?;
    // Two clones may be set up at the same time: the second one waits, and then finds everything there.
    let lock = File::create(cache.join("lock")).context("make the lock of the cache folder")?;
    lock.lock().context("lock the cache folder")?;
    let (bpf_linker, origin) = bpf_linker(&cache)?;
    let core_source = core_source(&cache, way)?;
    let from = match &core_source {
        CoreSource::Toolchain => "rustup's component rust-src".to_owned(),
        CoreSource::Folder { path, origin } => format!("{origin} ({})", path.display()),
    };
    eprintln!("set-up: bpf-linker {BPF_LINKER} {origin}; the core library's source from {from}");
    Ok(Tools { bpf_linker, core_source })
}

fn bpf_linker(cache: &Path) -> Result<(PathBuf, &'static str)> {
    if let Some(path) = env::var_os("WEIR_BPF_LINKER").map(PathBuf::from) {
        ensure!(path.is_file(), "WEIR_BPF_LINKER names `{}`, which is no file", path.display());
        return Ok((path, "from WEIR_BPF_LINKER"));
    }
    let root = cache.join(format!("bpf-linker-{BPF_LINKER}"));
    let binary = root.join("bin/bpf-linker");
    if works(&binary) {
        return Ok((binary, "from the cache"));
    }
    // Installed beside and renamed: an interrupted set-up leaves no half of it under the final name.
    let partial = cache.join(format!("bpf-linker-{BPF_LINKER}.partial"));
    remove_folder(&partial)?;
    let mut install = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    install.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--root"]).arg(&partial);
    // Away from this workspace: its settings are not meant for other people's crates.
    install.current_dir(cache).env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
    let label = format!("set-up: building bpf-linker {BPF_LINKER}, once for all clones");
    process::quietly(&label, &cache.join("bpf-linker.log"), &mut install)?;
    remove_folder(&root)?;
    std::fs::rename(&partial, &root)
        .with_context(|| format!("move {} to {}", partial.display(), root.display()))?;
    ensure!(works(&binary), "{} was built but does not run", binary.display());
    Ok((binary, "built just now"))
}

fn works(binary: &Path) -> bool {
    Command::new(binary).arg("--version").output().is_ok_and(|output| output.status.success())
}

fn core_source(cache: &Path, way: Way) -> Result<CoreSource> {
    if let Some(path) = env::var_os(CORE_SOURCE_VARIABLE).map(PathBuf::from) {
        return Ok(CoreSource::Folder { path, origin: CORE_SOURCE_VARIABLE });
    }
    let unpacked = cache.join(format!("rust-src-{}", rustc_version()?));
    let ways: [(Way, &dyn Fn() -> Result<CoreSource>); 2] =
        [(Way::Rustup, &from_rustup), (Way::Debian, &|| from_debian(&unpacked))];
    let mut failures = Vec::new();
    for (name, attempt) in ways {
        if way != Way::Auto && way != name {
            continue;
        }
        match attempt() {
            Ok(source) => return Ok(source),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    bail!(
        "the core library's source, without which no kernel program can be built, could not be had:\n  {}",
        failures.join("\n  ")
    )
}

fn from_rustup() -> Result<CoreSource> {
    let sysroot = process::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    if has_core(&library) {
        return Ok(CoreSource::Toolchain);
    }
    process::output(Command::new("rustup").args(["component", "add", "rust-src"]))
        .map_err(|error| anyhow!("rustup has no component rust-src for this toolchain: {error:#}"))?;
    ensure!(has_core(&library), "rustup added rust-src, but {} is not there", library.display());
    Ok(CoreSource::Toolchain)
}

fn from_debian(unpacked: &Path) -> Result<CoreSource> {
    let version = rustc_version()?;
    let library = unpacked.join(format!("usr/src/rustc-{version}/library"));
    if !has_core(&library) {
        let suites = ["trixie-backports", "forky", "sid"];
        debian::unpack("rust-src", Some(&version), &suites, unpacked)?;
    }
    ensure!(has_core(&library), "Debian's rust-src has no {}", library.display());
    Ok(CoreSource::Folder { path: library, origin: "Debian's package rust-src" })
}

/// A library folder that cargo can build `core` from.
fn has_core(library: &Path) -> bool {
    library.join("core/src/lib.rs").is_file() && library.join("Cargo.lock").is_file()
}

/// The compiler's version, `1.95.0`.
fn rustc_version() -> Result<String> {
    let text = process::output(Command::new("rustc").arg("--version"))?;
    let version = text.split_whitespace().nth(1).context("rustc --version printed no version")?;
    Ok(version.to_owned())
}

pub(crate) fn remove_folder(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("remove {}", path.display())),
    }
}
