//! What went into the image, as CycloneDX 1.6: every crate with its licence and the digest of its source, and the libraries
//! that are linked in besides. Without times and serial numbers: the same source gives the same list.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::setup::Tools;
use crate::{process, workspace};

/// The list in the image.
pub(crate) const NAME: &str = "weir.cdx.json";

/// The list for an image of these packages' programs. Those of the kernel are in the agent.
pub(crate) fn of(tools: &Tools, packages: &[&str], name: &str, triple: &str) -> Result<String> {
    let mut command = tools.cargo();
    command.args(["metadata", "--locked", "--format-version", "1", "--filter-platform", triple]);
    let metadata: Value =
        serde_json::from_str(&process::output(&mut command)?).context("parse what cargo metadata printed")?;
    let lock = fs::read_to_string(workspace::root().join("Cargo.lock")).context("read Cargo.lock")?;
    let roots: Vec<&str> = packages.iter().copied().chain(["ebpf"]).collect();
    let rustc = process::output(Command::new("rustc").arg("--version"))?;
    let libc = process::output(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    let mut list = list(&metadata, &checksums(&lock), &roots, name)?;
    let linked = [
        ("rust-std", rustc.split_whitespace().nth(1), "Apache-2.0 OR MIT"),
        ("glibc", libc.split_whitespace().nth(1), "LGPL-2.1-or-later"),
    ];
    for (name, version, licence) in linked {
        let version = version.with_context(|| format!("{name} has no version"))?;
        list["components"].as_array_mut().context("a list")?.push(json!({
            "type": "library", "bom-ref": format!("{name}@{version}"), "name": name, "version": version,
            "licenses": [{ "expression": licence }],
        }));
    }
    Ok(serde_json::to_string_pretty(&list)? + "\n")
}

fn list(
    metadata: &Value,
    checksums: &BTreeMap<(String, String), String>,
    roots: &[&str],
    image: &str,
) -> Result<Value> {
    let mut packages = BTreeMap::new();
    for package in array(&metadata["packages"]) {
        packages.insert(text(&package["id"])?, package);
    }
    let mut needs = BTreeMap::new();
    for node in array(&metadata["resolve"]["nodes"]) {
        let deps = array(&node["deps"]).iter().filter(|dep| {
            // What only tests and build scripts need is in no program.
            array(&dep["dep_kinds"]).iter().any(|kind| kind["kind"].is_null())
        });
        let deps = deps.map(|dep| text(&dep["pkg"])).collect::<Result<BTreeSet<_>>>()?;
        needs.insert(text(&node["id"])?, deps);
    }
    let mut open = Vec::new();
    for root in roots {
        let mut ids =
            packages.iter().filter(|(_, package)| package["name"] == *root && package["source"].is_null());
        open.push(*ids.next().with_context(|| format!("the workspace has no package {root}"))?.0);
    }
    let mut reached = BTreeSet::new();
    while let Some(id) = open.pop() {
        if reached.insert(id) {
            open.extend(needs.get(id).with_context(|| format!("cargo metadata resolves no {id}"))?);
        }
    }
    let mut components = BTreeMap::new();
    let mut dependencies = BTreeMap::new();
    for id in reached {
        let package = packages.get(id).with_context(|| format!("cargo metadata has no {id}"))?;
        let (name, version) = (text(&package["name"])?, text(&package["version"])?);
        let purl = purl(package)?;
        let mut component = json!({
            "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
        });
        if let Some(licence) = package["license"].as_str() {
            // Some still write the old form, which is no expression.
            component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]);
        }
        if let Some(checksum) = checksums.get(&(name.to_owned(), version.to_owned())) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        let below = needs[id].iter().map(|need| purl_of(&packages, need)).collect::<Result<BTreeSet<_>>>()?;
        dependencies.insert(purl.clone(), json!({ "ref": purl, "dependsOn": below }));
        components.insert(purl, component);
    }
    Ok(json!({
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "metadata": { "component": { "type": "container", "bom-ref": image, "name": image } },
        "components": components.into_values().collect::<Vec<_>>(),
        "dependencies": dependencies.into_values().collect::<Vec<_>>(),
    }))
}

fn purl_of(packages: &BTreeMap<&str, &Value>, id: &str) -> Result<String> {
    purl(packages.get(id).with_context(|| format!("cargo metadata has no {id}"))?)
}

fn purl(package: &Value) -> Result<String> {
    Ok(format!("pkg:cargo/{}@{}", text(&package["name"])?, text(&package["version"])?))
}

/// The digests of the sources, by name and version, as `Cargo.lock` has them.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let stanzas = lock.split("[[package]]").skip(1).filter_map(|stanza| {
        let field = |name: &str| {
            let line = stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))?;
            Some(line.trim_matches('"').to_owned())
        };
        Some(((field("name")?, field("version")?), field("checksum")?))
    });
    stanzas.collect()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("cargo metadata: `{value}` is no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_the_roots_reach_is_listed_with_licence_and_digest_and_nothing_else() {
        let package = |name: &str, source: Value, licence: &str| json!({ "id": name, "name": name, "version": "1.0.0", "source": source, "license": licence });
        let dep = |name: &str, kind: Value| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": [
                package("cli", Value::Null, "Apache-2.0"),
                package("serde", json!("registry"), "MIT/Apache-2.0"),
                package("proptest", json!("registry"), "MIT"),
                package("cc", json!("registry"), "MIT"),
            ],
            "resolve": { "nodes": [
                { "id": "cli", "deps": [
                    dep("serde", Value::Null), dep("proptest", json!("dev")), dep("cc", json!("build")),
                ] },
                { "id": "serde", "deps": [] }, { "id": "proptest", "deps": [] }, { "id": "cc", "deps": [] },
            ] },
        });
        let lock = "version = 4\n\n[[package]]\nname = \"serde\"\nversion = \"1.0.0\"\nchecksum = \"abc\"\n";
        let list = list(&metadata, &checksums(lock), &["cli"], "localhost/weir:dev").expect("is listed");
        assert_eq!(
            list["components"],
            json!([
                { "type": "library", "bom-ref": "pkg:cargo/cli@1.0.0", "name": "cli", "version": "1.0.0",
                  "purl": "pkg:cargo/cli@1.0.0", "licenses": [{ "expression": "Apache-2.0" }] },
                { "type": "library", "bom-ref": "pkg:cargo/serde@1.0.0", "name": "serde", "version": "1.0.0",
                  "purl": "pkg:cargo/serde@1.0.0", "licenses": [{ "expression": "MIT OR Apache-2.0" }],
                  "hashes": [{ "alg": "SHA-256", "content": "abc" }] },
            ])
        );
        assert_eq!(list["dependencies"][0]["dependsOn"], json!(["pkg:cargo/serde@1.0.0"]));
    }
}
