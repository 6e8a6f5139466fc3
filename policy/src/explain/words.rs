//! A near miss as a sentence: what the rule allows, and what is otherwise here.

use api::protocol_name;
use common::verdict::Direction;

use super::gap::{Gap, Mismatch};
use super::nearest::Candidate;
use super::{Question, title};
use crate::facts::PodFacts;
use crate::model::{Block, Namespaces, Peer, Port, Ports};
use crate::selector::{Requirement, Selector, Test};

/// `policy shop/allow-web allows port 80, you asked 8080`.
pub(super) fn sentence(question: &Question<'_>, pod: &PodFacts, candidate: &Candidate<'_>) -> String {
    let policy = candidate.policy.full_name();
    match candidate.gaps.as_slice() {
        [Gap::Broken] => broken(question, candidate),
        [Gap::Selection(mismatch)] => format!(
            "policy {policy} would allow it, but it selects pods with {}; {}/{} has {}",
            requirement(mismatch.requirement),
            pod.namespace,
            pod.name,
            found(mismatch)
        ),
        gaps => {
            let all = gaps.iter().map(|gap| here(question, pod, gap));
            let (here, comma) = match gaps {
                [Gap::Protocol { .. }, Gap::Port { .. }] => {
                    let flow = question.flow;
                    let protocol = protocol_name(flow.protocol);
                    (format!("you asked {} over {protocol}", flow.destination_port), ",")
                }
                [Gap::Port { .. } | Gap::Protocol { .. }] => (all.collect(), ","),
                _ => (all.collect::<Vec<_>>().join(" and "), ";"),
            };
            format!("policy {policy} allows {}{comma} {here}", allowed(question, candidate))
        }
    }
}

/// What the rule asks for, as far as it is not met.
fn allowed(question: &Question<'_>, candidate: &Candidate<'_>) -> String {
    let misses_port = candidate.gaps.iter().any(is_about_port);
    let misses_peer = candidate.gaps.iter().any(|gap| !is_about_port(gap));
    let from = match question.direction {
        Direction::Ingress => "traffic from",
        Direction::Egress => "traffic to",
    };
    let ports = || match &candidate.rule.ports {
        Ports::All => String::new(),
        Ports::Of(all) => ports(all, question.flow.protocol),
    };
    match candidate.peer.filter(|_| misses_peer) {
        Some(wanted) if misses_port => format!("{from} {} on {}", peer(wanted), ports()),
        Some(wanted) => format!("{from} {}", peer(wanted)),
        None => ports(),
    }
}

fn is_about_port(gap: &Gap<'_>) -> bool {
    matches!(gap, Gap::Port { .. } | Gap::Protocol { .. } | Gap::Named { .. } | Gap::Portless)
}

/// What is otherwise here.
fn here(question: &Question<'_>, pod: &PodFacts, gap: &Gap<'_>) -> String {
    let flow = question.flow;
    let peer = || match question.peer_pod {
        Some(pod) => format!("{}/{}", pod.namespace, pod.name),
        None => question.peer.to_string(),
    };
    match gap {
        Gap::Port { .. } => format!("you asked {}", flow.destination_port),
        Gap::Protocol { .. } => format!("you asked {}", protocol_name(flow.protocol)),
        Gap::Named { name, protocol, number } => match (question.destination(pod), number) {
            (Some(pod), Some(number)) => {
                format!(
                    "{name} is {number} on {}/{}, you asked {}",
                    pod.namespace, pod.name, flow.destination_port
                )
            }
            (Some(pod), None) => {
                let protocol = protocol_name(*protocol);
                format!("{}/{} has no {protocol} port of this name", pod.namespace, pod.name)
            }
            (None, _) => format!("{} is no pod, and only pods name ports", flow.destination),
        },
        Gap::Portless => {
            format!("{} has no ports: only a rule without ports allows it", protocol_name(flow.protocol))
        }
        Gap::Label(mismatch) => format!("{} has {}", peer(), found(mismatch)),
        Gap::NamespaceLabel { namespace, mismatch } => {
            format!("namespace {namespace} has {}", found(mismatch))
        }
        Gap::Namespace { found, .. } => format!("{} is in namespace {found}", peer()),
        Gap::NotAPod => match question.world.pod_name_of(question.peer) {
            Some(name) => format!("{} is the address of {name}, which no selector matches", question.peer),
            None => format!("{} is the address of no pod", question.peer),
        },
        Gap::OutsideBlock(_) => format!("{} is outside", question.peer),
        Gap::Excepted { except, .. } => format!("{} is in the excepted {except}", question.peer),
        // Both stand alone, and have sentences of their own.
        Gap::Selection(_) | Gap::Broken => String::new(),
    }
}

