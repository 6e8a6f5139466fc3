//! Explanations of random worlds: the verdict is the oracle's, and what the nearest miss names is all that is missing.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use api::VerdictKind;
use common::verdict::Direction;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

use super::arbitrary::{
    Description, Labels, NAMESPACES, POD_IPS, PORT_NAMES, PodDescription, config, description, flows,
};
use crate::explain::gap::{Gap, Mismatch};
use crate::explain::{Question, explain, nearest};
use crate::lookup::Flow;
use crate::oracle::{self, Opinion};
use crate::places::Places;
use crate::selector::{Selector, Test};
use crate::world::World;

/// As the oracle would say it.
fn opinion(side: &api::Side) -> (bool, Option<(String, String)>, Vec<String>) {
    (
        side.verdict == VerdictKind::Allowed,
        side.rule.as_ref().map(|rule| (rule.policy.clone(), rule.path.clone())),
        side.policies.iter().map(|policy| policy.name.clone()).collect(),
    )
}

fn same(side: &api::Side, theirs: Option<Opinion>, flow: &Flow) -> Result<(), TestCaseError> {
    if let Some(Opinion { allowed, rule, policies }) = theirs {
        let theirs = (allowed, rule.map(|rule| (rule.policy, rule.path)), policies);
        prop_assert_eq!(opinion(side), theirs, "explanation left, oracle right, on {:?}", flow);
    }
    Ok(())
}

/// The same cluster with every pod on the node that is asked: its oracle has an opinion on each of them.
fn all_here(description: &Description) -> World {
    let mut description = description.clone();
    description.pods.iter_mut().flatten().for_each(|pod| pod.local = true);
    description.cluster().world("node-0")
}

proptest! {
    #![proptest_config(config(80))]

    #[test]
    fn explanations_agree_with_the_oracle_on_every_pod(description in description(), flows in flows(100)) {
        let (world, whole) = (description.cluster().world("node-0"), all_here(&description));
        for flow in &flows {
            let explanation = explain(&world, flow, &Places::default());
            let oracle = oracle::judge(&whole, flow);
            same(&explanation.egress, oracle.egress, flow)?;
            same(&explanation.ingress, oracle.ingress, flow)?;
        }
    }
}

/// Labels that meet the whole selector and differ only in one key; `None` where no value can.
fn mended(labels: &Labels, mismatch: &Mismatch<'_>, selector: &Selector) -> Option<Labels> {
    let key = &mismatch.requirement.key;
    let mut without = labels.clone();
    without.remove(key);
    let with = |value: &String| {
        let mut labels = without.clone();
        labels.insert(key.clone(), value.clone());
        labels
    };
    let candidates: Vec<Labels> = match &mismatch.requirement.test {
        Test::In(values) => values.iter().map(with).collect(),
        Test::Exists => {
            ["x", "y", "p", "q", "other"].iter().map(|value| with(&(*value).to_owned())).collect()
        }
        Test::NotIn(_) | Test::DoesNotExist => vec![without.clone(), with(&"other".to_owned())],
    };
    candidates.into_iter().find(|labels| selector.matches(&labels.clone().into()))
}

/// The live pod with this address.
fn pod_of(cluster: &mut Description, ip: IpAddr) -> Option<&mut PodDescription> {
    let place = POD_IPS.iter().position(|ips| ips.iter().any(|text| ip.to_string() == *text))?;
    cluster.pods[place].as_mut().filter(|pod| !pod.finished)
}

/// The cluster and the flow with the one fact changed; `None` where that cannot be done or would change more.
fn change(
    description: &Description,
    question: &Question<'_>,
    candidate: &nearest::Candidate<'_>,
) -> Option<(Description, Flow)> {
    use crate::model::{Namespaces, Peer, Port};
    let (mut cluster, mut flow) = (description.clone(), *question.flow);
    let [gap] = candidate.gaps.as_slice() else { return None };
    let selectors = match candidate.peer {
        Some(Peer::Pods { namespaces, pods }) => Some((namespaces, pods)),
        _ => None,
    };
    match gap {
        Gap::Port { first, .. } => flow.destination_port = *first,
        Gap::Protocol { wanted } => flow.protocol = *wanted,
        Gap::Named { number: Some(number), .. } => flow.destination_port = *number,
        Gap::Named { name, protocol, number: None } => {
            let pod = pod_of(&mut cluster, flow.destination)?;
            let name = PORT_NAMES.into_iter().find(|known| known == name)?;
            let protocol = ["TCP", "UDP", "SCTP"][[6, 17, 132].iter().position(|known| known == protocol)?];
            if flow.destination_port == 0 {
                return None;
            }
            pod.ports.push((name, flow.destination_port.into(), protocol));
        }
        Gap::Label(mismatch) => {
            let pod = pod_of(&mut cluster, question.peer)?;
            pod.labels = mended(&pod.labels, mismatch, selectors?.1)?;
        }
        Gap::NamespaceLabel { namespace, mismatch } => {
            let (Namespaces::Matching(selector), _) = selectors? else { return None };
            let index = NAMESPACES.iter().position(|known| known == namespace)?;
            if mismatch.requirement.key == "kubernetes.io/metadata.name" {
                return None;
            }
            let mut labels = cluster.namespaces[index].clone().unwrap_or_default();
            // The API server's own label is there whatever the cluster declares.
            labels.insert("kubernetes.io/metadata.name".to_owned(), namespace.clone());
            cluster.namespaces[index] = Some(mended(&labels, mismatch, selector)?);
        }
        Gap::Namespace { wanted, .. } => {
            let pod = pod_of(&mut cluster, question.peer)?;
            pod.namespace = NAMESPACES.iter().position(|known| known == wanted)?;
        }
        Gap::OutsideBlock(block) | Gap::Excepted { block, .. } => {
            let peer = block.cidr.network();
            let is_free = !block.except.iter().any(|net| net.contains(&peer)) && peer != question.endpoint;
            // Another peer names its ports otherwise, and one of another family cannot be spoken to.
            let is_named = matches!(candidate.port, Some(Port::Named { .. }));
            if !is_free || is_named || peer.is_ipv4() != question.endpoint.is_ipv4() {
                return None;
            }
            match question.direction {
                Direction::Ingress => flow.source = peer,
                Direction::Egress => flow.destination = peer,
            }
        }
        Gap::Selection(mismatch) => {
            let pod = pod_of(&mut cluster, question.endpoint)?;
            pod.labels = mended(&pod.labels, mismatch, &candidate.policy.pods)?;
        }
        Gap::NotAPod | Gap::Portless | Gap::Broken => return None,
    }
    Some((cluster, flow))
}

