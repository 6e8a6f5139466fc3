//! Raw sockets that carry the packets of [`super::sctp`], one a family, shared by listening and probing.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;

use super::protocol::Outcome;
use super::sctp::{Chunk, Packet};

/// The SCTP of this stub.
pub(crate) struct Sctp {
    name: Rc<str>,
    /// Other stubs share the namespace: a port that is not ours may be theirs.
    shared: bool,
    v4: UdpSocket,
    v6: UdpSocket,
    listening: RefCell<BTreeSet<u16>>,
    /// Probes under way, by our port.
    waiting: RefCell<HashMap<u16, Waiting>>,
}

struct Waiting {
    peer: SocketAddr,
    tag: u32,
    outcome: oneshot::Sender<Outcome>,
}

impl Sctp {
    pub(crate) fn open(name: Rc<str>, shared: bool) -> io::Result<Self> {
        // A raw socket has no type of its own in std. UDP's does what we need: datagrams with an address.
        let raw = |family| {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let fd = socket(family, SockType::Raw, flags, SockProtocol::Sctp)?;
            UdpSocket::from_std(std::net::UdpSocket::from(fd))
        };
        Ok(Self {
            name,
            shared,
            v4: raw(AddressFamily::Inet)?,
            v6: raw(AddressFamily::Inet6)?,
            listening: RefCell::default(),
            waiting: RefCell::default(),
        })
    }

    pub(crate) fn listen_on(&self, ports: BTreeSet<u16>) {
        *self.listening.borrow_mut() = ports;
    }

    /// Receives for ever.
    pub(crate) async fn run(self: Rc<Self>) {
        tokio::join!(self.receive(&self.v4), self.receive(&self.v6));
    }

    async fn receive(&self, socket: &UdpSocket) {
        let mut buffer = [0; 2048];
        loop {
            // An error here is an ICMP error about an earlier packet: the probe it belongs to times out by itself.
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
            let datagram = &buffer[..length];
            // IPv4 raw sockets deliver the IP header too.
            let header = if from.is_ipv4() { ipv4_header_length(datagram) } else { 0 };
            if let Some(packet) = datagram.get(header..).and_then(Packet::decode) {
                self.handle(from.ip(), packet);
            }
        }
    }

    fn handle(&self, from: IpAddr, packet: Packet) {
        let peer = SocketAddr::new(from, packet.source_port);
        match packet.chunk {
            Chunk::Init { tag } => {
                let chunk = if self.listening.borrow().contains(&packet.destination_port) {
                    // Any number will do: nobody goes on with this association.
                    Chunk::InitAck { tag: tag ^ 0x5a5a_5a5a, cookie: self.name.as_bytes().to_vec() }
                } else if self.shared {
                    return;
                } else {
                    Chunk::Abort
                };
                // An answer that cannot be sent is one that does not arrive: the prober sees silence.
                self.send(packet.destination_port, peer, tag, chunk).ok();
            }
            Chunk::InitAck { cookie, .. } => {
                let name = String::from_utf8_lossy(&cookie).into_owned();
                self.finish(&peer, packet.destination_port, packet.verification_tag, Outcome::Answered(name));
            }
            Chunk::Abort => {
                let outcome = Outcome::Refused("association aborted".to_owned());
                self.finish(&peer, packet.destination_port, packet.verification_tag, outcome);
            }
        }
    }

    fn finish(&self, peer: &SocketAddr, port: u16, tag: u32, outcome: Outcome) {
        let mut waiting = self.waiting.borrow_mut();
        let ours = waiting
            .get(&port)
            .is_some_and(|waiting| waiting.tag == tag && waiting.peer.port() == peer.port());
        if ours && let Some(waiting) = waiting.remove(&port) {
            // The prober may have given up this very moment.
            waiting.outcome.send(outcome).ok();
        }
    }

    fn send(&self, port: u16, to: SocketAddr, verification_tag: u32, chunk: Chunk) -> io::Result<()> {
        let bytes =
            Packet { source_port: port, destination_port: to.port(), verification_tag, chunk }.encode();
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        // Raw sockets want the port of their address to be nought. Their buffer holds far more than our few packets.
        socket.try_send_to(&bytes, SocketAddr::new(to.ip(), 0)).map(drop)
    }

    /// Knocks at `to`; says from where before it does.
    pub(crate) async fn probe(
        &self,
        to: SocketAddr,
        started: impl FnOnce(SocketAddr),
    ) -> io::Result<Outcome> {
        // SCTP has no sockets to give us a port: borrow UDP's, and UDP's choice of the source address with it.
        let any: IpAddr = match to.ip() {
            IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let reservation = std::net::UdpSocket::bind((any, 0))?;
        reservation.connect((to.ip(), DISCARD))?;
        let from = reservation.local_addr()?;
        let tag = 0x5743_0000 | u32::from(from.port());
        let (sender, outcome) = oneshot::channel();
        self.waiting.borrow_mut().insert(from.port(), Waiting { peer: to, tag, outcome: sender });
        let _forget = Forget { sctp: self, port: from.port() };
        // What has never been polled does not know yet that it can send.
        if to.is_ipv4() {
            self.v4.writable().await?
        } else {
            self.v6.writable().await?
        }
        started(from);
        self.send(from.port(), to, 0, Chunk::Init { tag })?;
        Ok(outcome.await.unwrap_or(Outcome::Silence))
    }
}

/// The port that the reservation names as its peer. Nothing is ever sent there.
const DISCARD: u16 = 9;

struct Forget<'a> {
    sctp: &'a Sctp,
    port: u16,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.sctp.waiting.borrow_mut().remove(&self.port);
    }
}

fn ipv4_header_length(datagram: &[u8]) -> usize {
    datagram.first().map_or(0, |first| usize::from(first & 0x0f) * 4)
}
