//! Which objects of one kind have been told, in which version; pure.

use std::collections::{HashMap, HashSet};

use crate::api::{Listing, Name};

/// What has been told of one kind.
#[derive(Default)]
pub struct Mirror {
    versions: HashMap<Name, Box<str>>,
    /// Everything up to this version has been told.
    passed: String,
}

impl Mirror {
    /// Whether this is the version that was told.
    pub fn holds(&self, name: &Name, version: &str) -> bool {
        self.versions.get(name).is_some_and(|held| **held == *version)
    }

    /// The object has been told in this version.
    pub fn put(&mut self, name: Name, version: &str) {
        self.versions.insert(name, version.into());
    }

    /// It has been told that the object is gone.
    pub fn remove(&mut self, name: &Name) {
        self.versions.remove(name);
    }

    /// Everything up to this version has been told.
    pub fn pass(&mut self, version: &str) {
        self.passed.clear();
        self.passed.push_str(version);
    }

    /// Those that a complete list does not have.
    pub fn without(&self, listed: &HashSet<Name>) -> Vec<Name> {
        self.versions.keys().filter(|name| !listed.contains(*name)).cloned().collect()
    }

    /// Whether everything has been told that was there as of the listing: because we are later, or because it is the
    /// same. Versions are numbers that grow, from one store, across kinds.
    pub fn has_passed(&self, listing: &Listing, namespace: &str) -> bool {
        let number = |version: &str| version.parse::<u64>().ok();
        if let (Some(passed), Some(listed)) = (number(&self.passed), number(&listing.version))
            && passed >= listed
        {
            return true;
        }
        let mut held = 0;
        for (name, version) in self.versions.iter().filter(|(name, _)| name.0 == namespace) {
            held += 1;
            if listing.versions.get(name).is_none_or(|listed| **listed != **version) {
                return false;
            }
        }
        held == listing.versions.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Name {
        ("shop".into(), name.into())
    }

    fn listing(version: &str, objects: &[(&str, &str)]) -> Listing {
        let versions = objects.iter().map(|(object, version)| (name(object), (*version).to_owned()));
        Listing { version: version.into(), versions: versions.collect() }
    }

    #[test]
    fn a_listing_is_passed_once_its_objects_are_told_or_something_later_is() {
        let mut mirror = Mirror::default();
        mirror.pass("10");
        mirror.put(name("a"), "7");
        mirror.put(("elsewhere".into(), "x".into()), "8");
        assert!(mirror.has_passed(&listing("20", &[("a", "7")]), "shop"), "nothing has happened here since");
        assert!(!mirror.has_passed(&listing("20", &[("a", "7"), ("b", "15")]), "shop"), "one is missing");
        assert!(!mirror.has_passed(&listing("20", &[("a", "15")]), "shop"), "one is old");
        assert!(!mirror.has_passed(&listing("20", &[]), "shop"), "one is gone");
        assert!(mirror.has_passed(&listing("9", &[]), "shop"), "older than what was told");
        mirror.pass("21");
        assert!(mirror.has_passed(&listing("20", &[("b", "15")]), "shop"));
        assert!(
            !mirror.has_passed(&listing("100", &[("b", "15")]), "shop"),
            "versions are numbers, not words"
        );
    }
}
