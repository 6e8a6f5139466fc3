//! Hooks: the only place where tc's own words appear. A pod's *egress* is tc *ingress* of the host's side.
//!
//! tcx links are pinned and replaced in place (`bpf_link_update`): there is no instant without a program. Where the kernel
//! lacks tcx, clsact filters with one handle and priority serve, likewise replaced in place; they need no pin, since a
//! filter lives as long as its interface.
//!
//! Attaching to tcx waits for an RCU grace period with the kernel's networking lock held: 10 to 20 ms for each program
//! (6.18), where clsact takes 0.1. So a pod is born on clsact, and moves to tcx when the node is quiet ([`settle`]).

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact, qdisc_detach_program,
};
use aya::programs::{CgroupAttachMode, Link, LinkOrder, ProgramError, SchedClassifier, TcAttachType};

use crate::Dataplane;
use crate::error::Error;
use crate::kernel::kernel_at_least;
use crate::load::{CGROUP_PROGRAMS, Hook, TC_PROGRAMS, classifier, sock_addr};
use crate::pin::Pins;

const CLSACT_PRIORITY: u16 = 1;
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 1);

fn hook_of(program: &str) -> TcAttachType {
    if is_egress(program) { TcAttachType::Egress } else { TcAttachType::Ingress }
}

/// By tc's word: what leaves the interface.
pub(crate) fn is_egress(program: &str) -> bool {
    matches!(program, "to_pod" | "to_overlay")
}

pub(crate) const ENDPOINT_PROGRAMS: [&str; 2] = ["from_pod", "to_pod"];
const OVERLAY_PROGRAMS: [&str; 2] = ["from_overlay", "to_overlay"];

pub(crate) fn endpoint(dataplane: &mut Dataplane, ifindex: u32) -> Result<(), Error> {
    for program in ENDPOINT_PROGRAMS {
        attach(dataplane, program, ifindex)?;
    }
    Ok(())
}

/// Moves one program of one endpoint from clsact to tcx; false if there is nothing left to move.
///
/// While both are attached a packet that goes on to the stack is seen twice: the second finds the connection of the first.
pub(crate) fn settle(dataplane: &mut Dataplane) -> Result<bool, Error> {
    let Some(ifindex) = dataplane.unsettled.first().copied() else { return Ok(false) };
    let (Ok(interface), true) = (interface_name(ifindex), uses_tcx(dataplane.hook)) else {
        dataplane.unsettled.remove(&ifindex);
        return Ok(true);
    };
    for program in ENDPOINT_PROGRAMS {
        if !dataplane.pins.link(program, ifindex).exists() {
            attach_tcx(dataplane, program, ifindex, &interface)?;
            detach_clsact(program, &interface);
            return Ok(true);
        }
    }
    dataplane.unsettled.remove(&ifindex);
    Ok(true)
}

pub(crate) fn underlay(dataplane: &mut Dataplane, ifindex: u32) -> Result<(), Error> {
    // The programs of another layout go on until ours know enough to take their place.
    if dataplane.previous.as_ref().is_some_and(|previous| previous.has_link("from_net", ifindex)) {
        return Ok(());
    }
    attach(dataplane, "from_net", ifindex)
}

/// The VXLAN device. Ingress first: what arrives before it is judged as what it says it is. One that was in its place before
/// is forgotten.
pub(crate) fn overlay(dataplane: &mut Dataplane, ifindex: u32) -> Result<(), Error> {
    let is_gone = |(program, other): &(&str, u32)| OVERLAY_PROGRAMS.contains(program) && *other != ifindex;
    for (program, other) in dataplane.standing.iter().copied().filter(is_gone).collect::<Vec<_>>() {
        Pins::remove(&dataplane.pins.link(program, other))?;
        dataplane.standing.remove(&(program, other));
    }
    for program in OVERLAY_PROGRAMS {
        let is_theirs =
            dataplane.previous.as_ref().is_some_and(|previous| previous.has_link(program, ifindex));
        if !is_theirs {
            attach(dataplane, program, ifindex)?;
        }
    }
    Ok(())
}

