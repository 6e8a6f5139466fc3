//! The supervisor's end of a stub.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, anyhow, bail};
use netlink::Netns;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::{mpsc, oneshot};

use crate::process::{self, Owned};
use crate::state::Process;
use crate::stub::protocol::{Order, Role, Said, Taken};

/// What one stub said, or that it will say no more.
#[derive(Debug)]
pub(crate) struct Heard {
    /// Its process: a later pod may have the same name.
    pub(crate) from: Process,
    /// Absent: the stub has ended.
    pub(crate) said: Option<Said>,
}

/// What is the same for all stubs.
#[derive(Clone, Debug)]
pub(crate) struct Stubs {
    pub(crate) binary: PathBuf,
    /// Where their standard error goes. Not ours: whoever waits for its end would wait for theirs.
    pub(crate) log: PathBuf,
    pub(crate) heard: mpsc::UnboundedSender<Heard>,
}

/// A stub that runs. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Puppet {
    pub(crate) name: String,
    pub(crate) process: Process,
    orders: mpsc::UnboundedSender<Order>,
    child: Owned,
}

impl Puppet {
    /// Starts a stub in `netns`. Returns the ports it could not have.
    pub(crate) async fn start(
        stubs: &Stubs,
        netns: &Netns,
        cgroup: Option<&Path>,
        role: &Role,
    ) -> anyhow::Result<(Self, Vec<Taken>)> {
        let log =
            File::options().create(true).append(true).open(&stubs.log).context("open the stubs' log")?;
        let mut command = process::stub(&stubs.binary, "serve", cgroup);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = process::start_in(netns, &mut command)?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("stub of {}: started without pipes", role.name)
        };
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).context("the stub's process number")?;
        let process = Process::of(pid).with_context(|| format!("stub of {}: ended at once", role.name))?;
        let mut line = serde_json::to_vec(role).context("write down the stub's role")?;
        line.push(b'\n');
        stdin.write_all(&line).await.with_context(|| format!("tell the stub of {} its role", role.name))?;

        let (orders, queue) = mpsc::unbounded_channel();
        let (ready, when_ready) = oneshot::channel();
        drop(tokio::spawn(write_orders(stdin, queue)));
        drop(tokio::spawn(read_said(role.name.clone(), process, stdout, ready, stubs.heard.clone())));
        let taken = when_ready.await.map_err(|_| {
            let said = std::fs::read_to_string(&stubs.log).unwrap_or_default();
            let last = said.lines().last().unwrap_or("it said nothing");
            anyhow!("stub of {}: ended before it listened: {last}", role.name)
        })?;
        Ok((Self { name: role.name.clone(), process, orders, child }, taken))
    }

    pub(crate) fn order(&self, order: Order) {
        // A stub that has ended says so through `Heard`.
        self.orders.send(order).unwrap_or_default();
    }

    /// Kills it and waits until it is gone.
    pub(crate) async fn end(mut self) {
        // It may have ended by itself.
        self.child.kill().await.ok();
    }
}

async fn write_orders(mut stdin: ChildStdin, mut queue: mpsc::UnboundedReceiver<Order>) {
    while let Some(order) = queue.recv().await {
        // Orders hold numbers and addresses: nothing that JSON cannot say.
        let mut line = serde_json::to_vec(&order).unwrap_or_default();
        line.push(b'\n');
        if stdin.write_all(&line).await.is_err() {
            return;
        }
    }
}

async fn read_said(
    name: String,
    from: Process,
    stdout: ChildStdout,
    ready: oneshot::Sender<Vec<Taken>>,
    heard: mpsc::UnboundedSender<Heard>,
) {
    let mut lines = BufReader::new(stdout).lines();
    let mut ready = Some(ready);
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(said) = serde_json::from_str(&line) else {
            eprintln!("weir: stub of {name} said what nobody understands: {line}");
            continue;
        };
        match (said, ready.take()) {
            // Whoever waited for it may have been interrupted.
            (Said::Ready { taken }, Some(ready)) => ready.send(taken).unwrap_or_default(),
            (said, still) => {
                ready = still;
                heard.send(Heard { from, said: Some(said) }).unwrap_or_default();
            }
        }
    }
    heard.send(Heard { from, said: None }).unwrap_or_default();
}
