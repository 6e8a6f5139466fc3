//! Rule sets: what one endpoint allows in one direction, named by its content.
//!
//! What a rule set answers to a class follows from the contents of the two alone. So a row, once written, never changes:
//! other content is another number, and the plan only ever adds rows, moves what refers to them, and removes rows.

use std::collections::{BTreeMap, BTreeSet};

use common::id::{ClassId, RuleId, RuleSetId};
use common::net::{Be16, protocol};
use common::rules::{RuleKey, RuleRow};
use common::verdict::Direction;

use crate::class::{Classes, Match, Term, Terms};
use crate::facts::PodFacts;
use crate::id::content_id;
use crate::model::{Peers, Policy, Port, Ports};
use crate::names::RuleName;
use crate::ports::Claims;
use crate::tables::RulePrefix;

#[derive(Debug)]
pub(crate) struct RuleSet {
    pub direction: Direction,
    /// All that isolate, by full name, in order.
    pub policies: Vec<String>,
    /// In order of precedence: the first that allows is the one that a verdict names.
    rules: Vec<FlatRule>,
    /// Which rules ask for a term, in order.
    by_term: Vec<Asked>,
    /// What it answers to those who match nothing.
    everyone: BTreeMap<u8, Claims<RuleId>>,
}

/// That a rule asks for a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Asked {
    term: u32,
    /// Its place in the rule set.
    rule: u32,
    /// Where the term has a port name: the protocol. Then the match's own number is let in, else the rule's ports are.
    named: Option<u8>,
}

#[derive(Debug)]
struct FlatRule {
    id: RuleId,
    name: RuleName,
    everyone: bool,
    /// Terms whose matches it lets in on `ports`.
    terms: BTreeSet<u32>,
    /// Terms with a port name, whose matches it lets in on their own number of this protocol.
    named: BTreeSet<(u32, u8)>,
    ports: BTreeSet<(u8, u16, u16)>,
}

impl RuleSet {
    /// What `policies`, all of which isolate in this direction, allow; in order of their names. `pod` is the endpoint's:
    /// for ingress, names of ports are its own.
    pub(crate) fn new(direction: Direction, policies: &[&Policy], pod: &PodFacts, terms: &mut Terms) -> Self {
        let mut rules = Vec::new();
        for policy in policies {
            for (index, rule) in policy.rules(direction).into_iter().flatten().enumerate() {
                let path = format!("spec.{}[{index}]", direction.as_str());
                let name = RuleName { policy: policy.full_name(), direction, path };
                let id = RuleId::new(content_id("rule", &format!("{} {}", name.policy, name.path)));
                let mut flat = FlatRule {
                    id,
                    name,
                    everyone: false,
                    terms: BTreeSet::new(),
                    named: BTreeSet::new(),
                    ports: BTreeSet::new(),
                };
                let mut names = BTreeSet::new();
                match &rule.ports {
                    Ports::All => flat.ports.extend(every_port()),
                    Ports::Of(ports) => {
                        for port in ports {
                            match (port, direction) {
                                (Port::Range { protocol, first, last }, _) => {
                                    flat.ports.insert((*protocol, *first, *last));
                                }
                                (Port::Named { protocol, name }, Direction::Ingress) => {
                                    let number = pod.port(name, *protocol);
                                    flat.ports.extend(number.map(|number| (*protocol, number, number)));
                                }
                                (Port::Named { protocol, name }, Direction::Egress) => {
                                    names.insert((name.clone(), *protocol));
                                }
                            }
                        }
                    }
                }
                let peers: Vec<_> = match &rule.peers {
                    Peers::Everyone => vec![None],
                    Peers::Of(peers) => peers.iter().cloned().map(Some).collect(),
                };
                for peer in peers {
                    for (name, protocol) in &names {
                        let named = Some((name.clone(), *protocol));
                        flat.named.insert((terms.intern(Term { peer: peer.clone(), named }), *protocol));
                    }
                    match peer {
                        _ if flat.ports.is_empty() => {}
                        None => flat.everyone = true,
                        Some(_) => drop(flat.terms.insert(terms.intern(Term { peer, named: None }))),
                    }
                }
                rules.push(flat);
            }
        }
        let mut by_term: Vec<Asked> = Vec::new();
        for (index, rule) in (0..).zip(&rules) {
            by_term.extend(rule.terms.iter().map(|term| Asked { term: *term, rule: index, named: None }));
            let named = rule.named.iter();
            by_term.extend(named.map(|(term, protocol)| Asked {
                term: *term,
                rule: index,
                named: Some(*protocol),
            }));
        }
        by_term.sort_unstable();
        by_term.dedup();
        by_term.shrink_to_fit();
        let policies = policies.iter().map(|policy| policy.full_name()).collect();
        let mut rule_set = Self { direction, policies, rules, by_term, everyone: BTreeMap::new() };
        rule_set.everyone = rule_set.answer(&[]);
        rule_set
    }

