//! The network configuration, one question at a time.
//!
//! A command asks only for the fields it needs, so that a pod whose `ADD` was refused for a bad field can still be
//! deleted with the same configuration. What is wrong is named with its path and what would be right.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use api::{Attachment, PortMapping};
use ipnet::IpNet;
use netlink::{HOST_MAC, Mac};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::bandwidth::Bandwidth;
use crate::invocation::is_identifier;
use crate::port_mapping;
use crate::spec::{Failure, Version, code, supported_versions};

const DEFAULT_STATE_DIR: &str = "/var/lib/weir/cni";
const DEFAULT_MTU: u32 = 1500;
const DEFAULT_STATUS_GRACE_SECONDS: u64 = 30;

#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) version: Version,
    /// The network's name.
    pub(crate) name: String,
    input: Value,
}

impl Config {
    pub(crate) fn parse(input: &[u8]) -> Result<Self, Failure> {
        let input: Value = serde_json::from_slice(input)
            .map_err(|error| Failure::new(code::DECODING, "decode the network configuration").with(error))?;
        let version = match &input["cniVersion"] {
            Value::String(text) => Version::parse(text).ok_or_else(|| format!("`{text}`")),
            Value::Null => Err("missing".into()),
            other => Err(other.to_string()),
        };
        let version = version.map_err(|found| {
            Failure::new(code::VERSION, format!("cniVersion is {found}, which this plugin does not speak"))
                .with_details(format!("supported: {}", supported_versions().join(", ")))
        })?;
        let name = match &input["name"] {
            Value::String(name) if is_identifier(name) => name.clone(),
            Value::Null => return Err(wrong("name", "missing: a network has a name")),
            other => {
                return Err(wrong(
                    "name",
                    &format!("{other}, not a letter or digit followed by letters, digits, `_`, `.`, `-`"),
                ));
            }
        };
        Ok(Self { version, name, input })
    }

    pub(crate) fn agent_socket(&self) -> Result<PathBuf, Failure> {
        self.field("/agentSocket", "a path").map(|path| path.unwrap_or_else(|| api::DEFAULT_SOCKET.into()))
    }

    pub(crate) fn state_dir(&self) -> Result<PathBuf, Failure> {
        self.field("/stateDir", "a path").map(|path| path.unwrap_or_else(|| DEFAULT_STATE_DIR.into()))
    }

    pub(crate) fn mtu(&self) -> Result<u32, Failure> {
        let mtu = self.field("/mtu", "a number")?.unwrap_or(DEFAULT_MTU);
        // What IPv6 asks of every link, and what fits an IP packet.
        if !(1280..=65535).contains(&mtu) {
            return Err(wrong("mtu", &format!("{mtu}, not between 1280 and 65535")));
        }
        Ok(mtu)
    }

    /// The node's addresses: what packets from the node to its pods carry as source.
    pub(crate) fn node_ips(&self) -> Result<Vec<IpAddr>, Failure> {
        Ok(self.field("/nodeIPs", "a list of IP addresses")?.unwrap_or_default())
    }

    /// The node's pod CIDRs.
    pub(crate) fn ranges(&self) -> Result<Vec<IpNet>, Failure> {
        if let Some(kind) = self.field::<String>("/ipam/type", "a string")?
            && kind != "weir-cni"
        {
            let message =
                format!("ipam.type is `{kind}`: this plugin gives out addresses itself, leave it out");
            return Err(Failure::new(code::FIELD, message));
        }
        let ranges: Vec<IpNet> = self.field("/ipam/ranges", "a list of CIDRs")?.unwrap_or_default();
        if ranges.is_empty() {
            return Err(wrong("ipam.ranges", "empty: it needs the node's pod CIDRs"));
        }
        Ok(ranges.iter().map(IpNet::trunc).collect())
    }

    /// Addresses the runtime asks for (capability `ips`).
    pub(crate) fn wanted_ips(&self) -> Result<Vec<IpAddr>, Failure> {
        const PATH: &str = "runtimeConfig.ips";
        let texts: Vec<String> = self.field("/runtimeConfig/ips", "a list of addresses")?.unwrap_or_default();
        let parse = |text: &String| {
            let address = text.split_once('/').map_or(text.as_str(), |(address, _)| address);
            address.parse().map_err(|_| wrong(PATH, &format!("`{text}`, not an address")))
        };
        texts.iter().map(parse).collect()
    }

