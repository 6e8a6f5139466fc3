//! `cargo xtask fuzz`: libFuzzer on what must never be found wrong (`fuzz/`).
//!
//! The engine is LLVM's libFuzzer, driven by coverage that a stable rustc puts in (its LLVM has the pass; no nightly). Its
//! runtime is C++, which a fresh machine need not have: where there is a C++ compiler the crate `libfuzzer-sys` compiles
//! it, else Debian's compiled one is unpacked into the cache. Instrumented builds have a target folder of their own, so
//! that no other build is ever done again for them.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::setup::{self, Tools};
use crate::test::Count;
use crate::{debian, process, workspace};

/// An input that takes longer is a bug.
const TIMEOUT_SECONDS: u32 = 20;
/// An input that takes more memory is a bug.
const MEMORY_MIB: u32 = 2048;
/// Longer inputs find no more, and cost more.
const LONGEST_INPUT: u32 = 4096;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Absent: all of them, one after the other
    #[arg(value_enum)]
    targets: Vec<Target>,
    /// How long each is run
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Where chance begins; absent: somewhere else each time
    #[arg(long)]
    seed: Option<u32>,
    /// Run the one target on this input only, as when it was found
    #[arg(long, conflicts_with = "keep")]
    input: Option<PathBuf>,
    /// Keep, in fuzz/corpus, what was found to reach more than the inputs that are there
    #[arg(long)]
    keep: bool,
    /// Where the engine comes from
    #[arg(long, value_enum, default_value_t = Engine::Auto)]
    engine: Engine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// The programs' packet parser, on the host, against a second one
    Packet,
    /// The programs themselves through BPF_PROG_TEST_RUN, against a model (needs root)
    Kernel,
    /// YAML to tables, against the specification
    Manifest,
    /// What a runtime tells the CNI plugin
    Cni,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Engine {
    /// The compiler's if there is one, else Debian's
    Auto,
    /// Compiled by the C++ compiler, from the source in libfuzzer-sys
    Compiler,
    /// Debian's package libclang-rt-dev, unpacked into the cache
    Debian,
}

impl Target {
    const ALL: [Self; 4] = [Self::Packet, Self::Kernel, Self::Manifest, Self::Cni];

    fn name(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::Kernel => "kernel",
            Self::Manifest => "manifest",
            Self::Cni => "cni",
        }
    }
}

pub(crate) fn command(args: Args) -> Result<()> {
    let targets = if args.targets.is_empty() { Target::ALL.to_vec() } else { args.targets };
    ensure!(
        !targets.contains(&Target::Kernel) || workspace::is_root(),
        "the target kernel loads programs, which needs root: run it as root, or name the others (packet, manifest, cni)"
    );
    if let Some(input) = &args.input {
        let [target] = targets[..] else { bail!("--input needs the one target that the input is for") };
        let input = fs::canonicalize(input).with_context(|| format!("find {}", input.display()))?;
        let bench = Bench::set_up(args.engine)?;
        return process::run(bench.fuzzer(target)?.arg(input));
    }
    let bench = Bench::set_up(args.engine)?;
    let mut count = Count::default();
    for target in targets {
        match bench.run(target, args.seconds, args.seed) {
            Ok(()) => count.passed += 1,
            Err(error) => {
                count.failed += 1;
                println!("{}: {error:#}", target.name());
            }
        }
        if args.keep {
            bench.keep(target)?;
        }
    }
    count.close()
}

/// The fuzzers, built, and the folder where they work.
struct Bench {
    folder: PathBuf,
    binaries: PathBuf,
}

impl Bench {
    fn set_up(engine: Engine) -> Result<Self> {
        let tools = setup::tools()?;
        let folder = workspace::target().join("fuzz");
        let host = host()?;
        build(&tools, engine, &folder, &host)?;
        Ok(Self { binaries: folder.join(host).join("fuzz"), folder })
    }

