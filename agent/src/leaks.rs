//! Container runtimes do not call `GC`: addresses that dead containers hold, and links that outlived them, are let go here.
//!
//! Slow is not dead. An address is let go where the agent has no endpoint, and the node no link, for the container, and that
//! for a while; an endpoint ([`Agent::orphans`]) where its namespace is gone from its place and its pod from the API.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::{Attach, Attachment};
use cni::upkeep::{self, Lease};
use netlink::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::warn;

use crate::datapath::Datapath;
use crate::drift::{Kind, Mended, Wirings};
use crate::event::Event;
use crate::run::Agent;

/// How often is looked.
const PERIOD: Duration = Duration::from_secs(20);
/// How long it must have been so: longer than any `ADD` or `DEL` takes.
const CERTAIN: Duration = Duration::from_secs(60);

/// Lets go of what nobody has any more, until nobody listens.
pub(crate) async fn follow(
    state: PathBuf,
    handle: Handle,
    wirings: watch::Receiver<Wirings>,
    mut orphans: mpsc::Receiver<Attachment>,
    events: mpsc::Sender<Event>,
) {
    let mut suspects: BTreeMap<Lease, Instant> = BTreeMap::new();
    let mut looks = interval(PERIOD);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut dead = Vec::new();
        tokio::select! {
            _ = looks.tick() => match upkeep::leases(&state) {
                Ok(leases) => {
                    let mut still = BTreeMap::new();
                    for lease in leases {
                        if wirings.borrow().has(&lease.container_id, &lease.ifname) || has_link(&handle, &lease).await {
                            continue;
                        }
                        let since = suspects.get(&lease).copied().unwrap_or_else(Instant::now);
                        if since.elapsed() >= CERTAIN {
                            dead.push(lease);
                        } else {
                            still.insert(lease, since);
                        }
                    }
                    suspects = still;
                }
                Err(error) => warn!(error, "the ledger of addresses cannot be read"),
            },
            orphan = orphans.recv() => match orphan {
                Some(Attachment { container_id, ifname }) => dead.push(Lease { container_id, ifname }),
                None => return,
            },
        }
        let mut mended = Vec::new();
        for lease in dead {
            let name = format!("{}/{}", lease.container_id, lease.ifname);
            match upkeep::forget(&handle, &state, &lease).await {
                Ok(()) => mended
                    .push(Mended { kind: Kind::Leak, what: format!("addresses of dead container {name}") }),
                Err(error) => warn!(container = name, error, "what a dead container holds is not let go"),
            }
        }
        if !mended.is_empty() && events.send(Event::Mended(mended)).await.is_err() {
            return;
        }
    }
}

/// Where that cannot be said, it may.
async fn has_link(handle: &Handle, lease: &Lease) -> bool {
    let name = upkeep::host_name(&lease.container_id, &lease.ifname);
    handle.link_by_name(&name).await.map_or(true, |link| link.is_some())
}

impl<D: Datapath> Agent<D> {
    /// Lets go of endpoints whose pods are gone from the API and their namespaces from their places, for a while.
    pub(crate) fn let_orphans_go(&mut self) {
        let now = Instant::now();
        let mut known = std::mem::take(&mut self.orphans);
        let orphans: BTreeMap<Attachment, Instant> = self
            .records
            .iter()
            .filter(|attach| self.is_orphan(attach))
            .map(|attach| {
                let key =
                    Attachment { container_id: attach.container_id.clone(), ifname: attach.ifname.clone() };
                let since = known.remove(&key).unwrap_or(now);
                (key, since)
            })
            .collect();
        for (orphan, since) in orphans {
            if now.duration_since(since) < CERTAIN {
                self.orphans.insert(orphan, since);
                continue;
            }
            warn!(endpoint = ?orphan, "its pod and its namespace are gone and nobody said so");
            self.remove(&orphan);
            if let Some(let_go) = &self.let_go {
                // The ledger is looked through later, too.
                drop(let_go.try_send(orphan));
            }
        }
    }

    fn is_orphan(&self, attach: &Attach) -> bool {
        let is_known =
            |pod: &api::PodRef| self.world.knows_pod(&pod.namespace, &pod.name, pod.uid.as_deref());
        let place = Path::new(&attach.netns);
        // Where the folder cannot be seen either, nothing follows from that.
        let is_gone = place.parent().is_some_and(Path::is_dir) && !place.exists();
        is_gone && attach.pod.as_ref().is_some_and(|pod| !is_known(pod))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    /// As the plugin writes it.
    fn ledger(folder: &Folder, containers: &[&str]) {
        let held: serde_json::Map<String, serde_json::Value> = containers
            .iter()
            .enumerate()
            .map(|(index, id)| {
                let holder = serde_json::json!({ "network": "weir", "container_id": id, "ifname": "eth0" });
                (format!("10.244.0.{}", index + 1), holder)
            })
            .collect();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let text = serde_json::json!({ "held": held, "released": [] }).to_string();
        std::fs::write(folder.path().join(format!("leases-{}.json", boot.trim_end())), text).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_of_containers_that_nobody_knows_are_let_go_after_a_while_and_no_others() {
        let folder = Folder::new();
        ledger(&folder, &["dead", "alive"]);
        let mut known = Wirings::default();
        known.push(crate::tests::attached("alive", 1));
        let (_wirings, wirings) = watch::channel(known);
        let (_orphans, orphans) = mpsc::channel(1);
        let (events, mut told) = mpsc::channel(4);
        let began = Instant::now();
        let state = folder.path().to_owned();
        let local = tokio::task::LocalSet::new();
        local.spawn_local(follow(state.clone(), Handle::new().unwrap(), wirings, orphans, events));
        let event = local.run_until(told.recv()).await.unwrap();
        let Event::Mended(mended) = event else { panic!("told of what was let go") };
        assert_eq!(mended[0].what, "addresses of dead container dead/eth0");
        assert!(began.elapsed() >= CERTAIN);
        let left: Vec<_> =
            upkeep::leases(&state).unwrap().into_iter().map(|lease| lease.container_id).collect();
        assert_eq!(left, ["alive"]);
    }
}
