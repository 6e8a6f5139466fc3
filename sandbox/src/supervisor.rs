//! A sandbox that is up: the owner of everything in it.
//!
//! Whatever is made is held by a field that undoes it, so that a failure, a panic or a dropped future leaves nothing. The
//! orderly way down is [`Sandbox::down`], which also has the plugin unwire each pod as a runtime would.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use api::Status;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde_json::json;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc;

use crate::ground::{self, Binaries};
use crate::mounts::{self, Mounted};
use crate::node::{Node, Site};
use crate::object::objects;
use crate::plan::{self, Cast, PodIps};
use crate::pod::Pod;
use crate::puppet::{Heard, Puppet, Stubs};
use crate::report::{OUTSIDE, node_end};
use crate::runtime::Conflist;
use crate::state::{self, Folder, NodeState, PodState, State};
use crate::stub::protocol::{Role, Taken};
use crate::stub::zone::Zone;
use crate::targets::{NODE_PORT, OUTSIDE_PORTS};
use crate::topology::Underlay;

/// What happens, for whoever waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nodes and agents are being started.
    Nodes,
    /// So many pods of so many are wired.
    Pods(usize, usize),
    /// Agents are putting the objects in force.
    Policies,
    /// So many probes of so many are through.
    Probes(usize, usize),
}

/// A sandbox that is up. Fields are in the order in which they must go.
#[derive(Debug)]
pub struct Sandbox {
    pub(crate) pods: BTreeMap<String, Pod>,
    /// `node/NAME` and `outside`.
    pub(crate) places: BTreeMap<String, Puppet>,
    pub(crate) nodes: Vec<Node>,
    conflists: Vec<Conflist>,
    pub(crate) underlay: Underlay,
    namespaces: Mounted,
    pub(crate) cast: Cast,
    pub(crate) heard: mpsc::UnboundedReceiver<Heard>,
    stubs: Stubs,
    pub(crate) next_probe: u64,
    /// Ports that stubs could not have, by stub: somebody else in the same namespace has them.
    pub(crate) taken: BTreeMap<String, Vec<Taken>>,
    pub(crate) binaries: Binaries,
    state: State,
    pub(crate) folder: Folder,
    pub(crate) up_ms: u64,
}

/// Plugins at once: they are short and use the processor, so more would only queue.
const WIRED_AT_ONCE: usize = 4;
/// Stubs starting at once.
const BORN_AT_ONCE: usize = 16;

impl Sandbox {
    /// Brings `cast` up. Needs root, and a current-thread runtime whose thread outlives the sandbox: that thread gets a
    /// mount namespace of its own, and children die with it.
    pub async fn up(cast: Cast, binaries: Binaries, progress: &dyn Fn(Progress)) -> anyhow::Result<Self> {
        let start = Instant::now();
        if Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread {
            bail!("a sandbox needs a current-thread runtime: its namespaces belong to one thread");
        }
        ground::check()?;
        state::sweep();
        mounts::make_private()?;
        progress(Progress::Nodes);
        let mut sandbox = Self::lay_ground(cast, binaries).await?;
        match sandbox.populate(progress).await {
            Ok(()) => {
                sandbox.up_ms = millis(start);
                Ok(sandbox)
            }
            Err(error) => {
                if let Err(left) = sandbox.down().await {
                    eprintln!("weir: take the sandbox down: {left:#}");
                }
                Err(error)
            }
        }
    }

    /// Underlay, nodes, agents; no pod yet.
    async fn lay_ground(cast: Cast, binaries: Binaries) -> anyhow::Result<Self> {
        let (folder, mut state) = Folder::create()?;
        let namespaces = Mounted::at(folder.path().join("netns"), "tmpfs")?;
        for part in ["objects", "resolv"] {
            let path = folder.path().join(part);
            fs::create_dir(&path).with_context(|| format!("create folder {}", path.display()))?;
        }
        write_objects(&folder, &cast, &PodIps::new())?;
        let underlay = Underlay::create(namespaces.path()).await?;
        let cgroups = ground::cgroup2();
        let mut nodes = Vec::new();
        for (index, plan) in cast.nodes.iter().enumerate() {
            let source = folder.path().join("objects");
            let site = Site {
                sandbox: &state.id,
                folder: folder.path(),
                namespaces: namespaces.path(),
                source: &source,
                cgroups: cgroups.as_deref(),
                binaries: &binaries,
                routing: cast.routing,
            };
            let node = Node::create(site, &underlay, index, plan).await;
            nodes.push(node.with_context(|| format!("bring up {}", plan.name))?);
        }
        let node_state = |node: &Node| NodeState {
            name: node.name.clone(),
            socket: node.socket(),
            cgroup: node.cgroup_path().map(ToOwned::to_owned),
        };
        state.nodes = nodes.iter().map(node_state).collect();
        let (speak, heard) = mpsc::unbounded_channel();
        let stubs =
            Stubs { binary: binaries.stub.clone(), log: folder.path().join("stubs.log"), heard: speak };
        Ok(Self {
            pods: BTreeMap::new(),
            places: BTreeMap::new(),
            nodes,
            conflists: Vec::new(),
            underlay,
            namespaces,
            cast,
            heard,
            stubs,
            next_probe: 0,
            taken: BTreeMap::new(),
            binaries,
            state,
            folder,
            up_ms: 0,
        })
    }

