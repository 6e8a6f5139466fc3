//! A small town of pods, written down briefly, and what a report says about who reaches whom.

use api::VerdictKind;
use sandbox::plan::Protocol;
use sandbox::report::{Probe, Report};

/// `labels` as in YAML: `team: shop`.
pub fn namespace(name: &str, labels: &str) -> String {
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n")
}

/// Pod `namespace/name` on a node; `ports` as `80 53/UDP http=8080`.
pub fn pod(key: &str, node: u8, labels: &str, ports: &str) -> String {
    let (namespace, name) = key.split_once('/').expect("namespace/name");
    let port = |port: &str| {
        let (label, port) = port.split_once('=').map_or((None, port), |(label, port)| (Some(label), port));
        let (number, protocol) = port.split_once('/').unwrap_or((port, "TCP"));
        let label = label.map(|label| format!("name: {label}, ")).unwrap_or_default();
        format!("{{{label}containerPort: {number}, protocol: {protocol}}}")
    };
    let ports: Vec<String> = ports.split_whitespace().map(port).collect();
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\n\
         spec: {{nodeName: node-{node}, containers: [{{name: c, image: x, ports: [{}]}}]}}\n",
        ports.join(", ")
    )
}

/// The same in its node's network.
pub fn host_pod(key: &str, node: u8, labels: &str, ports: &str) -> String {
    pod(key, node, labels, ports).replace("spec: {", "spec: {hostNetwork: true, ")
}

/// `shop/web` on port 80, and `shop/near` beside it and `shop/far` on the other node, who want something of it.
pub fn web_near_and_far() -> String {
    [
        namespace("shop", ""),
        pod("shop/web", 0, "app: web", "80"),
        pod("shop/near", 0, "app: near", "80"),
        pod("shop/far", 1, "app: far", "80"),
    ]
    .concat()
}

/// Policy `namespace/name` for the pods with `labels`; `rest` as in YAML: `ingress: []`.
pub fn policy(key: &str, labels: &str, rest: &str) -> String {
    let (namespace, name) = key.split_once('/').expect("namespace/name");
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{podSelector: {{matchLabels: {{{labels}}}}}, {rest}}}\n"
    )
}

/// The same, with connections kept that it does not allow.
pub fn keeping_policy(key: &str, labels: &str, rest: &str) -> String {
    policy(key, labels, rest).replace("metadata: {", "metadata: {annotations: {weir.dev/established: keep}, ")
}

/// The probes from one end to a port (`80/TCP`) of another, one a family.
#[track_caller]
pub fn probes<'a>(report: &'a Report, from: &str, to: &str, port: &str) -> Vec<&'a Probe> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "TCP"));
    let protocol = Protocol::parse(Some(protocol)).expect("a protocol");
    let number: u16 = number.parse().expect("a port");
    let is = |probe: &&Probe| {
        probe.from == from && probe.to == to && probe.port == number && probe.protocol == protocol
    };
    let found: Vec<_> = report.probes.iter().filter(is).collect();
    assert_eq!(found.len(), 2, "one probe a family from {from} to {to} port {port}: {found:#?}");
    found
}

/// Reached, over both families.
#[track_caller]
pub fn open(report: &Report, from: &str, to: &str, port: &str) {
    for probe in probes(report, from, to, port) {
        assert_eq!(probe.verdict, VerdictKind::Allowed, "{probe:#?}\n{:#?}", report.warnings);
    }
}

/// Denied over both families, by default, and `by` says whose: `ingress shop/web`.
#[track_caller]
pub fn shut(report: &Report, from: &str, to: &str, port: &str, by: &str) {
    for probe in probes(report, from, to, port) {
        assert_eq!(probe.verdict, VerdictKind::Denied, "{probe:#?}");
        let said = probe.by.as_ref().unwrap_or_else(|| panic!("nobody says why: {probe:#?}"));
        assert_eq!(said.reason, "policy_denied", "{probe:#?}");
        let whose = format!("{} {}", said.direction.as_deref().unwrap_or_default(), said.policies.join(" "));
        assert_eq!(whose, by, "{probe:#?}");
    }
}
