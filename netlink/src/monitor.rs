//! What happens to links, routes, neighbours, settings and tc filters of one namespace, as it happens.
//!
//! Only enough of each message is read to say where to look again: what is there now is asked for, never inferred.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;

use nix::libc::ENOBUFS;
use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
use tokio::net::UdpSocket;

use crate::ROUTE_PROTOCOL;
use crate::error::{Error, Result};

/// Where something has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The link itself, one of its neighbours, or one of its IPv4 or IPv6 settings. Not every setting is told of
    /// (`accept_ra` is not).
    Link(u32),
    /// A qdisc or filter of the link.
    Filter(u32),
    /// A route of ours is gone, or some route was replaced.
    Route,
    /// More has happened than could be told: everything has to be looked at.
    Lost,
}

/// Follows one namespace. Whatever happens after [`Monitor::new`] is told.
#[derive(Debug)]
pub struct Monitor {
    /// A netlink socket has no type of its own in tokio. UDP's does what we need: datagrams.
    socket: UdpSocket,
    buffer: Vec<u8>,
}

// include/uapi/linux/rtnetlink.h; a group is a bit, counted from one.
const GROUPS: u32 = group(1) | group(3) | group(4) | group(7) | group(11) | group(24) | group(25);
const LINK: [u16; 2] = [16, 17];
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const NEIGHBOUR: [u16; 2] = [28, 29];
const FILTER: [u16; 4] = [36, 37, 44, 45];
const SETTING: [u16; 2] = [80, 81];
const REPLACED: u16 = 0x100;
const HEADER: usize = 16;
/// More than any of these messages has.
const BUFFER: usize = 64 << 10;

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}

impl Monitor {
    /// Follows the calling thread's namespace. Must be called within a tokio runtime.
    pub fn new() -> Result<Self> {
        let open = || -> io::Result<UdpSocket> {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
            UdpSocket::from_std(socket.into())
        };
        let socket = open().map_err(|source| Error::Socket { source })?;
        Ok(Self { socket, buffer: vec![0; BUFFER] })
    }

    /// What has changed since this was last asked, at least one thing. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Vec<Change>> {
        let failed = |source| Error::Socket { source };
        loop {
            self.socket.readable().await.map_err(failed)?;
            let mut changes = Vec::new();
            loop {
                match self.socket.try_recv(&mut self.buffer) {
                    Ok(length) => changes.extend(messages(&self.buffer[..length]).filter_map(change)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.raw_os_error() == Some(ENOBUFS) => changes.push(Change::Lost),
                    Err(error) => return Err(failed(error)),
                }
            }
            if !changes.is_empty() {
                changes.sort();
                changes.dedup();
                return Ok(changes);
            }
        }
    }
}

/// Type, flags and body of each message of a datagram.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(datagram.get(..4)?.try_into().ok()?) as usize;
        let message = datagram.get(..length).filter(|_| length >= HEADER)?;
        let half = |at: usize| u16::from_ne_bytes([message[at], message[at + 1]]);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((half(4), half(6), &message[HEADER..]))
    })
}

fn change((kind, flags, body): (u16, u16, &[u8])) -> Option<Change> {
    let word = |at: usize| body.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    match kind {
        kind if LINK.contains(&kind) || NEIGHBOUR.contains(&kind) => word(4).map(Change::Link),
        kind if FILTER.contains(&kind) => word(4).map(Change::Filter),
        // A family, then attributes, of which the interface is the first.
        kind if SETTING.contains(&kind) => word(8).map(Change::Link),
        DELETE_ROUTE => (body.get(5) == Some(&ROUTE_PROTOCOL)).then_some(Change::Route),
        NEW_ROUTE => (flags & REPLACED != 0).then_some(Change::Route),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_message_is_passed_over() {
        for text in
            [&b""[..], b"abc", &[0; 16], &[255; 64], &[17, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]]
        {
            assert_eq!(messages(text).filter_map(change).count(), 0, "{text:?}");
        }
    }
}
