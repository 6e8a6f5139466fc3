//! What is explained, from manifests alone and by live agents, is what packets find. Needs root and the binaries beside
//! this one (`cargo xtask test netns` builds them).

mod support;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Output};

use api::{Explanation, Side, VerdictKind};
use sandbox::explain::{Explainer, planned};
use sandbox::plan::{Cast, PodIps};
use sandbox::report::{Probe, Report};
use sandbox::{Binaries, manifest};

use support::{Manifests, block_on, probe, up};

/// Rules of every kind in both directions, with a page of them in each namespace.
const MANIFESTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: watch, labels: {team: b}}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, image: x, ports: [{containerPort: 80, name: http}, {containerPort: 53, protocol: UDP}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: db, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, image: x, ports: [{containerPort: 5432, name: sql}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: probe, namespace: watch, labels: {app: probe}}
spec: {containers: [{name: c, image: x, ports: [{containerPort: 9090}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{namespaceSelector: {matchLabels: {team: b}}}]
    ports: [{port: http}]
  - from: [{ipBlock: {cidr: 198.51.100.0/24}}]
  egress:
  - to: [{podSelector: {matchLabels: {app: db}}}]
    ports: [{port: sql}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: quiet, namespace: watch}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}], ports: [{port: 80}]}]}
";

/// The address that an end of a probe has among these, of the family of `like`.
fn address(cast: &Cast, ips: &PodIps, report: &Report, end: &str, like: IpAddr) -> IpAddr {
    let all = match end.strip_prefix("node/") {
        Some(name) => cast.nodes.iter().find(|node| node.name == name).unwrap().ips.clone(),
        None if end == "outside" => report.outside.ips.clone(),
        None => ips[end].clone(),
    };
    all.into_iter().find(|ip| ip.is_ipv4() == like.is_ipv4()).unwrap()
}

/// Fails unless the explanation has the probe's verdict, and for what policies decided the same policies and rule.
#[track_caller]
fn same(explanation: &Explanation, probe: &Probe) {
    assert_eq!(explanation.verdict, probe.verdict, "{explanation:#?}\n{probe:#?}");
    let Some(by) = probe.by.as_ref().filter(|by| !by.policies.is_empty()) else { return };
    let side: &Side = match by.direction.as_deref() {
        Some("egress") => &explanation.egress,
        _ => &explanation.ingress,
    };
    match (&by.rule, &side.rule) {
        (Some(path), Some(rule)) => {
            assert_eq!((&by.policies[0], path), (&rule.policy, &rule.path), "{probe:#?}")
        }
        (None, None) => {
            let names: Vec<_> = side.policies.iter().map(|policy| policy.name.clone()).collect();
            assert_eq!((side.verdict, &names), (VerdictKind::Denied, &by.policies), "{probe:#?}");
        }
        _ => panic!("{explanation:#?}\n{probe:#?}"),
    }
}

#[test]
fn what_manifests_alone_explain_is_what_packets_find() {
    block_on(async {
        let manifests = Manifests::new(MANIFESTS);
        let mut sandbox = up(&manifests).await;
        let report = probe(&mut sandbox).await;
        let cast = sandbox.cast().clone();
        let sources = manifest::sources(&[manifests.path().to_owned()], None).unwrap();
        let mut verdicts: BTreeMap<String, usize> = BTreeMap::new();
        for ips in [planned(&cast), sandbox.ips()] {
            let explainer = Explainer::new(&cast, &ips, manifest::places(&sources));
            for probe in &report.probes {
                let end = |end: &str| address(&cast, &ips, &report, end, probe.ip);
                let (from, to) = (end(&probe.from), end(&probe.to));
                let explanation = explainer.explain(from, to, probe.port, probe.protocol.number());
                same(&explanation, probe);
                *verdicts.entry(format!("{:?}", probe.verdict)).or_default() += 1;
                if explanation.verdict == VerdictKind::Denied {
                    let sides = [&explanation.egress, &explanation.ingress];
                    assert!(sides.iter().any(|side| side.nearest.is_some()), "{explanation:#?}");
                }
            }
        }
        assert!(verdicts["Allowed"] > 20 && verdicts["Denied"] > 20, "{verdicts:?}");
        sandbox.down().await.unwrap();
    });
}

/// `weir explain` as people run it, of this sandbox's agents.
async fn weir(id: &str, from: &str, to: &str, port: &str) -> Output {
    let weir: PathBuf = Binaries::beside_us().unwrap().cni_path.join("weir");
    assert!(weir.is_file(), "{} is missing: build it with `cargo build -p cli`", weir.display());
    let mut command = Command::new(weir);
    command.args(["explain", "--sandbox", id, "--from", from, "--to", to, "--port", port, "-o", "json"]);
    // The agents' output is read by this process: it must not stand still meanwhile.
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[test]
fn what_live_agents_explain_is_what_packets_find() {
    block_on(async {
        let manifests = Manifests::new(MANIFESTS);
        let mut sandbox = up(&manifests).await;
        let report = probe(&mut sandbox).await;
        let id = sandbox.id().to_owned();
        for probe in report.probes.iter().filter(|probe| probe.from != probe.to && probe.ip.is_ipv4()) {
            let port = format!("{}/{}", probe.port, probe.protocol.as_str().to_lowercase());
            let output = weir(&id, &probe.from, &probe.to, &port).await;
            let answers: Vec<Explanation> = serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|error| panic!("{error}: {probe:?} {output:?}"));
            let answer = answers.iter().find(|answer| answer.to.ip.is_ipv4()).unwrap();
            same(answer, probe);
            assert_eq!(answer.notes, Vec::<String>::new());
            let is_denied = answers.iter().any(|answer| answer.verdict == VerdictKind::Denied);
            assert_eq!(output.status.code(), Some(i32::from(is_denied)), "{output:?}");
        }
        // A workload by its name: both replicas answer alike, so once for each family at most.
        let output = weir(&id, "shop/web", "deployment/shop/db", "sql").await;
        let answers: Vec<Explanation> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answers.len(), 1, "{answers:#?}");
        assert_eq!(answers[0].ingress.rule.as_ref().unwrap().path, "spec.ingress[0]");
        let output = weir(&id, "shop/wbe", "shop/db", "5432").await;
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8(output.stderr).unwrap().contains("did you mean shop/web?"));
        sandbox.down().await.unwrap();
    });
}
