//! From what was measured to what the report says. Pure.

use api::{Flow, PolicyRef, VerdictKind};

use crate::plan::Service;
use crate::prober::Measured;
use crate::report::{By, Probe, ServiceProbe};
use crate::stub::protocol::Outcome;
use crate::targets::Target;

/// The reason of a probe that nothing at all was heard of.
const TIMEOUT: &str = "timeout";

/// The report's line about an end-to-end probe, and a warning where it is not the plain truth about policies.
pub(crate) fn probe(target: &Target, measured: &Measured) -> (Probe, Option<String>) {
    let to = target.to.clone().unwrap_or_default();
    let what = format!("{} -> {to} {} port {} of {}", target.from, target.protocol, target.port, target.ip);
    let bare =
        |reason: &str| By { direction: None, policies: Vec::new(), rule: None, reason: reason.to_owned() };
    let (verdict, by, warning) = match &measured.outcome {
        Outcome::Answered(name) if *name == to => (VerdictKind::Allowed, allowed_by(&measured.flows), None),
        Outcome::Answered(name) => {
            (VerdictKind::Denied, Some(bare("wrong_pod")), Some(format!("{what}: {name:?} answered instead")))
        }
        Outcome::Refused(error) => match denied_by(&measured.flows) {
            Some(by) => (VerdictKind::Denied, Some(by), None),
            None => (
                VerdictKind::Denied,
                Some(bare("refused")),
                Some(format!("{what}: nobody listens there: {error}")),
            ),
        },
        Outcome::Silence => match denied_by(&measured.flows) {
            Some(by) => (VerdictKind::Denied, Some(by), None),
            None => {
                let warning = format!("{what}: no answer came, and no node saw a drop");
                (VerdictKind::Denied, Some(bare(TIMEOUT)), Some(warning))
            }
        },
        Outcome::Failed(error) => {
            (VerdictKind::Denied, Some(bare("failed")), Some(format!("{what}: could not be tried: {error}")))
        }
    };
    let Target { from, ip, port, protocol, .. } = target.clone();
    (Probe { from, to, ip, port, protocol, verdict, by }, warning)
}

/// The report's line about a Service.
pub(crate) fn service(service: &Service, target: &Target, measured: &Measured) -> ServiceProbe {
    let backend = match &measured.outcome {
        Outcome::Answered(name) => Some(name.clone()),
        _ => None,
    };
    ServiceProbe {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        ip: target.ip,
        port: target.port,
        protocol: target.protocol,
        from: target.from.clone(),
        verdict: if backend.is_some() { VerdictKind::Allowed } else { VerdictKind::Denied },
        backend,
    }
}

fn denied_by(flows: &[Flow]) -> Option<By> {
    let flow = flows.iter().find(|flow| flow.verdict == VerdictKind::Denied)?;
    let policy = flow.by.iter().find(|policy| Some(&policy.direction) == flow.direction.as_ref());
    Some(by(flow, policy.or(flow.by.first())))
}

/// Of the two directions the one with a rule to show, ingress first.
fn allowed_by(flows: &[Flow]) -> Option<By> {
    let judged = || flows.iter().flat_map(|flow| flow.by.iter().map(move |policy| (flow, policy)));
    let best = judged().max_by_key(|(_, policy)| (policy.rule.is_some(), policy.direction == "ingress"));
    match best {
        Some((flow, policy)) => Some(by(flow, Some(policy))),
        None => flows.first().map(|flow| by(flow, None)),
    }
}

fn by(flow: &Flow, policy: Option<&PolicyRef>) -> By {
    By {
        direction: policy.map(|policy| policy.direction.clone()).or_else(|| flow.direction.clone()),
        policies: policy.map(|policy| policy.policies.clone()).unwrap_or_default(),
        rule: policy.and_then(|policy| policy.rule.clone()),
        reason: flow.reason.clone(),
    }
}

#[cfg(test)]
mod tests {
    use api::FlowEnd;

    use super::*;
    use crate::plan::Protocol;

    fn target() -> Target {
        Target {
            from: "shop/a".into(),
            to: Some("shop/b".into()),
            ip: "10.0.0.1".parse().unwrap(),
            port: 80,
            protocol: Protocol::Tcp,
            unseen: false,
        }
    }

    fn flow(verdict: VerdictKind, reason: &str, by: &[(&str, &str, Option<&str>)]) -> Flow {
        let end = FlowEnd { ip: "10.0.0.1".parse().unwrap(), port: 80, name: None };
        let by = by.iter().map(|(direction, policy, rule)| PolicyRef {
            direction: (*direction).into(),
            policies: vec![(*policy).into()],
            rule: rule.map(str::to_owned),
        });
        Flow {
            time: String::new(),
            node: "node-0".into(),
            from: end.clone(),
            to: end,
            protocol: "TCP".into(),
            verdict,
            direction: Some("ingress".into()),
            reason: reason.into(),
            by: by.collect(),
            bytes: 60,
        }
    }

    /// `verdict direction policies rule reason`, and whether there is a warning.
    #[track_caller]
    fn check(outcome: Outcome, flows: Vec<Flow>, expected: &str) {
        let (probe, warning) = probe(&target(), &Measured { outcome, flows });
        let by = probe.by.map(|by| {
            format!("{:?} {:?} {:?} {}", by.direction.unwrap_or_default(), by.policies, by.rule, by.reason)
        });
        let found = format!("{:?} {} {}", probe.verdict, by.unwrap_or_default(), warning.is_some());
        assert_eq!(found, expected);
    }

    #[test]
    fn the_right_name_is_allowed_and_shows_the_rule_that_did_it() {
        let answered = || Outcome::Answered("shop/b".into());
        check(answered(), vec![], "Allowed  false");
        let both = [("egress", "shop/a", Some("spec.egress[0]")), ("ingress", "shop/b", None)];
        check(
            answered(),
            vec![flow(VerdictKind::Allowed, "rule", &both)],
            r#"Allowed "egress" ["shop/a"] Some("spec.egress[0]") rule false"#,
        );
    }

    #[test]
    fn another_name_is_a_denial_with_a_warning() {
        check(Outcome::Answered("shop/c".into()), vec![], r#"Denied "" [] None wrong_pod true"#);
    }

    #[test]
    fn silence_is_explained_by_the_drop_and_is_odd_without_one() {
        let drop = flow(VerdictKind::Denied, "policy_denied", &[("ingress", "shop/deny", None)]);
        check(Outcome::Silence, vec![drop], r#"Denied "ingress" ["shop/deny"] None policy_denied false"#);
        check(Outcome::Silence, vec![], r#"Denied "" [] None timeout true"#);
    }
}
