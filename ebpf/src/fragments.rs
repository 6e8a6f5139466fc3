//! Later fragments follow their first: it left its protocol and ports here.

use common::fragment::{FragmentKey, FragmentRow};

use crate::maps::FRAGMENTS;
use crate::packet::{Packet, fragment};

/// As long as Linux waits for the rest of a datagram.
const FRAGMENT_NS: u64 = 30_000_000_000;

/// Remembers a first fragment's protocol and ports, or gives a later one those of its first. False for a later fragment that came
/// before its first.
#[inline(never)]
pub(crate) fn resolve(packet: &mut Packet, now_ns: u64) -> bool {
    if packet.fragment == fragment::FIRST {
        remember(packet, now_ns);
        return true;
    }
    recall(packet, now_ns)
}

#[inline(always)]
fn remember(packet: &Packet, now_ns: u64) {
    let row = FragmentRow {
        expires_ns: now_ns + FRAGMENT_NS,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        protocol: packet.protocol,
        zero: [0; 3],
    };
    // An LRU makes room; where it cannot, the later fragments drop with their own reason.
    let _full = FRAGMENTS.insert(key(packet), row, 0);
}

#[inline(always)]
fn recall(packet: &mut Packet, now_ns: u64) -> bool {
    // SAFETY: rows of an LRU may be reused under us: the worst outcome is another datagram's ports, which conntrack
    // then does not know.
    match unsafe { FRAGMENTS.get(key(packet)) } {
        Some(row) if row.expires_ns >= now_ns => {
            packet.source_port = row.source_port;
            packet.destination_port = row.destination_port;
            packet.protocol = row.protocol;
            true
        }
        _ => false,
    }
}

#[inline(always)]
fn key(packet: &Packet) -> FragmentKey {
    FragmentKey {
        source: packet.source,
        destination: packet.destination,
        id: packet.fragment_id,
        protocol: if packet.source.is_v4() { packet.protocol } else { 0 },
        zero: [0; 3],
    }
}
