//! `GC`: whatever the runtime does not name goes: leases, links, and what the agent has.
//!
//! It is about one network. Attachments of other networks that share the state folder stay. An error does not stop it;
//! all are reported at the end.

use std::collections::{BTreeMap, BTreeSet};

use api::{Attachment, Valid};
use netlink::{HOST_MAC, Handle};

use super::{del, store};
use crate::agent::Agent;
use crate::config::Config;
use crate::endpoint::{host_name, is_host_name};
use crate::ipam_store::Store;
use crate::spec::{Failure, code};

pub(crate) async fn run(config: &Config) -> Result<(), Failure> {
    let mut valid: BTreeSet<Attachment> = config.valid_attachments()?.into_iter().collect();
    let (store, agent) = (store(config)?, Agent::at(config.agent_socket()?));
    let mut failures = Vec::new();

    let networks = networks(&store)?;
    valid.extend(
        networks
            .iter()
            .filter(|(_, network)| **network != config.name)
            .map(|(attachment, _)| attachment.clone()),
    );
    // First the agent, while the links it has programs on are there.
    let request = Valid { attachments: valid.iter().cloned().collect() };
    if let Err(error) = agent.collect(&request).await {
        failures.push(error.into());
    }
    if let Err(failure) = delete_links(&valid, &mut failures).await {
        failures.push(failure);
    }
    for stale in networks.keys().filter(|attachment| !valid.contains(attachment)) {
        if let Err(failure) = del::release(&store, &stale.container_id, &stale.ifname) {
            failures.push(failure);
        }
    }
    all(failures)
}

/// Every attachment that holds an address, and of which network it is.
fn networks(store: &Store) -> Result<BTreeMap<Attachment, String>, Failure> {
    let Some(locked) = store.lock_existing()? else { return Ok(BTreeMap::new()) };
    let entry = |holder: &crate::ipam::Holder| {
        let attachment =
            Attachment { container_id: holder.container_id.clone(), ifname: holder.ifname.clone() };
        (attachment, holder.network.clone())
    };
    Ok(locked.ledger.holders().map(entry).collect())
}

/// Links are found by their names, so those without a lease go too.
async fn delete_links(valid: &BTreeSet<Attachment>, failures: &mut Vec<Failure>) -> Result<(), Failure> {
    let keep: BTreeSet<String> =
        valid.iter().map(|attachment| host_name(&attachment.container_id, &attachment.ifname)).collect();
    let host = Handle::new()?;
    for link in host.links().await? {
        let is_ours = link.kind == "veth" && link.mac == Some(HOST_MAC) && is_host_name(&link.name);
        if is_ours
            && !keep.contains(&link.name)
            && let Err(failure) = del::delete_link(&host, &link.name).await
        {
            failures.push(failure);
        }
    }
    Ok(())
}

fn all(mut failures: Vec<Failure>) -> Result<(), Failure> {
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        n => {
            // Worth another try only if every failure is.
            let worst = failures.iter().find(|failure| failure.code != code::TRY_AGAIN_LATER);
            let code = worst.map_or(code::TRY_AGAIN_LATER, |failure| failure.code);
            let details: Vec<String> = failures.iter().map(ToString::to_string).collect();
            Err(Failure::new(code, format!("{n} things could not be collected"))
                .with_details(details.join("; ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_failures_are_reported_with_the_code_of_the_worst() {
        let away = Failure::new(code::TRY_AGAIN_LATER, "the agent is away");
        let disk = Failure::new(code::IO, "replace leases").with_details("no space");
        assert_eq!(all(vec![]), Ok(()));
        assert_eq!(all(vec![away.clone()]), Err(away.clone()));
        let both = all(vec![away.clone(), disk]).unwrap_err();
        assert_eq!((both.code, both.details.as_str()), (5, "the agent is away; replace leases: no space"));
        assert_eq!(all(vec![away.clone(), away]).unwrap_err().code, 11);
    }
}
