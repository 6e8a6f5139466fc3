//! How processes of the sandbox are started: inside a namespace, in a group of their own, dying with us.

use std::io;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use netlink::Netns;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

/// Starts `command` inside `netns`.
///
/// The calling thread steps in and out again; children inherit the namespace of the thread that makes them.
pub(crate) fn start_in(netns: &Netns, command: &mut Command) -> anyhow::Result<Owned> {
    // A Ctrl-C is for the supervisor alone, which then takes everything down in order.
    command.process_group(0);
    let inside = netns.enter()?;
    let child = command.spawn().with_context(|| format!("start {:?}", command.as_std().get_program()));
    drop(inside);
    child.map(Owned)
}

/// A child of ours. Dropped, it is killed and *waited for*: whoever drops everything leaves no process behind, not even
/// one that is still dying.
#[derive(Debug)]
pub struct Owned(Child);

/// How long a killed process may take to die. One that the kernel keeps longer we cannot help.
const DYING: Duration = Duration::from_secs(5);

impl Drop for Owned {
    fn drop(&mut self) {
        // An error means that it has ended already.
        if self.0.start_kill().is_err() {
            return;
        }
        let deadline = Instant::now() + DYING;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}

impl Deref for Owned {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Owned {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Owned {
    /// Waits for its end, and takes what it wrote to the pipes it was given.
    pub async fn output(mut self) -> io::Result<Output> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (out, err) = (self.stdout.take(), self.stderr.take());
        let read_out = async {
            match out {
                Some(mut pipe) => pipe.read_to_end(&mut stdout).await.map(drop),
                None => Ok(()),
            }
        };
        let read_err = async {
            match err {
                Some(mut pipe) => pipe.read_to_end(&mut stderr).await.map(drop),
                None => Ok(()),
            }
        };
        let ((), (), status) = tokio::try_join!(read_out, read_err, self.0.wait())?;
        Ok(Output { status, stdout, stderr })
    }
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
