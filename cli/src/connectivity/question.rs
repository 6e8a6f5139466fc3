//! Who is asked to reach whom, and what must come of it: values from values.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::knock::{Door, Knock, PORT, Protocol, SHUT_PORT};
use super::objects::{CONFINED, DENY, GUARDED, OPEN, Place};

/// For what must come: pods and policies that were made a moment ago have to be heard of on the other node too.
const PATIENCE_MS: u64 = 20_000;
/// For what must not: the agents' word, not the length of the silence, makes it a denial. Long enough that the agent of the
/// other node has heard by then whose address it is that asks.
const SILENCE_MS: u64 = 5_000;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    /// No policy is about it.
    Stranger,
    /// May ask those that are guarded.
    Friend,
    /// May ask little.
    Confined,
    /// Lives in its node's network.
    Host,
}

impl Role {
    pub(super) const ALL: [Self; 4] = [Self::Stranger, Self::Friend, Self::Confined, Self::Host];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Friend => "friend",
            Self::Confined => "confined",
            Self::Host => "host",
        }
    }
}

/// Where whoever is asked is, seen from whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Where {
    SameNode,
    OtherNode,
    /// On either.
    Any,
}

impl Where {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::SameNode => "same node",
            Self::OtherNode => "other node",
            Self::Any => "",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// And where a name is told, it begins so.
    Allowed { server: String },
    /// By this policy, perhaps among others.
    Denied { policy: &'static str },
}

pub(super) struct Question {
    pub(super) role: Role,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) place: Where,
    pub(super) is_v6: bool,
    pub(super) knock: Knock,
    pub(super) expected: Expected,
}

/// What was made, with the addresses that it got.
pub(super) struct Setting {
    pub(super) namespace: String,
    pub(super) pods: Vec<Value>,
    pub(super) services: Vec<Value>,
    pub(super) nodes: Vec<Value>,
}

impl Setting {
    /// All that `role` asks at its place.
    pub(super) fn questions(
        &self,
        role: Role,
        at: &Place<'_>,
        places: &[Place<'_>],
    ) -> Result<Vec<Question>> {
        let mut asked = Asking { role, from: at.pod_name(role.as_str()), questions: Vec::new() };
        for place in places {
            let relation = if place.node == at.node { Where::SameNode } else { Where::OtherNode };
            for server in [OPEN, GUARDED] {
                let name = place.pod_name(server);
                for ip in self.pod_ips(&name)? {
                    for protocol in [Protocol::Tcp, Protocol::Udp] {
                        let Some(expected) = expected(role, server, protocol, relation) else { continue };
                        asked.server(server, relation, (ip, PORT).into(), protocol, expected.of(&name));
                    }
                    if role == Role::Friend && server == GUARDED {
                        let title = format!("{server}, port {SHUT_PORT}");
                        let expected = Expected::Denied { policy: DENY };
                        asked.server(&title, relation, (ip, SHUT_PORT).into(), Protocol::Tcp, expected);
                    }
                }
            }
            if matches!(role, Role::Stranger | Role::Friend) {
                for address in self.kubelets(place.node)? {
                    let expected = Expected::Allowed { server: String::new() };
                    let door = Door::Port(address);
                    asked.ask("node", relation, address.is_ipv6(), door, Protocol::Tcp, expected);
                }
            }
        }
        for server in [OPEN, GUARDED] {
            for ip in self.service_ips(server)? {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    // The host's own way to a pod of its own node is always open, and a Service leads to either.
                    let Some(expected) = expected(role, server, protocol, Where::Any) else { continue };
                    let title = format!("Service {server}");
                    asked.server(&title, Where::Any, (ip, PORT).into(), protocol, expected.of(server));
                    if server == OPEN && role != Role::Host {
                        let door =
                            Door::Named { service: server.to_owned(), port: PORT, is_v6: ip.is_ipv6() };
                        let expected = Expected::Allowed { server: server.to_owned() };
                        asked.ask(
                            &format!("{server}, by DNS"),
                            Where::Any,
                            ip.is_ipv6(),
                            door,
                            protocol,
                            expected,
                        );
                    }
                }
            }
        }
        Ok(asked.questions)
    }

