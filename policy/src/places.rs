//! Where objects and their fields stand in the texts that they were read from.
//!
//! Read beside [`crate::manifest::documents`] and only by those who show lines to people: an agent has no use for it.
//! What cannot be placed (a text that is no YAML to the parser, such as JSON indented with tabs) has no place, and
//! nothing else depends on it.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::manifest::chunks;
use crate::object::Kind;

/// The lines of objects and of each of their fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// By `Kind namespace/name`, as [`crate::ObjectKey`] and [`crate::Warning`] name objects.
    objects: BTreeMap<String, Place>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    origin: String,
    /// By path (`spec.ingress[0].from`); the empty one is the object's own.
    lines: BTreeMap<String, u64>,
}

impl Places {
    /// Takes in the objects of one text; of two with one name the first counts.
    pub fn add(&mut self, origin: &str, text: &str) {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (first, chunk) in chunks(text) {
            let options = serde_saphyr::options! { budget: None, with_snippet: false };
            let node = serde_saphyr::from_str_with_options::<Spanned<Node>>(&chunk, options);
            if let Ok(Spanned { value, referenced, .. }) = node {
                let before = first as u64 - 1;
                self.place(origin, &value, before, before + referenced.line());
            }
        }
    }

    /// `FILE:LINE` of a field of an object, or of the innermost part around it that is written.
    pub fn of(&self, object: &str, field: &str) -> Option<String> {
        self.find(object, field).map(|(origin, line)| format!("{origin}:{line}"))
    }

    /// The same, as file and line.
    pub fn find(&self, object: &str, field: &str) -> Option<(&str, u64)> {
        let place = self.objects.get(object)?;
        let mut path = field;
        loop {
            if let Some(line) = place.lines.get(path) {
                return Some((&place.origin, *line));
            }
            path = &path[..path.rfind(['.', '[']).unwrap_or(0)];
        }
    }

    fn place(&mut self, origin: &str, node: &Node, before: u64, line: u64) {
        let kind = node.text("kind").unwrap_or_default();
        if let (true, Some(Node::List(items))) = (kind.ends_with("List"), node.field("items")) {
            for (line, item) in items {
                self.place(origin, item, before, before + line);
            }
            return;
        }
        let Some(metadata) = node.field("metadata") else { return };
        let name = metadata.text("name").unwrap_or_default();
        let cluster_wide = Kind::ALL.iter().any(|known| known.as_str() == kind && !known.is_namespaced());
        let object = match metadata.text("namespace") {
            _ if cluster_wide => format!("{kind} {name}"),
            None | Some("") => format!("{kind} default/{name}"),
            Some(namespace) => format!("{kind} {namespace}/{name}"),
        };
        let mut lines = BTreeMap::from([(String::new(), line)]);
        node.lines("", before, &mut lines);
        self.objects.entry(object).or_insert(Place { origin: origin.to_owned(), lines });
    }
}

/// A value, of which only what names objects is kept, with the line of each part.
enum Node {
    Text(String),
    List(Vec<(u64, Node)>),
    /// The line of a field is that of its key.
    Fields(Vec<(String, u64, Node)>),
    Other,
}

impl Node {
    fn field(&self, name: &str) -> Option<&Self> {
        let Self::Fields(fields) = self else { return None };
        fields.iter().find(|(key, ..)| key == name).map(|(.., value)| value)
    }

    fn text(&self, name: &str) -> Option<&str> {
        match self.field(name) {
            Some(Self::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn lines(&self, path: &str, before: u64, lines: &mut BTreeMap<String, u64>) {
        let mut below = |path: String, line: u64, node: &Self| {
            node.lines(&path, before, lines);
            lines.insert(path, before + line);
        };
        match self {
            Self::Fields(fields) => {
                for (key, line, value) in fields {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    below(path, *line, value);
                }
            }
            Self::List(items) => {
                for (index, (line, item)) in items.iter().enumerate() {
                    below(format!("{path}[{index}]"), *line, item);
                }
            }
            Self::Text(_) | Self::Other => {}
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(Spanned { value, referenced, .. }) = items.next_element::<Spanned<Node>>()? {
            list.push((referenced.line(), value));
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(Spanned { value: key, referenced, .. }) = entries.next_key::<Spanned<Node>>()? {
            match key {
                Node::Text(key) => fields.push((key, referenced.line(), entries.next_value()?)),
                _ => drop(entries.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Node::Fields(fields))
    }
}
