//! `xtask cluster probe`: stands in a pod, knocks at many doors at once, and says what it found.
//!
//! A process of its own, since it joins the pod's cgroup (whose connections to Services are translated) and its network
//! namespace. It needs nothing in the pod's image.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::process;

/// Whoever has not answered by then does not. A denied packet vanishes, so each denial takes so long.
const SILENCE: Duration = Duration::from_millis(1500);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Protocol {
    /// Connects, no more.
    Tcp,
    /// Connects and asks who is there, as `agnhost netexec` and `serve-hostname` can say.
    Http,
    /// Asks who is there, as `agnhost netexec --udp-port` can say.
    Udp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
}

/// What came of one knock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Somebody is there, and may have said a name.
    Yes(String),
    Silence,
    /// Somebody said no, or there is no way.
    Error(String),
}

impl Answer {
    pub(crate) fn is_yes(&self) -> bool {
        matches!(self, Self::Yes(_))
    }
}

/// Knocks from the place of the process `pid`.
pub(crate) fn from_place_of(pid: i32, targets: &[Target]) -> Result<Vec<Answer>> {
    let mut command = process::ourselves();
    command.args(["cluster", "probe"]).arg(pid.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("start a prober")?;
    let mut stdin = child.stdin.take().context("the prober has no stdin")?;
    stdin.write_all(&serde_json::to_vec(targets)?).context("tell the prober where to knock")?;
    drop(stdin);
    let output = child.wait_with_output().context("wait for a prober")?;
    ensure!(output.status.success(), "the prober failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    serde_json::from_slice(&output.stdout).context("understand a prober")
}

/// What that child does.
pub(crate) fn command(pid: i32) -> Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("read where to knock")?;
    let targets: Vec<Target> = serde_json::from_str(&text).context("understand where to knock")?;
    join_cgroup(pid)?;
    let netns = netlink::Netns::open(format!("/proc/{pid}/ns/net")).context("open a pod's network")?;
    let answers: Vec<Answer> = netns.run(|| {
        thread::scope(|scope| {
            // Threads inherit their maker's namespace.
            let knocks: Vec<_> = targets.iter().map(|target| scope.spawn(|| knock(target))).collect();
            knocks
                .into_iter()
                .map(|knock| knock.join().unwrap_or_else(|it| std::panic::resume_unwind(it)))
                .collect()
        })
    })?;
    std::io::stdout().write_all(&serde_json::to_vec(&answers)?).context("say what came of it")
}

/// Steps into the cgroup of a process: its connections to Services are ours from then on.
pub(crate) fn join_cgroup(pid: i32) -> Result<()> {
    let cgroup = unified_cgroup(pid)?.join("cgroup.procs");
    fs::write(&cgroup, "0").with_context(|| format!("join {}", cgroup.display()))
}

/// The cgroup2 folder of a process.
pub(crate) fn unified_cgroup(pid: i32) -> Result<PathBuf> {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::")).context("the process has no cgroup2")?;
    Ok(Path::new("/sys/fs/cgroup/unified").join(own.trim_start_matches('/')))
}

fn knock(target: &Target) -> Answer {
    let said = match target.protocol {
        Protocol::Tcp => TcpStream::connect_timeout(&target.address, SILENCE).map(|_| String::new()),
        Protocol::Http => http(target.address),
        Protocol::Udp => udp(target.address),
    };
    said.map(Answer::Yes).unwrap_or_else(|error| match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Answer::Silence,
        _ => Answer::Error(error.to_string()),
    })
}

fn http(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, SILENCE)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    Ok(body.trim().to_owned())
}

fn udp(address: SocketAddr) -> std::io::Result<String> {
    let any: SocketAddr = if address.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(SILENCE))?;
    socket.send(b"hostname\n")?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
}
