//! Links, addresses, routes, neighbours, network namespaces, and netfilter's rules.
//!
//! Small on purpose: what the plugin, the agent and the sandbox need of rtnetlink, with errors that name the object, and
//! with namespaces as values that undo what they did. Nothing here decides anything about pods.
//!
//! A [`Handle`] stays in the namespace it was opened in, whatever its thread does later; only [`sysctl`],
//! [`Monitor::new`] and [`Netns::current`] look at the calling thread.
#![forbid(unsafe_code)]

mod address;
mod error;
mod handle;
mod host_side;
mod link;
mod monitor;
mod neighbour;
mod netns;
pub mod nftables;
mod route;
mod shaping;
mod sysctl;
mod vxlan;

use std::net::{Ipv4Addr, Ipv6Addr};

pub use error::Error;
pub use handle::Handle;
pub use host_side::{Fault, HostSide};
pub use link::{Link, VethSpec};
pub use monitor::{Change, Monitor};
pub use neighbour::Neighbour;
pub use netns::{Netns, NetnsGuard};
pub use route::Route;
pub use shaping::Limit;
pub use sysctl::{read_sysctl, sysctl};
pub use vxlan::VxlanSpec;

/// A link-layer address.
pub type Mac = [u8; 6];

/// What pods use as their IPv4 gateway: link-local, on every host-side veth, so no address of the range is spent.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// What pods use as their IPv6 gateway.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Every host-side veth has this address (locally administered: `weir` after 0x02, 0x00), so a pod's permanent
/// neighbour for its gateway is a constant and no ARP or neighbour discovery is ever needed.
pub const HOST_MAC: Mac = [0x02, 0x00, 0x77, 0x65, 0x69, 0x72];

/// The routing protocol number that marks routes as ours (`ip route show proto 87`).
pub const ROUTE_PROTOCOL: u8 = 87;
