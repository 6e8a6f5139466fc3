//! One thing for each host, found by the closest.

use std::collections::HashMap;

use crate::route::Host;

/// Exact names before wildcards of one label before what is for all.
#[derive(Clone, Debug)]
pub(crate) struct HostMap<T> {
    exact: HashMap<String, T>,
    wildcard: HashMap<String, T>,
    any: Option<T>,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcard: HashMap::new(), any: None }
    }
}

impl<T> HostMap<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty() && self.any.is_none()
    }

    /// `host` in the spelling of the table.
    pub(crate) fn find(&self, host: &str) -> Option<&T> {
        let wildcard = || host.split_once('.').and_then(|(_, suffix)| self.wildcard.get(suffix));
        self.exact.get(host).or_else(wildcard).or(self.any.as_ref())
    }
}

impl<T> FromIterator<(Host, T)> for HostMap<T> {
    /// Of two for one host the last counts.
    fn from_iter<I: IntoIterator<Item = (Host, T)>>(hosts: I) -> Self {
        let mut map = Self::default();
        for (host, value) in hosts {
            match host {
                Host::Exact(name) => drop(map.exact.insert(name, value)),
                Host::Wildcard(suffix) => drop(map.wildcard.insert(suffix, value)),
                Host::Any => map.any = Some(value),
            }
        }
        map
    }
}
