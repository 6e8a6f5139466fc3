//! Ports of the host that lead to the pod: what the runtime asks for (capability `portMappings`).

use std::net::IpAddr;

use api::{PortMapping, Transport};
use serde_json::{Map, Value};

use crate::config::wrong;
use crate::spec::Failure;

/// Reads `runtimeConfig.portMappings`.
pub(crate) fn read(list: &Value) -> Result<Vec<PortMapping>, Failure> {
    let list = match list {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list,
        other => return Err(wrong("runtimeConfig.portMappings", &format!("{other}, not a list"))),
    };
    let mut mappings: Vec<PortMapping> = Vec::new();
    for (index, entry) in list.iter().enumerate() {
        let path = format!("runtimeConfig.portMappings[{index}]");
        let Value::Object(entry) = entry else {
            return Err(wrong(&path, &format!("{entry}, not an object")));
        };
        let mapping = PortMapping {
            host_port: port(entry, &path, "hostPort")?,
            container_port: port(entry, &path, "containerPort")?,
            protocol: protocol_of(entry, &path)?,
            host_ip: host_ip(entry, &path)?,
        };
        if mappings.iter().any(|other| other.clashes_with(&mapping)) {
            return Err(wrong(&path, &format!("{mapping}, which another entry of the list has already")));
        }
        mappings.push(mapping);
    }
    Ok(mappings)
}

fn port(entry: &Map<String, Value>, path: &str, field: &str) -> Result<u16, Failure> {
    let value = entry.get(field).unwrap_or(&Value::Null);
    let port = value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    port.ok_or_else(|| wrong(&format!("{path}.{field}"), &format!("{value}, not a port from 1 to 65535")))
}

/// Runtimes write it in any case, and leave it out for TCP.
fn protocol_of(entry: &Map<String, Value>, path: &str) -> Result<Transport, Failure> {
    let value = entry.get("protocol").unwrap_or(&Value::Null);
    let name = match value {
        Value::Null => "",
        Value::String(name) => name,
        _ => "?",
    };
    match name.to_ascii_lowercase().as_str() {
        "" | "tcp" => Ok(Transport::Tcp),
        "udp" => Ok(Transport::Udp),
        "sctp" => Ok(Transport::Sctp),
        _ => Err(wrong(&format!("{path}.protocol"), &format!("{value}, not tcp, udp or sctp"))),
    }
}

fn host_ip(entry: &Map<String, Value>, path: &str) -> Result<Option<IpAddr>, Failure> {
    match entry.get("hostIP").unwrap_or(&Value::Null) {
        Value::Null => Ok(None),
        Value::String(text) if text.is_empty() => Ok(None),
        value => match value.as_str().and_then(|text| text.parse().ok()) {
            Some(IpAddr::V4(ip)) if ip.is_loopback() => Err(loopback(path, value)),
            Some(IpAddr::V6(ip)) if ip.is_loopback() => Err(loopback(path, value)),
            Some(ip) => Ok(Some(ip)),
            None => Err(wrong(&format!("{path}.hostIP"), &format!("{value}, not an IP address"))),
        },
    }
}

/// The kernel keeps what is sent to a loopback address away from every other interface.
fn loopback(path: &str, value: &Value) -> Failure {
    wrong(
        &format!("{path}.hostIP"),
        &format!(
            "{value}, a loopback address, which leads to no pod; leave it out or name an address of the node"
        ),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_runtimes_write_is_read() {
        let read = read(&json!([
            { "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "" },
            { "hostPort": 8080, "containerPort": 81, "protocol": "UDP" },
            { "hostPort": 53, "containerPort": 53, "protocol": "sctp", "hostIP": "172.30.0.10" },
            { "hostPort": 54, "containerPort": 53, "hostIP": "fd00::1" },
        ]))
        .unwrap();
        let said: Vec<String> = read.iter().map(ToString::to_string).collect();
        assert_eq!(said, ["8080/TCP", "8080/UDP", "53/SCTP at 172.30.0.10", "54/TCP at fd00::1"]);
        assert_eq!(read[0].container_port, 80);
        assert_eq!(super::read(&Value::Null).unwrap(), []);
    }

    #[test]
    fn what_cannot_be_is_named_with_its_field() {
        let good = json!({ "hostPort": 8080, "containerPort": 80 });
        for (field, value, found) in [
            ("hostPort", json!(0), "[1].hostPort is 0, not a port"),
            ("hostPort", json!(70000), "[1].hostPort is 70000, not a port"),
            ("containerPort", json!("80"), "[1].containerPort is \"80\", not a port"),
            ("containerPort", Value::Null, "[1].containerPort is null, not a port"),
            ("protocol", json!("icmp"), "[1].protocol is \"icmp\", not tcp, udp or sctp"),
            ("protocol", json!(6), "[1].protocol is 6, not tcp"),
            ("hostIP", json!("node-1"), "[1].hostIP is \"node-1\", not an IP address"),
            ("hostIP", json!("127.0.0.1"), "[1].hostIP is \"127.0.0.1\", a loopback address"),
        ] {
            let mut bad = json!({ "hostPort": 81, "containerPort": 81, "protocol": "tcp" });
            bad[field] = value;
            let failure = read(&json!([good, bad])).unwrap_err();
            assert_eq!(failure.code, 7);
            assert!(failure.message.contains(found), "{}", failure.message);
        }
        for (list, found) in [
            (json!({}), "portMappings is {}, not a list"),
            (json!([80]), "portMappings[0] is 80, not an object"),
            (json!([good, good]), "portMappings[1] is 8080/TCP, which another entry of the list has"),
        ] {
            let failure = read(&list).unwrap_err();
            assert!(failure.message.contains(found), "{}", failure.message);
        }
    }
}
