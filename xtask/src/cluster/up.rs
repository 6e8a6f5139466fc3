//! `cargo xtask cluster up`: from nothing to nodes that are Ready and a name server that answers.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use super::kubectl::Kubectl;
use super::layout::Layout;
use super::machine;
use super::node::Node;
use super::orders::{API_READY, CONNECTED};
use super::pki::Pki;
use super::state::{Cluster, node_name};
use super::tools::{self, Tools};
use super::{control_plane, plain, underlay, weir};
use crate::{image, setup, workspace};

/// Generous: a machine that does three other things at once takes ten times as long.
const PATIENCE: Duration = Duration::from_secs(180);
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

/// Says what was done, and when since the beginning.
struct Clock(Instant);

impl Clock {
    fn say(&self, what: &str) {
        eprintln!("[{:6.2} s] {what}", self.0.elapsed().as_secs_f64());
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
        Ok(()) => Ok((cluster, begun.elapsed())),
        Err(error) => {
            let error = error.context(format!("the logs are in {}", cluster.logs().display()));
            match cluster.take_down() {
                Ok(()) => Err(error),
                Err(left) => Err(error.context(format!("and not everything could be taken down: {left:#}"))),
            }
        }
    }
}

fn bring_up(cluster: &mut Cluster, wish: &Wish, tools: &Tools, images: &[PathBuf]) -> Result<()> {
    let clock = Clock(Instant::now());
    cluster.save()?;
    let names: Vec<String> = (1..=wish.nodes).map(node_name).collect();
    let pki = Pki::create(cluster.pki(), wish.layout, &names)?;
    let (disk, logs) = (cluster.disk(control_plane::NAME), cluster.logs());
    cluster.start(&control_plane::orders(wish.layout, &pki, &disk, &logs, &tools.bin))?;
    underlay::lay(cluster.control_plane()?)?;
    cluster.tell(control_plane::NAME, CONNECTED)?;
    clock.say("certificates and underlay made, control plane starts");

    // Their runtimes and images get ready while the API server does.
    let images = all_images(tools, images)?;
    for (index, name) in names.iter().enumerate() {
        let cgroups = cluster.claim_cgroups(name)?;
        let node = Node {
            name,
            number: index + 1,
            layout: wish.layout,
            kubeconfig: pki.kubeconfig(&format!("{name}.conf"))?,
            hierarchies: cgroups.into_iter().map(|(hierarchy, _)| hierarchy).collect(),
            images: &images,
            plugins: matches!(wish.network, Network::Bridge | Network::Both),
        };
        cluster.start(&node.orders(tools, &cluster.disk(name), &logs))?;
        cluster.connect(index + 1)?;
    }
    let kubectl = Kubectl::new(cluster, &tools.bin)?;
    kubectl.until(PATIENCE, "the API server answers", &["get", "--raw=/readyz"], |_| Some(()))?;
    for name in names.iter().map(String::as_str).chain([control_plane::NAME]) {
        cluster.tell(name, API_READY)?;
    }
    clock.say("API server ready");

    match wish.network {
        Network::Weir => weir::install(cluster, &kubectl, None)?,
        Network::Both => weir::install(cluster, &kubectl, names.first().map(String::as_str))?,
        Network::Bridge | Network::None => {}
    }
    for (index, name) in names.iter().enumerate() {
        let question = ["get", "node", name, "--output=jsonpath={.spec.podCIDRs[*]}"];
        let cidrs = kubectl.until(PATIENCE, &format!("{name} has pod CIDRs"), &question, |answer| {
            let cidrs: Vec<String> = answer.split_whitespace().map(str::to_owned).collect();
            (!cidrs.is_empty()).then_some(cidrs)
        })?;
        if wish.network == Network::Bridge || wish.network == Network::Both && index > 0 {
            plain::install(cluster, index + 1, &cidrs)?;
        }
        if wish.network == Network::Bridge {
            plain::route(cluster, index + 1, &cidrs)?;
        }
    }
    clock.say("nodes registered, pod CIDRs given");
    name_server(&kubectl, wish.layout)?;
    if wish.network != Network::None {
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        kubectl.run(&["wait", "--for=condition=Ready", "nodes", "--all", &limit])?;
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
fn name_server(kubectl: &Kubectl, layout: Layout) -> Result<()> {
    kubectl.apply(&include_str!("manifests/coredns.yaml").replace("DNS_IP", layout.dns_ip()))
}
