//! Our table of nf_tables: what netfilter does to the packets that take the host's stack.
//!
//! One table, `inet weir`, in the node's network namespace, replaced whole in one transaction. Pods among themselves never
//! meet it. What must be in it follows from the command line and the records of endpoints, so that nothing of it is kept.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use api::Attach;
use common::net::protocol;
use common::verdict::MASQUERADE_MARK;
use netlink::nftables::{
    Chain, End, Expression, Family, Field, Hook, Nftables, Register, Rule, Set, Snapshot, Table, Words,
};
use tracing::{info, warn};

/// The only table that is ours.
pub(crate) const TABLE: &str = "weir";
/// What the names of our interfaces begin with: of those that lead to pods, and of those to other nodes.
const OURS: &[u8] = b"weir";
const TO_NODES: &[u8] = b"weir-";

/// A port of this node that leads to one of its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct HostPort {
    protocol: u8,
    port: u16,
    /// The address of the node where it does; `None`: all of the pod's family.
    at: Option<IpAddr>,
    pod: IpAddr,
    pod_port: u16,
}

pub(crate) struct HostRules {
    /// `None`: this kernel has none, and nothing has needed it yet.
    nftables: Option<Nftables>,
    masquerade: bool,
    ports: BTreeSet<HostPort>,
    /// The table as the kernel showed it when it was written last.
    written: Option<Snapshot>,
}

impl HostRules {
    /// Puts the rules in place of an earlier agent's, in one step: what has been translated goes on.
    pub(crate) fn new<'a>(masquerade: bool, endpoints: impl IntoIterator<Item = &'a Attach>) -> Result<Self> {
        let nftables = match Nftables::new() {
            Ok(nftables) => Some(nftables),
            Err(error) if masquerade => return Err(error).context("--masquerade"),
            Err(_) => None,
        };
        let ports = endpoints.into_iter().flat_map(host_ports).collect();
        let mut rules = Self { nftables, masquerade, ports, written: None };
        match rules.apply() {
            Err(error) if masquerade => return Err(error).context("--masquerade"),
            Err(_) if rules.ports.is_empty() => {
                info!("this kernel has no nf_tables: ports of the host cannot lead to pods");
                rules.nftables = None;
            }
            // Whoever asks for them next tries again.
            Err(_) => rules.ports.clear(),
            Ok(()) => {}
        }
        Ok(rules)
    }

    /// Makes the ports of the host lead to these endpoints, and to nobody else.
    pub(crate) fn lead_to<'a>(&mut self, endpoints: impl IntoIterator<Item = &'a Attach>) -> Result<()> {
        let ports: BTreeSet<HostPort> = endpoints.into_iter().flat_map(host_ports).collect();
        if ports == self.ports {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.ports, ports);
        if let Err(error) = self.apply() {
            self.ports = before;
            return Err(error);
        }
        let changed: BTreeSet<HostPort> = before.symmetric_difference(&self.ports).copied().collect();
        self.forget_datagrams(&changed);
        Ok(())
    }

    /// Whether any port of the host leads to a pod.
    pub(crate) fn leads_anywhere(&self) -> bool {
        !self.ports.is_empty()
    }

    /// Whether the kernel still has what was written last.
    pub(crate) fn is_as_desired(&self) -> Result<bool> {
        match &self.nftables {
            Some(nftables) => Ok(nftables.read(TABLE)? == self.written),
            None => Ok(true),
        }
    }

    /// Puts back what somebody else has changed. Whether there was anything.
    pub(crate) fn mend(&mut self) -> Result<bool> {
        if self.is_as_desired()? {
            return Ok(false);
        }
        self.apply()?;
        Ok(true)
    }

    /// Makes the kernel have our rules, whatever it had before.
    fn apply(&mut self) -> Result<()> {
        let nftables = self.nftables.as_ref().context(NEEDED)?;
        if self.masquerade || self.leads_anywhere() {
            nftables.replace(&self.table()).context(NEEDED)?;
        } else {
            nftables.remove(TABLE)?;
        }
        self.written = nftables.read(TABLE)?;
        Ok(())
    }

    /// A client that goes on sending datagrams would go on to the pod before.
    fn forget_datagrams(&self, changed: &BTreeSet<HostPort>) {
        let Some(nftables) = &self.nftables else { return };
        for protocol in [protocol::UDP, protocol::SCTP] {
            let changed = changed.iter().filter(|port| port.protocol == protocol);
            let (ports, pods): (BTreeSet<u16>, BTreeSet<IpAddr>) =
                changed.map(|port| (port.port, port.pod)).unzip();
            if !ports.is_empty()
                && let Err(error) = nftables.forget_connections(protocol, &ports, &pods)
            {
                warn!(
                    error = format!("{error:#}"),
                    ?ports,
                    "who sends to these ports already may not reach the pod"
                );
            }
        }
    }

    fn table(&self) -> Table {
        let families: Vec<Family> = [Family::V4, Family::V6]
            .into_iter()
            .filter(|family| self.ports.iter().any(|port| family_of(port.pod) == *family))
            .collect();
        let sets = families.iter().flat_map(|family| self.sets(*family)).collect();
        let translations: Vec<Rule> = families
            .iter()
            .flat_map(|family| [translation(*family, Where::At), translation(*family, Where::Anywhere)])
            .collect();
        let mut postrouting = turned_round();
        postrouting.extend(families.iter().map(|family| hairpin(*family)));
        if self.masquerade {
            postrouting.extend(marked());
        }
        let chain = |name, hook, rules| Chain { name, hook, rules };
        let mut chains = vec![chain("postrouting", Hook::Postrouting, postrouting)];
        if !translations.is_empty() {
            chains.push(chain("prerouting", Hook::Prerouting, translations.clone()));
            chains.push(chain("output", Hook::Output, translations));
        }
        Table { name: TABLE, sets, chains }
    }

    fn sets(&self, family: Family) -> [Set; 3] {
        let names = Names::of(family);
        let ports = || self.ports.iter().filter(move |port| family_of(port.pod) == family);
        let (mut anywhere, mut at) = (Vec::new(), Vec::new());
        for port in ports() {
            let to = Words::default().address(port.pod).port(port.pod_port);
            match port.at {
                Some(ip) => {
                    at.push((Words::default().address(ip).protocol(port.protocol).port(port.port), to));
                }
                None => anywhere.push((Words::default().protocol(port.protocol).port(port.port), to)),
            }
        }
        let pods: BTreeSet<IpAddr> = ports().map(|port| port.pod).collect();
        let itself = |pod: IpAddr| (Words::default().address(pod).address(pod), Words::default());
        [
            Set { name: names.at, key: names.at_key, value: names.to, rows: at },
            Set {
                name: names.anywhere,
                key: &[Field::Protocol, Field::Port],
                value: names.to,
                rows: anywhere,
            },
            Set {
                name: names.itself,
                key: names.ends,
                value: &[],
                rows: pods.into_iter().map(itself).collect(),
            },
        ]
    }
}

