//! Between nodes that the network between them does not know pods of: VXLAN, written and read here.
//!
//! A pod's packet gets its outer headers at the pod's own hook and leaves by the underlay device; what arrives loses them at the
//! underlay device: neither passes the VXLAN device, which costs as much as everything else together. The device is there
//! for the rest: what the host itself sends to pods ([`to_overlay`]), what only the stack can put together or take apart
//! (pieces of an outer packet, kinds of segments that the kernel does not let us wrap), and since the kernel
//! gathers the segments of tunnelled packets only where somebody listens at the port.

use core::mem;

use aya_ebpf::bindings::{
    __sk_buff, BPF_ADJ_ROOM_ENCAP_L2_MASK, BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_F_ADJ_ROOM_DECAP_L3_IPV4,
    BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
    BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_TUNINFO_IPV6,
    BPF_F_ZERO_CSUM_TX, TC_ACT_SHOT, bpf_adj_room_mode, bpf_tunnel_key,
};
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::{
    bpf_skb_adjust_room, bpf_skb_ecn_set_ce, bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key,
    bpf_skb_store_bytes,
};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::TcContext;
use common::net::{Addr, protocol};
use common::overlay::{
    DEVICE_MAC, NodeRow, Outer, SENDER_MAC, SHIM_LEN, Shim, TunnelRow, VXLAN_LEN, ethertype, overhead,
};
use common::packet::ETH_LEN;

use crate::maps::{HAS_DECAP_FLAGS, NODES, OVERLAY_PORT, OVERLAY_VNI, TUNNELS};
use crate::packet::{Packet, fragment};
use crate::route;
use crate::sighting::Sighting;
use crate::verdict::NEXT;

/// ECN: congestion experienced.
const CE: u8 = 3;
const TTL: u8 = 64;

/// The node that packets to this address go to through the overlay; 0: they do not.
#[inline(always)]
pub(crate) fn node_behind(addr: &Addr) -> u32 {
    match tunnel(addr) {
        Some(row) if row.flags & TunnelRow::BEHIND != 0 => row.node,
        _ => 0,
    }
}

#[inline(always)]
pub(crate) fn node(index: u32) -> Option<&'static NodeRow> {
    // SAFETY: a row of an array map, which is never freed.
    NODES.get_ptr(index).map(|row| unsafe { &*row })
}

#[inline(always)]
fn tunnel(addr: &Addr) -> Option<&'static TunnelRow> {
    TUNNELS.get(Key::new(128, *addr))
}

/// A UDP packet to the overlay's port.
#[inline(always)]
pub(crate) fn is_to_port(packet: &Packet) -> bool {
    // SAFETY: a constant that the loader has set; 0 where there is no overlay.
    let port = unsafe { (&raw const OVERLAY_PORT).read_volatile() };
    port != 0 && packet.protocol == protocol::UDP && u32::from(packet.destination_port.to_host()) == port
}

/// An address of any node.
#[inline(never)]
pub(crate) fn is_node(addr: &Addr) -> bool {
    tunnel(addr).is_some_and(|row| row.flags & TunnelRow::NODE != 0)
}

/// Wraps the packet and sends it to the node's next hop. What does not fit, and what the kernel does not let us wrap, the stack
/// takes: it answers with ICMP, or sends it by the VXLAN device.
#[inline(never)]
pub(crate) fn send(skb: *mut __sk_buff, sighting: &mut Sighting, index: u32) -> i32 {
    let Some(node) = node(index) else { return NEXT };
    let outer_is_v4 = node.remote.is_v4();
    let inner_is_v4 = sighting.packet.source.is_v4();
    if !fits(skb, &sighting.packet, node.mtu) {
        return NEXT;
    }
    let Ok(head) = TcContext::new(skb).load::<[u8; 2]>(ETH_LEN) else { return NEXT };
    let ecn = if inner_is_v4 { head[1] } else { head[1] >> 4 } & 3;
    // SAFETY: reading fields of the context that the kernel lets tc programs read; a plain helper call.
    let (segments, cpu) = unsafe { ((*skb).gso_segs, bpf_get_smp_processor_id()) };
    // One run of numbers for each CPU: the receiver gathers only segments whose numbers follow each other.
    let id = sighting.outer_id.wrapping_add((cpu as u16) << 11);
    sighting.outer_id = sighting.outer_id.wrapping_add(segments.max(1) as u16);
    let packet = &sighting.packet;
    let outer = Outer {
        node,
        // SAFETY: a constant that the loader has set.
        vni: unsafe { (&raw const OVERLAY_VNI).read_volatile() },
        // SAFETY: as above.
        port: unsafe { (&raw const OVERLAY_PORT).read_volatile() } as u16,
        hash: Addr::mix(&packet.source, &packet.destination, packet.ports()),
        ecn,
        id,
        inner_len: sighting.bytes - ETH_LEN as u32,
        inner_is_v4,
    };
    sighting.headers.fill(&outer);
    let family = if outer_is_v4 { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 };
    let flags = u64::from(
        family | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH | BPF_F_ADJ_ROOM_FIXED_GSO,
    ) | (ETH_LEN as u64 & u64::from(BPF_ADJ_ROOM_ENCAP_L2_MASK)) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;
    let room = overhead(outer_is_v4);
    // SAFETY: plain helper calls; the headers are 70 bytes long, and no more than that is written.
    unsafe {
        if bpf_skb_adjust_room(skb, room as i32, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, flags) != 0 {
            return NEXT;
        }
        let headers = (&raw const sighting.headers).cast();
        let written = if outer_is_v4 {
            bpf_skb_store_bytes(skb, ETH_LEN as u32, headers, overhead(true), 0)
        } else {
            bpf_skb_store_bytes(skb, ETH_LEN as u32, headers, overhead(false), 0)
        };
        if written != 0 || (outer_is_v4 != inner_is_v4 && !say_ethertype(skb, outer_is_v4)) {
            return TC_ACT_SHOT;
        }
    }
    route::go(&mut sighting.hop)
}