    fn pod_ips(&self, name: &str) -> Result<Vec<IpAddr>> {
        let pod = find(&self.pods, name).with_context(|| format!("no pod {}/{name}", self.namespace))?;
        Ok(addresses(&pod["status"]["podIPs"], |ip| &ip["ip"]))
    }

    fn service_ips(&self, name: &str) -> Result<Vec<IpAddr>> {
        let service = find(&self.services, name);
        let service = service.with_context(|| format!("no Service {}/{name}", self.namespace))?;
        Ok(addresses(&service["spec"]["clusterIPs"], |ip| ip))
    }

    /// Where the kubelet of a node listens, one address of each family.
    fn kubelets(&self, node: &str) -> Result<Vec<SocketAddr>> {
        let status = &find(&self.nodes, node).with_context(|| format!("no Node {node}"))?["status"];
        let port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().unwrap_or(10250);
        let port =
            u16::try_from(port).with_context(|| format!("Node {node}: the kubelet's port is {port}"))?;
        let internal: Vec<Value> = status["addresses"].as_array().cloned().unwrap_or_default();
        let internal = internal.into_iter().filter(|address| address["type"] == "InternalIP").collect();
        let mut ips = addresses(&Value::Array(internal), |address| &address["address"]);
        ips.sort();
        ips.dedup_by_key(|ip| ip.is_ipv6());
        Ok(ips.into_iter().map(|ip| (ip, port).into()).collect())
    }
}

/// `None`: it is not asked.
fn expected(role: Role, server: &str, protocol: Protocol, place: Where) -> Option<Wish> {
    Some(match (role, server) {
        (Role::Host, GUARDED) if place != Where::SameNode => return None,
        (Role::Stranger, GUARDED) => Wish::Denied(DENY),
        (Role::Confined, GUARDED) => Wish::Denied(CONFINED),
        (Role::Confined, OPEN) if protocol == Protocol::Udp => Wish::Denied(CONFINED),
        _ => Wish::Allowed,
    })
}

enum Wish {
    Allowed,
    Denied(&'static str),
}

impl Wish {
    fn of(&self, server: &str) -> Expected {
        match self {
            Self::Allowed => Expected::Allowed { server: server.to_owned() },
            Self::Denied(policy) => Expected::Denied { policy },
        }
    }
}

struct Asking {
    role: Role,
    from: String,
    questions: Vec<Question>,
}

impl Asking {
    fn server(
        &mut self,
        to: &str,
        place: Where,
        address: SocketAddr,
        protocol: Protocol,
        expected: Expected,
    ) {
        self.ask(to, place, address.is_ipv6(), Door::Server(address), protocol, expected);
    }

    fn ask(
        &mut self,
        to: &str,
        place: Where,
        is_v6: bool,
        door: Door,
        protocol: Protocol,
        expected: Expected,
    ) {
        let patience_ms = match expected {
            Expected::Allowed { .. } => PATIENCE_MS,
            Expected::Denied { .. } => SILENCE_MS,
        };
        self.questions.push(Question {
            role: self.role,
            from: self.from.clone(),
            to: to.to_owned(),
            place,
            is_v6,
            knock: Knock { door, protocol, patience_ms },
            expected,
        });
    }
}

fn find<'a>(objects: &'a [Value], name: &str) -> Option<&'a Value> {
    objects.iter().find(|object| object["metadata"]["name"] == name)
}

