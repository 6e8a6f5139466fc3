//! Blocks of addresses as trie prefixes: which blocks an address lies in is what its longest prefix says.

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

    fn ordered(&self) -> (u128, u32) {
        (u128::from_be_bytes(self.addr.octets()), self.bits)
    }

    fn from_ordered((number, bits): (u128, u32)) -> Self {
        Self { addr: Addr::from_octets(number.to_be_bytes()), bits }
    }

    /// `other` is this block or a part of it.
    pub fn contains(&self, other: &Self) -> bool {
        self.bits <= other.bits && Self::around(other.addr, self.bits).addr == self.addr
    }
}

/// Which of a list of blocks each address lies in.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlockTrie {
    /// For each prefix that any block speaks of, the blocks that contain all of it. In order of address as a number (the
    /// words of an [`Addr`] are not in order), then of length.
    prefixes: BTreeMap<(u128, u32), Vec<u32>>,
    /// The lengths that occur, longest first.
    lengths: Vec<u32>,
}

impl BlockTrie {
    /// `blocks` are known by the numbers beside them.
    pub(crate) fn new<'a>(blocks: impl IntoIterator<Item = (u32, &'a Block)>) -> Self {
        let mut begins: BTreeMap<(u128, u32), (Vec<u32>, BTreeSet<u32>)> = BTreeMap::new();
        for (number, block) in blocks {
            begins.entry(Cidr::new(block.cidr).ordered()).or_default().0.push(number);
            for except in &block.except {
                begins.entry(Cidr::new(*except).ordered()).or_default().1.insert(number);
            }
        }
        // `::/0` must not reach the IPv4 addresses that are mapped into it: all of IPv4 is a root of its own.
        let ipv4 = Cidr::around(Addr::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), Cidr::IPV4_BITS);
        if begins.keys().any(|key| Cidr::from_ordered(*key).contains(&ipv4) && *key != ipv4.ordered()) {
            begins.entry(ipv4.ordered()).or_default();
        }
        // In this order the innermost block around a prefix is the last one passed that contains it.
        let mut prefixes: BTreeMap<(u128, u32), Vec<u32>> = BTreeMap::new();
        let mut around: Vec<Cidr> = Vec::new();
        for (key, (begun, left)) in begins {
            let cidr = Cidr::from_ordered(key);
            while around.last().is_some_and(|outer| !outer.contains(&cidr)) {
                around.pop();
            }
            let inherited =
                around.last().filter(|_| cidr != ipv4).and_then(|outer| prefixes.get(&outer.ordered()));
            let mut inside: Vec<u32> =
                inherited.into_iter().flatten().copied().filter(|number| !left.contains(number)).collect();
            inside.extend(begun);
            inside.sort_unstable();
            prefixes.insert(key, inside);
            around.push(cidr);
        }
        let lengths: BTreeSet<u32> = prefixes.keys().map(|(_, bits)| *bits).collect();
        Self { prefixes, lengths: lengths.into_iter().rev().collect() }
    }

    /// The numbers of the blocks that the address lies in, in order.
    pub(crate) fn lookup(&self, addr: Addr) -> &[u32] {
        self.innermost(addr).map_or(&[], |(_, blocks)| blocks)
    }

    /// The longest prefix that any block speaks of around the address, and the blocks that contain it.
    pub(crate) fn innermost(&self, addr: Addr) -> Option<(Cidr, &[u32])> {
        self.lengths.iter().find_map(|bits| {
            let cidr = Cidr::around(addr, *bits);
            self.prefixes.get(&cidr.ordered()).map(|blocks| (cidr, blocks.as_slice()))
        })
    }

    /// Every prefix with the blocks that contain it, outer ones before inner ones.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Cidr, &[u32])> {
        self.prefixes.iter().map(|(key, blocks)| (Cidr::from_ordered(*key), blocks.as_slice()))
    }
}
