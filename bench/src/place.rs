//! Where processes run and how long: which namespace, which CPU, and never longer than we do.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use netlink::Netns;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, geteuid};

/// Where our files are: in memory, in this process's mount namespace only.
pub(crate) const FILES: &str = "/run/weir-bench";

/// Gives this process a mount namespace of its own with an empty `/run`. Call it before there is a second thread.
pub(crate) fn make_private() -> Result<()> {
    ensure!(geteuid().is_root(), "network namespaces and kernel programs need root: run this as root");
    unshare(CloneFlags::CLONE_NEWNS).context("make a private mount namespace")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("keep our mounts to ourselves")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .context("mount a private /run")?;
    std::fs::create_dir(FILES).with_context(|| format!("make {FILES}"))
}

/// Mounts a bpffs of its own at `path`, which it makes.
pub(crate) fn mount_bpffs(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
    mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mount a bpffs at {}", path.display()))
}

/// This program, with another subcommand.
pub(crate) fn ourselves(subcommand: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("find our own program")?);
    command.arg(subcommand);
    Ok(command)
}

/// Starts `command` inside `netns`. Always from the main thread: the child asks to die with the thread that made it.
pub(crate) fn spawn_in(netns: &Netns, command: &mut Command) -> Result<Child> {
    let _inside = netns.enter().context("enter a namespace to start a process")?;
    command.spawn().with_context(|| format!("start {}", command.get_program().display()))
}

/// For a child: if our parent goes, however it goes, so do we.
pub(crate) fn die_with_parent() -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("ask to die with the parent")
}

/// Becomes another program that still dies with the parent; in `group` if one is named, from its first byte on.
pub(crate) fn become_program(group: Option<&Path>, command: &[OsString]) -> Result<()> {
    die_with_parent()?;
    if let Some(group) = group {
        let list = group.join("cgroup.procs");
        std::fs::write(&list, "0").with_context(|| format!("write to {}", list.display()))?;
    }
    let Some((program, arguments)) = command.split_first() else { bail!("no program to become") };
    Err(Command::new(program).args(arguments).exec()).with_context(|| format!("become {}", program.display()))
}

/// Both ends of a measurement share one core: across two, a request costs a wake-up that hides every path.
pub(crate) fn pin_to_last_cpu() -> Result<()> {
    pin(Cpu::Last)
}

/// One of the CPUs that we may use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cpu {
    First,
    Last,
}

/// Pins this thread, and what it starts from now on.
pub(crate) fn pin(cpu: Cpu) -> Result<()> {
    // Asked once: afterwards there is only the one that we are pinned to.
    static ALLOWED: OnceLock<CpuSet> = OnceLock::new();
    let ours = Pid::from_raw(0);
    let allowed = match ALLOWED.get() {
        Some(allowed) => *allowed,
        None => {
            let allowed = sched_getaffinity(ours).context("ask which CPUs we may use")?;
            *ALLOWED.get_or_init(|| allowed)
        }
    };
    let mut usable = (0..CpuSet::count()).filter(|number| allowed.is_set(*number) == Ok(true));
    let chosen = match cpu {
        Cpu::First => usable.next(),
        Cpu::Last => usable.next_back(),
    };
    let mut only = CpuSet::new();
    only.set(chosen.context("we may use no CPU")?).context("choose a CPU")?;
    sched_setaffinity(ours, &only).context("pin ourselves to a CPU")
}
