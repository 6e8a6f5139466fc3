//! Peer classes: which of the selectors in use an address matches, as one number.
//!
//! A *term* is what a rule asks of a peer: a peer selector, or (in egress rules with a named port) a peer selector and
//! the name, because then the peer's own number for that name matters, too. A class is the set of terms that an address
//! matches, each with that number. Pods that no rule in use tells apart are of one class, whatever labels they carry.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use common::id::ClassId;
use common::net::Addr;

use crate::cidr::BlockTrie;
use crate::facts::PodFacts;
use crate::id::content_id;
use crate::model::{Block, Namespaces, Peer};
use crate::selector::{Labels, Selector};
use crate::world::World;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Term {
    /// `None`: everyone. Only beside a name; everyone without one needs no class.
    pub peer: Option<Peer>,
    /// Name and protocol of a port.
    pub named: Option<(String, u8)>,
}

/// The terms in use, numbered as they come.
#[derive(Debug, Default)]
pub(crate) struct Terms {
    numbers: HashMap<Arc<Term>, u32>,
    /// By number.
    list: Vec<Option<KnownTerm>>,
    /// Numbers that nobody has.
    free: Vec<u32>,
}

#[derive(Debug)]
struct KnownTerm {
    term: Arc<Term>,
    /// Of its content: unlike its number, it is the same on every node.
    id: u64,
    /// How many rule sets have it, as far as they say so.
    users: u32,
}

impl Terms {
    pub(crate) fn intern(&mut self, term: Term) -> u32 {
        if let Some(number) = self.numbers.get(&term) {
            return *number;
        }
        let peer = term.peer.as_ref().map_or_else(|| "everyone".to_owned(), ToString::to_string);
        let id = content_id("term", &format!("{peer} {:?}", term.named));
        let term = Arc::new(term);
        let number = self.free.pop().unwrap_or_else(|| {
            self.list.push(None);
            // There are fewer terms than bytes to write them with.
            (self.list.len() - 1) as u32
        });
        self.numbers.insert(Arc::clone(&term), number);
        self.list[number as usize] = Some(KnownTerm { term, id, users: 0 });
        number
    }

    /// The id of a term's content. Zero for a number that nobody has.
    pub(crate) fn id(&self, number: u32) -> u64 {
        self.known(number).map_or(0, |known| known.id)
    }

    pub(crate) fn term(&self, number: u32) -> Option<&Arc<Term>> {
        self.known(number).map(|known| &known.term)
    }

    /// How many use it now. One more, or one less.
    pub(crate) fn users(&mut self, number: u32) -> Option<&mut u32> {
        self.list.get_mut(number as usize)?.as_mut().map(|known| &mut known.users)
    }

    /// Gives the number of a term away that nobody uses.
    pub(crate) fn free(&mut self, number: u32) {
        if let Some(known) = self.list.get_mut(number as usize).and_then(Option::take) {
            self.numbers.remove(&known.term);
            self.free.push(number);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Arc<Term>)> {
        (0..).zip(&self.list).filter_map(|(number, known)| Some((number, &known.as_ref()?.term)))
    }

    fn known(&self, number: u32) -> Option<&KnownTerm> {
        self.list.get(number as usize)?.as_ref()
    }
}

/// One term that an address matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Match {
    pub term: u32,
    /// The peer's number for the term's port name; 0 for a term without.
    pub port: u16,
}

/// The id of the class of everything that matches these terms and no others. In order, each once.
pub(crate) fn class_id(terms: &Terms, matches: &[Match]) -> ClassId {
    if matches.is_empty() {
        return ClassId::NONE;
    }
    let mut content: Vec<(u64, u16)> = matches.iter().map(|m| (terms.id(m.term), m.port)).collect();
    content.sort_unstable();
    ClassId::new(content_id("class", &format!("{content:x?}")))
}

/// The classes in use.
#[derive(Debug, Default)]
pub(crate) struct Classes {
    ids: HashMap<Vec<Match>, ClassId>,
    by_term: HashMap<u32, Vec<(ClassId, Vec<Match>)>>,
}

impl Classes {
    pub(crate) fn intern(&mut self, terms: &Terms, mut matches: Vec<Match>) -> ClassId {
        matches.sort_unstable();
        matches.dedup();
        if matches.is_empty() {
            return ClassId::NONE;
        }
        if let Some(id) = self.ids.get(&matches) {
            return *id;
        }
        let id = class_id(terms, &matches);
        for m in &matches {
            self.by_term.entry(m.term).or_default().push((id, matches.clone()));
        }
        self.ids.insert(matches, id);
        id
    }

    /// Every class with one of these terms.
    pub(crate) fn with_terms(&self, terms: impl Iterator<Item = u32>) -> BTreeMap<ClassId, &[Match]> {
        terms
            .filter_map(|term| self.by_term.get(&term))
            .flatten()
            .map(|(id, matches)| (*id, matches.as_slice()))
            .collect()
    }
}

