//! A kubelet's probes of every kind under a default deny: the node may always speak to its own pods.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::table::{Expected, Question, hold};
use super::town::{Town, agnhost, server};
use crate::cluster::probe::Protocol;

/// Long enough that every probe fails three times, if it fails.
const WATCH: Duration = Duration::from_secs(5);

pub(crate) fn probes_work_under_default_deny(town: &mut Town) -> Result<()> {
    let kinds = [
        ("http", json!({ "httpGet": { "path": "/hostname", "port": 8080 } })),
        ("tcp", json!({ "tcpSocket": { "port": 8080 } })),
        ("exec", json!({ "exec": { "command": ["/agnhost", "connect", "--timeout=1s", "localhost:8080"] } })),
        ("grpc", json!({ "grpc": { "port": 5000 } })),
    ];
    let mut objects = vec![deny_all()];
    for node in town.nodes() {
        for (kind, probe) in &kinds {
            let arguments: &[&str] = match *kind {
                "grpc" => &["grpc-health-checking"],
                _ => &["netexec", "--http-port=8080", "--udp-port=8081"],
            };
            let mut pod = agnhost(&format!("{kind}-{node}"), &node, json!({}), arguments);
            let container = &mut pod["spec"]["containers"][0];
            for (name, failures) in [("startupProbe", 30), ("readinessProbe", 3), ("livenessProbe", 3)] {
                container[name] = probe.clone();
                container[name]["periodSeconds"] = json!(1);
                // An exec takes its time on a busy machine.
                container[name]["timeoutSeconds"] = json!(5);
                container[name]["failureThreshold"] = json!(failures);
            }
            objects.push(pod);
        }
        objects.push(server(&format!("stranger-{node}"), &node, json!({})));
    }
    let settlement = town.settle("probes", json!({}), &objects)?;
    thread::sleep(WATCH);
    let pods = town.pods("probes")?;
    ensure!(pods.len() == 10, "{} pods run, 10 were asked for", pods.len());
    for pod in &pods {
        ensure!(pod.restarts == 0, "{} was restarted {} times", pod.name, pod.restarts);
    }
    town.ready("probes", &["pods", "--all"], "Ready")?;
    // And the deny is one: a pod of the same node is no node, nor is one of the other's.
    let denied = Expected::Denied("probes/deny-all".to_owned());
    let strangers = pods.iter().filter(|pod| pod.name.contains("/stranger-"));
    let questions: Vec<Question<'_>> = strangers
        .flat_map(|from| {
            let probed = pods.iter().filter(|pod| pod.name.contains("/http-") || pod.name.contains("/tcp-"));
            let expected = denied.clone();
            probed.map(move |to| Question {
                from,
                to,
                protocol: Protocol::Http,
                port: 8080,
                expected: expected.clone(),
            })
        })
        .collect();
    hold(town, &questions)?;
    settlement.leave()
}

pub(crate) fn deny_all() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": "deny-all" },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress", "Egress"] },
    })
}
