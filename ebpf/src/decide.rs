//! Conntrack, then policy, in that order: the whole decision on one packet.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::maps::lpm_trie::Key;
use common::config::Config;
use common::conntrack::{CtEntry, UNREPLIED_NS, starts_anew};
use common::flow::FlowEvent;
use common::net::{Addr, protocol};
use common::service::ServiceKey;
use common::verdict::{Direction, DropReason, PassReason};

use crate::judge::{Judgement, endpoint, judge};
use crate::maps::{LIMITED, NATIVE, SERVICES};
use crate::packet::{Packet, fragment};
use crate::sighting::{Hook, Sighting};
use crate::verdict::{Path, Verdict};
use crate::{connections, discovery, fragments, overlay, related, report, shortcut};

const ETH_P_ARP: u32 = 0x0806;

#[inline(always)]
pub(crate) fn not_ip(ethertype: u32, hook: Hook) -> Verdict {
    match hook {
        Hook::FromPod if ethertype == ETH_P_ARP => Verdict::pass(PassReason::Discovery, Path::Stack),
        Hook::FromPod => Verdict::drop(DropReason::NotIp),
        Hook::ToPod => Verdict::pass(PassReason::Discovery, Path::Stack),
        Hook::FromNet => Verdict::pass(PassReason::Foreign, Path::Stack),
    }
}

/// Nobody knows whom a malformed packet from the network is for: the stack will drop it with its own counters.
#[inline(always)]
pub(crate) fn malformed(hook: Hook) -> Verdict {
    match hook {
        Hook::FromNet => Verdict::pass(PassReason::Foreign, Path::Stack),
        Hook::FromPod | Hook::ToPod => Verdict::drop(DropReason::Malformed),
    }
}

/// What came in the overlay's name, and is not what it says (`overlay::SPOOFED`), or nothing at all.
#[inline(never)]
pub(crate) fn not_out_of_the_overlay(sighting: &mut Sighting, why: u32) -> Verdict {
    let reason = if why == overlay::SPOOFED { DropReason::OverlaySpoofed } else { DropReason::Malformed };
    drop(sighting, reason)
}

#[inline(always)]
pub(crate) fn decide(skb: *mut __sk_buff, sighting: &mut Sighting) -> Verdict {
    // SAFETY: plain helper call.
    sighting.now_ns = unsafe { bpf_ktime_get_coarse_ns() };
    let Some(config) = report::config() else { return Verdict::drop(DropReason::UnknownEndpoint) };
    // Read before any policy lookup: an answer may be older than its epoch says, never newer.
    // SAFETY: a pointer into the only row of an array map, which is never freed.
    sighting.epoch = unsafe { (*config).epoch };
    let verdict = shortcut::follow(sighting);
    if verdict.is_given() {
        return verdict;
    }
    if sighting.packet.fragment != fragment::WHOLE
        && !fragments::resolve(&mut sighting.packet, sighting.now_ns)
    {
        return orphan_fragment(sighting);
    }
    // Or any pod could put packets of anybody's into the overlay.
    if sighting.is_at(Hook::FromPod)
        && overlay::is_to_port(&sighting.packet)
        && overlay::is_node(&sighting.packet.destination)
    {
        return drop(sighting, DropReason::OverlayPort);
    }
    if sighting.is_at(Hook::FromPod) && sighting.packet.protocol == protocol::ICMPV6 {
        let verdict = neighbourly(sighting);
        if verdict.is_given() {
            return verdict;
        }
    }
    let packet = &sighting.packet;
    sighting.from_low = u8::from(sighting.key.fill(
        &packet.source,
        &packet.destination,
        packet.source_port,
        packet.destination_port,
        packet.protocol,
    ));
    if !starts_anew(packet.protocol, packet.tcp_flags)
        && let Some(entry) = connections::find(&sighting.key, &mut sighting.entry, sighting.now_ns)
    {
        let verdict = established(sighting, entry);
        if verdict.is_given() {
            return verdict;
        }
    }
    first_packet(skb, sighting)
}

/// Neighbour discovery from a pod, which is no part of any connection; [`Verdict::NONE`] for other ICMPv6.
#[inline(never)]
fn neighbourly(sighting: &mut Sighting) -> Verdict {
    match discovery::from_pod(&sighting.packet) {
        None => Verdict::NONE,
        Some(Ok(reason)) => Verdict::pass(reason, Path::Stack),
        Some(Err(reason)) => drop(sighting, reason),
    }
}

#[inline(never)]
fn orphan_fragment(sighting: &mut Sighting) -> Verdict {
    if sighting.is_at(Hook::FromNet) && endpoint(&sighting.packet.destination).is_none() {
        Verdict::pass(PassReason::Foreign, Path::Stack)
    } else {
        drop(sighting, DropReason::FragmentBeforeFirst)
    }
}

