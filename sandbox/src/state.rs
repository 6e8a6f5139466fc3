//! What is on disk of each sandbox, so that other processes find it: `/run/weir/sandbox/<id>/state.json`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::{cgroup, ground};

/// Every sandbox of the machine has a folder here.
const ROOT: &str = "/run/weir/sandbox";
const STATE: &str = "state.json";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) id: String,
    pub(crate) supervisor: Process,
    pub(crate) nodes: Vec<NodeState>,
    /// By `namespace/name`.
    pub(crate) pods: BTreeMap<String, PodState>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeState {
    pub(crate) name: String,
    pub(crate) socket: PathBuf,
    pub(crate) cgroup: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodState {
    /// `Deployment shop/web`.
    pub(crate) workload: String,
    /// Index into [`State::nodes`].
    pub(crate) node: usize,
    pub(crate) stub: Process,
    pub(crate) resolv_conf: PathBuf,
}

/// A process, told apart from a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// In clock ticks since boot.
    pub(crate) started: u64,
}

impl Process {
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let unreadable = || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat: {stat}"));
        // The name before the last parenthesis may hold anything; the 20th field after it is the start time.
        let (_, fields) = stat.rsplit_once(')').ok_or_else(unreadable)?;
        let mut fields = fields.split_whitespace();
        if fields.next() == Some("Z") {
            return Err(io::Error::new(io::ErrorKind::NotFound, "a zombie"));
        }
        let started = fields.nth(18).and_then(|field| field.parse().ok()).ok_or_else(unreadable)?;
        Ok(Self { pid, started })
    }

    pub(crate) fn is_alive(&self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == *self)
    }
}

/// The folder of one sandbox. Dropped, it goes away with all that is in it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes a folder with a new id. It appears together with its state, so that nobody takes it for a dead one's.
    pub(crate) fn create() -> anyhow::Result<(Self, State)> {
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").context("make up an id")?;
        let id: String = uuid.chars().take(6).collect();
        let pid = i32::try_from(std::process::id()).context("our process number")?;
        let supervisor = Process::of(pid).context("find out when we started")?;
        let state = State { id, supervisor, nodes: Vec::new(), pods: BTreeMap::new() };
        let path = Path::new(ROOT).join(&state.id);
        let hidden = Path::new(ROOT).join(format!(".{}", state.id));
        fs::create_dir_all(&hidden).with_context(|| format!("create folder {}", hidden.display()))?;
        let newborn = Self { path: hidden };
        newborn.write(&state)?;
        fs::rename(&newborn.path, &path).with_context(|| format!("create folder {}", path.display()))?;
        Ok((Self { path }, state))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn write(&self, state: &State) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(state).context("write down the state")?;
        replace(&self.path.join(STATE), &text)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                eprintln!("weir: remove folder {}: {error}", self.path.display());
            }
            _ => {}
        }
        // The last one out turns off the light; others may still be in.
        for folder in Path::new(ROOT).ancestors().take(2) {
            fs::remove_dir(folder).ok();
        }
    }
}

/// Writes a file so that readers see the old or the new one, never a part.
pub(crate) fn replace(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    fs::write(&beside, text)
        .and_then(|()| fs::rename(&beside, path))
        .with_context(|| format!("write {}", path.display()))
}

/// The states of all sandboxes, living and dead, by id.
fn all() -> Vec<State> {
    let Ok(entries) = fs::read_dir(ROOT) else { return Vec::new() };
    let mut states: Vec<State> = entries
        .flatten()
        .filter_map(|entry| serde_json::from_slice(&fs::read(entry.path().join(STATE)).ok()?).ok())
        .collect();
    states.sort_by(|a, b| a.id.cmp(&b.id));
    states
}

/// The sandboxes that are up.
pub(crate) fn living() -> Vec<State> {
    all().into_iter().filter(|state| state.supervisor.is_alive()).collect()
}

/// Removes what supervisors left that were killed: their namespaces and mounts died with them, files and cgroups did not.
pub(crate) fn sweep() {
    for state in all() {
        if !state.supervisor.is_alive() {
            forget(&state.id);
        }
    }
}

/// Removes every trace of a sandbox without a supervisor.
pub(crate) fn forget(id: &str) {
    for cgroup in ground::cgroup2().iter().flat_map(|root| cgroup::of_sandbox(root, id)) {
        if let Err(error) = cgroup::remove(&cgroup) {
            eprintln!("weir: remove cgroup {}: {error}", cgroup.display());
        }
    }
    for name in [id.to_owned(), format!(".{id}")] {
        drop(Folder { path: Path::new(ROOT).join(name) });
    }
}

/// A sandbox that is up, and how to reach its agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    pub id: String,
    /// Each node's name and its agent's socket.
    pub agents: Vec<(String, PathBuf)>,
}

/// The sandboxes that are up, by id.
pub fn running() -> anyhow::Result<Vec<Running>> {
    let agents = |state: State| state.nodes.into_iter().map(|node| (node.name, node.socket)).collect();
    Ok(living().into_iter().map(|state| Running { id: state.id.clone(), agents: agents(state) }).collect())
}

/// The one that is meant: by id, or the only one.
pub(crate) fn choose(id: Option<&str>) -> anyhow::Result<State> {
    let mut states = living();
    if let Some(id) = id {
        states.retain(|state| state.id == id);
    }
    match (states.len(), id) {
        (1, _) => Ok(states.remove(0)),
        (0, Some(id)) => anyhow::bail!("no sandbox {id} is up; `weir sandbox list` shows those that are"),
        (0, None) => anyhow::bail!("no sandbox is up; `weir sandbox -f … --keep` leaves one up"),
        _ => {
            let ids: Vec<_> = states.iter().map(|state| state.id.as_str()).collect();
            anyhow::bail!("several sandboxes are up: say which of {}", ids.join(", "))
        }
    }
}
