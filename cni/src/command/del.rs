//! `DEL`: goes by container id and interface only, and with whatever is still there.
//!
//! `prevResult` is never looked at: its addresses may be somebody else's by now.

use netlink::{GATEWAY_V4, GATEWAY_V6, HOST_MAC, Handle, Netns};

use super::{own_netns, store};
use crate::agent::Agent;
use crate::config::Config;
use crate::endpoint::host_name;
use crate::invocation::Invocation;
use crate::ipam_store::{Store, now};
use crate::spec::Failure;

pub(crate) async fn run(invocation: &Invocation, config: &Config) -> Result<(), Failure> {
    let Invocation { container_id, ifname, .. } = invocation;
    let netns = netns(invocation)?;
    let store = store(config)?;
    // First the agent, while the link it has programs on is there. One that is away tidies up when it comes back.
    if let Err(error) = Agent::at(config.agent_socket()?).detach(container_id, ifname).await {
        eprintln!("weir-cni: DEL goes on: {error}");
    }
    let host = Handle::new()?;
    let deleted = delete_link(&host, &host_name(container_id, ifname)).await?;
    if let (false, Some(netns)) = (deleted, netns) {
        delete_inside(&netns, ifname).await?;
    }
    // Last, so that nobody is given an address that still leads to a link.
    release(&store, container_id, ifname)
}

/// Deletes the link if it is there. Returns whether it was.
pub(crate) async fn delete_link(host: &Handle, name: &str) -> Result<bool, Failure> {
    let Some(link) = host.link_by_name(name).await? else { return Ok(false) };
    match host.delete_link(link.index).await {
        Ok(()) => Ok(true),
        // Its namespace went in between.
        Err(error) if error.is_not_there() => Ok(true),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn release(store: &Store, container_id: &str, ifname: &str) -> Result<(), Failure> {
    let Some(mut locked) = store.lock_existing()? else { return Ok(()) };
    if locked.ledger.release(container_id, ifname, now()).is_empty() {
        return Ok(());
    }
    locked.commit()
}

/// The pod's namespace if it is still there. Our own is an error: somebody's `eth0` is in it.
fn netns(invocation: &Invocation) -> Result<Option<Netns>, Failure> {
    let Some(path) = &invocation.netns else { return Ok(None) };
    match Netns::open(path) {
        Ok(netns) if netns.is_current()? => Err(own_netns(path)),
        Ok(netns) => Ok(Some(netns)),
        Err(_) => Ok(None),
    }
}

/// The host's side has lost its name; its other end has not. Only what looks as we made it goes.
async fn delete_inside(netns: &Netns, ifname: &str) -> Result<(), Failure> {
    let inside = Handle::in_netns(netns)?;
    let Some(link) = inside.link_by_name(ifname).await? else { return Ok(()) };
    let is_ours = link.kind == "veth"
        && inside.neighbours(link.index).await?.iter().any(|neighbour| {
            let is_gateway = neighbour.ip == GATEWAY_V4 || neighbour.ip == GATEWAY_V6;
            neighbour.permanent && is_gateway && neighbour.mac == HOST_MAC
        });
    if is_ours {
        delete_link(&inside, ifname).await?;
    }
    Ok(())
}
