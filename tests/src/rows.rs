//! Rule rows as the compiler would write them, for tests that are about the kernel's side only.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use common::id::{ClassId, RuleId, RuleSetId};
use common::net::Be16;
use common::rules::{RuleKey, RuleRow};
use policy::tables::{Cidr, MapOp, RulePrefix};

use crate::node::Party;

/// Row protocol of everything that has no ports.
pub const PORTLESS: u8 = 0;
pub const ANY_PORT: RangeInclusive<u16> = 0..=u16::MAX;

/// A rule that lets a class of peers pass.
pub fn allow(
    rule_set: RuleSetId,
    class: ClassId,
    protocol: u8,
    ports: RangeInclusive<u16>,
    rule: RuleId,
) -> Vec<MapOp> {
    rows(rule_set, class, protocol, ports, RuleRow { rule, action: RuleRow::ALLOW })
}

/// A rule that turns a class of peers away.
pub fn deny(
    rule_set: RuleSetId,
    class: ClassId,
    protocol: u8,
    ports: RangeInclusive<u16>,
    rule: RuleId,
) -> Vec<MapOp> {
    rows(rule_set, class, protocol, ports, RuleRow { rule, action: RuleRow::DENY })
}

/// A run of ports is a few prefixes: the largest that starts at its first port and does not go beyond its last, and so on.
fn rows(
    rule_set: RuleSetId,
    class: ClassId,
    protocol: u8,
    ports: RangeInclusive<u16>,
    row: RuleRow,
) -> Vec<MapOp> {
    let (mut first, last) = (u32::from(*ports.start()), u32::from(*ports.end()));
    let mut plan = Vec::new();
    while first <= last {
        let open_bits =
            (0..=16).rev().find(|bits| first % (1 << bits) == 0 && first + (1 << bits) - 1 <= last);
        let open_bits = open_bits.expect("one port always fits");
        let key = RuleKey { rule_set, class, protocol, zero: 0, port: Be16::new(first as u16) };
        plan.push(MapOp::PutRule(RulePrefix { key, bits: RuleKey::BITS - open_bits }, row));
        first += 1 << open_bits;
    }
    plan
}

/// Gives a pod anywhere a class, in both families.
pub fn peer(party: Party, class: ClassId) -> [MapOp; 2] {
    party.addrs().map(|addr| MapOp::PutPeer(addr, class))
}

/// Gives a block a class.
pub fn block(cidr: &str, class: ClassId) -> MapOp {
    let (ip, bits) = cidr.split_once('/').expect("ADDRESS/BITS");
    let ip: IpAddr = ip.parse().expect("an address");
    let bits: u32 = bits.parse().expect("a number of bits");
    MapOp::PutCidr(Cidr { addr: ip.into(), bits: if ip.is_ipv4() { 96 + bits } else { bits } }, class)
}
