//! Between nodes: which node pods and addresses are behind, and the headers around a packet that goes through the overlay.
//!
//! The overlay is VXLAN (RFC 7348) as everybody speaks it. Headers are laid out here as 16-bit words of the wire, so that the
//! kernel side writes them with one copy and tests can read them.

use crate::net::{Addr, Be16, protocol};

/// Value of a `TUNNELS` row; the key is a block of addresses (128 bits, IPv4 mapped).
///
/// There is a row for each pod CIDR of another node and for each address of a node, this one's too.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelRow {
    /// A row of `NODES`; 0 is this node.
    pub node: u32,
    /// A sum of the `TunnelRow` flags.
    pub flags: u32,
}

const _: () = assert!(size_of::<TunnelRow>() == 8 && align_of::<TunnelRow>() == 4);

impl TunnelRow {
    /// What is sent there goes through the overlay. Without it the row only says from whom its packets may come.
    pub const BEHIND: u32 = 1;
    /// An address of a node itself.
    pub const NODE: u32 = 2;
}

/// Value of a `NODES` row: the two ends of a tunnel, of one family. Row 0 stays empty.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeRow {
    /// This node's address.
    pub local: Addr,
    /// The other's.
    pub remote: Addr,
    /// The longest packet that fits through, from its IP header on.
    pub mtu: u32,
}

const _: () = assert!(size_of::<NodeRow>() == 36 && align_of::<NodeRow>() == 4);

/// Both ends of the inner Ethernet header are the same everywhere: nothing reads them but a VXLAN device, which wants its own
/// address as the destination and another one as the source.
pub const DEVICE_MAC: [u8; 6] = [0x02, 0x00, 0x77, 0x65, 0x69, 0x76];
/// See [`DEVICE_MAC`].
pub const SENDER_MAC: [u8; 6] = [0x02, 0x00, 0x77, 0x65, 0x69, 0x72];

const UDP_LEN: u32 = 8;
/// Flags, and the VNI.
pub const VXLAN_LEN: u32 = 8;
const ETH_LEN: u32 = 14;
/// From the outer UDP header to the inner IP header.
pub const SHIM_LEN: u32 = UDP_LEN + VXLAN_LEN + ETH_LEN;
const IPV4_LEN: u32 = 20;
const IPV6_LEN: u32 = 40;
const TTL: u16 = 64;

/// The header bytes before the inner IP header: 50 or 70.
#[inline(always)]
pub const fn overhead(outer_is_v4: bool) -> u32 {
    SHIM_LEN + if outer_is_v4 { IPV4_LEN } else { IPV6_LEN }
}

/// What the outer headers say.
#[derive(Clone, Copy, Debug)]
pub struct Outer<'a> {
    pub node: &'a NodeRow,
    pub vni: u32,
    pub port: u16,
    /// Tells flows apart, for whoever spreads load along the way.
    pub hash: u32,
    /// The last two bits of the inner traffic class.
    pub ecn: u8,
    /// Identification, of IPv4: a router on the way may cut the packet in pieces.
    pub id: u16,
    /// Bytes from the inner IP header on.
    pub inner_len: u32,
    pub inner_is_v4: bool,
}

/// Outer IP, UDP and VXLAN header and the inner Ethernet header; room for the longer of the two kinds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers(pub [u16; 35]);

const _: () = assert!(size_of::<Headers>() == overhead(false) as usize);

impl Headers {
    pub const EMPTY: Self = Self([0; 35]);

    /// Fills in the first [`overhead`] bytes. In place: the kernel side has them in a map, and little stack.
    ///
    /// The UDP checksum is left out: over IPv4 that is VXLAN's default; over IPv6 RFC 6935 and 6936 let tunnels do so, since what
    /// is inside has its own, and a wrong outer address does not match the inner source.
    #[inline(always)]
    pub fn fill(&mut self, outer: &Outer<'_>) {
        let words = &mut self.0;
        let len = outer.inner_len + SHIM_LEN;
        if outer.node.remote.is_v4() {
            words[0] = (0x4500 | u16::from(outer.ecn)).to_be();
            words[1] = said(len + IPV4_LEN);
            words[2] = outer.id.to_be();
            words[3] = 0;
            words[4] = (TTL << 8 | protocol::UDP as u16).to_be();
            words[5] = 0;
            [words[6], words[7]] = halves(outer.node.local.0[3]);
            [words[8], words[9]] = halves(outer.node.remote.0[3]);
            let mut sum = 0;
            let mut word = 0;
            while word < 10 {
                sum += u32::from(words[word]);
                word += 1;
            }
            sum = (sum & 0xffff) + (sum >> 16);
            words[5] = !(((sum & 0xffff) + (sum >> 16)) as u16);
            shim::<10>(words, outer, len);
        } else {
            words[0] = (0x6000 | u16::from(outer.ecn) << 4).to_be();
            // The flow label, as far as one word goes.
            words[1] = ((outer.hash >> 16) as u16).to_be();
            words[2] = said(len);
            words[3] = ((protocol::UDP as u16) << 8 | TTL).to_be();
            let mut word = 0;
            while word < 4 {
                [words[4 + 2 * word], words[5 + 2 * word]] = halves(outer.node.local.0[word]);
                [words[12 + 2 * word], words[13 + 2 * word]] = halves(outer.node.remote.0[word]);
                word += 1;
            }
            shim::<20>(words, outer, len);
        }
    }
}