    /// A folder of a target's own; `corpus` holds what was found to reach something new, `found` what was found wrong.
    fn place(&self, kind: &str, target: Target) -> Result<PathBuf> {
        let path = self.folder.join(kind).join(target.name());
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    fn fuzzer(&self, target: Target) -> Result<Command> {
        let mut command = Command::new(self.binaries.join(format!("fuzz-{}", target.name())));
        // What a fuzzer that dies cannot remove lies here, and goes with the next run.
        let temporary = self.place("tmp", target)?;
        setup::remove_folder(&temporary)?;
        fs::create_dir_all(&temporary).with_context(|| format!("make {}", temporary.display()))?;
        command
            .current_dir(workspace::root())
            .env("TMPDIR", temporary)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null());
        command.arg(format!("-timeout={TIMEOUT_SECONDS}")).arg(format!("-rss_limit_mb={MEMORY_MIB}"));
        Ok(command)
    }

    fn run(&self, target: Target, seconds: u32, seed: Option<u32>) -> Result<()> {
        let name = target.name();
        let (corpus, found) = (self.place("corpus", target)?, self.place("found", target)?);
        let kept = kept("corpus", target);
        let log = self.folder.join(format!("{name}.log"));
        let output = fs::File::create(&log).with_context(|| format!("make the log {}", log.display()))?;
        let errors = output.try_clone().context("share the log between stdout and stderr")?;
        let mut command = self.fuzzer(target)?;
        command.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={LONGEST_INPUT}"));
        command.arg(format!("-artifact_prefix={}/", found.display()));
        command.args(seed.map(|seed| format!("-seed={seed}")));
        command.args(["-print_final_stats=1", "-use_value_profile=1"]);
        let words = workspace::root().join("fuzz/words").join(name);
        if words.is_file() {
            command.arg(format!("-dict={}", words.display()));
        }
        // What is new goes into the first folder; the others are read.
        command.arg(&corpus).arg(&kept);
        let regressions = self::kept("regressions", target);
        if regressions.is_dir() {
            command.arg(regressions);
        }
        println!("== {name}, {seconds} s");
        let status = command.stdout(output).stderr(errors).status();
        let status = status.with_context(|| format!("start {}", process::shown(&command)))?;
        let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        if status.success() {
            println!("{}", summary(&text)?);
            return Ok(());
        }
        let found = artifact(&text).map_or_else(String::new, |path| {
            format!(
                "\nthe input is {path}; again: cargo xtask fuzz {name} --input {path}\n\
                 when it is mended: cp {path} fuzz/regressions/{name}/WHAT-IT-WAS"
            )
        });
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        bail!("{status}; the end of {}:\n{tail}{found}", log.display())
    }

    /// The fewest inputs that reach what all of them reach.
    fn keep(&self, target: Target) -> Result<()> {
        let kept = kept("corpus", target);
        let merged = self.place("merged", target)?;
        setup::remove_folder(&merged)?;
        fs::create_dir_all(&merged).with_context(|| format!("make {}", merged.display()))?;
        let mut command = self.fuzzer(target)?;
        command.args(["-merge=1"]).arg(&merged).arg(&kept).arg(self.place("corpus", target)?);
        let log = self.folder.join(format!("{}-merge.log", target.name()));
        process::quietly(&format!("merging the inputs of {}", target.name()), &log, &mut command)?;
        let mut added = 0;
        for entry in fs::read_dir(&merged).with_context(|| format!("list {}", merged.display()))? {
            let path = entry?.path();
            let Some(name) = path.file_name() else { continue };
            if is_new(&path, &kept)? {
                fs::copy(&path, kept.join(name)).with_context(|| format!("keep {}", path.display()))?;
                added += 1;
            }
        }
        println!("{}: {added} inputs more in {}", target.name(), kept.display());
        Ok(())
    }
}

fn kept(kind: &str, target: Target) -> PathBuf {
    workspace::root().join("fuzz").join(kind).join(target.name())
}