    /// Isolates in the name of no policy and allows nothing.
    pub(crate) fn closed(direction: Direction) -> Self {
        Self {
            direction,
            policies: Vec::new(),
            rules: Vec::new(),
            by_term: Vec::new(),
            everyone: BTreeMap::new(),
        }
    }

    pub(crate) fn id(&self, terms: &Terms) -> RuleSetId {
        let mut text = format!("{} {:?}\n", self.direction.as_str(), self.policies);
        for rule in &self.rules {
            let ids = |terms_of: Vec<u32>| {
                let mut ids: Vec<u64> = terms_of.into_iter().map(|term| terms.id(term)).collect();
                ids.sort_unstable();
                ids
            };
            let peers = ids(rule.terms.iter().copied().collect());
            let named = ids(rule.named.iter().map(|(term, _)| *term).collect());
            let line = format!("{:?} {} {peers:x?} {named:x?} {:?}\n", rule.id, rule.everyone, rule.ports);
            text.push_str(&line);
        }
        RuleSetId::new(content_id("rule set", &text))
    }

    pub(crate) fn rule_names(&self) -> impl Iterator<Item = (RuleId, &RuleName)> {
        self.rules.iter().map(|rule| (rule.id, &rule.name))
    }

    /// Every term that one of its rules asks for, each once.
    pub(crate) fn terms(&self) -> impl Iterator<Item = u32> + '_ {
        self.by_term.chunk_by(|one, other| one.term == other.term).map(|chunk| chunk[0].term)
    }

    /// The rows for everyone, and for each class those in which its answer differs.
    pub(crate) fn rows(&self, id: RuleSetId, classes: &Classes) -> BTreeMap<RulePrefix, RuleRow> {
        let mut rows = BTreeMap::new();
        self.everyones_rows(id, &mut |prefix, row| {
            rows.insert(prefix, row);
        });
        for (class, matches) in classes.with_terms(self.terms()) {
            self.rows_of(id, class, matches, &mut |prefix, row| {
                rows.insert(prefix, row);
            });
        }
        rows
    }

    /// The rows for everyone.
    pub(crate) fn everyones_rows(&self, id: RuleSetId, write: &mut impl FnMut(RulePrefix, RuleRow)) {
        for (protocol, claims) in &self.everyone {
            rows_of_claims(id, ClassId::ANY, *protocol, claims, write);
        }
    }

    /// The rows for a class that matches these terms: those in which its answer is not everyone's.
    pub(crate) fn rows_of(
        &self,
        id: RuleSetId,
        class: ClassId,
        matches: &[Match],
        write: &mut impl FnMut(RulePrefix, RuleRow),
    ) {
        let nothing = Claims::default();
        for (protocol, claims) in self.answer(matches) {
            let beyond = claims.beyond(self.everyone.get(&protocol).unwrap_or(&nothing));
            rows_of_claims(id, class, protocol, &beyond, write);
        }
    }

    /// Per protocol of the rows, which rule allows which ports to peers that match these terms.
    fn answer(&self, matches: &[Match]) -> BTreeMap<u8, Claims<RuleId>> {
        // By place of the rule, and with the port where it is not the rule's that are let in.
        let everyones = (0..).zip(&self.rules).filter(|(_, rule)| rule.everyone);
        let mut asked: Vec<(u32, Option<(u8, u16)>)> = everyones.map(|(index, _)| (index, None)).collect();
        for m in matches {
            let from = self.by_term.partition_point(|asked| asked.term < m.term);
            let of_term = self.by_term[from..].iter().take_while(|asked| asked.term == m.term);
            asked.extend(of_term.map(|of| (of.rule, of.named.map(|protocol| (protocol, m.port)))));
        }
        asked.sort_unstable();
        asked.dedup();
        let mut answer: BTreeMap<u8, Claims<RuleId>> = BTreeMap::new();
        for (index, port) in asked {
            let rule = &self.rules[index as usize];
            match port {
                Some((protocol, port)) => answer.entry(protocol).or_default().claim(port, port, rule.id),
                None => {
                    for (protocol, first, last) in &rule.ports {
                        answer.entry(*protocol).or_default().claim(*first, *last, rule.id);
                    }
                }
            }
        }
        answer
    }
}

/// All ports of all protocols; 0 stands for those that have no ports.
fn every_port() -> impl Iterator<Item = (u8, u16, u16)> {
    [0, protocol::TCP, protocol::UDP, protocol::SCTP].into_iter().map(|protocol| (protocol, 0, u16::MAX))
}

fn rows_of_claims(
    rule_set: RuleSetId,
    class: ClassId,
    protocol: u8,
    claims: &Claims<RuleId>,
    write: &mut impl FnMut(RulePrefix, RuleRow),
) {
    for (prefix, rule) in claims.prefixes() {
        let key = RuleKey { rule_set, class, protocol, zero: 0, port: Be16::new(prefix.port) };
        let bits = RuleKey::BITS_ANY_PORT + prefix.bits;
        write(RulePrefix { key, bits }, RuleRow { rule, action: RuleRow::ALLOW });
    }
}
