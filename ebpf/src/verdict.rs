//! A verdict, and the one place where it becomes an action of tc.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT};
use aya_ebpf::helpers::bpf_redirect_peer;
use common::verdict::{DropReason, JUDGED_MARK, MASQUERADE_MARK, PassReason};

use crate::sighting::Sighting;
use crate::{overlay, route};

/// Leaves the packet to the next program, and in the end to the stack. `TC_ACT_OK` would end the chain.
pub(crate) const NEXT: i32 = -1;

/// Whether another hook of ours has judged the packet and sent it here by the queue of the device. It leaves us unmarked.
#[inline(always)]
pub(crate) fn take_judged(skb: *mut __sk_buff) -> bool {
    // SAFETY: a field of the context that the kernel lets tc programs read and write.
    unsafe {
        let is_judged = (*skb).mark & JUDGED_MARK != 0;
        if is_judged {
            (*skb).mark &= !JUDGED_MARK;
        }
        is_judged
    }
}

/// Which way a packet goes on.
#[derive(Clone, Copy)]
pub(crate) enum Path {
    /// As it would without us.
    Stack,
    /// The same, and in the end with the node's address in the place of the pod's.
    Masquerade,
    /// Straight into the pod behind this interface.
    Endpoint(u32),
    /// Into the pod, by the queue of its device on the host's side: to the hop of the sighting.
    Queue,
    /// Out of this node, by the kernel's routes.
    Network,
}

/// What happens to one packet. One word, since that is what a subprogram of the kernel's can return: the reason, the way
/// on (`DROP`, …), the interface or the node.
#[must_use = "a verdict nobody returns lets the packet through"]
#[derive(Clone, Copy)]
pub(crate) struct Verdict(u64);

const DROP: u64 = 0;
const STACK: u64 = 1;
const ENDPOINT: u64 = 2;
/// Out of this node, by a route that is yet to be found.
const NETWORK: u64 = 3;
/// Out of this node, to the next hop of the sighting.
const HOP: u64 = 4;
/// To the stack, marked for netfilter.
const MASQUERADE: u64 = 5;
/// To the next hop, wrapped for a node of the overlay.
const TUNNEL: u64 = 6;
/// To the hop of the sighting, marked for `to_pod`.
const QUEUE: u64 = 7;

impl Verdict {
    /// No verdict yet.
    pub(crate) const NONE: Self = Self(0);

    #[inline(always)]
    pub(crate) fn is_given(self) -> bool {
        self.0 != 0
    }

    #[inline(always)]
    pub(crate) fn pass(reason: PassReason, path: Path) -> Self {
        let path = match path {
            Path::Stack => STACK << 8,
            Path::Masquerade => MASQUERADE << 8,
            Path::Endpoint(ifindex) => ENDPOINT << 8 | u64::from(ifindex) << 32,
            Path::Queue => QUEUE << 8,
            Path::Network => NETWORK << 8,
        };
        Self(path | reason as u64)
    }

    #[inline(always)]
    pub(crate) fn drop(reason: DropReason) -> Self {
        Self(DROP << 8 | reason as u64)
    }

    /// A `DropReason` or `PassReason`.
    #[inline(always)]
    pub(crate) fn reason(self) -> u8 {
        self.0 as u8
    }

    #[inline(always)]
    pub(crate) fn needs_route(self) -> bool {
        self.path() == NETWORK
    }

    /// The same verdict, when the route was found: directly, or (`node` is not 0) through the overlay.
    #[inline(always)]
    pub(crate) fn by_hop(self, node: u32) -> Self {
        let path = if node == 0 { HOP } else { TUNNEL };
        Self(path << 8 | u64::from(self.reason()) | u64::from(node) << 32)
    }

    /// The same verdict, where the stack must take the packet.
    #[inline(always)]
    pub(crate) fn by_stack(self) -> Self {
        Self(STACK << 8 | u64::from(self.reason()))
    }

    #[inline(always)]
    fn path(self) -> u64 {
        self.0 >> 8 & 0xff
    }

    #[inline(always)]
    pub(crate) fn carry_out(self, skb: *mut __sk_buff, sighting: &mut Sighting) -> i32 {
        match self.path() {
            // SAFETY: a plain helper call; the kernel checks the interface when it redirects.
            ENDPOINT => unsafe { bpf_redirect_peer((self.0 >> 32) as u32, 0) as i32 },
            HOP => route::go(&mut sighting.hop),
            TUNNEL => overlay::send(skb, sighting, (self.0 >> 32) as u32),
            STACK => NEXT,
            QUEUE => {
                // SAFETY: a field of the context that the kernel lets tc programs write.
                unsafe { (*skb).mark |= JUDGED_MARK };
                route::go(&mut sighting.hop)
            }
            MASQUERADE => {
                // SAFETY: a field of the context that the kernel lets tc programs write.
                unsafe { (*skb).mark |= MASQUERADE_MARK };
                NEXT
            }
            _ => TC_ACT_SHOT,
        }
    }
}