pub(crate) fn detach_endpoint(dataplane: &mut Dataplane, ifindex: u32) -> Result<(), Error> {
    let on_clsact = dataplane.unsettled.remove(&ifindex) || !uses_tcx(dataplane.hook);
    for program in ENDPOINT_PROGRAMS {
        Pins::remove(&dataplane.pins.link(program, ifindex))?;
        if on_clsact && let Ok(interface) = interface_name(ifindex) {
            // Without the interface there is no filter either.
            detach_clsact(program, &interface);
        }
    }
    Ok(())
}

/// By the kernel's own account, not ours: somebody may have taken a program off.
///
/// A clsact filter cannot be asked for (aya 0.14), only replaced: which, where it was missing, puts it back.
pub(crate) fn endpoint_attached(dataplane: &mut Dataplane, ifindex: u32) -> Result<bool, Error> {
    if dataplane.previous.is_some() {
        // Not ours to look after yet.
        return Ok(true);
    }
    let interface = interface_name(ifindex)?;
    let mut attached = true;
    for program in ENDPOINT_PROGRAMS {
        attached &= if may_be_on_clsact(dataplane, program, ifindex) {
            attach_clsact(dataplane, program, &interface)?
        } else {
            is_on_tcx(program, &interface)?
        };
    }
    Ok(attached)
}

/// Or on neither: then it is still to be found out.
pub(crate) fn may_be_on_clsact(dataplane: &Dataplane, program: &str, ifindex: u32) -> bool {
    let hooked = !uses_tcx(dataplane.hook) || dataplane.unsettled.contains(&ifindex);
    hooked && !dataplane.pins.link(program, ifindex).exists()
}

fn is_on_tcx(program: &'static str, interface: &str) -> Result<bool, Error> {
    let (_, attached) = SchedClassifier::query_tcx(interface, hook_of(program)).map_err(|source| {
        Error::Attach { program: "query", target: interface.to_owned(), source: Box::new(source) }
    })?;
    Ok(attached.iter().any(|info| info.name_as_str() == Some(program)))
}

/// Puts the programs just loaded in the place of those that an earlier agent left attached.
pub(crate) fn replace_programs(dataplane: &mut Dataplane) -> Result<(), Error> {
    for (program, ifindex) in dataplane.pins.interface_links()? {
        let Some(program) = TC_PROGRAMS.into_iter().find(|name| *name == program) else { continue };
        let Ok(interface) = interface_name(ifindex) else {
            Pins::remove(&dataplane.pins.link(program, ifindex))?;
            continue;
        };
        attach(dataplane, program, ifindex)?;
        if ENDPOINT_PROGRAMS.contains(&program) && uses_tcx(dataplane.hook) {
            // The agent before us may have ended in the middle of a move.
            detach_clsact(program, &interface);
        }
    }
    replace_on_clsact(dataplane)
}

/// What is not on tcx is on clsact, where a filter is found by its interface.
pub(crate) fn replace_on_clsact(dataplane: &mut Dataplane) -> Result<(), Error> {
    for ifindex in endpoint_rows(dataplane) {
        for program in ENDPOINT_PROGRAMS {
            if !dataplane.pins.link(program, ifindex).exists() && interface_name(ifindex).is_ok() {
                attach(dataplane, program, ifindex)?;
            }
        }
    }
    Ok(())
}

/// Attaches, or replaces what is attached.
pub(crate) fn attach(dataplane: &mut Dataplane, program: &'static str, ifindex: u32) -> Result<(), Error> {
    let interface = interface_name(ifindex)?;
    if !ENDPOINT_PROGRAMS.contains(&program) {
        dataplane.standing.insert((program, ifindex));
    }
    let is_new_endpoint =
        ENDPOINT_PROGRAMS.contains(&program) && !dataplane.pins.link(program, ifindex).exists();
    if !uses_tcx(dataplane.hook) {
        attach_clsact(dataplane, program, &interface)?;
        return Ok(());
    }
    if dataplane.hook == Hook::Auto && is_new_endpoint {
        attach_clsact(dataplane, program, &interface)?;
        dataplane.unsettled.insert(ifindex);
        return Ok(());
    }
    attach_tcx(dataplane, program, ifindex, &interface)
}

