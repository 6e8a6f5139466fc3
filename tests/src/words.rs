//! What the judges say of one connection, in words that a person can compare.

use common::flow::FlowEvent;
use common::id::{RuleId, RuleSetId};
use common::net::protocol;
use common::verdict::{Direction, DropReason, PassReason};
use dataplane::Action;
use policy::oracle::Opinions;
use policy::{Answer, Flow, Judgement, Names, RuleName};

/// `10.0.0.1 -> 10.0.0.2, TCP port 80`.
pub fn flow(flow: &Flow) -> String {
    let Flow { source, destination, destination_port, protocol } = flow;
    let Some(name) = protocol::name(*protocol) else {
        return format!("{source} -> {destination}, protocol {protocol}");
    };
    format!("{source} -> {destination}, {name} port {destination_port}")
}

/// `egress allowed by shop/web spec.egress[0]; ingress denied, isolated by shop/db`.
pub fn opinions(opinions: &Opinions) -> String {
    both([&opinions.egress, &opinions.ingress].map(|opinion| {
        let opinion = opinion.as_ref()?;
        Some(words(opinion.allowed, opinion.rule.as_ref().map(rule), &opinion.policies))
    }))
}

pub fn answer(answer: &Answer, names: &Names) -> String {
    let judged =
        |judgement: Judgement| by_number(judgement.allowed, judgement.rule, judgement.rule_set, names);
    both([answer.egress, answer.ingress].map(|judgement| judgement.map(judged)))
}

pub fn event(action: Action, event: Option<&FlowEvent>, names: &Names) -> String {
    let Some(event) = event else { return format!("{action:?}, and nothing is reported") };
    let name = DropReason::from_u8(event.reason).map(DropReason::as_str);
    let name =
        name.or_else(|| PassReason::from_u8(event.reason).map(PassReason::as_str)).unwrap_or("no reason");
    let said = both([Direction::Egress, Direction::Ingress].map(|direction| {
        let (allowed, rule, rules) = judged(event, direction)?;
        Some(by_number(allowed, rule, rules, names))
    }));
    format!("{action:?}, {name}: {said}")
}

/// What an event says of one direction, where that direction was judged.
pub fn judged(event: &FlowEvent, direction: Direction) -> Option<(bool, RuleId, RuleSetId)> {
    let (bit, rule, rules) = match direction {
        Direction::Ingress => (FlowEvent::JUDGED_INGRESS, event.ingress_rule, event.ingress_rules),
        Direction::Egress => (FlowEvent::JUDGED_EGRESS, event.egress_rule, event.egress_rules),
    };
    let denied = event.reason == DropReason::PolicyDenied as u8 && event.direction == direction as u8;
    (event.judged & bit != 0).then_some((!denied, rule, rules))
}

/// Egress and ingress.
fn both([egress, ingress]: [Option<String>; 2]) -> String {
    let or_not = |said: Option<String>| said.unwrap_or_else(|| "not judged".to_owned());
    format!("egress {}; ingress {}", or_not(egress), or_not(ingress))
}

fn by_number(allowed: bool, rule_id: RuleId, rule_set: RuleSetId, names: &Names) -> String {
    let by = (rule_id != RuleId::NONE).then(|| match names.rules.get(&rule_id) {
        Some(name) => rule(name),
        None => format!("rule {rule_id:?}, which has no name"),
    });
    match names.rule_sets.get(&rule_set) {
        Some(set) => words(allowed, by, &set.policies),
        None if rule_set.is_open() => words(allowed, by, &[]),
        None => words(allowed, by, &[format!("rule set {rule_set:?}, which has no name")]),
    }
}

fn rule(name: &RuleName) -> String {
    format!("{} {}", name.policy, name.path)
}

fn words(allowed: bool, rule: Option<String>, policies: &[String]) -> String {
    let verdict = if allowed { "allowed" } else { "denied" };
    let by = rule.map(|rule| format!(" by {rule}")).unwrap_or_default();
    match policies {
        [] => format!("{verdict}{by}, not isolated"),
        policies => format!("{verdict}{by}, isolated by {}", policies.join(" and ")),
    }
}