    /// The link-layer address the runtime asks for (capability `mac`).
    pub(crate) fn wanted_mac(&self) -> Result<Option<Mac>, Failure> {
        let text: Option<String> = self.field("/runtimeConfig/mac", "a string")?;
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
        match parse_mac(&text) {
            Some(mac) if mac == HOST_MAC => {
                Err(wrong("runtimeConfig.mac", &format!("`{text}`, which is the host's side's")))
            }
            Some(mac) => Ok(Some(mac)),
            None => Err(wrong("runtimeConfig.mac", &format!("`{text}`, not the MAC address of one station"))),
        }
    }

    /// Ports of the host that are to lead to the pod (capability `portMappings`).
    pub(crate) fn port_mappings(&self) -> Result<Vec<PortMapping>, Failure> {
        port_mapping::read(&self.input["runtimeConfig"]["portMappings"])
    }

    /// What the pod may take in and send (capability `bandwidth`).
    pub(crate) fn bandwidth(&self) -> Result<Bandwidth, Failure> {
        Bandwidth::read(&self.input["runtimeConfig"]["bandwidth"])
    }

    /// How long the agent may be away before `STATUS` says so.
    pub(crate) fn status_grace(&self) -> Result<Duration, Failure> {
        let seconds = self.field("/statusGraceSeconds", "a number of seconds")?;
        Ok(Duration::from_secs(seconds.unwrap_or(DEFAULT_STATUS_GRACE_SECONDS)))
    }

    pub(crate) fn dns(&self) -> Option<&Value> {
        self.input.get("dns").filter(|dns| !dns.is_null())
    }

    /// The result of the plugins before this one, or (`CHECK`) of the whole chain.
    pub(crate) fn prev_result(&self) -> Result<Option<&Value>, Failure> {
        match self.input.get("prevResult") {
            None | Some(Value::Null) => Ok(None),
            Some(result) if result.is_object() => Ok(Some(result)),
            Some(other) => Err(wrong("prevResult", &format!("{other}, not a result"))),
        }
    }

    /// What `GC` must leave alone. Both names are in use; where both are given, what is in either stays.
    pub(crate) fn valid_attachments(&self) -> Result<Vec<Attachment>, Failure> {
        #[derive(Deserialize)]
        struct Valid {
            #[serde(rename = "containerID")]
            container_id: String,
            ifname: String,
        }
        let expected = "a list of {containerID, ifname}";
        let lists: [Option<Vec<Valid>>; 2] = [
            self.field("/cni.dev~1valid-attachments", expected)?,
            self.field("/cni.dev~1attachments", expected)?,
        ];
        if lists.iter().all(Option::is_none) {
            // An empty list means "everything goes"; no list at all must not.
            return Err(wrong("cni.dev/valid-attachments", "missing: GC needs it"));
        }
        let attachment = |valid: Valid| Attachment { container_id: valid.container_id, ifname: valid.ifname };
        Ok(lists.into_iter().flatten().flatten().map(attachment).collect())
    }

    /// The field at a JSON pointer; null counts as absent.
    fn field<T: DeserializeOwned>(&self, pointer: &str, expected: &str) -> Result<Option<T>, Failure> {
        match self.input.pointer(pointer) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value).map(Some).map_err(|error| {
                let path = pointer[1..].replace('/', ".").replace("~1", "/");
                wrong(&path, &format!("{value}, not {expected}")).with(error)
            }),
        }
    }
}

pub(crate) fn wrong(field: &str, problem: &str) -> Failure {
    Failure::new(code::CONFIGURATION, format!("network configuration: {field} is {problem}"))
}

