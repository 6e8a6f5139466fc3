//! Everything one node has been told: what the API holds, and what its own runtime has attached.
//!
//! The two do not always agree. A pod may be gone from the API and still run; its attachment then keeps the labels that
//! the pod had last. An address may be named by two pods; then the attachment's word counts, else the younger pod's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::claims::{Claim, Claims};
use crate::convert;
use crate::dirty::{Dirty, Log};
use crate::facts::{PodFacts, ServiceFacts, SliceFacts};
use crate::model::Policy;
use crate::object::{Kind, Object, ObjectKey};
use crate::pods::Pods;
use crate::selector::Labels;
use crate::warning::Warning;

pub use crate::facts::NodeFacts;

/// The pod as the runtime names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    /// Absent where the runtime does not say; a static pod's is not its mirror pod's.
    pub uid: Option<String>,
}

/// One interface that the runtime gave to a container on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub container_id: String,
    pub ifname: String,
    /// Absent for containers that are no Kubernetes pods: such endpoints are never selected.
    pub pod: Option<PodRef>,
    /// The host's side of the veth pair.
    pub ifindex: u32,
    /// Whatever `status.podIPs` says, these are the pod's.
    pub ips: Vec<IpAddr>,
}

/// Namespace and name.
pub(crate) type Name = (String, String);

/// Container id and interface name.
pub(crate) type Interface = (String, String);

/// Pure state; one per agent.
#[derive(Clone, Debug)]
pub struct World {
    node: String,
    pub(crate) namespaces: BTreeMap<String, Labels>,
    nodes: BTreeMap<String, Arc<NodeFacts>>,
    pods: Pods,
    pub(crate) policies: BTreeMap<Name, Arc<Policy>>,
    pub(crate) services: BTreeMap<Name, ServiceFacts>,
    pub(crate) slices: BTreeMap<Name, SliceFacts>,
    attachments: BTreeMap<Interface, Attached>,
    /// The attachments of each pod name.
    attached_names: BTreeMap<Name, BTreeSet<Interface>>,
    claims: Claims,
    warnings: BTreeMap<ObjectKey, Vec<Warning>>,
    /// How many attachments there have been: the later one wins a contested address.
    attached: u64,
    log: Log,
}

#[derive(Clone, Debug)]
pub(crate) struct Attached {
    pub attachment: Attachment,
    /// The pod as the API showed it last.
    pub pod: Option<Arc<PodFacts>>,
    order: u64,
}

impl Attached {
    /// A pod of whose labels nothing is known: it may not be judged by guesswork.
    pub(crate) fn is_unknown_pod(&self) -> bool {
        self.attachment.pod.is_some() && self.pod.is_none()
    }
}

impl World {
    /// A world as the node of this name sees it: empty.
    pub fn new(node: impl Into<String>) -> Self {
        Self {
            node: node.into(),
            namespaces: BTreeMap::new(),
            nodes: BTreeMap::new(),
            pods: Pods::default(),
            policies: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            attachments: BTreeMap::new(),
            attached_names: BTreeMap::new(),
            claims: Claims::default(),
            warnings: BTreeMap::new(),
            attached: 0,
            log: Log::Everything,
        }
    }