/// A packet of a known connection; [`Verdict::NONE`] where it does not come from where the connection's packets come from.
#[inline(always)]
fn established(sighting: &mut Sighting, entry: *mut CtEntry) -> Verdict {
    // SAFETY: entries are freed only after an RCU grace period.
    if unsafe { (*entry).epoch } != sighting.epoch && !judge_again(sighting, entry) {
        return Verdict::drop(DropReason::PolicyDenied);
    }
    // SAFETY: as above.
    let (low, high, flags) = unsafe { ((*entry).low_ifindex, (*entry).high_ifindex, (*entry).flags) };
    let (from, to) = if sighting.from_low != 0 { (low, high) } else { (high, low) };
    let (expected, path) = if sighting.is_at(Hook::FromPod) {
        let path = if flags & CtEntry::VIA_HOST != 0 {
            via_host(flags, sighting.from_low != 0)
        } else if to != 0 {
            into(sighting, flags, to)
        } else {
            Path::Network
        };
        (from == sighting.ifindex, path)
    } else if sighting.is_at(Hook::FromNet) {
        (from == 0 && to != 0, into(sighting, flags, to))
    } else {
        (to == sighting.ifindex, Path::Stack)
    };
    if !expected {
        return Verdict::NONE;
    }
    shortcut::close(sighting);
    match connections::touch(sighting, entry) {
        Ok(()) => Verdict::pass(PassReason::Established, path),
        Err(reason) => drop(sighting, reason),
    }
}

/// To the pod behind this interface, from the other end of the connection.
#[inline(always)]
fn into(sighting: &mut Sighting, flags: u32, ifindex: u32) -> Path {
    let limited = if sighting.from_low != 0 { CtEntry::LIMITED_HIGH } else { CtEntry::LIMITED_LOW };
    if flags & limited == 0 {
        return Path::Endpoint(ifindex);
    }
    let Sighting { hop, packet, .. } = sighting;
    hop.set_neighbour(&packet.destination, ifindex);
    Path::Queue
}

/// Which of a connection's ends are reached by the queue of their device: asked once, as long as their policy is the same.
#[inline(never)]
fn limits(low: u32, high: u32) -> u32 {
    // SAFETY: a pointer into the only row of an array map, which is never freed.
    let has_any = report::config().is_some_and(|config| unsafe { (*config).flags } & Config::LIMITS != 0);
    if !has_any {
        return 0;
    }
    // SAFETY: only asks whether the row is there.
    let flag = |ifindex: u32, flag: u32| if unsafe { LIMITED.get(&ifindex) }.is_some() { flag } else { 0 };
    flag(low, CtEntry::LIMITED_LOW) | flag(high, CtEntry::LIMITED_HIGH)
}

/// From a pod, on a connection that goes by the host's stack. One that the pod itself has begun is masqueraded; what it
/// answers, the stack knows how to send back.
#[inline(always)]
fn via_host(flags: u32, from_low: bool) -> Path {
    if (flags & CtEntry::FROM_LOW != 0) == from_low { Path::Masquerade } else { Path::Stack }
}

/// The policy may have changed since the connection was last judged. False cuts it.
#[inline(never)]
fn judge_again(sighting: &mut Sighting, entry: *mut CtEntry) -> bool {
    // SAFETY: entries are freed only after an RCU grace period.
    let flags = unsafe { (*entry).flags };
    let from_low = flags & CtEntry::FROM_LOW != 0;
    judge(&sighting.key, from_low, flags, &mut sighting.judgement);
    let judgement = &sighting.judgement;
    if judgement.denied != 0 && judgement.kept == 0 {
        connections::forget(&sighting.key, flags);
        report::emit(sighting, DropReason::PolicyDenied as u8, judgement.denied);
        return false;
    }
    let (low, high) = ends(from_low, judgement);
    let limits = limits(low, high);
    // SAFETY: as above; another packet of the connection would write the same.
    unsafe {
        (*entry).flags = (*entry).flags & !(CtEntry::LIMITED_LOW | CtEntry::LIMITED_HIGH) | limits;
        (*entry).low_ifindex = low;
        (*entry).high_ifindex = high;
        (*entry).epoch = sighting.epoch;
    }
    true
}

/// The interfaces of the lower and the higher end.
#[inline(always)]
fn ends(from_low: bool, judgement: &Judgement) -> (u32, u32) {
    if from_low {
        (judgement.initiator_ifindex, judgement.responder_ifindex)
    } else {
        (judgement.responder_ifindex, judgement.initiator_ifindex)
    }
}