/// Six bytes in hexadecimal, of one station: not all zero, not a group's.
fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next()?;
        if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac != [0; 6] && mac[0] & 1 == 0).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A valid configuration with `extra` fields.
    fn config(extra: &str) -> Config {
        let comma = if extra.is_empty() { "" } else { "," };
        Config::parse(format!(r#"{{"cniVersion":"1.1.0","name":"weir"{comma}{extra}}}"#).as_bytes()).unwrap()
    }

    #[track_caller]
    fn refused<T: std::fmt::Debug>(found: Result<T, Failure>, code: u32, message: &str) {
        let failure = found.unwrap_err();
        assert_eq!((failure.code, failure.message.as_str()), (code, message));
    }

    #[test]
    fn what_cannot_be_decoded_is_told_from_what_is_wrong() {
        refused(Config::parse(b"{"), 6, "decode the network configuration");
        refused(Config::parse(b""), 6, "decode the network configuration");
        let speaks = "which this plugin does not speak";
        refused(Config::parse(br#"{"name":"weir"}"#), 1, &format!("cniVersion is missing, {speaks}"));
        refused(Config::parse(br#"{"cniVersion":"0.2.0"}"#), 1, &format!("cniVersion is `0.2.0`, {speaks}"));
        refused(
            Config::parse(br#"{"cniVersion":"1.0.0"}"#),
            7,
            "network configuration: name is missing: a network has a name",
        );
        assert!(Config::parse(br#"{"cniVersion":"1.0.0","name":"a/b"}"#).is_err());
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let config = config("");
        assert_eq!(config.agent_socket().unwrap(), PathBuf::from("/run/weir/agent.sock"));
        assert_eq!(config.state_dir().unwrap(), PathBuf::from("/var/lib/weir/cni"));
        assert_eq!(config.mtu().unwrap(), 1500);
        assert_eq!(config.status_grace().unwrap(), Duration::from_secs(30));
        assert!(config.node_ips().unwrap().is_empty());
        assert!(config.prev_result().unwrap().is_none());
        refused(
            config.ranges(),
            7,
            "network configuration: ipam.ranges is empty: it needs the node's pod CIDRs",
        );
    }

    #[test]
    fn a_wrong_field_is_named_with_what_would_be_right() {
        refused(config(r#""mtu":"big""#).mtu(), 7, r#"network configuration: mtu is "big", not a number"#);
        refused(
            config(r#""mtu":100"#).mtu(),
            7,
            "network configuration: mtu is 100, not between 1280 and 65535",
        );
        refused(
            config(r#""ipam":{"ranges":["10.244.0.0"]}"#).ranges(),
            7,
            r#"network configuration: ipam.ranges is ["10.244.0.0"], not a list of CIDRs"#,
        );
        refused(
            config(r#""ipam":{"type":"host-local"}"#).ranges(),
            2,
            "ipam.type is `host-local`: this plugin gives out addresses itself, leave it out",
        );
        refused(
            config(r#""prevResult":[]"#).prev_result(),
            7,
            "network configuration: prevResult is [], not a result",
        );
    }

    #[test]
    fn the_runtime_may_ask_for_addresses_and_a_mac() {
        let asked =
            config(r#""runtimeConfig":{"ips":["10.244.0.9/24","fd00::9"],"mac":"02:AB:cd:00:00:01"}"#);
        assert_eq!(
            asked.wanted_ips().unwrap(),
            ["10.244.0.9".parse::<IpAddr>().unwrap(), "fd00::9".parse().unwrap()]
        );
        assert_eq!(asked.wanted_mac().unwrap(), Some([2, 0xab, 0xcd, 0, 0, 1]));
        for mac in [
            "01:00:00:00:00:01",
            "00:00:00:00:00:00",
            "02:00:00:00:01",
            "x",
            "02:00:77:65:69:72",
            "+2:00:00:00:00:01",
        ] {
            assert!(config(&format!(r#""runtimeConfig":{{"mac":"{mac}"}}"#)).wanted_mac().is_err(), "{mac}");
        }
        assert!(config(r#""runtimeConfig":{"ips":["web"]}"#).wanted_ips().is_err());
        assert_eq!(config(r#""runtimeConfig":{"mac":"","ips":null}"#).wanted_mac().unwrap(), None);
    }

    #[test]
    fn garbage_collection_takes_both_names_and_never_guesses() {
        let names = |extra: &str| {
            let valid = config(extra).valid_attachments()?;
            Ok::<_, Failure>(
                valid.into_iter().map(|a| format!("{}/{}", a.container_id, a.ifname)).collect::<Vec<_>>(),
            )
        };
        let new = r#""cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#;
        let old = r#""cni.dev/attachments":[{"containerID":"b","ifname":"eth1"}]"#;
        assert_eq!(names(new).unwrap(), ["a/eth0"]);
        assert_eq!(names(old).unwrap(), ["b/eth1"]);
        assert_eq!(names(&format!("{new},{old}")).unwrap(), ["a/eth0", "b/eth1"]);
        assert!(names(r#""cni.dev/valid-attachments":[]"#).unwrap().is_empty());
        refused(names(""), 7, "network configuration: cni.dev/valid-attachments is missing: GC needs it");
        assert!(names(r#""cni.dev/valid-attachments":[{"containerID":"a"}]"#).is_err());
    }
}