    /// Takes in a new or changed object. `unknown_fields` are what [`crate::manifest::object`] warned of.
    pub fn apply(&mut self, object: Object, unknown_fields: &[Warning]) {
        let key = object.key();
        let text = key.to_string();
        let name = (key.namespace.clone().unwrap_or_default(), key.name.clone());
        let warnings = match object {
            Object::Namespace(namespace) => {
                let mut labels = namespace.metadata.labels.unwrap_or_default();
                labels.extend(name_label(&key.name));
                let labels = Labels::from(labels);
                if self.namespaces.get(&key.name) != Some(&labels) {
                    self.forget(&key);
                    self.namespaces.insert(key.name.clone(), labels);
                }
                Vec::new()
            }
            Object::Node(node) => {
                let (facts, warnings) = NodeFacts::new(&text, &node);
                if self.nodes.get(&key.name).is_none_or(|known| **known != facts) {
                    self.forget(&key);
                    let facts = Arc::new(facts);
                    for ip in &facts.ips {
                        self.claim(*ip, Claim::Node(Arc::clone(&facts)));
                    }
                    self.nodes.insert(facts.name.clone(), facts);
                }
                warnings
            }
            Object::Pod(pod) => {
                let (facts, warnings) = PodFacts::new(&text, &name.0, &self.node, &pod);
                // Most news of a pod is none to us: conditions, readiness, annotations.
                if self.pods.get(&name.0, &name.1).is_none_or(|known| **known != facts) {
                    self.forget(&key);
                    self.insert_pod(name, Arc::new(facts));
                }
                warnings
            }
            Object::NetworkPolicy(policy) => {
                let (policy, warnings) = convert::policy(&policy, unknown_fields);
                if self.policies.get(&name).is_none_or(|known| **known != policy) {
                    self.forget(&key);
                    self.log.note(|dirty| {
                        dirty.populated.insert(name.0.clone());
                        dirty.policies.insert(name.clone());
                    });
                    self.policies.insert(name, Arc::new(policy));
                }
                self.warn(key, warnings);
                return;
            }
            Object::Service(service) => {
                let (facts, warnings) = ServiceFacts::new(&text, &service);
                if self.services.get(&name) != facts.as_ref() {
                    self.forget(&key);
                    self.log.note(|dirty| {
                        dirty.services.insert(name.clone());
                    });
                    self.services.extend(facts.map(|facts| (name, facts)));
                }
                warnings
            }
            Object::EndpointSlice(slice) => {
                let (facts, warnings) = SliceFacts::new(&text, &name.0, &slice);
                if self.slices.get(&name) != facts.as_ref() {
                    self.forget(&key);
                    if let Some(facts) = facts {
                        let service = (facts.namespace.clone(), facts.service.clone());
                        self.log.note(|dirty| {
                            dirty.services.insert(service);
                        });
                        self.slices.insert(name, facts);
                    }
                }
                warnings
            }
        };
        self.warn(key, warnings.into_iter().chain(unknown_fields.iter().cloned()).collect());
    }

    /// Forgets an object. A pod's attachments go on with what was known of it.
    pub fn delete(&mut self, key: &ObjectKey) {
        self.forget(key);
        self.warn(key.clone(), Vec::new());
    }

    /// Takes in an interface; one of the same container and name is replaced.
    pub fn attach(&mut self, attachment: Attachment) {
        self.detach(&attachment.container_id, &attachment.ifname);
        self.attached += 1;
        self.note_attachment(&attachment);
        let pod = attachment.pod.as_ref().and_then(|pod| {
            let known = self.pods.get(&pod.namespace, &pod.name)?;
            known.has_uid(pod.uid.as_deref()).then(|| Arc::clone(known))
        });
        self.insert(Attached { attachment, pod, order: self.attached });
    }

    /// Whether it was attached.
    pub fn detach(&mut self, container_id: &str, ifname: &str) -> bool {
        let key = (container_id.to_owned(), ifname.to_owned());
        let Some(attached) = self.attachments.remove(&key) else { return false };
        self.note_attachment(&attached.attachment);
        if let Some(pod) = attached.attachment.pod {
            let name = (pod.namespace, pod.name);
            if let Some(interfaces) = self.attached_names.get_mut(&name) {
                interfaces.remove(&key);
                if interfaces.is_empty() {
                    self.attached_names.remove(&name);
                }
            }
        }
        let claim = Claim::Attachment(Arc::new(key));
        for ip in attached.attachment.ips {
            self.unclaim(ip, &claim);
        }
        true
    }

