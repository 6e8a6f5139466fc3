//! One knock at one port, from inside the pod.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::protocol::{Outcome, Probe};
use super::sctp_socket::Sctp;
use crate::plan::Protocol;

/// What a probe says. No DNS message and no length of one, so that the resolver knows it too.
pub(crate) const QUESTION: [u8; 2] = *b"?\n";

/// Tries `probe`, and calls `started` with the address that it comes from.
pub(crate) async fn run(probe: Probe, sctp: &Sctp, started: impl FnOnce(SocketAddr)) -> Outcome {
    let to = SocketAddr::new(probe.ip, probe.port);
    let attempt = async {
        match probe.protocol {
            Protocol::Tcp => tcp(to, started).await,
            Protocol::Udp => udp(to, started).await,
            Protocol::Sctp => sctp.probe(to, started).await,
        }
    };
    match tokio::time::timeout(Duration::from_millis(probe.timeout_ms), attempt).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Outcome::Refused(error.to_string())
        }
        Ok(Err(error)) => Outcome::Failed(error.to_string()),
        Err(_) => Outcome::Silence,
    }
}

async fn tcp(to: SocketAddr, started: impl FnOnce(SocketAddr)) -> io::Result<Outcome> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = std::net::TcpStream::from(fd);
    started(stream.local_addr()?);
    let mut stream = tokio::net::TcpStream::from_std(stream)?;
    stream.writable().await?;
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    stream.write_all(&QUESTION).await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    Ok(Outcome::Answered(line.trim_end().to_owned()))
}

async fn udp(to: SocketAddr, started: impl FnOnce(SocketAddr)) -> io::Result<Outcome> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = tokio::net::UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    started(socket.local_addr()?);
    socket.send(&QUESTION).await?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).await?;
    Ok(Outcome::Answered(String::from_utf8_lossy(&answer[..length]).into_owned()))
}
