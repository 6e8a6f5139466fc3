//! One netfilter socket in one namespace: transactions, and reading back.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::message::{self, Answer, Attributes, answers, attributes, message};
use super::{Chain, Rule, Table};
use crate::error::{Error, Result};

/// A socket to nf_tables. It stays in the namespace it was opened in.
#[derive(Debug)]
pub struct Nftables {
    socket: OwnedFd,
    number: Cell<u32>,
}

/// A table as the kernel shows it, without what changes by itself. Two that are equal are the same rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The kind of object and those of its attributes that count, in the kernel's order.
    objects: Vec<(u16, Vec<Vec<u8>>)>,
}

/// The family of an object, and its attributes.
type Object = (u8, Vec<u8>);

/// The kernel answers within the call; only a lost message makes us wait.
const PATIENCE_SECONDS: i64 = 10;
/// The longest answer that the kernel packs into one read.
const LONGEST_READ: usize = 1 << 16;
/// A dump that others disturb by their changes is asked for again so often.
const ATTEMPTS: u32 = 8;

const TABLE_NAME: u16 = 1;
/// Of chains and rules alike: the table they are in.
const IN_TABLE: u16 = 1;

impl Nftables {
    /// Opens a socket in the calling thread's namespace.
    pub fn new() -> Result<Self> {
        Self::open().map_err(|errno| Error::Socket { source: errno.into() })
    }

