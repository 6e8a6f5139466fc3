//! `weir flows`: connections and drops as the agents saw them, one a line.

use std::collections::HashSet;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use ::sandbox::client::Lines;
use anyhow::{Result, bail};
use api::{Flow, FlowEnd, FlowLine, FlowQuery, PolicyRef, VerdictKind};
use clap::ValueEnum;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::agents::{Which, block_on, unless_closed};
use crate::columns::{Cell, Columns, Tone};
use crate::format::Format;

/// Lines of several agents are put in order within this time.
const TOGETHER: Duration = Duration::from_millis(60);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Go on with flows as they happen
    #[arg(short, long)]
    follow: bool,
    /// At most so many of the flows kept, the newest [default: all that the agents have kept]
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// From or to this pod: NAME or NAMESPACE/NAME
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    /// From or to a pod of this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[arg(long)]
    verdict: Option<Verdict>,
    /// To this port
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// tcp, udp, sctp, icmp, icmpv6, or the number of another
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<String>,
    /// `json` is one object a line
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    which: Which,
}

#[derive(Clone, Copy, ValueEnum)]
enum Verdict {
    Allowed,
    Denied,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let sockets = args.which.sockets()?;
    let query = FlowQuery {
        follow: args.follow,
        last: args.last,
        pod: args.pod,
        namespace: args.namespace,
        verdict: args.verdict.map(|verdict| match verdict {
            Verdict::Allowed => VerdictKind::Allowed,
            Verdict::Denied => VerdictKind::Denied,
        }),
        port: args.port,
        protocol: args.protocol,
    };
    let print = Print::new(args.output, sockets.len() > 1);
    unless_closed(block_on(show(sockets, query, print)))?;
    Ok(ExitCode::SUCCESS)
}

async fn show(sockets: Vec<PathBuf>, query: FlowQuery, mut print: Print) -> Result<()> {
    let path = format!("/v1/flows?{}", query_string(&query));
    let (sender, mut lines) = mpsc::channel(1024);
    for socket in &sockets {
        // Opened here, so that an agent that does not answer is an error and not silence.
        let mut stream = Lines::open(socket, &path).await?;
        let sender = sender.clone();
        drop(tokio::spawn(async move {
            while let Some(line) = stream.next::<FlowLine>().await {
                if sender.send(line).await.is_err() {
                    return;
                }
            }
        }));
    }
    drop(sender);

    // What was kept comes first, and only of that `--last` counts.
    let mut last = query.last;
    while let Some(mut batch) = batch(&mut lines, query.follow).await {
        batch.sort_by(|one, other| time(one).cmp(time(other)));
        if let Some(last) = last.take() {
            batch.drain(..batch.len().saturating_sub(last));
        }
        print.batch(&batch)?;
    }
    if query.follow {
        bail!("the stream of flows has ended: the agent has stopped");
    }
    Ok(())
}

/// The lines that come together; without following, all that come.
async fn batch(lines: &mut mpsc::Receiver<FlowLine>, follow: bool) -> Option<Vec<FlowLine>> {
    let mut batch = vec![lines.recv().await?];
    let until = Instant::now() + TOGETHER;
    loop {
        let next = if follow {
            match timeout_at(until, lines.recv()).await {
                Ok(next) => next,
                Err(_) => return Some(batch),
            }
        } else {
            lines.recv().await
        };
        match next {
            Some(line) => batch.push(line),
            None => return Some(batch),
        }
    }
}

/// RFC 3339 of one length sorts as text; what was lost stands before what is there.
fn time(line: &FlowLine) -> &str {
    match line {
        FlowLine::Flow(flow) => &flow.time,
        FlowLine::Lost { .. } => "",
    }
}

fn query_string(query: &FlowQuery) -> String {
    let mut text = form_urlencoded::Serializer::new(String::new());
    if query.follow {
        text.append_pair("follow", "true");
    }
    let verdict = query.verdict.map(|verdict| verdict_name(verdict).to_owned());
    for (field, value) in [
        ("last", query.last.map(|last| last.to_string())),
        ("pod", query.pod.clone()),
        ("namespace", query.namespace.clone()),
        ("verdict", verdict),
        ("port", query.port.map(|port| port.to_string())),
        ("protocol", query.protocol.clone()),
    ] {
        if let Some(value) = value {
            text.append_pair(field, &value);
        }
    }
    text.finish()
}

struct Print {
    format: Format,
    columns: Columns,
    /// Several agents may see one connection: say which did.
    nodes: bool,
}

impl Print {
    fn new(format: Format, nodes: bool) -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { format, columns: Columns::new(colour), nodes }
    }

    fn batch(&mut self, batch: &[FlowLine]) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if let Format::Json = self.format {
            for line in batch {
                serde_json::to_writer(&mut out, line).map_err(std::io::Error::from)?;
                out.write_all(b"\n")?;
            }
            return Ok(out.flush()?);
        }
        let rows: Vec<_> = batch.iter().map(|line| row(line, self.nodes)).collect();
        rows.iter().flatten().for_each(|row| self.columns.fit(row));
        for (line, row) in batch.iter().zip(&rows) {
            match (line, row) {
                (FlowLine::Lost { lost }, _) => {
                    eprintln!("weir: {lost} flows lost, more than could be taken in")
                }
                (FlowLine::Flow(_), Some(row)) => writeln!(out, "{}", self.columns.line(row))?,
                (FlowLine::Flow(_), None) => {}
            }
        }
        Ok(out.flush()?)
    }
}

