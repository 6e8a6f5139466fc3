//! What somebody else changed on this node is found and put right: links, neighbours, settings and routes of endpoints.
//!
//! The kernel tells where something happened, and what is there is then asked for; the one setting that it does not tell of
//! is read each second. Programs and map rows are the loop's (`audit.rs`), routes to other nodes and the plugin's
//! configuration those of `node.rs`. An endpoint that was never seen whole is still being wired by the plugin.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use api::Attach;
use netlink::{Change, Fault, Handle, HostSide, Monitor, Route};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::warn;

use crate::event::Event;
use crate::records::Records;
use crate::underlay::{self, Underlay};

/// Of what kind a thing is that was put right; a label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Program,
    Row,
    Route,
    Link,
    Neighbour,
    Setting,
    Conflist,
    Nft,
    Leak,
}

impl Kind {
    pub(crate) const ALL: [Self; 9] = [
        Self::Program,
        Self::Row,
        Self::Route,
        Self::Link,
        Self::Neighbour,
        Self::Setting,
        Self::Conflist,
        Self::Nft,
        Self::Leak,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Row => "row",
            Self::Route => "route",
            Self::Link => "link",
            Self::Neighbour => "neighbour",
            Self::Setting => "setting",
            Self::Conflist => "conflist",
            Self::Nft => "nft",
            Self::Leak => "leak",
        }
    }
}

/// One thing that was put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mended {
    pub(crate) kind: Kind,
    pub(crate) what: String,
}

/// What the endpoints' links must be like.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wirings {
    endpoints: Vec<Attach>,
    node_ips: Vec<IpAddr>,
    revision: u64,
}

impl Wirings {
    /// Becomes what the records have; whether that is news.
    pub(crate) fn follow(&mut self, records: &Records, node_ips: &[IpAddr]) -> bool {
        if self.revision == records.revision() && self.node_ips == node_ips {
            return false;
        }
        *self = Self {
            endpoints: records.iter().cloned().collect(),
            node_ips: node_ips.to_vec(),
            revision: records.revision(),
        };
        true
    }
}

impl Wirings {
    pub(crate) fn has(&self, container_id: &str, ifname: &str) -> bool {
        self.endpoints.iter().any(|attach| attach.container_id == container_id && attach.ifname == ifname)
    }

    #[cfg(test)]
    pub(crate) fn push(&mut self, attach: Attach) {
        self.endpoints.push(attach);
    }
}

/// Changes come in crowds: they are gathered for so long.
const GATHER: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
/// Everything is looked at, told or not, once in so many seconds.
const ROUND: u32 = 30;
/// The plugin has long wired an endpoint, or will not any more.
const WIRED: Duration = Duration::from_secs(10);

/// Where to look.
#[derive(Default)]
struct Look {
    links: BTreeSet<u32>,
    routes: bool,
    everything: bool,
}

pub(crate) struct Keeper {
    handle: Handle,
    underlays: Vec<Underlay>,
    /// Wakes whoever keeps the routes to other nodes.
    disturbed: Rc<Notify>,
    events: mpsc::Sender<Event>,
    /// Container, interface and its number: since when it is known, or that it has been seen whole.
    seen: BTreeMap<(String, String, u32), Option<Instant>>,
}

impl Keeper {
    pub(crate) fn new(
        handle: Handle,
        underlays: Vec<Underlay>,
        disturbed: Rc<Notify>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self { handle, underlays, disturbed, events, seen: BTreeMap::new() }
    }

