//! Later fragments carry no ports: they follow the first fragment of their datagram.

use crate::net::{Addr, Be16};

/// Key of a `FRAGMENTS` row: one datagram.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FragmentKey {
    pub source: Addr,
    pub destination: Addr,
    /// The identification as it stands in the header (IPv4: 16 bits).
    pub id: u32,
    /// IPv4: datagrams of different protocols have different numbers. IPv6: 0; what later fragments say of the protocol
    /// does not count.
    pub protocol: u8,
    pub zero: [u8; 3],
}

const _: () = assert!(size_of::<FragmentKey>() == 40 && align_of::<FragmentKey>() == 4);

/// What only the first fragment carried.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentRow {
    /// Nanoseconds since boot; a datagram not complete by then never will be.
    pub expires_ns: u64,
    pub source_port: Be16,
    pub destination_port: Be16,
    pub protocol: u8,
    pub zero: [u8; 3],
}

const _: () = assert!(size_of::<FragmentRow>() == 16 && align_of::<FragmentRow>() == 8);
