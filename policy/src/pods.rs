//! The pods of the API in order of namespace and name, each kept once: a node keeps every pod in the cluster, and a key
//! beside it would say its names a second time.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use crate::facts::PodFacts;

#[derive(Clone, Debug, Default)]
pub(crate) struct Pods(BTreeSet<ByName>);

impl Pods {
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Arc<PodFacts>> {
        self.0.get(&(namespace, name) as &dyn Named).map(|pod| &pod.0)
    }

    /// In the place of the one of its name.
    pub(crate) fn insert(&mut self, pod: Arc<PodFacts>) {
        self.0.replace(ByName(pod));
    }

    pub(crate) fn remove(&mut self, namespace: &str, name: &str) -> Option<Arc<PodFacts>> {
        self.0.take(&(namespace, name) as &dyn Named).map(|pod| pod.0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<PodFacts>> {
        self.0.iter().map(|pod| &pod.0)
    }

    /// Those of one namespace.
    pub(crate) fn of<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<PodFacts>> {
        let from = Bound::Included(&(namespace, "") as &dyn Named);
        let pods = self.0.range::<dyn Named, _>((from, Bound::Unbounded)).map(|pod| &pod.0);
        pods.take_while(move |pod| pod.namespace == namespace)
    }

    /// Without a look at each pod.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &str> {
        let mut next = self.0.first();
        std::iter::from_fn(move || {
            let found = next?.0.namespace.as_str();
            // No name follows this one directly.
            let behind = format!("{found}\0");
            let from = Bound::Included(&(behind.as_str(), "") as &dyn Named);
            next = self.0.range::<dyn Named, _>((from, Bound::Unbounded)).next();
            Some(found)
        })
    }
}

/// Namespace and name are all that it is compared by.
#[derive(Clone, Debug)]
struct ByName(Arc<PodFacts>);

/// What has a pod's names: the pod, or whoever looks for it.
trait Named {
    fn names(&self) -> (&str, &str);
}

impl Named for ByName {
    fn names(&self) -> (&str, &str) {
        (&self.0.namespace, &self.0.name)
    }
}

impl Named for (&str, &str) {
    fn names(&self) -> (&str, &str) {
        *self
    }
}

impl<'a> Borrow<dyn Named + 'a> for ByName {
    fn borrow(&self) -> &(dyn Named + 'a) {
        self
    }
}

impl Ord for dyn Named + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.names().cmp(&other.names())
    }
}

impl PartialOrd for dyn Named + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Named + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.names() == other.names()
    }
}

impl Eq for dyn Named + '_ {}

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.names().cmp(&other.names())
    }
}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.names() == other.names()
    }
}

impl Eq for ByName {}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn pod(namespace: &str, name: &str, uid: &str) -> Arc<PodFacts> {
        let metadata = ObjectMeta { name: Some(name.into()), uid: Some(uid.into()), ..ObjectMeta::default() };
        Arc::new(PodFacts::new("", namespace, "node", &Pod { metadata, ..Pod::default() }).0)
    }

    #[test]
    fn pods_are_found_by_name_and_by_namespace_and_the_last_of_a_name_counts() {
        let mut pods = Pods::default();
        for (namespace, name) in [("b", "x"), ("a", "y"), ("a", "x"), ("ab", "x"), ("a-b", "x"), ("a", "x")] {
            pods.insert(pod(namespace, name, "first"));
        }
        pods.insert(pod("a", "x", "second"));
        let names = |pods: Vec<&Arc<PodFacts>>| -> Vec<String> {
            pods.iter().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect()
        };
        assert_eq!(names(pods.iter().collect()), ["a/x", "a/y", "a-b/x", "ab/x", "b/x"]);
        assert_eq!(names(pods.of("a").collect()), ["a/x", "a/y"]);
        assert_eq!(names(pods.of("aa").collect()), [""; 0]);
        assert_eq!(pods.namespaces().collect::<Vec<_>>(), ["a", "a-b", "ab", "b"]);
        assert_eq!(pods.get("a", "x").unwrap().uid, "second");
        assert!(pods.get("x", "a").is_none());
        assert_eq!(pods.remove("a", "x").unwrap().uid, "second");
        assert!(pods.remove("a", "x").is_none());
        assert_eq!(names(pods.of("a").collect()), ["a/y"]);
    }
}
