//! A second parser, from the RFCs and without a thought for speed: what a frame says, and whether it may say it.
//!
//! It shares nothing with `common::packet` but the numbers of protocols.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::net::protocol::{ICMP, ICMPV6, SCTP, TCP, UDP};

const ETHERNET: usize = 14;
/// As many IPv6 extension headers as the programs promise to walk.
const DEEPEST: usize = 4;

/// Which part of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// With the identification of the datagram.
    First(u32),
    Later(u32),
}

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    /// Of ICMP echo the identifier stands in for the port of the end that asks; else 0 where there are no ports.
    pub source_port: u16,
    pub destination_port: u16,
    pub tcp_flags: u8,
    pub icmp_type: u8,
    pub hop_limit: u8,
    pub part: Part,
    /// Where the transport header is, and where the packet ends.
    pub transport: usize,
    pub end: usize,
}

/// Why it says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// With its EtherType.
    NotIp(u16),
    Malformed,
}

/// Reads a frame. Frames have an Ethernet header.
pub fn read(frame: &[u8]) -> Result<Said, Silence> {
    let ethertype = number(frame, 12).ok_or(Silence::Malformed)?;
    let said = match ethertype {
        0x0800 => ipv4(frame),
        0x86dd => ipv6(frame),
        other => return Err(Silence::NotIp(other)),
    };
    said.ok_or(Silence::Malformed)
}

/// Source, destination, protocol and ports of the packet that the ICMP error `said` quotes, so far as it quotes it.
pub fn quoted(frame: &[u8], said: &Said) -> Option<Said> {
    let packet = frame.get(said.transport + 8..said.end)?;
    let is_v4 = match (said.protocol, said.icmp_type) {
        (ICMP, 3 | 11 | 12) => true,
        (ICMPV6, 1..=4) => false,
        _ => return None,
    };
    let (source, destination, protocol, header) = if is_v4 {
        let words = packet.first().filter(|byte| *byte >> 4 == 4)? & 15;
        if words < 5 {
            return None;
        }
        (v4(packet, 12)?, v4(packet, 16)?, *packet.get(9)?, usize::from(words) * 4)
    } else {
        packet.first().filter(|byte| *byte >> 4 == 6)?;
        (v6(packet, 8)?, v6(packet, 24)?, *packet.get(6)?, 40)
    };
    let inner = packet.get(header..header + 8)?;
    let mut quoted = Said { source, destination, protocol, ..*said };
    (quoted.source_port, quoted.destination_port) = ports(protocol, inner)?;
    Some(quoted)
}

fn ipv4(frame: &[u8]) -> Option<Said> {
    let packet = frame.get(ETHERNET..)?;
    let first = *packet.first()?;
    let (version, header) = (first >> 4, usize::from(first & 15) * 4);
    let total = usize::from(number(packet, 2)?);
    // Longer than can be said: the length is 0, and the packet fills its frame ("BIG TCP").
    let total = if total == 0 && packet.len() > 0xffff { packet.len() } else { total };
    if version != 4 || header < 20 || packet.len() < 20 || total < header || total > packet.len() {
        return None;
    }
    let id = u32::from(number_as_it_stands(packet, 4)?);
    let (offset, more) = (number(packet, 6)? & 0x1fff, number(packet, 6)? & 0x2000 != 0);
    let part = match (offset, more) {
        (0, false) => Part::Whole,
        (0, true) => Part::First(id),
        _ => Part::Later(id),
    };
    let said = Said {
        source: v4(packet, 12)?,
        destination: v4(packet, 16)?,
        protocol: packet[9],
        hop_limit: packet[8],
        part,
        ..nothing(ETHERNET + header, ETHERNET + total)
    };
    with_transport(said, frame)
}

fn ipv6(frame: &[u8]) -> Option<Said> {
    let packet = frame.get(ETHERNET..)?;
    let payload = usize::from(number(packet, 4)?);
    let (source, destination) = (v6(packet, 8)?, v6(packet, 24)?);
    if [source, destination].iter().any(is_mapped) {
        return None;
    }
    let room = packet.len().checked_sub(40)?;
    let payload = if payload == 0 && room > 0xffff { room } else { payload };
    if packet[0] >> 4 != 6 || payload > room {
        return None;
    }
    let (mut at, end) = (40, 40 + payload);
    let (mut protocol, mut part) = (packet[6], Part::Whole);
    for depth in 0.. {
        if !is_extension(protocol) {
            break;
        }
        let header = packet.get(at..at + 8).filter(|_| at + 8 <= end && depth < DEEPEST)?;
        let kind = std::mem::replace(&mut protocol, header[0]);
        let units = usize::from(header[1]);
        at += match kind {
            44 => 8,
            51 => 8 + units * 4,
            _ => 8 + units * 8,
        };
        if kind == 44 {
            let field = number(header, 2)?;
            let id = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
            if field >> 3 != 0 {
                part = Part::Later(id);
                break;
            }
            if field & 1 != 0 {
                part = Part::First(id);
            }
        }
    }
    // The last header may lie about its length, too.
    if at > end {
        return None;
    }
    let said = Said {
        source,
        destination,
        protocol,
        hop_limit: packet[7],
        part,
        ..nothing(ETHERNET + at, ETHERNET + end)
    };
    with_transport(said, frame)
}

/// An IPv4 address in an IPv6 header would be taken for the IPv4 address.
fn is_mapped(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

fn is_extension(protocol: u8) -> bool {
    [0, 43, 44, 51, 60, 135, 139, 140].contains(&protocol)
}

fn nothing(transport: usize, end: usize) -> Said {
    Said {
        source: Ipv4Addr::UNSPECIFIED.into(),
        destination: Ipv4Addr::UNSPECIFIED.into(),
        protocol: 0,
        source_port: 0,
        destination_port: 0,
        tcp_flags: 0,
        icmp_type: 0,
        hop_limit: 0,
        part: Part::Whole,
        transport,
        end,
    }
}

/// A later fragment has no transport header; what has one has enough of it.
fn with_transport(mut said: Said, frame: &[u8]) -> Option<Said> {
    let needed = match said.protocol {
        TCP => 14,
        UDP | SCTP | ICMP | ICMPV6 => 8,
        _ => return Some(said),
    };
    if matches!(said.part, Part::Later(_)) {
        return Some(said);
    }
    let header = frame.get(said.transport..said.end)?.get(..needed)?;
    (said.source_port, said.destination_port) = ports(said.protocol, header)?;
    match said.protocol {
        TCP => said.tcp_flags = header[13],
        ICMP | ICMPV6 => said.icmp_type = header[0],
        _ => {}
    }
    Some(said)
}

fn ports(protocol: u8, header: &[u8]) -> Option<(u16, u16)> {
    let id = number(header, 4)?;
    Some(match (protocol, header[0]) {
        (TCP | UDP | SCTP, _) => (number(header, 0)?, number(header, 2)?),
        (ICMP, 8) | (ICMPV6, 128) => (id, 0),
        (ICMP, 0) | (ICMPV6, 129) => (0, id),
        _ => (0, 0),
    })
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn number_as_it_stands(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn v4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets).into())
}

fn v6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(octets).into())
}
