//! A NetworkPolicy as the API has it, into our words.
//!
//! Everything that cannot be honoured becomes a warning and narrows: a rule with anything wrong in it allows nothing, a
//! policy of which it cannot be known whom it selects isolates every pod of its namespace and allows nothing. That may
//! close a door, never open one.

use common::net::protocol;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::model::{Block, Namespaces, Peer, Peers, Policy, Port, Ports, Rule, protocol_number};
use crate::object::{Kind, ObjectKey};
use crate::selector::Selector;
use crate::warning::Warning;

const ESTABLISHED: &str = "weir.dev/established";

/// The policy in our words. `unknown_fields` are those that its type could not hold; what they stood in narrows.
pub(crate) fn policy(object: &NetworkPolicy, unknown_fields: &[Warning]) -> (Policy, Vec<Warning>) {
    let metadata = &object.metadata;
    let namespace = metadata.namespace.clone().filter(|name| !name.is_empty());
    let namespace = namespace.unwrap_or_else(|| "default".to_owned());
    let name = metadata.name.clone().unwrap_or_default();
    let key = ObjectKey { kind: Kind::NetworkPolicy, namespace: Some(namespace.clone()), name: name.clone() };
    let mut converter = Converter {
        object: key.to_string(),
        namespace: &namespace,
        unknown: unknown_fields,
        spec_is_lost: object.spec.is_none()
            && unknown_fields.iter().any(|warning| is_beside_spec(&warning.field)),
        warnings: Vec::new(),
    };

    let keep = match metadata.annotations.as_ref().and_then(|annotations| annotations.get(ESTABLISHED)) {
        Some(value) if value == "keep" => true,
        Some(value) => {
            converter.warn(
                &format!("metadata.annotations[{ESTABLISHED}]"),
                format!("unknown value {value:?}: expected keep; connections are cut as without it"),
            );
            false
        }
        None => false,
    };
    let empty = NetworkPolicySpec::default();
    let spec = object.spec.as_ref().unwrap_or(&empty);
    let known = converter.whom_is_known(spec);
    let pods = match &known {
        Some(pods) => pods.clone(),
        None => Selector::default(),
    };
    let types = converter.types(spec);
    let (mut ingress, mut egress) = converter.rules(spec, types);
    if known.is_none() {
        for rules in [&mut ingress, &mut egress].into_iter().flatten() {
            rules.fill(Rule::NOTHING);
        }
    }
    let spec_is_lost = converter.spec_is_lost;
    let mut warnings = converter.warnings;
    warnings.extend(unknown_fields.iter().map(|warning| Warning {
        message: format!("{}{}", warning.message, consequence(&warning.field, spec_is_lost)),
        ..warning.clone()
    }));
    (Policy { namespace, name, pods, keep, ingress, egress }, warnings)
}

/// What an unknown field costs, said where it stands.
fn consequence(field: &str, spec_is_lost: bool) -> &'static str {
    if is_rule(field) {
        ": the rule allows nothing"
    } else if field.starts_with("spec.policyTypes") {
        ": the policy isolates in both directions"
    } else if field == "spec" || field.starts_with("spec.podSelector") {
        ": the policy isolates every pod of its namespace and allows nothing"
    } else if field.starts_with("spec.") || (spec_is_lost && is_beside_spec(field)) {
        ": the policy isolates in both directions and allows nothing"
    } else {
        ""
    }
}

/// A field in the place of `spec`, and perhaps meant as it.
fn is_beside_spec(field: &str) -> bool {
    !field.starts_with("metadata.") && field != "spec" && !field.starts_with("spec.")
}

fn is_rule(field: &str) -> bool {
    field.starts_with("spec.ingress[") || field.starts_with("spec.egress[")
}

/// What is known of one direction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Isolation {
    No,
    Yes,
    /// Isolates, to be safe; its rules may not be meant.
    Unsure,
}

struct Converter<'a> {
    object: String,
    namespace: &'a str,
    unknown: &'a [Warning],
    /// There is no `spec`, but something that may be one with a slip in its name.
    spec_is_lost: bool,
    warnings: Vec<Warning>,
}

