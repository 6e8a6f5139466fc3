//! Pods on both nodes, without any policy: everybody reaches everybody, by both families, and by name.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::table::{Expected, Question, hold};
use super::town::{Pod, Town, eventually, server};
use crate::cluster::probe::{Answer, Protocol, Target};

/// Two pods on each node.
pub(crate) fn pods_reach_each_other(town: &mut Town) -> Result<()> {
    let pods: Vec<_> = town
        .nodes()
        .iter()
        .flat_map(|node| ["a", "b"].map(|which| server(&format!("{which}-{node}"), node, json!({}))))
        .collect();
    let settlement = town.settle("reach", json!({}), &pods)?;
    let pods = town.pods("reach")?;
    for pod in &pods {
        ensure!(pod.ips.len() == 2, "{} has {:?}, one address of each family is right", pod.name, pod.ips);
    }
    hold(town, &everybody(&pods))?;
    settlement.leave()
}

/// Each pod asks each other one by TCP and by UDP, and all may.
pub(crate) fn everybody(pods: &[Pod]) -> Vec<Question<'_>> {
    let mut questions = Vec::new();
    for from in pods {
        for to in pods.iter().filter(|to| to.name != from.name) {
            for (protocol, port) in [(Protocol::Http, 8080), (Protocol::Udp, 8081)] {
                questions.push(Question { from, to, protocol, port, expected: Expected::Allowed });
            }
        }
    }
    questions
}

/// From both nodes: a Service's name through CoreDNS, whose ClusterIP is ours to serve, and then that Service.
pub(crate) fn names_resolve_and_services_answer(town: &mut Town) -> Result<()> {
    let clients = town.nodes().into_iter().map(|node| server(&format!("client-{node}"), &node, json!({})));
    let servers = ["one", "two"].into_iter().zip(town.nodes());
    let mut objects: Vec<_> = clients.collect();
    objects.extend(servers.map(|(name, node)| server(name, &node, json!({ "app": "web" }))));
    objects.push(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
        "spec": {
            "selector": { "app": "web" }, "ipFamilyPolicy": "RequireDualStack",
            "ports": [
                { "name": "http", "port": 80, "targetPort": 8080 },
                { "name": "udp", "port": 80, "protocol": "UDP", "targetPort": 8081 },
            ],
        },
    }));
    let settlement = town.settle("names", json!({}), &objects)?;
    town.ready("kube-system", &["deployment/coredns"], "Available")?;
    let service = town.kubectl.json(&["get", "service", "web", "--namespace=names"])?;
    let ips = service["spec"]["clusterIPs"].as_array().context("the Service has no clusterIPs")?;
    ensure!(ips.len() == 2, "the Service has the addresses {ips:?}, one of each family is right");
    for node in town.nodes() {
        let name = format!("client-{node}");
        for target in ["web:80", "web.names.svc.cluster.local:80", "kubernetes.default:443"] {
            let arguments =
                ["exec", &name, "--namespace=names", "--", "/agnhost", "connect", "--timeout=3s", target];
            eventually(&format!("{target} from {node}"), || town.kubectl.run(&arguments).map(drop))?;
        }
        // Both backends get their share, and a name tells which it was.
        let client = town.pod("names", &name)?;
        for ip in ips.iter().filter_map(|ip| ip.as_str()) {
            for protocol in [Protocol::Http, Protocol::Udp] {
                let target = Target { protocol, address: format!("{}:80", bracketed(ip)).parse()? };
                eventually(&format!("{target:?} from {node}"), || {
                    let answers = town.knock(&client, &vec![target.clone(); 16])?;
                    for backend in ["one", "two"] {
                        let heard = answers.contains(&Answer::Yes(backend.to_owned()));
                        ensure!(heard, "16 answers, none of them of `{backend}`: {answers:?}");
                    }
                    ensure!(answers.iter().all(Answer::is_yes), "not every answer is one: {answers:?}");
                    Ok(())
                })?;
            }
        }
    }
    settlement.leave()
}

fn bracketed(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() }
}
