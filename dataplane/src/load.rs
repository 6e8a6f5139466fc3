//! Loading: new pins, or those of an earlier agent with its programs replaced in place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use aya::maps::MapInfo;
use aya::programs::{CgroupSockAddr, SchedClassifier};
use aya::{EbpfLoader, include_bytes_aligned};
use common::maps as names;

use crate::Dataplane;
use crate::attach;
use crate::audit::Audit;
use crate::error::Error;
use crate::kernel::{self, kernel_at_least};
use crate::maps::Maps;
use crate::migrate::{self, Previous};
use crate::pin::Pins;
use crate::rows;

/// How programs are attached to an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hook {
    /// Born on clsact, then moved to tcx where the kernel has it (6.6).
    #[default]
    Auto,
    Tcx,
    Clsact,
}

/// Sizes that differ from those of `common::maps`; for tests of what happens when they are reached.
#[derive(Clone, Debug, Default)]
pub struct Capacities(pub Vec<(&'static str, u32)>);

/// What the overlay's packets say of themselves; the same on all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayOptions {
    /// UDP.
    pub port: u16,
    /// 24 bits.
    pub vni: u32,
}

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A folder on a bpffs, this agent's own.
    pub pins: PathBuf,
    pub capacities: Capacities,
    pub hook: Hook,
    /// Pins of another layout are taken over from ([`Dataplane::take_over`]) and not refused.
    pub migrate: bool,
    /// The overlay between nodes, if there is to be one.
    pub overlay: Option<OverlayOptions>,
    /// In place of `LAYOUT_VERSION`; for tests of what happens between two.
    pub layout: Option<u32>,
}

pub(crate) const TC_PROGRAMS: [&str; 5] = ["from_pod", "to_pod", "from_net", "from_overlay", "to_overlay"];
pub(crate) const CGROUP_PROGRAMS: [&str; 8] =
    ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir.bpf.o"));

pub(crate) fn open(options: &Options) -> Result<Dataplane, Error> {
    kernel::check()?;
    let layout = options.layout.unwrap_or(names::LAYOUT_VERSION);
    let (pins, previous) = Pins::open(&options.pins, layout, options.migrate)?;
    let adopted = pins.map(names::CONFIG).exists();
    rows::check(&pins)?;
    let shared = match &previous {
        Some(old) => migrate::share(old, &pins)?,
        None => false,
    };
    let maps_folder = pins.maps();
    let has_set_retval = u32::from(kernel_at_least(5, 18));
    let half_open_limit = connections_capacity(&pins, &options.capacities)? / names::CT_HALF_OPEN_PART;
    let overlay_port = options.overlay.map_or(0, |overlay| u32::from(overlay.port));
    let overlay_vni = options.overlay.map_or(0, |overlay| overlay.vni);
    let has_decap_flags = u32::from(kernel_at_least(6, 3));
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(&maps_folder).override_global("HAS_SET_RETVAL", &has_set_retval, true);
    loader.override_global("HALF_OPEN_LIMIT", &half_open_limit, true);
    loader.override_global("OVERLAY_PORT", &overlay_port, true);
    loader.override_global("OVERLAY_VNI", &overlay_vni, true);
    loader.override_global("HAS_DECAP_FLAGS", &has_decap_flags, true);
    for (map, entries) in &options.capacities.0 {
        loader.map_max_entries(map, *entries);
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| Error::LoadObject(Box::new(error)))?;
    for name in TC_PROGRAMS.into_iter().chain(["sweep"]) {
        classifier(&mut ebpf, name)?
            .load()
            .map_err(|source| Error::Load { program: name, source: Box::new(source) })?;
    }
    for name in CGROUP_PROGRAMS {
        sock_addr(&mut ebpf, name)?
            .load()
            .map_err(|source| Error::Load { program: name, source: Box::new(source) })?;
    }
    let mut ids = BTreeMap::new();
    for name in TC_PROGRAMS {
        let info = classifier(&mut ebpf, name)?.info();
        let info = info.map_err(|source| Error::Load { program: name, source: Box::new(source) })?;
        ids.insert(name, info.id());
    }
    for name in CGROUP_PROGRAMS {
        let info = sock_addr(&mut ebpf, name)?.info();
        let info = info.map_err(|source| Error::Load { program: name, source: Box::new(source) })?;
        ids.insert(name, info.id());
    }
    let audit = Audit::new(&pins)?;
    let mut maps = Maps::take(&mut ebpf, &pins)?;
    if let (Some(old), true) = (&previous, shared)
        && maps.config()?.generation == 0
    {
        maps.set_epoch(migrate::epoch_after(old)?)?;
    }
    maps.note_config()?;
    let tables = if adopted { maps.read()? } else { policy::tables::Tables::default() };
    let mut dataplane = Dataplane {
        ebpf,
        maps,
        pins,
        hook: options.hook,
        adopted,
        tables,
        unsettled: BTreeSet::new(),
        standing: BTreeSet::new(),
        cgroup: None,
        ids,
        audit,
        previous: previous.map(Previous::new),
    };
    attach::replace_programs(&mut dataplane)?;
    Ok(dataplane)
}

/// Of the pinned table if there is one, else of the one that will be made.
fn connections_capacity(pins: &Pins, capacities: &Capacities) -> Result<u32, Error> {
    let pin = pins.map(names::CT);
    if pin.exists() {
        let info = MapInfo::from_pin(pin).map_err(Error::map("ask about", names::CT))?;
        return Ok(info.max_entries());
    }
    let chosen = capacities.0.iter().find(|(map, _)| *map == names::CT);
    Ok(chosen.map_or(names::CT_CAPACITY, |(_, entries)| *entries))
}

pub(crate) fn classifier<'a>(
    ebpf: &'a mut aya::Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, Error> {
    let program = ebpf.program_mut(name).ok_or(Error::Missing { kind: "program", name })?;
    program.try_into().map_err(|source| Error::Load { program: name, source: Box::new(source) })
}

pub(crate) fn sock_addr<'a>(
    ebpf: &'a mut aya::Ebpf,
    name: &'static str,
) -> Result<&'a mut CgroupSockAddr, Error> {
    let program = ebpf.program_mut(name).ok_or(Error::Missing { kind: "program", name })?;
    program.try_into().map_err(|source| Error::Load { program: name, source: Box::new(source) })
}
