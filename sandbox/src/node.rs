//! A node: a namespace on the underlay, a cgroup, a bpffs, and the agent that watches over them.

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use api::Status;
use netlink::Netns;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::Cgroup;
use crate::client;
use crate::ground::Binaries;
use crate::mounts::Mounted;
use crate::plan::{self, Routing};
use crate::process::{self, Owned};
use crate::runtime::Conflist;
use crate::topology::{NODE_DEVICE, Settings, Underlay, namespace};

/// A node that is up. Fields are in the order in which they must go.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    agent: RefCell<Option<Owned>>,
    pub(crate) netns: Netns,
    pub(crate) cgroup: Option<Cgroup>,
    bpffs: Mounted,
    folder: PathBuf,
    /// What the agents read.
    source: PathBuf,
    binaries: Binaries,
    routing: Routing,
}

/// What is the same for all nodes.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) sandbox: &'a str,
    pub(crate) folder: &'a Path,
    pub(crate) namespaces: &'a Path,
    pub(crate) source: &'a Path,
    pub(crate) cgroups: Option<&'a Path>,
    pub(crate) binaries: &'a Binaries,
    pub(crate) routing: Routing,
}

/// How long an agent may take to load its programs and read its source.
const PATIENCE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(3);
/// The status with which a program ends that does not know its command line.
const MISUSED: i32 = 2;

impl Node {
    pub(crate) async fn create(
        site: Site<'_>,
        underlay: &Underlay,
        index: usize,
        plan: &plan::Node,
    ) -> anyhow::Result<Self> {
        let netns = namespace(site.namespaces, &plan.name, Settings { forwarding: true }).await?;
        underlay
            .join(index, plan, &netns, site.routing)
            .await
            .with_context(|| format!("join {} to the underlay", plan.name))?;
        let folder = site.folder.join(&plan.name);
        for part in ["", "cni", "cni-state"] {
            let path = folder.join(part);
            fs::create_dir(&path).with_context(|| format!("create folder {}", path.display()))?;
        }
        let bpffs = Mounted::at(folder.join("bpf"), "bpf")?;
        let cgroup = site.cgroups.map(|root| Cgroup::create(root, site.sandbox, &plan.name)).transpose()?;
        let node = Self {
            name: plan.name.clone(),
            agent: RefCell::new(None),
            netns,
            cgroup,
            bpffs,
            folder,
            source: site.source.to_owned(),
            binaries: site.binaries.clone(),
            routing: site.routing,
        };
        node.start_agent()?;
        Ok(node)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }

    fn conflist(&self) -> PathBuf {
        self.folder.join("cni/10-weir.conflist")
    }

    pub(crate) fn pins(&self) -> &Path {
        self.bpffs.path()
    }

    fn log(&self) -> PathBuf {
        self.folder.join("agent.log")
    }

    pub(crate) fn cgroup_path(&self) -> Option<&Path> {
        self.cgroup.as_ref().map(Cgroup::path)
    }

    /// Starts the agent; [`Node::ready`] waits for it.
    pub(crate) fn start_agent(&self) -> anyhow::Result<()> {
        self.start_agent_with(&[])
    }

    pub(crate) fn start_agent_with(&self, options: &[&str]) -> anyhow::Result<()> {
        if self.agent.borrow().is_some() {
            bail!("the agent of {} runs already", self.name);
        }
        let log =
            File::options().create(true).append(true).open(self.log()).context("open the agent's log")?;
        let mut command = process::stub(&self.binaries.stub, "spawn", None);
        command.arg("--").arg(&self.binaries.agent);
        command.arg("--node").arg(&self.name);
        command.arg("--source").arg(&self.source);
        command.arg("--pins").arg(self.pins());
        command.arg("--socket").arg(self.socket());
        command.arg("--conflist").arg(self.conflist());
        command.arg("--cni-state").arg(self.folder.join("cni-state"));
        command.arg("--device").arg(NODE_DEVICE);
        command.arg("--routing").arg(self.routing.as_str());
        if let Some(cgroup) = self.cgroup_path() {
            command.arg("--cgroup").arg(cgroup);
        }
        command.args(options);
        command.stderr(Stdio::from(log));
        *self.agent.borrow_mut() = Some(process::start_in(&self.netns, &mut command)?);
        Ok(())
    }

