//! Blocks of addresses as trie prefixes: which blocks an address lies in is what its longest prefix says.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use common::net::Addr;
use ipnet::IpNet;

use crate::model::Block;
use crate::tables::Cidr;

impl Cidr {
    /// All of IPv4, as it is mapped into IPv6.
    pub(crate) const IPV4_BITS: u32 = 96;

    pub fn new(net: IpNet) -> Self {
        let net = net.trunc();
        let bits = u32::from(net.prefix_len()) + if net.addr().is_ipv4() { Self::IPV4_BITS } else { 0 };
        Self { addr: Addr::from(net.addr()), bits }
    }

    /// The block of `bits` bits that the address lies in.
    pub fn around(addr: Addr, bits: u32) -> Self {
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        Self { addr: Addr::from_octets((u128::from_be_bytes(addr.octets()) & mask).to_be_bytes()), bits }
    }

    /// All of IPv4.
    fn ipv4() -> Self {
        Self::around(Addr::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), Self::IPV4_BITS)
    }

    fn ordered(&self) -> Place {
        (u128::from_be_bytes(self.addr.octets()), self.bits)
    }

    fn from_ordered((number, bits): Place) -> Self {
        Self { addr: Addr::from_octets(number.to_be_bytes()), bits }
    }

    /// `other` is this block or a part of it.
    pub fn contains(&self, other: &Self) -> bool {
        self.bits <= other.bits && Self::around(other.addr, self.bits).addr == self.addr
    }
}

/// A prefix in order of address as a number (the words of an [`Addr`] are not in order), then of length: outer ones before
/// inner ones.
type Place = (u128, u32);

/// Which of a number of blocks each address lies in. Blocks come and go, and what is not in one that does stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlockTrie {
    /// Every prefix that a block speaks of.
    prefixes: BTreeMap<Place, Prefix>,
    /// How many have a length, the longest first.
    lengths: BTreeMap<Reverse<u32>, u32>,
}

/// Blocks by their numbers, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Prefix {
    /// Those that begin here, and those that this is cut out of.
    begun: BTreeSet<u32>,
    left: BTreeSet<u32>,
    /// Those that contain all of it.
    inside: Vec<u32>,
}

/// What a change has touched.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// Nothing outside of these is other than before. None lies in another.
    pub(crate) within: Vec<Cidr>,
    /// The prefixes that no block speaks of any more.
    pub(crate) gone: Vec<Cidr>,
}

