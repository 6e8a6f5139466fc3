//! The kernel programs. This file holds doorways only: one parse, one decision, one report each.
//!
//! Programs are named for the pod's side: tc *ingress* on the host's side of a veth pair is what comes *from* the pod.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key or value given to a map by value is copied to the stack first, and the stack has 512 bytes"
)]

mod connections;
mod decide;
mod discovery;
mod fragments;
mod judge;
mod maps;
mod overlay;
mod packet;
mod related;
mod report;
mod route;
mod services;
mod shortcut;
mod sighting;
mod verdict;

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT};
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::{cgroup_sock_addr, classifier};
use aya_ebpf::programs::{SockAddrContext, TcContext};
use common::net::protocol;
use common::verdict::DropReason;

use crate::sighting::{Hook, Sighting};
use crate::verdict::{NEXT, Verdict};

/// tcx ingress of the host's side of a pod's veth pair.
#[classifier]
pub(crate) fn from_pod(ctx: TcContext) -> i32 {
    run(&ctx, Hook::FromPod)
}

/// tcx egress of the host's side: what the host's stack delivers.
#[classifier]
pub(crate) fn to_pod(ctx: TcContext) -> i32 {
    run(&ctx, Hook::ToPod)
}

/// tcx ingress of the underlay device.
#[classifier]
pub(crate) fn from_net(ctx: TcContext) -> i32 {
    run(&ctx, Hook::FromNet)
}

/// tcx ingress of the VXLAN device: what only the stack could take out of its outer packet.
#[classifier]
pub(crate) fn from_overlay(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let Some(sighting) = Sighting::begin(skb, Hook::FromNet) else { return TC_ACT_SHOT };
    let verdict = match packet::parse(skb, &mut sighting.packet) {
        packet::PARSED if !overlay::is_from_its_node(skb, &sighting.packet.source) => {
            decide::not_out_of_the_overlay(sighting, overlay::SPOOFED)
        }
        packet::PARSED => decide::decide(skb, sighting),
        packet::MALFORMED => Verdict::drop(DropReason::Malformed),
        _ => Verdict::drop(DropReason::NotIp),
    };
    conclude(skb, sighting, verdict)
}

/// tcx egress of the VXLAN device: what the host sends to the pods of other nodes.
#[classifier]
pub(crate) fn to_overlay(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let Some(sighting) = Sighting::begin(skb, Hook::ToPod) else { return TC_ACT_SHOT };
    let parsed = packet::parse(skb, &mut sighting.packet);
    if parsed == packet::PARSED && overlay::address(skb, &sighting.packet.destination) {
        return NEXT;
    }
    // Behind no node: mostly what the kernel says to every link, so no event.
    report::count(DropReason::NoRoute as u8, sighting.bytes);
    TC_ACT_SHOT
}

/// At no hook: the agent runs it (`BPF_PROG_TEST_RUN`) to forget expired connections, which from user space would take a
/// system call for each. Returns how many live.
#[classifier]
pub(crate) fn sweep(_ctx: TcContext) -> i32 {
    // SAFETY: plain helper call.
    let now_ns = unsafe { bpf_ktime_get_coarse_ns() };
    connections::forget_all_expired(now_ns) as i32
}

#[inline(always)]
fn run(ctx: &TcContext, hook: Hook) -> i32 {
    let skb = ctx.skb.skb;
    if hook == Hook::ToPod && verdict::take_judged(skb) {
        return verdict::NEXT;
    }
    let Some(sighting) = Sighting::begin(skb, hook) else { return TC_ACT_SHOT };
    let mut parsed = packet::parse(skb, &mut sighting.packet);
    if hook == Hook::FromNet && parsed == packet::PARSED && overlay::is_to_port(&sighting.packet) {
        match overlay::strip(skb, sighting) {
            overlay::NOT_OURS => {}
            overlay::BARE => parsed = packet::parse(skb, &mut sighting.packet),
            why => {
                let verdict = decide::not_out_of_the_overlay(sighting, why);
                return conclude(skb, sighting, verdict);
            }
        }
    }
    let verdict = match parsed {
        packet::PARSED => decide::decide(skb, sighting),
        packet::MALFORMED => decide::malformed(hook),
        ethertype => decide::not_ip(ethertype, hook),
    };
    conclude(skb, sighting, verdict)
}

#[inline(always)]
fn conclude(skb: *mut __sk_buff, sighting: &mut Sighting, mut verdict: Verdict) -> i32 {
    if verdict.needs_route() {
        if route::find(skb, sighting) {
            verdict = verdict.by_hop(sighting.node);
        } else {
            verdict = verdict.by_stack();
            sighting.learns = 0;
        }
    }
    shortcut::learn(sighting, verdict);
    report::count(verdict.reason(), sighting.bytes);
    verdict.carry_out(skb, sighting)
}

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    services::connect(&ctx, services::Family::V4)
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    services::connect(&ctx, services::Family::V6)
}

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    services::send(&ctx, services::Family::V4, protocol::UDP)
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
    services::send(&ctx, services::Family::V6, protocol::UDP)
}

#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn recvmsg4(ctx: SockAddrContext) -> i32 {
    services::restore(&ctx, services::Family::V4)
}

#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn recvmsg6(ctx: SockAddrContext) -> i32 {
    services::restore(&ctx, services::Family::V6)
}

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(ctx: SockAddrContext) -> i32 {
    services::restore(&ctx, services::Family::V4)
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername6(ctx: SockAddrContext) -> i32 {
    services::restore(&ctx, services::Family::V6)
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The verifier and the kernel want to know that GPL-only helpers may be called.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The crate is a kernel object; for the host it only type-checks.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
