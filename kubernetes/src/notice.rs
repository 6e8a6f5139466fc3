//! What a person has to know, as something to be told about an object.

/// Told about one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Notice {
    pub about: About,
    pub reason: &'static str,
    pub message: String,
    /// A person must act; else it is for the record.
    pub is_warning: bool,
}

/// An object by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct About {
    pub kind: &'static str,
    /// Empty for what is in no namespace: a Node, an IngressClass.
    pub namespace: String,
    pub name: String,
}

impl About {
    /// The Node of this name.
    pub fn node(name: &str) -> Self {
        Self { kind: "Node", namespace: String::new(), name: name.to_owned() }
    }

    /// The object that a complaint begins with, if it is of one of these kinds: `NetworkPolicy shop/web: …`.
    pub fn of(complaint: &str, kinds: &[&'static str]) -> Option<Self> {
        let (object, _) = complaint.split_once(": ")?;
        let (kind, name) = object.split_once(' ')?;
        let kind = kinds.iter().find(|known| **known == kind)?;
        let (namespace, name) = name.split_once('/')?;
        Some(Self { kind, namespace: namespace.to_owned(), name: name.to_owned() })
    }
}