/// From the word `AT` on: UDP, VXLAN, Ethernet.
#[inline(always)]
fn shim<const AT: usize>(words: &mut [u16; 35], outer: &Outer<'_>, len: u32) {
    // The upper quarter of the ports: what is never listened at.
    words[AT] = (0xc000 | (outer.hash >> 18) as u16).to_be();
    words[AT + 1] = outer.port.to_be();
    words[AT + 2] = said(len);
    words[AT + 3] = 0;
    words[AT + 4] = (0x0800_u16).to_be();
    words[AT + 5] = 0;
    words[AT + 6] = ((outer.vni >> 8) as u16).to_be();
    words[AT + 7] = ((outer.vni << 8) as u16).to_be();
    let mut word = 0;
    while word < 3 {
        words[AT + 8 + word] = u16::from_ne_bytes([DEVICE_MAC[2 * word], DEVICE_MAC[2 * word + 1]]);
        words[AT + 11 + word] = u16::from_ne_bytes([SENDER_MAC[2 * word], SENDER_MAC[2 * word + 1]]);
        word += 1;
    }
    words[AT + 14] = ethertype(outer.inner_is_v4);
}

/// As it stands on the wire.
#[inline(always)]
pub const fn ethertype(is_v4: bool) -> u16 {
    let ethertype: u16 = if is_v4 { 0x0800 } else { 0x86dd };
    ethertype.to_be()
}

/// A length as headers say it: what stands for many segments may be longer than 16 bits can say, and then says 0.
#[inline(always)]
const fn said(len: u32) -> u16 {
    if len > u16::MAX as u32 { 0 } else { (len as u16).to_be() }
}

#[inline(always)]
const fn halves(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_ne_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

/// A VXLAN header, and the Ethernet header behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shim {
    pub vni: u32,
    /// In host byte order.
    pub ethertype: u16,
}

impl Shim {
    /// `None` for a header without a VNI.
    #[inline(always)]
    pub fn read(bytes: &[u8; 22]) -> Option<Self> {
        if bytes[0] & 0x08 == 0 {
            return None;
        }
        let vni = u32::from(bytes[4]) << 16 | u32::from(bytes[5]) << 8 | u32::from(bytes[6]);
        Some(Self { vni, ethertype: Be16::from_wire([bytes[20], bytes[21]]).to_host() })
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn bytes(headers: &Headers) -> [u8; 70] {
        let mut bytes = [0; 70];
        for (pair, word) in bytes.chunks_mut(2).zip(headers.0) {
            pair.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn headers_stand_as_on_the_wire() {
        let node = NodeRow { local: addr("172.30.0.10"), remote: addr("172.30.0.11"), mtu: 1450 };
        let mut headers = Headers::EMPTY;
        let outer = Outer {
            node: &node,
            vni: 0x01_0203,
            port: 4789,
            hash: 0x8765_4321,
            ecn: 2,
            id: 0x1234,
            inner_len: 100,
            inner_is_v4: false,
        };
        headers.fill(&outer);
        let v4 = bytes(&headers);
        assert_eq!(v4[..10], [0x45, 2, 0, 150, 0x12, 0x34, 0, 0, 64, 17]);
        assert_eq!(v4[12..20], [172, 30, 0, 10, 172, 30, 0, 11]);
        let sum: u32 = v4[..20].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the checksum of the IPv4 header");
        assert_eq!(v4[20..28], [0xe1, 0xd9, 0x12, 0xb5, 0, 130, 0, 0]);
        assert_eq!(v4[28..36], [8, 0, 0, 0, 1, 2, 3, 0]);
        assert_eq!(v4[36..42], DEVICE_MAC);
        assert_eq!(v4[42..48], SENDER_MAC);
        assert_eq!(v4[48..50], [0x86, 0xdd]);
        let shim = Shim::read(v4[28..50].try_into().unwrap()).unwrap();
        assert_eq!(shim, Shim { vni: 0x01_0203, ethertype: 0x86dd });

        let node = NodeRow { local: addr("fd00:30::10"), remote: addr("fd00:30::11"), mtu: 1430 };
        headers.fill(&Outer { node: &node, inner_is_v4: true, ..outer });
        let v6 = bytes(&headers);
        assert_eq!(v6[..8], [0x60, 0x20, 0x87, 0x65, 0, 130, 17, 64]);
        assert_eq!(v6[8..24], node.local.octets());
        assert_eq!(v6[24..40], node.remote.octets());
        assert_eq!(v6[40..56], v4[20..36]);
        assert_eq!(v6[68..70], [0x08, 0x00]);
    }

    #[test]
    fn a_length_that_cannot_be_said_is_nought() {
        let node = NodeRow { local: addr("10.0.0.1"), remote: addr("10.0.0.2"), mtu: 1450 };
        let mut headers = Headers::EMPTY;
        for (inner_len, said) in [(65_485, [0xff, 0xff]), (65_486, [0, 0])] {
            let outer = Outer {
                node: &node,
                vni: 1,
                port: 4789,
                hash: 0,
                ecn: 0,
                id: 0,
                inner_len,
                inner_is_v4: true,
            };
            headers.fill(&outer);
            assert_eq!(bytes(&headers)[2..4], said);
        }
    }
}
