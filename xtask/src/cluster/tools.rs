//! Everything a cluster consists of, built once from pinned Go modules into the cache: about 13 minutes on two idle
//! cores, 0.8 GB of binaries.
//!
//! A fresh machine has only Rust and a C compiler: Go comes from Debian where `PATH` has none that is new enough, and so
//! does libseccomp, which runc links against. Nothing on the system is changed.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::image::{Image, Member};
use crate::{debian, process, workspace};

/// The line of Go that the modules ask for. Debian's mirrors keep only the newest of a line.
const GO: &str = "1.26";
/// containerd asks for at least this one of the line.
const GO_PATCH: u32 = 6;
const SUITES: &[&str] = &["trixie-backports", "forky", "sid"];

/// A folder with a `go.mod` whose `tool` lines are built together.
struct Module {
    name: &'static str,
    tags: &'static str,
    cgo: bool,
    /// Below the folder of binaries; the plugins stand apart, since a node's CNI folder gets all of that folder.
    into: &'static str,
    manifest: &'static str,
    sums: &'static str,
}

macro_rules! module {
    ($name:literal, $tags:literal, $cgo:literal, $into:literal) => {
        Module {
            name: $name,
            tags: $tags,
            cgo: $cgo,
            into: $into,
            manifest: include_str!(concat!("modules/", $name, "/go.mod")),
            sums: include_str!(concat!("modules/", $name, "/go.sum")),
        }
    };
}

/// Small ones first: what is wrong with the machine shows within a minute.
const MODULES: &[Module] = &[
    module!("runc", "seccomp", true, "bin"),
    module!("cni", "", false, "cni"),
    module!("etcd", "", false, "bin"),
    module!("containerd", "no_btrfs no_zfs no_devmapper no_aufs", false, "bin"),
    module!("coredns", "", false, "bin"),
    module!("kubernetes", "providerless", false, "bin"),
];

/// Images of one executable each: name, binary, place.
const IMAGES: &[(&str, &str, &str)] =
    &[("localhost/agnhost:1", "agnhost", "/agnhost"), ("localhost/coredns:1", "coredns", "/coredns")];

/// What holds a pod's namespaces.
pub(crate) const PAUSE: &str = "localhost/pause:1";

/// Where everything is.
pub(crate) struct Tools {
    /// `kubelet`, `containerd`, `runc`, `kube-apiserver`, …
    pub(crate) bin: PathBuf,
    /// The reference plugins: `bridge`, `host-local`, `loopback`, `portmap`.
    pub(crate) cni: PathBuf,
    /// Archives for `ctr images import`.
    pub(crate) images: PathBuf,
}

