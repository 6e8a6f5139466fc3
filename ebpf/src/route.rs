//! Out of this node: the kernel's routes, without its stack.

use core::mem;

use aya_ebpf::bindings::{
    __sk_buff, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup,
    bpf_redir_neigh,
};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_redirect_neigh};

use crate::packet::Packet;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Sends the packet to the next hop. `None` where the stack must take it: it is for this host, too big for the way out
/// (the stack answers with ICMP), or there is no route (likewise).
#[inline(always)]
pub(crate) fn out(skb: *mut __sk_buff, packet: &Packet) -> Option<i32> {
    // SAFETY: all zero is a valid value of these plain C structs.
    let mut fib: FibLookup = unsafe { mem::zeroed() };
    // SAFETY: reading a field of the context that the kernel lets tc programs read.
    fib.ifindex = unsafe { (*skb).ifindex };
    if packet.source.is_v4() {
        fib.family = AF_INET;
        fib.__bindgen_anon_3.ipv4_src = packet.source.0[3];
        fib.__bindgen_anon_4.ipv4_dst = packet.destination.0[3];
    } else {
        fib.family = AF_INET6;
        fib.__bindgen_anon_3.ipv6_src = packet.source.0;
        fib.__bindgen_anon_4.ipv6_dst = packet.destination.0;
    }
    // SAFETY: `fib` lives on this stack and has the size that is passed.
    let answer =
        unsafe { bpf_fib_lookup(skb.cast(), (&raw mut fib).cast(), mem::size_of::<FibLookup>() as i32, 0) };
    if answer != i64::from(BPF_FIB_LKUP_RET_SUCCESS) && answer != i64::from(BPF_FIB_LKUP_RET_NO_NEIGH) {
        return None;
    }
    // SAFETY: as above. The lookup has put the next hop where the destination was.
    let mut hop: bpf_redir_neigh = unsafe { mem::zeroed() };
    hop.nh_family = u32::from(fib.family);
    // SAFETY: both members of the union are plain bytes; the longer one carries the shorter one along.
    hop.__bindgen_anon_1.ipv6_nh = unsafe { fib.__bindgen_anon_4.ipv6_dst };
    // SAFETY: `hop` lives on this stack and has the size that is passed.
    Some(unsafe {
        bpf_redirect_neigh(fib.ifindex, &raw mut hop, mem::size_of::<bpf_redir_neigh>() as i32, 0) as i32
    })
}
