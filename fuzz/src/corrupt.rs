//! One slip of the pen: a valid policy in which one field is another one, of another type or of an impossible value. If that
//! is noticed (there is a warning), then whatever passes now has passed before.

use policy::manifest::{self, Document};
use policy::{Compiled, Flow, Object, ObjectKey, Warning, World, compile};
use serde_json::{Value, json};

use crate::manifest::Stated;

/// Slips tried for each input.
const SLIPS: u64 = 3;

/// The policies of the text that have no warning, with slips that follow from the text.
pub fn narrows(stated: &Stated, documents: &[Document], world: &World, before: &Compiled, flows: &[Flow]) {
    let is_sound = |document: &&Document| {
        let Ok(Some((object @ Object::NetworkPolicy(_), _))) = manifest::object(document) else {
            return false;
        };
        stated.is_last(&object) && warnings_of(before, &object.key()).next().is_none()
    };
    let policies: Vec<&Document> = documents.iter().filter(is_sound).collect();
    if policies.is_empty() {
        return;
    }
    let mut dice = Dice::of(&policies);
    for _ in 0..SLIPS {
        let document = policies[dice.below(policies.len())];
        let Some(corrupted) = slip(document, &mut dice) else { continue };
        let Ok(Some((object, warnings))) = manifest::object(&corrupted) else { continue };
        let key = object.key();
        let mut world = world.clone();
        world.apply(object, &warnings);
        let after = compile(&world);
        let Some(noticed) = warnings_of(&after, &key).next() else { continue };
        for flow in flows {
            assert!(
                !after.tables.lookup(flow).allowed() || before.tables.lookup(flow).allowed(),
                "{noticed}\n{flow:?} did not pass before the slip, of\n{}\n{}",
                document.value,
                corrupted.value
            );
        }
    }
}

/// What is said of an object's `spec`.
fn warnings_of<'a>(compiled: &'a Compiled, key: &ObjectKey) -> impl Iterator<Item = &'a Warning> {
    let name = key.to_string();
    compiled
        .warnings
        .iter()
        .filter(move |warning| warning.object == name && warning.field.starts_with("spec"))
}

/// The document with one change somewhere in its `spec`.
fn slip(document: &Document, dice: &mut Dice) -> Option<Document> {
    let mut paths = Vec::new();
    walk(&document.value["spec"], "/spec".to_owned(), &mut paths);
    let path = &paths[dice.below(paths.len())];
    let mut corrupted = document.clone();
    let (parent, name) = path.rsplit_once('/')?;
    match (dice.below(8), corrupted.value.pointer_mut(parent)?) {
        (0..=3, Value::Object(fields)) => {
            let value = fields.remove(&name.replace("~1", "/").replace("~0", "~"))?;
            fields.insert(format!("{name}x"), value);
        }
        (kind, _) => *corrupted.value.pointer_mut(path)? = nonsense(kind),
    }
    Some(corrupted)
}

/// JSON pointers to every part.
pub(crate) fn walk(value: &Value, path: String, paths: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                walk(value, format!("{path}/{}", name.replace('~', "~0").replace('/', "~1")), paths);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                walk(value, format!("{path}/{index}"), paths);
            }
        }
        _ => {}
    }
    paths.push(path);
}

/// A value that fits nowhere, or hardly anywhere.
pub fn nonsense(kind: usize) -> Value {
    match kind {
        0 => json!("no such thing!"),
        1 => json!(99_999),
        2 => json!(-1),
        3 => json!({}),
        4 => json!(true),
        5 => json!("10.0.0.0/40"),
        6 => json!([[]]),
        _ => json!({ "nonsense": [1] }),
    }
}

/// Numbers that follow from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    /// FNV-1a of what the policies say.
    fn of(documents: &[&Document]) -> Self {
        let bytes = documents.iter().flat_map(|document| document.value.to_string().into_bytes());
        Self(bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)) % limit.max(1) as u64) as usize
    }
}
