//! The first packet of a pod that has just begun: to a pod of its own node it needs no second try.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::town::{Pod, Town, eventually, server};
use crate::cluster::tools::PAUSE;

pub(crate) fn a_pods_first_packet_on_its_own_node_needs_no_second_try(town: &mut Town) -> Result<()> {
    let servers: Vec<_> =
        town.nodes().iter().map(|node| server(&format!("server-{node}"), node, json!({}))).collect();
    let settlement = town.settle("first", json!({}), &servers)?;
    let mut clients = Vec::new();
    // On one node IPv4 by TCP and IPv6 by UDP, on the other the other way round.
    for (index, server) in town.pods("first")?.iter().enumerate() {
        clients.push(client(server, "tcp", index % 2)?);
        clients.push(client(server, "udp", (index + 1) % 2)?);
    }
    town.apply("first", &clients)?;
    for client in &clients {
        let name = client["metadata"]["name"].as_str().context("a pod has a name")?;
        let by = client["metadata"]["labels"]["protocol"].as_str().context("a client has a protocol")?;
        eventually(&format!("{name} has asked"), || {
            let pod = town.kubectl.json(&["get", "pod", name, "--namespace=first"])?;
            let statuses = pod["status"]["containerStatuses"].as_array().context("no container yet")?;
            let asker = statuses.iter().find(|status| status["name"] == "asker").context("no asker yet")?;
            let ended = &asker["state"]["terminated"];
            ensure!(!ended.is_null(), "it still asks: {}", asker["state"]);
            Ok(ended.clone())
        })
        .and_then(|ended| {
            ensure!(ended["exitCode"] == 0, "{name} got no answer by {by}: {ended}");
            Ok(())
        })?;
        // The other container keeps the network that the asker had.
        let pid = town.pid(&town.pod("first", name)?)?;
        let counter = |protocol: &str, counter: &str| number(pid, protocol, counter);
        let sent = match by {
            "tcp" => counter("Tcp", "ActiveOpens")?,
            _ => counter("Udp", "OutDatagrams")?,
        };
        ensure!(sent == 1, "{name} has asked {sent} times by {by}, once is right");
        let again = counter("Tcp", "RetransSegs")?;
        ensure!(again == 0, "{name} had to send {again} segments again");
    }
    settlement.leave()
}

/// Asks the server at once and a single time; beside it a container that stays.
fn client(server: &Pod, protocol: &str, family: usize) -> Result<Value> {
    let port = if protocol == "tcp" { 8080 } else { 8081 };
    let ip = server.ips.get(family).with_context(|| format!("{} has no second address", server.name))?;
    let target = std::net::SocketAddr::from((*ip, port)).to_string();
    let mut asker = super::town::agnhost("asker", &server.node, json!({ "protocol": protocol }), &[]);
    asker["metadata"]["name"] = format!("{protocol}-{}", server.node).into();
    let arguments = ["connect", &format!("--protocol={protocol}"), "--timeout=60s", &target];
    asker["spec"]["containers"][0]["name"] = "asker".into();
    asker["spec"]["containers"][0]["args"] = json!(arguments);
    asker["spec"]["restartPolicy"] = "Never".into();
    asker["spec"]["containers"]
        .as_array_mut()
        .context("a pod has containers")?
        .push(json!({ "name": "pause", "image": PAUSE, "imagePullPolicy": "Never" }));
    Ok(asker)
}

/// A counter of the network that the process is in, both families together.
fn number(pid: i32, protocol: &str, counter: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/net/snmp");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let prefix = format!("{protocol}: ");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(&prefix));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == counter);
    let (_, value) = found.with_context(|| format!("{path} has no {protocol} {counter}"))?;
    let mut sum: u64 = value.parse().context("a counter")?;
    // TCP is counted once for both families, UDP for each.
    if protocol == "Udp" {
        let path = format!("/proc/{pid}/net/snmp6");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let six = format!("Udp6{counter}");
        let line = text.lines().find_map(|line| line.strip_prefix(&six)).context("no counter for IPv6")?;
        sum += line.trim().parse::<u64>().context("a counter")?;
    }
    Ok(sum)
}