/// The tools of these very modules, from the cache or built now. Each module is built under its own name and stays, so
/// that an interrupted call goes on where it was.
pub(crate) fn tools() -> Result<Tools> {
    let cache = workspace::cache()?;
    let root = cache.join(format!("cluster-{}", pin(MODULES)));
    fs::create_dir_all(&root).with_context(|| format!("make {}", root.display()))?;
    let lock = File::create(root.join("lock")).context("make the lock of the cluster's tools")?;
    lock.lock().context("lock the cluster's tools")?;
    let tools = Tools { bin: root.join("bin"), cni: root.join("cni"), images: root.join("images") };
    for folder in [&tools.bin, &tools.cni, &tools.images] {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let mut go = None;
    for module in MODULES {
        let done = root.join(format!("{}.done", module.name));
        if !done.is_file() {
            if go.is_none() {
                go = Some(go_command(&cache)?);
            }
            let go = go.as_deref().context("Go was found just above")?;
            module.build(go, &cache, &root)?;
            fs::write(&done, "").with_context(|| format!("write {}", done.display()))?;
        }
    }
    // Go names a command after its folder, and etcd's main package lies in `server`.
    let (server, etcd) = (tools.bin.join("server"), tools.bin.join("etcd"));
    if server.is_file() {
        fs::rename(&server, &etcd)
            .with_context(|| format!("move {} to {}", server.display(), etcd.display()))?;
    }
    for (name, binary, at) in IMAGES {
        let archive = tools.images.join(format!("{binary}.tar"));
        if !archive.is_file() {
            let member = Member { at, source: &tools.bin.join(binary), mode: 0o755 };
            Image { name, files: vec![member], entrypoint: Some(at) }.write(&archive)?;
        }
    }
    pause(&tools)?;
    Ok(tools)
}

/// The image that holds a pod's namespaces, of a program that does nothing else. It needs no crate, so rustc alone makes it.
fn pause(tools: &Tools) -> Result<()> {
    let archive = tools.images.join("pause.tar");
    if archive.is_file() {
        return Ok(());
    }
    let (source, program) = (tools.bin.join("pause.rs"), tools.bin.join("pause"));
    fs::write(&source, include_str!("pause.rs")).with_context(|| format!("write {}", source.display()))?;
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
    rustc.args(["--edition=2024", "-O", "-Cpanic=abort", "-Cstrip=symbols", "-Ctarget-feature=+crt-static"]);
    process::output(rustc.arg("-o").arg(&program).arg(&source))?;
    let member = Member { at: "/pause", source: &program, mode: 0o755 };
    Image { name: PAUSE, files: vec![member], entrypoint: Some("/pause") }.write(&archive).map(drop)
}

/// What no cluster consists of: each in a folder by its own name, so that a new version of it moves nothing else.
const HELM: Module = module!("helm", "", false, "bin");
const KWOK: Module = module!("kwok", "", false, "bin");

/// The `helm` of its pinned module, from the cache or built now.
pub(crate) fn helm() -> Result<PathBuf> {
    alone(&HELM)
}

/// `kwok`, which plays the kubelets of nodes that are not there.
pub(crate) fn kwok() -> Result<PathBuf> {
    alone(&KWOK)
}

fn alone(module: &Module) -> Result<PathBuf> {
    let cache = workspace::cache()?;
    let root = cache.join(format!("{}-{}", module.name, pin(std::slice::from_ref(module))));
    fs::create_dir_all(root.join(module.into)).with_context(|| format!("make {}", root.display()))?;
    let lock =
        File::create(root.join("lock")).with_context(|| format!("make the lock of {}", module.name))?;
    lock.lock().with_context(|| format!("lock {}", module.name))?;
    let done = root.join("done");
    if !done.is_file() {
        module.build(&go_command(&cache)?, &cache, &root)?;
        fs::write(&done, "").with_context(|| format!("write {}", done.display()))?;
    }
    Ok(root.join(module.into).join(module.name))
}

/// Changes with any version of anything in the modules: names a folder in the cache.
fn pin(modules: &[Module]) -> String {
    let mut digest = Sha256::new();
    for module in modules {
        digest.update(module.manifest);
        digest.update(module.sums);
        digest.update(module.tags);
    }
    digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

impl Module {
    fn build(&self, go: &Path, cache: &Path, root: &Path) -> Result<()> {
        let source = root.join("modules").join(self.name);
        fs::create_dir_all(&source).with_context(|| format!("make {}", source.display()))?;
        for (name, text) in [("go.mod", self.manifest), ("go.sum", self.sums)] {
            let path = source.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        let mut build = Command::new(go);
        build.args(["build", "-trimpath", "-ldflags", &self.linker_flags()?, "-tags", self.tags, "-o"]);
        // The trailing slash: a folder, also for a module with one tool only.
        build.arg(root.join(self.into).join("")).arg("tool").current_dir(&source);
        build.env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=readonly").env_remove("GOROOT");
        // Not the person's own: what is built for a cluster goes away with this cache.
        build.env("GOMODCACHE", cache.join("go-modules")).env("GOCACHE", cache.join("go-build"));
        build.env("CGO_ENABLED", if self.cgo { "1" } else { "0" });
        if self.cgo {
            libseccomp(&mut build, cache)?;
        }
        let label = format!("cluster: building {} from Go modules, once for all clones", self.name);
        process::quietly(&label, &root.join(format!("{}.log", self.name)), &mut build)
    }

    /// Kubernetes asks its components for their version, and a kubelet without one registers as `v0.0.0`.
    fn linker_flags(&self) -> Result<String> {
        let Some(version) = self.version_of("k8s.io/kubernetes") else { return Ok("-s -w".to_owned()) };
        let minor = version.split('.').nth(1).with_context(|| format!("`{version}` has no minor version"))?;
        let base = "-X k8s.io/component-base/version";
        Ok(format!("-s -w {base}.gitVersion={version} {base}.gitMajor=1 {base}.gitMinor={minor}"))
    }

    /// The version that `go.mod` requires of the module `path`.
    fn version_of(&self, path: &str) -> Option<&'static str> {
        self.manifest.lines().find_map(|line| {
            let mut words = line.trim().trim_start_matches("require ").split_whitespace();
            (words.next()? == path).then(|| words.next()).flatten()
        })
    }
}

/// A Go that can build the modules: the machine's, else Debian's in the cache.
pub(crate) fn go_command(cache: &Path) -> Result<PathBuf> {
    if go_version(Path::new("go")).is_some_and(|version| new_enough(&version)) {
        return Ok(PathBuf::from("go"));
    }
    let root = cache.join(format!("go-{GO}"));
    let go = root.join(format!("usr/lib/go-{GO}/bin/go"));
    if go_version(&go).is_none() {
        // Compiler and library are two packages, with links from the one into the other.
        let (compiler, library) = (format!("golang-{GO}-go"), format!("golang-{GO}-src"));
        debian::unpack_line(&[&compiler, &library], GO, SUITES, &root)?;
    }
    let version =
        go_version(&go).with_context(|| format!("{} was unpacked but does not run", go.display()))?;
    ensure!(new_enough(&version), "Debian's Go is {version}, and the cluster's tools need {GO}.{GO_PATCH}");
    Ok(go)
}

/// `1.26.8`; nothing where there is no such Go.
fn go_version(go: &Path) -> Option<String> {
    let mut command = Command::new(go);
    // Of this very Go, not of a newer one that it would fetch.
    let output = command.args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").env_remove("GOROOT").output();
    let output = output.ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().trim_start_matches("go").to_owned())
}

/// A later line may build the modules differently, or not at all: what was tried is what counts.
fn new_enough(version: &str) -> bool {
    let Some(patch) = version.strip_prefix(GO).and_then(|rest| rest.strip_prefix('.')) else { return false };
    patch.parse::<u32>().is_ok_and(|patch| patch >= GO_PATCH)
}

/// Lets pkg-config find libseccomp: the machine's, else Debian's in the cache.
fn libseccomp(build: &mut Command, cache: &Path) -> Result<()> {
    if Command::new("pkg-config")
        .args(["--exists", "libseccomp"])
        .status()
        .is_ok_and(|status| status.success())
    {
        return Ok(());
    }
    let root = cache.join("libseccomp");
    if !root.is_dir() {
        debian::unpack_with_needs("libseccomp-dev", &root)?;
    }
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let library = root.join("usr/lib").join(triplet);
    let archive = library.join("libseccomp.a");
    ensure!(archive.is_file(), "Debian's libseccomp-dev has no {}", archive.display());
    // Without pkg-config too, and linked into runc, which then needs no library on the machine.
    let script = root.join("pkg-config");
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in\n*--cflags*) echo '-I{}';;\n*--libs*) echo '{}';;\nesac\n",
        root.join("usr/include").display(),
        archive.display()
    );
    fs::write(&script, text)
        .and_then(|()| fs::set_permissions(&script, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("write {}", script.display()))?;
    build.env("PKG_CONFIG", &script).env("CGO_LDFLAGS_ALLOW", r"/.*\.a");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_of_go_that_was_tried_builds_the_tools() {
        assert!(new_enough("1.26.6"));
        assert!(new_enough("1.26.10"));
        assert!(!new_enough("1.26.5"));
        assert!(!new_enough("1.27.0"));
        assert!(!new_enough("1.19.8"));
    }

    #[test]
    fn kubernetes_is_built_with_the_version_that_its_go_mod_names() {
        let module = MODULES.iter().find(|module| module.name == "kubernetes").expect("is built");
        let flags = module.linker_flags().expect("go.mod names a version");
        assert!(flags.contains(".gitVersion=v1.37.") && flags.ends_with(".gitMinor=37"), "{flags}");
    }

    #[test]
    fn no_module_asks_for_a_newer_go_than_is_got() {
        for module in MODULES.iter().chain([&HELM, &KWOK]) {
            let line = module.manifest.lines().find_map(|line| line.strip_prefix("go "));
            assert!(line.is_some_and(new_enough) || line == Some("1.26.0"), "{}: {line:?}", module.name);
        }
    }
}
