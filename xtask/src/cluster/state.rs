//! What a cluster consists of, in a file: whoever comes later, after a crash too, knows what to take down.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::layout::Layout;
use super::machine::{self, Machine};
use super::{control_plane, underlay};
use crate::workspace;

/// A cluster, whole or half.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cluster {
    /// Of the folder's path: two clusters on one machine share nothing.
    id: String,
    folder: PathBuf,
    pub(crate) layout: Layout,
    pub(crate) nodes: usize,
    /// The control plane first; those that were started.
    pub(crate) machines: Vec<Machine>,
    cgroups: Vec<PathBuf>,
    /// Everything was up once.
    pub(crate) complete: bool,
}

const FILE: &str = "state.json";

/// Where a person's cluster is.
pub(crate) fn default_folder() -> PathBuf {
    workspace::target().join("cluster")
}

pub(crate) fn node_name(number: usize) -> String {
    format!("node-{number}")
}

impl Cluster {
    pub(crate) fn new(folder: PathBuf, layout: Layout, nodes: usize) -> Self {
        let digest = Sha256::digest(folder.as_os_str().as_encoded_bytes());
        let id = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Self { id, folder, layout, nodes, machines: Vec::new(), cgroups: Vec::new(), complete: false }
    }

    /// The cluster in this folder; nothing where there is none.
    pub(crate) fn load(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("understand {}", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// The cluster that is up.
    pub(crate) fn running(folder: &Path) -> Result<Self> {
        match Self::load(folder)? {
            Some(cluster) if cluster.complete => Ok(cluster),
            _ => bail!("no cluster is up; `cargo xtask cluster up` brings one up"),
        }
    }

    pub(crate) fn save(&self) -> Result<()> {
        let path = self.folder.join(FILE);
        let text = serde_json::to_vec_pretty(self).context("write down the cluster")?;
        let partial = path.with_extension("partial");
        fs::create_dir_all(&self.folder)
            .and_then(|()| fs::write(&partial, text))
            .and_then(|()| fs::rename(&partial, &path))
            .with_context(|| format!("write {}", path.display()))
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.folder.join("pki")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// On a tmpfs: fast, and never an overlay.
    fn disks(&self) -> PathBuf {
        Path::new("/dev/shm").join(format!("weir-cluster-{}", self.id))
    }

    pub(crate) fn disk(&self, machine: &str) -> PathBuf {
        self.disks().join(machine)
    }

    /// Tells a machine by a file on its disk what it waits for.
    pub(crate) fn tell(&self, machine: &str, what: &str) -> Result<()> {
        let file = self.disk(machine).join(what);
        fs::write(&file, "").with_context(|| format!("write {}", file.display()))
    }

    pub(crate) fn machine(&self, name: &str) -> Result<&Machine> {
        self.machines.iter().find(|machine| machine.name == name).with_context(|| {
            let names: Vec<_> = self.machines.iter().map(|machine| machine.name.as_str()).collect();
            format!("no machine `{name}` is up; these are: {}", names.join(", "))
        })
    }

    pub(crate) fn control_plane(&self) -> Result<&Machine> {
        self.machine(control_plane::NAME)
    }

    /// The names and paths of a machine's cgroups, noted down before anything is in them.
    pub(crate) fn claim_cgroups(&mut self, machine: &str) -> Result<Vec<(String, PathBuf)>> {
        let cgroups = machine::cgroups(&format!("weir-cluster-{}-{machine}", self.id))?;
        for (_, path) in &cgroups {
            if !self.cgroups.contains(path) {
                self.cgroups.push(path.clone());
            }
        }
        self.save()?;
        machine::make_cgroups(&cgroups)?;
        Ok(cgroups)
    }

    /// Starts a machine from its orders on the disk that `tell` writes to.
    pub(crate) fn start(&mut self, orders: &super::orders::Orders) -> Result<()> {
        let cgroups = self.claim_cgroups(&orders.name)?;
        let file = self.orders_file(&orders.name);
        for folder in [&self.logs(), &orders.disk] {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        // Those of a past life would be believed.
        fs::remove_file(orders.disk.join(super::orders::CONNECTED)).ok();
        let machine = Machine::start(orders, &file, &cgroups)?;
        self.machines.retain(|other| other.name != machine.name);
        self.machines.push(machine);
        self.save()
    }

    fn orders_file(&self, machine: &str) -> PathBuf {
        self.folder.join(format!("{machine}.json"))
    }

    /// Plugs a node's cable in and tells it so.
    pub(crate) fn connect(&self, number: usize) -> Result<()> {
        let name = node_name(number);
        underlay::join(self.control_plane()?, self.machine(&name)?, number)?;
        self.tell(&name, super::orders::CONNECTED)
    }

    /// Pulls a node's plug; its disk stays.
    pub(crate) fn stop_node(&mut self, number: usize) -> Result<()> {
        self.end(&node_name(number))
    }

    fn end(&self, name: &str) -> Result<()> {
        self.machine(name)?.kill()?;
        let suffix = format!("weir-cluster-{}-{name}", self.id);
        machine::remove_cgroups(self.cgroups.iter().filter(|path| path.ends_with(&suffix)))
    }

    /// Ends a machine that has done its work. Its disk is there until the cluster is taken down.
    pub(crate) fn dismiss(&mut self, name: &str) -> Result<()> {
        self.end(name)?;
        self.machines.retain(|machine| machine.name != name);
        self.save()
    }

    /// Starts a stopped node again from its own disk.
    pub(crate) fn start_node(&mut self, number: usize) -> Result<()> {
        let file = self.orders_file(&node_name(number));
        let text = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let orders =
            serde_json::from_slice(&text).with_context(|| format!("understand {}", file.display()))?;
        self.start(&orders)?;
        self.connect(number)
    }

    /// Ends everything; the logs stay. What does not go is the error, after all else is gone.
    pub(crate) fn take_down(&self) -> Result<()> {
        let mut outcome = Ok(());
        let mut note = |result: Result<()>| {
            if outcome.is_ok() {
                outcome = result;
            }
        };
        for machine in self.machines.iter().rev() {
            note(machine.kill());
        }
        note(machine::remove_cgroups(&self.cgroups));
        for folder in [self.disks(), self.pki()] {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    note(Err(error).with_context(|| format!("remove {}", folder.display())));
                }
                _ => {}
            }
        }
        outcome?;
        let file = self.folder.join(FILE);
        fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))
    }
}
