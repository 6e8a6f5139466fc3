//! Bounded parsing: a frame becomes a typed packet or a typed refusal.
//!
//! The usual packet (IPv4 without options, IPv6 without extension headers, whole, TCP or UDP) is read straight from the
//! frame; anything else is copied out of it, which is slower and has no alignment or linearity to mind.
//!
//! The kernel programs parse a socket buffer (`ebpf/src/packet.rs`), tests and fuzzers a [`Memory`]: the source is one.

use crate::net::{Addr, Be16, protocol};

/// The Ethernet header's.
pub const ETH_LEN: usize = 14;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
/// A TCP header up to its flags.
const TCP_LEN: u32 = 14;
/// How many IPv6 extension headers we walk; real packets carry at most two or three.
const MAX_EXTENSIONS: u32 = 4;

/// What the parser needs of a frame.
///
/// Copied like the pointer that it is in the kernel.
pub trait Frame: Copy {
    /// In host byte order; of a frame that has one.
    fn ethertype(self) -> u16;

    /// Bytes, headers included.
    fn size(self) -> u32;

    /// Pulls the first bytes to where [`direct`](Self::direct) finds them, if the frame has so many.
    fn make_linear(self, wanted: usize);

    /// A header at a fixed place of the frame's linear part.
    fn direct<T: Wire>(&self, at: usize) -> Option<&T>;

    /// A copy of what stands anywhere in the frame.
    fn load<T: Wire>(self, at: usize) -> Option<T>;
}

/// What can be read from a frame.
///
/// # Safety
///
/// Any bytes are a value.
pub unsafe trait Wire: Copy {}

// SAFETY: integers, and arrays of them.
unsafe impl Wire for u8 {}
// SAFETY: as above.
unsafe impl<const N: usize> Wire for [u8; N] {}
// SAFETY: `repr(C)` of integers, and of arrays of them.
unsafe impl Wire for Ipv4Header {}
// SAFETY: as above.
unsafe impl Wire for Ipv6Header {}
// SAFETY: as above.
unsafe impl Wire for TcpHeader {}

/// Where a packet stands in its datagram.
pub mod fragment {
    /// The whole of it.
    pub const WHOLE: u8 = 0;
    /// Offset 0, more to come: carries the ports.
    pub const FIRST: u8 = 1;
    /// Carries no ports.
    pub const LATER: u8 = 2;
}

/// What the programs know of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    pub source: Addr,
    pub destination: Addr,
    /// 0 for protocols without ports; for ICMP echo see [`echo_ports`].
    pub source_port: Be16,
    pub destination_port: Be16,
    /// As in the IP header, or in the last extension header.
    pub protocol: u8,
    pub tcp_flags: u8,
    pub icmp_type: u8,
    pub hop_limit: u8,
    /// One of [`fragment`].
    pub fragment: u8,
    /// Identification of the datagram, as it stands in the header; of a fragment only.
    pub fragment_id: u32,
    /// Offset of the transport header from the start of the frame.
    pub transport: u32,
    /// Where the packet ends, from the start of the frame: what is behind that is padding.
    pub end: u32,
}

impl Packet {
    /// Both ports as one word.
    #[inline(always)]
    pub fn ports(&self) -> u32 {
        let ([a, b], [c, d]) = (self.source_port.wire(), self.destination_port.wire());
        u32::from_ne_bytes([a, b, c, d])
    }
}

/// `parse` understood the packet.
pub const PARSED: u32 = 0x1_0000;
/// The packet is malformed. Any other answer of `parse` is the EtherType of something that is not IP.
pub const MALFORMED: u32 = 0x1_0001;

