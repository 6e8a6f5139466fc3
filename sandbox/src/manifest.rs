//! Files and folders in, named objects out.
//!
//! A file that cannot be read as Kubernetes objects is an error, never a warning: a typo must not silently leave a
//! policy out. Kinds that a sandbox has no use for are named once and skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use policy::manifest::{Document, ParseError, documents};
use policy::places::Places;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::name;

/// Why nothing was brought up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read {path}")]
    Read { path: String, source: io::Error },
    #[error("{path}: no manifests in this folder: no *.yaml, *.yml or *.json file below it")]
    Empty { path: String },
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error("{at}: {object}: {field}: {message}")]
    Field { at: String, object: String, field: String, message: String },
    #[error("two objects are called {object}: {first} and {second}")]
    Twice { object: String, first: String, second: String },
    #[error("--pod-cidr {cidr}: {message}")]
    PodCidr { cidr: String, message: String },
    #[error("--nodes {nodes}: a sandbox has 1 to {most} nodes")]
    Nodes { nodes: usize, most: usize },
}

/// One object of a kind that a sandbox brings up or obeys.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// `FILE:LINE`.
    pub at: String,
    pub kind: String,
    /// Empty for cluster-wide kinds, else `default` where the object does not say.
    pub namespace: String,
    pub name: String,
    pub value: Value,
}

impl Manifest {
    /// `Deployment shop/web`.
    pub fn title(&self) -> String {
        title(&self.kind, &self.namespace, &self.name)
    }

    pub fn error(&self, field: &str, message: impl Into<String>) -> Error {
        let (at, object) = (self.at.clone(), self.title());
        Error::Field { at, object, field: field.to_owned(), message: message.into() }
    }

    /// The whole number at `field` (`spec.replicas`), or `default` where there is none.
    pub fn count(&self, field: &str, default: usize) -> Result<usize, Error> {
        match self.get(field) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_u64()
                .and_then(|count| usize::try_from(count).ok())
                .ok_or_else(|| self.error(field, format!("{value} is no whole number, 0 or more"))),
        }
    }

    /// What stands at `field`, written with dots.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.value.pointer(&format!("/{}", field.replace('.', "/")))
    }

    pub fn is_true(&self, field: &str) -> bool {
        self.get(field) == Some(&Value::Bool(true))
    }

    pub fn text(&self, field: &str) -> Option<&str> {
        self.get(field).and_then(Value::as_str)
    }
}

fn title(kind: &str, namespace: &str, name: &str) -> String {
    if namespace.is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
}

/// What the files hold that matters here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifests {
    pub items: Vec<Manifest>,
    /// What was skipped, named.
    pub warnings: Vec<String>,
}

/// What one file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The file's name, as the user would write it.
    pub origin: String,
    pub text: String,
}

/// Reads files and folders; `-` is standard input. `expect` is passed over where it lies in one of the folders.
pub fn load(paths: &[PathBuf], expect: Option<&Path>) -> Result<Manifests, Error> {
    parse(&sources(paths, expect)?)
}

/// What [`load`] reads, as text.
pub fn sources(paths: &[PathBuf], expect: Option<&Path>) -> Result<Vec<Source>, Error> {
    let mut sources = Vec::new();
    // A file named twice, or named beside its folder, is read once.
    let mut seen: BTreeSet<PathBuf> = expect.and_then(|path| path.canonicalize().ok()).into_iter().collect();
    for path in paths {
        let origin = path.display().to_string();
        if path.as_os_str() == "-" {
            let mut text = String::new();
            io::stdin()
                .read_to_string(&mut text)
                .map_err(|source| Error::Read { path: "standard input".into(), source })?;
            sources.push(Source { origin: "stdin".to_owned(), text });
            continue;
        }
        let mut files = Vec::new();
        find(path, true, &mut files)?;
        if files.is_empty() {
            return Err(Error::Empty { path: origin });
        }
        for file in files {
            let origin = file.display().to_string();
            let read = |source| Error::Read { path: origin.clone(), source };
            if seen.insert(file.canonicalize().map_err(read)?) {
                let text = fs::read_to_string(&file).map_err(read)?;
                sources.push(Source { origin, text });
            }
        }
    }
    Ok(sources)
}

/// The objects in the texts.
pub fn parse(sources: &[Source]) -> Result<Manifests, Error> {
    let mut all = Vec::new();
    for Source { origin, text } in sources {
        all.extend(documents(origin, text)?);
    }
    sift(all)
}

/// Where the objects and their fields stand in the texts.
pub fn places(sources: &[Source]) -> Places {
    let mut places = Places::default();
    sources.iter().for_each(|source| places.add(&source.origin, &source.text));
    places
}