/// Finds the terms that an address matches without trying each.
pub(crate) struct Matcher<'a> {
    world: &'a World,
    /// Distinct peers and their terms: number, and the name and protocol where it has one.
    peers: Vec<(&'a Peer, Vec<PeerTerm<'a>>)>,
    everyone: Vec<PeerTerm<'a>>,
    blocks: BlockTrie,
    /// By namespace: which peers' namespaces it is one of, found by pod labels.
    namespaces: HashMap<String, AnchorIndex<'a>>,
}

type PeerTerm<'a> = (u32, Option<(&'a str, u8)>);

impl<'a> Matcher<'a> {
    pub(crate) fn new(terms: &'a Terms, world: &'a World) -> Self {
        let mut by_peer: BTreeMap<Option<&Peer>, Vec<PeerTerm<'_>>> = BTreeMap::new();
        for (number, term) in terms.iter() {
            let named = term.named.as_ref().map(|(name, protocol)| (name.as_str(), *protocol));
            by_peer.entry(term.peer.as_ref()).or_default().push((number, named));
        }
        let everyone = by_peer.remove(&None).unwrap_or_default();
        let peers: Vec<_> = by_peer.into_iter().filter_map(|(peer, terms)| Some((peer?, terms))).collect();
        let blocks = (0..).zip(&peers).filter_map(|(number, (peer, _))| match peer {
            Peer::Block(block) => Some((number, block)),
            Peer::Pods { .. } => None,
        });
        let blocks = BlockTrie::new(blocks.collect::<Vec<(u32, &Block)>>());
        Self { world, peers, everyone, blocks, namespaces: HashMap::new() }
    }

    pub(crate) fn blocks(&self) -> &BlockTrie {
        &self.blocks
    }

    /// What an address matches that is no pod's, given the blocks that it lies in.
    pub(crate) fn of_blocks(&self, blocks: &[u32]) -> Vec<Match> {
        let terms = blocks.iter().flat_map(|number| &self.peers[*number as usize].1);
        terms.filter(|(_, named)| named.is_none()).map(|(term, _)| Match { term: *term, port: 0 }).collect()
    }

    /// What a pod's address matches.
    pub(crate) fn of_pod(&mut self, pod: &PodFacts, addr: Addr) -> Vec<Match> {
        if !self.namespaces.contains_key(&pod.namespace) {
            self.namespaces.insert(pod.namespace.clone(), self.index(&pod.namespace));
        }
        let peers = self.namespaces[&pod.namespace].matching(&pod.labels);
        let peers = peers.into_iter().chain(self.blocks.lookup(addr).iter().map(|number| *number as usize));
        let terms = peers.flat_map(|number| &self.peers[number].1).chain(&self.everyone);
        let matches = terms.filter_map(|(term, named)| {
            let port = match named {
                None => 0,
                Some((name, protocol)) => pod.port(name, *protocol)?,
            };
            Some(Match { term: *term, port })
        });
        matches.collect()
    }

    fn index(&self, namespace: &str) -> AnchorIndex<'a> {
        let labels = self.world.namespace_labels(namespace);
        let mut selected: HashMap<&Selector, bool> = HashMap::new();
        let mut index = AnchorIndex::default();
        for (number, (peer, _)) in self.peers.iter().enumerate() {
            let Peer::Pods { namespaces, pods } = *peer else { continue };
            let is_in = match namespaces {
                Namespaces::Named(name) => name == namespace,
                Namespaces::Matching(selector) => {
                    *selected.entry(selector).or_insert_with(|| selector.matches(&labels))
                }
            };
            if is_in {
                index.insert(number, pods);
            }
        }
        index
    }
}

/// Finds those of many selectors that match, by a label that each of them demands.
#[derive(Debug, Default)]
pub(crate) struct AnchorIndex<'a> {
    anchored: HashMap<(&'a str, &'a str), Vec<(usize, &'a Selector)>>,
    /// Those that demand no label.
    rest: Vec<(usize, &'a Selector)>,
}

impl<'a> AnchorIndex<'a> {
    pub(crate) fn insert(&mut self, number: usize, selector: &'a Selector) {
        let Some((key, values)) = selector.anchor() else {
            self.rest.push((number, selector));
            return;
        };
        for value in values {
            self.anchored.entry((key, value)).or_default().push((number, selector));
        }
    }

    /// The numbers of the selectors that match, in order.
    pub(crate) fn matching(&self, labels: &Labels) -> Vec<usize> {
        let anchored = labels.iter().filter_map(|(key, value)| self.anchored.get(&(key, value)));
        let candidates = anchored.flatten().chain(&self.rest);
        let mut numbers: Vec<usize> =
            candidates.filter(|(_, selector)| selector.matches(labels)).map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        numbers
    }
}