/// Puts our program in the place of the one that another layout's link has, and the pin of the link where ours are. False
/// if the interface is gone.
pub(crate) fn move_link(
    dataplane: &mut Dataplane,
    program: &'static str,
    ifindex: u32,
    old: &Path,
    ours: &Path,
) -> Result<bool, Error> {
    let failed = |source| Error::Attach { program, target: ifindex.to_string(), source: Box::new(source) };
    let pinned = PinnedLink::from_pin(old).map_err(|source| Error::Link { path: old.to_owned(), source })?;
    let link = SchedClassifierLink::try_from(FdLink::from(pinned))
        .map_err(|source| Error::Link { path: old.to_owned(), source })?;
    let loaded = classifier(&mut dataplane.ebpf, program)?;
    let Ok(id) = loaded.attach_to_link(link) else {
        // The interface that the link was for is gone: it leads nowhere.
        return Ok(false);
    };
    let link = loaded.take_link(id).map_err(failed)?;
    let link = FdLink::try_from(link).map_err(|source| Error::Link { path: old.to_owned(), source })?;
    // Two pins for a moment; the link lives as long as one of them.
    link.pin(ours).map_err(|source| Error::Pin { path: ours.to_owned(), source: Box::new(source) })?;
    Pins::remove(old)?;
    Ok(true)
}

