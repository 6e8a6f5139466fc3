//! A cluster as the objects it is made of: something that can be changed, made smaller and written down.

use std::collections::BTreeMap;
use std::fmt::Write;

use policy::{Attachment, Object, ObjectKey, PodRef, Warning, World, manifest};
use serde_json::Value;

use crate::node::{A, B, FAMILIES, Node};

#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// The namespaces of the node's own pods `a` and `b`, as the runtime has them.
    pub homes: [&'static str; 2],
    pub objects: Vec<Value>,
}

/// Kind, namespace and name.
pub fn key(object: &Value) -> [String; 3] {
    [&object["kind"], &object["metadata"]["namespace"], &object["metadata"]["name"]]
        .map(|part| part.as_str().unwrap_or_default().to_owned())
}

impl Scene {
    /// Adds an object, in place of the one of its name if there is one.
    pub fn put(&mut self, object: Value) {
        match self.objects.iter_mut().find(|other| key(other) == key(&object)) {
            Some(other) => *other = object,
            None => self.objects.push(object),
        }
    }

    /// The objects as a source delivers them; `None` if one of them is none.
    pub fn parse(&self) -> Option<Vec<(Object, Vec<Warning>)>> {
        let text: Vec<String> = self.objects.iter().map(Value::to_string).collect();
        let documents = manifest::documents("a scene", &text.join("\n---\n")).ok()?;
        documents.iter().map(|document| manifest::object(document).ok().flatten()).collect()
    }

    /// The world as the test's node sees it; `None` if an object is none.
    pub fn world(&self, node: &Node) -> Option<World> {
        let mut world = World::new("node-0");
        self.attach(&mut world, node);
        for (object, warnings) in self.parse()? {
            world.apply(object, &warnings);
        }
        Some(world)
    }

    /// What the runtime has wired.
    pub fn attach(&self, world: &mut World, node: &Node) {
        for ((name, party), home) in [("a", A), ("b", B)].into_iter().zip(self.homes) {
            world.attach(Attachment {
                container_id: name.to_owned(),
                ifname: "eth0".to_owned(),
                pod: Some(PodRef {
                    namespace: home.to_owned(),
                    name: name.to_owned(),
                    uid: Some(name.to_owned()),
                }),
                ifindex: node.ifindex(party),
                ips: FAMILIES.map(|family| party.on(family)).to_vec(),
            });
        }
    }

    /// Makes the world of `before` this one's, object by object.
    pub fn follow(&self, before: &Self, world: &mut World, node: &Node) -> Option<()> {
        if self.homes != before.homes {
            self.attach(world, node);
        }
        let mut old: BTreeMap<ObjectKey, &Value> = BTreeMap::new();
        for ((object, _), value) in before.parse()?.iter().zip(&before.objects) {
            old.insert(object.key(), value);
        }
        for ((object, warnings), value) in self.parse()?.into_iter().zip(&self.objects) {
            if old.remove(&object.key()) != Some(value) {
                world.apply(object, &warnings);
            }
        }
        old.keys().for_each(|gone| world.delete(gone));
        Some(())
    }

    /// As a file that `weir sandbox` takes, as far as there is one: where the pods are is not theirs to say.
    pub fn yaml(&self) -> String {
        let mut text = String::new();
        for object in &self.objects {
            text.push_str("---\n");
            write_yaml(&mut text, object, 0);
        }
        text
    }
}

/// Block style, with JSON's spelling of scalars and of what is empty.
fn write_yaml(text: &mut String, value: &Value, indent: usize) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let _ok = write!(text, "{pad}{name}:");
                write_below(text, value, indent + 2);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut below = String::new();
                write_yaml(&mut below, item, indent + 2);
                let _ok = write!(text, "{pad}- {}", below.trim_start());
            }
        }
        scalar => {
            let _ok = writeln!(text, "{pad}{scalar}");
        }
    }
}

fn write_below(text: &mut String, value: &Value, indent: usize) {
    let nested = value.as_object().is_some_and(|fields| !fields.is_empty())
        || value.as_array().is_some_and(|items| !items.is_empty());
    if nested {
        text.push('\n');
        write_yaml(text, value, indent);
    } else {
        let _ok = writeln!(text, " {value}");
    }
}
