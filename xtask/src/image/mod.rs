//! `cargo xtask image`: the image that a cluster runs, built without Docker: our three programs, linked statically, and a
//! list of what went into them. Nothing else is in it: no distribution, no shell, no library.
//!
//! The same source gives the same image, on any machine with the same compiler and C library: no path of this machine and
//! no time is in it ([`source_paths`], `archive.rs`). `--verify` proves it by building all of it a second time elsewhere.

mod archive;
mod sbom;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

pub(crate) use archive::{Image, Member};

use crate::setup::Tools;
use crate::{process, setup, workspace};

/// What manifests, kind and `ctr` call the image that was built here.
pub(crate) const DEVELOPMENT: &str = "localhost/weir:dev";

/// The programs of the image, and the packages they come from.
const PROGRAMS: &[(&str, &str)] = &[("weir", "cli"), ("weir-agent", "agent"), ("weir-cni", "cni")];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// `debug` builds in a third of the time, for clusters that only test
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    /// What the image is called
    #[arg(long, value_name = "NAME:TAG", default_value = DEVELOPMENT)]
    name: String,
    /// Build a copy of the source in another folder too: both must give one digest
    #[arg(long)]
    verify: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    Release,
    Debug,
}

impl Profile {
    fn folder(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Debug => "debug",
        }
    }
}

pub(crate) fn command(args: Args) -> Result<()> {
    ensure!(
        args.name.rsplit_once(':').is_some_and(|(name, tag)| !name.is_empty() && is_tag(tag)),
        "--name {}: expected NAME:TAG, such as {DEVELOPMENT}",
        args.name
    );
    let tools = setup::tools()?;
    let built = build(&tools, args.profile, &args.name)?;
    println!("{}  {}  {}", built.archive.display(), args.name, built.digest);
    println!("{}", built.sbom.display());
    if args.verify {
        let again = elsewhere(&tools, args.profile, &args.name)?;
        ensure!(
            again == built.digest,
            "built again in another folder it is {again}: something of this machine is in it"
        );
        println!("built again in another folder: the same");
    }
    Ok(())
}

pub(crate) struct Built {
    /// What `ctr images import` takes.
    pub(crate) archive: PathBuf,
    /// CycloneDX; the image holds it too.
    pub(crate) sbom: PathBuf,
    /// Names the image's content.
    pub(crate) digest: String,
}

/// Builds the programs and packs them. When nothing has changed this takes a second.
pub(crate) fn build(tools: &Tools, profile: Profile, name: &str) -> Result<Built> {
    build_in(tools, workspace::root(), &workspace::target().join("image"), profile, name)
}

/// Where a program of the image lies once it is built: it needs nothing of the machine that it runs on.
pub(crate) fn program(name: &str, profile: Profile) -> PathBuf {
    workspace::target().join("image").join(triple()).join(profile.folder()).join(name)
}

fn build_in(tools: &Tools, root: &Path, target: &Path, profile: Profile, name: &str) -> Result<Built> {
    // Two at once would write one archive.
    fs::create_dir_all(target).with_context(|| format!("make {}", target.display()))?;
    let lock = fs::File::create(target.join("lock")).context("make the lock of the image")?;
    lock.lock().context("lock the image")?;
    let triple = triple();
    let mut command = tools.cargo();
    command.current_dir(root).args(["build", "--locked", "--target", &triple, "--target-dir"]).arg(target);
    for (program, package) in PROGRAMS {
        command.args(["--package", package, "--bin", program]);
    }
    // Over all that could be set elsewhere: an image must not depend on who builds it.
    let strip = match profile {
        Profile::Release => "-Cstrip=symbols",
        // Names for a backtrace, without the rest of what debuggers want.
        Profile::Debug => "-Cstrip=debuginfo",
    };
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned(), strip.to_owned()];
    for (path, name) in source_paths(tools, root)? {
        flags.push(format!("--remap-path-prefix={}={name}", path.display()));
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")).env_remove("CARGO_TARGET_DIR");
    if profile == Profile::Release {
        command.arg("--release");
    }
    process::run(&mut command)?;
    let folder = target.join(&triple).join(profile.folder());
    let sbom = target.join("weir.cdx.json");
    let packages = PROGRAMS.iter().map(|(_, package)| *package).collect::<Vec<_>>();
    fs::write(&sbom, sbom::of(tools, &packages, name, &triple)?)
        .with_context(|| format!("write {}", sbom.display()))?;
    let mut files = vec![(format!("/{}", sbom::NAME), sbom.clone(), 0o644)];
    for (program, _) in PROGRAMS {
        files.push((format!("/{program}"), folder.join(program), 0o755));
    }
    let members = files.iter().map(|(at, source, mode)| Member { at, source, mode: *mode }).collect();
    let archive = target.join("weir.tar");
    let digest = Image { name, files: members, entrypoint: Some("/weir-agent") }.write(&archive)?;
    Ok(Built { archive, sbom, digest })
}

/// Where sources lie on this machine, and what programs say instead: in the places of panics, and in what the kernel is
/// told of its programs' lines (dataplane/build.rs hands these flags on).
fn source_paths(tools: &Tools, root: &Path) -> Result<Vec<(PathBuf, &'static str)>> {
    let sysroot = process::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let cargo_home = match env::var_os("CARGO_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => {
            PathBuf::from(env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?).join(".cargo")
        }
    };
    let mut paths = vec![
        (root.to_owned(), "/weir"),
        (cargo_home, "/cargo"),
        (PathBuf::from(sysroot.trim()).join("lib/rustlib/src/rust/library"), "/rust"),
    ];
    if let Some(path) = tools.core_source() {
        paths.push((path.to_owned(), "/rust"));
    }
    Ok(paths)
}

/// The digest of the same source from another folder, with nothing built yet.
fn elsewhere(tools: &Tools, profile: Profile, name: &str) -> Result<String> {
    let copy = workspace::target().join("image-elsewhere");
    setup::remove_folder(&copy)?;
    let source = copy.join("source");
    fs::create_dir_all(&source).with_context(|| format!("make {}", source.display()))?;
    let mut list = Command::new("git");
    list.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(workspace::root());
    for file in process::output(&mut list)?.lines() {
        let from = workspace::root().join(file);
        // Removed, and the removal is not committed yet.
        if !from.is_file() {
            continue;
        }
        let to = source.join(file);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        fs::copy(&from, &to).with_context(|| format!("copy {file} to {}", to.display()))?;
    }
    let built = build_in(tools, &source, &copy.join("target"), profile, name)?;
    setup::remove_folder(&copy)?;
    Ok(built.digest)
}

/// As rustc calls this machine. The C library is linked in, so it must be the GNU one of the build machine's own kind.
fn triple() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

/// As the OCI's distribution specification has it.
fn is_tag(tag: &str) -> bool {
    let chars = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    (1..=128).contains(&tag.len()) && tag.chars().all(chars) && !tag.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_with_a_port_is_no_tag() {
        assert!(is_tag("v0.1.0"));
        assert!(!is_tag("5000/weir"));
        assert!(!is_tag(""));
    }
}
