//! Connections: one entry each, found by both directions, and the pure steps of their life.

use crate::net::{Addr, Be16, protocol};

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

impl CtKey {
    pub const EMPTY: Self = Self {
        low: Addr::UNSPECIFIED,
        high: Addr::UNSPECIFIED,
        low_port: Be16::new(0),
        high_port: Be16::new(0),
        protocol: 0,
        zero: [0; 3],
    };

    /// Makes `self` the key of a packet's connection; true if the packet comes from the lower end.
    ///
    /// In place: the kernel side has its keys in a map, and little stack.
    #[inline(always)]
    pub fn fill(
        &mut self,
        source: &Addr,
        destination: &Addr,
        source_port: Be16,
        destination_port: Be16,
        protocol: u8,
    ) -> bool {
        self.protocol = protocol;
        self.zero = [0; 3];
        let from_low = source_is_low(source, destination, source_port, destination_port);
        if from_low {
            self.low = *source;
            self.high = *destination;
            self.low_port = source_port;
            self.high_port = destination_port;
        } else {
            self.low = *destination;
            self.high = *source;
            self.low_port = destination_port;
            self.high_port = source_port;
        }
        from_low
    }
}

impl CtKey {
    /// Which row of a small table is this connection's, in its low 16 bits.
    #[inline(always)]
    pub fn hash(&self) -> u32 {
        Addr::mix(&self.low, &self.high, self.ports()) >> 16
    }

    /// 0 if the two are one; as [`Addr::difference`].
    #[inline(always)]
    pub fn difference(&self, other: &Self) -> u32 {
        self.low.difference(&other.low)
            | self.high.difference(&other.high)
            | (self.ports() ^ other.ports())
            | u32::from(self.protocol ^ other.protocol)
    }

    #[inline(always)]
    fn ports(&self) -> u32 {
        u32::from(self.low_port.to_host()) << 16 | u32::from(self.high_port.to_host())
    }
}

/// Any total order will do, as long as both directions agree; addresses mostly differ in their last word.
#[inline(always)]
fn source_is_low(source: &Addr, destination: &Addr, source_port: Be16, destination_port: Be16) -> bool {
    let mut word = 4;
    while word > 0 {
        word -= 1;
        if source.0[word] != destination.0[word] {
            return source.0[word] < destination.0[word];
        }
    }
    source_port.to_host() <= destination_port.to_host()
}

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
    /// Begun by the node itself towards its own pod, or by the pod towards itself by a port of the host.
    pub const FROM_NODE: u32 = 64;
    /// TCP said goodbye in both directions, or was reset: only repetitions are still to come.
    pub const CLOSED: u32 = 128;
    /// The entry stands in `CT_HALF`.
    pub const OVERFLOWED: u32 = 256;
    /// What is for the lower or the higher end takes the queue of its device, which limits it.
    pub const LIMITED_LOW: u32 = 512;
    pub const LIMITED_HIGH: u32 = 1024;

    /// The entry stands in `CT_HALF`.
    #[inline(always)]
    pub fn is_overflowed(&self) -> bool {
        self.flags & Self::OVERFLOWED != 0
    }

    /// The lower end began the connection.
    #[inline(always)]
    pub fn is_from_low(&self) -> bool {
        self.flags & Self::FROM_LOW != 0
    }
}

/// What is kept of a connection that has ended, in a table without locks: whoever hashes alike overwrites it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedRow {
    pub key: CtKey,
    pub entry: CtEntry,
    /// Follows from the other two. Halves of two rows, written by two CPUs at once, do not pass for one.
    pub check: u64,
}

const _: () = assert!(size_of::<ClosedRow>() == 72 && align_of::<ClosedRow>() == 8);