/// A rule that allows nothing says why where its warning is.
fn broken(question: &Question<'_>, candidate: &Candidate<'_>) -> String {
    let policy = candidate.policy;
    let path = format!("spec.{}[{}]", question.direction.as_str(), candidate.index);
    let title = title(policy);
    let warnings = || question.world.warnings().filter(|warning| warning.object == title);
    let of_rule = warnings().find(|warning| warning.field.starts_with(&path));
    match of_rule.or_else(|| warnings().find(|warning| warning.field.starts_with("spec"))) {
        Some(warning) => format!(
            "{path} of policy {} cannot be honoured: {}: {}",
            policy.full_name(),
            warning.field,
            warning.message
        ),
        None => format!("{path} of policy {} allows nothing", policy.full_name()),
    }
}

fn peer(wanted: &Peer) -> String {
    match wanted {
        Peer::Block(Block { cidr, except }) => {
            let except: Vec<_> = except.iter().map(ToString::to_string).collect();
            let except =
                if except.is_empty() { String::new() } else { format!(" except {}", except.join(" and ")) };
            format!("addresses in {cidr}{except}")
        }
        Peer::Pods { namespaces, pods } => {
            let pods = if pods.requirements.is_empty() {
                "pods".to_owned()
            } else {
                format!("pods with {}", selector(pods))
            };
            match namespaces {
                Namespaces::Named(name) => format!("{pods} in namespace {name}"),
                Namespaces::Matching(all) if all.requirements.is_empty() => {
                    format!("{pods} in any namespace")
                }
                Namespaces::Matching(some) => format!("{pods} in namespaces with {}", selector(some)),
            }
        }
    }
}

/// The ports of a rule; protocols are named where one of them is not the one that was asked for.
fn ports(all: &[Port], asked: u8) -> String {
    let protocol_of = |port: &Port| match port {
        Port::Range { protocol, .. } | Port::Named { protocol, .. } => *protocol,
    };
    let named = all.iter().any(|port| protocol_of(port) != asked);
    let texts = all.iter().map(|port| {
        let protocol = protocol_name(protocol_of(port));
        let over = if named { format!(" over {protocol}") } else { String::new() };
        match port {
            Port::Range { first: 0, last: u16::MAX, .. } => format!("all {protocol} ports"),
            Port::Range { first, last, .. } if first == last => format!("port {first}{over}"),
            Port::Range { first, last, .. } => format!("ports {first} to {last}{over}"),
            Port::Named { name, .. } => format!("port {name}{over}"),
        }
    });
    let texts: Vec<_> = texts.collect();
    match texts.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => texts.concat(),
    }
}

/// As `kubectl` takes it, as far as that reads well.
pub(crate) fn selector(selector: &Selector) -> String {
    selector.requirements.iter().map(requirement).collect::<Vec<_>>().join(" and ")
}

pub(crate) fn requirement(requirement: &Requirement) -> String {
    let key = &requirement.key;
    let list =
        |values: &std::collections::BTreeSet<String>| values.iter().cloned().collect::<Vec<_>>().join(", ");
    match &requirement.test {
        Test::In(values) if values.len() == 1 => format!("{key}={}", list(values)),
        Test::In(values) => format!("{key} in ({})", list(values)),
        Test::NotIn(values) if values.len() == 1 => format!("{key}!={}", list(values)),
        Test::NotIn(values) => format!("{key} not in ({})", list(values)),
        Test::Exists => format!("label {key}"),
        Test::DoesNotExist => format!("no label {key}"),
    }
}

fn found(mismatch: &Mismatch<'_>) -> String {
    let key = &mismatch.requirement.key;
    match &mismatch.found {
        Some(value) => format!("{key}={value}"),
        None => format!("no label {key}"),
    }
}
