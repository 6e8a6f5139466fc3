//! What an endpoint's parts are called: derived from what the runtime says, so that `DEL` finds them with no state left.

use std::net::IpAddr;

use netlink::Mac;
use sha2::{Digest, Sha256};

/// What every host-side name starts with.
const PREFIX: &str = "weir";

/// The host's side of the veth pair: 44 bits of a hash, so that 15 bytes name any container's any interface.
pub(crate) fn host_name(container_id: &str, ifname: &str) -> String {
    // Neither can hold a slash.
    let hash = Sha256::digest(format!("{container_id}/{ifname}"));
    let hex: String = hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{PREFIX}{}", &hex[..11])
}

/// Whether a link is called as [`host_name`] calls them.
pub(crate) fn is_host_name(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|hex| {
        hex.len() == 11 && hex.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// A locally administered address that follows from the pod's own, so that it is as stable. Each pair is a link of its
/// own: two pods may share one.
pub(crate) fn pod_mac(ip: IpAddr) -> Mac {
    let [a, b, c, d] = match ip {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(ip) => {
            let hash = Sha256::digest(ip.octets());
            [hash[0], hash[1], hash[2], hash[3]]
        }
    };
    [0x02, 0x01, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_fits_the_kernel_and_tells_interfaces_apart() {
        let id = "3f4c9a".repeat(10);
        let name = host_name(&id, "eth0");
        assert_eq!(name.len(), 15);
        assert!(is_host_name(&name));
        assert_eq!(name, host_name(&id, "eth0"));
        assert_ne!(name, host_name(&id, "eth1"));
        assert_ne!(host_name("a", "eth0"), host_name("b", "eth0"));
    }

    #[test]
    fn a_name_never_changes_or_del_would_not_find_what_an_older_plugin_made() {
        assert_eq!(host_name("c1", "eth0"), "weird72e032fedd");
    }

    #[test]
    fn other_links_are_not_taken_for_ours() {
        for name in ["weir", "weir0", "weir-overlay", "weir0123456789x", "eth0", "WEIR0123456789a"] {
            assert!(!is_host_name(name), "{name}");
        }
    }

    #[test]
    fn a_pods_mac_follows_from_its_address_and_is_not_the_hosts() {
        assert_eq!(pod_mac("10.244.0.5".parse().unwrap()), [0x02, 0x01, 10, 244, 0, 5]);
        let v6: IpAddr = "fd00::5".parse().unwrap();
        assert_eq!(pod_mac(v6), pod_mac(v6));
        assert_ne!(pod_mac(v6)[1], netlink::HOST_MAC[1]);
    }
}
