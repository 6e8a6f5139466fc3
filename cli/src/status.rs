//! `weir status`: what each agent has in force, and what it could not honour.

use std::process::ExitCode;

use anyhow::Result;
use api::Status;

use crate::agents::{Which, unless_closed};
use crate::columns::{Cell, Tone, aligned};
use crate::format::Format;

#[derive(clap::Args)]
#[command(
    after_help = "Exit status: 0 if every agent is ready, has no problem and has carried out its last plan; else 1."
)]
pub(crate) struct Args {
    /// `json` is a list with an object for each node
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    which: Which,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let statuses = args.which.statuses()?;
    unless_closed(print(&statuses, args.output))?;
    let is_well = |status: &Status| status.ready && status.last_error.is_none() && status.problems.is_empty();
    let well = statuses.iter().all(is_well);
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(statuses: &[Status], format: Format) -> Result<()> {
    format.print(&statuses, |colour| {
        let tables: Vec<String> = statuses.iter().map(|status| table(status, colour)).collect();
        tables.join("\n")
    })
}

fn table(status: &Status, colour: bool) -> String {
    let (state, tone) = match status.ready {
        true => ("ready", Tone::Good),
        false => ("not ready", Tone::Bad),
    };
    let adopted = if status.adopted { ", took over the pins of an earlier one" } else { "" };
    let head = vec![
        Cell::new(&status.node),
        Cell::toned(state, tone),
        Cell::new(format!("generation {}, epoch {}", status.generation, status.epoch)),
        Cell::toned(format!("agent {}, pid {}{adopted}", status.version, status.pid), Tone::Quiet),
    ];
    let mut text = aligned(&[head], "", colour);
    text += &troubles(status, colour);
    if let Some(error) = &status.last_error {
        text += &aligned(&[vec![Cell::toned(format!("last plan: {error}"), Tone::Bad)]], "  ", colour);
    }
    let mut section = |title: &str, heads: &[&str], rows: Vec<Vec<Cell>>| {
        if rows.is_empty() {
            return;
        }
        text += &format!("  {title}\n");
        let heads = heads.iter().map(|head| Cell::toned(*head, Tone::Quiet)).collect();
        let rows: Vec<_> = std::iter::once(heads).chain(rows).collect();
        text += &aligned(&rows, "    ", colour);
    };
    let endpoints = status.endpoints.iter().map(|endpoint| {
        let ips: Vec<_> = endpoint.ips.iter().map(ToString::to_string).collect();
        let interface = format!("{} ({})", endpoint.ifname, endpoint.ifindex);
        [endpoint.name.clone(), ips.join(", "), interface, endpoint.ingress.clone(), endpoint.egress.clone()]
    });
    section("endpoints", &["POD", "ADDRESSES", "INTERFACE", "INGRESS", "EGRESS"], cells(endpoints));
    let peers = status.peers.iter().map(|peer| {
        let via = peer.via.map_or_else(|| "-".to_owned(), |via| via.to_string());
        [peer.node.clone(), peer.pods.to_string(), via, peer.way.clone()]
    });
    section("other nodes", &["NODE", "PODS", "ADDRESS", "WAY"], cells(peers));
    let rule_sets = status.rule_sets.iter().map(|rules| {
        let (rows, endpoints) = (rules.rows.to_string(), rules.endpoints.to_string());
        [rules.id.clone(), rules.direction.clone(), endpoints, rows, rules.policies.join(", ")]
    });
    section("rule sets", &["RULE SET", "DIRECTION", "ENDPOINTS", "ROWS", "POLICIES"], cells(rule_sets));
    let maps = status.maps.iter().map(|map| {
        let percent = 100.0 * map.entries as f64 / map.capacity.max(1) as f64;
        [map.name.clone(), map.entries.to_string(), map.capacity.to_string(), format!("{percent:.1} %")]
    });
    section("maps", &["MAP", "ENTRIES", "CAPACITY", "FULL"], cells(maps));
    let counters = status
        .counters
        .iter()
        .map(|counter| [counter.name.clone(), counter.packets.to_string(), counter.bytes.to_string()]);
    section("counters", &["REASON", "PACKETS", "BYTES"], cells(counters));
    if !status.warnings.is_empty() {
        text += "  not honoured\n";
        status.warnings.iter().for_each(|warning| text += &format!("    {warning}\n"));
    }
    text
}

/// What a person may have to do something about.
fn troubles(status: &Status, colour: bool) -> String {
    let mut rows = Vec::new();
    let source = &status.source;
    if !source.kind.is_empty() {
        let (state, tone) = if source.connected { ("", Tone::Plain) } else { (" (no answer)", Tone::Bad) };
        let heard = source.last_change_s.map(|s| format!(", last change {s} s ago")).unwrap_or_default();
        rows.push(Cell::toned(format!("source: {}{state}{heard}", source.kind), tone));
    }
    rows.extend(status.not_ready.iter().map(|why| Cell::toned(format!("not ready: {why}"), Tone::Bad)));
    rows.extend(status.problems.iter().map(|problem| Cell::toned(format!("problem: {problem}"), Tone::Bad)));
    if !status.unmanaged.is_empty() {
        let pods = status.unmanaged.join(", ");
        let text = format!("not managed, delete them and they come back managed: {pods}");
        rows.push(Cell::toned(text, Tone::Bad));
    }
    if !status.drift.is_empty() {
        let drift: Vec<_> = status.drift.iter().map(|it| format!("{} {}", it.repaired, it.kind)).collect();
        rows.push(Cell::new(format!("changed by somebody else and put right: {}", drift.join(", "))));
    }
    rows.into_iter().map(|cell| aligned(&[vec![cell]], "  ", colour)).collect()
}

fn cells<const N: usize>(rows: impl Iterator<Item = [String; N]>) -> Vec<Vec<Cell>> {
    rows.map(|row| row.into_iter().map(Cell::new).collect()).collect()
}

#[cfg(test)]
mod tests {
    use api::{Counter, Drift, EndpointStatus, MapFill, PeerStatus, RuleSetStatus, SourceStatus};

