//! What the agent makes of one kind's news: changes for the loop, except for pods that have to wait.

use std::rc::Rc;

use kubernetes::{Name, News, Resource, Sink};
use policy::{Kind, Object, ObjectKey, Warning};

use super::{Arrival, Change, Shared, trim};

/// Where a kind's objects are.
pub(super) const fn resource(kind: Kind) -> Resource {
    let path = match kind {
        Kind::Namespace => "/api/v1/namespaces",
        Kind::Node => "/api/v1/nodes",
        Kind::Pod => "/api/v1/pods",
        Kind::Service => "/api/v1/services",
        Kind::NetworkPolicy => "/apis/networking.k8s.io/v1/networkpolicies",
        Kind::EndpointSlice => "/apis/discovery.k8s.io/v1/endpointslices",
    };
    Resource { path, is_namespaced: kind.is_namespaced(), fields: "" }
}

pub(super) struct Loop {
    kind: Kind,
    shared: Rc<Shared>,
    /// The first list has been told whole.
    listed: bool,
}

impl Loop {
    pub(super) fn new(kind: Kind, shared: Rc<Shared>) -> Self {
        Self { kind, shared, listed: false }
    }

    /// A pod that is new to this node has to wait.
    fn admit(&self, name: &Name, (object, warnings): (Object, Vec<Warning>)) -> Option<Change> {
        let Object::Pod(pod) = &object else { return Some(Change::Apply(object, warnings)) };
        let spec = pod.spec.as_ref();
        // A pod of no node has no address yet, and it may become one of this node.
        let node = spec.and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty())?;
        if node != self.shared.node || spec.is_some_and(|spec| spec.host_network == Some(true)) {
            return Some(Change::Apply(object, warnings));
        }
        if !self.listed {
            self.shared.newcomers.welcome(name, pod.metadata.uid.as_deref().unwrap_or_default());
        }
        let known = self.shared.newcomers.receive(name, object, warnings);
        known.map(|(object, warnings)| Change::Apply(object, warnings))
    }

    fn key(&self, (namespace, name): Name) -> ObjectKey {
        ObjectKey { kind: self.kind, namespace: self.kind.is_namespaced().then_some(namespace), name }
    }
}

impl Sink for Loop {
    type Object = (Object, Vec<Warning>);

    fn kind(&self) -> &'static str {
        self.kind.as_str()
    }

    fn read(&self, text: &str) -> Result<Self::Object, String> {
        trim::object(self.kind, text)
    }

    async fn tell(&mut self, news: Vec<News<Self::Object>>, whole: bool) -> bool {
        let arrived = news.first().and_then(|first| first.arrived);
        let arrived = arrived.map(|at| Arrival { kind: self.kind, at });
        let mut changes = Vec::with_capacity(news.len());
        for News { name, object, .. } in news {
            match object {
                Some(object) => changes.extend(self.admit(&name, object)),
                None => {
                    if self.kind == Kind::Pod {
                        self.shared.newcomers.forget(&name);
                    }
                    changes.push(Change::Delete(self.key(name)));
                }
            }
        }
        if whole {
            self.listed = true;
            self.shared.listed.send_if_modified(|listed| listed.insert(self.kind));
        }
        (!whole && changes.is_empty()) || self.shared.tell(changes, arrived).await
    }

    fn passed(&self) {
        self.shared.moved.notify_waiters();
    }

    async fn complain(&mut self, complaints: Vec<String>) {
        self.shared.complain(self.kind.as_str(), complaints).await;
    }
}
