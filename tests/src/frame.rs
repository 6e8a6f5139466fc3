//! Frames as a vocabulary: what a pod, a router or a liar puts on the wire. Lengths are right unless a test bends them;
//! checksums are left out unless a kernel is to take the packet in ([`Packet::checked`]), since no program of ours reads them.

use std::net::{IpAddr, Ipv6Addr};

use common::net::protocol::{ICMP, ICMPV6, SCTP, TCP, UDP};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

pub const ETH_LEN: usize = 14;
pub const ETHERTYPE_ARP: u16 = 0x0806;

/// Kinds of IPv6 extension headers.
pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const AUTHENTICATION: u8 = 51;
pub const DESTINATION_OPTIONS: u8 = 60;

/// One direction of a conversation.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: u8,
}

pub fn tcp(source: IpAddr, destination: IpAddr, port: u16) -> Flow {
    Flow { source, destination, source_port: 40000, destination_port: port, protocol: TCP }
}

pub fn udp(source: IpAddr, destination: IpAddr, port: u16) -> Flow {
    Flow { protocol: UDP, ..tcp(source, destination, port) }
}

pub fn sctp(source: IpAddr, destination: IpAddr, port: u16) -> Flow {
    Flow { protocol: SCTP, ..tcp(source, destination, port) }
}

impl Flow {
    pub fn from_port(self, source_port: u16) -> Self {
        Self { source_port, ..self }
    }

    /// The other direction.
    pub fn back(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }

    pub fn syn(self) -> Vec<u8> {
        self.tcp_packet(SYN).frame()
    }

    pub fn syn_ack(self) -> Vec<u8> {
        self.tcp_packet(SYN | ACK).frame()
    }

    pub fn ack(self) -> Vec<u8> {
        self.tcp_packet(ACK).frame()
    }

    pub fn data(self) -> Vec<u8> {
        self.tcp_packet(PSH | ACK).frame()
    }

    pub fn fin(self) -> Vec<u8> {
        self.tcp_packet(FIN | ACK).frame()
    }

    pub fn rst(self) -> Vec<u8> {
        self.tcp_packet(RST).frame()
    }

    /// A first packet, whatever the protocol.
    pub fn frame(self) -> Vec<u8> {
        self.packet().frame()
    }

    /// A first packet, to be dressed up.
    pub fn packet(self) -> Packet {
        match self.protocol {
            TCP => self.tcp_packet(SYN),
            UDP => {
                let mut header = self.ports();
                header.extend([0, 8 + 40, 0, 0]);
                header.extend([0xaa; 40]);
                Packet::new(self.source, self.destination, UDP, header)
            }
            SCTP => {
                let mut header = self.ports();
                header.extend([0, 0, 0, 0, 0, 0, 0, 0]);
                // An INIT chunk.
                header.extend([1, 0, 0, 20]);
                header.extend([0xaa; 16]);
                Packet::new(self.source, self.destination, SCTP, header)
            }
            other => Packet::new(self.source, self.destination, other, vec![0xaa; 16]),
        }
    }

