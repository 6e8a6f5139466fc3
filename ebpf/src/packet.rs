//! Bounded parsing: a frame becomes a typed packet or a typed refusal.
//!
//! The usual packet (IPv4 without options, IPv6 without extension headers, whole, TCP or UDP) is read straight from the
//! frame; anything else goes through `bpf_skb_load_bytes`, which is slower and has no alignment or linearity to mind.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use common::net::{Addr, Be16, protocol};

pub(crate) const ETH_LEN: usize = 14;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
/// A TCP header up to its flags.
const TCP_LEN: u32 = 14;
/// How many IPv6 extension headers we walk; real packets carry at most two or three.
const MAX_EXTENSIONS: u32 = 4;

/// Where a packet stands in its datagram.
pub(crate) mod fragment {
    pub(crate) const WHOLE: u8 = 0;
    /// Offset 0, more to come: carries the ports.
    pub(crate) const FIRST: u8 = 1;
    /// Carries no ports.
    pub(crate) const LATER: u8 = 2;
}

#[derive(Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) source: Addr,
    pub(crate) destination: Addr,
    /// 0 for protocols without ports; for ICMP echo see [`echo_ports`].
    pub(crate) source_port: Be16,
    pub(crate) destination_port: Be16,
    pub(crate) protocol: u8,
    pub(crate) tcp_flags: u8,
    pub(crate) icmp_type: u8,
    pub(crate) hop_limit: u8,
    /// One of [`fragment`].
    pub(crate) fragment: u8,
    /// Identification of the datagram, as it stands in the header.
    pub(crate) fragment_id: u32,
    /// Offset of the transport header from the start of the frame.
    pub(crate) transport: u32,
    /// Where the packet ends, from the start of the frame: what is behind that is padding.
    pub(crate) end: u32,
}

impl Packet {
    /// Both ports as one word.
    #[inline(always)]
    pub(crate) fn ports(&self) -> u32 {
        let ([a, b], [c, d]) = (self.source_port.wire(), self.destination_port.wire());
        u32::from_ne_bytes([a, b, c, d])
    }
}

/// `parse` understood the packet.
pub(crate) const PARSED: u32 = 0x1_0000;
/// The packet is malformed. Any other answer of `parse` is the EtherType of something that is not IP.
pub(crate) const MALFORMED: u32 = 0x1_0001;

/// Fills `packet`, which may hold another packet's values; says whether it could.
#[inline(never)]
pub(crate) fn parse(skb: *mut __sk_buff, packet: &mut Packet) -> u32 {
    let ctx = &TcContext::new(skb);
    packet.source_port = Be16::new(0);
    packet.destination_port = Be16::new(0);
    packet.tcp_flags = 0;
    packet.icmp_type = 0;
    packet.fragment = fragment::WHOLE;
    // SAFETY: reading a field of the context that the kernel lets tc programs read; the number is in network order.
    let ethertype = u16::from_be(unsafe { (*skb).protocol } as u16);
    let understood = match ethertype {
        ETH_P_IP => {
            make_linear(ctx, ETH_LEN + IPV4_LEN + size_of::<TcpHeader>());
            ipv4(ctx, packet)
        }
        ETH_P_IPV6 => {
            make_linear(ctx, ETH_LEN + IPV6_LEN + size_of::<TcpHeader>());
            ipv6(ctx, packet)
        }
        other => return u32::from(other),
    };
    if understood { PARSED } else { MALFORMED }
}

/// Pulls as much into the frame's linear part as the direct reads need; a frame that is shorter goes the slow way.
///
/// Never more than that: of a TCP segment the kernel keeps just the headers there, and a byte of payload more would have
/// the whole head copied.
#[inline(always)]
fn make_linear(ctx: &TcContext, wanted: usize) {
    if ctx.data() + wanted > ctx.data_end() && ctx.len() as usize >= wanted {
        let _pulled = ctx.pull_data(wanted as u32);
    }
}

