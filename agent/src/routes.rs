//! Routes from this node to the pods of the others: direct, by the node's own address on the underlay.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use netlink::{Handle, ROUTE_PROTOCOL, Route};
use policy::NodeFacts;
use tracing::info;

use crate::underlay::Underlay;

pub(crate) struct Routes {
    handle: Handle,
    underlays: Vec<Underlay>,
    /// What `sync` had to write since this was last taken.
    pub(crate) written: Vec<String>,
}

impl Routes {
    pub(crate) fn new(handle: Handle, underlays: Vec<Underlay>) -> Self {
        Self { handle, underlays, written: Vec::new() }
    }

    /// Makes the kernel have a route to each pod CIDR of `others`, and none of ours to any other node's. What could not
    /// be done is said, and the rest is done.
    pub(crate) async fn sync(&mut self, others: &[NodeFacts]) -> Vec<String> {
        let mut complaints = Vec::new();
        let desired = self.desired(others, &mut complaints);
        let actual = match self.actual().await {
            Ok(actual) => actual,
            Err(error) => {
                complaints.push(format!("{error:#}"));
                return complaints;
            }
        };
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

    fn desired(&self, others: &[NodeFacts], complaints: &mut Vec<String>) -> BTreeMap<IpNet, Route> {
        let mut desired = BTreeMap::new();
        for node in others {
            for cidr in &node.pod_cidrs {
                match self.next_hop(node, cidr) {
                    Ok((via, oif)) => {
                        let destination = cidr.trunc();
                        let route = Route {
                            destination,
                            via: Some(via),
                            oif,
                            source: None,
                            onlink: false,
                            protocol: ROUTE_PROTOCOL,
                            link_scope: false,
                        };
                        desired.insert(destination, route);
                    }
                    Err(why) => complaints.push(format!("Node {}: {why}; no route to {cidr}", node.name)),
                }
            }
        }
        desired
    }

    /// The node's address of the CIDR's family that is on the link of an underlay device.
    fn next_hop(&self, node: &NodeFacts, cidr: &IpNet) -> Result<(IpAddr, u32), String> {
        let same_family = node.ips.iter().filter(|ip| ip.is_ipv4() == cidr.addr().is_ipv4());
        let mut far = None;
        for ip in same_family {
            match self.underlays.iter().find(|underlay| underlay.is_on_link(*ip)) {
                Some(underlay) => return Ok((*ip, underlay.ifindex)),
                None => far = Some(ip),
            }
        }
        Err(match far {
            Some(ip) => format!("status.addresses: {ip} is on the link of no underlay device"),
            None => "status.addresses: no InternalIP of this family".to_owned(),
        })
    }

    /// Our routes by a gateway. Those without one lead to this node's own pods and belong to the plugin.
    async fn actual(&self) -> Result<BTreeMap<IpNet, Route>> {
        let routes = self.handle.routes().await.context("look at the routes to other nodes")?;
        let ours = routes.into_iter().filter(|route| route.protocol == ROUTE_PROTOCOL && route.via.is_some());
        Ok(ours.map(|route| (route.destination, route)).collect())
    }
}
