//! What keeps a rule from allowing a flow, fact by fact.

use common::net::protocol;
use ipnet::IpNet;

use super::Question;
use crate::facts::PodFacts;
use crate::lookup::Flow;
use crate::model::{Block, Namespaces, Peer, Policy, Port};
use crate::selector::{Labels, Requirement, Selector, Test};
use crate::spelling;

/// One fact that would have to be otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gap<'a> {
    /// Another port was asked for.
    Port {
        first: u16,
        last: u16,
    },
    /// Another protocol was asked for.
    Protocol {
        wanted: u8,
    },
    /// The destination gives this name another number, or none.
    Named {
        name: &'a str,
        protocol: u8,
        number: Option<u16>,
    },
    /// The rule names ports, and what was asked for has none.
    Portless,
    /// The peer has another label.
    Label(Mismatch<'a>),
    /// The peer's namespace has another label.
    NamespaceLabel {
        namespace: String,
        mismatch: Mismatch<'a>,
    },
    /// The peer is of another namespace.
    Namespace {
        wanted: &'a str,
        found: &'a str,
    },
    /// The rule is for pods, and the peer is none.
    NotAPod,
    OutsideBlock(&'a Block),
    Excepted {
        block: &'a Block,
        except: IpNet,
    },
    /// The policy does not select the endpoint.
    Selection(Mismatch<'a>),
    /// Something in the rule could not be honoured, so that it allows nothing.
    Broken,
}

/// A label that does not meet what a selector asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch<'a> {
    pub requirement: &'a Requirement,
    pub found: Option<String>,
}

impl Mismatch<'_> {
    /// Whether it looks like a slip of the finger: another spelling of a wanted value.
    pub(crate) fn is_slip(&self) -> bool {
        match (&self.requirement.test, &self.found) {
            (Test::In(values), Some(found)) => values.iter().any(|value| spelling::is_near(value, found)),
            _ => false,
        }
    }
}

impl Gap<'_> {
    /// How far the fact is from what would be right; only their order means anything.
    pub(crate) fn cost(&self) -> u32 {
        match self {
            Self::Label(mismatch) | Self::NamespaceLabel { mismatch, .. } if mismatch.is_slip() => 8,
            Self::Selection(mismatch) if mismatch.is_slip() => 9,
            Self::Port { .. } | Self::Protocol { .. } | Self::Named { .. } => 10,
            Self::Excepted { .. } => 11,
            Self::Label(_) => 13,
            Self::Broken => 14,
            Self::Namespace { .. } | Self::NamespaceLabel { .. } => 15,
            Self::OutsideBlock(_) | Self::NotAPod | Self::Portless => 40,
            Self::Selection(_) => 60,
        }
    }
}

/// Nothing where the peer is meant.
pub(crate) fn of_peer<'a>(question: &Question<'a>, wanted: &'a Peer) -> Vec<Gap<'a>> {
    match wanted {
        Peer::Block(block) => {
            let except = block.except.iter().find(|net| net.contains(&question.peer));
            match (block.cidr.contains(&question.peer), except) {
                (true, None) => Vec::new(),
                (true, Some(except)) => vec![Gap::Excepted { block, except: *except }],
                (false, _) => vec![Gap::OutsideBlock(block)],
            }
        }
        Peer::Pods { namespaces, pods } => {
            let Some(pod) = question.peer_pod else { return vec![Gap::NotAPod] };
            let mut gaps = Vec::new();
            match namespaces {
                Namespaces::Named(name) if *name == pod.namespace => {}
                Namespaces::Named(name) => {
                    gaps.push(Gap::Namespace { wanted: name, found: &pod.namespace });
                }
                Namespaces::Matching(selector) => {
                    let labels = question.world.namespace_labels(&pod.namespace);
                    gaps.extend(
                        mismatches(selector, &labels).map(|mismatch| Gap::NamespaceLabel {
                            namespace: pod.namespace.clone(),
                            mismatch,
                        }),
                    );
                }
            }
            gaps.extend(mismatches(pods, &pod.labels).map(Gap::Label));
            gaps
        }
    }
}

/// Nothing where the port is meant. `destination` is the pod on which names are looked up.
pub(crate) fn of_port<'a>(flow: &Flow, wanted: &'a Port, destination: Option<&PodFacts>) -> Vec<Gap<'a>> {
    if !protocol::has_ports(flow.protocol) {
        return vec![Gap::Portless];
    }
    let mut gaps = Vec::new();
    let (Port::Range { protocol, .. } | Port::Named { protocol, .. }) = wanted;
    if *protocol != flow.protocol {
        gaps.push(Gap::Protocol { wanted: *protocol });
    }
    match wanted {
        Port::Range { first, last, .. } => {
            if !(*first..=*last).contains(&flow.destination_port) {
                gaps.push(Gap::Port { first: *first, last: *last });
            }
        }
        Port::Named { protocol, name } => {
            let number = destination.and_then(|pod| pod.port(name, *protocol));
            if number != Some(flow.destination_port) {
                gaps.push(Gap::Named { name, protocol: *protocol, number });
            }
        }
    }
    gaps
}

/// Nothing where the policy selects the pod.
pub(crate) fn of_selection<'a>(policy: &'a Policy, pod: &PodFacts) -> Vec<Gap<'a>> {
    mismatches(&policy.pods, &pod.labels).map(Gap::Selection).collect()
}

fn mismatches<'a>(selector: &'a Selector, labels: &Labels) -> impl Iterator<Item = Mismatch<'a>> {
    let requirements = selector.requirements.iter().filter(|requirement| !requirement.holds(labels));
    requirements
        .map(|requirement| Mismatch { requirement, found: labels.get(&requirement.key).map(str::to_owned) })
}