    async fn populate(&mut self, progress: &dyn Fn(Progress)) -> anyhow::Result<()> {
        self.write_names()?;
        self.people_places().await?;
        let wanted: Vec<plan::Pod> = self.cast.pods.clone();
        // Namespaces and stubs come to be while the agents load their programs.
        let conflists = futures_util::future::try_join_all(self.nodes.iter().map(Node::ready));
        let (conflists, ()) = {
            let pods = create_pods(self, &wanted);
            let (conflists, pods) = tokio::try_join!(conflists, pods)?;
            self.admit(pods);
            (conflists, ())
        };
        self.conflists = conflists;
        self.wire(progress).await?;
        progress(Progress::Policies);
        self.publish().await
    }

    /// Stubs for the nodes themselves and for the host outside.
    async fn people_places(&mut self) -> anyhow::Result<()> {
        let role = |name: String, listen: &[plan::Listen], shared| Role {
            name,
            listen: listen.to_vec(),
            shared,
            zone: None,
        };
        let outside = role(OUTSIDE.to_owned(), &OUTSIDE_PORTS, false);
        let mut births = vec![(outside, &self.underlay.outside, None)];
        for node in &self.nodes {
            births.push((role(node_end(&node.name), &[NODE_PORT], true), &node.netns, node.cgroup_path()));
        }
        let born =
            births.iter().map(|(role, netns, cgroup)| Puppet::start(&self.stubs, netns, *cgroup, role));
        for (puppet, taken) in futures_util::future::try_join_all(born).await? {
            self.taken.insert(puppet.name.clone(), taken);
            self.places.insert(puppet.name.clone(), puppet);
        }
        Ok(())
    }

    /// Takes newborn pods in.
    pub(crate) fn admit(&mut self, pods: Vec<(String, Pod, Vec<Taken>)>) {
        for (key, pod, taken) in pods {
            self.taken.insert(key.clone(), taken);
            self.pods.insert(key, pod);
        }
    }

    /// Has the plugin wire every pod that is not.
    pub(crate) async fn wire(&mut self, progress: &dyn Fn(Progress)) -> anyhow::Result<()> {
        let (nodes, conflists, cast) = (&self.nodes, &self.conflists, &self.cast);
        let unwired: Vec<_> = self.pods.values_mut().filter(|pod| pod.ips.is_empty()).collect();
        let total = unwired.len();
        let mut wired = stream::iter(unwired)
            .map(|pod| async move {
                let node = pod.node;
                pod.wire(&nodes[node], &cast.nodes[node].ips, &conflists[node]).await
            })
            .buffer_unordered(WIRED_AT_ONCE);
        let (mut done, mut result) = (0, Ok(()));
        // A plugin that is at work is never cut short, whatever became of the others.
        while let Some(outcome) = wired.next().await {
            done += 1;
            progress(Progress::Pods(done, total));
            result = result.and(outcome);
        }
        result
    }

    /// Tells everybody what addresses pods have: agents, the resolver, and who asks on disk.
    pub(crate) async fn publish(&mut self) -> anyhow::Result<()> {
        self.write_names()?;
        let revision = write_objects(&self.folder, &self.cast, &self.ips())?;
        let pod_state = |pod: &Pod| PodState {
            workload: self.cast.pod(&pod.puppet.name).map(|plan| plan.workload.clone()).unwrap_or_default(),
            node: pod.node,
            stub: pod.puppet.process,
            resolv_conf: self.resolv_conf(pod_namespace(&pod.puppet.name)),
        };
        self.state.pods = self.pods.iter().map(|(key, pod)| (key.clone(), pod_state(pod))).collect();
        self.folder.write(&self.state)?;
        futures_util::future::try_join_all(self.nodes.iter().map(|node| node.in_force(&revision))).await?;
        Ok(())
    }

    /// What DNS answers, and how the pods of each namespace ask.
    pub(crate) fn write_names(&self) -> anyhow::Result<()> {
        let zone = Zone::of(&self.cast, &self.ips());
        state::replace(&self.zone(), &serde_json::to_vec(&zone).context("write down the names")?)?;
        let domain = Cast::CLUSTER_DOMAIN;
        let servers: String = self.cast.dns_ips().iter().map(|ip| format!("nameserver {ip}\n")).collect();
        for pod in &self.cast.pods {
            let namespace = &pod.namespace;
            let text =
                format!("search {namespace}.svc.{domain} svc.{domain} {domain}\n{servers}options ndots:5\n");
            state::replace(&self.resolv_conf(namespace), text.as_bytes())?;
        }
        Ok(())
    }

    fn zone(&self) -> PathBuf {
        self.folder.path().join("zone.json")
    }