fn kind(gap: &Gap<'_>) -> &'static str {
    match gap {
        Gap::Port { .. } => "port",
        Gap::Protocol { .. } => "protocol",
        Gap::Named { .. } => "named",
        Gap::Label(_) => "label",
        Gap::NamespaceLabel { .. } => "namespace label",
        Gap::Namespace { .. } => "namespace",
        Gap::OutsideBlock(_) => "outside",
        Gap::Excepted { .. } => "excepted",
        Gap::Selection(_) => "selection",
        Gap::NotAPod | Gap::Portless | Gap::Broken => "unmendable",
    }
}

/// Every way of missing a rule that a world can mend; `excepted` comes too seldom to insist on.
const MENDED: [&str; 8] =
    ["port", "protocol", "named", "label", "namespace label", "namespace", "outside", "selection"];

/// Where one fact is all that the nearest rule misses, changing that fact opens the door.
#[test]
fn what_a_nearest_miss_names_is_all_that_is_missing() {
    let mut mended = BTreeMap::new();
    // The rarest comes in one of some three hundred worlds: more are made up until each was seen.
    for seed in 0..40 {
        mend_random_worlds(seed, &mut mended);
        if MENDED.iter().all(|kind| mended.contains_key(kind)) {
            return;
        }
    }
    panic!("of {MENDED:?} only these were ever mended: {mended:?}");
}

/// Counts what was mended, by its kind.
fn mend_random_worlds(seed: u64, mended: &mut BTreeMap<&'static str, usize>) {
    let counts = Cell::new(std::mem::take(mended));
    let config = ProptestConfig { rng_seed: RngSeed::Fixed(seed), ..config(300) };
    let run = TestRunner::new(config).run(&(description(), flows(100)), |(description, flows)| {
        let world = all_here(&description);
        for flow in &flows {
            for direction in [Direction::Egress, Direction::Ingress] {
                if let Some(kind) = mend(&description, &world, flow, direction)? {
                    let mut seen = counts.take();
                    *seen.entry(kind).or_default() += 1;
                    counts.set(seen);
                }
            }
        }
        Ok(())
    });
    run.unwrap_or_else(|error| panic!("{error}"));
    *mended = counts.take();
}

/// Mends the one fact that the nearest miss of a denied flow names; says which kind it was, if there was one.
fn mend(
    description: &Description,
    world: &World,
    flow: &Flow,
    direction: Direction,
) -> Result<Option<&'static str>, TestCaseError> {
    let question = Question::new(world, flow, direction);
    let of = |opinions: oracle::Opinions| match direction {
        Direction::Egress => opinions.egress,
        Direction::Ingress => opinions.ingress,
    };
    if of(oracle::judge(world, flow)).is_none_or(|opinion| opinion.allowed) {
        return Ok(None);
    }
    let Some(pod) = world.owner(question.endpoint) else { return Ok(None) };
    let Some(candidate) = nearest::best(&question, pod) else { return Ok(None) };
    prop_assert!(!candidate.gaps.is_empty(), "denied, and nothing is missing: {flow:?}");
    let Some((cluster, changed)) = change(description, &question, &candidate) else { return Ok(None) };
    let after = of(oracle::judge(&all_here(&cluster), &changed));
    prop_assert!(
        after.is_some_and(|opinion| opinion.allowed),
        "{:?} of {} is mended, and {:?} is still denied",
        candidate.gaps,
        candidate.policy.full_name(),
        changed
    );
    Ok(Some(kind(&candidate.gaps[0])))
}
