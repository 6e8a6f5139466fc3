//! Out of this node: the kernel's routes, without its stack.

use core::mem;

use aya_ebpf::bindings::{__sk_buff, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_redir_neigh};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_redirect_neigh};

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

/// Finds the next hop of a packet. False where the stack must take it: it is for this host, too big for the way out (the
/// stack answers with ICMP), or there is no route (likewise).
#[inline(always)]
pub(crate) fn find(skb: *mut __sk_buff, sighting: &mut Sighting) -> bool {
    let Sighting { packet, fib, hop, ifindex, .. } = sighting;
    // What an earlier packet left in the fields that are not set here is an address's tail, which IPv4 does not read.
    fib.l4_protocol = 0;
    fib.sport = 0;
    fib.dport = 0;
    // No length: the kernel checks the packet itself, which knows of segmentation offload.
    fib.__bindgen_anon_1.tot_len = 0;
    fib.__bindgen_anon_2.flowinfo = 0;
    fib.ifindex = *ifindex;
    if packet.source.is_v4() {
        fib.family = AF_INET;
        fib.__bindgen_anon_3.ipv4_src = packet.source.0[3];
        fib.__bindgen_anon_4.ipv4_dst = packet.destination.0[3];
    } else {
        fib.family = AF_INET6;
        fib.__bindgen_anon_3.ipv6_src = packet.source.0;
        fib.__bindgen_anon_4.ipv6_dst = packet.destination.0;
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

/// Sends the packet to its next hop.
#[inline(always)]
pub(crate) fn go(hop: &mut Hop) -> i32 {
    let params: *mut bpf_redir_neigh = (&raw mut *hop).cast();
    // SAFETY: a `Hop` begins with what the helper reads.
    unsafe { bpf_redirect_neigh(hop.ifindex, params, mem::size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}

const _: () = assert!(mem::offset_of!(Hop, ifindex) == mem::size_of::<bpf_redir_neigh>());
