//! `cargo xtask cluster up`: from nothing to nodes that are Ready and a name server that answers.

use std::net::{IpAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use super::kubectl::Kubectl;
use super::layout::{API_PORT, API_SERVER, Layout};
use super::machine;
use super::node::Node;
use super::orders::{API_LISTENS, API_READY, CONNECTED};
use super::pki::Pki;
use super::state::{Cluster, node_name};
use super::store::{self, Fresh};
use super::tools::{self, Tools};
use super::{control_plane, plain, underlay, weir};
use crate::{image, setup, workspace};

/// Generous: a machine that does three other things at once takes ten times as long.
const PATIENCE: Duration = Duration::from_secs(180);
const GLANCE: Duration = Duration::from_millis(50);
/// Two ranges of 10.90.0.0/24 and of a bridge's ports: far more than one machine carries.
const MOST_NODES: usize = 50;

/// Who wires the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// Weir, as `deploy/` installs it anywhere
    Weir,
    /// The reference plugins `bridge` and `host-local`, for comparison
    Bridge,
    /// Weir on the first node and the reference plugins on the others: their pods do not reach each other
    Both,
    /// Nobody yet: nodes stay NotReady until something is installed
    None,
}

/// What is to be up.
pub(crate) struct Wish {
    pub(crate) folder: PathBuf,
    pub(crate) nodes: usize,
    pub(crate) layout: Layout,
    pub(crate) network: Network,
    /// How Weir itself is built: tests want names in a backtrace more than speed.
    pub(crate) profile: image::Profile,
    /// Archives for every node beside our own.
    pub(crate) images: Vec<PathBuf>,
}

/// Says what was done, when since the beginning, and how long that took alone.
struct Clock {
    begun: Instant,
    last: Instant,
}

impl Clock {
    fn say(&mut self, what: &str) {
        let now = Instant::now();
        let [since, alone] = [self.begun, self.last].map(|then| (now - then).as_secs_f64());
        self.last = now;
        eprintln!("[{since:6.2} s, {alone:5.2}] {what}");
    }
}

/// Brings it up, or leaves nothing but logs. How long that took once everything was built.
pub(crate) fn up(wish: &Wish) -> Result<(Cluster, Duration)> {
    ensure!(
        workspace::is_root(),
        "a cluster is made of namespaces, cgroups and mounts, which needs root: run this as root"
    );
    ensure!(
        (1..=MOST_NODES).contains(&wish.nodes),
        "{} nodes: from 1 to {MOST_NODES} are possible",
        wish.nodes
    );
    let tools = tools::tools()?;
    let mut images = wish.images.clone();
    if matches!(wish.network, Network::Weir | Network::Both) {
        let built = image::build(&setup::tools()?, wish.profile, image::DEVELOPMENT)?;
        images.push(built.archive);
    }
    if let Some(old) = Cluster::load(&wish.folder)? {
        let whole = old.complete && old.machines.iter().all(machine::Machine::is_alive);
        ensure!(!whole, "a cluster is up already; `cargo xtask cluster down` takes it down");
        eprintln!("an earlier cluster did not end well: taking down what is left of it");
        old.take_down()?;
    }
    let mut cluster = Cluster::new(wish.folder.clone(), wish.layout, wish.nodes);
    let begun = Instant::now();
    match bring_up(&mut cluster, wish, &tools, &images) {
        Ok(fresh) => {
            let took = begun.elapsed();
            if let Some(Err(error)) = fresh.map(Fresh::keep) {
                eprintln!("the next cluster has to import the images again: {error:#}");
            }
            Ok((cluster, took))
        }
        Err(error) => {
            let error = error.context(format!("the logs are in {}", cluster.logs().display()));
            match cluster.take_down() {
                Ok(()) => Err(error),
                Err(left) => Err(error.context(format!("and not everything could be taken down: {left:#}"))),
            }
        }
    }
}

