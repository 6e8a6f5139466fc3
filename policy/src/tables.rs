//! Typed, ordered contents of every map of one node.
//!
//! Ordered, so that two tables print, compare and differ in the same way each time. The kernel's maps hold exactly
//! these rows; `dataplane` copies them and knows nothing of their meaning.

use std::collections::BTreeMap;

use common::endpoint::EndpointRow;
use common::id::ClassId;
use common::net::Addr;
use common::rules::{RuleKey, RuleRow};
use common::service::{BackendKey, BackendRow, ServiceKey, ServiceRow};

/// What the maps of one node hold, or must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// The pods of this node, one row per address.
    pub endpoints: BTreeMap<Addr, EndpointRow>,
    /// Pods anywhere whose class is not that of the CIDR they lie in.
    pub peers: BTreeMap<Addr, ClassId>,
    pub cidrs: BTreeMap<Cidr, ClassId>,
    pub rules: BTreeMap<RulePrefix, RuleRow>,
    pub services: BTreeMap<ServiceKey, ServiceRow>,
    pub backends: BTreeMap<BackendKey, BackendRow>,
}

/// A block of addresses; IPv4 is mapped, so `10.0.0.0/8` has 104 bits.
///
/// Invariant: `bits <= 128`, and the bits of `addr` beyond it are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    pub addr: Addr,
    pub bits: u32,
}

/// A run of ports of one (rule set, class, protocol).
///
/// Invariant: `RuleKey::BITS_ANY_PORT <= bits <= RuleKey::BITS`, and the port's bits beyond it are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RulePrefix {
    pub key: RuleKey,
    pub bits: u32,
}

/// One write to one map. Each is atomic in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapOp {
    PutEndpoint(Addr, EndpointRow),
    RemoveEndpoint(Addr),
    PutPeer(Addr, ClassId),
    RemovePeer(Addr),
    PutCidr(Cidr, ClassId),
    RemoveCidr(Cidr),
    PutRule(RulePrefix, RuleRow),
    RemoveRule(RulePrefix),
    PutService(ServiceKey, ServiceRow),
    RemoveService(ServiceKey),
    PutBackend(BackendKey, BackendRow),
    RemoveBackend(BackendKey),
    /// Live connections are judged once more, at their next packet.
    AdvanceEpoch,
}

impl Tables {
    /// Carries out one write.
    pub fn apply(&mut self, op: &MapOp) {
        match *op {
            MapOp::PutEndpoint(addr, row) => drop(self.endpoints.insert(addr, row)),
            MapOp::RemoveEndpoint(addr) => drop(self.endpoints.remove(&addr)),
            MapOp::PutPeer(addr, class) => drop(self.peers.insert(addr, class)),
            MapOp::RemovePeer(addr) => drop(self.peers.remove(&addr)),
            MapOp::PutCidr(cidr, class) => drop(self.cidrs.insert(cidr, class)),
            MapOp::RemoveCidr(cidr) => drop(self.cidrs.remove(&cidr)),
            MapOp::PutRule(prefix, row) => drop(self.rules.insert(prefix, row)),
            MapOp::RemoveRule(prefix) => drop(self.rules.remove(&prefix)),
            MapOp::PutService(key, row) => drop(self.services.insert(key, row)),
            MapOp::RemoveService(key) => drop(self.services.remove(&key)),
            MapOp::PutBackend(key, row) => drop(self.backends.insert(key, row)),
            MapOp::RemoveBackend(key) => drop(self.backends.remove(&key)),
            MapOp::AdvanceEpoch => {}
        }
    }
}
