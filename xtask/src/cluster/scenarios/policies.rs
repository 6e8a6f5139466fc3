//! NetworkPolicies as people use them: applied, changed and deleted with kubectl, and labels that change under them.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::probes::deny_all;
use super::table::{Expected, Question, hold};
use super::town::{Pod, Town, server};
use crate::cluster::probe::Protocol;

/// A server on each node, and on each node a friend and a stranger of it, the latter in a namespace of its own too.
pub(crate) fn policies_change_the_truth_table_on_both_nodes(town: &mut Town) -> Result<()> {
    let (home, abroad) = ("policies", "policies-abroad");
    let mut here = Vec::new();
    let mut there = Vec::new();
    for node in town.nodes() {
        for app in ["web", "friend", "stranger"] {
            here.push(server(&format!("{app}-{node}"), &node, json!({ "app": app })));
        }
        there.push(server(&format!("guest-{node}"), &node, json!({ "app": "guest" })));
    }
    let settlement = town.settle(home, json!({}), &here)?;
    let foreign = town.settle(abroad, json!({ "team": "none" }), &there)?;
    let pods = [town.pods(home)?, town.pods(abroad)?].concat();
    let of = |app: &str| {
        pods.iter().filter(move |pod| pod.labels.get("app").is_some_and(|it| it == app)).collect()
    };
    let (web, friends, strangers, guests): (Vec<&Pod>, Vec<&Pod>, Vec<&Pod>, Vec<&Pod>) =
        (of("web"), of("friend"), of("stranger"), of("guest"));
    let table = |allowed: &[&Vec<&Pod>], policy: &str| -> Result<()> {
        let denied = Expected::Denied(format!("{home}/{policy}"));
        let mut questions = Vec::new();
        for group in [&friends, &strangers, &guests] {
            let allowed = allowed.iter().any(|it| std::ptr::eq(*it, group));
            let expected = if allowed { Expected::Allowed } else { denied.clone() };
            for from in group {
                for to in &web {
                    for (protocol, port) in [(Protocol::Http, 8080), (Protocol::Udp, 8081)] {
                        questions.push(Question { from, to, protocol, port, expected: expected.clone() });
                    }
                }
            }
        }
        hold(town, &questions)
    };

    table(&[&friends, &strangers, &guests], "").context("before any policy")?;
    town.apply(home, &[allow("web", json!([{ "podSelector": { "matchLabels": { "app": "friend" } } }]))])?;
    table(&[&friends], "web").context("friends alone may")?;

    town.apply(
        home,
        &[allow("web", json!([{ "namespaceSelector": { "matchLabels": { "team": "blue" } } }]))],
    )?;
    table(&[], "web").context("the team blue alone may, and nobody is of it")?;
    let label = |what: &str, name: &str, label: &str, namespace: &str| {
        town.kubectl.run(&["label", what, name, label, "--overwrite", "--namespace", namespace]).map(drop)
    };
    label("namespace", abroad, "team=blue", home)?;
    table(&[&guests], "web").context("a namespace became the team blue's")?;
    label("namespace", abroad, "team=red", home)?;
    table(&[], "web").context("the namespace became the team red's")?;

    town.apply(home, &[allow("web", json!([{ "podSelector": { "matchLabels": { "role": "guest" } } }]))])?;
    table(&[], "web").context("nobody has the role yet")?;
    for pod in &strangers {
        label("pod", pod.name.rsplit('/').next().unwrap_or_default(), "role=guest", home)?;
    }
    table(&[&strangers], "web").context("strangers got the role")?;

    town.kubectl.run(&["delete", "networkpolicy", "web", "--namespace", home])?;
    table(&[&friends, &strangers, &guests], "").context("the policy is gone")?;
    town.apply(home, &[deny_all()])?;
    table(&[], "deny-all").context("everything is denied, the strangers' and friends' own egress too")?;
    foreign.leave()?;
    settlement.leave()
}

/// Lets these peers come in to `web`, on both of its ports.
fn allow(name: &str, peers: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": name },
        "spec": {
            "podSelector": { "matchLabels": { "app": "web" } },
            "policyTypes": ["Ingress"],
            "ingress": [{
                "from": peers,
                "ports": [{ "port": 8080 }, { "port": 8081, "protocol": "UDP" }],
            }],
        },
    })
}
