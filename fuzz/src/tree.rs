//! Manifests as trees: a mutation is another tree, not other letters, so that most of what comes out is still read as
//! objects. Fields get values that fit their names, parts of other objects, slips of the pen, and now and then nonsense.

use ::tests::dice::Dice;
use policy::manifest;
use serde_json::{Value, json};

use crate::corrupt::{nonsense, walk};

/// Changes in one mutation at most.
const CHANGES: usize = 4;

/// Another input made of this one, `size` bytes of `data`; where it is no manifest, or one that has grown too long, `bytes` (of a
/// slice: how many are used, how many there may be) mutates its letters. Returns its size.
pub fn mutate(
    data: &mut [u8],
    size: usize,
    max_size: usize,
    seed: u32,
    bytes: impl FnOnce(&mut [u8], usize, usize) -> usize,
) -> usize {
    let mut dice = Dice(u64::from(seed));
    let text = std::str::from_utf8(&data[..size]).ok().filter(|_| dice.happens(85));
    match text.and_then(|text| grown(text, &mut dice)) {
        Some(text) if text.len() <= max_size => {
            data[..text.len()].copy_from_slice(text.as_bytes());
            text.len()
        }
        _ => bytes(data, size, max_size),
    }
}

/// The manifest with a few changes; `None` if it has no documents.
pub fn grown(text: &str, dice: &mut Dice) -> Option<String> {
    let documents = manifest::documents("fuzz.yaml", text).ok()?;
    let mut values: Vec<Value> = documents.into_iter().map(|document| document.value).collect();
    for _ in 0..1 + dice.below(CHANGES) {
        if values.is_empty() {
            return None;
        }
        change(&mut values, dice);
    }
    Some(values.iter().map(|value| format!("---\n{value}\n")).collect())
}

fn change(values: &mut Vec<Value>, dice: &mut Dice) {
    let at = dice.below(values.len());
    match dice.below(20) {
        0 => values.push(object(dice)),
        1 => values.push(values[at].clone()),
        2 if values.len() > 1 => drop(values.remove(at)),
        3 => {
            let other = dice.below(values.len());
            values.swap(at, other);
        }
        _ => {
            let mut paths = Vec::new();
            walk(&values[at], String::new(), &mut paths);
            // Without these nothing of the whole text is read, and there is nothing to learn from that.
            paths.retain(|path| !matches!(path.as_str(), "" | "/apiVersion" | "/kind"));
            if paths.is_empty() {
                values[at] = object(dice);
                return;
            }
            let path = &paths[dice.below(paths.len())];
            let graft = graft(values, field_of(path), dice);
            if let Some(part) = values[at].pointer_mut(path) {
                bend(part, field_of(path), graft, dice);
            }
        }
    }
}

/// Changes one part, of this name.
fn bend(part: &mut Value, name: &str, graft: Option<Value>, dice: &mut Dice) {
    match (dice.below(10), &mut *part) {
        (0, _) => *part = nonsense(dice.below(8)),
        (1 | 2, Value::Array(items)) if !items.is_empty() => {
            let at = dice.below(items.len());
            items.remove(at);
        }
        (3, Value::Array(items)) if !items.is_empty() => items.push(items[dice.below(items.len())].clone()),
        (4 | 5, Value::Array(items)) => {
            if let Value::Array(more) = fitting(name, dice) {
                items.extend(more);
            }
        }
        (1, Value::Object(fields)) if !fields.is_empty() => {
            let name = nth_name(fields, dice);
            fields.remove(&name);
        }
        (2, Value::Object(fields)) if !fields.is_empty() => {
            let name = nth_name(fields, dice);
            let value = fields.remove(&name).unwrap_or_default();
            fields.insert(slip(&name, dice), value);
        }
        (3..=6, Value::Object(fields)) => {
            let name = dice.pick(&FIELDS);
            fields.insert(name.to_owned(), fitting(name, dice));
        }
        (7 | 8, _) if graft.is_some() => *part = graft.unwrap_or_default(),
        _ => *part = fitting(name, dice),
    }
}

/// What stands under the same name somewhere else.
fn graft(values: &[Value], name: &str, dice: &mut Dice) -> Option<Value> {
    let mut found = Vec::new();
    for value in values {
        let mut paths = Vec::new();
        walk(value, String::new(), &mut paths);
        found.extend(
            paths.iter().filter(|path| field_of(path) == name).filter_map(|path| value.pointer(path)),
        );
    }
    (!found.is_empty()).then(|| found[dice.below(found.len())].clone())
}

