//! A Kubernetes API server as the source: one watch a kind, each object trimmed on arrival.
//!
//! Nothing is served before the first list of every kind has come whole; after that whatever fails changes nothing. What
//! is served is written back: addresses into `status.loadBalancer` ([`status`]) by the one replica that holds the Lease
//! ([`lease`]), and what cannot be honoured as Events ([`notices`]).

mod feed;
mod lease;
mod notices;
mod status;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use kubernetes::{Api, EventWriter, Feed, Mirror, Reporter};
use policy::Warning;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;
use tracing::warn;

pub use lease::Identity;
pub use status::{Address, Publish};

use self::feed::{Change, Teller, Told};
use crate::object::{Kind, Name, World};
use crate::serving::{Changed, Serving};

/// What comes close together is taken in as one.
const SETTLE: Duration = Duration::from_millis(2);
/// Changes on their way to being taken in.
const QUEUE: usize = 64;

/// What the operator decides about writing back.
pub struct Options {
    /// Who we are among our replicas.
    pub identity: Identity,
    pub publish: Publish,
    /// Told when it is time to end.
    pub ending: watch::Receiver<Option<Ending>>,
}

/// How it is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A successor goes on under the same name: the Lease and what is written are its own.
    HandedOver,
    /// For good: what nobody would keep right any more is taken back.
    ForGood,
}

/// Serves what the API server has, from its first complete list on; `progress` is told what is still missing, and then
/// nothing. Ends once told to, when what had to be taken back of the status has been.
pub async fn follow(
    api: Api,
    options: Options,
    mut serving: Serving,
    mut progress: impl FnMut(Option<String>),
) {
    let Options { identity, publish, mut ending } = options;
    let (told, mut queue) = mpsc::channel(QUEUE);
    for kind in Kind::ALL {
        let teller = Teller { kind, told: told.clone() };
        let mirror = Rc::new(RefCell::new(Mirror::default()));
        spawn_local(Feed::new(api.clone(), feed::resource(kind), mirror, teller).run());
    }
    let (notices, noticed) = mpsc::channel(64);
    let reporter = Reporter {
        controller: "weir.dev/ingress-controller",
        instance: identity.name.clone(),
        action: "Serve",
    };
    spawn_local(EventWriter::new(api.clone(), reporter).run(noticed));
    let (wanted, wants) = watch::channel(status::Wanted::default());
    let writer = spawn_local(status::Writer::new(api, identity, publish.clone(), wants).run(ending.clone()));

    let mut state = State::default();
    let mut served = false;
    let mut notices = notices::Notices::new(notices);
    progress(state.missing());
    loop {
        let first = tokio::select! {
            told = queue.recv() => told,
            _ = ending.wait_for(Option::is_some) => break,
        };
        let Some(first) = first else { break };
        let mut changed = state.take(first);
        tokio::time::sleep(SETTLE).await;
        while let Ok(more) = queue.try_recv() {
            changed = changed.max(state.take(more));
        }
        if let Some(missing) = state.missing() {
            progress(Some(missing));
            continue;
        }
        // Endpoints change often, and neither who is served nor where follows from them. What a status shows does.
        if changed != Changed::Endpoints || !served {
            let settings = serving.settings();
            wanted.send_if_modified(|wanted| wanted.update(&state.world, settings, &publish));
        }
        let warnings = serving.serve(&state.world, state.warnings(), changed);
        let ours = wanted.borrow();
        notices.tell(warnings, |name| ours.shown.contains_key(name));
        drop(ours);
        if !std::mem::replace(&mut served, true) {
            progress(None);
        }
    }
    // A status that cannot be taken back is told in the log by the writer itself.
    drop(writer.await);
}

/// What has been told so far.
#[derive(Default)]
struct State {
    world: World,
    listed: BTreeSet<Kind>,
    odd: BTreeMap<(Kind, Name), Vec<Warning>>,
    complaints: BTreeMap<Kind, Vec<String>>,
}

impl State {
    /// Takes the news in; answers how much has to be looked at again.
    fn take(&mut self, told: Told) -> Changed {
        if told.whole {
            self.listed.insert(told.kind);
        }
        if let Some(complaints) = told.complaints {
            let known = self.complaints.insert(told.kind, complaints).unwrap_or_default();
            let new = self.complaints[&told.kind].iter().filter(|it| !known.contains(it));
            new.for_each(|complaint| warn!("{complaint}"));
        }
        let mut changed = Changed::Nothing;
        for change in told.changes {
            let much = match change {
                Change::Apply(object, warnings) => {
                    let much = self.world.changed_by(&object);
                    let key = (told.kind, object.name());
                    if warnings.is_empty() {
                        self.odd.remove(&key);
                    } else {
                        self.odd.insert(key, warnings);
                    }
                    if much > Changed::Nothing || told.kind == Kind::Ingress {
                        self.world.apply(object);
                    }
                    much
                }
                Change::Delete(kind, name) => {
                    self.world.remove(kind, &name);
                    self.odd.remove(&(kind, name));
                    if kind == Kind::EndpointSlice { Changed::Endpoints } else { Changed::Everything }
                }
            };
            changed = changed.max(much);
        }
        changed
    }

    /// What has not been listed yet; nothing: all has been.
    fn missing(&self) -> Option<String> {
        let missing: Vec<&str> =
            Kind::ALL.iter().filter(|kind| !self.listed.contains(kind)).map(|kind| kind.as_str()).collect();
        if missing.is_empty() {
            return None;
        }
        let complaints: String = self.complaints.values().flatten().map(|it| format!("\n{it}")).collect();
        Some(format!("waiting for the first list of: {}{complaints}", missing.join(", ")))
    }

    /// What is odd about the objects as they are written.
    fn warnings(&self) -> Vec<Warning> {
        self.odd.values().flatten().cloned().collect()
    }
}
