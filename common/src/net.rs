//! Addresses, ports and protocols as the packet carries them: byte order as types.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr};

/// A 16-bit number in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Be16([u8; 2]);

impl Be16 {
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be_bytes())
    }

    /// From the two bytes as they stand in the packet.
    #[inline(always)]
    pub const fn from_wire(bytes: [u8; 2]) -> Self {
        Self(bytes)
    }

    #[inline(always)]
    pub const fn to_host(self) -> u16 {
        u16::from_be_bytes(self.0)
    }

    #[inline(always)]
    pub const fn wire(self) -> [u8; 2] {
        self.0
    }
}

impl fmt::Debug for Be16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_host())
    }
}

impl From<u16> for Be16 {
    fn from(host: u16) -> Self {
        Self::new(host)
    }
}

/// An IPv4 or IPv6 address as sixteen bytes in network order; IPv4 is mapped (`::ffff:a.b.c.d`).
///
/// Four words instead of sixteen bytes, so that the kernel side compares and copies it in four instructions. The words
/// hold the bytes as they stand on the wire: they are not numbers.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(pub [u32; 4]);

const _: () = assert!(size_of::<Addr>() == 16 && align_of::<Addr>() == 4);

impl Addr {
    pub const UNSPECIFIED: Self = Self([0; 4]);

    /// From the four bytes of an IPv4 address as they stand in the packet, read as one native word.
    #[inline(always)]
    pub const fn v4(wire: u32) -> Self {
        Self([0, 0, 0x0000_ffff_u32.to_be(), wire])
    }

    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0x0000_ffff_u32.to_be()
    }

    /// 0 if both are the same address. For the kernel side: four instructions and no branch, where `==` on an array calls
    /// a loop over bytes.
    #[inline(always)]
    pub const fn difference(&self, other: &Self) -> u32 {
        (self.0[0] ^ other.0[0])
            | (self.0[1] ^ other.0[1])
            | (self.0[2] ^ other.0[2])
            | (self.0[3] ^ other.0[3])
    }

    /// A cheap hash of two ends, of which the top bits are the well-mixed ones (Fibonacci hashing). The order of the ends
    /// counts. Of addresses, the last words mostly differ.
    #[inline(always)]
    pub const fn mix(one: &Self, other: &Self, ports: u32) -> u32 {
        (ports ^ one.0[3].rotate_left(7) ^ other.0[3]).wrapping_mul(0x9e37_79b1)
    }

    pub const fn from_octets(octets: [u8; 16]) -> Self {
        let mut words = [0; 4];
        let mut i = 0;
        while i < 4 {
            words[i] =
                u32::from_ne_bytes([octets[4 * i], octets[4 * i + 1], octets[4 * i + 2], octets[4 * i + 3]]);
            i += 1;
        }
        Self(words)
    }

    pub const fn octets(&self) -> [u8; 16] {
        let mut octets = [0; 16];
        let mut i = 0;
        while i < 16 {
            octets[i] = self.0[i / 4].to_ne_bytes()[i % 4];
            i += 1;
        }
        octets
    }

    /// The address as people write it: IPv4 where it is mapped.
    pub fn to_ip(&self) -> IpAddr {
        Ipv6Addr::from(self.octets()).to_canonical()
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::from_octets(ip.to_ipv6_mapped().octets()),
            IpAddr::V6(ip) => Self::from_octets(ip.octets()),
        }
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_ip(), f)
    }
}

/// IP protocol numbers that Weir knows ports of, and those it must recognise.
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;

    /// As Kubernetes and people spell it.
    pub const fn name(protocol: u8) -> Option<&'static str> {
        match protocol {
            TCP => Some("TCP"),
            UDP => Some("UDP"),
            SCTP => Some("SCTP"),
            ICMP => Some("ICMP"),
            ICMPV6 => Some("ICMPv6"),
            _ => None,
        }
    }

    /// Whether NetworkPolicy can name ports of this protocol.
    #[inline(always)]
    pub const fn has_ports(protocol: u8) -> bool {
        matches!(protocol, TCP | UDP | SCTP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_round_trip_in_both_families() {
        for text in ["10.244.0.7", "fd00:244::7", "::", "0.0.0.0", "255.255.255.255"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(Addr::from(ip).to_ip(), ip);
        }
    }

    #[test]
    fn an_ipv4_word_from_the_wire_is_the_mapped_address() {
        let wire = u32::from_ne_bytes([10, 244, 0, 7]);
        assert_eq!(Addr::v4(wire), Addr::from("10.244.0.7".parse::<IpAddr>().unwrap()));
        assert!(Addr::v4(wire).is_v4());
    }
}
