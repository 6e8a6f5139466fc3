//! `CHECK`: is all of it still there, in the kernel and at the agent?
//!
//! What the ledger says we gave is compared with what is; a later plugin may have added to it, and what it took out of
//! the result is not looked for. Everything that is wrong is reported at once.

use std::net::IpAddr;

use api::Endpoint;
use netlink::{HOST_MAC, Handle, Neighbour, Netns};
use serde_json::Value;

use super::{open_netns, store};
use crate::agent::Agent;
use crate::config::Config;
use crate::endpoint::host_name;
use crate::invocation::Invocation;
use crate::spec::{Failure, code};
use crate::wiring::{Wiring, gateway};

pub(crate) async fn run(invocation: &Invocation, config: &Config) -> Result<(), Failure> {
    let Invocation { container_id, ifname, .. } = invocation;
    let result = made(config)?;
    let netns = open_netns(invocation)?;
    let held = match store(config)?.lock_existing()? {
        Some(locked) => locked.ledger.held_by(container_id, ifname),
        None => Vec::new(),
    };
    let mut problems = Problems::default();
    if held.is_empty() {
        problems.add(format!("container {container_id} holds no address for its {ifname}"));
    }
    let in_result = |ip: &IpAddr| has_address(result, *ip);
    let ips: Vec<IpAddr> = held.iter().copied().filter(in_result).collect();
    if ips.is_empty() && !held.is_empty() {
        problems.add(format!("prevResult has none of the addresses given: {held:?}"));
    }

    let (host, inside) = (Handle::new()?, Handle::in_netns(&netns)?);
    let name = host_name(container_id, ifname);
    let (host_link, pod_link) = (host.link_by_name(&name).await?, inside.link_by_name(ifname).await?);
    let mut host_index = None;
    match (&host_link, &pod_link) {
        (Some(host_link), Some(pod_link)) => {
            host_index = Some(host_link.index);
            problems.add_if(!host_link.up, || format!("host interface {name} is down"));
            problems.add_if(!pod_link.up, || format!("interface {ifname} is down"));
            problems.add_if(host_link.peer != Some(pod_link.index), || {
                format!("host interface {name} is not the other end of {ifname}")
            });
            // Its own address may have been changed; then the host must know.
            let mac = pod_link.mac.unwrap_or_default();
            let wiring = Wiring {
                host_name: name,
                ifname: ifname.clone(),
                ips,
                mac,
                mtu: pod_link.mtu,
                node_ips: config.node_ips()?,
            };
            check_pod(&wiring, result, &inside, &netns, pod_link.index, &mut problems).await?;
            check_host(&wiring, &host, host_link.index, &mut problems).await?;
        }
        (host_link, pod_link) => {
            problems.add_if(host_link.is_none(), || format!("host interface {name} is missing"));
            problems.add_if(pod_link.is_none(), || {
                format!("interface {ifname} is missing in {}", netns.path().display())
            });
        }
    }
    match Agent::at(config.agent_socket()?).endpoint(container_id, ifname).await {
        Ok(endpoint) => check_agent(endpoint, host_index, &held, &mut problems),
        Err(away) if problems.0.is_empty() => return Err(away.into()),
        Err(away) => problems.add(away.to_string()),
    }
    problems.into_result()
}

/// What `ADD` answered, and later plugins after it.
pub(crate) fn made(config: &Config) -> Result<&Value, Failure> {
    config.prev_result()?.ok_or_else(|| {
        let message = "network configuration: prevResult is missing: CHECK needs what ADD answered";
        Failure::new(code::CONFIGURATION, message)
    })
}

async fn check_pod(
    wiring: &Wiring,
    result: &Value,
    inside: &Handle,
    netns: &Netns,
    link: u32,
    problems: &mut Problems,
) -> Result<(), Failure> {
    let addresses = inside.addresses(link).await?;
    for address in wiring.addresses() {
        problems.add_if(!addresses.contains(&address), || format!("address {address} is missing in the pod"));
    }
    let neighbours = inside.neighbours(link).await?;
    for ip in &wiring.ips {
        let expected = Neighbour { ip: gateway(*ip), mac: HOST_MAC, permanent: true };
        problems.add_if(!neighbours.contains(&expected), || {
            format!("permanent neighbour {} is missing in {}", expected.ip, netns.path().display())
        });
    }
    let routes = inside.routes().await?;
    for route in wiring.pod_routes(link) {
        // A later plugin may have led the pod's traffic elsewhere; then the result no longer has our default route.
        let is_default = route.destination.prefix_len() == 0;
        if is_default && !has_route(result, &route.destination.to_string(), route.via) {
            continue;
        }
        problems.add_if(!routes.contains(&route), || format!("route {route} is missing in the pod"));
    }
    Ok(())
}

async fn check_host(
    wiring: &Wiring,
    host: &Handle,
    link: u32,
    problems: &mut Problems,
) -> Result<(), Failure> {
    let neighbours = host.neighbours(link).await?;
    for ip in &wiring.ips {
        let expected = Neighbour { ip: *ip, mac: wiring.mac, permanent: true };
        problems.add_if(!neighbours.contains(&expected), || {
            format!("permanent neighbour {ip} is missing on the host")
        });
    }
    let routes = host.routes().await?;
    for route in wiring.host_side(link).routes() {
        problems.add_if(!routes.contains(&route), || format!("route {route} is missing on the host"));
    }
    Ok(())
}

fn check_agent(
    endpoint: Option<Endpoint>,
    host_index: Option<u32>,
    held: &[IpAddr],
    problems: &mut Problems,
) {
    let Some(endpoint) = endpoint else {
        return problems.add("the agent does not know the endpoint".into());
    };
    problems.add_if(!endpoint.programs_attached, || "the programs are not attached".into());
    problems.add_if(!endpoint.rows_present, || "the endpoint's map rows are missing".into());
    problems.add_if(host_index.is_some_and(|index| index != endpoint.attach.host_ifindex), || {
        format!("the agent has the endpoint at interface {}", endpoint.attach.host_ifindex)
    });
    let mut known = endpoint.attach.ips;
    known.sort();
    problems.add_if(known != held, || format!("the agent has the endpoint with addresses {known:?}"));
}

pub(crate) fn has_address(result: &Value, ip: IpAddr) -> bool {
    let is_it = |entry: &Value| {
        let address = entry["address"].as_str()?.split('/').next()?;
        Some(address.parse::<IpAddr>().ok()? == ip)
    };
    result["ips"].as_array().is_some_and(|ips| ips.iter().any(|entry| is_it(entry) == Some(true)))
}

pub(crate) fn has_route(result: &Value, destination: &str, via: Option<IpAddr>) -> bool {
    let is_it = |entry: &Value| {
        let gateway = entry["gw"].as_str().and_then(|gateway| gateway.parse().ok());
        entry["dst"] == destination && gateway == via
    };
    result["routes"].as_array().is_some_and(|routes| routes.iter().any(is_it))
}

/// Everything that is not as `ADD` made it.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, problem: String) {
        self.0.push(problem);
    }

    fn add_if(&mut self, is_wrong: bool, problem: impl FnOnce() -> String) {
        if is_wrong {
            self.add(problem());
        }
    }

    fn into_result(self) -> Result<(), Failure> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(Failure::new(code::NOT_AS_MADE, "the endpoint is not as ADD made it")
            .with_details(self.0.join("; ")))
    }
}