    fn open() -> nix::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE_SECONDS, 0))?;
        Ok(Self { socket, number: Cell::new(1) })
    }

    /// Puts the table in the place of the one of its name, if there is one, in one transaction: each packet meets the old
    /// rules or the new.
    pub fn replace(&self, table: &Table) -> Result<()> {
        // The first makes sure that there is one to delete.
        let mut messages = vec![new_table(table.name), delete_table(table.name), new_table(table.name)];
        for (number, set) in (1..).zip(&table.sets) {
            messages.extend(set.messages(table.name, number));
        }
        messages.extend(table.chains.iter().map(|chain| new_chain(table.name, chain)));
        for chain in &table.chains {
            messages.extend(chain.rules.iter().map(|rule| new_rule(table.name, chain.name, rule)));
        }
        self.commit(messages).map_err(refused("replace", table.name))
    }

    /// Removes a table; none of this name is fine.
    pub fn remove(&self, name: &str) -> Result<()> {
        match self.commit(vec![delete_table(name)]) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            done => done.map_err(refused("remove", name)),
        }
    }

    /// What the kernel has of a table; `None` where there is no such table.
    pub fn read(&self, name: &str) -> Result<Option<Snapshot>> {
        self.snapshot(name).map_err(refused("read", name))
    }

    fn snapshot(&self, name: &str) -> io::Result<Option<Snapshot>> {
        let mut objects = Vec::new();
        // Of a chain: its name, hook, policy, type and flags. Of a rule: its chain and expressions. Of a set: its name,
        // flags, and the types of its keys and values.
        for (get, owner, counts) in [
            (message::GET_TABLE, TABLE_NAME, &[2][..]),
            (message::GET_CHAIN, IN_TABLE, &[3, 4, 5, 7, 10]),
            (message::GET_RULE, IN_TABLE, &[2, 4]),
            (message::GET_SET, IN_TABLE, &[2, 3, 4, 5, 6, 7]),
        ] {
            for (_, object) in self.dump(&message(get, libc::NLM_F_DUMP, &Attributes::default()))? {
                let is_ours = |(kind, value): (u16, &[u8])| {
                    kind == owner && value.strip_suffix(&[0]) == Some(name.as_bytes())
                };
                if attributes(&object).any(is_ours) {
                    let counting = attributes(&object).filter(|(kind, _)| counts.contains(kind));
                    objects.push((get, counting.map(|(_, value)| value.to_vec()).collect()));
                    if get == message::GET_SET {
                        objects.push((message::GET_ROWS, self.rows(name, &object)?));
                    }
                }
            }
            if objects.is_empty() {
                return Ok(None);
            }
        }
        Ok(Some(Snapshot { objects }))
    }

    /// Keys and values of a set, sorted: the kernel keeps them in no order.
    fn rows(&self, table: &str, set: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let name = attributes(set).find(|(kind, _)| *kind == 2).map(|(_, value)| value).unwrap_or_default();
        let asked = Attributes::default().text(1, table).bytes(2, name);
        let mut rows = Vec::new();
        for (_, part) in self.dump(&message(message::GET_ROWS, libc::NLM_F_DUMP, &asked))? {
            let lists = attributes(&part).filter(|(kind, _)| *kind == 3);
            for (_, row) in lists.flat_map(|(_, list)| attributes(list)) {
                let counting = attributes(row).filter(|(kind, _)| matches!(kind, 1 | 2));
                rows.push(counting.flat_map(|(_, value)| value).copied().collect());
            }
        }
        rows.sort();
        Ok(rows)
    }

    /// Every connection that netfilter knows: family and attributes.
    pub(super) fn connections(&self) -> io::Result<Vec<Object>> {
        self.dump(&message::list_connections())
    }

    fn commit(&self, messages: Vec<Vec<u8>>) -> io::Result<()> {
        let first = self.number.get();
        let (bytes, awaited) = message::batch(messages, first);
        self.number.set(awaited + 2);
        self.say(&bytes, first, awaited)
    }

    /// One request beside transactions.
    pub(super) fn change(&self, mut request: Vec<u8>) -> io::Result<()> {
        let number = self.number.replace(self.number.get() + 1);
        request[8..12].copy_from_slice(&number.to_ne_bytes());
        self.say(&request, number, number)
    }

    /// Sends what has numbers from `first` on, and waits for the acknowledgement of one of them or the first error.
    fn say(&self, bytes: &[u8], first: u32, awaited: u32) -> io::Result<()> {
        send(self.socket.as_raw_fd(), bytes, MsgFlags::empty())?;
        let mut buffer = vec![0; LONGEST_READ];
        loop {
            let length = self.receive(&mut buffer)?;
            for (number, _, answer) in answers(&buffer[..length]) {
                match answer {
                    // Of an earlier transaction, which was given up at its first error.
                    _ if number < first => {}
                    Answer::Error(0) if number == awaited => return Ok(()),
                    Answer::Error(0) | Answer::Object(..) | Answer::Done => {}
                    Answer::Error(negative) => return Err(io::Error::from_raw_os_error(-negative)),
                }
            }
        }
    }

    /// Every object that `request` asks for: family and attributes.
    fn dump(&self, request: &[u8]) -> io::Result<Vec<Object>> {
        for _ in 0..ATTEMPTS {
            if let Some(objects) = self.try_dump(request.to_vec())? {
                return Ok(objects);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// `None` where somebody else changed something meanwhile.
    fn try_dump(&self, mut request: Vec<u8>) -> io::Result<Option<Vec<Object>>> {
        let asked = self.number.replace(self.number.get() + 1);
        request[8..12].copy_from_slice(&asked.to_ne_bytes());
        send(self.socket.as_raw_fd(), &request, MsgFlags::empty())?;
        let (mut objects, mut disturbed) = (Vec::new(), false);
        let mut buffer = vec![0; LONGEST_READ];
        loop {
            let length = self.receive(&mut buffer)?;
            for (number, interrupted, answer) in answers(&buffer[..length]) {
                disturbed |= interrupted;
                match answer {
                    _ if number != asked => {}
                    Answer::Object(family, object) => objects.push((family, object.to_vec())),
                    Answer::Done => return Ok((!disturbed).then_some(objects)),
                    Answer::Error(0) => {}
                    Answer::Error(negative) if -negative == libc::EINTR => return Ok(None),
                    Answer::Error(negative) => return Err(io::Error::from_raw_os_error(-negative)),
                }
            }
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                received => return Ok(received?),
            }
        }
    }
}

fn new_table(name: &str) -> Vec<u8> {
    message(message::NEW_TABLE, libc::NLM_F_CREATE, &Attributes::default().text(TABLE_NAME, name))
}

fn delete_table(name: &str) -> Vec<u8> {
    message(message::DELETE_TABLE, 0, &Attributes::default().text(TABLE_NAME, name))
}

fn new_chain(table: &str, chain: &Chain) -> Vec<u8> {
    let hook = Attributes::default().number(1, chain.hook.number()).number(2, chain.hook.priority() as u32);
    let attributes = Attributes::default()
        .text(IN_TABLE, table)
        .text(3, chain.name)
        .nested(4, hook)
        // Accept what no rule takes.
        .number(5, 1)
        .text(7, "nat");
    message(message::NEW_CHAIN, libc::NLM_F_CREATE, &attributes)
}

fn new_rule(table: &str, chain: &str, rule: &Rule) -> Vec<u8> {
    let expressions =
        rule.iter().fold(Attributes::default(), |list, expression| list.nested(1, expression.attributes()));
    let attributes = Attributes::default().text(IN_TABLE, table).text(2, chain).nested(4, expressions);
    message(message::NEW_RULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND, &attributes)
}

fn refused(operation: &'static str, table: &str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Request { operation, object: format!("the nf_tables table inet {table}"), source }
}