impl BlockTrie {
    /// `blocks` are known by the numbers beside them.
    pub(crate) fn new<'a>(blocks: impl IntoIterator<Item = (u32, &'a Block)>) -> Self {
        let mut trie = Self::default();
        trie.change([], blocks);
        trie
    }

    /// Blocks go, and others come; a number that goes may come back as another block.
    pub(crate) fn change<'a>(
        &mut self,
        removed: impl IntoIterator<Item = (u32, &'a Block)>,
        added: impl IntoIterator<Item = (u32, &'a Block)>,
    ) -> Touched {
        let mut places: BTreeSet<Place> = BTreeSet::new();
        for (number, block) in removed {
            for (cidr, is_except) in edges(block) {
                places.insert(cidr.ordered());
                if let Some(prefix) = self.prefixes.get_mut(&cidr.ordered()) {
                    prefix.edge(is_except).remove(&number);
                }
            }
        }
        for (number, block) in added {
            for (cidr, is_except) in edges(block) {
                places.insert(cidr.ordered());
                self.prefix(cidr).edge(is_except).insert(number);
            }
        }
        let mut touched = Touched::default();
        let ipv4 = Cidr::ipv4();
        for place in &places {
            let cidr = Cidr::from_ordered(*place);
            if cidr != ipv4 && self.prefixes.get(place).is_some_and(Prefix::is_nobodys) {
                self.forget(cidr);
                touched.gone.push(cidr);
            }
        }
        // `::/0` must not reach the IPv4 addresses that are mapped into it: all of IPv4 is then a root of its own.
        if self.around(&ipv4).is_some() {
            self.prefix(ipv4);
        } else if self.prefixes.get(&ipv4.ordered()).is_some_and(Prefix::is_nobodys) {
            self.forget(ipv4);
            touched.gone.push(ipv4);
        }
        for cidr in places.into_iter().map(Cidr::from_ordered) {
            if touched.within.last().is_none_or(|outer| !outer.contains(&cidr)) {
                touched.within.push(cidr);
            }
        }
        touched.within.iter().for_each(|cidr| self.inherit(cidr));
        touched
    }

    /// Says of each prefix in this one what contains it.
    fn inherit(&mut self, within: &Cidr) {
        let ipv4 = Cidr::ipv4();
        // In order, the innermost block around a prefix is the last one passed that contains it.
        let outer = self.around(within).map(|(cidr, blocks)| (cidr, blocks.to_vec()));
        let mut around: Vec<(Cidr, Vec<u32>)> = outer.into_iter().collect();
        for (place, prefix) in self.prefixes.range_mut(places_within(within)) {
            let cidr = Cidr::from_ordered(*place);
            while around.last().is_some_and(|(outer, _)| !outer.contains(&cidr)) {
                around.pop();
            }
            let inherited = around.last().filter(|_| cidr != ipv4).map_or(&[][..], |(_, blocks)| blocks);
            let stays = |number: &&u32| !prefix.left.contains(number);
            let mut inside: Vec<u32> = inherited.iter().filter(stays).chain(&prefix.begun).copied().collect();
            inside.sort_unstable();
            inside.shrink_to_fit();
            prefix.inside.clone_from(&inside);
            around.push((cidr, inside));
        }
    }

    /// The numbers of the blocks that the address lies in, in order.
    pub(crate) fn lookup(&self, addr: Addr) -> &[u32] {
        self.innermost(addr).map_or(&[], |(_, blocks)| blocks)
    }

    /// The longest prefix that any block speaks of around the address, and the blocks that contain it.
    pub(crate) fn innermost(&self, addr: Addr) -> Option<(Cidr, &[u32])> {
        self.longest(addr, 128)
    }

    /// As `innermost`, of a prefix: never itself.
    pub(crate) fn around(&self, cidr: &Cidr) -> Option<(Cidr, &[u32])> {
        self.longest(cidr.addr, cidr.bits.checked_sub(1)?)
    }

    /// Every prefix with the blocks that contain it, outer ones before inner ones.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Cidr, &[u32])> {
        self.prefixes.iter().map(|(place, prefix)| (Cidr::from_ordered(*place), prefix.inside.as_slice()))
    }

    /// As `iter`, of this prefix and those in it.
    pub(crate) fn within(&self, cidr: &Cidr) -> impl Iterator<Item = (Cidr, &[u32])> {
        let prefixes = self.prefixes.range(places_within(cidr));
        prefixes.map(|(place, prefix)| (Cidr::from_ordered(*place), prefix.inside.as_slice()))
    }

    fn longest(&self, addr: Addr, at_most: u32) -> Option<(Cidr, &[u32])> {
        self.lengths.range(Reverse(at_most)..).find_map(|(Reverse(bits), _)| {
            let cidr = Cidr::around(addr, *bits);
            self.prefixes.get(&cidr.ordered()).map(|prefix| (cidr, prefix.inside.as_slice()))
        })
    }

    /// Made where there is none.
    fn prefix(&mut self, cidr: Cidr) -> &mut Prefix {
        self.prefixes.entry(cidr.ordered()).or_insert_with(|| {
            *self.lengths.entry(Reverse(cidr.bits)).or_default() += 1;
            Prefix::default()
        })
    }

    fn forget(&mut self, cidr: Cidr) {
        self.prefixes.remove(&cidr.ordered());
        if let Some(count) = self.lengths.get_mut(&Reverse(cidr.bits)) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&Reverse(cidr.bits));
            }
        }
    }
}

impl Prefix {
    fn edge(&mut self, is_except: bool) -> &mut BTreeSet<u32> {
        if is_except { &mut self.left } else { &mut self.begun }
    }

