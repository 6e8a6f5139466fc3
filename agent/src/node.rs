//! What follows from Node objects outside the maps: routes to the other nodes' pods, and the plugin's configuration.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use policy::{NodeFacts, World};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::info;

use crate::cidrs::{self, OnLink};
use crate::conflist::Conflist;
use crate::drift::{Kind, Mended};
use crate::event::Event;
use crate::overlay;
use crate::routes::Routes;

/// The nodes as the world has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Neighbourhood {
    /// The first complete list is in force: pods can be wired.
    pub(crate) ready: bool,
    pub(crate) own: Option<NodeFacts>,
    pub(crate) others: Vec<NodeFacts>,
}

impl Neighbourhood {
    pub(crate) fn of(world: &World, ready: bool) -> Self {
        let own = world.node().cloned();
        let others = world.nodes().filter(|node| own.as_ref().is_none_or(|own| own.name != node.name));
        Self { ready, others: others.cloned().collect(), own }
    }

    /// Whether anything has been heard yet of any node.
    fn is_known(&self) -> bool {
        self.ready || self.own.is_some() || !self.others.is_empty()
    }

    /// Becomes what the world has. Whether that is news; where it is none, which is nearly always, nothing is copied.
    pub(crate) fn follow(&mut self, world: &World, ready: bool) -> bool {
        let own = world.node();
        let others = world.nodes().filter(|node| own.is_none_or(|own| own.name != node.name));
        let same = ready == self.ready && own == self.own.as_ref() && others.eq(&self.others);
        if !same {
            *self = Self::of(world, ready);
        }
        !same
    }
}

/// The parts of the plugin's configuration that the node does not say.
pub(crate) struct Plugin {
    pub(crate) path: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) state: PathBuf,
}

/// The files and settings that nobody tells of are looked at so often.
const SECOND: Duration = Duration::from_secs(1);
/// A device that goes takes its routes along, and not a word is said of these.
const GLANCE: Duration = Duration::from_millis(500);