impl Converter<'_> {
    fn warn(&mut self, field: &str, message: impl Into<String>) {
        let (object, field) = (self.object.clone(), field.to_owned());
        self.warnings.push(Warning { object, field, message: message.into() });
    }

    /// Whether something at or below this path was not understood.
    fn has_unknown(&self, path: &str) -> bool {
        self.unknown.iter().any(|warning| {
            warning
                .field
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    /// Whether the spec itself has a field that could change anything.
    fn spec_is_unsure(&self) -> bool {
        self.unknown.iter().any(|warning| {
            warning.field == "spec"
                || warning.field.strip_prefix("spec.").is_some_and(|rest| {
                    let field = rest.split(['.', '[']).next().unwrap_or_default();
                    !["podSelector", "policyTypes", "ingress", "egress"].contains(&field)
                })
        })
    }

    /// Whom it selects; `None` where that cannot be known.
    fn whom_is_known(&mut self, spec: &NetworkPolicySpec) -> Option<Selector> {
        if self.has_unknown("spec.podSelector") || self.unknown.iter().any(|warning| warning.field == "spec")
        {
            return None;
        }
        let empty = LabelSelector::default();
        match Selector::new(spec.pod_selector.as_ref().unwrap_or(&empty)) {
            Ok(selector) => Some(selector),
            Err(invalid) => {
                self.warn(
                    &format!("spec.podSelector.{}", invalid.field),
                    format!(
                        "{}: the policy isolates every pod of its namespace and allows nothing",
                        invalid.message
                    ),
                );
                None
            }
        }
    }

    /// Isolation of ingress and egress.
    fn types(&mut self, spec: &NetworkPolicySpec) -> (Isolation, Isolation) {
        let types: &[String] = spec.policy_types.as_deref().unwrap_or_default();
        let mut unsure = self.has_unknown("spec.policyTypes");
        for (index, name) in types.iter().enumerate() {
            if !["Ingress", "Egress"].contains(&name.as_str()) {
                unsure = true;
                self.warn(
                    &format!("spec.policyTypes[{index}]"),
                    format!(
                        "unknown type {name:?}: expected Ingress or Egress; the policy isolates in both directions"
                    ),
                );
            }
        }
        let listed = |name: &str| types.iter().any(|listed| listed == name);
        let isolation = |named: bool| match (named, unsure) {
            (true, _) => Isolation::Yes,
            (false, true) => Isolation::Unsure,
            (false, false) => Isolation::No,
        };
        if self.spec_is_lost || self.spec_is_unsure() {
            return (Isolation::Unsure, Isolation::Unsure);
        }
        if types.is_empty() && !unsure {
            // As the API server fills it in: an empty list of egress rules is no egress section.
            let egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
            let egress = if self.unknown.iter().any(|warning| warning.field == "spec.egress") {
                Isolation::Unsure
            } else {
                isolation(egress)
            };
            return (Isolation::Yes, egress);
        }
        (isolation(listed("Ingress")), isolation(listed("Egress")))
    }

    fn rules(
        &mut self,
        spec: &NetworkPolicySpec,
        (ingress, egress): (Isolation, Isolation),
    ) -> (Option<Vec<Rule>>, Option<Vec<Rule>>) {
        let mut convert = |isolation, section: &str, rules: Vec<(&Option<Vec<_>>, &Option<Vec<_>>)>| {
            if isolation == Isolation::No {
                return None;
            }
            let rules = rules.into_iter().enumerate().map(|(index, (peers, ports))| {
                let path = format!("spec.{section}[{index}]");
                let peers_field = if section == "ingress" { "from" } else { "to" };
                let rule = self.rule(&path, peers_field, peers.as_deref(), ports.as_deref());
                if isolation == Isolation::Unsure { Rule::NOTHING } else { rule.unwrap_or(Rule::NOTHING) }
            });
            Some(rules.collect())
        };
        let rules = spec.ingress.iter().flatten().map(|rule| (&rule.from, &rule.ports)).collect();
        let ingress = convert(ingress, "ingress", rules);
        let rules = spec.egress.iter().flatten().map(|rule| (&rule.to, &rule.ports)).collect();
        let egress = convert(egress, "egress", rules);
        (ingress, egress)
    }

    /// `None`: it allows nothing, and a warning says why.
    fn rule(
        &mut self,
        path: &str,
        peers_field: &str,
        peers: Option<&[NetworkPolicyPeer]>,
        ports: Option<&[NetworkPolicyPort]>,
    ) -> Option<Rule> {
        let peers = match peers.unwrap_or_default() {
            [] => Some(Peers::Everyone),
            peers => {
                // All of them, so that every mistake is named at once.
                let peers: Vec<_> = peers
                    .iter()
                    .enumerate()
                    .map(|(index, peer)| self.peer(&format!("{path}.{peers_field}[{index}]"), peer))
                    .collect();
                peers
                    .into_iter()
                    .collect::<Option<Vec<_>>>()
                    .map(|peers| Peers::Of(peers.into_iter().flatten().collect()))
            }
        };
        let ports = match ports.unwrap_or_default() {
            [] => Some(Ports::All),
            ports => {
                let ports: Vec<_> = ports
                    .iter()
                    .enumerate()
                    .map(|(index, port)| self.port(&format!("{path}.ports[{index}]"), port))
                    .collect();
                ports.into_iter().collect::<Option<Vec<_>>>().map(|ports| Ports::Of(ports.concat()))
            }
        };
        if self.has_unknown(path) {
            return None;
        }
        Some(Rule { peers: peers?, ports: ports? })
    }

    /// `None`: the rule allows nothing. `Some(None)`: this peer alone matches nobody.
    fn peer(&mut self, path: &str, peer: &NetworkPolicyPeer) -> Option<Option<Peer>> {
        match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
            (None, None, None) => {
                self.warn(
                    path,
                    "empty: expected podSelector, namespaceSelector or ipBlock; the rule allows nothing",
                );
                None
            }
            (Some(block), None, None) => Some(self.block(&format!("{path}.ipBlock"), block).map(Peer::Block)),
            (Some(_), _, _) => {
                self.warn(
                    path,
                    "ipBlock beside a selector: expected one or the other; the rule allows nothing",
                );
                None
            }
            (None, namespaces, pods) => {
                let namespaces = match namespaces {
                    Some(selector) => self
                        .selector(&format!("{path}.namespaceSelector"), selector)
                        .map(Namespaces::Matching),
                    None => Some(Namespaces::Named(self.namespace.to_owned())),
                };
                let pods = match pods {
                    Some(selector) => self.selector(&format!("{path}.podSelector"), selector),
                    None => Some(Selector::default()),
                };
                Some(Some(Peer::Pods { namespaces: namespaces?, pods: pods? }))
            }
        }
    }

    fn selector(&mut self, path: &str, selector: &LabelSelector) -> Option<Selector> {
        Selector::new(selector)
            .map_err(|invalid| {
                let message = format!("{}; the rule allows nothing", invalid.message);
                self.warn(&format!("{path}.{}", invalid.field), message);
            })
            .ok()
    }

    fn block(&mut self, path: &str, block: &IPBlock) -> Option<Block> {
        let cidr = self.cidr(&format!("{path}.cidr"), &block.cidr);
        let mut except = Vec::new();
        let mut valid = true;
        for (index, text) in block.except.iter().flatten().enumerate() {
            let path = format!("{path}.except[{index}]");
            let Some(net) = self.cidr(&path, text) else {
                valid = false;
                continue;
            };
            let Some(cidr) = cidr else { continue };
            if cidr.contains(&net) && cidr != net {
                except.push(net);
            } else {
                valid = false;
                self.warn(
                    &path,
                    format!("{net} is no proper part of {cidr}: expected a smaller block inside it; the block allows nothing"),
                );
            }
        }
        except.sort();
        except.dedup();
        cidr.filter(|_| valid).map(|cidr| Block { cidr, except })
    }

    fn cidr(&mut self, path: &str, text: &str) -> Option<IpNet> {
        let valid = text.parse::<IpNet>().ok().filter(|net| match net {
            // Such addresses are never on the wire, and in our tables they would read as IPv4.
            IpNet::V6(net) => net.addr().to_ipv4_mapped().is_none(),
            IpNet::V4(_) => true,
        });
        if valid.is_none() {
            self.warn(
                path,
                format!(
                    "{text:?} is no block of addresses: expected for example 10.0.0.0/8 or fd00::/8; the block allows nothing"
                ),
            );
        }
        valid.map(|net| net.trunc())
    }

    fn port(&mut self, path: &str, port: &NetworkPolicyPort) -> Option<Vec<Port>> {
        let protocol = match port.protocol.as_deref() {
            None | Some("") => protocol::TCP,
            Some(name) => {
                match protocol_number(name) {
                    Some(number) => number,
                    None => {
                        self.warn(
                        &format!("{path}.protocol"),
                        format!("unknown protocol {name:?}: expected TCP, UDP or SCTP; the rule allows nothing"),
                    );
                        return None;
                    }
                }
            }
        };
        let number = |number: i32| u16::try_from(number).ok().filter(|number| *number != 0);
        let bad = |what: String| format!("{what}: expected 1 to 65535; the rule allows nothing");
        match (&port.port, port.end_port) {
            (None, None) => Some(vec![Port::Range { protocol, first: 0, last: u16::MAX }]),
            (Some(IntOrString::Int(first)), end) => {
                let Some(first) = number(*first) else {
                    self.warn(&format!("{path}.port"), bad(format!("no port number {first}")));
                    return None;
                };
                let Some(last) = number(end.unwrap_or(i32::from(first))) else {
                    self.warn(
                        &format!("{path}.endPort"),
                        bad(format!("no port number {}", end.unwrap_or(0))),
                    );
                    return None;
                };
                if last < first {
                    self.warn(
                        &format!("{path}.endPort"),
                        format!(
                            "{last} is below port {first}: expected {first} or more; the rule allows nothing"
                        ),
                    );
                    return None;
                }
                Some(vec![Port::Range { protocol, first, last }])
            }
            (Some(IntOrString::String(name)), None) => {
                if !is_port_name(name) {
                    self.warn(
                        &format!("{path}.port"),
                        format!(
                            "{name:?} is no name of a port: expected a number without quotes, or at most 15 lower-case letters, digits and hyphens with a letter among them; the rule allows nothing"
                        ),
                    );
                    return None;
                }
                Some(vec![Port::Named { protocol, name: name.clone() }])
            }
            (port, Some(_)) => {
                let what = if port.is_none() { "without port" } else { "beside a named port" };
                self.warn(
                    &format!("{path}.endPort"),
                    format!("endPort {what}: expected a number in port; the rule allows nothing"),
                );
                None
            }
        }
    }
}

/// A service name of RFC 6335, as the API server demands.
fn is_port_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && name.bytes().any(|byte| byte.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}