    pub(crate) fn resolv_conf(&self, namespace: &str) -> PathBuf {
        self.folder.path().join("resolv").join(format!("{namespace}.conf"))
    }

    pub fn id(&self) -> &str {
        &self.state.id
    }

    pub fn cast(&self) -> &Cast {
        &self.cast
    }

    /// How long [`Sandbox::up`] took.
    pub fn up_ms(&self) -> u64 {
        self.up_ms
    }

    /// The addresses of the pods that are wired.
    pub fn ips(&self) -> PodIps {
        self.pods.iter().map(|(key, pod)| (key.clone(), pod.ips.clone())).collect()
    }

    pub fn outside_ips(&self) -> Vec<IpAddr> {
        Underlay::outside_ips()
    }

    /// Each node's name and its agent's socket.
    pub fn agents(&self) -> Vec<(String, PathBuf)> {
        self.nodes.iter().map(|node| (node.name.clone(), node.socket())).collect()
    }

    pub(crate) fn node(&self, name: &str) -> anyhow::Result<&Node> {
        self.nodes.iter().find(|node| node.name == name).with_context(|| format!("there is no node {name}"))
    }

    /// What a node's agent says of itself.
    pub async fn status(&self, node: &str) -> anyhow::Result<Status> {
        self.node(node)?.status().await
    }

    /// SIGKILL to a node's agent.
    pub async fn kill_agent(&self, node: &str) -> anyhow::Result<()> {
        self.node(node)?.kill_agent().await
    }

    /// Starts a node's agent again, and waits until it is ready.
    pub async fn start_agent(&self, node: &str) -> anyhow::Result<()> {
        self.start_agent_with(node, &[]).await
    }

    /// The same, with more on its command line.
    pub async fn start_agent_with(&self, node: &str, options: &[&str]) -> anyhow::Result<()> {
        let node = self.node(node)?;
        node.start_agent_with(options)?;
        node.ready().await.map(drop)
    }

    /// The folder of a node's pins.
    pub fn pins(&self, node: &str) -> anyhow::Result<&Path> {
        Ok(self.node(node)?.pins())
    }

    pub(crate) async fn end_pods(&self, pods: Vec<Pod>) -> anyhow::Result<()> {
        let ends = pods.into_iter().map(|pod| async move {
            let node = pod.node;
            match self.conflists.get(node) {
                Some(conflist) => pod.end(&self.nodes[node], conflist).await,
                // Nobody was ever wired there.
                None => Ok(()),
            }
        });
        let results: Vec<anyhow::Result<()>> =
            stream::iter(ends).buffer_unordered(WIRED_AT_ONCE).collect().await;
        let errors: Vec<String> =
            results.into_iter().filter_map(|result| result.err().map(|error| format!("{error:#}"))).collect();
        if errors.is_empty() { Ok(()) } else { bail!(errors.join("; ")) }
    }

    /// Takes everything down in order, and makes sure that nothing is left.
    pub async fn down(mut self) -> anyhow::Result<()> {
        let pods = std::mem::take(&mut self.pods).into_values().collect();
        let unwired = self.end_pods(pods).await;
        futures_util::future::join_all(self.nodes.iter().map(Node::stop_agent)).await;
        for (_, puppet) in std::mem::take(&mut self.places) {
            puppet.end().await;
        }
        let cgroups: Vec<PathBuf> =
            self.nodes.iter().filter_map(|node| Some(node.cgroup_path()?.to_owned())).collect();
        let folder = self.folder.path().to_owned();
        drop(self);
        let left: Vec<String> = cgroups
            .into_iter()
            .chain([folder])
            .filter(|path| path.exists())
            .map(|path| path.display().to_string())
            .collect();
        if !left.is_empty() {
            bail!("left behind: {}", left.join(", "));
        }
        unwired
    }
}

/// Namespaces and stubs for `wanted`, not wired yet.
pub(crate) async fn create_pods(
    sandbox: &Sandbox,
    wanted: &[plan::Pod],
) -> anyhow::Result<Vec<(String, Pod, Vec<Taken>)>> {
    let births = wanted.iter().map(|plan| async move {
        let zone = plan.system.then(|| sandbox.zone());
        let node = &sandbox.nodes[plan.node];
        let namespaces = sandbox.namespaces.path();
        let (pod, taken) = Pod::create(plan, node, namespaces, zone, &sandbox.stubs)
            .await
            .with_context(|| format!("bring up pod {}", plan.key()))?;
        Ok((plan.key(), pod, taken))
    });
    stream::iter(births).buffer_unordered(BORN_AT_ONCE).try_collect().await
}

/// One file for all objects, so that replacing it is one step. Returns its revision.
pub(crate) fn write_objects(folder: &Folder, cast: &Cast, ips: &PodIps) -> anyhow::Result<String> {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects(cast, ips) });
    let text = serde_json::to_vec(&list).context("write down the objects")?;
    state::replace(&folder.path().join("objects/objects.json"), &text)?;
    Ok(api::source_revision([text.as_slice()]))
}

fn pod_namespace(key: &str) -> &str {
    key.split('/').next().unwrap_or_default()
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
