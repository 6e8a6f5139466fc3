//! How the C library keeps the memory of a process that holds a cluster.
//!
//! An agent has one thread that works and one that reads manifests. By default each has an arena of its own: the reader's keeps
//! room for whole parsed files between the few bytes that stay of each, and what is freed is kept for later, more of it the
//! larger it was. Docs: ADR 0019.

/// Freed memory at the end of the heap goes back to the kernel when it is as much as this. The C library's own default, at
/// which it stays once it is set: else it grows with the largest block that was ever freed.
#[cfg(target_env = "gnu")]
const TRIM_AT: libc::c_int = 128 << 10;

/// From now on all threads share one heap, and it shrinks. To be called before there are others. Elsewhere than with the GNU
/// C library, nothing.
pub fn one_heap() {
    // SAFETY: sets two numbers under the allocator's own lock.
    #[cfg(target_env = "gnu")]
    unsafe {
        // It refuses only values that it does not know; then all is as it was.
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_AT);
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use std::ffi::CStr;
    use std::sync::Barrier;

    use super::*;

    /// How many arenas there are, as the C library says.
    fn heaps() -> usize {
        let (mut text, mut size) = (std::ptr::null_mut(), 0);
        // SAFETY: the stream is closed before its text is read, which ends in a zero byte and is freed once.
        let said = unsafe {
            let stream = libc::open_memstream(&raw mut text, &raw mut size);
            assert!(!stream.is_null());
            assert_eq!(libc::malloc_info(0, stream), 0);
            assert_eq!(libc::fclose(stream), 0);
            let said = CStr::from_ptr(text).to_string_lossy().into_owned();
            libc::free(text.cast());
            said
        };
        said.matches("<heap nr=").count()
    }

    #[test]
    fn threads_share_the_heap_that_there_is() {
        one_heap();
        let before = heaps();
        // As many as would each get their own, all there at once.
        let all = Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let held = std::hint::black_box(vec![7_u8; 5000]);
                    all.wait();
                    drop(held);
                });
            }
        });
        assert_eq!(heaps(), before);
    }
}
