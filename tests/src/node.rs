//! A node for frames: the real programs and maps, two local pods and an underlay, all in namespaces of the test's own.
//!
//! Frames go through `BPF_PROG_TEST_RUN`, so nothing is on a wire; the interfaces are there because endpoints are known
//! by their number, and routes because the programs ask for them. What a frame met is read from the exact counters: a
//! verdict never stands without its reason.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::endpoint::EndpointRow;
use common::flow::FlowEvent;
use common::id::RuleSetId;
use common::maps::LAYOUT_VERSION;
use common::net::Addr;
use common::verdict::{Direction, DropReason, PassReason};
use dataplane::{Action, Capacities, Dataplane, Options, Trial, Trialled};
use netlink::{HOST_MAC, Handle, Netns, NetnsGuard, Route, VethSpec, sysctl};
use policy::tables::MapOp;

use crate::bpffs::Bpffs;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Somebody with an address in each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Party {
    pub fn on(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    pub fn addrs(self) -> [Addr; 2] {
        FAMILIES.map(|family| self.on(family).into())
    }
}

/// The two pods of this node.
pub const A: Party =
    Party { v4: Ipv4Addr::new(10, 244, 0, 2), v6: Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 2) };
pub const B: Party =
    Party { v4: Ipv4Addr::new(10, 244, 0, 3), v6: Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 3) };
/// A pod of another node.
pub const REMOTE: Party =
    Party { v4: Ipv4Addr::new(10, 244, 1, 9), v6: Ipv6Addr::new(0xfd00, 0x244, 0, 1, 0, 0, 0, 9) };
pub const NODE: Party =
    Party { v4: Ipv4Addr::new(172, 30, 0, 10), v6: Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, 0x10) };
pub const OTHER_NODE: Party =
    Party { v4: Ipv4Addr::new(172, 30, 0, 11), v6: Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, 0x11) };
/// Nobody has a route to it.
pub const STRANGER: Party =
    Party { v4: Ipv4Addr::new(198, 51, 100, 7), v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7) };

/// What a frame met: what tc does with it, and the one reason that was counted.
#[derive(Clone, PartialEq, Eq)]
pub struct Met {
    action: Action,
    reasons: Vec<&'static str>,
}

impl Met {
    /// The one reason that was counted.
    #[track_caller]
    pub fn reason(&self) -> &'static str {
        assert_eq!(self.reasons.len(), 1, "{self:?}");
        self.reasons[0]
    }

    pub fn passed(&self) -> bool {
        self.action != Action::Drop
    }
}

impl fmt::Debug for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} because {}", self.action, self.reasons.join(" and "))
    }
}

pub fn dropped(reason: DropReason) -> Met {
    Met { action: Action::Drop, reasons: vec![reason.as_str()] }
}

/// Straight into a pod, or out of the node.
pub fn redirected(reason: PassReason) -> Met {
    Met { action: Action::Redirect, reasons: vec![reason.as_str()] }
}

/// On to the next program, and in the end to the stack.
pub fn onward(reason: PassReason) -> Met {
    Met { action: Action::Next, reasons: vec![reason.as_str()] }
}

/// Fields are in the order in which they must go.
pub struct Node {
    pub dataplane: Dataplane,
    options: Options,
    /// The host's side of each pod's veth pair, and the underlay.
    pub ifindex_a: u32,
    pub ifindex_b: u32,
    pub underlay: u32,
    /// The pod's side of `A`'s pair.
    pub peer_a: u32,
    /// What became of the last frame.
    pub frame: Vec<u8>,
    runtime: tokio::runtime::Runtime,
    _inside: NetnsGuard,
    _netns: Netns,
    _bpffs: Bpffs,
}

