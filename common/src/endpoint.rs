//! A pod's interface as the datapath knows it.

use crate::id::RuleSetId;

/// Value of an `ENDPOINTS` row; the key is one of the pod's addresses ([`crate::net::Addr`]).
///
/// One row per address: a source address is the pod's if and only if its row names the interface the packet came from.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointRow {
    /// The host's side of the pod's veth pair.
    pub ifindex: u32,
    /// A sum of [`EndpointRow::KEEP_INGRESS`] and [`EndpointRow::KEEP_EGRESS`].
    pub flags: u32,
    pub ingress: RuleSetId,
    pub egress: RuleSetId,
}

const _: () = assert!(size_of::<EndpointRow>() == 24 && align_of::<EndpointRow>() == 4);

impl EndpointRow {
    /// Every policy that isolates ingress says `weir.dev/established: keep`.
    pub const KEEP_INGRESS: u32 = 1;
    /// Every policy that isolates egress says `weir.dev/established: keep`.
    pub const KEEP_EGRESS: u32 = 2;
}
