//! Whether packets with pods' addresses pass between two nodes: an echo request from the address of our own pod CIDR to that of
//! the other node's, and its answer.
//!
//! That a node is on the link does not prove it: clouds check sources. A way that was proven is looked at again now and then,
//! one that was not with growing patience.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// So many in a row without an answer are no accident.
const LOSSES: u32 = 3;
/// A way that is open is looked at this often.
const CALM: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(60);

pub(crate) struct Prober {
    /// One of each family, as soon as the address to speak from is there.
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    /// Tells our answers from anybody else's.
    token: [u8; 8],
    peers: BTreeMap<IpAddr, Peer>,
}

impl Prober {
    pub(crate) fn new() -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        let token = RandomState::new().hash_one(std::process::id()).to_ne_bytes();
        Self { v4: None, v6: None, token, peers: BTreeMap::new() }
    }

    /// Probes go out from `own`, which is an address of this node.
    pub(crate) fn speak_from(&mut self, own: IpAddr) -> Result<()> {
        let socket = if own.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        if socket.as_ref().and_then(|socket| socket.local_addr().ok()).map(|local| local.ip()) != Some(own) {
            *socket = Some(raw(own).with_context(|| format!("open a socket for probes from {own}"))?);
        }
        Ok(())
    }

    /// Asks these and no others. Of those not known yet, the caller says what is to be believed until they have answered.
    pub(crate) fn watch(&mut self, targets: &BTreeMap<IpAddr, bool>) {
        self.peers.retain(|target, _| targets.contains_key(target));
        let now = Instant::now();
        for (target, open) in targets {
            self.peers.entry(*target).or_insert_with(|| Peer::new(*open, now));
        }
    }

    pub(crate) fn is_open(&self, target: IpAddr) -> bool {
        self.peers.get(&target).is_some_and(|peer| peer.open)
    }

    /// Sends what is due and hears what comes, until a way has opened or closed. May be dropped at any time.
    pub(crate) async fn news(&mut self) {
        let (mut v4, mut v6) = ([0; 512], [0; 512]);
        loop {
            let due = self.peers.values().map(|peer| peer.next).min();
            let heard = tokio::select! {
                heard = hear(self.v4.as_ref(), &mut v4) => Some(heard),
                heard = hear(self.v6.as_ref(), &mut v6) => Some(heard),
                () = pause(due) => None,
            };
            let news = match heard {
                Some(Ok((length, from))) => {
                    let room = if from.is_ipv4() { &v4 } else { &v6 };
                    self.take(&room[..length], from.ip())
                }
                // What the network says of an earlier probe.
                Some(Err(_)) => false,
                None => self.send().await,
            };
            if news {
                return;
            }
        }
    }

    fn take(&mut self, message: &[u8], from: IpAddr) -> bool {
        let Some(peer) = self.peers.get_mut(&from) else { return false };
        // IPv4 raw sockets deliver the IP header too.
        let header =
            if from.is_ipv4() { message.first().map_or(0, |byte| usize::from(byte & 0xf) * 4) } else { 0 };
        let answer = message.get(header..).unwrap_or_default();
        let reply = if from.is_ipv4() { 0 } else { 129 };
        let is_ours = answer.first() == Some(&reply) && answer.get(8..16) == Some(&self.token);
        is_ours && peer.heard(Instant::now())
    }

    async fn send(&mut self) -> bool {
        let now = Instant::now();
        let mut news = false;
        for (target, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.next <= now) {
            news |= peer.ask(now);
            let (socket, request) = if target.is_ipv4() { (&self.v4, 8) } else { (&self.v6, 128) };
            let Some(socket) = socket else { continue };
            let mut message = [&[request, 0, 0, 0, 0, 0, 0, 1][..], &self.token].concat();
            if target.is_ipv4() {
                // For IPv6 the kernel does it.
                let sum = checksum(&message);
                message[2..4].copy_from_slice(&sum.to_be_bytes());
            }
            // Without a route, or to a neighbour that does not answer: as good as lost.
            if let Err(error) = socket.send_to(&message, SocketAddr::new(*target, 0)).await {
                debug!(%target, %error, "probe not sent");
            }
        }
        news
    }
}