/// Follows the neighbourhood: first the routes, then, once pods can be wired, the plugin's configuration. What somebody else
/// changes of either is put right.
pub(crate) async fn follow(
    node: String,
    mut routes: Routes,
    on_link: Vec<OnLink>,
    plugin: Option<Plugin>,
    mut neighbourhood: watch::Receiver<Neighbourhood>,
    disturbed: Rc<Notify>,
    events: mpsc::Sender<Event>,
) {
    let mut seconds = interval(SECOND);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut route_complaints = Vec::new();
    let mut told = None;
    let mut wired = false;
    let mut glances = interval(GLANCE);
    glances.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let device = routes.device;
        let alarm = async {
            tokio::select! {
                () = routes.news() => Work { news: true, look: true },
                () = disturbed.notified() => Work { news: false, look: true },
                () = gone(device, &mut glances) => Work { news: false, look: true },
                _ = seconds.tick() => Work { news: false, look: false },
            }
        };
        let Some((now, Work { news, look })) = next(&mut neighbourhood, alarm).await else { return };
        let mut mended = Vec::new();
        // Before the first list is there, what an earlier agent left is right: no node may be taken for gone.
        if look && now.is_known() {
            let (others, unroutable) = cidrs::routable(now.own.as_ref(), &now.others, &on_link);
            route_complaints = unroutable;
            if overlay::is_gone(device) {
                match make_overlay(&mut routes, &events).await {
                    Ok(what) => mended.push(Mended { kind: Kind::Link, what }),
                    Err(error) => route_complaints.push(format!("{error:#}")),
                }
            }
            route_complaints.extend(routes.sync(now.own.as_ref(), &others).await);
            let written = std::mem::take(&mut routes.written);
            let written = written.into_iter().filter(|_| !news);
            mended.extend(written.map(|what| Mended { kind: Kind::Route, what }));
            if events.send(Event::Peers(routes.statuses())).await.is_err() {
                return;
            }
        }
        let mut complaints = route_complaints.clone();
        complaints.extend(plugin.as_ref().and_then(Plugin::overtaken));
        match (&plugin, &now.own) {
            (Some(_), Some(own)) if now.ready && cidrs::unusable(own, &on_link).is_some() => {
                complaints.extend(cidrs::unusable(own, &on_link));
            }
            (Some(plugin), Some(own)) if now.ready => {
                match routes.pod_mtu(own, &now.others).and_then(|mtu| plugin.configure(own, mtu)) {
                    Ok(written) if written && wired && !news => {
                        mended.push(Mended { kind: Kind::Conflist, what: plugin.path.display().to_string() });
                    }
                    Ok(_) if wired => {}
                    Ok(_) => {
                        wired = true;
                        if events.send(Event::Wired).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => complaints.push(format!("{error:#}")),
                }
            }
            (Some(_), None) if now.ready => complaints.push(format!(
                "Node {node}: not in the source, so no pod gets an address here: --node must be the name of this machine's \
                 Node object"
            )),
            _ => {}
        }
        if told.as_ref() != Some(&complaints) {
            told = Some(complaints.clone());
            if events.send(Event::Complaints { part: "node", complaints }).await.is_err() {
                return;
            }
        }
        if !mended.is_empty() && events.send(Event::Mended(mended)).await.is_err() {
            return;
        }
    }
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Work {
    /// The nodes or the ways to them are others: what is written now is no repair.
    news: bool,
    /// The routes are to be looked at.
    look: bool,
}

/// Waits for another neighbourhood or for `alarm`. `None` when nobody tells of neighbourhoods any more.
async fn next(
    neighbourhood: &mut watch::Receiver<Neighbourhood>,
    alarm: impl Future<Output = Work>,
) -> Option<(Neighbourhood, Work)> {
    let mut work = tokio::select! {
        changed = neighbourhood.changed() => {
            changed.ok()?;
            Work { news: true, look: true }
        }
        work = alarm => work,
    };
    // Both may be due at once, and then chance says which is heard: here the neighbourhood counts as seen in either case.
    if neighbourhood.has_changed().is_ok_and(|changed| changed) {
        work = Work { news: true, look: true };
    }
    Some((neighbourhood.borrow_and_update().clone(), work))
}

/// Until somebody has deleted the overlay's device.
async fn gone(device: Option<u32>, glances: &mut Interval) {
    loop {
        glances.tick().await;
        if overlay::is_gone(device) {
            return;
        }
    }
}

/// Makes the overlay's device anew, with programs on it: what was done.
async fn make_overlay(routes: &mut Routes, events: &mpsc::Sender<Event>) -> Result<String> {
    let ifindex = routes.make_device().await?;
    let (reply, attached) = oneshot::channel();
    // Where nobody listens any more, nobody replies.
    if events.send(Event::Overlay(ifindex, reply)).await.is_ok()
        && let Ok(attached) = attached.await
    {
        attached?;
        routes.device = Some(ifindex);
    }
    Ok(format!("link {}: gone, made anew", overlay::DEVICE))
}

impl Plugin {
    /// Another plugin's configuration that the runtime prefers: it takes the first file in the order of names.
    fn overtaken(&self) -> Option<String> {
        let (folder, ours) = (self.path.parent()?, self.path.file_name()?.to_str()?);
        let files = std::fs::read_dir(folder).ok()?.flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        let is_conf = |name: &String| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end));
        let first = names.filter(is_conf).min().filter(|first| first.as_str() < ours)?;
        Some(format!(
            "{}/{first} comes before {ours}, so the runtime gives new pods to that plugin: uninstall it and remove the file",
            folder.display()
        ))
    }

    /// Whether the configuration had to be written.
    fn configure(&self, own: &NodeFacts, mtu: u32) -> Result<bool> {
        let conflist = Conflist {
            socket: &self.socket,
            state: &self.state,
            mtu,
            node_ips: &own.ips,
            ranges: &own.pod_cidrs,
        };
        let written = conflist.install(&self.path)?;
        if written {
            info!(file = %self.path.display(), "plugin's configuration written");
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_known_of_any_node_until_the_first_list_is_there() {
        let mut neighbourhood = Neighbourhood::default();
        assert!(!neighbourhood.is_known(), "no route of an earlier agent may go");
        // A cluster may be one node, whose agent has another name.
        neighbourhood.ready = true;
        assert!(neighbourhood.is_known());
    }

    #[tokio::test]
    async fn a_new_neighbourhood_is_acted_upon_also_when_the_second_strikes_at_once() {
        let strike = || async { Work { news: false, look: false } };
        let (tell, mut neighbourhood) = watch::channel(Neighbourhood::default());
        // Which of two that are due comes first is left to chance.
        for round in 0..64 {
            tell.send_modify(|last| last.ready = round % 2 == 0);
            let (now, work) = next(&mut neighbourhood, strike()).await.unwrap();
            assert_eq!((now.ready, work), (round % 2 == 0, Work { news: true, look: true }));
        }
        let (_, work) = next(&mut neighbourhood, strike()).await.unwrap();
        assert_eq!(work, Work { news: false, look: false });
        drop(tell);
        assert_eq!(next(&mut neighbourhood, std::future::pending()).await, None);
    }
}