/// Fills `packet`, which may hold another packet's values; says whether it could.
#[inline(never)]
pub fn parse<F: Frame>(frame: F, packet: &mut Packet) -> u32 {
    packet.source_port = Be16::new(0);
    packet.destination_port = Be16::new(0);
    packet.tcp_flags = 0;
    packet.icmp_type = 0;
    packet.fragment = fragment::WHOLE;
    // Never more than this: of a TCP segment the kernel keeps just the headers in the linear part, and a byte of payload
    // more would have the whole head copied.
    let understood = match frame.ethertype() {
        ETH_P_IP => {
            frame.make_linear(ETH_LEN + IPV4_LEN + size_of::<TcpHeader>());
            ipv4(frame, packet)
        }
        ETH_P_IPV6 => {
            frame.make_linear(ETH_LEN + IPV6_LEN + size_of::<TcpHeader>());
            ipv6(frame, packet)
        }
        other => return u32::from(other),
    };
    if understood { PARSED } else { MALFORMED }
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
fn ipv4<F: Frame>(frame: F, packet: &mut Packet) -> bool {
    let loaded: Ipv4Header;
    let header = match frame.direct::<Ipv4Header>(ETH_LEN) {
        Some(header) => header,
        None => {
            let Some(header) = frame.load(ETH_LEN) else { return false };
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
    if !ends(frame, packet, 0, u16::from_be(header.length)) || packet.transport > packet.end {
        return false;
    }
    let part = u16::from_be(header.fragment) & 0x3fff;
    if part != 0 {
        packet.fragment = if part & 0x1fff == 0 { fragment::FIRST } else { fragment::LATER };
        packet.fragment_id = u32::from(header.id);
    }
    if words == 5 && part == 0 && packet.protocol == protocol::TCP {
        return tcp(frame, ETH_LEN + IPV4_LEN, packet);
    }
    transport(frame, packet)
}

#[inline(always)]
fn ipv6<F: Frame>(frame: F, packet: &mut Packet) -> bool {
    let loaded: Ipv6Header;
    let header = match frame.direct::<Ipv6Header>(ETH_LEN) {
        Some(header) => header,
        None => {
            let Some(header) = frame.load(ETH_LEN) else { return false };
            loaded = header;
            &loaded
        }
    };
    if header.version >> 4 != 6 {
        return false;
    }
    packet.source = header.source;
    packet.destination = header.destination;
    // To everybody behind the parser these are IPv4: no packet may borrow the rights of an IPv4 address.
    if packet.source.is_v4() || packet.destination.is_v4() {
        return false;
    }
    packet.protocol = header.next;
    packet.hop_limit = header.hop_limit;
    packet.transport = (ETH_LEN + IPV6_LEN) as u32;
    if !ends(frame, packet, IPV6_LEN as u32, u16::from_be(header.length)) {
        return false;
    }
    match packet.protocol {
        protocol::TCP => tcp(frame, ETH_LEN + IPV6_LEN, packet),
        protocol::UDP | protocol::SCTP | protocol::ICMPV6 => transport(frame, packet),
        _ => extensions(frame, packet) && transport(frame, packet),
    }
}

/// Notes where the packet ends: `length` bytes behind `before` bytes of IP header. False if the frame ends earlier.
///
/// No length is the sign of a packet longer than can be said ("BIG TCP"); it fills its frame.
#[inline(always)]
fn ends<F: Frame>(frame: F, packet: &mut Packet, before: u32, length: u16) -> bool {
    let size = frame.size();
    let end = ETH_LEN as u32 + before + u32::from(length);
    packet.end = if length == 0 && size > end + u32::from(u16::MAX) { size } else { end };
    packet.end <= size
}

/// Walks IPv6 extension headers up to the transport protocol, or to the payload of a later fragment.
#[inline(never)]
fn extensions<F: Frame>(frame: F, packet: &mut Packet) -> bool {
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
        let Some(header) = frame.load::<[u8; 8]>(packet.transport as usize) else { return false };
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
        if packet.transport > packet.end {
            return false;
        }
        if next == 44 {
            let bits = u16::from_be_bytes([header[2], header[3]]);
            let id = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
            if bits >> 3 != 0 {
                packet.fragment = fragment::LATER;
                packet.fragment_id = id;
                return true;
            }
            // A header that cuts nothing off (RFC 6946) has no say in whose first fragment this is.
            if bits & 1 != 0 {
                packet.fragment = fragment::FIRST;
                packet.fragment_id = id;
            }
        }
    }
    !matches!(packet.protocol, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140)
}

/// Straight from the frame.
#[inline(always)]
fn tcp<F: Frame>(frame: F, at: usize, packet: &mut Packet) -> bool {
    match frame.direct::<TcpHeader>(at) {
        Some(header) if at as u32 + TCP_LEN <= packet.end => {
            [packet.source_port, packet.destination_port] = header.ports;
            packet.tcp_flags = header.flags;
            true
        }
        _ => transport(frame, packet),
    }
}

/// Ports and flags, wherever the transport header starts.
#[inline(never)]
fn transport<F: Frame>(frame: F, packet: &mut Packet) -> bool {
    if packet.fragment == fragment::LATER {
        return true;
    }
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
    let Some(header) = frame.load::<[u8; 8]>(at) else { return false };
    if has_ports {
        packet.source_port = Be16::from_wire([header[0], header[1]]);
        packet.destination_port = Be16::from_wire([header[2], header[3]]);
        if packet.protocol == protocol::TCP {
            let Some(flags) = frame.load::<u8>(at + 13) else { return false };
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
pub fn echo_ports(protocol: u8, icmp_type: u8, id: Be16) -> (Be16, Be16) {
    match (protocol, icmp_type) {
        (protocol::ICMP, 8) | (protocol::ICMPV6, 128) => (id, Be16::new(0)),
        (protocol::ICMP, 0) | (protocol::ICMPV6, 129) => (Be16::new(0), id),
        _ => (Be16::new(0), Be16::new(0)),
    }
}

/// A frame in a program's own memory.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'a> {
    frame: &'a [u8],
    linear: usize,
}

impl<'a> Memory<'a> {
    /// From the Ethernet header on; only the first `linear` bytes, if the frame has so many, can be read directly.
    ///
    /// What is not aligned for a direct read is copied like the rest. The kernel has IP headers at multiples of four.
    pub fn new(frame: &'a [u8], linear: usize) -> Self {
        Self { frame, linear: linear.min(frame.len()) }
    }
}

impl Frame for Memory<'_> {
    fn ethertype(self) -> u16 {
        self.load(ETH_LEN - 2).map_or(0, u16::from_be_bytes)
    }

    fn size(self) -> u32 {
        u32::try_from(self.frame.len()).unwrap_or(u32::MAX)
    }

    /// The linear part stays as its owner wants it: what is parsed must not depend on it.
    fn make_linear(self, _wanted: usize) {}

    fn direct<T: Wire>(&self, at: usize) -> Option<&T> {
        let bytes = self.frame[..self.linear].get(at..)?.get(..size_of::<T>())?;
        let header = bytes.as_ptr().cast::<T>();
        // SAFETY: within the slice, aligned, and any bytes are a `Wire`.
        header.is_aligned().then(|| unsafe { &*header })
    }

    fn load<T: Wire>(self, at: usize) -> Option<T> {
        let bytes = self.frame.get(at..)?.get(..size_of::<T>())?;
        // SAFETY: within the slice, and any bytes are a `Wire`.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }
}
