//! Which object, in one piece of memory: the folder's books name every pod in the cluster.

use std::fmt::Write as _;
use std::sync::Arc;

use policy::{Kind, Object, ObjectKey};

/// An [`ObjectKey`], cheap to copy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The number of the kind and, where it has one, the length of the namespace, each with a space behind; then both names.
    text: Arc<str>,
}

impl Key {
    pub(super) fn of(object: &Object) -> Self {
        let (kind, name) = (object.kind(), object.name());
        let number = Kind::ALL.iter().position(|known| *known == kind).unwrap_or_default();
        let mut text = number.to_string();
        // To write to a string cannot fail.
        match object.namespace() {
            Some(namespace) => write!(text, " {} {namespace}{name}", namespace.len()).unwrap_or_default(),
            None => write!(text, " {name}").unwrap_or_default(),
        }
        Self { text: text.into() }
    }

    pub(super) fn kind(&self) -> Kind {
        self.parts().0
    }

    pub(super) fn namespace(&self) -> Option<&str> {
        self.parts().1
    }

    pub(super) fn name(&self) -> &str {
        self.parts().2
    }

    pub(super) fn to_object_key(&self) -> ObjectKey {
        let (kind, namespace, name) = self.parts();
        ObjectKey { kind, namespace: namespace.map(str::to_owned), name: name.to_owned() }
    }

    fn parts(&self) -> (Kind, Option<&str>, &str) {
        // As `of` has written it: there is nothing that could be missing.
        let (kind, rest) = self.text.split_once(' ').unwrap_or_default();
        let kind =
            kind.parse().ok().and_then(|number: usize| Kind::ALL.get(number).copied()).unwrap_or(Kind::Pod);
        if !kind.is_namespaced() {
            return (kind, None, rest);
        }
        let (length, rest) = rest.split_once(' ').unwrap_or_default();
        let length = length.parse().unwrap_or_default();
        let (namespace, name) = rest.split_at_checked(length).unwrap_or_default();
        (kind, Some(namespace), name)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Namespace, Pod};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    #[test]
    fn a_key_is_that_of_its_object_whatever_the_names_are() {
        let names = ["", "web", "7 8 9", "ä ", "\0"];
        let metadata = |namespace: &str, name: &str| ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        };
        let mut seen = std::collections::BTreeSet::new();
        for namespace in names {
            for name in names {
                let metadata = metadata(namespace, name);
                let pod = Object::from(Pod { metadata: metadata.clone(), ..Pod::default() });
                let cluster_wide = Object::from(Namespace { metadata, ..Namespace::default() });
                for object in [pod, cluster_wide] {
                    let key = Key::of(&object);
                    assert_eq!(key.to_object_key(), object.key());
                    assert_eq!((key.kind(), key.namespace()), (object.kind(), object.namespace()));
                    assert_eq!(key.name(), object.name());
                    seen.insert((key.text, object.key()));
                }
            }
        }
        assert_eq!(seen.len(), 25 + 5, "two objects are told apart, and a namespace's own namespace is none");
    }
}
