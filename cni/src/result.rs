//! `ADD`'s answer, in the shape of the request's version.

use std::net::IpAddr;

use netlink::Mac;
use serde_json::{Value, json};

use crate::spec::Version;
use crate::wiring::{Wiring, gateway};

/// The answer for an endpoint. What the plugins before made (`prev`) stays in front and as it is: interfaces are
/// referred to by their place in the list.
pub(crate) fn add_answer(
    version: Version,
    wiring: &Wiring,
    sandbox: &str,
    prev: Option<&Value>,
    dns: Option<&Value>,
) -> Value {
    let mut answer = prev.cloned().unwrap_or_else(|| json!({}));
    answer["cniVersion"] = version.as_str().into();

    let before = append(
        &mut answer["interfaces"],
        [
            interface(version, &wiring.host_name, netlink::HOST_MAC, wiring.mtu, None),
            interface(version, &wiring.ifname, wiring.mac, wiring.mtu, Some(sandbox)),
        ],
    );
    append(&mut answer["ips"], wiring.ips.iter().map(|ip| address(version, *ip, before + 1)));
    append(&mut answer["routes"], wiring.ips.iter().map(|ip| default_route(*ip)));
    if let Some(dns) = dns {
        answer["dns"] = dns.clone();
    } else if answer["dns"].is_null() {
        answer["dns"] = json!({});
    }
    answer
}

/// Returns how many were there before.
fn append(list: &mut Value, items: impl IntoIterator<Item = Value>) -> usize {
    let mut all = match list.take() {
        Value::Array(before) => before,
        _ => Vec::new(),
    };
    let before = all.len();
    all.extend(items);
    *list = all.into();
    before
}

fn interface(version: Version, name: &str, mac: Mac, mtu: u32, sandbox: Option<&str>) -> Value {
    let mut interface = json!({ "name": name, "mac": format_mac(mac) });
    if version >= Version::V1_1_0 {
        interface["mtu"] = mtu.into();
    }
    if let Some(sandbox) = sandbox {
        interface["sandbox"] = sandbox.into();
    }
    interface
}

fn address(version: Version, ip: IpAddr, interface: usize) -> Value {
    let (family, bits) = if ip.is_ipv4() { ("4", 32) } else { ("6", 128) };
    let mut address = json!({ "address": format!("{ip}/{bits}"), "gateway": gateway(ip).to_string(), "interface": interface });
    if version < Version::V1_0_0 {
        address["version"] = family.into();
    }
    address
}

fn default_route(ip: IpAddr) -> Value {
    let everywhere = if ip.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    json!({ "dst": everywhere, "gw": gateway(ip).to_string() })
}

fn format_mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wiring() -> Wiring {
        Wiring {
            host_name: "weir0123456789a".into(),
            ifname: "eth0".into(),
            ips: vec!["10.244.0.5".parse().unwrap(), "fd00:244::5".parse().unwrap()],
            mac: [2, 1, 10, 244, 0, 5],
            mtu: 1400,
            node_ips: Vec::new(),
        }
    }

    #[test]
    fn the_newest_shape() {
        let answer = add_answer(Version::V1_1_0, &wiring(), "/run/netns/c1", None, None);
        assert_eq!(
            answer,
            json!({
                "cniVersion": "1.1.0",
                "interfaces": [
                    { "name": "weir0123456789a", "mac": "02:00:77:65:69:72", "mtu": 1400 },
                    { "name": "eth0", "mac": "02:01:0a:f4:00:05", "mtu": 1400, "sandbox": "/run/netns/c1" },
                ],
                "ips": [
                    { "address": "10.244.0.5/32", "gateway": "169.254.1.1", "interface": 1 },
                    { "address": "fd00:244::5/128", "gateway": "fe80::1", "interface": 1 },
                ],
                "routes": [
                    { "dst": "0.0.0.0/0", "gw": "169.254.1.1" },
                    { "dst": "::/0", "gw": "fe80::1" },
                ],
                "dns": {},
            })
        );
    }

    #[test]
    fn older_shapes_name_the_family_and_know_no_mtu() {
        for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0, Version::V1_0_0] {
            let answer = add_answer(version, &wiring(), "/run/netns/c1", None, None);
            assert_eq!(answer["cniVersion"], version.as_str());
            assert!(answer["interfaces"][1].get("mtu").is_none());
            let families = [&answer["ips"][0]["version"], &answer["ips"][1]["version"]];
            if version < Version::V1_0_0 {
                assert_eq!(families, ["4", "6"]);
            } else {
                assert_eq!(families, [&Value::Null, &Value::Null]);
            }
        }
    }

    #[test]
    fn the_result_of_the_plugins_before_is_passed_on_with_ours_behind() {
        let prev = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{ "name": "net0", "vendor": "x" }],
            "ips": [{ "address": "10.0.0.2/24", "interface": 0 }],
            "dns": { "nameservers": ["10.0.0.1"] },
        });
        let answer = add_answer(Version::V1_0_0, &wiring(), "/n", Some(&prev), None);
        assert_eq!(answer["interfaces"][0], prev["interfaces"][0]);
        assert_eq!(answer["interfaces"][2]["name"], "eth0");
        assert_eq!(answer["ips"][0], prev["ips"][0]);
        assert_eq!(answer["ips"][1]["interface"], 2);
        assert_eq!(answer["dns"], prev["dns"]);
    }

    #[test]
    fn the_dns_of_the_configuration_is_passed_on() {
        let dns = json!({ "nameservers": ["10.96.0.10"], "search": ["cluster.local"] });
        let prev = json!({ "dns": { "nameservers": ["10.0.0.1"] } });
        assert_eq!(add_answer(Version::V1_0_0, &wiring(), "/n", Some(&prev), Some(&dns))["dns"], dns);
    }
}