    /// Whether the API has shown this very pod, so that its labels are known.
    ///
    /// A static pod's UID is what its mirror pod carries as `kubernetes.io/config.mirror` (or `config.hash`).
    pub fn knows_pod(&self, namespace: &str, name: &str, uid: Option<&str>) -> bool {
        self.pods.get(namespace, name).is_some_and(|pod| pod.has_uid(uid))
    }

    pub fn node_name(&self) -> &str {
        &self.node
    }

    /// The node that this world is for, once the API has shown it.
    pub fn node(&self) -> Option<&NodeFacts> {
        self.nodes.get(&self.node).map(|node| &**node)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &NodeFacts> {
        self.nodes.values().map(|node| &**node)
    }

    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.attachments.values().map(|attached| &attached.attachment)
    }

    /// Pods of this node that have an address, and none of whose interfaces is attached: another plugin has wired them.
    pub fn unattached(&self) -> impl Iterator<Item = (&str, &str, &[IpAddr])> {
        let is_ours_to_wire = |pod: &&Arc<PodFacts>| {
            pod.is_here
                && !pod.host_network
                && !pod.finished
                && !pod.ips.is_empty()
                && !self.attached_names.contains_key(&(pod.namespace.clone(), pod.name.clone()))
        };
        let pods = self.pods.iter().filter(is_ours_to_wire);
        pods.map(|pod| (pod.namespace.as_str(), pod.name.as_str(), &*pod.ips))
    }

    /// The addresses that this pod has to itself, as the API shows it. None once it has finished.
    pub fn addresses_of_pod(&self, namespace: &str, name: &str) -> &[IpAddr] {
        let pod = self.pods.get(namespace, name);
        pod.filter(|pod| pod.is_peer()).map_or(&[], |pod| &pod.ips)
    }

    /// `namespace/name` of the live pod with this address, `node/NAME` for a node's.
    pub fn pod_name_of(&self, ip: IpAddr) -> Option<String> {
        if let Some(pod) = self.owner(ip) {
            return Some(format!("{}/{}", pod.namespace, pod.name));
        }
        if let Some(pod) = self.holder(ip).and_then(|attached| attached.attachment.pod.as_ref()) {
            return Some(format!("{}/{}", pod.namespace, pod.name));
        }
        let nodes = self.claims.of(ip).iter().filter_map(|claim| match claim {
            Claim::Node(facts) => Some(&facts.name),
            Claim::Attachment(_) | Claim::Pod(_) => None,
        });
        nodes.min().map(|name| format!("node/{name}"))
    }

    /// The pod whose address it is.
    pub(crate) fn owner(&self, ip: IpAddr) -> Option<&Arc<PodFacts>> {
        if let Some(attached) = self.holder(ip) {
            return attached.pod.as_ref();
        }
        let pods = self.claims.of(ip).iter().filter_map(|claim| match claim {
            Claim::Pod(pod) => Some(pod).filter(|pod| !self.is_attached(pod)),
            Claim::Attachment(_) | Claim::Node(_) => None,
        });
        // A pod that is attached here has the addresses of its attachments and no others.
        pods.max_by_key(|pod| (pod.created, &pod.uid, &pod.namespace, &pod.name))
    }

    /// What has changed since this was last asked; `None`: everything.
    pub(crate) fn take_changes(&mut self) -> Option<Dirty> {
        self.log.take()
    }

    pub(crate) fn attached_at(&self, interface: &Interface) -> Option<&Attached> {
        self.attachments.get(interface)
    }

