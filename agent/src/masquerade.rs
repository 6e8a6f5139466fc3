//! What pods reach by their own addresses: the nodes, the pods of all of them, and what the command line adds. With
//! masquerading on, all else is told the node's address.
//!
//! The kernel programs decide it for each connection and mark its packets; the rule of netfilter that does the rest is in
//! [`crate::host_rules`].

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use policy::World;
use policy::tables::Cidr;
use tracing::{info, warn};

use crate::datapath::Datapath;

/// Off unless told otherwise.
#[derive(Debug, Default)]
pub(crate) struct Masquerade {
    is_on: bool,
    extra: Vec<IpNet>,
    /// What the programs were told last.
    told: Option<Vec<IpNet>>,
}

impl Masquerade {
    pub(crate) fn new(is_on: bool, extra: Vec<IpNet>) -> Self {
        Self { is_on, extra, told: None }
    }

    /// Tells the programs what the world's nodes have; where that is as before, which is nearly always, nothing is copied.
    pub(crate) fn tell(&mut self, datapath: &mut impl Datapath, world: &World) -> Result<()> {
        let native = || {
            let of_nodes = world.nodes().flat_map(|node| {
                node.pod_cidrs.iter().copied().chain(node.ips.iter().map(|ip| IpNet::from(*ip)))
            });
            self.extra.iter().copied().chain(of_nodes).filter(|_| self.is_on)
        };
        if self.told.as_ref().is_some_and(|told| native().eq(told.iter().copied())) {
            return Ok(());
        }
        let native: Vec<IpNet> = native().collect();
        self.write(datapath, &native)?;
        self.told = Some(native);
        Ok(())
    }

    /// Puts back what somebody else has changed. Whether there was anything.
    pub(crate) fn mend(&self, datapath: &mut impl Datapath) -> bool {
        let Some(told) = &self.told else { return false };
        match self.write(datapath, told) {
            Ok(mended) => mended,
            Err(error) => {
                warn!(error = format!("{error:#}"), "what is not masqueraded cannot be looked at");
                false
            }
        }
    }

    fn write(&self, datapath: &mut impl Datapath, native: &[IpNet]) -> Result<bool> {
        let blocks: BTreeSet<Cidr> = native.iter().copied().map(Cidr::new).collect();
        let written = datapath
            .masquerade_beyond(self.is_on.then_some(&blocks))
            .context("say what is not masqueraded")?;
        if written && self.is_on {
            info!(blocks = blocks.len(), "what pods reach by their own addresses has changed");
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use policy::World;

    use super::*;
    use crate::testing::{MemoryDatapath, NODES};

    fn world(yaml: &str) -> World {
        let mut world = World::new("node-0");
        for document in policy::manifest::documents("test.yaml", yaml).unwrap() {
            let (object, warnings) = policy::manifest::object(&document).unwrap().unwrap();
            world.apply(object, &warnings);
        }
        world
    }

    fn blocks(text: &[&str]) -> Option<BTreeSet<Cidr>> {
        Some(text.iter().map(|block| Cidr::new(block.parse().unwrap())).collect())
    }

    #[test]
    fn nodes_and_their_pods_and_what_the_command_line_adds_are_never_masqueraded() {
        let mut datapath = MemoryDatapath::default();
        let mut masquerade = Masquerade::new(true, vec!["192.168.7.9/16".parse().unwrap()]);
        masquerade.tell(&mut datapath, &world(NODES)).unwrap();
        let told = blocks(&["10.244.0.0/24", "172.30.0.10/32", "192.168.0.0/16"]);
        assert_eq!(datapath.kernel.borrow().native, told);

        let two = format!("{NODES}---\n{}", NODES.replace("node-0", "node-1").replace("244.0.", "244.1."));
        masquerade.tell(&mut datapath, &world(&two)).unwrap();
        let told = blocks(&["10.244.0.0/24", "10.244.1.0/24", "172.30.0.10/32", "192.168.0.0/16"]);
        assert_eq!(datapath.kernel.borrow().native, told);
    }

    #[test]
    fn the_programs_are_told_news_only_and_again_what_somebody_else_changed() {
        let mut datapath = MemoryDatapath::default();
        let mut masquerade = Masquerade::new(true, Vec::new());
        assert!(!masquerade.mend(&mut datapath), "nothing is known yet");
        masquerade.tell(&mut datapath, &world(NODES)).unwrap();
        masquerade.tell(&mut datapath, &world(NODES)).unwrap();
        assert_eq!(datapath.kernel.borrow().log, ["native"]);
        assert!(!masquerade.mend(&mut datapath));
        let told = datapath.kernel.borrow_mut().native.take();
        assert!(masquerade.mend(&mut datapath));
        assert_eq!(datapath.kernel.borrow().native, told);
    }

    #[test]
    fn off_it_undoes_what_an_agent_before_had_on() {
        let mut datapath = MemoryDatapath::default();
        datapath.kernel.borrow_mut().native = blocks(&["10.0.0.0/8"]);
        Masquerade::new(false, vec!["10.0.0.0/8".parse().unwrap()])
            .tell(&mut datapath, &world(NODES))
            .unwrap();
        assert_eq!(datapath.kernel.borrow().native, None);
    }
}
