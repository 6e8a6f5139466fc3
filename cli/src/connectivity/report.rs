//! What came of it, held against what must: for people and for programs.

use std::collections::{BTreeMap, BTreeSet};

use api::{Flow, FlowLine};
use serde::Serialize;

use super::knock::{Answer, Door, Protocol};
use super::question::{Expected, Question, Role, Where};
use super::watcher::Heard;
use crate::columns::{Cell, Tone, aligned};
use crate::format::count;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) namespace: String,
    pub(super) nodes: Vec<String>,
    pub(super) image: String,
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) checks: Vec<Check>,
    /// What makes the answers less certain.
    pub(super) warnings: Vec<String>,
}

/// One question with its answer.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    role: Role,
    from: String,
    to: String,
    #[serde(rename = "where")]
    place: Where,
    family: &'static str,
    protocol: Protocol,
    address: String,
    /// `allowed`, or `denied`.
    expected: &'static str,
    answer: Answer,
    /// The policies that an agent names for the denial.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policies: Vec<String>,
    /// What is wrong; absent: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    wrong: Option<String>,
}

impl Report {
    pub(super) fn of(
        namespace: &str,
        nodes: &[String],
        image: &str,
        answered: &[(Question, Answer)],
        heard: &[Heard],
    ) -> Self {
        let (mut drops, mut warnings) = (Vec::new(), BTreeSet::new());
        for heard in heard {
            match heard {
                Heard::Flow(FlowLine::Flow(flow)) => drops.push(&**flow),
                Heard::Flow(FlowLine::Lost { lost }) => {
                    warnings.insert(format!("an agent has lost {}", count_of_flows(*lost)));
                }
                Heard::Deaf { deaf } => {
                    warnings.insert(format!("an agent cannot be asked for its drops: {deaf}"));
                }
            }
        }
        let checks: Vec<Check> = answered
            .iter()
            .map(|(question, answer)| Check::of(namespace, question, answer, &drops, warnings.is_empty()))
            .collect();
        let failed = checks.iter().filter(|check| check.wrong.is_some()).count();
        if !warnings.is_empty() {
            warnings.insert("so silence alone counted as a denial".to_owned());
        }
        Self {
            namespace: namespace.to_owned(),
            nodes: nodes.to_vec(),
            image: image.to_owned(),
            passed: checks.len() - failed,
            failed,
            checks,
            warnings: warnings.into_iter().collect(),
        }
    }

    /// A line for each who asks whom where; then why not, and what is wrong.
    pub(super) fn table(&self, colour: bool) -> String {
        let columns: BTreeSet<_> = self.checks.iter().map(|check| (check.family, check.protocol)).collect();
        let mut order = Vec::new();
        let mut lines: BTreeMap<_, Vec<&Check>> = BTreeMap::new();
        for check in &self.checks {
            let line = (check.role, check.to.as_str(), check.place);
            if !order.contains(&line) {
                order.push(line);
            }
            lines.entry(line).or_default().push(check);
        }
        order.sort_by_key(|(role, ..)| *role);
        let mut heads = vec!["FROM".to_owned(), "TO".to_owned(), "WHERE".to_owned()];
        heads.extend(columns.iter().map(|(family, protocol)| format!("{family} {}", protocol.as_str())));
        let heads = heads.into_iter().map(|head| Cell::toned(head, Tone::Quiet)).collect();
        let rows = order.iter().map(|line| {
            let (role, to, place) = *line;
            let mut row = vec![Cell::new(role.as_str()), Cell::new(to), Cell::new(place.as_str())];
            row.extend(columns.iter().map(|column| mark(&lines[line], *column)));
            row
        });
        let mut text = aligned(&std::iter::once(heads).chain(rows).collect::<Vec<_>>(), "", colour);
        let denied: BTreeSet<String> = self
            .checks
            .iter()
            .filter(|check| check.wrong.is_none() && !check.policies.is_empty())
            .map(|check| format!("{} to {}: by {}", check.role.as_str(), check.to, check.policies.join(", ")))
            .collect();
        section(&mut text, "Denied, as it must be", Tone::Plain, denied, colour);
        let wrong = self.checks.iter().filter_map(|check| {
            let wrong = check.wrong.as_ref()?;
            let protocol = check.protocol.as_str();
            Some(format!("{} to {} ({}, {protocol}): {wrong}", check.from, check.to, check.address))
        });
        section(&mut text, "Wrong", Tone::Bad, wrong, colour);
        section(&mut text, "Warnings", Tone::Plain, self.warnings.iter().cloned(), colour);
        let all = count(self.checks.len(), "connection", "connections");
        text + &format!("\n{all}, {} as it must be, {} not\n", self.passed, self.failed)
    }
}

