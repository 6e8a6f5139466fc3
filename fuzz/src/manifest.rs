//! Policy from text: no text ends the agent, what is compiled is what the specification says, twice the same, and what is
//! not understood narrows.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy::manifest::{self, Document};
use policy::{
    Attachment, Compiled, Flow, Object, ObjectKey, PodRef, Tables, Warning, World, compile, oracle, plan,
};

use crate::{corrupt, flows};

/// The node that the world is for.
const NODE: &str = "node-0";
/// So many pods get an address and, every second of them, a place on the node.
const PODS: usize = 8;

/// `input`: YAML or JSON, as people write it.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let documents = match manifest::documents("fuzz.yaml", text) {
        Ok(documents) => documents,
        Err(error) => {
            // YAML breaks lines at a lone carriage return, too; what follows the last break has a line of its own.
            let lines = text.matches(['\n', '\r']).count() + 1;
            assert!((1..=lines).contains(&error.line), "{error}: of {lines} lines");
            assert!(!error.message.is_empty() && !error.message.contains('\n'), "{error}");
            return;
        }
    };
    let stated = Stated::read(&documents);
    let world = stated.world();
    let compiled = compile(&world);
    assert_eq!(compiled, compile(&world), "compiled twice");
    if stated.is_unambiguous() {
        assert_eq!(compiled, compile(&stated.backwards()), "in another order");
    }
    carried_out(&compiled.tables);
    let flows = flows::between(&documents, &stated.local_ips(), &stated.ips());
    agree(&world, &compiled, &flows);
    kept_word(&world, &compiled, &flows);
    corrupt::narrows(&stated, &documents, &world, &compiled, &flows);
}

/// What a text states: objects with their warnings, and where the pods are.
pub struct Stated {
    objects: Vec<(Object, Vec<Warning>)>,
    attachments: Vec<Attachment>,
    /// Addresses that pods say they have.
    ips: Vec<IpAddr>,
    pods: usize,
}

impl Stated {
    fn read(documents: &[Document]) -> Self {
        let mut stated = Self { objects: Vec::new(), attachments: Vec::new(), ips: Vec::new(), pods: 0 };
        for document in documents {
            match manifest::object(document) {
                Ok(None) => {}
                Ok(Some((object, warnings))) => {
                    assert!(!object.name().is_empty(), "{document}");
                    warnings.iter().for_each(is_clear);
                    stated.place(&object);
                    stated.objects.push((object, warnings));
                }
                Err(refused) => is_clear(&refused),
            }
        }
        stated
    }

    /// Every second pod is on the node; there its addresses are what the plugin gave it, whatever it says.
    fn place(&mut self, object: &Object) {
        let (Object::Pod(pod), Some(namespace)) = (object, object.namespace()) else { return };
        if self.pods >= PODS {
            return;
        }
        self.pods += 1;
        let own = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
        self.ips.extend(own.filter_map(|ip| ip.ip.parse::<IpAddr>().ok()).take(2));
        if self.pods.is_multiple_of(2) {
            return;
        }
        let place = u8::try_from(self.pods).unwrap_or(u8::MAX);
        self.attachments.push(Attachment {
            container_id: format!("c{place}"),
            ifname: "eth0".to_owned(),
            pod: Some(PodRef {
                namespace: namespace.to_owned(),
                name: object.name().to_owned(),
                uid: pod.metadata.uid.clone(),
            }),
            ifindex: 10 + u32::from(place),
            ips: vec![
                Ipv4Addr::new(10, 244, 0, place).into(),
                Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, u16::from(place)).into(),
            ],
        });
    }

    /// Whether the text's last word on an object's name is this very object.
    pub fn is_last(&self, object: &Object) -> bool {
        let mut same = self.objects.iter().rev().filter(|(other, _)| other.key() == object.key());
        same.next().is_some_and(|(last, _)| last == object)
    }

    /// No two objects have one name: then their order says nothing.
    fn is_unambiguous(&self) -> bool {
        let keys: BTreeSet<ObjectKey> = self.objects.iter().map(|(object, _)| object.key()).collect();
        keys.len() == self.objects.len()
    }

    /// The world of this text.
    pub fn world(&self) -> World {
        let mut world = World::new(NODE);
        for (object, warnings) in &self.objects {
            world.apply(object.clone(), warnings);
        }
        for attachment in &self.attachments {
            world.attach(attachment.clone());
        }
        world
    }

    fn backwards(&self) -> World {
        let mut world = World::new(NODE);
        for attachment in &self.attachments {
            world.attach(attachment.clone());
        }
        for (object, warnings) in self.objects.iter().rev() {
            world.apply(object.clone(), warnings);
        }
        world
    }

    fn local_ips(&self) -> Vec<IpAddr> {
        self.attachments.iter().flat_map(|attachment| attachment.ips.iter().copied()).collect()
    }

    fn ips(&self) -> Vec<IpAddr> {
        self.ips.iter().copied().chain(self.local_ips()).collect()
    }
}

