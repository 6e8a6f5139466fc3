//! The agent of a node, seen from outside: its process, its health, its metrics.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};

use super::super::scenarios::town::{Pod, Town, eventually};
use super::super::weir::NAMESPACE;

/// Of /proc's clock ticks, in every Linux.
const TICKS_PER_S: f64 = 100.0;
/// Where it serves its metrics.
const PORT: u16 = 9665;
const GLANCE: Duration = Duration::from_millis(10);

pub(super) struct Agent<'a> {
    town: &'a Town,
    node: String,
    pub(super) pod: Pod,
    pid: i32,
}

/// MiB.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) resident: f64,
    /// Without pages of files.
    pub(super) own: f64,
    pub(super) peak: f64,
}

/// How often an event of a kind took up to so many seconds: by the bucket's bound.
pub(super) type Buckets = BTreeMap<String, u64>;

impl<'a> Agent<'a> {
    /// The agent of this node whose pod is not `before`.
    pub(super) fn of(town: &'a Town, node: &str, before: Option<&Pod>) -> Result<Self> {
        eventually(&format!("an agent runs on {node}"), || {
            let pods = town.pods(NAMESPACE)?.into_iter();
            let mut pods = pods.filter(|pod| pod.node == node && before.is_none_or(|old| old.uid != pod.uid));
            let pod = pods.next().context("no pod of the agent")?;
            // The init containers run the same program, with other arguments.
            let is_agent = |pid: &i32| {
                let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                line.starts_with("/weir-agent\0--node=")
            };
            let pid = town.processes(&pod)?.into_iter().find(is_agent).context("it has not begun")?;
            Ok(Self { town, node: node.to_owned(), pod, pid })
        })
    }

    pub(super) fn memory(&self) -> Result<Memory> {
        let path = format!("/proc/{}/status", self.pid);
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let of = |field: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(field))
                .with_context(|| format!("no {field}"))?;
            let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("a number of KiB")?;
            anyhow::Ok(kib / 1024.0)
        };
        Ok(Memory { resident: of("VmRSS:")?, own: of("RssAnon:")?, peak: of("VmHWM:")? })
    }

    /// The share of one processor that it uses for so long, in percent.
    pub(super) fn load(&self, span: Duration) -> Result<f64> {
        let (before, begun) = (stat(self.pid)?.seconds, Instant::now());
        thread::sleep(span);
        Ok(100.0 * (stat(self.pid)?.seconds - before) / begun.elapsed().as_secs_f64())
    }

    /// Seconds from its start until everything was programmed, which stands in its log.
    pub(super) fn start_took(&self, limit: Duration) -> Result<f64> {
        let begun = Instant::now();
        while let Err(error) = self.ask("/readyz") {
            ensure!(begun.elapsed() < limit, "the agent is not ready after {} s: {error:#}", limit.as_secs());
            thread::sleep(GLANCE);
        }
        let name = self.pod.name.rsplit('/').next().context("a pod has a name")?;
        let log = self.town.kubectl.run(&["logs", name, "--container=agent", "--namespace", NAMESPACE])?;
        let line =
            log.lines().find(|line| line.contains(": ready ")).context("no `ready` in the agent's log")?;
        let word = line.split_whitespace().next().unwrap_or_default();
        let ready: jiff::Timestamp = word.parse().with_context(|| format!("`{word}` is no time"))?;
        let age = uptime()? - stat(self.pid)?.started;
        let started = SystemTime::now() - Duration::from_secs_f64(age);
        let took = SystemTime::from(ready).duration_since(started).context("ready before it began")?;
        Ok(took.as_secs_f64())
    }

    pub(super) fn events(&self, kind: &str) -> Result<Buckets> {
        let text = self.ask("/metrics")?;
        let prefix = format!("weir_event_seconds_bucket{{kind=\"{kind}\",le=\"");
        let buckets = text.lines().filter_map(|line| {
            let (bound, count) = line.strip_prefix(&prefix)?.split_once("\"} ")?;
            Some((bound.to_owned(), count.parse().ok()?))
        });
        Ok(buckets.collect())
    }

    /// A number of `/metrics`, by its name with its labels.
    pub(super) fn number(&self, name: &str) -> Result<f64> {
        let text = self.ask("/metrics")?;
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        found.with_context(|| format!("the agent has no metric {name}"))
    }

    fn ask(&self, path: &str) -> Result<String> {
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, PORT));
        let mut stream =
            self.town.cluster.machine(&self.node)?.in_network(connect)?.context("connect to the agent")?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).with_context(|| format!("read {path}"))?;
        match text.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
            _ => bail!("{path}: {}", text.lines().next().unwrap_or("no answer")),
        }
    }
}

struct Stat {
    /// On a processor.
    seconds: f64,
    /// Since the machine's start.
    started: f64,
}

fn stat(pid: i32) -> Result<Stat> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The name may hold anything; what is behind it begins with the third field.
    let (_, rest) = text.rsplit_once(')').with_context(|| format!("{path} has no name in it"))?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |number: usize| -> Result<f64> {
        let field = fields.get(number - 3).with_context(|| format!("{path} has no field {number}"))?;
        Ok(field.parse::<f64>().with_context(|| format!("field {number} of {path}"))? / TICKS_PER_S)
    };
    Ok(Stat { seconds: ticks(14)? + ticks(15)?, started: ticks(22)? })
}

fn uptime() -> Result<f64> {
    let text = fs::read_to_string("/proc/uptime").context("read /proc/uptime")?;
    let first = text.split_whitespace().next().context("/proc/uptime is empty")?;
    first.parse().context("read /proc/uptime")
}

/// Of the events between two looks, the bound of the bucket in which this share of them has come.
pub(super) fn quantile_between(before: &Buckets, after: &Buckets, share: f64) -> Option<(String, u64)> {
    let news =
        |bound: &String| after.get(bound).copied().unwrap_or(0) - before.get(bound).copied().unwrap_or(0);
    let all = news(&"+Inf".to_owned());
    let mut bounds: Vec<(f64, &String)> =
        after.keys().map(|bound| (bound.parse().unwrap_or(f64::INFINITY), bound)).collect();
    bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let wanted = (share * all as f64).ceil() as u64;
    let (_, bound) = bounds.into_iter().find(|(_, bound)| all > 0 && news(bound) >= wanted)?;
    Some((bound.clone(), all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_of_what_came_between_is_the_bound_of_its_bucket() {
        let buckets = |counts: [u64; 3]| -> Buckets {
            ["0.005", "0.02", "+Inf"].into_iter().map(str::to_owned).zip(counts).collect()
        };
        let (before, after) = (buckets([10, 10, 20]), buckets([100, 109, 120]));
        assert_eq!(quantile_between(&before, &after, 0.5), Some(("0.005".to_owned(), 100)));
        assert_eq!(quantile_between(&before, &after, 0.99), Some(("0.02".to_owned(), 100)));
        assert_eq!(quantile_between(&before, &after, 1.0), Some(("+Inf".to_owned(), 100)));
        assert_eq!(quantile_between(&after, &after, 0.5), None);
    }
}
