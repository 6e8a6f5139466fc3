//! Many rows of one map by one system call.
//!
//! The kernel takes the rows of a batch one by one, in order, and stops at the first that fails: whoever looks meanwhile
//! sees what single calls would have shown. `aya` has no such calls. A kernel, or a kind of map, that has none either is told
//! so by [`Stop::Unsupported`], and nothing was written.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya::Pod;

/// `enum bpf_cmd` of <linux/bpf.h>.
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;
/// What the kernel calls its own ENOTSUPP, and lets out here.
const ENOTSUPP: i32 = 524;

/// Why not all rows were taken.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The map has no batches.
    Unsupported,
    /// The first `done` were; the one after them met this error.
    At { done: usize, error: io::Error },
}

/// `struct { … } batch` of `union bpf_attr`.
#[repr(C)]
struct Attr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

const _: () = assert!(size_of::<Attr>() == 56);

/// Puts rows in, in this order. `K` and `V` have the sizes that the map was made with.
pub(crate) fn update<K: Pod, V: Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> Result<(), Stop> {
    let rows = keys.len().min(values.len());
    // SAFETY: both lists are borrowed until the call returns, and have as many rows.
    unsafe { call(BPF_MAP_UPDATE_BATCH, map, keys.as_ptr() as u64, values.as_ptr() as u64, rows) }
}

/// Takes rows out, in this order; one that is not there is an error.
pub(crate) fn delete<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> Result<(), Stop> {
    // SAFETY: the keys are borrowed until the call returns, and this command looks at no values.
    unsafe { call(BPF_MAP_DELETE_BATCH, map, keys.as_ptr() as u64, 0, keys.len()) }
}

/// # Safety
///
/// `keys`, and `values` where the command has some, lead to `rows` rows of plain bytes that live until this returns.
unsafe fn call(
    command: libc::c_long,
    map: BorrowedFd<'_>,
    keys: u64,
    values: u64,
    rows: usize,
) -> Result<(), Stop> {
    let (Ok(count), Ok(map_fd)) = (u32::try_from(rows), u32::try_from(map.as_raw_fd())) else {
        return Err(Stop::Unsupported);
    };
    let mut attr = Attr { in_batch: 0, out_batch: 0, keys, values, count, map_fd, elem_flags: 0, flags: 0 };
    // SAFETY: `attr` is what the kernel expects of these commands, and the only thing that it writes to; the rows are good by
    // this function's own contract.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size_of::<Attr>()) };
    if result == 0 { Ok(()) } else { Err(stop(io::Error::last_os_error(), count, attr.count)) }
}

/// What the kernel means. It says how far it came where it began, and else leaves the number that it was given.
fn stop(error: io::Error, asked: u32, told: u32) -> Stop {
    let done = if told < asked { told as usize } else { 0 };
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP | ENOTSUPP) if done == 0 => Stop::Unsupported,
        _ => Stop::At { done, error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_batches_is_told_from_one_that_came_to_a_row_that_it_refused() {
        let answer = |error, asked, told| match stop(io::Error::from_raw_os_error(error), asked, told) {
            Stop::Unsupported => None,
            Stop::At { done, error } => Some((done, error.raw_os_error().unwrap())),
        };
        assert_eq!(answer(libc::EINVAL, 7, 7), None);
        assert_eq!(answer(ENOTSUPP, 7, 7), None);
        assert_eq!(answer(libc::EOPNOTSUPP, 7, 7), None);
        assert_eq!(answer(libc::ENOSPC, 7, 3), Some((3, libc::ENOSPC)));
        assert_eq!(answer(libc::ENOENT, 7, 0), Some((0, libc::ENOENT)));
        assert_eq!(answer(libc::EINVAL, 7, 3), Some((3, libc::EINVAL)));
        // Where it had no memory to begin with, it leaves the number that it was given.
        assert_eq!(answer(libc::ENOMEM, 7, 7), Some((0, libc::ENOMEM)));
    }
}