    /// Waits until the agent says that its first complete list is in force and pods can be wired.
    pub(crate) async fn ready(&self) -> anyhow::Result<Conflist> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(agent) = self.agent.borrow_mut().as_mut()
                && let Some(status) = agent.try_wait().context("look after the agent")?
            {
                let log = fs::read_to_string(self.log()).unwrap_or_default();
                let why = if status.code() == Some(MISUSED) {
                    unknown_to(&self.binaries.agent, &log)
                } else {
                    None
                };
                bail!(
                    "the agent of {} ended ({status}): {}",
                    self.name,
                    why.unwrap_or_else(|| self.last_words())
                );
            }
            if self.conflist().exists() && self.status().await.is_ok_and(|status| status.ready) {
                return Conflist::read(&self.conflist(), &self.binaries.cni_path);
            }
            if Instant::now() > deadline {
                bail!(
                    "the agent of {} is not ready after {} s: {}",
                    self.name,
                    PATIENCE.as_secs(),
                    self.last_words()
                );
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    pub(crate) async fn status(&self) -> anyhow::Result<Status> {
        client::get(&self.socket(), "/v1/status").await
    }

    /// Waits until the agent has put the source of this revision in force.
    pub(crate) async fn in_force(&self, revision: &str) -> anyhow::Result<Status> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await?;
            if status.source_revision.as_deref() == Some(revision) {
                return Ok(status);
            }
            if Instant::now() > deadline {
                let why = status.last_error.unwrap_or_else(|| "it does not say why".into());
                bail!("the agent of {} has not put the objects in force: {why}", self.name);
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// SIGKILL, at once.
    pub(crate) async fn kill_agent(&self) -> anyhow::Result<()> {
        let agent = self.agent.take();
        let Some(mut agent) = agent else { bail!("no agent runs on {}", self.name) };
        agent.kill().await.with_context(|| format!("kill the agent of {}", self.name))
    }

    /// SIGTERM, and a moment to obey.
    pub(crate) async fn stop_agent(&self) {
        let agent = self.agent.take();
        let Some(mut agent) = agent else { return };
        let pid = agent.id().and_then(|pid| i32::try_from(pid).ok());
        // An agent that is gone already needs no signal.
        pid.and_then(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM).ok());
        if tokio::time::timeout(Duration::from_secs(5), agent.wait()).await.is_err() {
            agent.kill().await.ok();
        }
    }

    /// The end of the agent's log.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(5).collect();
        if lines.is_empty() {
            "it said nothing".into()
        } else {
            lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
        }
    }
}

/// What an agent says of options that it does not know: then it is not of our build, since we gave them.
fn unknown_to(agent: &Path, log: &str) -> Option<String> {
    let error = log.lines().rev().find_map(|line| line.strip_prefix("error: "))?;
    Some(format!(
        "{error}: {} is older than the sandbox, or newer; build both anew, `cargo build -p agent -p cni -p cli -p sandbox`",
        agent.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_of_another_build_is_named_with_the_option_that_it_does_not_know() {
        let log = "INFO ready\nerror: unexpected argument '--routing' found\n\n  tip: a similar argument exists: '--node'\n\n\
            Usage: weir-agent --node <NODE> --source <DIR>\n\nFor more information, try '--help'.\n";
        let why = unknown_to(Path::new("/b/weir-agent"), log).unwrap();
        assert!(
            why.starts_with("unexpected argument '--routing' found: /b/weir-agent is older than the sandbox"),
            "{why}"
        );
        assert_eq!(unknown_to(Path::new("/b/weir-agent"), "thread 'main' panicked\n"), None);
    }
}