    use super::*;

    #[test]
    fn a_node_is_shown_with_all_that_it_has_in_force() {
        let status = Status {
            node: "node-0".into(),
            version: "0.1.0".into(),
            pid: 42,
            ready: true,
            generation: 7,
            epoch: 2,
            adopted: true,
            source_revision: None,
            endpoints: vec![EndpointStatus {
                name: "shop/web".into(),
                ips: vec!["10.244.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
                ifname: "weir1".into(),
                ifindex: 9,
                netns: None,
                ingress: "0123456789abcdef".into(),
                egress: "open".into(),
            }],
            peers: vec![PeerStatus {
                node: "node-1".into(),
                pods: "10.244.1.0/24".parse().unwrap(),
                via: Some("172.30.0.11".parse().unwrap()),
                way: "vxlan".into(),
            }],
            rule_sets: vec![RuleSetStatus {
                id: "0123456789abcdef".into(),
                direction: "ingress".into(),
                policies: vec!["shop/quiet".into(), "shop/web".into()],
                rows: 3,
                endpoints: 1,
            }],
            maps: vec![MapFill { name: "ENDPOINTS".into(), entries: 2, capacity: 1024 }],
            counters: vec![Counter { name: "policy_denied".into(), packets: 4, bytes: 240 }],
            warnings: vec!["NetworkPolicy shop/web: spec.ingress[0].ports[0].port: 99999 is no port".into()],
            last_error: Some("map `RULES` is too small".into()),
            not_ready: None,
            source: SourceStatus { kind: "API server".into(), connected: false, last_change_s: Some(7) },
            problems: vec!["Node node-0: spec.podCIDRs: empty".into()],
            unmanaged: vec!["shop/old (10.1.0.7)".into()],
            drift: vec![Drift { kind: "route".into(), repaired: 2 }],
        };
        let expected = "\
node-0  ready  generation 7, epoch 2  agent 0.1.0, pid 42, took over the pins of an earlier one
  source: API server (no answer), last change 7 s ago
  problem: Node node-0: spec.podCIDRs: empty
  not managed, delete them and they come back managed: shop/old (10.1.0.7)
  changed by somebody else and put right: 2 route
  last plan: map `RULES` is too small
  endpoints
    POD       ADDRESSES            INTERFACE  INGRESS           EGRESS
    shop/web  10.244.0.2, fd00::2  weir1 (9)  0123456789abcdef  open
  other nodes
    NODE    PODS           ADDRESS      WAY
    node-1  10.244.1.0/24  172.30.0.11  vxlan
  rule sets
    RULE SET          DIRECTION  ENDPOINTS  ROWS  POLICIES
    0123456789abcdef  ingress    1          3     shop/quiet, shop/web
  maps
    MAP        ENTRIES  CAPACITY  FULL
    ENDPOINTS  2        1024      0.2 %
  counters
    REASON         PACKETS  BYTES
    policy_denied  4        240
  not honoured
    NetworkPolicy shop/web: spec.ingress[0].ports[0].port: 99999 is no port
";
        assert_eq!(table(&status, false), expected);
    }
}