    pub fn tcp_packet(self, flags: u8) -> Packet {
        let mut header = self.ports();
        header.extend([0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        Packet::new(self.source, self.destination, TCP, header)
    }

    fn ports(self) -> Vec<u8> {
        [self.source_port.to_be_bytes(), self.destination_port.to_be_bytes()].concat()
    }
}

fn icmp_protocol(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { ICMP } else { ICMPV6 }
}

/// An ICMP message: type, code, the four bytes after the checksum, the rest.
fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8, word: [u8; 4], rest: &[u8]) -> Packet {
    let payload = [&[kind, code, 0, 0][..], &word, rest].concat();
    Packet::new(source, destination, icmp_protocol(destination), payload)
}

pub fn echo_request(source: IpAddr, destination: IpAddr, id: u16) -> Packet {
    echo(source, destination, if destination.is_ipv4() { 8 } else { 128 }, id)
}

pub fn echo_reply(source: IpAddr, destination: IpAddr, id: u16) -> Packet {
    echo(source, destination, if destination.is_ipv4() { 0 } else { 129 }, id)
}

fn echo(source: IpAddr, destination: IpAddr, kind: u8, id: u16) -> Packet {
    let [high, low] = id.to_be_bytes();
    icmp(source, destination, kind, 0, [high, low, 0, 1], &[0xaa; 32])
}

/// "Fragmentation needed" or "packet too big" about a frame, sent to the one whose packet it quotes.
pub fn too_big(router: IpAddr, frame: &[u8], quoted_source: IpAddr) -> Packet {
    let (kind, code) = if router.is_ipv4() { (3, 4) } else { (2, 0) };
    icmp(router, quoted_source, kind, code, [0, 0, 5, 0], &frame[ETH_LEN..])
}

/// "Port unreachable" about a frame.
pub fn port_unreachable(from: IpAddr, frame: &[u8], quoted_source: IpAddr) -> Packet {
    let (kind, code) = if from.is_ipv4() { (3, 3) } else { (1, 4) };
    icmp(from, quoted_source, kind, code, [0; 4], &frame[ETH_LEN..])
}

/// Neighbour discovery and multicast listener messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    MldQuery = 130,
    MldReport = 131,
    MldDone = 132,
    RouterSolicitation = 133,
    RouterAdvertisement = 134,
    NeighbourSolicitation = 135,
    NeighbourAdvertisement = 136,
    Redirect = 137,
    Mldv2Report = 143,
}

impl Discovery {
    /// As hosts send it: with the hop limit of its kind, MLD behind a router alert.
    pub fn packet(self, source: Ipv6Addr, destination: Ipv6Addr) -> Packet {
        let message = icmp(source.into(), destination.into(), self as u8, 0, [0; 4], &[0; 32]);
        match self {
            Self::MldQuery | Self::MldReport | Self::MldDone | Self::Mldv2Report => {
                message.hop_limit(1).extension(HOP_BY_HOP)
            }
            _ => message.hop_limit(255),
        }
    }
}

/// An IP packet, about to become a frame.
#[derive(Clone, Debug)]
pub struct Packet {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: Vec<u8>,
    hop_limit: u8,
    /// IPv4: words of options behind the header.
    option_words: u8,
    /// IPv4: identification, offset in units of eight, more to come.
    fragment: (u32, u16, bool),
    /// IPv6: kind and bytes (the first of which says what comes next) of each extension header, in order.
    extensions: Vec<(u8, Vec<u8>)>,
}

impl Packet {
    pub fn new(source: IpAddr, destination: IpAddr, protocol: u8, payload: Vec<u8>) -> Self {
        assert_eq!(source.is_ipv4(), destination.is_ipv4(), "one packet, one family");
        Self {
            source,
            destination,
            protocol,
            payload,
            hop_limit: 64,
            option_words: 0,
            fragment: (0, 0, false),
            extensions: Vec::new(),
        }
    }

    pub fn hop_limit(self, hop_limit: u8) -> Self {
        Self { hop_limit, ..self }
    }

    /// IPv4 options of this many words (each four no-operations).
    pub fn options(self, words: u8) -> Self {
        assert!(self.source.is_ipv4() && words <= 10, "IPv4 has room for ten words of options");
        Self { option_words: words, ..self }
    }

    /// One more IPv6 extension header behind those there are.
    pub fn extension(self, kind: u8) -> Self {
        // Two units of eight bytes; the authentication header counts in fours, less two.
        let length = if kind == AUTHENTICATION { 2 } else { 1 };
        self.extension_of(kind, length, 16)
    }

    /// One that says it has `length` and has `bytes` bytes.
    pub fn extension_of(mut self, kind: u8, length: u8, bytes: usize) -> Self {
        assert!(self.source.is_ipv6(), "IPv4 has no extension headers");
        let mut header = vec![0; bytes];
        header[1] = length;
        self.extensions.push((kind, header));
        self
    }