/// What is to be kept of it is for later: nobody should wait for that.
fn bring_up(cluster: &mut Cluster, wish: &Wish, tools: &Tools, images: &[PathBuf]) -> Result<Option<Fresh>> {
    let begun = Instant::now();
    let mut clock = Clock { begun, last: begun };
    cluster.save()?;
    let names: Vec<String> = (1..=wish.nodes).map(node_name).collect();
    let pki = Pki::create(cluster.pki(), wish.layout, &names)?;
    let (disk, logs) = (cluster.disk(control_plane::NAME), cluster.logs());
    cluster.start(&control_plane::orders(wish.layout, &pki, &disk, &logs, &tools.bin))?;
    underlay::lay(cluster.control_plane()?)?;
    cluster.tell(control_plane::NAME, CONNECTED)?;
    clock.say("certificates and underlay made, control plane starts");

    // Images and runtimes get ready while the API server does.
    let fresh = store::fill(cluster, tools, &all_images(tools, images)?, &names)?;
    clock.say(if fresh.is_some() { "images imported" } else { "images there from an earlier cluster" });
    for (index, name) in names.iter().enumerate() {
        let cgroups = cluster.claim_cgroups(name)?;
        let node = Node {
            name,
            number: index + 1,
            layout: wish.layout,
            kubeconfig: pki.kubeconfig(&format!("{name}.conf"))?,
            hierarchies: cgroups.into_iter().map(|(hierarchy, _)| hierarchy).collect(),
            plugins: matches!(wish.network, Network::Bridge | Network::Both),
        };
        cluster.start(&node.orders(tools, &cluster.disk(name), &logs))?;
        cluster.connect(index + 1)?;
    }
    let kubectl = Kubectl::new(cluster, &tools.bin)?;
    let weir = match wish.network {
        Network::Weir => Some(weir::objects(cluster, &kubectl, None)?),
        Network::Both => Some(weir::objects(cluster, &kubectl, names.first().map(String::as_str))?),
        Network::Bridge | Network::None => None,
    };
    clock.say("nodes' runtimes start");
    await_port(cluster)?;
    // A kubelet takes longer to start than the server to be ready; should it be too early, it tries again.
    for name in names.iter().map(String::as_str).chain([control_plane::NAME]) {
        cluster.tell(name, API_LISTENS)?;
    }
    clock.say("API server listens");
    kubectl.until(PATIENCE, "the API server answers", &["get", "--raw=/readyz"], |_| Some(()))?;
    cluster.tell(control_plane::NAME, API_READY)?;
    clock.say("API server ready");

    // At once: who makes pods of them, and where, begins just now too.
    let name_server = name_server(wish.layout);
    kubectl.apply(&weir.map_or(name_server.clone(), |weir| format!("{weir}\n---\n{name_server}")))?;
    clock.say("Weir and CoreDNS applied");
    let limit = format!("--timeout={}s", PATIENCE.as_secs());
    let nodes: Vec<String> = names.iter().map(|name| format!("node/{name}")).collect();
    let wait = |what: &str| {
        let arguments = ["wait", what, limit.as_str()].into_iter().chain(nodes.iter().map(String::as_str));
        kubectl.run(&arguments.collect::<Vec<_>>()).map(drop)
    };
    // One by one: where two are missing, kubectl takes them for an error that ends its waiting.
    for node in &nodes {
        kubectl.run(&["wait", "--for=create", &limit, node])?;
    }
    wait("--for=jsonpath={.spec.podCIDR}")?;
    clock.say("nodes registered, pod CIDRs given");
    for (index, name) in names.iter().enumerate() {
        if wish.network == Network::Bridge || wish.network == Network::Both && index > 0 {
            let cidrs = kubectl.run(&["get", "node", name, "--output=jsonpath={.spec.podCIDRs[*]}"])?;
            let cidrs: Vec<String> = cidrs.split_whitespace().map(str::to_owned).collect();
            plain::install(cluster, index + 1, &cidrs)?;
            if wish.network == Network::Bridge {
                plain::route(cluster, index + 1, &cidrs)?;
            }
        }
    }
    if wish.network != Network::None {
        wait("--for=condition=Ready")?;
        clock.say("nodes Ready");
    }
    let account = ["get", "serviceaccount", "default"];
    kubectl.until(PATIENCE, "pods have an account", &account, |_| Some(()))?;
    ensure!(
        cluster.machines.iter().all(machine::Machine::is_alive),
        "a machine ended while the cluster came up"
    );
    cluster.complete = true;
    cluster.save()?;
    clock.say("cluster is up");
    Ok(fresh)
}

/// Waits until something listens where the API server will: kubectl is too heavy to ask again and again while that takes
/// both of a small machine's cores to start.
fn await_port(cluster: &Cluster) -> Result<()> {
    let address = (API_SERVER.parse::<IpAddr>().context("an address")?, API_PORT).into();
    let control_plane = cluster.control_plane()?;
    let begun = Instant::now();
    while control_plane.in_network(|| TcpStream::connect_timeout(&address, GLANCE))?.is_err() {
        ensure!(control_plane.is_alive(), "the control plane has ended: see its logs");
        ensure!(begun.elapsed() < PATIENCE, "the API server does not listen after {} s", PATIENCE.as_secs());
        std::thread::sleep(GLANCE);
    }
    Ok(())
}

/// The tools' own, and what came along.
fn all_images(tools: &Tools, more: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    let entries = std::fs::read_dir(&tools.images);
    for entry in entries.with_context(|| format!("list {}", tools.images.display()))? {
        let path = entry.with_context(|| format!("list {}", tools.images.display()))?.path();
        if path.extension().is_some_and(|ending| ending == "tar") {
            images.push(path);
        }
    }
    images.sort();
    images.extend_from_slice(more);
    for image in &images {
        if !image.is_file() {
            bail!("the image {} is missing", image.display());
        }
    }
    Ok(images)
}

/// CoreDNS; it answers once pods are wired.
fn name_server(layout: Layout) -> String {
    include_str!("manifests/coredns.yaml").replace("DNS_IP", layout.dns_ip())
}
