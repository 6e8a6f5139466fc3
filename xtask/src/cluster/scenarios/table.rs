//! Truth tables: who reaches whom, asked from within the pods, each denial with the policies that the agents name for it.

use std::collections::BTreeMap;
use std::thread;

use anyhow::{Context, Result};
use api::Flow;

use super::town::{Pod, Town, eventually, refuse};
use crate::cluster::probe::{Answer, Protocol, Target};

/// What must come of a knock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// And where a name is told, it is the right pod's.
    Allowed,
    /// By this policy, perhaps among others: `namespace/name`.
    Denied(String),
}

pub(crate) struct Question<'a> {
    pub(crate) from: &'a Pod,
    pub(crate) to: &'a Pod,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) expected: Expected,
}

impl Question<'_> {
    /// One for each address of the pod.
    fn targets(&self) -> impl Iterator<Item = Target> {
        let (protocol, port) = (self.protocol, self.port);
        self.to.ips.iter().map(move |ip| Target { protocol, address: (*ip, port).into() })
    }

    /// What is wrong with this answer.
    fn complaint(&self, target: &Target, answer: &Answer, drops: &[Flow]) -> Option<String> {
        let name = self.to.name.rsplit('/').next().unwrap_or_default();
        let wrong = match (&self.expected, answer) {
            (Expected::Allowed, Answer::Yes(said)) if said.is_empty() || said == name => return None,
            (Expected::Allowed, Answer::Silence) => {
                let by =
                    drop_of(self.from, target, drops).map(|flow| format!(": {} {:?}", flow.reason, flow.by));
                format!("silence{}", by.unwrap_or_default())
            }
            (Expected::Denied(policy), Answer::Silence) => match drop_of(self.from, target, drops) {
                Some(flow) if flow.reason != "policy_denied" => format!("dropped as {}", flow.reason),
                Some(flow) if flow.by.iter().any(|by| by.policies.contains(policy)) => return None,
                Some(flow) => format!("denied by {:?}", flow.by),
                None => "silence, but no agent has seen it denied".to_owned(),
            },
            (_, other) => format!("{other:?}"),
        };
        let (from, to, address) = (&self.from.name, &self.to.name, target.address);
        Some(format!(
            "{from} to {to} at {address} ({:?}), expected {:?}: {wrong}",
            target.protocol, self.expected
        ))
    }
}

/// The last drop of what `from` sent there.
fn drop_of<'a>(from: &Pod, target: &Target, drops: &'a [Flow]) -> Option<&'a Flow> {
    let matches = |flow: &&Flow| {
        flow.from.name.as_ref() == Some(&from.name)
            && flow.to.ip == target.address.ip()
            && flow.to.port == target.address.port()
    };
    drops.iter().rev().find(matches)
}

/// Waits until every answer is as expected, all in one round.
pub(crate) fn hold(town: &Town, questions: &[Question<'_>]) -> Result<()> {
    eventually("the truth table holds", || {
        let before = latest(&town.denials()?);
        let mut by_source: BTreeMap<&str, Vec<&Question<'_>>> = BTreeMap::new();
        for question in questions {
            by_source.entry(&question.from.name).or_default().push(question);
        }
        let answers: Vec<(&Question<'_>, Target, Answer)> = thread::scope(|scope| {
            let rounds: Vec<_> =
                by_source.values().map(|questions| scope.spawn(|| ask(town, questions))).collect();
            let rounds =
                rounds.into_iter().map(|it| it.join().unwrap_or_else(|it| std::panic::resume_unwind(it)));
            rounds.collect::<Result<Vec<_>>>().map(|rounds| rounds.into_iter().flatten().collect())
        })?;
        let mut drops = town.denials()?;
        drops.retain(|flow| before.get(&flow.node).is_none_or(|time| flow.time > *time));
        let complaints: Vec<String> = answers
            .iter()
            .filter_map(|(question, target, answer)| question.complaint(target, answer, &drops))
            .collect();
        if complaints.is_empty() { Ok(()) } else { refuse(&complaints) }
    })
}

/// All questions of one pod at once.
fn ask<'a, 'b>(
    town: &Town,
    questions: &[&'a Question<'b>],
) -> Result<Vec<(&'a Question<'b>, Target, Answer)>> {
    let asked: Vec<(&Question<'_>, Target)> =
        questions.iter().flat_map(|question| question.targets().map(|target| (*question, target))).collect();
    let Some((first, _)) = asked.first() else { return Ok(Vec::new()) };
    let targets: Vec<Target> = asked.iter().map(|(_, target)| target.clone()).collect();
    let answers = town.knock(first.from, &targets).context("ask a round")?;
    Ok(asked
        .into_iter()
        .zip(answers)
        .map(|((question, target), answer)| (question, target, answer))
        .collect())
}

/// The newest drop of each node; their clocks are one.
fn latest(drops: &[Flow]) -> BTreeMap<String, String> {
    let mut latest: BTreeMap<String, String> = BTreeMap::new();
    for flow in drops {
        let time = latest.entry(flow.node.clone()).or_default();
        if flow.time > *time {
            time.clone_from(&flow.time);
        }
    }
    latest
}