/// The files to read at `path`: itself if it is a file, whatever its name, else what lies below it, in order of name.
fn find(path: &Path, named: bool, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let read = |source| Error::Read { path: path.display().to_string(), source };
    let extension = path.extension().and_then(|extension| extension.to_str());
    if fs::metadata(path).map_err(read)?.is_dir() {
        let entries: Result<Vec<_>, _> = fs::read_dir(path).map_err(read)?.collect();
        let mut paths: Vec<_> = entries.map_err(read)?.into_iter().map(|entry| entry.path()).collect();
        paths.sort();
        for below in paths {
            // Hidden entries are an editor's or a version control's, and mounted ConfigMaps hold `..data` twice.
            let hidden =
                below.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with('.'));
            if !hidden {
                find(&below, false, files)?;
            }
        }
    } else if named || matches!(extension, Some("yaml" | "yml" | "json")) {
        files.push(path.to_owned());
    }
    Ok(())
}

/// The API group and version in which we understand a kind, and whether it lives in a namespace.
fn understood(kind: &str) -> Option<(&'static str, bool)> {
    Some(match kind {
        "Namespace" => ("v1", false),
        "Pod" | "Service" | "ReplicationController" => ("v1", true),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => ("apps/v1", true),
        "Job" | "CronJob" => ("batch/v1", true),
        "NetworkPolicy" => ("networking.k8s.io/v1", true),
        "EndpointSlice" => ("discovery.k8s.io/v1", true),
        _ => return None,
    })
}

/// Keeps the kinds that matter, names and counts the others, and refuses two objects of one name.
pub fn sift(documents: Vec<Document>) -> Result<Manifests, Error> {
    let mut sifted = Manifests::default();
    let mut skipped: BTreeMap<String, usize> = BTreeMap::new();
    let mut first: BTreeMap<String, usize> = BTreeMap::new();
    for document in documents {
        let at = format!("{}:{}", document.origin, document.line);
        let Document { kind, api_version, value, .. } = document;
        let namespaced = match understood(&kind) {
            Some((version, namespaced)) if version == api_version => namespaced,
            // An expectation may lie among the manifests it speaks of.
            None if kind == crate::expect::KIND => continue,
            other => {
                if kind.ends_with("NetworkPolicy") {
                    let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("?");
                    sifted.warnings.push(format!(
                        "{kind} {name}: apiVersion: {api_version} is not supported (networking.k8s.io/v1 is): \
                         nothing of it is in force ({at})"
                    ));
                } else if other.is_some() {
                    *skipped.entry(format!("{kind} ({api_version})")).or_default() += 1;
                } else {
                    *skipped.entry(kind).or_default() += 1;
                }
                continue;
            }
        };
        let item = identify(at, kind, namespaced, value)?;
        match first.get(&item.title()) {
            Some(&index) if item.kind == "Namespace" && sifted.items[index].value == item.value => {}
            Some(&index) => {
                let first = sifted.items[index].at.clone();
                return Err(Error::Twice { object: item.title(), first, second: item.at });
            }
            None => {
                first.insert(item.title(), sifted.items.len());
                sifted.items.push(item);
            }
        }
    }
    if !skipped.is_empty() {
        let skipped: Vec<_> = skipped
            .iter()
            .map(|(kind, &count)| if count == 1 { kind.clone() } else { format!("{kind} ×{count}") })
            .collect();
        sifted.warnings.push(format!("skipped: {}", skipped.join(", ")));
    }
    Ok(sifted)
}

/// Settles namespace and name.
fn identify(at: String, kind: String, namespaced: bool, value: Value) -> Result<Manifest, Error> {
    let mut item = Manifest { at, kind, namespace: String::new(), name: String::new(), value };
    if namespaced {
        let namespace = item.text("metadata.namespace").filter(|name| !name.is_empty());
        item.namespace = namespace.unwrap_or("default").to_owned();
    }
    item.name = match (item.text("metadata.name"), item.text("metadata.generateName")) {
        (Some(name), _) if !name.is_empty() => name.to_owned(),
        (_, Some(prefix)) => format!("{prefix}{}", name::suffix(name::hash_value(&item.value), 5)),
        _ => {
            let (at, object) = (item.at, item.kind);
            return Err(Error::Field {
                at,
                object,
                field: "metadata.name".into(),
                message: "every object needs one".into(),
            });
        }
    };
    if is_name(&item.name) && (item.namespace.is_empty() || is_name(&item.namespace)) {
        return Ok(item);
    }
    Err(item.error("metadata.name", "names are lower-case letters, digits, `-` and `.`, at most 253 of them"))
}

/// Whether it is a DNS subdomain, which the API server insists on; names become file names here.
fn is_name(name: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 253
        && name.bytes().all(|byte| is_alphanumeric(byte) || matches!(byte, b'-' | b'.'))
        && [name.bytes().next(), name.bytes().last()].iter().all(|end| end.is_some_and(is_alphanumeric))
}

#[cfg(test)]
mod tests;
