//! Packets that no ordinary socket would send, from inside a namespace.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use netlink::Netns;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::frame::{ETH_LEN, Flow, checksum};
use crate::traffic::Outcome;

/// A raw socket of the family of `to`, in the namespace of the calling thread.
fn raw(to: IpAddr, v4: SockProtocol, v6: SockProtocol) -> io::Result<UdpSocket> {
    let (family, protocol) =
        if to.is_ipv4() { (AddressFamily::Inet, v4) } else { (AddressFamily::Inet6, v6) };
    // A raw socket has no type of its own in std. UDP's does what we need: datagrams with an address.
    Ok(UdpSocket::from(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?))
}

/// Sends a frame's packet as it is, whatever source address it claims. From a pod: what is for its link leaves by `eth0`.
pub fn send(netns: &Netns, to: IpAddr, frame: &[u8]) {
    let address = || -> io::Result<SocketAddr> {
        let IpAddr::V6(ip) = to else { return Ok(SocketAddr::new(to, 0)) };
        let is_of_link = ip.is_unicast_link_local() || ip.is_multicast();
        let scope = if is_of_link { nix::net::if_::if_nametoindex("eth0")? } else { 0 };
        Ok(SocketAddrV6::new(ip, 0, 0, scope).into())
    };
    let work = || raw(to, SockProtocol::Raw, SockProtocol::Raw)?.send_to(&frame[ETH_LEN..], address()?);
    netns.run(work).expect("enter").expect("send a raw packet");
}

/// Hears whatever segments of TCP reach a namespace, also those that belong to no connection there.
pub struct Listener(UdpSocket);

impl Listener {
    /// For the family of `peer`.
    pub fn tcp(netns: &Netns, peer: IpAddr) -> Self {
        let open = || raw(peer, SockProtocol::Tcp, SockProtocol::Tcp);
        Self(netns.run(open).expect("enter").expect("a raw socket"))
    }

    /// Whether there comes a segment of this flow.
    pub fn hears(&self, flow: Flow, patience: Duration) -> Outcome {
        let ports = [flow.source_port.to_be_bytes(), flow.destination_port.to_be_bytes()].concat();
        let heard = receive(&self.0, patience, |from, segment| {
            from == flow.source && segment.get(..4) == Some(&ports[..])
        });
        match heard {
            Ok(true) => Outcome::Answered,
            Ok(false) => Outcome::Silence,
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }
}

/// Whether something comes that is wanted: by its source, and what it carries.
fn receive(
    socket: &UdpSocket,
    patience: Duration,
    wanted: impl Fn(IpAddr, &[u8]) -> bool,
) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        let Some(left) = left else { return Ok(false) };
        socket.set_read_timeout(Some(left))?;
        let mut buffer = [0; 2048];
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        // IPv4 raw sockets deliver the IP header too.
        let header = if from.is_ipv4() { usize::from(buffer[0] & 0xf) * 4 } else { 0 };
        if wanted(from.ip(), &buffer[header.min(length)..length]) {
            return Ok(true);
        }
    }
}

/// An echo request and its answer.
pub fn ping(netns: &Netns, to: IpAddr, patience: Duration) -> Outcome {
    let work = || -> io::Result<bool> {
        let socket = raw(to, SockProtocol::Icmp, SockProtocol::IcmpV6)?;
        let (request, reply) = if to.is_ipv4() { (8, 0) } else { (128, 129) };
        let [id, sequence] = [0x77, u8::try_from(std::process::id() % 251).unwrap_or_default()];
        let mut message = [&[request, 0, 0, 0, id, sequence, 0, 1][..], &[0x5a; 48]].concat();
        if to.is_ipv4() {
            // For IPv6 the kernel does it.
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        socket.send_to(&message, SocketAddr::new(to, 0))?;
        receive(&socket, patience, |from, answer| {
            from == to && answer.first() == Some(&reply) && answer.get(4..6) == Some(&[id, sequence])
        })
    };
    match netns.run(work).expect("enter") {
        Ok(true) => Outcome::Answered,
        Ok(false) => Outcome::Silence,
        Err(error) => Outcome::Failed(error.to_string()),
    }
}
