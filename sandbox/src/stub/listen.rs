//! The stub's ports: whoever comes learns the pod's name.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, listen, setsockopt, socket,
    sockopt,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::protocol::Taken;
use super::sctp_socket::Sctp;
use crate::plan::{Listen, Protocol};

/// Every port that is open, and the tasks behind it.
pub(crate) struct Listeners {
    name: Rc<str>,
    sctp: Rc<Sctp>,
    open: BTreeMap<Listen, Vec<Task>>,
}

/// Ends with its owner.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Listeners {
    pub(crate) fn new(name: Rc<str>, sctp: Rc<Sctp>) -> Self {
        Self { name, sctp, open: BTreeMap::new() }
    }

    /// Listens on `wanted` and on nothing else; the ports that somebody else has come back.
    pub(crate) fn set(&mut self, wanted: &[Listen]) -> Vec<Taken> {
        self.open.retain(|listen, _| wanted.contains(listen));
        let sctp = wanted.iter().filter(|listen| listen.protocol == Protocol::Sctp);
        self.sctp.listen_on(sctp.map(|listen| listen.port).collect());
        let mut taken = Vec::new();
        for listen in wanted {
            if self.open.contains_key(listen) {
                continue;
            }
            match self.start(*listen) {
                Ok(tasks) => {
                    self.open.insert(*listen, tasks);
                }
                Err(error) => taken.push(Taken { listen: *listen, error: error.to_string() }),
            }
        }
        taken
    }

    fn start(&self, listen: Listen) -> io::Result<Vec<Task>> {
        let mut tasks = Vec::new();
        for ip in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
            let address = SocketAddr::new(ip, listen.port);
            let name = Rc::clone(&self.name);
            let task = match listen.protocol {
                Protocol::Tcp => tokio::task::spawn_local(serve_tcp(tcp_listener(address)?, name)),
                Protocol::Udp => tokio::task::spawn_local(serve_udp(udp_socket(address)?, name)),
                Protocol::Sctp => continue,
            };
            tasks.push(Task(task));
        }
        Ok(tasks)
    }
}

async fn serve_tcp(listener: tokio::net::TcpListener, name: Rc<str>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::task::spawn_local(greet(stream, Rc::clone(&name)))),
            // Out of descriptors, or the peer is gone already: nothing that a moment does not mend.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

/// Says the name, then waits until the peer has closed.
async fn greet(mut stream: TcpStream, name: Rc<str>) {
    let mut buffer = [0; 4096];
    // A peer that hangs up early is its own affair.
    if stream.write_all(format!("{name}\n").as_bytes()).await.is_ok() {
        while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
    }
}

async fn serve_udp(socket: tokio::net::UdpSocket, name: Rc<str>) {
    let mut buffer = [0; 65_536];
    loop {
        // An error here is an ICMP error about an earlier answer.
        if let Ok((_, peer)) = socket.recv_from(&mut buffer).await {
            socket.send_to(name.as_bytes(), peer).await.ok();
        }
    }
}

/// A wildcard socket of one family only, so that both families have their own and neither answers for the other.
fn wildcard(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, flags, None)?;
    if kind == SockType::Stream {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    match address {
        SocketAddr::V4(address) => bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrIn::from(address))?,
        SocketAddr::V6(address) => {
            setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
            bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrIn6::from(address))?;
        }
    }
    Ok(fd)
}

pub(crate) fn tcp_listener(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let fd = wildcard(address, SockType::Stream)?;
    listen(&fd, Backlog::MAXCONN)?;
    tokio::net::TcpListener::from_std(TcpListener::from(fd))
}

pub(crate) fn udp_socket(address: SocketAddr) -> io::Result<tokio::net::UdpSocket> {
    tokio::net::UdpSocket::from_std(UdpSocket::from(wildcard(address, SockType::Datagram)?))
}
