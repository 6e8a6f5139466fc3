//! Netfilter's own table of connections: forgets what goes on in the wrong way.
//!
//! A rule that translates a destination is asked for the first packet of a connection only. Datagrams have no first packet
//! that anybody could tell: a client that keeps its port keeps the pod that it found, also when that pod is gone.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::libc;

use super::Nftables;
use super::message::{self, Attributes, attributes};
use crate::error::{Error, Result};

/// `IPS_SRC_NAT` and `IPS_DST_NAT`.
const SOURCE_TRANSLATED: u32 = 1 << 4;
const DESTINATION_TRANSLATED: u32 = 1 << 5;

const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const ID: u16 = 12;

impl Nftables {
    /// Forgets the connections of a protocol to these ports of this host, as far as they lead to one of `targets`, or as yet
    /// to nobody: what comes next meets the rules of now. How many.
    pub fn forget_connections(
        &self,
        protocol: u8,
        ports: &BTreeSet<u16>,
        targets: &BTreeSet<IpAddr>,
    ) -> Result<usize> {
        self.forget(protocol, ports, targets).map_err(|source| Error::Request {
            operation: "forget",
            object: format!("connections of protocol {protocol} to ports {ports:?}"),
            source,
        })
    }

    fn forget(&self, protocol: u8, ports: &BTreeSet<u16>, targets: &BTreeSet<IpAddr>) -> io::Result<usize> {
        let mut forgotten = 0;
        for (family, entry) in self.connections()? {
            let Some(connection) = Connection::read(&entry) else { continue };
            let status = connection.status;
            let leads_here =
                status & DESTINATION_TRANSLATED != 0 && targets.contains(&connection.answers_from);
            let leads_nowhere = status & (SOURCE_TRANSLATED | DESTINATION_TRANSLATED) == 0;
            if connection.protocol == protocol
                && ports.contains(&connection.port)
                && (leads_here || leads_nowhere)
            {
                forgotten += usize::from(self.forget_one(family, &entry)?);
            }
        }
        Ok(forgotten)
    }

    /// False where it has gone by itself.
    fn forget_one(&self, family: u8, entry: &[u8]) -> io::Result<bool> {
        let names = attributes(entry).filter(|(kind, _)| matches!(*kind, ORIGINAL | ID));
        let names = names.fold(Attributes::default(), |list, (kind, value)| {
            if kind == ORIGINAL { list.nested_bytes(kind, value) } else { list.bytes(kind, value) }
        });
        match self.change(message::forget_connection(family, &names)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            done => done.map(|()| true),
        }
    }
}

struct Connection {
    protocol: u8,
    /// Where the first packet went.
    port: u16,
    status: u32,
    /// Who answers: behind a translation, not the address that was asked.
    answers_from: IpAddr,
}

impl Connection {
    fn read(entry: &[u8]) -> Option<Self> {
        let find = |list: &[u8], wanted: u16| {
            attributes(list).find(|(kind, _)| *kind == wanted).map(|(_, value)| value.to_vec())
        };
        let original = find(entry, ORIGINAL)?;
        let ends = find(&original, 2)?;
        let addresses = find(&find(entry, REPLY)?, 1)?;
        let answers_from = match (find(&addresses, 1), find(&addresses, 3)) {
            (Some(v4), _) => Ipv4Addr::from(<[u8; 4]>::try_from(v4).ok()?).into(),
            (None, Some(v6)) => Ipv6Addr::from(<[u8; 16]>::try_from(v6).ok()?).into(),
            (None, None) => return None,
        };
        Some(Self {
            protocol: *find(&ends, 1)?.first()?,
            port: u16::from_be_bytes(find(&ends, 3)?.try_into().ok()?),
            status: u32::from_be_bytes(find(entry, STATUS)?.try_into().ok()?),
            answers_from,
        })
    }
}