/// The name of the field that a pointer leads to; items have that of their list.
fn field_of(path: &str) -> &str {
    path.rsplit('/').find(|name| name.parse::<usize>().is_err()).unwrap_or_default()
}

fn nth_name(fields: &serde_json::Map<String, Value>, dice: &mut Dice) -> String {
    fields.keys().nth(dice.below(fields.len())).cloned().unwrap_or_default()
}

fn slip(name: &str, dice: &mut Dice) -> String {
    match dice.below(3) {
        0 => format!("{name}s"),
        1 => name.chars().skip(1).collect(),
        _ => name.to_uppercase(),
    }
}

const FIELDS: [&str; 28] = [
    "podSelector",
    "namespaceSelector",
    "matchLabels",
    "matchExpressions",
    "labels",
    "annotations",
    "policyTypes",
    "ingress",
    "egress",
    "from",
    "to",
    "ports",
    "port",
    "endPort",
    "protocol",
    "ipBlock",
    "except",
    "cidr",
    "namespace",
    "name",
    "operator",
    "values",
    "key",
    "status",
    "podIPs",
    "containers",
    "hostNetwork",
    "spec",
];
const CIDRS: [&str; 10] = [
    "0.0.0.0/0",
    "10.244.0.0/16",
    "10.244.0.1/32",
    "10.244.0.0/31",
    "10.244.0.3/24",
    "::/0",
    "fd00:244::/32",
    "fd00:244::1/128",
    "10.0.0.0/40",
    "fd00::/129",
];
const IPS: [&str; 5] = ["10.244.0.1", "10.244.0.3", "10.244.9.9", "fd00:244::3", "fd00:244::9"];
const PORTS: [i64; 12] = [80, 81, 53, 1, 65535, 8080, 1024, 2047, 0, 65536, -1, 443];
const NAMES: [&str; 5] = ["http", "sql", "a", "b", "web"];
const WORDS: [&str; 5] = ["a", "b", "db", "web", "shop"];

/// A value such as a field of this name has, more or less.
fn fitting(name: &str, dice: &mut Dice) -> Value {
    match name {
        "podSelector" | "namespaceSelector" => selector(dice),
        "matchLabels" | "labels" => json!({dice.pick(&["app", "tier", "team"]): dice.pick(&WORDS)}),
        "annotations" => json!({"weir.dev/established": dice.pick(&["keep", "cut", "kept"])}),
        "matchExpressions" => json!([expression(dice)]),
        "operator" => json!(dice.pick(&["In", "NotIn", "Exists", "DoesNotExist", "in", "Gt"])),
        "values" => json!([dice.pick(&WORDS), dice.pick(&WORDS)]),
        "key" => json!(dice.pick(&["app", "tier", "team", "kubernetes.io/metadata.name"])),
        "policyTypes" => some_types(dice),
        "ingress" | "egress" => rules(if name == "ingress" { "from" } else { "to" }, dice),
        "from" | "to" => json!([peer(dice), peer(dice)][..1 + dice.below(2)]),
        "ports" => json!([port(dice), port(dice)][..1 + dice.below(2)]),
        "port" if dice.happens(25) => json!(dice.pick(&NAMES)),
        "port" | "endPort" | "containerPort" => json!(dice.pick(&PORTS)),
        "protocol" => json!(dice.pick(&["TCP", "UDP", "SCTP", "QUIC", "tcp"])),
        "ipBlock" => block(dice),
        "cidr" => json!(dice.pick(&CIDRS)),
        "except" => json!([dice.pick(&CIDRS)]),
        "podIPs" => json!([{"ip": dice.pick(&IPS)}]),
        "ip" => json!(dice.pick(&IPS)),
        "status" => {
            json!({"phase": dice.pick(&["Running", "Succeeded", "Failed"]), "podIPs": fitting("podIPs", dice)})
        }
        "containers" => json!([{"name": "c", "ports": [
            {"name": dice.pick(&NAMES), "containerPort": dice.pick(&PORTS), "protocol": fitting("protocol", dice)}]}]),
        "hostNetwork" => json!(dice.happens(50)),
        "spec" => object(dice)["spec"].take(),
        "name" | "namespace" => json!(dice.pick(&WORDS)),
        _ => nonsense(dice.below(8)),
    }
}

