//! What the machine must give before anything is brought up: one clear sentence for each thing that is missing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Binaries of ours that a sandbox runs, all beside the running one.
#[derive(Clone, Debug)]
pub struct Binaries {
    pub agent: PathBuf,
    /// Where `weir-cni` is: the runtime's `CNI_PATH`.
    pub cni_path: PathBuf,
    pub stub: PathBuf,
}

impl Binaries {
    /// Those beside the running executable.
    pub fn beside_us() -> anyhow::Result<Self> {
        let ourselves = std::env::current_exe().context("find out where we are")?;
        // Test binaries live one folder deeper, in `deps`.
        let folders = ourselves.ancestors().skip(1).take(2);
        let Some(folder) = folders.into_iter().find(|folder| folder.join("weir-stub").is_file()) else {
            bail!("weir-stub is not beside {}: build it with `cargo build -p sandbox`", ourselves.display());
        };
        Self::in_folder(folder)
    }

    pub fn in_folder(folder: &Path) -> anyhow::Result<Self> {
        for (name, package) in [("weir-stub", "sandbox"), ("weir-agent", "agent"), ("weir-cni", "cni")] {
            if !folder.join(name).is_file() {
                bail!("{name} is not in {}: build it with `cargo build -p {package}`", folder.display());
            }
        }
        Ok(Self {
            agent: folder.join("weir-agent"),
            cni_path: folder.to_owned(),
            stub: folder.join("weir-stub"),
        })
    }
}

/// Refuses with one sentence where the machine cannot run a sandbox at all.
pub(crate) fn check() -> anyhow::Result<()> {
    require_root("weir sandbox")?;
    let filesystems = fs::read_to_string("/proc/filesystems").context("read /proc/filesystems")?;
    if !filesystems.lines().any(|line| line.split_whitespace().last() == Some("bpf")) {
        bail!("this kernel has no bpf file system to pin programs in: it needs CONFIG_BPF_SYSCALL");
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        bail!("this kernel has no BTF (/sys/kernel/btf/vmlinux): it needs CONFIG_DEBUG_INFO_BTF");
    }
    Ok(())
}

pub(crate) fn require_root(who: &str) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("{who} needs root: it makes network namespaces and loads eBPF programs; run it through sudo");
    }
    if !in_first_user_namespace() {
        bail!(
            "{who} needs the machine's own root: it loads eBPF programs, which the kernel refuses to root in a user \
             namespace (`unshare --user`, a rootless container)"
        );
    }
    Ok(())
}

/// Whether root here is root of the machine.
fn in_first_user_namespace() -> bool {
    /// `PROC_USER_INIT_INO`: the kernel gives its first user namespace this number (Linux 3.8).
    const FIRST: u64 = 0xEFFF_FFFD;
    fs::metadata("/proc/self/ns/user").is_ok_and(|namespace| namespace.ino() == FIRST)
}

/// Where the machine's cgroup2 tree is mounted; beside version 1 it has a folder of its own.
pub(crate) fn cgroup2() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut roots = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (path, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    });
    roots.next()
}