/// The fields stand in the order and in the byte order of the wire.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv4Header {
    version_and_words: u8,
    service: u8,
    length: u16,
    id: u16,
    fragment: u16,
    hop_limit: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6Header {
    version: u8,
    flow: [u8; 3],
    length: u16,
    next: u8,
    hop_limit: u8,
    source: Addr,
    destination: Addr,
}

/// Up to the flags.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpHeader {
    ports: [Be16; 2],
    sequence: u32,
    acknowledged: u32,
    offset: u8,
    flags: u8,
}

#[inline(always)]
fn ipv4(ctx: &TcContext, packet: &mut Packet) -> bool {
    let loaded: Ipv4Header;
    let header = match direct::<Ipv4Header>(ctx, ETH_LEN) {
        Some(header) => header,
        None => {
            let Ok(header) = ctx.load(ETH_LEN) else { return false };
            loaded = header;
            &loaded
        }
    };
    let words = header.version_and_words & 0x0f;
    if header.version_and_words >> 4 != 4 || words < 5 {
        return false;
    }
    packet.source = Addr::v4(header.source);
    packet.destination = Addr::v4(header.destination);
    packet.protocol = header.protocol;
    packet.hop_limit = header.hop_limit;
    packet.transport = ETH_LEN as u32 + u32::from(words) * 4;
    if !ends(ctx, packet, 0, u16::from_be(header.length)) || packet.transport > packet.end {
        return false;
    }
    let part = u16::from_be(header.fragment) & 0x3fff;
    if part != 0 {
        packet.fragment = if part & 0x1fff == 0 { fragment::FIRST } else { fragment::LATER };
        packet.fragment_id = u32::from(header.id);
    }
    if words == 5 && part == 0 && packet.protocol == protocol::TCP {
        return tcp(ctx, ETH_LEN + IPV4_LEN, packet);
    }
    transport(ctx.skb.skb, packet)
}

#[inline(always)]
fn ipv6(ctx: &TcContext, packet: &mut Packet) -> bool {
    let loaded: Ipv6Header;
    let header = match direct::<Ipv6Header>(ctx, ETH_LEN) {
        Some(header) => header,
        None => {
            let Ok(header) = ctx.load(ETH_LEN) else { return false };
            loaded = header;
            &loaded
        }
    };
    if header.version >> 4 != 6 {
        return false;
    }
    packet.source = header.source;
    packet.destination = header.destination;
    packet.protocol = header.next;
    packet.hop_limit = header.hop_limit;
    packet.transport = (ETH_LEN + IPV6_LEN) as u32;
    if !ends(ctx, packet, IPV6_LEN as u32, u16::from_be(header.length)) {
        return false;
    }
    match packet.protocol {
        protocol::TCP => tcp(ctx, ETH_LEN + IPV6_LEN, packet),
        protocol::UDP | protocol::SCTP | protocol::ICMPV6 => transport(ctx.skb.skb, packet),
        _ => extensions(ctx.skb.skb, packet) && transport(ctx.skb.skb, packet),
    }
}

/// Notes where the packet ends: `length` bytes behind `before` bytes of IP header. False if the frame ends earlier.
///
/// No length is the sign of a packet longer than can be said ("BIG TCP"); it fills its frame.
#[inline(always)]
fn ends(ctx: &TcContext, packet: &mut Packet, before: u32, length: u16) -> bool {
    let frame = ctx.len();
    let end = ETH_LEN as u32 + before + u32::from(length);
    packet.end = if length == 0 && frame > end + u32::from(u16::MAX) { frame } else { end };
    packet.end <= frame
}

