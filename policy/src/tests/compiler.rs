//! The compiler that remembers says what the one says that starts from nothing.

use proptest::collection::vec;
use proptest::prelude::*;

use super::arbitrary::{Description, Event, NAMESPACES, POD_IPS, config, description, event, flows};
use super::plan::no_third_answer_of;
use super::world::Cluster;
use crate::compile::compile;
use crate::compiler::{Compiler, Update};
use crate::names::Names;
use crate::object::{Kind, ObjectKey};
use crate::tables::{MapOp, Tables};
use crate::warning::Warning;
use crate::world::{Attachment, PodRef, World};

/// A node: its world, its compiler, and what the maps and those who name things were told.
struct Node {
    world: World,
    compiler: Compiler,
    tables: Tables,
    names: Names,
    warnings: Vec<Warning>,
}

impl Node {
    fn new(world: World) -> Self {
        Self {
            world,
            compiler: Compiler::new(),
            tables: Tables::default(),
            names: Names::default(),
            warnings: Vec::new(),
        }
    }

    fn plan(&mut self) -> Vec<MapOp> {
        let Update { plan, names, warnings } = self.compiler.update(&mut self.world, &self.tables);
        self.names.rules.extend(names.rules);
        self.names.rule_sets.extend(names.rule_sets);
        self.warnings = warnings.unwrap_or(std::mem::take(&mut self.warnings));
        plan
    }

    fn carry_out(&mut self, plan: &[MapOp]) {
        plan.iter().for_each(|op| self.tables.apply(op));
        let retired = self.compiler.carried_out();
        self.names.rules.retain(|id, _| !retired.rules.contains(id));
        self.names.rule_sets.retain(|id, _| !retired.rule_sets.contains(id));
    }

    fn settle(&mut self) -> Vec<MapOp> {
        let plan = self.plan();
        self.carry_out(&plan);
        plan
    }

    fn is_as_from_nothing(&self) -> Result<(), TestCaseError> {
        let fresh = compile(&self.world);
        prop_assert_eq!(&self.tables, &fresh.tables);
        prop_assert_eq!(&self.names, &fresh.names);
        prop_assert_eq!(&self.warnings, &fresh.warnings);
        Ok(())
    }

    /// Brings the world from one cluster to another, as a source does that tells objects apart.
    fn follow(&mut self, before: &Cluster, after: &Cluster) {
        for (object, _) in &before.objects {
            if !after.objects.iter().any(|(other, _)| other.key() == object.key()) {
                self.world.delete(&object.key());
            }
        }
        for (_, attachment) in &before.attachments {
            if !after.attachments.iter().any(|(_, other)| other == attachment) {
                self.world.detach(&attachment.container_id, &attachment.ifname);
            }
        }
        for (object, warnings) in &after.objects {
            if !before.objects.contains(&(object.clone(), warnings.clone())) {
                self.world.apply(object.clone(), warnings);
            }
        }
        for (node, attachment) in after.attachments.iter().filter(|(node, _)| node == "node-0") {
            if !before.attachments.contains(&(node.clone(), attachment.clone())) {
                self.world.attach(attachment.clone());
            }
        }
    }
}

/// What no source and no runtime should say, and sometimes says: interfaces without a pod, addresses that two have, pods
/// that are gone and still run.
#[derive(Clone, Debug)]
enum Jolt {
    Attach { pod: usize, address: usize, named: Option<bool> },
    Detach(usize),
    DeletePod(usize),
    DeleteNamespace(usize),
}

fn jolt() -> impl Strategy<Value = Jolt> {
    let attach = (0..9_usize, 0..9_usize, proptest::option::of(any::<bool>()));
    prop_oneof![
        3 => attach.prop_map(|(pod, address, named)| Jolt::Attach { pod, address, named }),
        1 => (0..9_usize).prop_map(Jolt::Detach),
        2 => (0..9_usize).prop_map(Jolt::DeletePod),
        1 => (0..3_usize).prop_map(Jolt::DeleteNamespace),
    ]
}

