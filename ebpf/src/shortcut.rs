//! A shortcut for connections that flow: what was decided for the last packet of the same kind, for a moment.
//!
//! A small table of this CPU's own, in front of conntrack: one slot per packet direction of a connection, found by a cheap
//! hash, overwritten by whoever hashes alike. It saves the lookup of the connection, and on the way out of the node the
//! lookup of the route. It answers for 200 ms at most: by then conntrack must see that the connection lives, and the
//! kernel's routes may have changed. A new policy epoch empties it at once; packets that open or close a connection never
//! take it, and a FIN takes it away from those behind it. (On another CPU it may live on for its 200 ms: the entry of the
//! connection then is not gone with its last packet, but ten seconds later.)

use common::conntrack::tcp;
use common::net::{Addr, protocol};
use common::verdict::PassReason;

use crate::maps::SHORTCUTS;
use crate::packet::{Packet, fragment};
use crate::route::Hop;
use crate::sighting::Sighting;
use crate::verdict::Verdict;

/// A power of two: enough for the connections that send at the same time.
pub(crate) const SLOTS: u32 = 256;
pub(crate) const LIFETIME_NS: u64 = 200_000_000;

pub(crate) struct Shortcut {
    source: Addr,
    destination: Addr,
    ports: u32,
    /// The device at whose hook the packet was met.
    ifindex: u32,
    epoch: u32,
    protocol: u8,
    hook: u8,
    /// A packet whose frames are longer must ask the routes again: it may not fit.
    longest: u16,
    until_ns: u64,
    verdict: Verdict,
    hop: Hop,
}

/// The verdict of an earlier packet, [`Verdict::NONE`] if there is none that holds.
#[inline(always)]
pub(crate) fn follow(sighting: &mut Sighting) -> Verdict {
    sighting.learns = u8::from(applies(sighting));
    if sighting.learns == 0 {
        return Verdict::NONE;
    }
    let Some(slot) = SHORTCUTS.get_ptr(slot_of(&sighting.packet)) else { return Verdict::NONE };
    // SAFETY: a slot of this CPU's own; programs of tc run with bottom halves off.
    let slot = unsafe { &*slot };
    let packet = &sighting.packet;
    // One branch for all: the verifier follows every way through the program from here on.
    let difference = slot.source.difference(&packet.source)
        | slot.destination.difference(&packet.destination)
        | (slot.epoch ^ sighting.epoch)
        | (slot.ifindex ^ sighting.ifindex)
        | (slot.ports ^ packet.ports())
        | u32::from((slot.protocol ^ packet.protocol) | (slot.hook ^ sighting.hook));
    if difference != 0 || slot.until_ns < sighting.now_ns || slot.longest < sighting.frame {
        return Verdict::NONE;
    }
    sighting.learns = 0;
    sighting.hop = slot.hop;
    slot.verdict
}

/// Remembers the verdict on an established packet, and its way out.
#[inline(always)]
pub(crate) fn learn(sighting: &Sighting, verdict: Verdict) {
    if sighting.learns == 0 || verdict.reason() != PassReason::Established as u8 {
        return;
    }
    let Some(slot) = SHORTCUTS.get_ptr_mut(slot_of(&sighting.packet)) else { return };
    let packet = &sighting.packet;
    // SAFETY: as in `follow`.
    unsafe {
        (*slot).source = packet.source;
        (*slot).destination = packet.destination;
        (*slot).ports = packet.ports();
        (*slot).ifindex = sighting.ifindex;
        (*slot).epoch = sighting.epoch;
        (*slot).protocol = packet.protocol;
        (*slot).hook = sighting.hook;
        (*slot).longest = sighting.frame;
        (*slot).until_ns = sighting.now_ns + LIFETIME_NS;
        (*slot).verdict = verdict;
        (*slot).hop = sighting.hop;
    }
}

/// A connection is about to end: its last packets must be seen, whichever way they go.
#[inline(always)]
pub(crate) fn close(sighting: &Sighting) {
    if sighting.packet.tcp_flags & tcp::FIN == 0 {
        return;
    }
    let packet = &sighting.packet;
    for (source, destination, ports) in [
        (&packet.source, &packet.destination, packet.ports()),
        (&packet.destination, &packet.source, packet.ports().rotate_left(16)),
    ] {
        if let Some(slot) = SHORTCUTS.get_ptr_mut(slot(source, destination, ports)) {
            // SAFETY: as in `follow`. Another connection that hashes alike just learns again.
            unsafe { (*slot).until_ns = 0 };
        }
    }
}

/// Whole packets of protocols with ports, in the middle of their connection.
#[inline(always)]
fn applies(sighting: &Sighting) -> bool {
    let packet = &sighting.packet;
    packet.fragment == fragment::WHOLE
        && protocol::has_ports(packet.protocol)
        && packet.tcp_flags & (tcp::SYN | tcp::FIN | tcp::RST) == 0
}

#[inline(always)]
fn slot_of(packet: &Packet) -> u32 {
    slot(&packet.source, &packet.destination, packet.ports())
}

#[inline(always)]
fn slot(source: &Addr, destination: &Addr, ports: u32) -> u32 {
    // The order of the ends counts, so each direction has a slot.
    Addr::mix(source, destination, ports) >> 24 & (SLOTS - 1)
}
