//! The mistakes in the NetworkPolicies of manifests, held against the pods that the same manifests make.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ipnet::IpNet;
use policy::lint::{Finding, Input, lint};
use policy::manifest::documents;

use crate::assemble;
use crate::explain::{Explainer, planned};
use crate::manifest::{Error, Source, parse, places, sources};
use crate::plan::Options;

/// What was looked at and what was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Linted {
    /// How many policies there are.
    pub policies: usize,
    /// In the order of files and lines.
    pub findings: Vec<Finding>,
}

/// Looks at the policies in files and folders. `pod_cidrs` are the cluster's pod ranges, where they are known.
pub fn files(files: &[PathBuf], pod_cidrs: &[IpNet]) -> Result<Linted, Error> {
    sources_of(&sources(files, None)?, pod_cidrs)
}

fn sources_of(sources: &[Source], pod_cidrs: &[IpNet]) -> Result<Linted, Error> {
    let manifests = parse(sources)?;
    let declared: BTreeSet<String> = manifests
        .items
        .iter()
        .filter(|item| item.kind == "Namespace")
        .map(|item| item.name.clone())
        .collect();
    // Replicas are all alike.
    let options = Options { replicas: Some(1), ..Options::new(Vec::new()) };
    let mut cast = assemble::assemble(manifests, &options, None)?;
    // What the sandbox adds is not in the manifests.
    cast.pods.retain(|pod| !pod.system);
    cast.services.retain(|service| !service.system);
    let listening: BTreeMap<String, Vec<(u8, u16)>> = cast
        .pods
        .iter()
        .map(|pod| {
            let listen = pod.listen.iter().map(|listen| (listen.protocol.number(), listen.port));
            (pod.key(), listen.collect())
        })
        .collect();
    let explainer = Explainer::new(&cast, &planned(&cast), places(sources));
    let mut findings = foreign(sources)?;
    findings.extend(lint(&Input {
        world: explainer.world(),
        places: explainer.places(),
        policies: &cast.policies,
        listening: &listening,
        namespaces: &declared,
        pod_cidrs,
    }));
    Ok(Linted { policies: cast.policies.len(), findings })
}

/// Policies of an API that nobody serves any more.
fn foreign(sources: &[Source]) -> Result<Vec<Finding>, Error> {
    const RIGHT: &str = "networking.k8s.io/v1";
    let mut findings = Vec::new();
    for Source { origin, text } in sources {
        for document in documents(origin, text)? {
            if document.kind == "NetworkPolicy" && document.api_version != RIGHT {
                findings.push(Finding {
                    lint: "api-version",
                    object: document.to_string(),
                    field: "apiVersion".to_owned(),
                    at: Some(format!("{origin}:{}", document.line)),
                    wrong: format!("{}: nothing of it is in force", document.api_version),
                    right: format!("expected {RIGHT}"),
                });
            }
        }
    }
    Ok(findings)
}