impl Jolt {
    fn happen(&self, world: &mut World) {
        let key = |kind, namespace: Option<&str>, name: String| ObjectKey {
            kind,
            namespace: namespace.map(str::to_owned),
            name,
        };
        match self {
            Self::Attach { pod, address, named } => world.attach(Attachment {
                container_id: format!("pod-{pod}"),
                ifname: "eth1".to_owned(),
                pod: named.map(|right| PodRef {
                    namespace: NAMESPACES[0].to_owned(),
                    name: format!("pod-{pod}"),
                    uid: Some(if right { format!("uid-{pod}") } else { "another".to_owned() }),
                }),
                ifindex: 100,
                ips: POD_IPS[*address].iter().map(|ip| ip.parse().expect("an address")).collect(),
            }),
            Self::Detach(pod) => drop(world.detach(&format!("pod-{pod}"), "eth0")),
            Self::DeletePod(pod) => {
                for namespace in NAMESPACES {
                    world.delete(&key(Kind::Pod, Some(namespace), format!("pod-{pod}")));
                }
            }
            Self::DeleteNamespace(which) => {
                world.delete(&key(Kind::Namespace, None, NAMESPACES[*which].to_owned()));
            }
        }
    }
}

/// A cluster before and after an event.
fn happen(description: &mut Description, event: &Event) -> (Cluster, Cluster) {
    let before = description.cluster();
    description.happen(event);
    (before, description.cluster())
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn after_any_events_all_is_as_if_compiled_from_nothing(
        description in description(), events in vec((event(), any::<bool>(), any::<bool>()), 1..8),
    ) {
        let mut description = description;
        let mut node = Node::new(description.cluster().world("node-0"));
        node.settle();
        node.is_as_from_nothing()?;
        for (event, looks, fits) in events {
            let (before, after) = happen(&mut description, &event);
            node.follow(&before, &after);
            if !looks {
                continue; // several events are drained at once
            }
            let plan = node.plan();
            if fits {
                node.carry_out(&plan);
                node.is_as_from_nothing()?;
            } // else it was refused, and is due with the next
        }
        node.settle();
        node.is_as_from_nothing()?;
        prop_assert_eq!(node.settle(), vec![]);
    }

    #[test]
    fn nor_does_it_matter_what_nobody_should_have_said(
        description in description(), events in vec((event(), jolt(), any::<bool>()), 1..8),
    ) {
        let mut description = description;
        let mut node = Node::new(description.cluster().world("node-0"));
        node.settle();
        for (event, jolt, jolted_first) in events {
            let (before, after) = happen(&mut description, &event);
            if jolted_first {
                jolt.happen(&mut node.world);
                node.settle();
            }
            node.follow(&before, &after);
            node.settle();
            node.is_as_from_nothing()?;
            jolt.happen(&mut node.world);
            node.settle();
            node.is_as_from_nothing()?;
        }
    }

    #[test]
    fn every_prefix_of_one_events_plan_answers_as_before_or_as_after(
        description in description(), event in event(), flows in flows(150),
    ) {
        let mut description = description;
        let mut node = Node::new(description.cluster().world("node-0"));
        node.settle();
        let (before, after) = happen(&mut description, &event);
        node.follow(&before, &after);
        let ops = node.plan();
        no_third_answer_of(&ops, &node.tables, &compile(&node.world).tables, &flows)?;
    }

    #[test]
    fn a_plan_that_was_cut_short_is_taken_up(
        description in description(), first in event(), second in event(),
        cut in any::<prop::sample::Index>(), flows in flows(60),
    ) {
        let mut description = description;
        let mut node = Node::new(description.cluster().world("node-0"));
        node.settle();
        let (before, after) = happen(&mut description, &first);
        node.follow(&before, &after);
        let plan = node.plan();
        plan[..cut.index(plan.len() + 1)].iter().for_each(|op| node.tables.apply(op));
        node.compiler.start_again();
        let plan = node.plan();
        no_third_answer_of(&plan, &node.tables, &compile(&node.world).tables, &flows)?;
        let (before, after) = happen(&mut description, &second);
        node.follow(&before, &after);
        node.settle();
        node.is_as_from_nothing()?;
    }

    #[test]
    fn an_event_of_another_nodes_pod_is_at_most_one_write_for_each_of_its_two_addresses(
        description in description(),
        event in event().prop_filter("of a pod", |event| {
            matches!(event, Event::RelabelPod(..) | Event::PutPod(..) | Event::RemovePod(..))
        }),
    ) {
        let mut description = description;
        let mut node = Node::new(description.cluster().world("node-0"));
        node.settle();
        let before = (description.clone(), node.tables.rules.clone());
        let (old, new) = happen(&mut description, &event);
        node.follow(&old, &new);
        let plan = node.settle();
        let ours = |description: &Description| -> Vec<_> {
            description.pods.iter().flatten().filter(|pod| pod.local).cloned().collect()
        };
        if ours(&before.0) == ours(&description) && before.1 == node.tables.rules {
            let rows = plan.iter().filter(|op| **op != MapOp::AdvanceEpoch).count();
            prop_assert!(rows <= 2, "{:#?}", plan);
        }
    }
}