    /// Keeps what `wirings` says, until nobody says or listens any more.
    pub(crate) async fn run(mut self, mut monitor: Monitor, mut wirings: watch::Receiver<Wirings>) {
        let mut seconds = interval(SECOND);
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = 0;
        let mut told = Vec::new();
        loop {
            let mut look = Look::default();
            tokio::select! {
                changes = monitor.next() => {
                    match changes {
                        Ok(changes) => self.note(&changes, &mut look).await,
                        Err(error) => {
                            warn!(error = format!("{:#}", anyhow::Error::from(error)), "changes are not told, everything is looked at");
                            look.everything = true;
                            sleep(SECOND).await;
                        }
                    }
                    sleep(GATHER).await;
                }
                _ = seconds.tick() => {
                    count += 1;
                    look.everything = count % ROUND == 0;
                }
                changed = wirings.changed() => if changed.is_err() { return },
            }
            let now = wirings.borrow_and_update().clone();
            let mut mended = Vec::new();
            let mut complaints = Vec::new();
            match underlay::prepare(&self.underlays) {
                Ok(changed) => {
                    mended.extend(changed.into_iter().map(|what| Mended { kind: Kind::Setting, what }))
                }
                Err(error) => complaints.push(format!("{error:#}")),
            }
            if let Err(error) = self.keep(&now, &look, &mut mended).await {
                complaints.push(format!("{:#}", anyhow::Error::from(error)));
            }
            let mut news = Vec::new();
            if told != complaints {
                told.clone_from(&complaints);
                news.push(Event::Complaints { part: "drift", complaints });
            }
            news.extend((!mended.is_empty()).then_some(Event::Mended(mended)));
            for event in news {
                if self.events.send(event).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn note(&self, changes: &[Change], look: &mut Look) {
        for change in changes {
            match change {
                Change::Link(ifindex) => {
                    look.links.insert(*ifindex);
                    // A device that goes down loses its routes, and not a word is said of them.
                    if self.underlays.iter().any(|underlay| underlay.ifindex == *ifindex) {
                        self.disturbed.notify_one();
                    }
                }
                // If nobody listens, the agent is ending.
                Change::Filter(ifindex) => drop(self.events.send(Event::FilterGone(*ifindex)).await),
                Change::Route => {
                    look.routes = true;
                    self.disturbed.notify_one();
                }
                Change::Lost => {
                    look.everything = true;
                    self.disturbed.notify_one();
                }
            }
        }
    }

    async fn keep(
        &mut self,
        wirings: &Wirings,
        look: &Look,
        mended: &mut Vec<Mended>,
    ) -> Result<(), netlink::Error> {
        let key = |attach: &Attach| (attach.container_id.clone(), attach.ifname.clone(), attach.host_ifindex);
        let known: BTreeSet<_> = wirings.endpoints.iter().map(key).collect();
        self.seen.retain(|key, _| known.contains(key));
        let now = Instant::now();
        let mut routes: Option<BTreeSet<Route>> = None;
        for attach in &wirings.endpoints {
            let key = key(attach);
            let seen = *self.seen.entry(key.clone()).or_insert(Some(now));
            let side = HostSide {
                name: &attach.host_ifname,
                ifindex: attach.host_ifindex,
                ips: &attach.ips,
                mac: attach.mac,
                node_ips: &wirings.node_ips,
            };
            let closely = look.everything || seen.is_some() || look.links.contains(&attach.host_ifindex);
            let mut faults = Vec::new();
            if closely || look.routes {
                if routes.is_none() {
                    routes = Some(self.handle.own_routes().await?.into_iter().collect());
                }
                let routes = routes.as_ref().unwrap_or(const { &BTreeSet::new() });
                faults = if closely {
                    side.faults(&self.handle, routes).await?
                } else {
                    side.route_faults(routes)
                };
            } else {
                faults.extend(side.silent_faults());
            }
            match seen {
                Some(_) if faults.is_empty() => drop(self.seen.insert(key, None)),
                Some(since) if now.duration_since(since) < WIRED => continue,
                _ => {}
            }
            for fault in faults {
                match side.mend(&self.handle, &fault).await {
                    Ok(()) => mended.push(named(&side, &fault)),
                    // It goes, and with it what was to be put right.
                    Err(error) if error.is_not_there() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

fn named(side: &HostSide<'_>, fault: &Fault) -> Mended {
    let (kind, what) = match fault {
        Fault::Down => (Kind::Link, format!("link {}: down, set up", side.name)),
        Fault::Setting { setting, value, found } => {
            (Kind::Setting, format!("/proc/sys/net/{setting}: {found}, set to {value}"))
        }
        Fault::Neighbour(ip) => (Kind::Neighbour, format!("neighbour {ip} of {}", side.name)),
        Fault::Route(route) => (Kind::Route, format!("route {route}")),
    };
    Mended { kind, what }
}