/// A warning names an object and says something, in one line.
#[track_caller]
fn is_clear(warning: &Warning) {
    assert!(!warning.object.is_empty() && !warning.message.is_empty(), "{warning:?}");
}

/// The plan from nothing makes these tables.
fn carried_out(tables: &Tables) {
    let mut actual = Tables::default();
    for step in plan(&Tables::default(), tables) {
        actual.apply(&step);
    }
    assert_eq!(actual, *tables, "the plan from nothing");
    assert_eq!(plan(&actual, tables).len(), 0, "the plan from there");
}

/// What the tables answer is what the specification says, and names the same rule.
fn agree(world: &World, compiled: &Compiled, flows: &[Flow]) {
    for flow in flows {
        let (answer, opinions) = (compiled.tables.lookup(flow), oracle::judge(world, flow));
        for (judgement, opinion) in [(answer.egress, opinions.egress), (answer.ingress, opinions.ingress)] {
            let judged = judgement
                .map(|judgement| (judgement.allowed, compiled.names.rules.get(&judgement.rule).cloned()));
            let said = opinion.map(|opinion| (opinion.allowed, opinion.rule));
            assert_eq!(judged, said, "tables left, specification right: {flow:?}");
        }
    }
}

/// A warning that says `the rule allows nothing`, or the policy, is true.
fn kept_word(world: &World, compiled: &Compiled, flows: &[Flow]) {
    let promised: Vec<(&Warning, String)> = compiled
        .warnings
        .iter()
        .filter(|warning| {
            warning.object.starts_with("NetworkPolicy ") && warning.message.ends_with("allows nothing")
        })
        .filter(|warning| !warning.message.ends_with("the block allows nothing"))
        .map(|warning| (warning, silent_part(warning)))
        .collect();
    if promised.is_empty() {
        return;
    }
    for flow in flows {
        let opinions = oracle::judge(world, flow);
        for rule in
            [opinions.egress, opinions.ingress].into_iter().flatten().filter_map(|opinion| opinion.rule)
        {
            let named = format!("NetworkPolicy {} {}", rule.policy, rule.path);
            let broken =
                promised.iter().find(|(_, part)| named == *part || named.starts_with(&format!("{part}.")));
            assert!(
                broken.is_none(),
                "{} and yet {named} allows {flow:?}",
                broken.map_or("", |(warning, _)| &warning.message)
            );
        }
    }
}

/// The rule or the policy that a warning is about, as `kept_word` names rules.
fn silent_part(warning: &Warning) -> String {
    let rule = ["spec.ingress[", "spec.egress["].iter().find_map(|section| {
        let rest = warning.field.strip_prefix(section)?;
        Some(format!("{section}{}]", rest.split(']').next()?))
    });
    // Of the whole policy: every rule's path begins with `spec`.
    format!("{} {}", warning.object, rule.unwrap_or_else(|| "spec".to_owned()))
}