const CLUSTER: &str = "
    ns a
    pod a/web node-0 10.0.0.1 app=web
    pod a/client node-1 10.0.1.1 app=client
    netpol a/p {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 80}]}]}
";

/// The plan of each step from one text to the next.
fn plans(steps: &[&str]) -> Vec<Vec<MapOp>> {
    let mut before = Cluster::new(steps[0]);
    let mut node = Node::new(before.world("node-0"));
    node.settle();
    let plans = steps[1..].iter().map(|text| {
        let after = Cluster::new(text);
        node.follow(&before, &after);
        before = after;
        let plan = node.settle();
        node.is_as_from_nothing().expect("as from nothing");
        plan
    });
    plans.collect()
}

#[test]
fn a_new_pod_of_a_known_class_is_one_write_and_so_is_its_end() {
    let more = format!("{CLUSTER} pod a/client-2 node-1 10.0.1.2 app=client");
    let plans = plans(&[CLUSTER, &more, CLUSTER]);
    assert!(matches!(plans[0][..], [MapOp::PutPeer(..), MapOp::AdvanceEpoch]), "{plans:#?}");
    assert!(matches!(plans[1][..], [MapOp::RemovePeer(..), MapOp::AdvanceEpoch]), "{plans:#?}");
}

#[test]
fn a_label_that_no_selector_asks_for_writes_nothing() {
    let unique = CLUSTER.replace("app=client", "app=client serial=4711");
    assert_eq!(plans(&[CLUSTER, &unique, CLUSTER]), vec![vec![], vec![]]);
}

/// Until the pod that ended is detached, two have its address. The older one's rule set is no endpoint's then, but keeps its rows.
#[test]
fn a_pod_that_gets_the_address_of_one_that_still_stands_takes_no_row_from_its_rule_set() {
    let before = "
        ns two app=x
        ns z
        pod z/b-2 node-0 10.244.0.128
        netpol z/p2 {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {app: x}}}]}, {from: [{podSelector: {}}]}]}
    ";
    let after = format!("{before}\n        pod two/a-2 node-0 10.244.0.128");
    plans(&[before, &after, before]);
}

#[test]
fn services_and_their_slices_are_followed_one_by_one() {
    let service = |name: &str, ip: &str, backend: &str| {
        format!(
            "---
             apiVersion: v1
             kind: Service
             metadata: {{name: {name}, namespace: a}}
             spec: {{clusterIP: {ip}, ports: [{{port: 80}}, {{port: 80}}]}}
             ---
             apiVersion: discovery.k8s.io/v1
             kind: EndpointSlice
             metadata: {{name: {name}-1, namespace: a, labels: {{kubernetes.io/service-name: {name}}}}}
             addressType: IPv4
             endpoints: [{{addresses: [{backend}]}}]
             ports: [{{port: 8080}}]\n"
        )
        .replace("\n             ", "\n")
    };
    let text = |services: &[String]| format!("ns a\nyaml\n{}", services.concat().trim_start_matches("---\n"));
    let (ip, other) = ("10.96.0.1", "10.96.0.2");
    let steps = [
        text(&[service("s", ip, "10.0.0.1"), service("t", other, "10.0.0.1")]),
        text(&[service("s", ip, "10.0.0.2"), service("t", other, "10.0.0.1")]),
        // Both want one address: the first by name has it, and the other is told.
        text(&[service("r", ip, "10.0.0.3"), service("s", ip, "10.0.0.2"), service("t", other, "10.0.0.1")]),
        text(&[service("s", ip, "10.0.0.2")]),
    ];
    let plans = plans(&steps.each_ref().map(String::as_str));
    use MapOp::{PutBackend, PutService, RemoveBackend, RemoveService};
    assert!(matches!(plans[0][..], [PutBackend(..), PutService(..)]), "{plans:#?}");
    assert!(matches!(plans[1][..], [PutBackend(..), PutService(..), RemoveBackend(..)]), "{plans:#?}");
    assert_eq!(plans[2].iter().filter(|op| matches!(op, RemoveService(..))).count(), 1, "{plans:#?}");
}