fn some_types(dice: &mut Dice) -> Value {
    match dice.below(5) {
        0 => json!(["Ingress"]),
        1 => json!(["Egress"]),
        2 => json!(["Ingress", "Egress"]),
        3 => json!([]),
        _ => json!(["Ingres"]),
    }
}

fn selector(dice: &mut Dice) -> Value {
    match dice.below(4) {
        0 => json!({}),
        1 => json!({"matchLabels": fitting("matchLabels", dice)}),
        2 => json!({"matchExpressions": [expression(dice)]}),
        _ => json!({"matchLabels": fitting("matchLabels", dice), "matchExpressions": [expression(dice)]}),
    }
}

fn expression(dice: &mut Dice) -> Value {
    let mut expression = json!({"key": fitting("key", dice), "operator": fitting("operator", dice)});
    if dice.happens(70) {
        expression["values"] = fitting("values", dice);
    }
    expression
}

fn rules(peers: &str, dice: &mut Dice) -> Value {
    let mut rule = json!({});
    if dice.happens(70) {
        rule[peers] = fitting(peers, dice);
    }
    if dice.happens(70) {
        rule["ports"] = fitting("ports", dice);
    }
    if dice.happens(20) { json!([]) } else { json!([rule]) }
}

fn peer(dice: &mut Dice) -> Value {
    match dice.below(4) {
        0 => json!({"podSelector": selector(dice)}),
        1 => json!({"namespaceSelector": selector(dice)}),
        2 => json!({"podSelector": selector(dice), "namespaceSelector": selector(dice)}),
        _ => json!({"ipBlock": block(dice)}),
    }
}

fn block(dice: &mut Dice) -> Value {
    let mut block = json!({"cidr": dice.pick(&CIDRS)});
    if dice.happens(40) {
        block["except"] = fitting("except", dice);
    }
    block
}

fn port(dice: &mut Dice) -> Value {
    let mut port = json!({});
    for (name, often) in [("port", 80), ("protocol", 50), ("endPort", 30)] {
        if dice.happens(often) {
            port[name] = fitting(name, dice);
        }
    }
    port
}

/// Something new that the policies may speak of, or another one of those.
fn object(dice: &mut Dice) -> Value {
    let name = fitting("name", dice);
    match dice.below(4) {
        0 => {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": fitting("labels", dice)}})
        }
        1 => {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": fitting("labels", dice)},
            "spec": {"containers": fitting("containers", dice)}, "status": fitting("status", dice)})
        }
        _ => {
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name},
            "spec": {"podSelector": selector(dice), "policyTypes": some_types(dice), "ingress": rules("from", dice),
            "egress": rules("to", dice)}})
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use policy::Object;

    use super::*;

    /// From each manifest that is kept on and on.
    fn trees(each: impl Fn(&str)) {
        const STEPS: usize = 50;
        for (place, (_, input)) in crate::kept::inputs("manifest").into_iter().enumerate() {
            let Ok(mut text) = String::from_utf8(input) else { continue };
            let mut dice = Dice(place as u64);
            for _ in 0..STEPS {
                let Some(next) = grown(&text, &mut dice).filter(|next| next.len() <= 4096) else { break };
                each(&next);
                text = next;
            }
        }
    }

    #[test]
    fn manifests_grown_from_those_that_are_kept_narrow_and_agree() {
        trees(|text| crate::manifest::check(text.as_bytes()));
    }

    #[test]
    fn much_of_what_grows_is_read_as_objects() {
        let (total, read) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
        let policies = std::cell::RefCell::new(BTreeSet::new());
        trees(|text| {
            for document in manifest::documents("x", text).expect("JSON is YAML") {
                total.set(total.get() + 1);
                if let Ok(Some((object, _))) = manifest::object(&document) {
                    read.set(read.get() + 1);
                    if let Object::NetworkPolicy(_) = object {
                        policies.borrow_mut().insert(document.value.to_string());
                    }
                }
            }
        });
        // The same each time: the numbers follow from the inputs that are kept.
        assert!(read.get() * 3 > total.get(), "{} of {}", read.get(), total.get());
        assert!(policies.borrow().len() > 40, "{} policies", policies.borrow().len());
    }
}
