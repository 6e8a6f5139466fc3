//! What the tests run in a pod where it must be a process of its own, in the node's cgroup: one knock at an address, and
//! a line that says what came of it. Not for people to call.
//!
//! `tcp ADDRESS` and `udp ADDRESS` connect, `datagram ADDRESS` does not.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tests::traffic::udp_socket;

const PATIENCE: Duration = Duration::from_secs(3);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [how, to] = arguments.as_slice() else { bail!("usage: weir-test-client tcp|udp|datagram ADDRESS") };
    let to: SocketAddr = to.parse().with_context(|| format!("{to}: expected an address and port"))?;
    let start = Instant::now();
    let outcome = match how.as_str() {
        "tcp" => tcp(to),
        "udp" => udp(to),
        "datagram" => datagram(to),
        _ => bail!("{how}: expected tcp, udp or datagram"),
    };
    let line = match outcome {
        Ok((name, peer)) => format!("{name} at {peer}"),
        Err(error) => format!("{:?}", error.kind()),
    };
    // Fast enough to be an answer, not the end of somebody's patience.
    let pace = if start.elapsed() < PATIENCE * 2 / 3 { "at once" } else { "late" };
    writeln!(std::io::stdout(), "{line}, {pace}").context("write to standard output")
}

/// The name that the pod says, and who that is by `getpeername`.
fn tcp(to: SocketAddr) -> std::io::Result<(String, SocketAddr)> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let peer = stream.peer_addr()?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut name = String::new();
    stream.read_to_string(&mut name)?;
    Ok((name.trim().to_owned(), peer))
}

fn udp(to: SocketAddr) -> std::io::Result<(String, SocketAddr)> {
    let socket = udp_socket(to)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"who are you")?;
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..length]).trim().to_owned(), socket.peer_addr()?))
}

/// The name that comes back, and where it says that it comes from.
fn datagram(to: SocketAddr) -> std::io::Result<(String, SocketAddr)> {
    let socket = udp_socket(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(b"who are you", to)?;
    let mut buffer = [0; 100];
    let (length, from) = socket.recv_from(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..length]).trim().to_owned(), from))
}
