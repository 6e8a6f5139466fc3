//! The blocks of addresses that terms in use speak of, and the class of each.

use std::collections::HashMap;

use common::net::Addr;

use super::classes::{Class, Counted, NONE};
use crate::changes::Changes;
use crate::cidr::BlockTrie;
use crate::class::{Match, Term, Terms};
use crate::model::Peer;
use crate::tables::{Cidr, Tables};

#[derive(Debug, Default)]
pub(super) struct Blocks {
    trie: BlockTrie,
    /// Of each prefix in the trie.
    classes: HashMap<Cidr, Class>,
}

impl Blocks {
    /// The terms whose block an address lies in, and the class of an address there that is no pod's.
    pub(super) fn around(&self, addr: Addr) -> (&[u32], Class) {
        match self.trie.innermost(addr) {
            Some((cidr, terms)) => (terms, self.classes.get(&cidr).copied().unwrap_or(NONE)),
            None => (&[], NONE),
        }
    }

    /// Takes in what blocks the terms in use speak of now. From scratch: one block can change what all inside it inherit.
    pub(super) fn rebuild(
        &mut self,
        terms: &Terms,
        classes: &mut Counted,
        actual: &Tables,
        pending: &mut Changes,
    ) {
        let blocks = terms.used().filter_map(|(number, term)| match &term.peer {
            Some(Peer::Block(block)) => Some((number, block)),
            _ => None,
        });
        self.trie = BlockTrie::new(blocks);
        let before = std::mem::take(&mut self.classes);
        for cidr in actual.cidrs.keys() {
            pending.cidrs.insert(*cidr, None);
        }
        pending.cidrs.values_mut().for_each(|row| *row = None);
        // Outer ones come first: the innermost around a prefix is the last one passed that contains it.
        let mut around: Vec<(Cidr, Class)> = Vec::new();
        for (cidr, inside) in self.trie.iter() {
            while around.last().is_some_and(|(outer, _)| !outer.contains(&cidr)) {
                around.pop();
            }
            let class = classes.enter(terms, of_strangers(terms, inside));
            self.classes.insert(cidr, class);
            if around.last().map_or(NONE, |(_, outer)| *outer) != class {
                pending.cidrs.insert(cidr, Some(classes.id(class)));
            }
            around.push((cidr, class));
        }
        before.into_values().for_each(|class| classes.leave(class));
    }
}

/// What addresses match in these blocks that are no pods': they have no named ports.
fn of_strangers(terms: &Terms, blocks: &[u32]) -> Vec<Match> {
    let unnamed = |term: &Term| term.named.is_none();
    let blocks = blocks.iter().filter(|number| terms.term(**number).is_some_and(|term| unnamed(term)));
    blocks.map(|number| Match { term: *number, port: 0 }).collect()
}
