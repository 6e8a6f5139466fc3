//! NetworkPolicy in our words: nothing left to default, nothing left to misread.

use std::fmt;

use common::net::protocol;
use common::verdict::Direction;
use ipnet::IpNet;

use crate::selector::Selector;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub namespace: String,
    pub name: String,
    /// Which pods of its namespace.
    pub pods: Selector,
    /// `weir.dev/established: keep`.
    pub keep: bool,
    /// `None`: does not isolate in this direction.
    pub ingress: Option<Vec<Rule>>,
    pub egress: Option<Vec<Rule>>,
}

impl Policy {
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    pub(crate) fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// Allows what meets one of the peers and one of the ports. Its place in the list is its name, so a rule that we do not
/// honour stays there and allows nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub peers: Peers,
    pub ports: Ports,
}

impl Rule {
    pub(crate) const NOTHING: Self = Self { peers: Peers::Of(Vec::new()), ports: Ports::Of(Vec::new()) };
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peers {
    Everyone,
    /// Nobody where it is empty.
    Of(Vec<Peer>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Peer {
    Pods { namespaces: Namespaces, pods: Selector },
    Block(Block),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Namespaces {
    Named(String),
    Matching(Selector),
}

/// Any address in `cidr` and in none of `except`, pods' and nodes' included.
///
/// Invariant: each of `except` is a proper part of `cidr`; host bits are zero; both are sorted and of one family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Block {
    pub cidr: IpNet,
    pub except: Vec<IpNet>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ports {
    /// All ports of all protocols, those without ports included.
    All,
    /// None where it is empty.
    Of(Vec<Port>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Port {
    /// `first <= last`.
    Range { protocol: u8, first: u16, last: u16 },
    /// Whatever number the destination pod's container port of this name and protocol has.
    Named { protocol: u8, name: String },
}

impl fmt::Display for Peer {
    /// Canonical: ids are made of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods { namespaces: Namespaces::Named(name), pods } => write!(f, "pods of {name:?} {pods}"),
            Self::Pods { namespaces: Namespaces::Matching(selector), pods } => {
                write!(f, "pods of namespaces {selector} {pods}")
            }
            Self::Block(Block { cidr, except }) => write!(f, "block {cidr} except {except:?}"),
        }
    }
}

/// The protocol number of a name as Kubernetes spells it.
pub(crate) fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "TCP" => Some(protocol::TCP),
        "UDP" => Some(protocol::UDP),
        "SCTP" => Some(protocol::SCTP),
        _ => None,
    }
}