const NEEDED: &str =
    "the kernel needs nf_tables with NAT (CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_MASQ)";

/// What an endpoint asks for, for each of its addresses.
fn host_ports(attach: &Attach) -> impl Iterator<Item = HostPort> {
    attach.port_mappings.iter().flat_map(|mapping| {
        let same_family = |ip: &IpAddr| mapping.host_ip.is_none_or(|at| at.is_ipv4() == ip.is_ipv4());
        attach.ips.iter().copied().filter(move |ip| same_family(ip)).map(|pod| HostPort {
            protocol: mapping.protocol.number(),
            port: mapping.host_port,
            at: mapping.host_ip.filter(|at| !at.is_unspecified()),
            pod,
            pod_port: mapping.container_port,
        })
    })
}

fn family_of(ip: IpAddr) -> Family {
    if ip.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// The sets of one family.
struct Names {
    at: &'static str,
    anywhere: &'static str,
    itself: &'static str,
    at_key: &'static [Field],
    to: &'static [Field],
    ends: &'static [Field],
}

impl Names {
    fn of(family: Family) -> Self {
        match family {
            Family::V4 => Self {
                at: "ports_at_ip4",
                anywhere: "ports_ip4",
                itself: "itself_ip4",
                at_key: &[Field::V4, Field::Protocol, Field::Port],
                to: &[Field::V4, Field::Port],
                ends: &[Field::V4, Field::V4],
            },
            Family::V6 => Self {
                at: "ports_at_ip6",
                anywhere: "ports_ip6",
                itself: "itself_ip6",
                at_key: &[Field::V6, Field::Protocol, Field::Port],
                to: &[Field::V6, Field::Port],
                ends: &[Field::V6, Field::V6],
            },
        }
    }
}

const A: Register = Register::A;
/// `RTN_LOCAL`
const OWN: u32 = 2;
/// `IPS_DST_NAT`
const TRANSLATED: u32 = 1 << 5;

/// Which of the node's addresses a port is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    At,
    Anywhere,
}

