//! How processes of the sandbox are started: inside a namespace, in a group of their own, dying with us.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context;
use netlink::Netns;
use tokio::process::{Child, Command};

/// Starts `command` inside `netns`.
///
/// The calling thread steps in and out again; children inherit the namespace of the thread that makes them.
pub(crate) fn start_in(netns: &Netns, command: &mut Command) -> anyhow::Result<Child> {
    // A Ctrl-C is for the supervisor alone, which then takes everything down in order.
    command.process_group(0).kill_on_drop(true);
    let inside = netns.enter()?;
    let child = command.spawn().with_context(|| format!("start {:?}", command.as_std().get_program()));
    drop(inside);
    child
}

/// `weir-stub MODE`, which stands in `cgroup` and dies with us; more arguments may follow.
///
/// The kernel sends the signal when the *thread* ends that started the child, so start them from one that stays.
pub(crate) fn stub(stub: &Path, mode: &str, cgroup: Option<&Path>) -> Command {
    let mut command = Command::new(stub);
    command.arg(mode).arg("--parent").arg(std::process::id().to_string());
    if let Some(cgroup) = cgroup {
        command.arg("--cgroup").arg(cgroup);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}