    pub(crate) fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.attachments.keys()
    }

    /// The pods of a namespace that the API shows, then those that only an attachment knows.
    pub(crate) fn pods_of<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<PodFacts>> {
        let attached = self.attachments.values().filter_map(|attached| attached.pod.as_ref());
        let attached = attached.filter(move |pod| pod.namespace == namespace);
        self.pods.of(namespace).chain(attached)
    }

    /// The namespaces in which anybody knows of a pod, without a look at each.
    pub(crate) fn populated_namespaces(&self) -> BTreeSet<&str> {
        let attached = self.attachments.values().filter_map(|attached| attached.pod.as_ref());
        attached.map(|pod| pod.namespace.as_str()).chain(self.pods.namespaces()).collect()
    }

    /// The addresses that a pod has, or is said to have.
    pub(crate) fn addresses_of(&self, pod: &PodFacts) -> impl Iterator<Item = IpAddr> {
        let interfaces = self.attached_names.get(&(pod.namespace.clone(), pod.name.clone()));
        let attached =
            interfaces.into_iter().flatten().filter_map(|interface| self.attachments.get(interface));
        pod.ips.iter().copied().chain(attached.flat_map(|attached| attached.attachment.ips.iter().copied()))
    }

    /// Every address in a block that anyone names.
    pub(crate) fn addresses_within(&self, block: IpNet) -> impl Iterator<Item = IpAddr> {
        self.claims.addresses_within(block.network()..=block.broadcast())
    }

    /// The attachment that has this address.
    pub(crate) fn holder(&self, ip: IpAddr) -> Option<&Attached> {
        let attached = self.claims.of(ip).iter().filter_map(|claim| match claim {
            Claim::Attachment(interface) => self.attachments.get(&**interface),
            Claim::Pod(_) | Claim::Node(_) => None,
        });
        attached.max_by_key(|attached| attached.order)
    }

    /// Every address that anyone names.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.claims.addresses()
    }

    pub(crate) fn attached(&self) -> impl Iterator<Item = &Attached> {
        self.attachments.values()
    }

    /// Every pod that the API or an attachment knows.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &Arc<PodFacts>> {
        self.pods.iter().chain(self.attachments.values().filter_map(|attached| attached.pod.as_ref()))
    }

    /// A namespace's labels. One that nobody declared has its name and no more.
    pub(crate) fn namespace_labels(&self, name: &str) -> Labels {
        self.namespaces.get(name).cloned().unwrap_or_else(|| name_label(name).into_iter().collect())
    }

    /// What arrived and cannot be honoured.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = &Warning> {
        self.warnings.values().flatten()
    }

    fn insert(&mut self, attached: Attached) {
        let Attachment { container_id, ifname, ips, .. } = &attached.attachment;
        let key = (container_id.clone(), ifname.clone());
        let interface = Arc::new(key.clone());
        for ip in ips {
            self.claims.insert(*ip, Claim::Attachment(Arc::clone(&interface)));
        }
        if let Some(pod) = &attached.attachment.pod {
            let name = (pod.namespace.clone(), pod.name.clone());
            self.attached_names.entry(name).or_default().insert(key.clone());
        }
        self.attachments.insert(key, attached);
    }

    /// What is wrong with an object, from now on.
    fn warn(&mut self, key: ObjectKey, warnings: Vec<Warning>) {
        let before = if warnings.is_empty() {
            self.warnings.remove(&key)
        } else {
            self.warnings.insert(key, warnings.clone())
        };
        if before.unwrap_or_default() != warnings {
            self.log.note(|dirty| dirty.warnings = true);
        }
    }

    fn insert_pod(&mut self, name: Name, facts: Arc<PodFacts>) {
        if facts.is_peer() {
            for ip in &facts.ips {
                self.claim(*ip, Claim::Pod(Arc::clone(&facts)));
            }
        }
        self.log.note(|dirty| {
            dirty.populated.insert(name.0.clone());
        });
        for interface in self.attached_names.get(&name).into_iter().flatten() {
            if let Some(attached) = self.attachments.get_mut(interface)
                && attached.names(&facts)
            {
                attached.pod = Some(Arc::clone(&facts));
                self.log.note(|dirty| {
                    dirty.interfaces.insert(interface.clone());
                    dirty.addresses.extend(&attached.attachment.ips);
                });
            }
        }
        self.pods.insert(facts);
    }

    /// An attachment comes or goes.
    fn note_attachment(&mut self, attachment: &Attachment) {
        let Self { log, pods, .. } = self;
        log.note(|dirty| {
            dirty.interfaces.insert((attachment.container_id.clone(), attachment.ifname.clone()));
            dirty.addresses.extend(&attachment.ips);
            if let Some(pod) = &attachment.pod {
                dirty.populated.insert(pod.namespace.clone());
                // Attached, a pod has no addresses but those of its attachments.
                let known = pods.get(&pod.namespace, &pod.name);
                dirty.addresses.extend(known.iter().flat_map(|pod| &pod.ips));
            }
        });
    }

    /// Everything but what was wrong with it.
    fn forget(&mut self, key: &ObjectKey) {
        let name = (key.namespace.clone().unwrap_or_default(), key.name.clone());
        match key.kind {
            Kind::Namespace => {
                self.namespaces.remove(&key.name);
                self.log.note(|dirty| {
                    dirty.populated.insert(key.name.clone());
                    dirty.namespaces.insert(key.name.clone());
                });
            }
            Kind::Node => {
                if let Some(facts) = self.nodes.remove(&key.name) {
                    let claim = Claim::Node(Arc::clone(&facts));
                    facts.ips.iter().for_each(|ip| self.unclaim(*ip, &claim));
                }
            }
            Kind::Pod => {
                if let Some(facts) = self.pods.remove(&name.0, &name.1) {
                    self.log.note(|dirty| {
                        dirty.populated.insert(name.0);
                    });
                    let claim = Claim::Pod(Arc::clone(&facts));
                    facts.ips.iter().for_each(|ip| self.unclaim(*ip, &claim));
                }
            }
            Kind::NetworkPolicy => {
                if self.policies.remove(&name).is_some() {
                    self.log.note(|dirty| {
                        dirty.populated.insert(name.0.clone());
                        dirty.policies.insert(name);
                    });
                }
            }
            Kind::Service => {
                if self.services.remove(&name).is_some() {
                    self.log.note(|dirty| {
                        dirty.services.insert(name);
                    });
                }
            }
            Kind::EndpointSlice => {
                if let Some(slice) = self.slices.remove(&name) {
                    self.log.note(|dirty| {
                        dirty.services.insert((slice.namespace, slice.service));
                    });
                }
            }
        }
    }

    fn is_attached(&self, pod: &PodFacts) -> bool {
        let name = (pod.namespace.clone(), pod.name.clone());
        let mut interfaces = self.attached_names.get(&name).into_iter().flatten();
        interfaces
            .any(|interface| self.attachments.get(interface).is_some_and(|attached| attached.names(pod)))
    }

    fn claim(&mut self, ip: IpAddr, claim: Claim) {
        self.log.note(|dirty| {
            dirty.addresses.insert(ip);
        });
        self.claims.insert(ip, claim);
    }

    fn unclaim(&mut self, ip: IpAddr, claim: &Claim) {
        self.log.note(|dirty| {
            dirty.addresses.insert(ip);
        });
        self.claims.remove(ip, claim);
    }
}

/// Those of one namespace, in order of name.
pub(crate) fn of_namespace<'a, V>(
    objects: &'a BTreeMap<Name, V>,
    namespace: &str,
) -> impl Iterator<Item = (&'a Name, &'a V)> {
    let namespace = namespace.to_owned();
    let from = (namespace.clone(), String::new());
    objects.range(from..).take_while(move |((of, _), _)| *of == namespace)
}

impl Attached {
    /// Whether the runtime attached this very pod.
    fn names(&self, pod: &PodFacts) -> bool {
        self.attachment.pod.as_ref().is_some_and(|named| {
            named.namespace == pod.namespace && named.name == pod.name && pod.has_uid(named.uid.as_deref())
        })
    }
}

/// What the API server puts on every namespace.
fn name_label(name: &str) -> Option<(String, String)> {
    Some(("kubernetes.io/metadata.name".to_owned(), name.to_owned()))
}