fn addresses(list: &Value, of: impl Fn(&Value) -> &Value) -> Vec<IpAddr> {
    list.as_array().into_iter().flatten().filter_map(|entry| of(entry).as_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn setting() -> Setting {
        let pod = |name: &str, ips: [&str; 2]| {
            json!({
                "metadata": { "name": name }, "status": { "podIPs": ips.map(|ip| json!({ "ip": ip })) },
            })
        };
        let service =
            |name: &str, ips: &[&str]| json!({ "metadata": { "name": name }, "spec": { "clusterIPs": ips } });
        let node = |name: &str, ips: &[&str]| {
            let mut addresses: Vec<_> =
                ips.iter().map(|ip| json!({ "type": "InternalIP", "address": ip })).collect();
            addresses.push(json!({ "type": "Hostname", "address": name }));
            json!({
                "metadata": { "name": name },
                "status": { "addresses": addresses, "daemonEndpoints": { "kubeletEndpoint": { "Port": 10251 } } },
            })
        };
        Setting {
            namespace: "test".into(),
            pods: vec![
                pod("open-1", ["10.0.1.2", "fd00:1::2"]),
                pod("open-2", ["10.0.2.2", "fd00:2::2"]),
                pod("guarded-1", ["10.0.1.3", "fd00:1::3"]),
                pod("guarded-2", ["10.0.2.3", "fd00:2::3"]),
            ],
            services: vec![service("open", &["10.96.0.1", "fd00:96::1"]), service("guarded", &["10.96.0.2"])],
            nodes: vec![node("one", &["192.0.2.1", "192.0.2.9"]), node("two", &["192.0.2.2", "2001:db8::2"])],
        }
    }

    /// `to, where, family, protocol: expected`, for each question.
    fn asked(role: Role, nodes: &[&str]) -> Vec<String> {
        let places: Vec<_> = nodes
            .iter()
            .enumerate()
            .map(|(index, node)| Place { namespace: "test", node, number: index + 1 })
            .collect();
        let questions = setting().questions(role, &places[0], &places).unwrap();
        let line = |question: &Question| {
            let family = if question.is_v6 { 6 } else { 4 };
            let expected = match &question.expected {
                Expected::Allowed { .. } => "yes",
                Expected::Denied { policy } => policy,
            };
            let (to, place) = (&question.to, question.place.as_str());
            format!("{to}, {place}, {family}, {:?}: {expected}", question.knock.protocol)
        };
        questions.iter().map(line).collect()
    }

    #[test]
    fn every_way_is_asked_by_both_families_and_protocols_and_each_denial_has_its_policy() {
        let friend = asked(Role::Friend, &["one", "two"]);
        for line in [
            "open, same node, 4, Tcp: yes",
            "open, other node, 6, Udp: yes",
            "guarded, other node, 6, Tcp: yes",
            "guarded, port 8081, same node, 4, Tcp: default-deny",
            "node, same node, 4, Tcp: yes",
            "node, other node, 6, Tcp: yes",
            "Service open, , 6, Udp: yes",
            "open, by DNS, , 6, Tcp: yes",
        ] {
            assert!(friend.iter().any(|asked| asked == line), "no `{line}` in {friend:#?}");
        }
        let confined = asked(Role::Confined, &["one", "two"]);
        for line in [
            "open, same node, 4, Tcp: yes",
            "open, same node, 4, Udp: confined",
            "open, by DNS, , 4, Udp: yes",
        ] {
            assert!(confined.iter().any(|asked| asked == line), "no `{line}` in {confined:#?}");
        }
        let stranger = asked(Role::Stranger, &["one", "two"]);
        assert!(
            stranger.iter().any(|asked| asked == "Service guarded, , 4, Tcp: default-deny"),
            "{stranger:#?}"
        );
    }

    #[test]
    fn on_one_node_nothing_is_asked_of_another_and_a_node_has_one_address_of_a_family() {
        for role in Role::ALL {
            let lines = asked(role, &["one"]);
            assert!(!lines.iter().any(|line| line.contains("other node")), "{lines:#?}");
        }
        let nodes = asked(Role::Stranger, &["one"]).into_iter().filter(|line| line.starts_with("node,"));
        assert_eq!(nodes.count(), 1);
    }

    #[test]
    fn a_host_is_not_asked_what_depends_on_where_a_service_leads() {
        let host = asked(Role::Host, &["one", "two"]);
        assert!(host.iter().any(|line| line == "guarded, same node, 4, Tcp: yes"), "{host:#?}");
        assert!(
            !host.iter().any(|line| line.contains("Service guarded") || line.contains("DNS")),
            "{host:#?}"
        );
        assert!(!host.iter().any(|line| line.starts_with("guarded, other node")), "{host:#?}");
    }
}