/// Walks IPv6 extension headers up to the transport protocol, or to the payload of a later fragment.
#[inline(never)]
fn extensions(skb: *mut __sk_buff, packet: &mut Packet) -> bool {
    let ctx = &TcContext::new(skb);
    let mut walked = 0;
    while walked < MAX_EXTENSIONS {
        walked += 1;
        let next = packet.protocol;
        // Hop-by-hop, routing, fragment, authentication, destination options, mobility, HIP, shim6.
        if !matches!(next, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140) {
            return true;
        }
        if packet.transport + 8 > packet.end {
            return false;
        }
        let Ok(header) = ctx.load::<[u8; 8]>(packet.transport as usize) else { return false };
        packet.protocol = header[0];
        let units = u32::from(header[1]);
        packet.transport += match next {
            // A fragment header has no length.
            44 => 8,
            // Authentication: in units of four, beyond the first two.
            51 => (units + 2) * 4,
            // In units of eight, beyond the first.
            _ => (units + 1) * 8,
        };
        if next == 44 {
            let bits = u16::from_be_bytes([header[2], header[3]]);
            packet.fragment_id = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
            if bits >> 3 != 0 {
                packet.fragment = fragment::LATER;
                return true;
            }
            if bits & 1 != 0 {
                packet.fragment = fragment::FIRST;
            }
        }
    }
    !matches!(packet.protocol, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140)
}

/// Straight from the frame.
#[inline(always)]
fn tcp(ctx: &TcContext, at: usize, packet: &mut Packet) -> bool {
    match direct::<TcpHeader>(ctx, at) {
        Some(header) if at as u32 + TCP_LEN <= packet.end => {
            [packet.source_port, packet.destination_port] = header.ports;
            packet.tcp_flags = header.flags;
            true
        }
        _ => transport(ctx.skb.skb, packet),
    }
}

/// Ports and flags, wherever the transport header starts.
#[inline(never)]
fn transport(skb: *mut __sk_buff, packet: &mut Packet) -> bool {
    if packet.fragment == fragment::LATER {
        return true;
    }
    let ctx = &TcContext::new(skb);
    let at = packet.transport as usize;
    let has_ports = protocol::has_ports(packet.protocol);
    let is_icmp = matches!(packet.protocol, protocol::ICMP | protocol::ICMPV6);
    if !has_ports && !is_icmp {
        return true;
    }
    let least = if packet.protocol == protocol::TCP { TCP_LEN } else { 8 };
    if packet.transport + least > packet.end {
        return false;
    }
    let Ok(header) = ctx.load::<[u8; 8]>(at) else { return false };
    if has_ports {
        packet.source_port = Be16::from_wire([header[0], header[1]]);
        packet.destination_port = Be16::from_wire([header[2], header[3]]);
        if packet.protocol == protocol::TCP {
            let Ok(flags) = ctx.load::<u8>(at + 13) else { return false };
            packet.tcp_flags = flags;
        }
    } else {
        packet.icmp_type = header[0];
        let id = Be16::from_wire([header[4], header[5]]);
        (packet.source_port, packet.destination_port) = echo_ports(packet.protocol, header[0], id);
    }
    true
}

/// What stands for the ports of an ICMP message. Each `ping` is a connection of its own, from its identifier to 0: so a
/// reply is one, and a request the other way is none.
#[inline(always)]
pub(crate) fn echo_ports(protocol: u8, icmp_type: u8, id: Be16) -> (Be16, Be16) {
    match (protocol, icmp_type) {
        (protocol::ICMP, 8) | (protocol::ICMPV6, 128) => (id, Be16::new(0)),
        (protocol::ICMP, 0) | (protocol::ICMPV6, 129) => (Be16::new(0), id),
        _ => (Be16::new(0), Be16::new(0)),
    }
}

/// A header at a fixed place of the frame's linear part.
///
/// The kernel puts IP headers on a four-byte boundary (`NET_IP_ALIGN`), and the verifier insists on it where the
/// processor does: so words are read as words, and not byte by byte.
#[inline(always)]
fn direct<T>(ctx: &TcContext, at: usize) -> Option<&T> {
    let start = ctx.data() + at;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the bounds were checked on the line above, alignment as said; any bytes are a header.
    Some(unsafe { &*(start as *const T) })
}
