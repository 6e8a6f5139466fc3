//! Google's shop as published, with stubs in its containers: eleven services and a client come up, and their thirteen
//! policies hold.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::table::{Expected, Question, hold};
use super::town::{AGNHOST, Town};
use crate::cluster::probe::Protocol;
use crate::workspace;

const NAMESPACE: &str = "boutique";
const WORKLOADS: usize = 12;
const POLICIES: usize = 13;

/// What the policies open: callee, its port, and who may call; everybody where nobody is named.
const OPEN: [(&str, u16, &[&str]); 11] = [
    ("frontend", 8080, &[]),
    ("adservice", 9555, &["frontend"]),
    ("cartservice", 7070, &["frontend", "checkoutservice"]),
    ("checkoutservice", 5050, &["frontend"]),
    ("currencyservice", 7000, &["frontend", "checkoutservice"]),
    ("emailservice", 8080, &["checkoutservice"]),
    ("paymentservice", 50051, &["checkoutservice"]),
    ("productcatalogservice", 3550, &["frontend", "checkoutservice", "recommendationservice"]),
    ("recommendationservice", 8080, &["frontend"]),
    ("redis-cart", 6379, &["cartservice"]),
    ("shippingservice", 50051, &["frontend", "checkoutservice"]),
];

pub(crate) fn the_boutique_comes_up_and_its_policies_hold(town: &mut Town) -> Result<()> {
    let folder = workspace::root().join("../shared/data/online-boutique");
    let mut objects = Vec::new();
    let mut policies = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry.with_context(|| format!("list {}", folder.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let into = if name.starts_with("network-policy-") { &mut policies } else { &mut objects };
        into.extend(read(town, &path.display().to_string())?);
    }
    ensure!(policies.len() == POLICIES, "{} policies were read, {POLICIES} are right", policies.len());
    let deployments = objects.iter_mut().filter(|object| object["kind"] == "Deployment");
    let workloads = deployments.map(stand_in).collect::<Result<Vec<_>>>()?.len();
    ensure!(workloads == WORKLOADS, "{workloads} workloads were read, {WORKLOADS} are right");

    let settlement = town.settle(NAMESPACE, json!({}), &[])?;
    // The policies first: nothing may depend on having been there before them.
    town.apply(NAMESPACE, &policies)?;
    town.apply(NAMESPACE, &objects)?;
    town.ready(NAMESPACE, &["deployments", "--all"], "Available")?;
    let pods = town.pods(NAMESPACE)?;
    let nodes: std::collections::BTreeSet<_> = pods.iter().map(|pod| pod.node.as_str()).collect();
    ensure!(nodes.len() == 2, "the shop runs on {nodes:?} alone");

    let denied = Expected::Denied(format!("{NAMESPACE}/deny-all"));
    let app = |name: &str| pods.iter().find(|pod| pod.labels.get("app").is_some_and(|app| app == name));
    let mut questions = Vec::new();
    for (callee, port, callers) in OPEN {
        let to = app(callee).with_context(|| format!("{callee} does not run"))?;
        for from in pods.iter().filter(|from| from.name != to.name) {
            let caller = from.labels.get("app").map(String::as_str).unwrap_or_default();
            let allowed = callers.is_empty() || callers.contains(&caller);
            let expected = if allowed { Expected::Allowed } else { denied.clone() };
            questions.push(Question { from, to, protocol: Protocol::Tcp, port, expected });
        }
    }
    hold(town, &questions)?;
    settlement.leave()
}

/// The objects of a file, as kubectl understands it.
fn read(town: &Town, path: &str) -> Result<Vec<Value>> {
    let text = town.kubectl.run(&["create", "--dry-run=client", "--output=json", "--filename", path])?;
    let mut objects = Vec::new();
    for value in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
        let value = value.with_context(|| format!("read what kubectl made of {path}"))?;
        match value["items"].as_array() {
            Some(items) => objects.extend(items.iter().cloned()),
            None => objects.push(value),
        }
    }
    for object in &mut objects {
        // Where kubectl would put what names no namespace.
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("namespace");
        }
    }
    Ok(objects)
}

/// Puts stubs into a Deployment's containers that speak what its probes ask; all else stays as published.
fn stand_in(deployment: &mut Value) -> Result<()> {
    let spec = &mut deployment["spec"]["template"]["spec"];
    spec["terminationGracePeriodSeconds"] = json!(1);
    for container in spec["containers"].as_array_mut().context("a Deployment without containers")? {
        let port = container["ports"][0]["containerPort"].as_u64().unwrap_or(8080);
        let listen = format!("--port={port}");
        let arguments = match &container["readinessProbe"]["grpc"] {
            Value::Null => json!(["netexec", format!("--http-port={port}"), "--udp-port=-1"]),
            // Its own server of HTTP would take a port that some of them want.
            _ => json!(["grpc-health-checking", listen, "--http-port=18080"]),
        };
        put(container, arguments);
    }
    for container in spec["initContainers"].as_array_mut().into_iter().flatten() {
        // As published it asks until the shop's front answers.
        put(container, json!(["connect", "--timeout=2s", "frontend:80"]));
    }
    Ok(())
}

fn put(container: &mut Value, arguments: Value) {
    container["image"] = json!(AGNHOST);
    container["imagePullPolicy"] = json!("Never");
    container["command"] = json!(["/agnhost"]);
    container["args"] = arguments;
    // Those are of the real programs.
    container["resources"] = json!({});
    for probe in ["readinessProbe", "livenessProbe"] {
        if container[probe].is_object() {
            container[probe]["initialDelaySeconds"] = json!(0);
            container[probe]["periodSeconds"] = json!(1);
            container[probe]["timeoutSeconds"] = json!(5);
        }
    }
}