fn attach_tcx(
    dataplane: &mut Dataplane,
    program: &'static str,
    ifindex: u32,
    interface: &str,
) -> Result<(), Error> {
    let path = dataplane.pins.link(program, ifindex);
    let failed = |source| Error::Attach { program, target: interface.to_owned(), source: Box::new(source) };
    let loaded = classifier(&mut dataplane.ebpf, program)?;
    if path.exists() {
        let pinned =
            PinnedLink::from_pin(&path).map_err(|source| Error::Link { path: path.clone(), source })?;
        let link = SchedClassifierLink::try_from(FdLink::from(pinned))
            .map_err(|source| Error::Link { path: path.clone(), source })?;
        match loaded.attach_to_link(link) {
            Ok(id) => {
                // The pin keeps the link; our own handle on it would end with us.
                drop(loaded.take_link(id).map_err(failed)?);
                return Ok(());
            }
            // The interface that the link was for is gone, and its number came back.
            Err(_) => Pins::remove(&path)?,
        }
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = loaded.attach_with_options(interface, hook_of(program), options).map_err(failed)?;
    let link = loaded.take_link(id).map_err(failed)?;
    let link = FdLink::try_from(link).map_err(|source| Error::Link { path: path.clone(), source })?;
    link.pin(&path).map_err(|source| Error::Pin { path, source: Box::new(source) })?;
    Ok(())
}

/// True if there was a filter to replace.
pub(crate) fn attach_clsact(
    dataplane: &mut Dataplane,
    program: &'static str,
    interface: &str,
) -> Result<bool, Error> {
    let failed = |source| Error::Attach { program, target: interface.to_owned(), source: Box::new(source) };
    // "Already there" is the usual answer for the second program; a real failure shows in the attach below.
    if let Err(error) = qdisc_add_clsact(interface) {
        tracing::trace!(interface, %error, "clsact");
    }
    let loaded = classifier(&mut dataplane.ebpf, program)?;
    let options = NlOptions { priority: CLSACT_PRIORITY, handle: CLSACT_HANDLE, ..NlOptions::default() };
    let existing =
        SchedClassifierLink::attached(interface, hook_of(program), CLSACT_PRIORITY, CLSACT_HANDLE, None)
            .map_err(|source| failed(ProgramError::IOError(source)))?;
    let replaced = loaded.attach_to_link(existing);
    let was_there = replaced.is_ok();
    let id = match replaced {
        Ok(id) => id,
        Err(_) => loaded
            .attach_with_options(interface, hook_of(program), TcAttachOptions::Netlink(options))
            .map_err(failed)?,
    };
    // Dropping the link would take the filter off; the filter is to outlive us.
    std::mem::forget(loaded.take_link(id).map_err(failed)?);
    Ok(was_there)
}

fn detach_clsact(program: &'static str, interface: &str) {
    let detached =
        SchedClassifierLink::attached(interface, hook_of(program), CLSACT_PRIORITY, CLSACT_HANDLE, None)
            .map_err(ProgramError::IOError)
            .and_then(Link::detach);
    // Taking off what is not there is no error, and the interface is about to go.
    if let Err(error) = detached {
        tracing::debug!(program, interface, %error, "no filter to take off");
    }
}

/// Takes `from_net` off an interface where it lies without a pin, as on kernels without tcx.
pub(crate) fn detach_underlay(interface: &str) {
    // By its name: a filter of anybody else's stays. Most interfaces have none.
    if let Err(error) = qdisc_detach_program(interface, hook_of("from_net"), "from_net") {
        tracing::trace!(interface, %error, "no filter to take off");
    }
}

/// The interfaces that rows name: how endpoints are found where there are no pinned links.
fn endpoint_rows(dataplane: &Dataplane) -> BTreeSet<u32> {
    dataplane.tables.endpoints.values().map(|row| row.ifindex).collect()
}

pub(crate) fn attached_endpoints(dataplane: &Dataplane) -> Result<Vec<u32>, Error> {
    let mut attached: BTreeSet<u32> = dataplane.pins.endpoints()?.into_iter().collect();
    if let Some(previous) = &dataplane.previous {
        attached.extend(previous.pins.endpoints()?);
    }
    attached.extend(&dataplane.unsettled);
    if !uses_tcx(dataplane.hook) {
        attached.extend(endpoint_rows(dataplane));
    }
    Ok(attached.into_iter().collect())
}

pub(crate) fn cgroup(dataplane: &mut Dataplane, cgroup: &Path) -> Result<(), Error> {
    if let Some(previous) = &mut dataplane.previous {
        previous.cgroup = Some(cgroup.to_owned());
        return Ok(());
    }
    let folder = File::open(cgroup).map_err(|source| Error::Cgroup { path: cgroup.to_owned(), source })?;
    for program in CGROUP_PROGRAMS {
        cgroup_program(dataplane, program, &folder, cgroup)?;
    }
    dataplane.cgroup = Some(cgroup.to_owned());
    Ok(())
}

/// `folder` is the cgroup, opened.
pub(crate) fn cgroup_program(
    dataplane: &mut Dataplane,
    program: &'static str,
    folder: &File,
    cgroup: &Path,
) -> Result<(), Error> {
    let failed =
        |source| Error::Attach { program, target: cgroup.display().to_string(), source: Box::new(source) };
    let path = dataplane.pins.cgroup_link(program);
    let loaded = sock_addr(&mut dataplane.ebpf, program)?;
    // Links always share a cgroup with others (BPF_F_ALLOW_MULTI); the kernel refuses to be told so (5.7).
    let id = loaded.attach(folder, CgroupAttachMode::Single).map_err(failed)?;
    let link = loaded.take_link(id).map_err(failed)?;
    let link = FdLink::try_from(link).map_err(|source| Error::Link { path: path.clone(), source })?;
    // For an instant the old and the new program both run: the second finds an address already translated.
    Pins::remove(&path)?;
    link.pin(&path).map_err(|source| Error::Pin { path, source: Box::new(source) })?;
    Ok(())
}

fn uses_tcx(hook: Hook) -> bool {
    match hook {
        Hook::Auto => kernel_at_least(6, 6),
        Hook::Tcx => true,
        Hook::Clsact => false,
    }
}

pub(crate) fn interface_name(ifindex: u32) -> Result<String, Error> {
    match nix::net::if_::if_indextoname(ifindex) {
        // nix 0.31 overlooks the failure and answers with no name.
        Ok(name) if !name.is_empty() => Ok(name.to_string_lossy().into_owned()),
        _ => Err(Error::NoInterface { ifindex }),
    }
}
