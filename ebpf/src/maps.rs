//! Every map, and nothing else. What the rows mean stands in `common`.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::LpmTrie;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use common::config::{Config, Load};
use common::conntrack::{ClosedRow, CtEntry, CtKey};
use common::endpoint::EndpointRow;
use common::fragment::{FragmentKey, FragmentRow};
use common::id::ClassId;
use common::maps as sizes;
use common::net::Addr;
use common::overlay::{NodeRow, TunnelRow};
use common::rules::{RuleKey, RuleRow};
use common::service::{BackendKey, BackendRow, ServiceKey, ServiceRow, SocketKey};
use common::verdict::counter;

use crate::route::{self, Route};
use crate::shortcut::{self, Shortcut};
use crate::sighting::Sighting;

#[map]
pub(crate) static CONFIG: Array<Config> = Array::pinned(1, 0);
#[map]
pub(crate) static LOAD: Array<Load> = Array::pinned(1, 0);

// Tables grow with what they hold: a node with ten pods does not pay for a thousand.
#[map]
pub(crate) static ENDPOINTS: HashMap<Addr, EndpointRow> =
    HashMap::pinned(sizes::ENDPOINTS_CAPACITY, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static PEERS: HashMap<Addr, ClassId> = HashMap::pinned(sizes::PEERS_CAPACITY, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static CIDRS: LpmTrie<Addr, ClassId> = LpmTrie::pinned(sizes::CIDRS_CAPACITY, 0);
/// A set: the value says nothing.
#[map]
pub(crate) static NATIVE: LpmTrie<Addr, u32> = LpmTrie::pinned(sizes::NATIVE_CAPACITY, 0);
#[map]
pub(crate) static LIMITED: HashMap<u32, u32> = HashMap::pinned(sizes::ENDPOINTS_CAPACITY, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static RULES: LpmTrie<RuleKey, RuleRow> = LpmTrie::pinned(sizes::RULES_CAPACITY, 0);
#[map]
pub(crate) static SERVICES: HashMap<ServiceKey, ServiceRow> =
    HashMap::pinned(sizes::SERVICES_CAPACITY, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static BACKENDS: HashMap<BackendKey, BackendRow> =
    HashMap::pinned(sizes::BACKENDS_CAPACITY, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static TUNNELS: LpmTrie<Addr, TunnelRow> = LpmTrie::pinned(sizes::TUNNELS_CAPACITY, 0);
#[map]
pub(crate) static NODES: Array<NodeRow> = Array::pinned(sizes::NODES_CAPACITY, 0);
#[map]
pub(crate) static CT: HashMap<CtKey, CtEntry> = HashMap::pinned(sizes::CT_CAPACITY, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static CT_HALF: LruHashMap<CtKey, CtEntry> = LruHashMap::pinned(sizes::CT_HALF_CAPACITY, 0);
#[map]
pub(crate) static CT_CLOSED: Array<ClosedRow> = Array::pinned(sizes::CT_CLOSED_CAPACITY, 0);
#[map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentRow> =
    LruHashMap::pinned(sizes::FRAGMENTS_CAPACITY, 0);
#[map]
pub(crate) static SERVICE_SOCKETS: LruHashMap<SocketKey, ServiceKey> =
    LruHashMap::pinned(sizes::SERVICE_SOCKETS_CAPACITY, 0);
#[map]
pub(crate) static FLOWS: RingBuf = RingBuf::pinned(sizes::FLOWS_BYTES, 0);
#[map]
pub(crate) static COUNTERS: PerCpuArray<counter::Cell> = PerCpuArray::pinned(counter::SLOTS, 0);

/// Room for the packet at hand; not pinned, since it means nothing to anybody else.
#[map]
pub(crate) static SIGHTINGS: PerCpuArray<Sighting> = PerCpuArray::with_max_entries(1, 0);

/// What each CPU decided lately, and by which routes; not pinned, as it is good for a moment only.
#[map]
pub(crate) static SHORTCUTS: PerCpuArray<Shortcut> = PerCpuArray::with_max_entries(shortcut::SLOTS, 0);

#[map]
pub(crate) static ROUTES: PerCpuArray<Route> = PerCpuArray::with_max_entries(route::SLOTS, 0);

/// Whether `bpf_set_retval` exists (kernel 5.18). Set by the loader; frozen, so the verifier never sees the other branch.
#[unsafe(no_mangle)]
pub(crate) static HAS_SET_RETVAL: u32 = 0;

/// How many connections without a reply `CT` may hold. Set by the loader, which knows the capacity of `CT`.
#[unsafe(no_mangle)]
pub(crate) static HALF_OPEN_LIMIT: u32 = 0;

/// The overlay's UDP port; 0 where there is no overlay. Set by the loader.
#[unsafe(no_mangle)]
pub(crate) static OVERLAY_PORT: u32 = 0;

/// The overlay's virtual network. Set by the loader.
#[unsafe(no_mangle)]
pub(crate) static OVERLAY_VNI: u32 = 0;

/// Whether one family can be taken out of the other (kernel 6.3). Set by the loader.
#[unsafe(no_mangle)]
pub(crate) static HAS_DECAP_FLAGS: u32 = 0;
