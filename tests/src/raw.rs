//! Packets that no ordinary socket would send, from inside a namespace.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use netlink::Netns;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::frame::ETH_LEN;
use crate::traffic::Outcome;

/// A raw socket of the family of `to`, in the namespace of the calling thread.
fn raw(to: IpAddr, v4: SockProtocol, v6: SockProtocol) -> io::Result<UdpSocket> {
    let (family, protocol) =
        if to.is_ipv4() { (AddressFamily::Inet, v4) } else { (AddressFamily::Inet6, v6) };
    // A raw socket has no type of its own in std. UDP's does what we need: datagrams with an address.
    Ok(UdpSocket::from(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?))
}

/// Sends a frame's packet as it is, whatever source address it claims.
pub fn send(netns: &Netns, to: IpAddr, frame: &[u8]) {
    let work =
        || raw(to, SockProtocol::Raw, SockProtocol::Raw)?.send_to(&frame[ETH_LEN..], SocketAddr::new(to, 0));
    netns.run(work).expect("enter").expect("send a raw packet");
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
        let deadline = Instant::now() + patience;
        loop {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            else {
                return Ok(false);
            };
            socket.set_read_timeout(Some(left))?;
            let mut buffer = [0; 2048];
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            // IPv4 raw sockets deliver the IP header too.
            let header = if from.is_ipv4() { usize::from(buffer[0] & 0xf) * 4 } else { 0 };
            let answer = &buffer[header.min(length)..length];
            if from.ip() == to && answer.first() == Some(&reply) && answer.get(4..6) == Some(&[id, sequence])
            {
                return Ok(true);
            }
        }
    };
    match netns.run(work).expect("enter") {
        Ok(true) => Outcome::Answered,
        Ok(false) => Outcome::Silence,
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or_default()
}
