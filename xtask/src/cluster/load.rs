//! `xtask cluster load`: stands in a pod and keeps many connections busy until it is told to stop.
//!
//! Each connection asks an `agnhost netexec` again and again; one that gets no answer, or a wrong one, is lost and stays so.
//! Beside them one short connection after another is made, whose first packet must be answered.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::probe;
use crate::process;

/// A packet that was dropped is sent again after 200 ms, then after 400, and so on; a second's silence is ten packets lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two questions on one connection.
const PAUSE: Duration = Duration::from_secs(1);

/// What became of the load.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) connections: usize,
    pub(crate) answers: u64,
    /// Why, of each connection that was lost.
    pub(crate) lost: Vec<String>,
    /// Short connections that came about, and how many first packets had to be sent again.
    pub(crate) short: u64,
    pub(crate) repeated: u64,
}

/// A load that runs in a pod. Dropped, it ends.
pub(crate) struct Load(Child);

impl Load {
    /// Begins in the place of the process `pid`; returns when all connections are there.
    pub(crate) fn begin(pid: i32, server: SocketAddr, connections: usize) -> Result<Self> {
        let mut command = process::ourselves();
        command.args(["cluster", "load", &pid.to_string(), &server.to_string(), &connections.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut load = Self(command.spawn().context("start a load")?);
        let mut line = [0];
        let stdout = load.0.stdout.as_mut().context("the load has no stdout")?;
        stdout.read_exact(&mut line).context("the load did not begin")?;
        Ok(load)
    }

    /// Ends it and asks how it went.
    pub(crate) fn end(mut self) -> Result<Report> {
        drop(self.0.stdin.take());
        let mut text = String::new();
        self.0.stdout.take().context("the load has no stdout")?.read_to_string(&mut text)?;
        serde_json::from_str(&text).with_context(|| format!("understand what the load says: {text}"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// What that child does.
pub(crate) fn command(pid: i32, server: SocketAddr, connections: usize) -> Result<()> {
    probe::join_cgroup(pid)?;
    let netns = netlink::Netns::open(format!("/proc/{pid}/ns/net")).context("open a pod's network")?;
    let report = netns.run(|| run(server, connections))??;
    std::io::stdout().write_all(&serde_json::to_vec(&report)?).context("say how it went")
}

fn run(server: SocketAddr, connections: usize) -> Result<Report> {
    let streams = (0..connections)
        .map(|_| TcpStream::connect_timeout(&server, PATIENCE))
        .collect::<Result<Vec<_>, _>>()
        .context("make the connections")?;
    let (stop, answers, lost) = (AtomicBool::new(false), AtomicU64::new(0), Mutex::new(Vec::new()));
    let short = AtomicU64::new(0);
    let repeated = first_packets_repeated()?;
    std::io::stdout()
        .write_all(b"\n")
        .and_then(|()| std::io::stdout().flush())
        .context("say that it runs")?;
    thread::scope(|scope| {
        for (number, stream) in streams.into_iter().enumerate() {
            let (stop, answers, lost) = (&stop, &answers, &lost);
            scope.spawn(move || {
                if let Err(error) = converse(&stream, stop, answers) {
                    let complaint = format!("connection {number}: {error:#}");
                    lost.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(complaint);
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if TcpStream::connect_timeout(&server, PATIENCE).is_ok() {
                    short.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        // Until whoever started us lets go.
        std::io::stdin().read_to_end(&mut Vec::new()).ok();
        stop.store(true, Ordering::Relaxed);
    });
    Ok(Report {
        connections,
        answers: answers.into_inner(),
        lost: lost.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner),
        short: short.into_inner(),
        repeated: first_packets_repeated()? - repeated,
    })
}

/// The kernel's own count, for this namespace: whether a first packet is answered depends on no process's turn.
fn first_packets_repeated() -> Result<u64> {
    let path = "/proc/thread-self/net/netstat";
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut counters = names.split_whitespace().zip(values.split_whitespace());
    let found = counters.find(|(name, _)| *name == "TCPSynRetrans");
    let (_, value) = found.with_context(|| format!("{path} has no TCPSynRetrans"))?;
    value.parse().with_context(|| format!("{path}: TCPSynRetrans"))
}

/// Asks and listens until told to stop.
fn converse(mut stream: &TcpStream, stop: &AtomicBool, answers: &AtomicU64) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    // One descriptor a connection: a process may have 1,024.
    let mut reader = BufReader::new(stream);
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(b"GET /echo?msg=weir HTTP/1.1\r\nHost: pod\r\n\r\n").context("ask")?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            ensure!(reader.read_line(&mut line).context("listen")? > 0, "the server hung up");
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().context("an answer's length")?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).context("listen")?;
        ensure!(body == b"weir", "the answer is `{}`", String::from_utf8_lossy(&body));
        answers.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    Ok(())
}
