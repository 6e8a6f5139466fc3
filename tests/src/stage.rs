//! A sandbox as tests use it: manifests in, ends by name, what the kernel said.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use api::{Flow, FlowLine, VerdictKind};
use netlink::Netns;
use policy::{Attachment, PodRef, World, manifest};
use sandbox::plan::{Cast, Options, Routing};
use sandbox::report::Report;
use sandbox::{Binaries, Sandbox, assemble, client};

use crate::node::{FAMILIES, Family};

/// Fails with a sentence where this is not root.
pub fn require_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces and loads eBPF programs: run it as root"
    );
}

/// Runs on a runtime such as a sandbox needs.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

/// A file of manifests that goes away with its owner.
pub struct Manifests(pub PathBuf);

impl Manifests {
    pub fn new(text: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("weir-test-{}-{count}.yaml", std::process::id()));
        std::fs::write(&path, text).expect("write the manifests");
        Self(path)
    }

    pub fn write(&self, text: &str) {
        std::fs::write(&self.0, text).expect("write the manifests");
    }

    pub fn cast(&self, before: Option<&Cast>) -> Cast {
        let routing = before.map(|before| before.routing).unwrap_or_default();
        self.cast_on(routing, before)
    }

    fn cast_on(&self, routing: Routing, before: Option<&Cast>) -> Cast {
        let options = Options { routing, ..Options::new(vec![self.0.clone()]) };
        assemble::cast(&options, before).expect("valid manifests")
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).expect("remove the manifests");
    }
}

/// Packets that both nodes have counted under a name.
pub async fn counter(stage: &Stage, name: &str) -> u64 {
    let mut sum = 0;
    for node in NODES {
        let counters = stage.sandbox.status(node).await.expect("an agent that answers").counters;
        // One that has counted nothing yet is not shown.
        sum += counters.iter().find(|counter| counter.name == name).map_or(0, |counter| counter.packets);
    }
    sum
}

/// A sandbox of two nodes, and the file that it plays.
pub struct Stage {
    pub sandbox: Sandbox,
    pub manifests: Manifests,
}

pub const NODES: [&str; 2] = ["node-0", "node-1"];

impl Stage {
    pub async fn up(text: &str) -> Self {
        Self::up_with(text, Routing::Direct).await
    }

    pub async fn up_with(text: &str, routing: Routing) -> Self {
        require_root();
        let manifests = Manifests::new(text);
        let binaries = Binaries::beside_us().expect("the binaries under test");
        let cast = manifests.cast_on(routing, None);
        let sandbox = Sandbox::up(cast, binaries, &|_| ()).await.expect("a sandbox");
        Self { sandbox, manifests }
    }

    /// Returns once both agents have put it in force.
    pub async fn apply(&mut self, text: &str) {
        self.try_apply(text).await.expect("apply the manifests");
    }

    pub async fn try_apply(&mut self, text: &str) -> Result<(), String> {
        self.manifests.write(text);
        let cast = self.manifests.cast(Some(self.sandbox.cast()));
        self.sandbox.apply(cast, &|_| ()).await.map_err(|error| format!("{error:#}"))
    }

    pub async fn probe(&mut self) -> Report {
        self.sandbox.probe(false, &|_| ()).await.expect("measure")
    }

    pub async fn down(self) {
        self.sandbox.down().await.expect("take the sandbox down");
    }

    /// The sandbox's own folder.
    pub fn folder(&self) -> PathBuf {
        PathBuf::from(format!("/run/weir/sandbox/{}", self.sandbox.id()))
    }

    /// The folder of objects that the agents watch.
    pub fn objects(&self) -> PathBuf {
        self.folder().join("objects")
    }

    /// Puts a file there in one step, so that no agent reads half of it.
    pub fn put_object_file(&self, name: &str, text: &str) {
        let draft = self.folder().join(format!("{name}.draft"));
        std::fs::write(&draft, text).expect("write a draft");
        std::fs::rename(&draft, self.objects().join(name)).expect("put it in place");
    }

    /// The world as the specification sees it: the objects that the agents read, and `more`, with every pod attached. It does
    /// not care which node a pod is on.
    pub fn world(&self, more: &str) -> World {
        let mut world = World::new(NODES[0]);
        let sandboxed = std::fs::read_to_string(self.objects().join("objects.json")).expect("the objects");
        for text in [&sandboxed, more] {
            for document in manifest::documents("objects", text).expect("valid manifests") {
                if let Some((object, warnings)) = manifest::object(&document).expect("a valid object") {
                    world.apply(object, &warnings);
                }
            }
        }
        for (key, ips) in self.sandbox.ips() {
            let (namespace, name) = key.split_once('/').expect("namespace/name");
            world.attach(Attachment {
                container_id: key.clone(),
                ifname: "eth0".to_owned(),
                pod: Some(PodRef { namespace: namespace.to_owned(), name: name.to_owned(), uid: None }),
                ifindex: 1,
                ips,
            });
        }
        world
    }

    /// The address of a pod (`shop/web`), a node (`node/node-0`) or `outside`.
    pub fn ip(&self, end: &str, family: Family) -> IpAddr {
        let ips = match end.strip_prefix("node/") {
            Some(node) => {
                let nodes = &self.sandbox.cast().nodes;
                nodes.iter().find(|other| other.name == node).map(|node| node.ips.clone())
            }
            None if end == "outside" => Some(self.sandbox.outside_ips()),
            None => self.sandbox.ips().remove(end),
        };
        let ips = ips.unwrap_or_else(|| panic!("no {end}"));
        let wanted = |ip: &IpAddr| ip.is_ipv4() == (family == Family::V4);
        ips.into_iter().find(wanted).unwrap_or_else(|| panic!("{end} has no {family:?} address"))
    }

    pub fn address(&self, end: &str, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(end, family), port)
    }

    pub fn addresses(&self, end: &str, port: u16) -> [SocketAddr; 2] {
        FAMILIES.map(|family| self.address(end, family, port))
    }

    pub fn netns(&self, end: &str) -> Netns {
        self.sandbox.netns(end).and_then(|netns| Ok(netns.try_clone()?)).expect("a namespace")
    }

    /// What both agents have kept of flows between two ends, drops only.
    pub async fn drops(&self, from: IpAddr, to: IpAddr) -> Vec<Flow> {
        let mut drops = Vec::new();
        for (_, socket) in self.sandbox.agents() {
            let mut lines = client::Lines::open(&socket, "/v1/flows?verdict=denied")
                .await
                .expect("an agent that answers");
            while let Some(line) = lines.next().await {
                let FlowLine::Flow(flow) = line else { continue };
                if flow.verdict == VerdictKind::Denied && flow.from.ip == from && flow.to.ip == to {
                    drops.push(*flow);
                }
            }
        }
        drops
    }

    /// The reason of the last drop between two ends, as soon as there is one.
    pub async fn drop_reason(&self, from: IpAddr, to: IpAddr) -> String {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if let Some(flow) = self.drops(from, to).await.pop() {
                return flow.reason;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        "no drop was seen".to_owned()
    }
}
