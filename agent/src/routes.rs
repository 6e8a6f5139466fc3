//! What leads from this node to the pods of the others: the kernel's routes, and the overlay's maps.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use api::PeerStatus;
use dataplane::{Nodes, Overlay};
use ipnet::IpNet;
use netlink::{Handle, ROUTE_PROTOCOL, Route};
use policy::NodeFacts;
use tracing::info;

use crate::config::Routing;
use crate::overlay::{self, Peer};
use crate::probe::Prober;
use crate::underlay::Underlay;
use crate::ways::{self, By, Hop, Way};

pub(crate) struct Routes {
    handle: Handle,
    underlays: Vec<Underlay>,
    routing: Routing,
    /// The overlay's device, unless everything is direct.
    pub(crate) device: Option<u32>,
    /// Its UDP port.
    port: u16,
    maps: Overlay,
    prober: Prober,
    /// How the pods of the others are reached, since the last [`sync`](Self::sync).
    pub(crate) ways: Vec<Way>,
    /// What `sync` had to write since this was last taken.
    pub(crate) written: Vec<String>,
}

impl Routes {
    /// `maps` are emptied where there is no `device`.
    pub(crate) fn new(
        handle: Handle,
        underlays: Vec<Underlay>,
        routing: Routing,
        device: Option<u32>,
        port: u16,
        mut maps: Overlay,
    ) -> Result<Self> {
        if device.is_none() {
            let present = maps.read()?;
            maps.write(&present, &Nodes::default())?;
        }
        Ok(Self {
            handle,
            underlays,
            routing,
            device,
            port,
            maps,
            prober: Prober::new(),
            ways: Vec::new(),
            written: Vec::new(),
        })
    }

    /// Makes the device anew: its index. It becomes [`device`](Self::device), and [`sync`](Self::sync) leads to it, when
    /// programs are on it.
    pub(crate) async fn make_device(&self) -> Result<u32> {
        overlay::device(&self.handle, self.port).await
    }

    /// Waits until the way to a node has opened or closed: then [`sync`](Self::sync) is due. May be dropped at any time.
    pub(crate) async fn news(&mut self) {
        self.prober.news().await;
    }

    /// What pods' packets may at most be long, from the IP header on.
    pub(crate) fn pod_mtu(&self, own: &NodeFacts, others: &[NodeFacts]) -> Result<u32> {
        let Some(underlay) = self.underlays.iter().min_by_key(|underlay| underlay.mtu) else {
            return Ok(1500);
        };
        if self.device.is_none() {
            return Ok(underlay.mtu);
        }
        let overhead = overlay::overhead(&self.own_ips(own), others.iter().map(|node| &node.ips[..]));
        match underlay.mtu.saturating_sub(overhead) {
            mtu @ ..1280 => bail!(
                "device {}: MTU {} leaves {mtu} bytes for pods' packets in the overlay, and IPv6 needs 1280: raise it, or \
                 choose --routing direct",
                underlay.name,
                underlay.mtu
            ),
            mtu => Ok(mtu),
        }
    }

    /// Makes the kernel have a route to each pod CIDR of `others`, and none of ours to any other node's; and the maps say the
    /// same. What could not be done is said, and the rest is done.
    pub(crate) async fn sync(&mut self, own: Option<&NodeFacts>, others: &[NodeFacts]) -> Vec<String> {
        let mut complaints = Vec::new();
        let actual = match self.actual().await {
            Ok(actual) => actual,
            Err(error) => {
                complaints.push(format!("{error:#}"));
                return complaints;
            }
        };
        let own_ips = own.map(|own| self.own_ips(own)).unwrap_or_default();
        if let (Some(device), Some(own)) = (self.device, own) {
            let prepared = self.prepare_device(device, own, others).await;
            complaints.extend(prepared.err().map(|error| format!("{error:#}")));
        }
        let targets = self.probe_targets(others, &actual);
        self.prober.watch(&targets.iter().map(|(ip, (_, open))| (*ip, *open)).collect());
        let is_open =
            |pods: &IpNet| overlay::router_address(pods).is_some_and(|target| self.prober.is_open(target));
        self.ways = others
            .iter()
            .flat_map(|node| node.pod_cidrs.iter().map(move |pods| (node, pods)))
            .map(|(node, pods)| Way::to(pods, node, &own_ips, self.routing, &self.underlays, is_open))
            .collect();
        let unreachable = self.ways.iter().filter_map(|way| match &way.by {
            By::Nothing(why) => Some(format!("Node {}: {why}; no route to {}", way.node, way.pods)),
            _ => None,
        });
        complaints.extend(unreachable);
        // The maps first: what a route sends to the overlay must find its node.
        let written = if self.device.is_some() { self.write_maps(&own_ips, others) } else { Ok(()) };
        complaints.extend(written.err().map(|error| format!("{error:#}")));
        let desired = self.desired(&own_ips, &targets);
        for (destination, route) in &desired {
            if actual.get(destination) != Some(route) {
                match self.handle.replace_route(route).await {
                    Ok(()) => {
                        info!(%route, "route to another node's pods");
                        self.written.push(format!("route {route}"));
                    }
                    Err(error) => complaints.push(format!("{:#}", anyhow::Error::from(error))),
                }
            }
        }
        for (destination, route) in &actual {
            if !desired.contains_key(destination) {
                match self.handle.delete_route(route).await {
                    Ok(()) => info!(%route, "route removed, no node has these pods any more"),
                    Err(error) if error.is_not_there() => {}
                    Err(error) => complaints.push(format!("{:#}", anyhow::Error::from(error))),
                }
            }
        }
        complaints
    }

