//! Out of this node: the kernel's routes, without its stack.

use core::mem;

use aya_ebpf::bindings::{__sk_buff, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_redir_neigh};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_redirect_neigh};

use common::net::Addr;

use crate::maps::ROUTES;
use crate::overlay;
use crate::packet::Packet;
use crate::shortcut;
use crate::sighting::Sighting;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The next hop of a packet, and the device towards it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Hop {
    /// `struct bpf_redir_neigh`: the family, then the address.
    family: u32,
    address: [u32; 4],
    ifindex: u32,
}

/// A power of two: pairs of addresses that speak at the same time.
pub(crate) const SLOTS: u32 = 64;
/// What the kernel's routes said lately, of this CPU's own: a new connection mostly goes where an earlier one went.
pub(crate) struct Route {
    source: Addr,
    destination: Addr,
    /// The device at whose hook the packet was met.
    ifindex: u32,
    /// A packet whose frames are longer must ask again: it may not fit.
    longest: u16,
    until_ns: u64,
    hop: Hop,
    /// See [`Sighting::node`].
    node: u32,
}

/// Finds the next hop of a packet. False where the stack must take it: it is for this host, too big for the way out (the
/// stack answers with ICMP), or there is no route (likewise).
#[inline(always)]
pub(crate) fn find(skb: *mut __sk_buff, sighting: &mut Sighting) -> bool {
    let Some(route) = ROUTES.get_ptr_mut(slot(&sighting.packet)) else { return ask(skb, sighting) };
    // SAFETY: a slot of this CPU's own; programs of tc run with bottom halves off.
    let route = unsafe { &mut *route };
    let packet = &sighting.packet;
    let difference = route.source.difference(&packet.source)
        | route.destination.difference(&packet.destination)
        | (route.ifindex ^ sighting.ifindex);
    if difference == 0 && route.until_ns >= sighting.now_ns && route.longest >= sighting.frame {
        sighting.hop = route.hop;
        sighting.node = route.node;
        return true;
    }
    if !ask(skb, sighting) {
        return false;
    }
    let packet = &sighting.packet;
    route.source = packet.source;
    route.destination = packet.destination;
    route.ifindex = sighting.ifindex;
    route.longest = sighting.frame;
    route.until_ns = sighting.now_ns + shortcut::LIFETIME_NS;
    route.hop = sighting.hop;
    route.node = sighting.node;
    true
}

#[inline(always)]
fn slot(packet: &Packet) -> u32 {
    Addr::mix(&packet.source, &packet.destination, 0) >> 24 & (SLOTS - 1)
}

/// Asks the kernel's routes: to the destination, or to the node that it is behind.
#[inline(never)]
fn ask(skb: *mut __sk_buff, sighting: &mut Sighting) -> bool {
    let Sighting { packet, fib, hop, ifindex, node, .. } = sighting;
    let (mut source, mut destination) = (&packet.source, &packet.destination);
    *node = overlay::node_behind(destination);
    if *node != 0 {
        let Some(row) = overlay::node(*node) else { return false };
        (source, destination) = (&row.local, &row.remote);
    }
    // What an earlier packet left in the fields that are not set here is an address's tail, which IPv4 does not read.
    fib.l4_protocol = 0;
    fib.sport = 0;
    fib.dport = 0;
    // No length: the kernel checks the packet itself, which knows of segmentation offload.
    fib.__bindgen_anon_1.tot_len = 0;
    fib.__bindgen_anon_2.flowinfo = 0;
    fib.ifindex = *ifindex;
    if source.is_v4() {
        fib.family = AF_INET;
        fib.__bindgen_anon_3.ipv4_src = source.0[3];
        fib.__bindgen_anon_4.ipv4_dst = destination.0[3];
    } else {
        fib.family = AF_INET6;
        fib.__bindgen_anon_3.ipv6_src = source.0;
        fib.__bindgen_anon_4.ipv6_dst = destination.0;
    }
    // SAFETY: `fib` lives in a map and has the size that is passed.
    let answer =
        unsafe { bpf_fib_lookup(skb.cast(), (&raw mut *fib).cast(), mem::size_of_val(fib) as i32, 0) };
    if answer != i64::from(BPF_FIB_LKUP_RET_SUCCESS) && answer != i64::from(BPF_FIB_LKUP_RET_NO_NEIGH) {
        return false;
    }
    // The lookup has put the next hop where the destination was.
    hop.family = u32::from(fib.family);
    // SAFETY: both members of the union are plain bytes; the longer one carries the shorter one along.
    hop.address = unsafe { fib.__bindgen_anon_4.ipv6_dst };
    hop.ifindex = fib.ifindex;
    true
}

impl Hop {
    /// Somebody behind this device.
    #[inline(always)]
    pub(crate) fn set_neighbour(&mut self, address: &Addr, ifindex: u32) {
        if address.is_v4() {
            self.family = u32::from(AF_INET);
            self.address = [address.0[3], 0, 0, 0];
        } else {
            self.family = u32::from(AF_INET6);
            self.address = address.0;
        }
        self.ifindex = ifindex;
    }
}

/// Sends the packet to its next hop.
#[inline(always)]
pub(crate) fn go(hop: &mut Hop) -> i32 {
    let params: *mut bpf_redir_neigh = (&raw mut *hop).cast();
    // SAFETY: a `Hop` begins with what the helper reads.
    unsafe { bpf_redirect_neigh(hop.ifindex, params, mem::size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}

const _: () = assert!(mem::offset_of!(Hop, ifindex) == mem::size_of::<bpf_redir_neigh>());