async fn pause(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

async fn hear(socket: Option<&UdpSocket>, room: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    match socket {
        Some(socket) => socket.recv_from(room).await,
        None => std::future::pending().await,
    }
}

/// One node of one family.
#[derive(Debug)]
struct Peer {
    open: bool,
    /// A probe is on its way.
    asked: bool,
    /// In a row.
    lost: u32,
    next: Instant,
}

impl Peer {
    fn new(open: bool, now: Instant) -> Self {
        Self { open, asked: false, lost: 0, next: now }
    }

    /// A probe goes out. Whether the silence after those before it is news.
    fn ask(&mut self, now: Instant) -> bool {
        if self.asked {
            self.lost = self.lost.saturating_add(1);
        }
        self.asked = true;
        let beyond = self.lost.saturating_sub(LOSSES);
        self.next = now
            + if self.lost < LOSSES { PATIENCE } else { (PATIENCE * 2_u32.pow(beyond.min(7))).min(LONGEST) };
        let closes = self.open && self.lost >= LOSSES;
        self.open &= !closes;
        closes
    }

    /// An answer came. Whether that is news.
    fn heard(&mut self, now: Instant) -> bool {
        (self.asked, self.lost, self.next) = (false, 0, now + CALM);
        !std::mem::replace(&mut self.open, true)
    }
}

/// A raw ICMP socket that only hears what is for `own`.
fn raw(own: IpAddr) -> io::Result<UdpSocket> {
    let (family, protocol) = match own {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    // A raw socket has no type of its own in std. UDP's does what we need: datagrams with an address.
    let socket = socket(family, SockType::Raw, flags, protocol)?;
    setsockopt(&socket, sockopt::RcvBuf, &65_536)?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(SocketAddr::new(own, 0)))?;
    UdpSocket::from_std(std::net::UdpSocket::from(socket))
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks as often as it wants to within `time`; whether anything changed.
    fn silence(peer: &mut Peer, from: Instant, time: Duration) -> (u32, bool) {
        let (mut asked, mut news) = (0, false);
        while peer.next <= from + time {
            news |= peer.ask(peer.next);
            asked += 1;
        }
        (asked, news)
    }

    #[test]
    fn one_answer_opens_a_way_and_three_lost_in_a_row_close_it() {
        let start = Instant::now();
        let mut peer = Peer::new(false, start);
        assert!(!peer.ask(start));
        assert!(peer.heard(start) && peer.open);
        assert!(!peer.ask(start + CALM) && !peer.heard(start + CALM), "no news");
        let later = peer.next;
        assert_eq!(silence(&mut peer, later, PATIENCE * 2), (3, false), "two are lost");
        assert!(peer.open);
        assert!(!peer.heard(peer.next), "and the third is not");
        let later = peer.next;
        assert_eq!(silence(&mut peer, later, PATIENCE * 3), (4, true));
        assert!(!peer.open);
        assert!(peer.heard(peer.next) && peer.open);
    }

    #[test]
    fn who_never_answers_is_asked_ever_more_seldom() {
        let start = Instant::now();
        let mut peer = Peer::new(false, start);
        let (first, news) = silence(&mut peer, start, Duration::from_secs(60));
        assert!((6..=12).contains(&first) && !news, "{first}");
        let later = peer.next;
        let (then, _) = silence(&mut peer, later, Duration::from_secs(600));
        assert!((10..=11).contains(&then), "{then}");
    }

    #[test]
    fn a_checksum_makes_the_sum_whole() {
        let mut message = [8, 0, 0, 0, 0, 0, 0, 1, 0xfe, 0xdc, 0xba, 0x98];
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(checksum(&message), 0);
    }
}
