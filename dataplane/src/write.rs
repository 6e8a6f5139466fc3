//! A plan's writes, as few system calls as it can be: those that follow one another and are of one kind go in one call.
//!
//! The order stays the plan's, since the kernel takes the rows of a call one by one, in order. So at every moment the maps hold
//! what some prefix of the plan leaves there.

use std::mem::discriminant;
use std::os::fd::{AsFd, BorrowedFd};

use aya::Pod;
use aya::maps::MapError;
use aya::sys::SyscallError;
use policy::tables::MapOp;

use crate::batch::{self, Stop};
use crate::error::Error;
use crate::maps::{Maps, cidr_key, map_of, rule_key};

/// Rows in one call at most: about a millisecond's worth.
const BATCH: usize = 1024;

/// The keys, and the values, of writes that are all of one kind.
macro_rules! rows {
    ($ops:expr, $put:ident($key:ident, $value:ident) => $converted:expr) => {
        $ops.iter()
            .filter_map(
                |op| if let MapOp::$put($key, $value) = *op { Some(($converted, $value)) } else { None },
            )
            .unzip::<_, _, Vec<_>, Vec<_>>()
    };
    ($ops:expr, $remove:ident($key:ident) => $converted:expr) => {
        $ops.iter()
            .filter_map(|op| if let MapOp::$remove($key) = *op { Some($converted) } else { None })
            .collect::<Vec<_>>()
    };
}

impl Maps {
    /// Carries out the first of these writes, and those after it that can go with it. How many are done; where a write
    /// failed, the one after them.
    pub(crate) fn write(&mut self, ops: &[MapOp]) -> (usize, Result<(), Error>) {
        let Some(first) = ops.first() else { return (0, Ok(())) };
        let alike = ops.iter().take(BATCH).take_while(|op| discriminant(*op) == discriminant(first)).count();
        let map = map_of(first);
        if let Some(counted) = self.counted.get_mut(map).filter(|counted| counted.has_batches && alike > 1) {
            match write_batch(counted.data.fd().as_fd(), &ops[..alike]) {
                Ok(()) => return (alike, Ok(())),
                Err(Stop::At { done, error: io_error }) => {
                    let error = SyscallError { call: "bpf_map_batch", io_error };
                    return (done, Err(Error::map("write", map)(MapError::SyscallError(error))));
                }
                Err(Stop::Unsupported) => counted.has_batches = false,
            }
        }
        match self.write_one(first) {
            Ok(()) => (1, Ok(())),
            Err(error) => (0, Err(error)),
        }
    }
}

/// Writes of one kind, by one call.
fn write_batch(map: BorrowedFd<'_>, ops: &[MapOp]) -> Result<(), Stop> {
    match ops.first() {
        Some(MapOp::PutEndpoint(..)) => put(map, rows!(ops, PutEndpoint(addr, row) => addr)),
        Some(MapOp::RemoveEndpoint(_)) => remove(map, &rows!(ops, RemoveEndpoint(addr) => addr)),
        Some(MapOp::PutPeer(..)) => put(map, rows!(ops, PutPeer(addr, class) => addr)),
        Some(MapOp::RemovePeer(_)) => remove(map, &rows!(ops, RemovePeer(addr) => addr)),
        Some(MapOp::PutCidr(..)) => put(map, rows!(ops, PutCidr(cidr, class) => cidr_key(cidr))),
        Some(MapOp::RemoveCidr(_)) => remove(map, &rows!(ops, RemoveCidr(cidr) => cidr_key(cidr))),
        Some(MapOp::PutRule(..)) => put(map, rows!(ops, PutRule(prefix, row) => rule_key(prefix))),
        Some(MapOp::RemoveRule(_)) => remove(map, &rows!(ops, RemoveRule(prefix) => rule_key(prefix))),
        Some(MapOp::PutService(..)) => put(map, rows!(ops, PutService(key, row) => key)),
        Some(MapOp::RemoveService(_)) => remove(map, &rows!(ops, RemoveService(key) => key)),
        Some(MapOp::PutBackend(..)) => put(map, rows!(ops, PutBackend(key, row) => key)),
        Some(MapOp::RemoveBackend(_)) => remove(map, &rows!(ops, RemoveBackend(key) => key)),
        Some(MapOp::AdvanceEpoch) | None => Err(Stop::Unsupported),
    }
}

fn put<K: Pod, V: Pod>(map: BorrowedFd<'_>, (keys, values): (Vec<K>, Vec<V>)) -> Result<(), Stop> {
    batch::update(map, &keys, &values)
}

/// A row that is already gone is as good as removed.
fn remove<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> Result<(), Stop> {
    let mut gone = 0;
    loop {
        match batch::delete(map, &keys[gone..]) {
            Err(Stop::At { done, error }) if error.raw_os_error() == Some(libc::ENOENT) => {
                gone += done + 1;
                if gone >= keys.len() {
                    return Ok(());
                }
            }
            Err(Stop::At { done, error }) => return Err(Stop::At { done: gone + done, error }),
            result => return result,
        }
    }
}
