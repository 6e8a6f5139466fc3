//! Map names, capacities and what they cost.

/// Pins live under a folder of this name. Raised whenever old pins cannot be read any more.
pub const LAYOUT_VERSION: u32 = 2;

/// The layouts whose connections (`CT`, `CT_HALF`), `FRAGMENTS` and `SERVICE_SOCKETS` have rows of our meaning, so that a new
/// agent may share them. Same size is not enough.
pub const LAYOUTS_ALIKE: &[u32] = &[1, 2];

pub const CONFIG: &str = "CONFIG";
/// What the programs keep in mind about the node as a whole.
pub const LOAD: &str = "LOAD";
/// Address of a pod of this node -> `EndpointRow`.
pub const ENDPOINTS: &str = "ENDPOINTS";
/// Address of a pod anywhere -> `ClassId`.
pub const PEERS: &str = "PEERS";
/// CIDR (128 bits, IPv4 mapped) -> `ClassId`; consulted where `PEERS` has no row.
pub const CIDRS: &str = "CIDRS";
pub const RULES: &str = "RULES";
pub const SERVICES: &str = "SERVICES";
pub const BACKENDS: &str = "BACKENDS";
/// Connections.
pub const CT: &str = "CT";
/// Connections without a reply beyond those that `CT` has room for: an LRU, in which a flood of SYNs evicts only its like.
pub const CT_HALF: &str = "CT_HALF";
/// Connections that have ended, for what still comes of them: repeated FINs. Small, so that it stays in the processor's
/// cache; under thousands of ends a second it remembers the latest.
pub const CT_CLOSED: &str = "CT_CLOSED";
pub const FRAGMENTS: &str = "FRAGMENTS";
pub const FLOWS: &str = "FLOWS";
pub const COUNTERS: &str = "COUNTERS";
/// CIDR (128 bits, IPv4 mapped) -> 0: what pods reach by their own addresses. All else they reach by their node's.
pub const NATIVE: &str = "NATIVE";
/// The host side of a pod's veth -> 0: what is for the pod takes the queue of this device.
pub const LIMITED: &str = "LIMITED";
/// Socket and backend -> the `ServiceKey` that the program in the pod asked for.
pub const SERVICE_SOCKETS: &str = "SERVICE_SOCKETS";
/// Block of addresses (128 bits, IPv4 mapped) -> `TunnelRow`.
pub const TUNNELS: &str = "TUNNELS";
/// Number of another node -> `NodeRow`.
pub const NODES: &str = "NODES";

pub const ENDPOINTS_CAPACITY: u32 = 1 << 10;
pub const PEERS_CAPACITY: u32 = 1 << 18;
pub const CIDRS_CAPACITY: u32 = 1 << 14;
pub const RULES_CAPACITY: u32 = 1 << 20;
pub const SERVICES_CAPACITY: u32 = 1 << 16;
pub const BACKENDS_CAPACITY: u32 = 1 << 18;
pub const CT_CAPACITY: u32 = 1 << 18;
/// What part of `CT` connections without a reply may have.
pub const CT_HALF_OPEN_PART: u32 = 16;
pub const CT_HALF_CAPACITY: u32 = 1 << 14;
/// A power of two.
pub const CT_CLOSED_CAPACITY: u32 = 1 << 11;
pub const FRAGMENTS_CAPACITY: u32 = 1 << 12;
pub const FLOWS_BYTES: u32 = 1 << 20;
/// Thousands of nodes, with a block of each family.
pub const NATIVE_CAPACITY: u32 = 1 << 14;
pub const SERVICE_SOCKETS_CAPACITY: u32 = 1 << 16;
/// Pod CIDRs and addresses of all nodes, a handful each.
pub const TUNNELS_CAPACITY: u32 = 1 << 15;
pub const NODES_CAPACITY: u32 = 1 << 13;
