//! A Kubernetes API server: one watch a kind, each object trimmed on arrival to what the compiler needs.
//!
//! Watches are not ordered among themselves, and a pod must not meet rules that are older than itself. So the first
//! list is that of Pods, those of NetworkPolicies and Namespaces come after it, and a pod that is new to this node
//! later is told only once the watches of both have passed its creation ([`newcomers`]): whoever waits for the pod
//! waits for them too.

mod access;
mod api;
mod events;
#[cfg(test)]
mod fake;
mod feed;
mod mirror;
mod newcomers;
#[cfg(test)]
mod tests;
mod trim;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use policy::Kind;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::spawn_local;

pub(crate) use access::Access;
pub(crate) use events::EventWriter;

use super::{Arrival, Change, Update};
use crate::event::Event;
use api::Api;
use feed::Feed;
use mirror::Mirror;
use newcomers::Newcomers;

/// What the tasks of this source share.
struct Shared {
    api: Api,
    node: String,
    events: mpsc::Sender<Event>,
    /// The kinds of which the first list has been told.
    listed: watch::Sender<BTreeSet<Kind>>,
    mirrors: RefCell<BTreeMap<Kind, Mirror>>,
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
        mirrors: RefCell::default(),
        moved: Notify::new(),
        newcomers: Newcomers::default(),
    });
    for kind in Kind::ALL {
        spawn_local(Feed::new(kind, Rc::clone(&shared)).run());
    }
    let (never, end) = oneshot::channel();
    spawn_local(async move {
        newcomers::usher(&shared).await;
        drop(never);
    });
    end
}

/// How long to wait before the next attempt: twice as long each time, up to the longest, and never quite as long, so that
/// the agents of a cluster do not come back all at once.
struct Patience {
    next: Duration,
}

impl Patience {
    const SHORTEST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(30);

    fn new() -> Self {
        Self { next: Self::SHORTEST }
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.next.mul_f64(0.5 + 0.5 * chance())).await;
        self.next = (2 * self.next).min(Self::LONGEST);
    }

    fn restore(&mut self) {
        *self = Self::new();
    }
}

/// From 0 to 1, another each time: what the standard library seeds its hash maps with.
fn chance() -> f64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    let random = RandomState::new().build_hasher().finish();
    f64::from(u16::try_from(random % 1024).unwrap_or_default()) / 1024.0
}
