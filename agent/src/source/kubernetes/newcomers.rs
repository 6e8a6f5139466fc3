//! Pods that are new to this node wait here until nothing that is older than they are is still on its way.
//!
//! A list of policies and namespaces that was asked for after the pod was seen shows whatever was there when the pod was
//! created. Once the watches have told all of it, the pod is told. The wait is spent while the runtime is still setting
//! the pod up.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kubernetes::{Listing, Name, Patience, Trouble};
use policy::{Kind, Object, Warning};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::feed::resource;
use super::{Change, Shared};

/// A watch that has not told by then what a list shows is asked about again: it may have told something newer.
const OVERTAKEN: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Newcomers {
    waiting: RefCell<BTreeMap<Name, Newcomer>>,
    /// By pod, the UID of those of this node that were told.
    known: RefCell<BTreeMap<Name, String>>,
    tickets: Cell<u64>,
    arrived: Notify,
}

struct Newcomer {
    /// One for each creation: who comes again under the same name waits anew.
    ticket: u64,
    uid: String,
    pod: Object,
    warnings: Vec<Warning>,
}

impl Newcomers {
    /// Pods that the first list shows need not wait: the lists of the other kinds come after it.
    pub(super) fn welcome(&self, name: &Name, uid: &str) {
        self.known.borrow_mut().insert(name.clone(), uid.to_owned());
    }

    /// Takes the pod in where it is new to this node; gives it back where it is known.
    pub(super) fn receive(
        &self,
        name: &Name,
        pod: Object,
        warnings: Vec<Warning>,
    ) -> Option<(Object, Vec<Warning>)> {
        let uid = pod.metadata().uid.clone().unwrap_or_default();
        if self.known.borrow().get(name) == Some(&uid) {
            return Some((pod, warnings));
        }
        let mut waiting = self.waiting.borrow_mut();
        let ticket = match waiting.get(name) {
            Some(earlier) if earlier.uid == uid => earlier.ticket,
            _ => self.tickets.replace(self.tickets.get() + 1),
        };
        waiting.insert(name.clone(), Newcomer { ticket, uid, pod, warnings });
        self.arrived.notify_one();
        None
    }

    pub(super) fn forget(&self, name: &Name) {
        self.waiting.borrow_mut().remove(name);
        self.known.borrow_mut().remove(name);
    }

    fn tickets(&self) -> BTreeMap<Name, u64> {
        self.waiting.borrow().iter().map(|(name, newcomer)| (name.clone(), newcomer.ticket)).collect()
    }

    fn release(&self, tickets: &BTreeMap<Name, u64>) -> Vec<Change> {
        let mut waiting = self.waiting.borrow_mut();
        let mut changes = Vec::new();
        for (name, ticket) in tickets {
            if waiting.get(name).is_some_and(|newcomer| newcomer.ticket == *ticket)
                && let Some(newcomer) = waiting.remove(name)
            {
                self.known.borrow_mut().insert(name.clone(), newcomer.uid);
                changes.push(Change::Apply(newcomer.pod, newcomer.warnings));
            }
        }
        changes
    }
}

/// Lets newcomers in, until nobody listens.
pub(super) async fn usher(shared: &Shared) {
    let newcomers = &shared.newcomers;
    let mut patience = Patience::new();
    let mut troubled = false;
    loop {
        let tickets = newcomers.tickets();
        if tickets.is_empty() {
            newcomers.arrived.notified().await;
            continue;
        }
        let namespaces: BTreeSet<&str> = tickets.keys().map(|(namespace, _)| namespace.as_str()).collect();
        match all_told(shared, &namespaces).await {
            Ok(true) => {
                patience.restore();
                if std::mem::take(&mut troubled) {
                    shared.complain("newcomers", Vec::new()).await;
                }
                // Whoever waits for these pods waits for more than their event.
                if !shared.tell(newcomers.release(&tickets), None).await {
                    return;
                }
            }
            Ok(false) => {}
            Err(trouble) => {
                let why = match trouble {
                    Trouble::Gone => "410 Gone".to_owned(),
                    Trouble::Other(why) => why,
                };
                let waiting = tickets.len();
                let complaint = format!(
                    "API server: whether the policies of {waiting} new pods have arrived cannot be asked: {why}; \
                     the pods wait"
                );
                shared.complain("newcomers", vec![complaint]).await;
                troubled = true;
                patience.wait().await;
            }
        }
    }
}

/// Whether the watches have told everything that the server has now. `false`: not in time; it is to be asked again.
async fn all_told(shared: &Shared, namespaces: &BTreeSet<&str>) -> Result<bool, Trouble> {
    let mut listings = vec![(Kind::Namespace, "", shared.api.names(resource(Kind::Namespace), "").await?)];
    for namespace in namespaces {
        let listing = shared.api.names(resource(Kind::NetworkPolicy), namespace).await?;
        listings.push((Kind::NetworkPolicy, namespace, listing));
    }
    let passed = |(kind, namespace, listing): &(Kind, &str, Listing)| {
        shared.mirrors[kind].borrow().has_passed(listing, namespace)
    };
    let told = async {
        while !listings.iter().all(passed) {
            shared.moved.notified().await;
        }
    };
    Ok(timeout(OVERTAKEN, told).await.is_ok())
}
