//! The blocks of addresses that terms in use speak of, and the class of each.

use std::collections::HashMap;

use common::net::Addr;

use super::classes::{Class, Counted, NONE};
use super::endpoints::TermNews;
use super::peers::known;
use crate::changes::Changes;
use crate::cidr::BlockTrie;
use crate::class::{Match, Term, Terms};
use crate::model::{Block, Peer};
use crate::tables::Cidr;

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
            Some((cidr, terms)) => (terms, self.class(&cidr)),
            None => (&[], NONE),
        }
    }

    /// Takes in which terms are in use. A block that comes or goes can change what all inside it inherit, and nothing else.
    pub(super) fn update(
        &mut self,
        terms: &Terms,
        news: &TermNews,
        classes: &mut Counted,
        pending: &mut Changes,
    ) {
        let touched = self.trie.change(blocks(terms, &news.removed), blocks(terms, &news.added));
        let mut left: Vec<Class> = Vec::new();
        for cidr in touched.gone {
            left.extend(self.classes.remove(&cidr));
            pending.cidrs.insert(cidr, None);
        }
        for within in touched.within {
            let outer = self.trie.around(&within).map(|(cidr, _)| (cidr, self.class(&cidr)));
            // Outer ones come first: the innermost around a prefix is the last one passed that contains it.
            let mut around: Vec<(Cidr, Class)> = outer.into_iter().collect();
            for (cidr, inside) in self.trie.within(&within) {
                while around.last().is_some_and(|(outer, _)| !outer.contains(&cidr)) {
                    around.pop();
                }
                let class = classes.enter(terms, of_strangers(terms, inside));
                left.extend(self.classes.insert(cidr, class));
                let inherited = around.last().map_or(NONE, |(_, outer)| *outer);
                pending.cidrs.insert(cidr, (class != inherited).then(|| classes.id(class)));
                around.push((cidr, class));
            }
        }
        left.into_iter().for_each(|class| classes.leave(class));
    }

    fn class(&self, cidr: &Cidr) -> Class {
        self.classes.get(cidr).copied().unwrap_or(NONE)
    }
}

fn blocks<'a>(terms: &'a Terms, numbers: &'a [u32]) -> impl Iterator<Item = (u32, &'a Block)> {
    known(terms, numbers).filter_map(|(number, term)| match &term.peer {
        Some(Peer::Block(block)) => Some((number, block)),
        _ => None,
    })
}

/// What addresses match in these blocks that are no pods': they have no named ports.
fn of_strangers(terms: &Terms, blocks: &[u32]) -> Vec<Match> {
    let unnamed = |term: &Term| term.named.is_none();
    let blocks = blocks.iter().filter(|number| terms.term(**number).is_some_and(|term| unnamed(term)));
    blocks.map(|number| Match { term: *number, port: 0 }).collect()
}