    fn is_nobodys(&self) -> bool {
        self.begun.is_empty() && self.left.is_empty()
    }
}

/// Where a block begins and ends; what it leaves out lies in it.
fn edges(block: &Block) -> impl Iterator<Item = (Cidr, bool)> {
    let excepts = block.except.iter().map(|net| (Cidr::new(*net), true));
    std::iter::once((Cidr::new(block.cidr), false)).chain(excepts)
}

fn places_within(cidr: &Cidr) -> std::ops::RangeInclusive<Place> {
    let (first, bits) = cidr.ordered();
    (first, bits)..=(first | u128::MAX.checked_shr(bits).unwrap_or(0), 128)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    const NETS: [&str; 11] = [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.1.0/24",
        "10.1.1.1/32",
        "11.0.0.0/8",
        "::/0",
        "::/64",
        "fd00::/8",
        "fd00:1::/32",
        "fd00:1::1/128",
    ];

    fn net(text: &str) -> IpNet {
        text.parse().expect("a block of addresses")
    }

    fn block() -> impl Strategy<Value = Block> {
        (0..NETS.len(), any::<u16>()).prop_map(|(which, excepts)| {
            let cidr = net(NETS[which]);
            let parts = NETS.map(net).into_iter().filter(|part| *part != cidr && cidr.contains(part));
            let except = parts.zip(0..).filter(|(_, n)| excepts >> n & 1 == 1).map(|(part, _)| part);
            Block { cidr, except: except.collect() }
        })
    }

    fn lies_in(ip: IpAddr, block: &Block) -> bool {
        block.cidr.contains(&ip) && !block.except.iter().any(|except| except.contains(&ip))
    }

    proptest! {
        #[test]
        fn blocks_that_come_and_go_leave_what_is_there_from_the_start(
            steps in vec((vec(any::<Index>(), 0..3), vec(block(), 0..3)), 1..10),
        ) {
            let mut blocks: BTreeMap<u32, Block> = BTreeMap::new();
            let mut trie = BlockTrie::default();
            for (leaving, added) in steps {
                let leaving = leaving.into_iter().filter(|_| !blocks.is_empty());
                let leaving: BTreeSet<u32> =
                    leaving.map(|index| *index.get(&blocks.keys().copied().collect::<Vec<_>>())).collect();
                let removed: Vec<(u32, Block)> =
                    leaving.iter().map(|number| (*number, blocks.remove(number).expect("is there"))).collect();
                let free: Vec<u32> = (0..100).filter(|number| !blocks.contains_key(number)).collect();
                let added: Vec<(u32, Block)> = free.into_iter().zip(added).collect();
                blocks.extend(added.iter().cloned());

                let before = trie.clone();
                let touched =
                    trie.change(removed.iter().map(|(n, b)| (*n, b)), added.iter().map(|(n, b)| (*n, b)));
                prop_assert_eq!(&trie, &BlockTrie::new(blocks.iter().map(|(n, b)| (*n, b))));
                for ip in NETS.map(|text| net(text).broadcast()) {
                    let expected: Vec<u32> =
                        blocks.iter().filter(|(_, block)| lies_in(ip, block)).map(|(n, _)| *n).collect();
                    prop_assert_eq!(trie.lookup(ip.into()), expected, "{}", ip);
                }
                let outside = |trie: &BlockTrie| -> Vec<(Cidr, Vec<u32>)> {
                    let is_outside = |cidr: &Cidr| !touched.within.iter().any(|within| within.contains(cidr));
                    trie.iter().filter(|(cidr, _)| is_outside(cidr)).map(|(c, b)| (c, b.to_vec())).collect()
                };
                prop_assert_eq!(outside(&before), outside(&trie));
                let is_there = |cidr: &Cidr| trie.iter().any(|(other, _)| other == *cidr);
                let was_there = before.iter().map(|(cidr, _)| cidr);
                prop_assert_eq!(
                    was_there.filter(|cidr| !is_there(cidr)).collect::<BTreeSet<_>>(),
                    touched.gone.iter().copied().collect()
                );
            }
        }
    }
}