    /// With the checksum of its protocol, for a kernel that is to take it in. To be called before it is cut into pieces.
    pub fn checked(mut self) -> Self {
        let at = match self.protocol {
            TCP => 16,
            UDP => 6,
            ICMP | ICMPV6 => 2,
            other => panic!("protocol {other} has no checksum that we know"),
        };
        self.payload[at..at + 2].fill(0);
        let length = u32::try_from(self.payload.len()).expect("a packet is short");
        let pseudo = match (self.source, self.destination) {
            _ if self.protocol == ICMP => Vec::new(),
            (IpAddr::V4(source), IpAddr::V4(destination)) => [source.octets(), destination.octets()].concat(),
            (IpAddr::V6(source), IpAddr::V6(destination)) => [source.octets(), destination.octets()].concat(),
            _ => unreachable!("`new` lets one family in"),
        };
        let about = if pseudo.is_empty() { 0 } else { length + u32::from(self.protocol) };
        let sum = checksum(&[&pseudo[..], &about.to_be_bytes(), &self.payload].concat());
        self.payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        self
    }

    /// Only this many bytes of the payload.
    pub fn cut(mut self, length: usize) -> Self {
        self.payload.truncate(length);
        self
    }

    /// One fragment of a datagram: an IPv6 fragment header goes behind the extension headers there are.
    pub fn fragment(mut self, id: u32, offset: u16, more: bool) -> Self {
        if self.source.is_ipv6() {
            let field = (offset << 3) | u16::from(more);
            let header = [&[0, 0][..], &field.to_be_bytes(), &id.to_be_bytes()].concat();
            self.extensions.push((FRAGMENT, header));
        } else {
            self.fragment = (id, offset, more);
        }
        self
    }

    /// The datagram cut in two, 24 bytes of it in the first fragment.
    pub fn fragments(self, id: u32) -> (Vec<u8>, Vec<u8>) {
        const CUT: usize = 24;
        assert!(self.payload.len() > CUT, "the payload of {} bytes fits a fragment", self.payload.len());
        let first = Self { payload: self.payload[..CUT].to_vec(), ..self.clone() };
        let later = Self { payload: self.payload[CUT..].to_vec(), ..self };
        (first.fragment(id, 0, true).frame(), later.fragment(id, CUT as u16 / 8, false).frame())
    }

    pub fn frame(&self) -> Vec<u8> {
        let ethertype: u16 = if self.source.is_ipv4() { 0x0800 } else { 0x86dd };
        let mut frame = ethernet(ethertype, &[]);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let words = 5 + self.option_words;
                let (id, offset, more) = self.fragment;
                let length = usize::from(words) * 4 + self.payload.len();
                frame.extend([0x40 | words, 0]);
                frame.extend((length as u16).to_be_bytes());
                frame.extend((id as u16).to_be_bytes());
                frame.extend((offset | u16::from(more) << 13).to_be_bytes());
                frame.extend([self.hop_limit, self.protocol, 0, 0]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                frame.extend(vec![1; usize::from(self.option_words) * 4]);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let length: usize =
                    self.extensions.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() + self.payload.len();
                let mut kinds = self.extensions.iter().map(|(kind, _)| *kind).chain([self.protocol]);
                frame.extend([0x60, 0, 0, 0]);
                frame.extend((length as u16).to_be_bytes());
                frame.extend([kinds.next().expect("at least the protocol"), self.hop_limit]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                for ((_, bytes), next) in self.extensions.iter().zip(kinds) {
                    frame.push(next);
                    frame.extend(&bytes[1..]);
                }
            }
            _ => unreachable!("`new` lets one family in"),
        }
        frame.extend(&self.payload);
        frame
    }
}

/// A frame of any EtherType.
pub fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &ethertype.to_be_bytes(), payload].concat()
}

/// The checksum of the Internet (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or_default()
}