impl ClosedRow {
    /// Never 0, which is what an empty row has.
    #[inline(always)]
    pub fn check(key: &CtKey, entry: &CtEntry) -> u64 {
        let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        let ports = pair(key.ports(), u32::from(key.protocol));
        let words = [
            pair(key.low.0[0], key.low.0[1]),
            pair(key.low.0[2], key.low.0[3]),
            pair(key.high.0[0], key.high.0[1]),
            pair(key.high.0[2], key.high.0[3]),
            ports,
            entry.expires_ns,
            pair(entry.epoch, entry.flags),
            pair(entry.low_ifindex, entry.high_ifindex),
        ];
        let mut check = 0x9e37_79b9_7f4a_7c15;
        for word in words {
            check = (check ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
            check ^= check >> 32;
        }
        check | 1
    }
}

/// TCP header flags, byte 13.
pub mod tcp {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;
}

const SECOND_NS: u64 = 1_000_000_000;
/// Seen in one direction only.
pub const UNREPLIED_NS: u64 = 60 * SECOND_NS;
/// Longer than any keepalive interval in use; Linux' own default is two hours before the first probe.
pub const TCP_ESTABLISHED_NS: u64 = 6 * 3600 * SECOND_NS;
/// Both ends have sent FIN, or one a reset: long enough for a few repetitions.
pub const TCP_CLOSING_NS: u64 = 10 * SECOND_NS;
pub const UDP_REPLIED_NS: u64 = 180 * SECOND_NS;
pub const OTHER_REPLIED_NS: u64 = 300 * SECOND_NS;

/// How long an entry in this state lives after its last packet.
#[inline(always)]
pub fn lifetime_ns(protocol_number: u8, flags: u32) -> u64 {
    if flags & BOTH_FINS == BOTH_FINS || flags & CtEntry::CLOSED != 0 {
        TCP_CLOSING_NS
    } else if flags & CtEntry::REPLIED == 0 {
        UNREPLIED_NS
    } else if protocol_number == protocol::TCP {
        TCP_ESTABLISHED_NS
    } else if protocol_number == protocol::UDP {
        UDP_REPLIED_NS
    } else {
        OTHER_REPLIED_NS
    }
}

const BOTH_FINS: u32 = CtEntry::FIN_FROM_LOW | CtEntry::FIN_FROM_HIGH;

/// The flags of an entry after one more packet, from the lower end or the higher.
///
/// A connection counts as closed when it was reset, or when both ends have sent FIN and the acknowledgement of the last
/// one passes: that packet itself must still be let through as part of the connection.
#[inline(always)]
pub fn step(flags: u32, from_low: bool, protocol_number: u8, tcp_flags: u8) -> u32 {
    let from_initiator = (flags & CtEntry::FROM_LOW != 0) == from_low;
    let mut next = flags;
    if !from_initiator {
        next |= CtEntry::REPLIED;
    }
    if protocol_number == protocol::TCP {
        if tcp_flags & tcp::RST != 0 {
            next |= CtEntry::RESET | CtEntry::CLOSED;
        } else if tcp_flags & tcp::FIN != 0 {
            next |= if from_low { CtEntry::FIN_FROM_LOW } else { CtEntry::FIN_FROM_HIGH };
        } else if flags & BOTH_FINS == BOTH_FINS {
            next |= CtEntry::CLOSED;
        }
    }
    next
}

/// A SYN without ACK always starts anew, or a lingering entry of A→B would open B→A.
#[inline(always)]
pub fn starts_anew(protocol_number: u8, tcp_flags: u8) -> bool {
    protocol_number == protocol::TCP && tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn both_directions_find_one_entry() {
        for (a, b) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00:1::"), ("10.0.0.1", "10.0.0.1")] {
            let (mut there, mut back) = (CtKey::EMPTY, CtKey::EMPTY);
            let low = there.fill(&addr(a), &addr(b), 40000.into(), 80.into(), protocol::TCP);
            let high = back.fill(&addr(b), &addr(a), 80.into(), 40000.into(), protocol::TCP);
            assert_eq!(there, back);
            assert_ne!(low, high);
        }
    }

    #[test]
    fn a_connection_closes_with_the_acknowledgement_of_the_last_fin() {
        let mut flags = CtEntry::FROM_LOW;
        for (from_low, tcp_flags, closed) in [
            (false, tcp::SYN | tcp::ACK, false),
            (true, tcp::ACK, false),
            (true, tcp::FIN | tcp::ACK, false),
            (false, tcp::ACK, false),
            (false, tcp::FIN | tcp::ACK, false),
            (true, tcp::ACK, true),
        ] {
            flags = step(flags, from_low, protocol::TCP, tcp_flags);
            assert_eq!(flags & CtEntry::CLOSED != 0, closed, "{from_low} {tcp_flags:#x}");
        }
    }

    #[test]
    fn only_a_packet_the_other_way_is_a_reply() {
        assert_eq!(step(0, false, protocol::UDP, 0) & CtEntry::REPLIED, 0);
        assert_eq!(step(0, true, protocol::UDP, 0) & CtEntry::REPLIED, CtEntry::REPLIED);
    }
}