    /// For `weir status`.
    pub(crate) fn statuses(&self) -> Vec<PeerStatus> {
        let status = |way: &Way| {
            let (via, by) = match &way.by {
                By::Direct(hop) => (Some(hop.via), "direct".to_owned()),
                By::Overlay(remote) => (Some(*remote), "vxlan".to_owned()),
                By::Nothing(why) => (None, why.clone()),
            };
            PeerStatus { node: way.node.clone(), pods: way.pods, via, way: by }
        };
        self.ways.iter().map(status).collect()
    }

    /// This node's addresses that other nodes reach it by. Where none of its object's is on a device of ours, whoever wrote
    /// the object knows better.
    fn own_ips(&self, own: &NodeFacts) -> Vec<IpAddr> {
        let is_ours = |ip: &&IpAddr| self.underlays.iter().any(|underlay| underlay.has(**ip));
        let ours: Vec<IpAddr> = own.ips.iter().filter(is_ours).copied().collect();
        if ours.is_empty() { own.ips.clone() } else { ours }
    }

    /// The device's MTU, and the addresses that answer probes.
    async fn prepare_device(&mut self, device: u32, own: &NodeFacts, others: &[NodeFacts]) -> Result<()> {
        if let Ok(mtu) = self.pod_mtu(own, others) {
            let present = self.handle.link_by_name(overlay::DEVICE).await?.map(|link| link.mtu);
            if present != Some(mtu) {
                self.handle.set_mtu(device, mtu).await?;
            }
        }
        let present = self.handle.addresses(device).await?;
        for address in own.pod_cidrs.iter().filter_map(overlay::router_address) {
            if !present.iter().any(|present| present.addr() == address) {
                self.handle.add_address(device, address.into()).await?;
            }
            if self.routing == Routing::Auto {
                self.prober.speak_from(address)?;
            }
        }
        Ok(())
    }

    /// Whom to ask whether pods' addresses pass, by which way, and whether an earlier agent had found that they do.
    fn probe_targets(
        &self,
        others: &[NodeFacts],
        actual: &BTreeMap<IpNet, Route>,
    ) -> BTreeMap<IpAddr, (Hop, bool)> {
        if self.routing != Routing::Auto {
            return BTreeMap::new();
        }
        let blocks = others.iter().flat_map(|node| node.pod_cidrs.iter().map(move |pods| (node, pods)));
        let target = |(node, pods): (&NodeFacts, &IpNet)| {
            let hop = ways::hop(node, pods, &self.underlays).ok()?;
            let was_direct = actual.get(&pods.trunc()).is_some_and(|route| route.via.is_some());
            Some((overlay::router_address(pods)?, (hop, was_direct)))
        };
        blocks.filter_map(target).collect()
    }

    fn desired(&self, own: &[IpAddr], targets: &BTreeMap<IpAddr, (Hop, bool)>) -> BTreeMap<IpNet, Route> {
        let direct = |destination: IpNet, hop: Hop| Route {
            destination,
            via: Some(hop.via),
            oif: hop.oif,
            source: None,
            onlink: false,
            protocol: ROUTE_PROTOCOL,
            link_scope: false,
        };
        // A probe goes the way that is to be proven, whichever way the pods' packets go meanwhile.
        let probes = targets.iter().map(|(target, (hop, _))| direct((*target).into(), *hop));
        let ways = self.ways.iter().filter_map(|way| match &way.by {
            By::Direct(hop) => Some(direct(way.pods, *hop)),
            By::Overlay(_) => Some(Route {
                destination: way.pods,
                via: None,
                oif: self.device?,
                source: own.iter().copied().find(|ip| ip.is_ipv4() == way.pods.addr().is_ipv4()),
                onlink: false,
                protocol: ROUTE_PROTOCOL,
                link_scope: true,
            }),
            By::Nothing(_) => None,
        });
        probes.chain(ways).map(|route| (route.destination, route)).collect()
    }

    fn write_maps(&mut self, own: &[IpAddr], others: &[NodeFacts]) -> Result<()> {
        let Some(mtu) = self.underlays.iter().map(|underlay| underlay.mtu).min() else { return Ok(()) };
        let peers = others.iter().filter_map(|node| {
            let ways = self.ways.iter().filter(|way| way.node == node.name);
            Some(Peer {
                ends: overlay::ends(own, &node.ips)?,
                ips: node.ips.clone(),
                pods: ways.map(|way| (way.pods, matches!(way.by, By::Overlay(_)))).collect(),
            })
        });
        let peers: Vec<Peer> = peers.collect();
        let present = self.maps.read()?;
        let wanted = overlay::rows(&present, own, &peers, mtu);
        self.maps.write(&present, &wanted).context("write what is behind the overlay")
    }

    /// Our routes to other nodes. Those without a gateway lead to this node's own pods and belong to the plugin, unless they
    /// are the overlay's.
    async fn actual(&self) -> Result<BTreeMap<IpNet, Route>> {
        let routes = self.handle.routes().await.context("look at the routes to other nodes")?;
        let ours = routes.into_iter().filter(|route| {
            route.protocol == ROUTE_PROTOCOL && (route.via.is_some() || Some(route.oif) == self.device)
        });
        Ok(ours.map(|route| (route.destination, route)).collect())
    }
}