fn row(line: &FlowLine, nodes: bool) -> Option<Vec<Cell>> {
    let FlowLine::Flow(flow) = line else { return None };
    let tone = match flow.verdict {
        VerdictKind::Allowed => Tone::Good,
        VerdictKind::Denied => Tone::Bad,
    };
    // Flows are of the last minutes: the day is in the JSON.
    let time = flow.time.split_once('T').map_or(flow.time.as_str(), |(_, time)| time);
    let mut row = vec![Cell::toned(time, Tone::Quiet)];
    if nodes {
        row.push(Cell::toned(&flow.node, Tone::Quiet));
    }
    row.extend([
        Cell::toned(verdict_name(flow.verdict), tone),
        Cell::new(format!("{} → {}/{}", end(&flow.from), end(&flow.to), flow.protocol)),
        Cell::new(flow.direction.clone().unwrap_or_default()),
        Cell::new(&flow.reason),
        Cell::new(deciders(flow)),
    ]);
    Some(row)
}

fn verdict_name(verdict: VerdictKind) -> &'static str {
    match verdict {
        VerdictKind::Allowed => "allowed",
        VerdictKind::Denied => "denied",
    }
}

/// `namespace/pod:port`; the address where nobody has it.
fn end(end: &FlowEnd) -> String {
    let who = match (&end.name, end.ip) {
        (Some(name), _) => name.clone(),
        (None, ip) if ip.is_ipv6() && end.port != 0 => format!("[{ip}]"),
        (None, ip) => ip.to_string(),
    };
    if end.port == 0 { who } else { format!("{who}:{}", end.port) }
}

/// The rules that allowed, or the policies that isolate; with their directions where there are two.
fn deciders(flow: &Flow) -> String {
    let directions: HashSet<&str> = flow.by.iter().map(|by| by.direction.as_str()).collect();
    let one = |by: &PolicyRef| {
        let policies = by.policies.join(", ");
        let what = match &by.rule {
            Some(rule) if policies.is_empty() => rule.clone(),
            Some(rule) => format!("{policies} {rule}"),
            None => format!("no rule of {policies}"),
        };
        if directions.len() > 1 { format!("{}: {what}", by.direction) } else { what }
    };
    flow.by.iter().map(one).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        let end = |ip: &str, port, name: &str| FlowEnd {
            ip: ip.parse().unwrap(),
            port,
            name: (!name.is_empty()).then(|| name.to_owned()),
        };
        Flow {
            time: "2026-11-24T06:00:00.123456Z".into(),
            node: "node-0".into(),
            from: end("10.244.0.2", 40312, "shop/client"),
            to: end("fd00::3", 80, ""),
            protocol: "TCP".into(),
            verdict: VerdictKind::Denied,
            direction: Some("ingress".into()),
            reason: "policy_denied".into(),
            by: vec![PolicyRef {
                direction: "ingress".into(),
                policies: vec!["shop/quiet".into(), "shop/web".into()],
                rule: None,
            }],
            bytes: 60,
        }
    }

    #[track_caller]
    fn check(flow: Flow, nodes: bool, line: &str) {
        let row = row(&FlowLine::Flow(Box::new(flow)), nodes).unwrap();
        assert_eq!(Columns::new(false).line(&row), line);
    }

    #[test]
    fn a_drop_is_a_line_with_the_policies_that_isolate() {
        check(
            flow(),
            true,
            "06:00:00.123456Z  node-0  denied  shop/client:40312 → [fd00::3]:80/TCP  ingress  policy_denied  \
             no rule of shop/quiet, shop/web",
        );
    }

    #[test]
    fn a_connection_is_a_line_with_the_rule_of_each_direction() {
        let by = |direction: &str, policy: &str, rule: &str| PolicyRef {
            direction: direction.into(),
            policies: vec![policy.into()],
            rule: Some(rule.into()),
        };
        let flow = Flow {
            verdict: VerdictKind::Allowed,
            reason: "rule".into(),
            by: vec![
                by("egress", "shop/out", "spec.egress[1]"),
                by("ingress", "shop/web", "spec.ingress[0]"),
            ],
            ..flow()
        };
        check(
            flow,
            false,
            "06:00:00.123456Z  allowed  shop/client:40312 → [fd00::3]:80/TCP  ingress  rule  \
             egress: shop/out spec.egress[1]; ingress: shop/web spec.ingress[0]",
        );
    }

    #[test]
    fn protocols_without_ports_show_none() {
        let mut flow = Flow { protocol: "ICMP".into(), by: vec![], direction: None, ..flow() };
        (flow.from.port, flow.to.port) = (0, 0);
        check(flow, false, "06:00:00.123456Z  denied  shop/client → fd00::3/ICMP    policy_denied");
    }

    #[test]
    fn every_condition_is_asked_of_the_agent() {
        let query = FlowQuery {
            follow: true,
            last: Some(5),
            pod: Some("shop/web".into()),
            namespace: Some("shop".into()),
            verdict: Some(VerdictKind::Denied),
            port: Some(80),
            protocol: Some("tcp".into()),
        };
        assert_eq!(
            query_string(&query),
            "follow=true&last=5&pod=shop%2Fweb&namespace=shop&verdict=denied&port=80&protocol=tcp"
        );
        assert_eq!(query_string(&FlowQuery::default()), "");
    }
}
