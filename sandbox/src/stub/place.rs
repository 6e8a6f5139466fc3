//! Where a process of the sandbox lives and how long: its node's cgroup, and not a moment longer than the supervisor.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid};

use crate::mounts;

/// Where this process is to stand. Its network namespace it has from birth: whoever spawned it stood in there.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Joined by writing our own number into its `cgroup.procs`.
    pub cgroup: Option<PathBuf>,
    /// Die with this process, which must be our parent.
    pub parent: Option<i32>,
    /// Stands in for `/etc/resolv.conf`, for this process alone.
    pub resolv_conf: Option<PathBuf>,
}

impl Place {
    pub fn take(&self) -> anyhow::Result<()> {
        if let Some(parent) = self.parent {
            prctl::set_pdeathsig(Signal::SIGKILL).context("ask to die with the supervisor")?;
            // It may have died before we asked: then the signal never comes.
            if getppid() != Pid::from_raw(parent) {
                bail!("the supervisor (process {parent}) is gone");
            }
        }
        self.resolv_conf.as_deref().map_or(Ok(()), use_resolv_conf)?;
        self.cgroup.as_deref().map_or(Ok(()), join_cgroup)
    }
}

/// Puts `file` in the place of `/etc/resolv.conf`, in a mount namespace of our own.
fn use_resolv_conf(file: &Path) -> anyhow::Result<()> {
    const RESOLV_CONF: &str = "/etc/resolv.conf";
    mounts::make_private()?;
    mount(Some(file), RESOLV_CONF, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("put {} in the place of {RESOLV_CONF}", file.display()))
}

/// Moves the calling process into `cgroup`.
fn join_cgroup(cgroup: &Path) -> anyhow::Result<()> {
    let procs = cgroup.join("cgroup.procs");
    std::fs::write(&procs, getpid().to_string()).with_context(|| format!("join cgroup {}", cgroup.display()))
}

/// Becomes `command`, standing in `place`. Dying with the parent and the cgroup both outlive the exec.
pub fn spawn(place: &Place, command: &[OsString]) -> anyhow::Result<()> {
    place.take()?;
    let Some((program, arguments)) = command.split_first() else { bail!("spawn: no command given") };
    Err(Command::new(program).args(arguments).exec())
        .with_context(|| format!("execute {}", program.to_string_lossy()))
}
