//! Reports and casts for tests, written as a few lines of text.

use std::net::IpAddr;

use api::VerdictKind;
use policy::manifest::documents;

use crate::assemble::assemble;
use crate::manifest::{Error, sift};
use crate::plan::{Cast, Options, Port, Protocol};
use crate::report::{By, Host, PodFacts, Probe, Report, ServiceProbe, Timings};

/// Two nodes and these pods and probes:
///
/// ```text
/// pod shop/web-1 Deployment/web node-0 app=web
/// shop/web-1 > shop/db-0:5432 yes
/// shop/web-1 > shop/db-0:53/UDP no ingress shop/deny,shop/db     (both families)
/// shop/web-1 > shop/db-0:80 v4 yes                              (one)
/// service shop/db:5432 10.96.0.20 shop/web-1 yes shop/db-0
/// warn text
/// ```
pub(crate) fn report(text: &str) -> Report {
    let host =
        |index: usize| Host { name: format!("node-{index}"), ips: crate::plan::Node::addresses(index) };
    let mut report = Report {
        nodes: vec![host(0), host(1)],
        timings: Timings { up_ms: 2310, probe_ms: 420 },
        ..Report::default()
    };
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[0] {
            "pod" => report.pods.push(pod(&words)),
            "service" => report.services.push(service(&words)),
            "warn" => report.warnings.push(line["warn ".len()..].to_owned()),
            _ => report.probes.extend(probes(&words)),
        }
    }
    report
}

fn pod(words: &[&str]) -> PodFacts {
    let (namespace, name) = words[1].split_once('/').unwrap();
    let (kind, workload) = words[2].split_once('/').unwrap();
    let labels = words[4..].iter().map(|label| {
        let (key, value) = label.split_once('=').unwrap();
        (key.to_owned(), value.to_owned())
    });
    PodFacts {
        namespace: namespace.into(),
        name: name.into(),
        workload: format!("{kind} {namespace}/{workload}"),
        node: words[3].into(),
        labels: labels.collect(),
        ips: Vec::new(),
        ports: vec![Port { name: None, port: 80, protocol: Protocol::Tcp }],
    }
}

fn port(text: &str) -> (&str, u16, Protocol) {
    let (name, port) = text.rsplit_once(':').unwrap();
    let (port, protocol) = port.split_once('/').unwrap_or((port, "TCP"));
    (name, port.parse().unwrap(), Protocol::parse(Some(protocol)).unwrap())
}

fn verdict(word: &str) -> VerdictKind {
    if word == "yes" { VerdictKind::Allowed } else { VerdictKind::Denied }
}

fn probes(words: &[&str]) -> Vec<Probe> {
    let (to, port, protocol) = port(words[2]);
    let (families, rest): (&[&str], _) = match words[3] {
        "v4" => (&["10.0.0.1"], &words[4..]),
        "v6" => (&["fd00::1"], &words[4..]),
        _ => (&["10.0.0.1", "fd00::1"], &words[3..]),
    };
    let by = rest.get(1).map(|direction| By {
        direction: Some((*direction).to_owned()),
        policies: rest[2].split(',').map(str::to_owned).collect(),
        rule: None,
        reason: "policy_denied".into(),
    });
    let probe = |ip: &&str| Probe {
        from: words[0].into(),
        to: to.into(),
        ip: ip.parse().unwrap(),
        port,
        protocol,
        verdict: verdict(rest[0]),
        by: by.clone(),
    };
    families.iter().map(probe).collect()
}

fn service(words: &[&str]) -> ServiceProbe {
    let (key, port, protocol) = port(words[1]);
    let (namespace, name) = key.split_once('/').unwrap();
    ServiceProbe {
        namespace: namespace.into(),
        name: name.into(),
        ip: words[2].parse::<IpAddr>().unwrap(),
        port,
        protocol,
        from: words[3].into(),
        verdict: verdict(words[4]),
        backend: words.get(5).map(|backend| (*backend).to_owned()),
    }
}

/// The cast of these manifests on two nodes.
pub(crate) fn cast(yaml: &str) -> Result<Cast, Error> {
    cast_with(yaml, |_| {})
}

pub(crate) fn cast_with(yaml: &str, change: impl FnOnce(&mut Options)) -> Result<Cast, Error> {
    let mut options = Options::new(Vec::new());
    change(&mut options);
    assemble(sift(documents("test.yaml", yaml)?)?, &options, None)
}

/// Compares texts by line, without the indentation that a test's source gives them.
#[track_caller]
pub(crate) fn assert_text(found: &str, expected: &str) {
    let lines: Vec<_> = expected.trim_matches('\n').lines().collect();
    let indent =
        lines.iter().filter(|line| !line.trim().is_empty()).map(|line| line.len() - line.trim_start().len());
    let indent = indent.min().unwrap_or_default();
    let expected: Vec<_> =
        lines.iter().map(|line| line.get(indent..).unwrap_or_default().trim_end()).collect();
    let expected = expected.join("\n");
    let found: Vec<_> = found.lines().map(str::trim_end).collect();
    let found = found.join("\n");
    let (found, expected) = (found.trim_end(), expected.trim_end());
    assert!(found == expected, "found:\n{found}\n\nexpected:\n{expected}\n");
}