/// Whether no file of the folder has the same content: seeds have names of their own.
fn is_new(path: &Path, folder: &Path) -> Result<bool> {
    let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        if fs::read(entry?.path()).is_ok_and(|other| other == content) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn build(tools: &Tools, engine: Engine, folder: &Path, host: &str) -> Result<()> {
    // What cargo-fuzz passes, of which all is stable: edges as counters with their addresses, and both sides of comparisons.
    let mut flags: Vec<OsString> = [
        "-Cpasses=sancov-module",
        "-Cllvm-args=-sanitizer-coverage-level=4",
        "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
        "-Cllvm-args=-sanitizer-coverage-pc-table",
        "-Cllvm-args=-sanitizer-coverage-trace-compares",
    ]
    .map(OsString::from)
    .into();
    let mut command = tools.cargo();
    let has_compiler = Command::new("c++").arg("--version").output().is_ok_and(|it| it.status.success());
    if engine == Engine::Debian || (engine == Engine::Auto && !has_compiler) {
        let runtime = Runtime::of_debian()?;
        command.env("CUSTOM_LIBFUZZER_PATH", &runtime.library).env("CUSTOM_LIBFUZZER_STD_CXX", "none");
        let mut link = OsString::from("-Clink-arg=");
        link.push(&runtime.standard_library);
        flags.push(link);
    }
    // For the host by name: build scripts and macros then go without coverage.
    command.args(["build", "--locked", "--package", "fuzz", "--features", "engine", "--bins"]);
    command.args(["--profile", "fuzz", "--target", host, "--target-dir"]).arg(folder);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f".as_ref()));
    process::run(&mut command)
}

/// libFuzzer as Debian compiles it.
struct Runtime {
    library: PathBuf,
    /// The C++ standard library that it needs; every Debian has it, since apt does.
    standard_library: PathBuf,
}

impl Runtime {
    fn of_debian() -> Result<Self> {
        let cache = workspace::cache()?;
        let unpacked = cache.join("libclang-rt");
        let name = format!("libclang_rt.fuzzer-{}.a", std::env::consts::ARCH);
        if find(&unpacked, &name).is_none() {
            // The version does not matter: the engine's interface to the compiler has been the same for years.
            let packages = ["libclang-rt-19-dev", "libclang-rt-14-dev"];
            let mut attempts = packages.iter().map(|package| debian::unpack(package, None, &[], &unpacked));
            if !attempts.any(|attempt| attempt.is_ok()) {
                bail!(
                    "Debian has none of {}, and there is no C++ compiler `c++` either",
                    packages.join(", ")
                );
            }
        }
        let library =
            find(&unpacked, &name).with_context(|| format!("Debian's libclang-rt has no {name}"))?;
        let found = process::output(Command::new("cc").arg("-print-file-name=libstdc++.so.6"))?;
        let standard_library = PathBuf::from(found.trim());
        ensure!(standard_library.is_absolute(), "libFuzzer needs libstdc++.so.6, which cc does not find");
        Ok(Self { library, standard_library })
    }
}

/// A file of this name, anywhere below the folder.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let (path, kind) = (entry.path(), entry.file_type().ok()?);
        if kind.is_dir() {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if entry.file_name() == name {
            return Some(path);
        }
    }
    None
}

/// The host's triple.
fn host() -> Result<String> {
    let text = process::output(Command::new("rustc").arg("-vV"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// How much was tried and reached: of the closing lines of libFuzzer.
fn summary(log: &str) -> Result<String> {
    let field = |name: &str| log.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
    let inputs = field("stat::number_of_executed_units:").context("libFuzzer ran no input")?;
    let new = field("stat::new_units_added:").unwrap_or_default();
    let reached = log.lines().rev().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "cov:");
        words.nth(1)
    });
    let reached = reached.context("libFuzzer saw no coverage: the build has none")?;
    ensure!(inputs != "0" && reached != "0", "{inputs} inputs reached {reached} places: nothing was tried");
    Ok(format!("{inputs} inputs, {new} new, {reached} places reached, nothing found"))
}

/// Where libFuzzer says it wrote what it found.
fn artifact(log: &str) -> Option<&str> {
    log.lines().find_map(|line| Some(line.split_once("Test unit written to ")?.1.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "#2\tINITED cov: 8 ft: 8 corp: 1/1b\n#99\tDONE   cov: 120 ft: 340 corp: 9/99b lim: 4096\n\
        stat::number_of_executed_units: 99\nstat::new_units_added:          7\n";

    #[test]
    fn a_run_is_summed_up_by_its_closing_lines() {
        let expected = "99 inputs, 7 new, 120 places reached, nothing found";
        assert_eq!(summary(LOG).unwrap(), expected);
        assert!(summary("").is_err());
        assert!(summary(&LOG.replace("cov: 120", "cov: 0")).is_err());
    }

    #[test]
    fn what_was_found_is_named() {
        let log = "panicked\nartifact_prefix='x/'; Test unit written to x/crash-1\nBase64: AA==\n";
        assert_eq!(artifact(log), Some("x/crash-1"));
        assert_eq!(artifact(LOG), None);
    }
}