/// Whether each packet on the wire stays within `mtu`.
#[inline(always)]
fn fits(skb: *mut __sk_buff, packet: &Packet, mtu: u32) -> bool {
    // SAFETY: reading fields of the context that the kernel lets tc programs read.
    let (len, segment) = unsafe { ((*skb).len, (*skb).gso_size) };
    if segment == 0 {
        return len - ETH_LEN as u32 <= mtu;
    }
    let transport = match packet.protocol {
        protocol::TCP => {
            let Ok(offset) = TcContext::new(skb).load::<u8>(packet.transport as usize + 12) else {
                return false;
            };
            u32::from(offset >> 4) * 4
        }
        _ => 8,
    };
    packet.transport - ETH_LEN as u32 + transport + segment <= mtu
}

/// What [`strip`] found: not a packet of our overlay, one that is bare now, one that lies, one that is broken.
pub(crate) const NOT_OURS: u32 = 0;
pub(crate) const BARE: u32 = 1;
pub(crate) const SPOOFED: u32 = 2;
pub(crate) const BROKEN: u32 = 3;

/// Takes the outer headers off a packet to the overlay's port, if its inner source is behind its outer one.
#[inline(never)]
pub(crate) fn strip(skb: *mut __sk_buff, sighting: &mut Sighting) -> u32 {
    let ctx = TcContext::new(skb);
    let packet = &sighting.packet;
    let outer_is_v4 = packet.source.is_v4();
    let at = packet.transport as usize;
    // Options, extension headers and pieces are for the stack, and what comes of them for `from_overlay`.
    if at + SHIM_LEN as usize != ETH_LEN + overhead(outer_is_v4) as usize
        || packet.fragment != fragment::WHOLE
    {
        return NOT_OURS;
    }
    let Ok(bytes) = ctx.load::<[u8; 22]>(at + 8) else { return NOT_OURS };
    let Some(shim) = Shim::read(&bytes) else { return NOT_OURS };
    // SAFETY: a constant that the loader has set.
    if shim.vni != unsafe { (&raw const OVERLAY_VNI).read_volatile() } {
        return NOT_OURS;
    }
    let inner = at + SHIM_LEN as usize;
    let inner_is_v4 = shim.ethertype == u16::from_be(ethertype(true));
    if inner_is_v4 {
        let Ok(source) = ctx.load::<u32>(inner + 12) else { return broken(packet) };
        sighting.quoted_source = Addr::v4(source);
    } else if shim.ethertype == u16::from_be(ethertype(false)) {
        let Ok(source) = ctx.load::<[u32; 4]>(inner + 8) else { return broken(packet) };
        sighting.quoted_source = Addr(source);
    } else {
        return broken(packet);
    }
    if !vouches(&packet.source, &packet.destination, &sighting.quoted_source) {
        // Without a row that says so it may be for a pod of ours, which may listen at any port.
        return if is_node(&packet.destination) { SPOOFED } else { NOT_OURS };
    }
    let mut flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
    if outer_is_v4 != inner_is_v4 {
        // SAFETY: a constant that the loader has set.
        if unsafe { (&raw const HAS_DECAP_FLAGS).read_volatile() } == 0 {
            return NOT_OURS;
        }
        flags |=
            u64::from(if inner_is_v4 { BPF_F_ADJ_ROOM_DECAP_L3_IPV4 } else { BPF_F_ADJ_ROOM_DECAP_L3_IPV6 });
    }
    let Ok(head) = ctx.load::<[u8; 2]>(ETH_LEN) else { return NOT_OURS };
    let ecn = if outer_is_v4 { head[1] } else { head[1] >> 4 } & 3;
    let room = if outer_is_v4 { -(overhead(true) as i32) } else { -(overhead(false) as i32) };
    // SAFETY: plain helper calls, and reading a field of the context.
    unsafe {
        if bpf_skb_adjust_room(skb, room, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, flags) != 0 {
            return NOT_OURS;
        }
        if outer_is_v4 != inner_is_v4 && !say_ethertype(skb, inner_is_v4) {
            return BROKEN;
        }
        // RFC 6040: whoever does not know ECN must not be told of congestion that way.
        if ecn == CE && bpf_skb_ecn_set_ce(skb) != 1 {
            return BROKEN;
        }
        sighting.bytes = (*skb).len;
    }
    BARE
}

