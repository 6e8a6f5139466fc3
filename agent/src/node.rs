//! What follows from Node objects outside the maps: routes to the other nodes' pods, and the plugin's configuration.

use std::path::PathBuf;

use policy::{NodeFacts, World};
use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::conflist::Conflist;
use crate::event::Event;
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
    pub(crate) mtu: u32,
}

/// Follows the neighbourhood: first the routes, then, once pods can be wired, the plugin's configuration.
pub(crate) async fn follow(
    node: String,
    mut routes: Routes,
    plugin: Option<Plugin>,
    mut neighbourhood: watch::Receiver<Neighbourhood>,
    events: mpsc::Sender<Event>,
) {
    while neighbourhood.changed().await.is_ok() {
        let now = neighbourhood.borrow_and_update().clone();
        let mut complaints = routes.sync(&now.others).await;
        match (&plugin, &now.own) {
            (Some(plugin), Some(own)) if now.ready => {
                let conflist = Conflist {
                    socket: &plugin.socket,
                    state: &plugin.state,
                    mtu: plugin.mtu,
                    node_ips: &own.ips,
                    ranges: &own.pod_cidrs,
                };
                match conflist.install(&plugin.path) {
                    Ok(true) => info!(file = %plugin.path.display(), "plugin's configuration written"),
                    Ok(false) => {}
                    Err(error) => complaints.push(format!("{error:#}")),
                }
            }
            (Some(_), None) if now.ready => complaints.push(format!(
                "Node {node}: not in the source; without its spec.podCIDRs no plugin configuration is written"
            )),
            _ => {}
        }
        if events.send(Event::Complaints { part: "node", complaints }).await.is_err() {
            return;
        }
    }
}
