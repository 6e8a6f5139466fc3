//! The API server over plain HTTP, by `kubectl proxy`: thousands of requests, each without a process of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::super::machine::Machine;
use super::super::scenarios::town::Town;

/// The API server defers whom it cannot serve now.
const TOO_MANY: u16 = 429;
const PAUSE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Proxy {
    child: Child,
    address: SocketAddr,
    control_plane: Machine,
}

impl Proxy {
    pub(super) fn start(town: &Town) -> Result<Self> {
        let control_plane = town.cluster.control_plane()?.clone();
        let mut command = town.kubectl.command(&["proxy", "--port=0"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        // A process of the machine: it ends with the cluster, however we end.
        let mut child = control_plane.inside(|| command.spawn().context("start kubectl proxy"))?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("kubectl proxy has no stdout")?;
        BufReader::new(stdout).read_line(&mut line).context("hear of kubectl proxy")?;
        let address = line.trim().rsplit(' ').next().and_then(|word| word.parse().ok());
        let address = address.with_context(|| format!("kubectl proxy says `{}`", line.trim()))?;
        Ok(Self { child, address, control_plane })
    }

    pub(super) fn connect(&self) -> Result<Connection> {
        // A socket stays in the namespace that it was made in.
        let stream = self.control_plane.in_network(|| TcpStream::connect(self.address))?;
        let stream = stream.context("connect to kubectl proxy")?;
        stream.set_read_timeout(Some(PATIENCE)).context("limit an answer's time")?;
        stream.set_nodelay(true).context("send requests at once")?;
        Ok(Connection { stream: BufReader::new(stream) })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().unwrap_or_default();
        self.child.wait().ok();
    }
}

/// One request after the other.
pub(super) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(super) fn get(&mut self, path: &str) -> Result<Value> {
        serde_json::from_slice(&self.ask("GET", path, "")?).with_context(|| format!("understand {path}"))
    }

    pub(super) fn text(&mut self, path: &str) -> Result<String> {
        String::from_utf8(self.ask("GET", path, "")?).with_context(|| format!("read {path}"))
    }

    pub(super) fn create(&mut self, path: &str, object: &Value) -> Result<()> {
        self.ask("POST", path, &object.to_string()).map(drop)
    }

    pub(super) fn delete(&mut self, path: &str) -> Result<()> {
        self.ask("DELETE", path, "").map(drop)
    }

    fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Vec<u8>> {
        loop {
            let answer = self.once(method, path, body).with_context(|| format!("{method} {path}"))?;
            match answer {
                (TOO_MANY, _) => thread::sleep(PAUSE),
                (200..300, answer) => return Ok(answer),
                (status, answer) => bail!("{method} {path}: {status} {}", String::from_utf8_lossy(&answer)),
            }
        }
    }

    fn once(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, Vec<u8>)> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?;
        let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let code = code.with_context(|| format!("the answer begins with `{status}`"))?;
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", value)) => length = value.parse().context("an answer's length")?,
                Some(("transfer-encoding", "chunked")) => chunked = true,
                Some(_) => {}
                None => break,
            }
        }
        let mut whole = Vec::new();
        if chunked {
            loop {
                let size = self.line()?;
                let size =
                    usize::from_str_radix(size.trim(), 16).with_context(|| format!("a chunk of `{size}`"))?;
                self.take(size, &mut whole)?;
                self.line()?;
                if size == 0 {
                    break;
                }
            }
        } else {
            self.take(length, &mut whole)?;
        }
        Ok((code, whole))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line)? > 0, "the connection has ended");
        Ok(line.trim_end().to_owned())
    }

    fn take(&mut self, length: usize, into: &mut Vec<u8>) -> Result<()> {
        let begun = into.len();
        into.resize(begun + length, 0);
        Ok(self.stream.read_exact(&mut into[begun..])?)
    }
}