fn section(
    text: &mut String,
    title: &str,
    tone: Tone,
    lines: impl IntoIterator<Item = String>,
    colour: bool,
) {
    let rows: Vec<_> = lines.into_iter().map(|line| vec![Cell::toned(line, tone)]).collect();
    if !rows.is_empty() {
        text.push_str(&format!("\n{title}\n"));
        text.push_str(&aligned(&rows, "  ", colour));
    }
}

/// What all of these say together, of those in the column.
fn mark(checks: &[&Check], column: (&'static str, Protocol)) -> Cell {
    let mut found = checks.iter().filter(|check| (check.family, check.protocol) == column).peekable();
    let Some(first) = found.peek() else { return Cell::toned("·", Tone::Quiet) };
    let expected = first.expected;
    match (found.any(|check| check.wrong.is_some()), expected) {
        (true, "allowed") => Cell::toned("✗ wrong", Tone::Bad),
        (true, _) => Cell::toned("✓ wrong", Tone::Bad),
        (false, "allowed") => Cell::toned("✓", Tone::Good),
        (false, _) => Cell::new("✗"),
    }
}

fn count_of_flows(lost: u64) -> String {
    count(usize::try_from(lost).unwrap_or(usize::MAX), "flow", "flows")
}

impl Check {
    fn of(namespace: &str, question: &Question, answer: &Answer, drops: &[&Flow], all_is_told: bool) -> Self {
        let drops: Vec<&Flow> =
            drops.iter().copied().filter(|flow| is_about(namespace, question, flow)).collect();
        let by = |flow: &Flow| -> Vec<String> { flow.by.iter().flat_map(|by| by.policies.clone()).collect() };
        let mut policies = Vec::new();
        let wrong = match (&question.expected, answer) {
            (Expected::Allowed { server }, Answer::Yes(said)) => {
                let right = said.is_empty() || said == server || said.starts_with(&format!("{server}-"));
                (!right).then(|| format!("{said} has answered in place of {server}"))
            }
            (Expected::Allowed { .. }, Answer::Error(why)) => Some(why.clone()),
            (Expected::Allowed { .. }, Answer::Silence) => Some(match drops.last() {
                Some(flow) => {
                    format!("dropped: {} {}", flow.reason, by(flow).join(", ")).trim_end().to_owned()
                }
                None => "silence, and no agent has dropped anything of it".to_owned(),
            }),
            (Expected::Denied { policy }, Answer::Silence) => {
                let policy = format!("{namespace}/{policy}");
                let right = drops.iter().find(|flow| by(flow).contains(&policy));
                match (right, drops.last()) {
                    (Some(flow), _) => {
                        let own = format!("{namespace}/");
                        let names = by(flow).into_iter();
                        policies = names.map(|name| name.trim_start_matches(&own).to_owned()).collect();
                        None
                    }
                    (None, Some(flow)) => Some(format!("dropped, but not by {policy}: {}", flow.reason)),
                    (None, None) if all_is_told => Some("silence, but no agent has denied it".to_owned()),
                    (None, None) => None,
                }
            }
            (Expected::Denied { policy }, Answer::Yes(_)) => Some(format!("let through, against {policy}")),
            (Expected::Denied { .. }, Answer::Error(why)) => Some(format!("no denial: {why}")),
        };
        let address = match &question.knock.door {
            Door::Server(address) | Door::Port(address) => address.to_string(),
            Door::Named { service, port, .. } => format!("{service}:{port}"),
        };
        Self {
            role: question.role,
            from: question.from.clone(),
            to: question.to.clone(),
            place: question.place,
            family: if question.is_v6 { "IPv6" } else { "IPv4" },
            protocol: question.knock.protocol,
            address,
            expected: match question.expected {
                Expected::Allowed { .. } => "allowed",
                Expected::Denied { .. } => "denied",
            },
            answer: answer.clone(),
            policies,
            wrong,
        }
    }
}

/// Whether the flow is what came of the question. One to a Service shows its backend.
fn is_about(namespace: &str, question: &Question, flow: &Flow) -> bool {
    let Door::Server(address) = question.knock.door else { return false };
    let from = format!("{namespace}/{}", question.from);
    let to = match question.to.strip_prefix("Service ") {
        Some(server) => {
            let backends = format!("{namespace}/{server}-");
            flow.to.ip.is_ipv6() == question.is_v6
                && flow.to.name.as_ref().is_some_and(|name| name.starts_with(&backends))
        }
        None => flow.to.ip == address.ip(),
    };
    to && flow.from.name.as_ref() == Some(&from)
        && flow.to.port == address.port()
        && flow.protocol == question.knock.protocol.as_str()
}

#[cfg(test)]
mod tests {
    use api::{FlowEnd, PolicyRef, VerdictKind};

    use super::*;
    use crate::connectivity::knock::Knock;
    use crate::connectivity::objects::DENY;

    fn question(to: &str, address: &str, protocol: Protocol, expected: Expected) -> Question {
        let address: std::net::SocketAddr = address.parse().unwrap();
        Question {
            role: Role::Stranger,
            from: "stranger-1".into(),
            to: to.into(),
            place: Where::SameNode,
            is_v6: address.is_ipv6(),
            knock: Knock { door: Door::Server(address), protocol, patience_ms: 0 },
            expected,
        }
    }

    fn drop_to(ip: &str, name: &str, policy: Option<&str>) -> Heard {
        let end =
            |ip: &str, port, name: &str| FlowEnd { ip: ip.parse().unwrap(), port, name: Some(name.into()) };
        let by = policy.map(|policy| PolicyRef {
            direction: "ingress".into(),
            policies: vec![format!("test/{policy}"), "test/friends-may".into()],
            rule: None,
        });
        Heard::Flow(FlowLine::Flow(Box::new(Flow {
            time: String::new(),
            node: "node-1".into(),
            from: end("10.0.0.9", 40000, "test/stranger-1"),
            to: end(ip, 8080, name),
            protocol: "TCP".into(),
            verdict: VerdictKind::Denied,
            direction: None,
            reason: if policy.is_some() { "policy_denied" } else { "no_backend" }.into(),
            by: by.into_iter().collect(),
            bytes: 60,
        })))
    }

    fn denied() -> Expected {
        Expected::Denied { policy: DENY }
    }

    /// What is wrong with it.
    fn wrong(question: Question, answer: Answer, heard: &[Heard]) -> Option<String> {
        let report = Report::of("test", &["node-1".into()], "image", &[(question, answer)], heard);
        assert_eq!(report.failed, usize::from(report.checks[0].wrong.is_some()));
        report.checks.into_iter().next().unwrap().wrong
    }

    #[test]
    fn silence_is_a_denial_where_an_agent_names_the_policy() {
        let ask = || question("guarded", "10.0.0.2:8080", Protocol::Tcp, denied());
        let named = drop_to("10.0.0.2", "test/guarded-1", Some(DENY));
        assert_eq!(wrong(ask(), Answer::Silence, &[named]), None);
        for (heard, says) in [
            (vec![], "no agent has denied it"),
            (vec![drop_to("10.0.0.3", "test/guarded-2", Some(DENY))], "no agent has denied it"),
            (
                vec![drop_to("10.0.0.2", "test/guarded-1", Some("other"))],
                "not by test/default-deny: policy_denied",
            ),
            (vec![drop_to("10.0.0.2", "test/guarded-1", None)], "not by test/default-deny: no_backend"),
        ] {
            let found = wrong(ask(), Answer::Silence, &heard).expect("is wrong");
            assert!(found.contains(says), "{found}");
        }
        let deaf = Heard::Deaf { deaf: "permission denied".into() };
        assert_eq!(wrong(ask(), Answer::Silence, &[deaf]), None, "nobody can tell");
        assert!(wrong(ask(), Answer::Yes("guarded-1".into()), &[]).unwrap().contains("let through"));
        assert!(wrong(ask(), Answer::Error("connection refused".into()), &[]).unwrap().contains("refused"));
    }

    #[test]
    fn a_service_that_is_denied_shows_its_backend() {
        let ask = || question("Service guarded", "10.96.0.2:8080", Protocol::Tcp, denied());
        let backend = drop_to("10.0.0.2", "test/guarded-2", Some(DENY));
        assert_eq!(wrong(ask(), Answer::Silence, &[backend]), None);
        let other = drop_to("10.0.0.4", "test/open-2", Some(DENY));
        assert!(wrong(ask(), Answer::Silence, &[other]).is_some());
    }

    #[test]
    fn what_must_pass_is_answered_by_the_right_one_or_a_drop_says_why_not() {
        let ask = |to: &str| {
            question("open", "10.0.0.2:8080", Protocol::Tcp, Expected::Allowed { server: to.to_owned() })
        };
        assert_eq!(wrong(ask("open-1"), Answer::Yes("open-1".into()), &[]), None);
        assert_eq!(wrong(ask("open"), Answer::Yes("open-2".into()), &[]), None);
        let other = wrong(ask("open-1"), Answer::Yes("open-2".into()), &[]).unwrap();
        assert_eq!(other, "open-2 has answered in place of open-1");
        let drop = drop_to("10.0.0.2", "test/open-1", Some("other"));
        let why = wrong(ask("open-1"), Answer::Silence, &[drop]).unwrap();
        assert_eq!(why, "dropped: policy_denied test/other, test/friends-may");
        assert!(wrong(ask("open-1"), Answer::Silence, &[]).unwrap().contains("no agent has dropped"));
    }

    #[test]
    fn the_table_has_a_line_for_each_who_asks_whom_where_and_what_is_wrong_below() {
        let allowed = || Expected::Allowed { server: "open-1".into() };
        let answered = [
            (question("open", "10.0.0.2:8080", Protocol::Tcp, allowed()), Answer::Yes("open-1".into())),
            (question("open", "[fd00::2]:8080", Protocol::Tcp, allowed()), Answer::Error("no route".into())),
            (question("guarded", "10.0.0.3:8080", Protocol::Tcp, denied()), Answer::Silence),
        ];
        let heard = [drop_to("10.0.0.3", "test/guarded-1", Some(DENY))];
        let report = Report::of("test", &["node-1".into()], "image", &answered, &heard);
        let wanted = "\
FROM      TO       WHERE      IPv4 TCP  IPv6 TCP
stranger  open     same node  ✓         ✗ wrong
stranger  guarded  same node  ✗         ·

Denied, as it must be
  stranger to guarded: by default-deny, friends-may

Wrong
  stranger-1 to open ([fd00::2]:8080, TCP): no route

3 connections, 2 as it must be, 1 not
";
        assert_eq!(report.table(false), wanted);
    }
}