/// What is sent to a port of the host goes to its pod. Not so what is sent to a loopback address: the answer would come from
/// outside, and the kernel drops that.
fn translation(family: Family, place: Where) -> Rule {
    let words = if family == Family::V4 { 1 } else { 4 };
    let destination = |into| Expression::Address { end: End::Destination, family, into };
    let mut rule = of_family(family);
    rule.push(destination(A));
    match family {
        Family::V4 => rule.extend([
            Expression::Mask { register: A, mask: vec![255, 0, 0, 0] },
            Expression::Differs { register: A, value: vec![127, 0, 0, 0] },
        ]),
        Family::V6 => rule.push(Expression::Differs {
            register: A,
            value: std::net::Ipv6Addr::LOCALHOST.octets().to_vec(),
        }),
    }
    rule.push(Expression::DestinationKind { into: A });
    rule.push(Expression::Equal { register: A, value: OWN.to_ne_bytes().to_vec() });
    let (set, ends_at) = match place {
        Where::At => {
            rule.push(destination(A));
            (Names::of(family).at, words)
        }
        Where::Anywhere => (Names::of(family).anywhere, 0),
    };
    let (to, port) = (Register::word(10), Register::word(10 + words));
    rule.extend([
        Expression::Protocol { into: Register::word(ends_at) },
        Expression::DestinationPort { into: Register::word(ends_at + 1) },
        Expression::Lookup { set, key: A, into: Some(to) },
        Expression::Translate { family, address: to, port },
    ]);
    rule
}

/// A pod that reaches itself by a port of the host would answer itself, past the translation.
fn hairpin(family: Family) -> Rule {
    let words = if family == Family::V4 { 1 } else { 4 };
    let mut rule = of_family(family);
    rule.extend([
        Expression::Address { end: End::Source, family, into: A },
        Expression::Address { end: End::Destination, family, into: Register::word(words) },
        Expression::Lookup { set: Names::of(family).itself, key: A, into: None },
        Expression::Masquerade,
    ]);
    rule
}

fn of_family(family: Family) -> Rule {
    vec![Expression::Family { into: A }, Expression::Equal { register: A, value: vec![family.number()] }]
}

/// What the kernel programs have marked, unless somebody has turned it round to a pod of this node: its answer comes back
/// this way by itself, and its policy is about the real source.
fn marked() -> Vec<Rule> {
    let mark = MASQUERADE_MARK.to_ne_bytes().to_vec();
    leaving(vec![
        Expression::Mark { into: A },
        Expression::Mask { register: A, mask: mark.clone() },
        Expression::Equal { register: A, value: mark },
    ])
}

/// What a pod sent to this node, and somebody (a proxy of Services) has turned round to another node: the answer must come back
/// by here, where it is put right.
fn turned_round() -> Vec<Rule> {
    let translated = TRANSLATED.to_ne_bytes().to_vec();
    leaving(vec![
        Expression::InInterface { into: A },
        Expression::Equal { register: A, value: OURS.to_vec() },
        Expression::Connection { into: A },
        Expression::Mask { register: A, mask: translated.clone() },
        Expression::Equal { register: A, value: translated },
    ])
}

/// Masquerades what matches and leaves by no pod's interface.
fn leaving(matching: Rule) -> Vec<Rule> {
    let by = |which: Expression| {
        let rest = [Expression::OutInterface { into: A }, which, Expression::Masquerade];
        matching.iter().cloned().chain(rest).collect()
    };
    vec![
        by(Expression::Differs { register: A, value: OURS.to_vec() }),
        by(Expression::Equal { register: A, value: TO_NODES.to_vec() }),
    ]
}
