//! Connections: one entry each, found by both directions.

use crate::net::{Addr, Be16};

/// Key of a connection. The two ends are put in order, so that both directions of a connection find one entry; which
/// end began it is in the entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CtKey {
    pub low: Addr,
    pub high: Addr,
    pub low_port: Be16,
    pub high_port: Be16,
    pub protocol: u8,
    pub zero: [u8; 3],
}

const _: () = assert!(size_of::<CtKey>() == 40 && align_of::<CtKey>() == 4);

/// One connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CtEntry {
    /// When the entry may be forgotten: nanoseconds since boot.
    pub expires_ns: u64,
    /// The policy epoch in which the connection was last judged.
    pub epoch: u32,
    /// A sum of the `CtEntry` flags.
    pub flags: u32,
    /// The host side of the veth of each end that is an endpoint of this node, else 0.
    pub low_ifindex: u32,
    pub high_ifindex: u32,
}

const _: () = assert!(size_of::<CtEntry>() == 24 && align_of::<CtEntry>() == 8);

impl CtEntry {
    /// The end with the lower (address, port) began the connection.
    pub const FROM_LOW: u32 = 1;
    /// A packet was seen the other way.
    pub const REPLIED: u32 = 2;
    pub const FIN_FROM_LOW: u32 = 4;
    pub const FIN_FROM_HIGH: u32 = 8;
    /// TCP was reset.
    pub const RESET: u32 = 16;
    /// The first packet came through the host's stack: replies go back through it.
    pub const VIA_HOST: u32 = 32;
    /// Begun by the node itself towards its own pod.
    pub const FROM_NODE: u32 = 64;
}
