//! A cluster as the objects it is made of: something that can be changed, made smaller and written down.
//!
//! What the runtime has wired on the test's node stands among them, as objects of a kind of its own ([`attachment`]).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use policy::{Attachment, Kind, Object, ObjectKey, PodRef, Warning, World, manifest};
use serde_json::{Value, json};

use crate::node::Node;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scene {
    pub objects: Vec<Value>,
}

/// Kind, namespace and name.
pub type Key = [String; 3];

const ATTACHMENT: &str = "Attachment";

/// Kind, namespace and name.
pub fn key(object: &Value) -> Key {
    [&object["kind"], &object["metadata"]["namespace"], &object["metadata"]["name"]]
        .map(|part| part.as_str().unwrap_or_default().to_owned())
}

/// An interface that the runtime gave to a container of this name; `pod` has `namespace`, `name` and perhaps `uid`, or is
/// null for a container that is no pod. Names that begin alike share a link: `a` and `a-2`.
pub fn attachment(name: &str, pod: Value, ips: &[IpAddr]) -> Value {
    json!({"kind": ATTACHMENT, "metadata": {"name": name}, "pod": pod, "ips": ips})
}

/// What the world is told of one object.
enum Told {
    Object(Object, Vec<Warning>),
    Wired(Attachment),
}

impl Told {
    /// `None` if it is no object.
    fn read(object: &Value, node: &Node) -> Option<Self> {
        if object["kind"] == ATTACHMENT {
            return wired(object, node).map(Self::Wired);
        }
        let document = manifest::documents("a scene", &object.to_string()).ok()?.pop()?;
        let (object, warnings) = manifest::object(&document).ok().flatten()?;
        Some(Self::Object(object, warnings))
    }

    fn to(self, world: &mut World) {
        match self {
            Self::Object(object, warnings) => world.apply(object, &warnings),
            Self::Wired(attachment) => world.attach(attachment),
        }
    }
}

fn wired(object: &Value, node: &Node) -> Option<Attachment> {
    let name = object["metadata"]["name"].as_str()?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let pod = match &object["pod"] {
        Value::Null => None,
        pod => Some(PodRef {
            namespace: text(&pod["namespace"])?,
            name: text(&pod["name"])?,
            uid: text(&pod["uid"]),
        }),
    };
    let ips: Option<Vec<IpAddr>> =
        object["ips"].as_array()?.iter().map(|ip| ip.as_str()?.parse().ok()).collect();
    Some(Attachment {
        container_id: name.to_owned(),
        ifname: "eth0".to_owned(),
        pod,
        ifindex: if name.starts_with('a') { node.ifindex_a } else { node.ifindex_b },
        ips: ips?,
    })
}

impl Scene {
    /// Adds an object, in place of the one of its name if there is one.
    pub fn put(&mut self, object: Value) {
        match self.objects.iter_mut().find(|other| key(other) == key(&object)) {
            Some(other) => *other = object,
            None => self.objects.push(object),
        }
    }

    /// Takes the objects away of which this is true.
    pub fn remove(&mut self, mut is_it: impl FnMut(&Value) -> bool) {
        self.objects.retain(|object| !is_it(object));
    }

    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// The world as the test's node sees it; `None` if an object is none.
    pub fn world(&self, node: &Node) -> Option<World> {
        let mut world = World::new("node-0");
        self.follow(&Self::default(), &mut world, node)?;
        Some(world)
    }

    /// Makes the world of `before` this one's, object by object; `None`, with nothing changed, if an object is none.
    pub fn follow(&self, before: &Self, world: &mut World, node: &Node) -> Option<()> {
        let mut old: BTreeMap<Key, &Value> =
            before.objects.iter().map(|object| (key(object), object)).collect();
        let news = self.objects.iter().filter(|object| old.remove(&key(object)) != Some(*object));
        let news: Option<Vec<Told>> = news.map(|object| Told::read(object, node)).collect();
        let news = news?;
        for [kind, namespace, name] in old.into_keys() {
            match Kind::ALL.into_iter().find(|other| other.as_str() == kind) {
                Some(kind) => {
                    let namespace = if namespace.is_empty() { "default".to_owned() } else { namespace };
                    let namespace = kind.is_namespaced().then_some(namespace);
                    world.delete(&ObjectKey { kind, namespace, name });
                }
                None => drop(world.detach(&name, "eth0")),
            }
        }
        news.into_iter().for_each(|told| told.to(world));
        Some(())
    }

    /// As a file that `weir sandbox` takes, but for the attachments: where the pods are is not for a file to say.
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
