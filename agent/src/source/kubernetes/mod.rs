//! A Kubernetes API server: one watch a kind, each object trimmed on arrival to what the compiler needs.
//!
//! Watches are not ordered among themselves, and a pod must not meet rules that are older than itself. So the first
//! list is that of Pods, those of NetworkPolicies and Namespaces come after it, and a pod that is new to this node
//! later is told only once the watches of both have passed its creation ([`newcomers`]): whoever waits for the pod
//! waits for them too.

mod feed;
mod newcomers;
#[cfg(test)]
mod tests;
mod trim;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use ::kubernetes::{Access, Api, Feed, Mirror};
use policy::Kind;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::spawn_local;

use super::{Arrival, Change, Update};
use crate::event::Event;
use feed::{Loop, resource};
use newcomers::Newcomers;

/// What the tasks of this source share.
struct Shared {
    api: Api,
    node: String,
    events: mpsc::Sender<Event>,
    /// The kinds of which the first list has been told.
    listed: watch::Sender<BTreeSet<Kind>>,
    mirrors: BTreeMap<Kind, Rc<RefCell<Mirror>>>,
    /// A mirror has changed.
    moved: Notify,
    newcomers: Newcomers,
}

impl Shared {
    /// Whether anybody listens.
    async fn tell(&self, changes: Vec<Change>, arrived: Option<Arrival>) -> bool {
        let complete = self.listed.borrow().len() == Kind::ALL.len();
        let update = Update { changes, complete, arrived, ..Update::default() };
        self.events.send(Event::Source(update)).await.is_ok()
    }

    async fn complain(&self, part: &'static str, complaints: Vec<String>) {
        // Nobody to tell: the agent is ending.
        drop(self.events.send(Event::Complaints { part, complaints }).await);
    }
}

/// Follows the API server for the node of this name. Once begun it never gives up, so the receiver never gets an error.
pub(crate) fn follow(
    access: Access,
    node: String,
    events: mpsc::Sender<Event>,
) -> oneshot::Receiver<anyhow::Error> {
    let shared = Rc::new(Shared {
        api: Api::new(access),
        node,
        events,
        listed: watch::Sender::default(),
        mirrors: Kind::ALL.into_iter().map(|kind| (kind, Rc::default())).collect(),
        moved: Notify::new(),
        newcomers: Newcomers::default(),
    });
    for kind in Kind::ALL {
        let mirror = Rc::clone(&shared.mirrors[&kind]);
        let feed = Feed::new(shared.api.clone(), resource(kind), mirror, Loop::new(kind, Rc::clone(&shared)));
        let mut listed = shared.listed.subscribe();
        spawn_local(async move {
            // Whatever was there when a listed pod was created is in a list that comes later.
            if !matches!(kind, Kind::NetworkPolicy | Kind::Namespace)
                || listed.wait_for(|listed| listed.contains(&Kind::Pod)).await.is_ok()
            {
                feed.run().await;
            }
        });
    }
    let (never, end) = oneshot::channel();
    spawn_local(async move {
        newcomers::usher(&shared).await;
        drop(never);
    });
    end
}
