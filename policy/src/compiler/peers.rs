//! The class of every address that any term in use tells from the rest.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use common::id::ClassId;
use common::net::Addr;

use super::blocks::Blocks;
use super::classes::{Class, Counted};
use super::endpoints::TermNews;
use super::index::{Index, is_in, port};
use crate::changes::Changes;
use crate::class::{Match, Term, Terms};
use crate::model::{Namespaces, Peer};
use crate::world::World;

#[derive(Debug, Default)]
pub(super) struct Peers {
    index: Index,
    blocks: Blocks,
    /// Of every address that is a pod's.
    addresses: HashMap<IpAddr, Class>,
    pub(super) classes: Counted,
}

impl Peers {
    /// Takes in which terms are in use.
    pub(super) fn take_terms(&mut self, terms: &Terms, news: &TermNews, pending: &mut Changes) {
        for (number, term) in known(terms, &news.removed) {
            self.index.remove(number, term);
        }
        for (number, term) in known(terms, &news.added) {
            self.index.insert(number, term);
        }
        self.blocks.update(terms, news, &mut self.classes, pending);
    }

    /// Adds the addresses that a new term matches, or that one that is no more did.
    pub(super) fn moved_by(
        &self,
        world: &World,
        terms: &Terms,
        news: &TermNews,
        addresses: &mut BTreeSet<IpAddr>,
    ) {
        if !news.removed.is_empty() {
            let classes = self.classes.with_terms(news.removed.iter().copied());
            if !classes.is_empty() {
                addresses.extend(
                    self.addresses.iter().filter(|(_, class)| classes.contains(class)).map(|(ip, _)| *ip),
                );
            }
        }
        for (_, term) in known(terms, &news.added).chain(known(terms, &news.removed)) {
            if let Some(Peer::Block(block)) = &term.peer {
                addresses.extend(world.addresses_within(block.cidr));
            }
        }
        for (_, term) in known(terms, &news.added) {
            addresses.extend(matched(world, term));
        }
    }

    /// Finds the class of an address. What its row must be: nothing where it is that of the blocks around it.
    pub(super) fn classify(&mut self, world: &World, terms: &Terms, ip: IpAddr) -> Option<ClassId> {
        let (inside, around) = self.blocks.around(Addr::from(ip));
        let pod = world.owner(ip).filter(|pod| !pod.host_network);
        let class = pod.map(|pod| {
            let labels = world.namespace_labels(&pod.namespace);
            let mut matches = self.index.matching(terms, pod, &labels);
            for (number, term) in known(terms, inside) {
                matches.extend(port(term, pod).map(|port| Match { term: number, port }));
            }
            self.classes.enter(terms, matches)
        });
        let before = match class {
            Some(class) => self.addresses.insert(ip, class),
            None => self.addresses.remove(&ip),
        };
        if let Some(before) = before {
            self.classes.leave(before);
        }
        class.filter(|class| *class != around).map(|class| self.classes.id(class))
    }
}

/// Terms by their numbers.
pub(super) fn known<'a>(terms: &'a Terms, numbers: &'a [u32]) -> impl Iterator<Item = (u32, &'a Term)> {
    numbers.iter().filter_map(|number| Some((*number, &**terms.term(*number)?)))
}

/// The addresses of the pods that a term matches by what they are.
fn matched<'a>(world: &'a World, term: &'a Term) -> Box<dyn Iterator<Item = IpAddr> + 'a> {
    let (namespaces, pods) = match &term.peer {
        Some(Peer::Pods { namespaces, pods }) => (namespaces, pods),
        Some(Peer::Block(_)) => return Box::new(std::iter::empty()),
        None => {
            let named = world.pods().filter(|pod| port(term, pod).is_some());
            return Box::new(named.flat_map(|pod| world.addresses_of(pod)));
        }
    };
    let is_in = |name: &&str| is_in(namespaces, name, &world.namespace_labels(name));
    let names: Vec<&str> = match namespaces {
        Namespaces::Named(name) => vec![name.as_str()],
        Namespaces::Matching(_) => world.populated_namespaces().into_iter().filter(is_in).collect(),
    };
    let of_names = names.into_iter().flat_map(|name| world.pods_of(name));
    Box::new(of_names.filter(|pod| pods.matches(&pod.labels)).flat_map(|pod| world.addresses_of(pod)))
}
