//! ICMP errors about a connection: they carry the packet that caused them.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use common::conntrack::CtKey;
use common::net::{Addr, Be16, protocol};

use crate::connections;
use crate::packet::echo_ports;
use crate::sighting::Sighting;

/// Whether the packet is an ICMP error about a live connection, sent to the end whose packet it quotes. The flags of that
/// connection's entry are then in `sighting.entry`.
#[inline(never)]
pub(crate) fn is_related(skb: *mut __sk_buff, sighting: &mut Sighting) -> bool {
    let packet = &sighting.packet;
    let at = packet.transport as usize + 8;
    let found = match (packet.protocol, packet.icmp_type) {
        // Unreachable (with it: fragmentation needed), time exceeded, parameter problem.
        (protocol::ICMP, 3 | 11 | 12) => quoted_v4(skb, at, sighting),
        // Unreachable, packet too big, time exceeded, parameter problem.
        (protocol::ICMPV6, 1..=4) => quoted_v6(skb, at, sighting),
        _ => return false,
    };
    if !found || sighting.quoted_source.difference(&sighting.packet.destination) != 0 {
        return false;
    }
    let Some(entry) = connections::find(&sighting.quoted, &mut sighting.entry, sighting.now_ns) else {
        return false;
    };
    // SAFETY: entries are freed only after an RCU grace period.
    sighting.entry.flags = unsafe { (*entry).flags };
    true
}

#[inline(always)]
fn quoted_v4(skb: *mut __sk_buff, at: usize, sighting: &mut Sighting) -> bool {
    let Ok(header) = TcContext::new(skb).load::<[u8; 20]>(at) else { return false };
    let words = header[0] & 0x0f;
    if header[0] >> 4 != 4 || words < 5 {
        return false;
    }
    let word = |i: usize| u32::from_ne_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
    sighting.quoted_source = Addr::v4(word(12));
    let destination = Addr::v4(word(16));
    quoted(skb, at + usize::from(words) * 4, header[9], &destination, sighting)
}

#[inline(always)]
fn quoted_v6(skb: *mut __sk_buff, at: usize, sighting: &mut Sighting) -> bool {
    let Ok(header) = TcContext::new(skb).load::<[u8; 40]>(at) else { return false };
    if header[0] >> 4 != 6 {
        return false;
    }
    let word = |i: usize| u32::from_ne_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
    sighting.quoted_source = Addr([word(8), word(12), word(16), word(20)]);
    let destination = Addr([word(24), word(28), word(32), word(36)]);
    quoted(skb, at + 40, header[6], &destination, sighting)
}

#[inline(always)]
fn quoted(skb: *mut __sk_buff, at: usize, protocol: u8, destination: &Addr, sighting: &mut Sighting) -> bool {
    let Ok(header) = TcContext::new(skb).load::<[u8; 8]>(at) else { return false };
    let port = |i: usize| Be16::from_wire([header[i], header[i + 1]]);
    let (source_port, destination_port) = if protocol::has_ports(protocol) {
        (port(0), port(2))
    } else if matches!(protocol, protocol::ICMP | protocol::ICMPV6) {
        echo_ports(protocol, header[0], port(4))
    } else {
        Default::default()
    };
    CtKey::fill(
        &mut sighting.quoted,
        &sighting.quoted_source,
        destination,
        source_port,
        destination_port,
        protocol,
    );
    true
}
