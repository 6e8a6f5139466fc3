//! Of all rules that did not allow a flow, the one to which the least was missing.

use api::Miss;

use super::gap::{self, Gap};
use super::{Question, rules, words};
use crate::facts::PodFacts;
use crate::model::{Peer, Peers, Policy, Port, Ports, Rule};
use crate::places::Places;

/// A rule, the peer and port in it that are nearest, and what is missing to them.
pub(crate) struct Candidate<'a> {
    pub policy: &'a Policy,
    pub index: usize,
    pub rule: &'a Rule,
    /// `None`: every peer will do.
    pub peer: Option<&'a Peer>,
    /// `None`: every port will do.
    pub port: Option<&'a Port>,
    pub gaps: Vec<Gap<'a>>,
}

impl Candidate<'_> {
    fn cost(&self) -> u32 {
        self.gaps.iter().map(Gap::cost).sum()
    }
}

pub(super) fn nearest(question: &Question<'_>, pod: &PodFacts, places: &Places) -> Option<Miss> {
    let candidate = best(question, pod)?;
    let rule = question.rule_place(candidate.policy, candidate.index, places);
    Some(Miss { rule, sentence: words::sentence(question, pod, &candidate) })
}

/// The nearest rule; of equals the first by name of policy and place.
pub(crate) fn best<'a>(question: &Question<'a>, pod: &PodFacts) -> Option<Candidate<'a>> {
    let policies = question.policies(pod);
    let all = policies.flat_map(|policy| rules(policy, question.direction));
    all.filter_map(|(policy, index, rule)| candidate(question, pod, policy, index, rule))
        .min_by_key(Candidate::cost)
}

fn candidate<'a>(
    question: &Question<'a>,
    pod: &PodFacts,
    policy: &'a Policy,
    index: usize,
    rule: &'a Rule,
) -> Option<Candidate<'a>> {
    let mut found = Candidate { policy, index, rule, peer: None, port: None, gaps: Vec::new() };
    let mut meet = |gaps: Vec<Gap<'a>>| found.gaps.extend(gaps);
    if let Peers::Of(peers) = &rule.peers {
        match nearest_of(peers, |peer| gap::of_peer(question, peer)) {
            Some((peer, gaps)) => {
                found.peer = Some(peer);
                meet(gaps);
            }
            None => meet(vec![Gap::Broken]),
        }
    }
    if let (Ports::Of(ports), false) = (&rule.ports, found.gaps.contains(&Gap::Broken)) {
        let destination = question.destination(pod);
        match nearest_of(ports, |port| gap::of_port(question.flow, port, destination)) {
            Some((port, gaps)) => {
                found.port = Some(port);
                found.gaps.extend(gaps);
            }
            None => found.gaps.push(Gap::Broken),
        }
    }
    let selection = gap::of_selection(policy, pod);
    if selection.is_empty() {
        return Some(found);
    }
    // A policy for other pods is no news, unless it looks as if it was meant for this one.
    let is_meant = match selection.as_slice() {
        [Gap::Selection(mismatch)] => mismatch.is_slip() || mismatch.found.is_none(),
        _ => false,
    };
    let is_meant = is_meant && found.gaps.is_empty();
    found.gaps = selection;
    is_meant.then_some(found)
}

fn nearest_of<'a, T>(all: &'a [T], gaps: impl Fn(&'a T) -> Vec<Gap<'a>>) -> Option<(&'a T, Vec<Gap<'a>>)> {
    let all = all.iter().map(|one| (one, gaps(one)));
    all.min_by_key(|(_, gaps)| gaps.iter().map(Gap::cost).sum::<u32>())
}
