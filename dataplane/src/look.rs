//! Two questions to the kernel that `aya` has no cheap way to ask: many rows of a map at once, and which programs an
//! interface or a cgroup has.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya::Pod;

// `enum bpf_cmd` of <linux/bpf.h>.
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// Longer than any key of ours: where a map is a trie, the place is a key.
const PLACE_LEN: usize = 64;

/// Where a walk through a map has come to.
pub(crate) type Place = [u8; PLACE_LEN];

/// `struct { … } batch` of `union bpf_attr`.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `struct { … } query` of `union bpf_attr`, whole: the kernel writes into its last field.
#[repr(C)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    unused: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

const _: () = assert!(size_of::<Batch>() == 56 && size_of::<Query>() == 64);

/// Rows, and how to go on: `None` after the last.
pub(crate) type Slice<K, V> = (Vec<(K, V)>, Option<Place>);

/// The next rows, at most so many. `K` and `V` have the sizes that the map was made with.
pub(crate) fn slice<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    place: Option<&Place>,
    rows: usize,
) -> io::Result<Slice<K, V>> {
    const { assert!(size_of::<K>() <= PLACE_LEN) };
    let mut keys: Vec<K> = Vec::with_capacity(rows);
    let mut values: Vec<V> = Vec::with_capacity(rows);
    let mut next = [0; PLACE_LEN];
    let mut attr = Batch {
        in_batch: place.map_or(0, |place| place.as_ptr() as u64),
        out_batch: next.as_mut_ptr() as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(rows).unwrap_or(u32::MAX),
        map_fd: u32::try_from(map.as_raw_fd()).unwrap_or(u32::MAX),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: `attr` is what the kernel expects of this command. It leads to room for `count` keys and values of the map's
    // sizes, and to places that are long enough, all of which live until the call returns.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attr, size_of::<Batch>()) };
    let is_last = match result {
        0 => false,
        // It has written what there was.
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOENT) => true,
            error => return Err(error),
        },
    };
    let found = (attr.count as usize).min(rows);
    // SAFETY: the kernel has written so many of each, and every bit pattern of both is a value (`Pod`).
    unsafe {
        keys.set_len(found);
        values.set_len(found);
    }
    Ok((keys.into_iter().zip(values).collect(), (!is_last).then_some(next)))
}

/// The numbers of the programs that are attached to an interface (by its index) or to a cgroup (by its descriptor).
pub(crate) fn programs(target: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; 64];
    let mut attr = Query {
        target,
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        unused: 0,
        prog_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: `attr` is what the kernel expects of this command, and leads to room for `count` numbers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut attr, size_of::<Query>()) };
    match result {
        0 => Ok(ids[..(attr.count as usize).min(ids.len())].to_vec()),
        _ => Err(io::Error::last_os_error()),
    }
}