impl Node {
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    /// With maps of other sizes.
    pub fn with_capacities(capacities: &[(&'static str, u32)]) -> Self {
        Self::with(Options { capacities: Capacities(capacities.to_vec()), ..Options::default() })
    }

    /// Both pods are there and open. The options' folder for pins is replaced by one of the test's own.
    pub fn with(options: Options) -> Self {
        let bpffs = Bpffs::new();
        let netns = Netns::new_anonymous().unwrap();
        let inside = netns.enter().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let [(ifindex_a, peer_a), (ifindex_b, _), (underlay, _)] = runtime.block_on(wire(&netns)).unwrap();
        let options = Options { pins: bpffs.path().join("weir"), ..options };
        let mut node = Self {
            dataplane: Dataplane::open(&options).unwrap(),
            options,
            ifindex_a,
            ifindex_b,
            underlay,
            peer_a,
            frame: Vec::new(),
            runtime,
            _inside: inside,
            _netns: netns,
            _bpffs: bpffs,
        };
        node.put_endpoint(A, |_| {});
        node.put_endpoint(B, |_| {});
        node
    }

    /// The agent dies and another one takes over.
    pub fn restart_agent(&mut self) {
        self.restart_agent_with(|_| {});
    }

    /// The agent dies and one with other options takes over.
    pub fn restart_agent_with(&mut self, change: impl Fn(&mut Options)) {
        change(&mut self.options);
        self.dataplane = Dataplane::open(&self.options).unwrap();
    }

    pub fn ifindex(&self, pod: Party) -> u32 {
        match pod {
            A => self.ifindex_a,
            B => self.ifindex_b,
            other => panic!("{other:?} is no pod of this node"),
        }
    }

    pub fn apply(&mut self, plan: impl IntoIterator<Item = MapOp>) {
        self.dataplane.apply(&plan.into_iter().collect::<Vec<_>>()).unwrap();
    }

    /// From now on only what the rule set allows passes in this direction.
    pub fn isolate(&mut self, pod: Party, direction: Direction, rules: RuleSetId) {
        self.put_endpoint(pod, |row| match direction {
            Direction::Ingress => row.ingress = rules,
            Direction::Egress => row.egress = rules,
        });
    }

    pub fn put_endpoint(&mut self, pod: Party, change: impl Fn(&mut EndpointRow)) {
        let new = EndpointRow {
            ifindex: self.ifindex(pod),
            flags: 0,
            ingress: RuleSetId::OPEN,
            egress: RuleSetId::OPEN,
        };
        let plan = pod.addrs().map(|addr| {
            let mut row = self.dataplane.tables().endpoints.get(&addr).copied().unwrap_or(new);
            change(&mut row);
            MapOp::PutEndpoint(addr, row)
        });
        self.apply(plan);
    }

    pub fn advance_epoch(&mut self) {
        self.apply([MapOp::AdvanceEpoch]);
    }

    /// A pod sends a frame.
    pub fn from_pod(&mut self, pod: Party, frame: &[u8]) -> Met {
        let ifindex = self.ifindex(pod);
        self.meet("from_pod", ifindex, ifindex, frame)
    }

    /// The node itself sends a frame to a pod.
    pub fn from_node(&mut self, to: Party, frame: &[u8]) -> Met {
        self.meet("to_pod", self.ifindex(to), 0, frame)
    }

    /// The stack forwards a frame to a pod.
    pub fn forwarded(&mut self, to: Party, frame: &[u8]) -> Met {
        self.meet("to_pod", self.ifindex(to), self.underlay, frame)
    }

    /// A frame comes from the network.
    pub fn from_net(&mut self, frame: &[u8]) -> Met {
        self.meet("from_net", self.underlay, self.underlay, frame)
    }

    /// A frame comes out of a VXLAN device, or goes into one: here it is any device.
    pub fn at_overlay(&mut self, program: &'static str, frame: &[u8]) -> Met {
        self.meet(program, self.underlay, self.underlay, frame)
    }

    fn meet(&mut self, program: &'static str, ifindex: u32, ingress_ifindex: u32, frame: &[u8]) -> Met {
        let before = self.reasons();
        let trial = Trial { program, frame, ifindex, ingress_ifindex, repeat: 1 };
        let Trialled { action, frame, .. } = self.dataplane.try_out(&trial).unwrap();
        self.frame = frame;
        let mut reasons = Vec::new();
        for (name, packets) in self.reasons() {
            let known = before.iter().find(|(other, _)| *other == name).map_or(0, |(_, packets)| *packets);
            reasons.extend((known..packets).map(|_| name));
        }
        Met { action, reasons }
    }

    /// How often each reason was counted.
    fn reasons(&self) -> Vec<(&'static str, u64)> {
        let counters = self.dataplane.counters().unwrap().into_iter();
        let is_reason = |name: &str| {
            DropReason::ALL.iter().any(|reason| reason.as_str() == name)
                || PassReason::ALL.iter().any(|reason| reason.as_str() == name)
        };
        counters.map(|counter| (counter.name, counter.packets)).filter(|(name, _)| is_reason(name)).collect()
    }

    /// The value of one counter.
    pub fn counted(&self, name: &str) -> u64 {
        let counters = self.dataplane.counters().unwrap();
        counters.iter().find(|counter| counter.name == name).map_or(0, |counter| counter.packets)
    }

    /// The flow events since the last call, at least one.
    pub fn events(&mut self) -> Vec<FlowEvent> {
        let dataplane = &mut self.dataplane;
        let next = async {
            let mut reader = dataplane.flows().unwrap();
            tokio::time::timeout(Duration::from_secs(5), reader.next()).await
        };
        self.runtime.block_on(next).expect("a flow event within five seconds").unwrap()
    }

    /// The last flow event.
    pub fn last_event(&mut self) -> FlowEvent {
        *self.events().last().expect("a batch is never empty")
    }

    /// The agent's folder of pins.
    pub fn pins(&self) -> &Path {
        &self.options.pins
    }

    /// Where a map is pinned.
    pub fn map_pin(&self, map: &str) -> PathBuf {
        self.options.pins.join(format!("layout-{LAYOUT_VERSION}/maps")).join(map)
    }

    /// Where a tcx link is pinned (`dataplane/src/pin.rs`).
    pub fn link_pin(&self, program: &str, pod: Party) -> PathBuf {
        let folder = format!("layout-{}/links", LAYOUT_VERSION);
        self.options.pins.join(folder).join(format!("{program}-{}", self.ifindex(pod)))
    }

    /// A pod's pair of links goes.
    pub fn delete_link(&self, pod: Party) {
        let delete = async { Handle::new()?.delete_link(self.ifindex(pod)).await };
        self.runtime.block_on(delete).unwrap();
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

/// Two veth pairs for the pods and one for the underlay, whose other ends are in the same namespace; addresses, and a
/// route to the other node's pods.
async fn wire(netns: &Netns) -> Result<[(u32, u32); 3], netlink::Error> {
    let handle = Handle::new()?;
    // Or link-local addresses could not be used for a second.
    sysctl("ipv6/conf/default/accept_dad", "0")?;
    let mut pairs = [(0, 0); 3];
    for (pair, (name, peer_name)) in pairs.iter_mut().zip([("a", "a0"), ("b", "b0"), ("net", "net0")]) {
        let spec = VethSpec {
            name,
            mac: HOST_MAC,
            mtu: 1500,
            peer_name,
            peer_mac: HOST_MAC,
            peer_mtu: 1500,
            peer_netns: netns,
        };
        let (own, peer) = handle.create_veth(&spec).await?;
        handle.set_up(own).await?;
        handle.set_up(peer).await?;
        *pair = (own, peer);
    }
    sysctl("ipv4/ip_forward", "1")?;
    sysctl("ipv6/conf/all/forwarding", "1")?;
    let [.., (underlay, _)] = pairs;
    for (family, on_link, pods) in [(Family::V4, 24, "10.244.1.0/24"), (Family::V6, 64, "fd00:244:0:1::/64")]
    {
        handle.add_address(underlay, ipnet::IpNet::new(NODE.on(family), on_link).expect("a prefix")).await?;
        let route = Route {
            destination: pods.parse().expect("a block"),
            via: Some(OTHER_NODE.on(family)),
            oif: underlay,
            source: None,
            onlink: false,
            protocol: netlink::ROUTE_PROTOCOL,
            link_scope: false,
        };
        handle.add_route(&route).await?;
    }
    Ok(pairs)
}
