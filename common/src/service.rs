//! Services: a virtual address and port stand for a set of backends.

use crate::id::BackendSetId;
use crate::net::{Addr, Be16};

/// Key of a `SERVICES` row: one virtual address and port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    pub addr: Addr,
    pub port: Be16,
    pub protocol: u8,
    pub zero: u8,
}

const _: () = assert!(size_of::<ServiceKey>() == 20 && align_of::<ServiceKey>() == 4);

/// Value of a `SERVICES` row. Moving to another set of backends is one atomic write.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceRow {
    pub backends: BackendSetId,
    /// How many backends the set has; 0: connections are refused.
    pub count: u32,
    /// Seconds for which a client stays with its backend (`sessionAffinity: ClientIP`); 0: no affinity.
    pub affinity_s: u32,
}

const _: () = assert!(size_of::<ServiceRow>() == 16 && align_of::<ServiceRow>() == 4);

/// Key of a `BACKENDS` row: the `index`-th of a set, `0 <= index < count`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    pub set: BackendSetId,
    pub index: u32,
}

const _: () = assert!(size_of::<BackendKey>() == 12 && align_of::<BackendKey>() == 4);

/// Value of a `BACKENDS` row.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendRow {
    pub addr: Addr,
    pub port: Be16,
    pub zero: [u8; 2],
}

const _: () = assert!(size_of::<BackendRow>() == 20 && align_of::<BackendRow>() == 4);

/// Key of a `SERVICE_SOCKETS` row: a socket that was sent to a backend when it asked for a virtual address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketKey {
    /// The kernel's socket cookie, high and low word.
    pub cookie: [u32; 2],
    pub addr: Addr,
    pub port: Be16,
    pub protocol: u8,
    pub zero: u8,
}

const _: () = assert!(size_of::<SocketKey>() == 28 && align_of::<SocketKey>() == 4);
