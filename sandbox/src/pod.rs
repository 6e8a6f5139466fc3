//! A pod: a namespace, wired by the plugin, with a stub in it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use netlink::Netns;

use crate::node::Node;
use crate::plan::{self, Listen};
use crate::puppet::{Puppet, Stubs};
use crate::runtime::{Conflist, Container};
use crate::stub::protocol::{Role, Taken};
use crate::topology::{Settings, namespace};

/// A pod that is up, or on its way.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) uid: String,
    /// Index of its node.
    pub(crate) node: usize,
    pub(crate) puppet: Puppet,
    /// Where the stub was told to listen.
    pub(crate) listen: Vec<Listen>,
    /// Empty until it is wired; a host-network pod has its node's.
    pub(crate) ips: Vec<IpAddr>,
    /// Absent for host-network pods.
    wiring: Option<Wiring>,
}

#[derive(Debug)]
struct Wiring {
    netns: Netns,
    container: Container,
}

impl Pod {
    /// Makes the pod's namespace and starts its stub. There is no way out of it yet.
    pub(crate) async fn create(
        plan: &plan::Pod,
        node: &Node,
        namespaces: &Path,
        zone: Option<PathBuf>,
        stubs: &Stubs,
    ) -> anyhow::Result<(Self, Vec<Taken>)> {
        let listen = listen(plan);
        let role = Role { name: plan.key(), listen: listen.clone(), shared: plan.host_network, zone };
        let wiring = if plan.host_network {
            None
        } else {
            let id = container_id()?;
            let netns = namespace(namespaces, &id, Settings { forwarding: false }).await?;
            let container = Container {
                netns: netns.path().to_owned(),
                id,
                namespace: plan.namespace.clone(),
                name: plan.name.clone(),
                uid: plan.uid.clone(),
                object: plan.object.clone(),
            };
            Some(Wiring { netns, container })
        };
        let netns = wiring.as_ref().map_or(&node.netns, |wiring| &wiring.netns);
        let (puppet, taken) = Puppet::start(stubs, netns, node.cgroup_path(), &role).await?;
        let pod = Self { uid: plan.uid.clone(), node: plan.node, puppet, listen, ips: Vec::new(), wiring };
        Ok((pod, taken))
    }

    /// Has the plugin wire it, and takes the addresses it is given.
    pub(crate) async fn wire(
        &mut self,
        node: &Node,
        node_ips: &[IpAddr],
        conflist: &Conflist,
    ) -> anyhow::Result<()> {
        self.ips = match &self.wiring {
            Some(wiring) => conflist.add(&node.netns, &wiring.container).await?,
            None => node_ips.to_vec(),
        };
        Ok(())
    }

    /// Has the plugin undo it, then ends the stub.
    pub(crate) async fn end(self, node: &Node, conflist: &Conflist) -> anyhow::Result<()> {
        let unwired = match &self.wiring {
            Some(wiring) => conflist.delete(&node.netns, &wiring.container).await,
            None => Ok(()),
        };
        self.puppet.end().await;
        unwired
    }

    pub(crate) fn netns<'a>(&'a self, node: &'a Node) -> &'a Netns {
        self.wiring.as_ref().map_or(&node.netns, |wiring| &wiring.netns)
    }
}

/// The ports that the pod's stub opens. The resolver serves its own port by itself.
pub(crate) fn listen(plan: &plan::Pod) -> Vec<Listen> {
    plan.listen.iter().filter(|listen| !(plan.system && listen.port == 53)).copied().collect()
}

/// 64 hexadecimal digits, as containerd names its sandboxes.
fn container_id() -> anyhow::Result<String> {
    let mut id = String::with_capacity(64);
    while id.len() < 64 {
        let uuid =
            std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("make up a container id")?;
        id.extend(uuid.chars().filter(char::is_ascii_hexdigit));
    }
    Ok(id)
}