/// A packet without a connection: judged, and tracked from here on.
#[inline(never)]
fn first_packet(skb: *mut __sk_buff, sighting: &mut Sighting) -> Verdict {
    let from_pod = sighting.is_at(Hook::FromPod);
    let to_pod = sighting.is_at(Hook::ToPod);
    // SAFETY: reading a field of the context that the kernel lets tc programs read.
    let came_by = unsafe { (*skb).ingress_ifindex };
    // The node itself made the packet: it came in by no device.
    let from_node = to_pod && came_by == 0;
    // Or the pod itself, and a port of the host turned it round: by its device comes nothing else.
    let from_itself = to_pod && came_by == sighting.ifindex;
    let mut flags = if from_node || from_itself { CtEntry::FROM_NODE } else { 0 };
    judge(&sighting.key, sighting.from_low != 0, flags, &mut sighting.judgement);
    let initiator = sighting.judgement.initiator_ifindex;
    let responder = sighting.judgement.responder_ifindex;
    if from_pod {
        if initiator != sighting.ifindex {
            return drop(sighting, DropReason::Spoofed);
        }
    } else if to_pod {
        // The stack speaks to a pod by an address that is not the pod's: link-local, multicast.
        if responder != sighting.ifindex {
            return if from_node {
                Verdict::pass(PassReason::Node, Path::Stack)
            } else {
                drop(sighting, DropReason::UnknownEndpoint)
            };
        }
        flags |= CtEntry::VIA_HOST;
    } else if responder == 0 {
        return Verdict::pass(PassReason::Foreign, Path::Stack);
    } else if initiator != 0 {
        return drop(sighting, DropReason::Spoofed);
    }
    let (low, high) = ends(sighting.from_low != 0, &sighting.judgement);
    flags |= limits(low, high);
    let path = if to_pod {
        Path::Stack
    } else if responder != 0 {
        into(sighting, flags, responder)
    } else {
        Path::Network
    };
    if related::is_related(skb, sighting) {
        // To where the packet came from that it is about.
        let via_host = from_pod && sighting.entry.flags & CtEntry::VIA_HOST != 0;
        return Verdict::pass(PassReason::Related, if via_host { Path::Stack } else { path });
    }
    if from_pod && responder == 0 && is_service(&sighting.packet) {
        return drop(sighting, DropReason::UntranslatedService);
    }
    let denied = sighting.judgement.denied;
    if denied != 0 {
        report::emit(sighting, DropReason::PolicyDenied as u8, denied);
        return Verdict::drop(DropReason::PolicyDenied);
    }
    if from_pod && responder == 0 && is_masqueraded(&sighting.packet.destination) {
        return track(sighting, flags | CtEntry::VIA_HOST, Path::Masquerade);
    }
    track(sighting, flags, path)
}

#[inline(always)]
fn track(sighting: &mut Sighting, flags: u32, path: Path) -> Verdict {
    let from_low = sighting.from_low != 0;
    let (low_ifindex, high_ifindex) = ends(from_low, &sighting.judgement);
    sighting.entry.expires_ns = sighting.now_ns + UNREPLIED_NS;
    sighting.entry.epoch = sighting.epoch;
    sighting.entry.flags = flags | if from_low { CtEntry::FROM_LOW } else { 0 };
    sighting.entry.low_ifindex = low_ifindex;
    sighting.entry.high_ifindex = high_ifindex;
    if let Err(reason) = connections::begin(sighting) {
        return drop(sighting, reason);
    }
    let judgement = &sighting.judgement;
    let reason = if flags & CtEntry::FROM_NODE != 0 {
        PassReason::Node
    } else if judgement.judged == 0 {
        PassReason::Itself
    } else if judgement.ingress_rules.is_open() && judgement.egress_rules.is_open() {
        PassReason::Open
    } else {
        PassReason::Rule
    };
    let direction = if judgement.judged & FlowEvent::JUDGED_INGRESS != 0 {
        Direction::Ingress as u8
    } else if judgement.judged & FlowEvent::JUDGED_EGRESS != 0 {
        Direction::Egress as u8
    } else {
        0
    };
    report::emit(sighting, reason as u8, direction);
    Verdict::pass(reason, path)
}

/// Drops for a reason that is not policy's, and says so.
#[inline(always)]
fn drop(sighting: &mut Sighting, reason: DropReason) -> Verdict {
    sighting.judgement = Judgement::NOTHING;
    report::emit(sighting, reason as u8, 0);
    Verdict::drop(reason)
}

/// Whether a pod's connection to this address outside the node leaves with the node's address.
#[inline(never)]
fn is_masqueraded(destination: &Addr) -> bool {
    // SAFETY: a pointer into the only row of an array map, which is never freed.
    let is_on = report::config().is_some_and(|config| unsafe { (*config).flags } & Config::MASQUERADE != 0);
    is_on && NATIVE.get(Key::new(128, *destination)).is_none()
}

#[inline(always)]
fn is_service(packet: &Packet) -> bool {
    if !protocol::has_ports(packet.protocol) {
        return false;
    }
    let key = ServiceKey {
        addr: packet.destination,
        port: packet.destination_port,
        protocol: packet.protocol,
        zero: 0,
    };
    // SAFETY: only asks whether the row is there.
    unsafe { SERVICES.get(&key) }.is_some()
}