/// No packet of IP inside. Of ours if it is for an address of the node.
#[inline(always)]
fn broken(packet: &Packet) -> u32 {
    if is_node(&packet.destination) { BROKEN } else { NOT_OURS }
}

/// Whether what comes from `source` is behind the node at `remote`, which speaks to us at `local`.
#[inline(always)]
fn vouches(remote: &Addr, local: &Addr, source: &Addr) -> bool {
    let Some(row) = tunnel(source) else { return false };
    let Some(node) = node(row.node) else { return false };
    node.remote.difference(remote) | node.local.difference(local) == 0
}

/// Whether a packet that comes out of the VXLAN device is from a node that its source is behind.
#[inline(never)]
pub(crate) fn is_from_its_node(skb: *mut __sk_buff, source: &Addr) -> bool {
    let Some(row) = tunnel(source) else { return false };
    let Some(node) = node(row.node) else { return false };
    // SAFETY: integers only, of which any bits are a value.
    let mut key: bpf_tunnel_key = unsafe { mem::zeroed() };
    let (size, flags) = (KEY_LEN as u32, if node.remote.is_v4() { 0 } else { BPF_F_TUNINFO_IPV6 });
    // SAFETY: plain helper call; the key has at least the size that is passed.
    if unsafe { bpf_skb_get_tunnel_key(skb, &raw mut key, size, u64::from(flags)) } != 0 {
        return false;
    }
    // SAFETY: a constant that the loader has set.
    if key.tunnel_id != unsafe { (&raw const OVERLAY_VNI).read_volatile() } {
        return false;
    }
    // SAFETY: both members of the union are plain bytes.
    unsafe {
        if node.remote.is_v4() {
            Addr::v4(key.__bindgen_anon_1.remote_ipv4.to_be()).difference(&node.remote) == 0
        } else {
            Addr(key.__bindgen_anon_1.remote_ipv6).difference(&node.remote) == 0
        }
    }
}

/// `struct bpf_tunnel_key` before it had an own address (5.18): what every kernel knows.
const KEY_LEN: usize = mem::offset_of!(bpf_tunnel_key, __bindgen_anon_3);

/// Tells the VXLAN device where a packet of the host's goes. False if it is behind no node.
#[inline(never)]
pub(crate) fn address(skb: *mut __sk_buff, destination: &Addr) -> bool {
    let index = match tunnel(destination) {
        Some(row) => row.node,
        None => return false,
    };
    let (Some(node), true) = (node(index), index != 0) else { return false };
    // SAFETY: integers only, of which any bits are a value.
    let mut key: bpf_tunnel_key = unsafe { mem::zeroed() };
    // SAFETY: a constant that the loader has set.
    key.tunnel_id = unsafe { (&raw const OVERLAY_VNI).read_volatile() };
    key.tunnel_ttl = TTL;
    let mut flags = BPF_F_ZERO_CSUM_TX;
    if node.remote.is_v4() {
        // The helper wants these as numbers.
        key.__bindgen_anon_1.remote_ipv4 = u32::from_be(node.remote.0[3]);
        key.__bindgen_anon_3.local_ipv4 = u32::from_be(node.local.0[3]);
    } else {
        key.__bindgen_anon_1.remote_ipv6 = node.remote.0;
        key.__bindgen_anon_3.local_ipv6 = node.local.0;
        flags |= BPF_F_TUNINFO_IPV6;
    }
    // The device takes no packet whose source is its own address.
    let macs = [DEVICE_MAC, SENDER_MAC];
    // SAFETY: plain helper calls with the sizes of what is passed. Before 5.18 the kernel chooses the own address.
    unsafe {
        let size = mem::size_of::<bpf_tunnel_key>() as u32;
        (bpf_skb_set_tunnel_key(skb, &raw mut key, size, u64::from(flags)) == 0
            || bpf_skb_set_tunnel_key(skb, &raw mut key, KEY_LEN as u32, u64::from(flags)) == 0)
            && bpf_skb_store_bytes(skb, 0, (&raw const macs).cast(), mem::size_of_val(&macs) as u32, 0) == 0
    }
}

/// Writes the EtherType of the frame.
#[inline(always)]
unsafe fn say_ethertype(skb: *mut __sk_buff, is_v4: bool) -> bool {
    let ethertype = ethertype(is_v4);
    // SAFETY: plain helper call with the size of what is passed.
    unsafe { bpf_skb_store_bytes(skb, ETH_LEN as u32 - 2, (&raw const ethertype).cast(), 2, 0) == 0 }
}

const _: () = assert!(VXLAN_LEN + ETH_LEN as u32 == 22);
