//! `cargo xtask test deploy`: Kustomize and Helm say the same, and `weir install` carries what they say.
//!
//! Rendered by the real `kubectl kustomize` and `helm`, which are built from pinned Go modules; so this is no part of plain
//! `cargo xtask test`, which needs no Go.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cluster::tools;
use crate::process;
use crate::test::Count;
use crate::workspace;

/// Name, and the folder of its kustomization.
const DISTRIBUTIONS: &[(&str, &str)] =
    &[("plain", "base"), ("kind", "overlays/kind"), ("k3s", "overlays/k3s")];

/// An object's kind and name, and the object.
type Objects = BTreeMap<(String, String), Value>;

pub(crate) fn test() -> Result<Count> {
    let kubectl = tools::tools()?.bin.join("kubectl");
    let helm = tools::helm()?;
    let deploy = workspace::root().join("deploy");
    let mut count = Count::default();
    let mut check = |name: String, differences: Vec<String>| {
        let outcome = if differences.is_empty() { "ok" } else { "FAILED" };
        println!("test {name} ... {outcome}");
        differences.iter().for_each(|line| println!("  {line}"));
        count.add(match differences.is_empty() {
            true => Count { passed: 1, failed: 0 },
            false => Count { passed: 0, failed: 1 },
        });
    };
    for (name, folder) in DISTRIBUTIONS {
        let folder = deploy.join(folder);
        let text = process::output(Command::new(&kubectl).arg("kustomize").arg(&folder))?;
        let kustomized = objects(&text).with_context(|| format!("kubectl kustomize {}", folder.display()))?;
        let file = deploy.join(format!("rendered/{name}.yaml"));
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let mut different = differences(&kustomized, &objects(&text)?);
        if !different.is_empty() {
            different.push(format!("kubectl kustomize {} > {}", folder.display(), file.display()));
        }
        check(format!("weir install carries what kustomize renders for {name}"), different);
        let mut template = Command::new(&helm);
        template
            .args(["template", "weir"])
            .arg(deploy.join("helm"))
            .args(["--set", &format!("distribution={name}")]);
        let text = process::output(&mut template)?;
        check(
            format!("helm renders what kustomize renders for {name}"),
            differences(&kustomized, &objects(&text).context("helm template")?),
        );
    }
    Ok(count)
}

fn objects(text: &str) -> Result<Objects> {
    let mut objects = Objects::new();
    for document in text.split("\n---\n").map(|document| document.trim_start_matches("---\n")) {
        let object: Value = serde_saphyr::from_str(document).context("parse YAML")?;
        let name = |value: &Value| value.as_str().map(str::to_owned);
        if let (Some(kind), Some(name)) = (name(&object["kind"]), name(&object["metadata"]["name"])) {
            objects.insert((kind, name), object);
        }
    }
    Ok(objects)
}

fn differences(ours: &Objects, theirs: &Objects) -> Vec<String> {
    let mut found = Vec::new();
    let keys: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    for key in keys {
        let place = format!("{} {}", key.0, key.1);
        compare(
            &place,
            ours.get(key).unwrap_or(&Value::Null),
            theirs.get(key).unwrap_or(&Value::Null),
            &mut found,
        );
    }
    found
}

/// Says where two values differ, as deep as they are alike.
fn compare(place: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let fields: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
            for field in fields {
                let value =
                    |object: &serde_json::Map<String, Value>| object.get(field).cloned().unwrap_or_default();
                compare(&format!("{place}.{field}"), &value(ours), &value(theirs), found);
            }
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (at, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                compare(&format!("{place}[{at}]"), ours, theirs, found);
            }
        }
        _ if ours == theirs => {}
        _ => found.push(format!("{place}: {ours} and {theirs}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_with_its_place_and_an_object_too_many_too() {
        let ours = "kind: A\nmetadata: {name: a}\nspec: {list: [1, 2]}\n";
        let theirs = "---\n# Source: x\nkind: A\nmetadata: {name: a}\nspec: {list: [1, 3]}\n---\nkind: B\nmetadata: {name: b}\n";
        let (ours, theirs) = (objects(ours).expect("is YAML"), objects(theirs).expect("is YAML"));
        assert_eq!(differences(&ours, &ours), [""; 0]);
        let found = differences(&ours, &theirs);
        assert_eq!(found[0], "A a.spec.list[1]: 2 and 3");
        assert!(found[1].starts_with("B b: null and "), "{found:?}");
    }
}
