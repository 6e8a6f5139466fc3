//! One write for what many streams of an HTTP/2 connection have to say in one turn.
//!
//! h2 writes and flushes each DATA frame by itself, and over TLS each write is a record and a system call. Here writes are
//! held until the connection has had its turn, and then go out as one. Bounded: beyond [`MOST`] the writer waits.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So many bytes are held before they are written: two TLS records.
const MOST: usize = 32 << 10;
/// An idle connection keeps no more room than this.
const KEPT: usize = 4 << 10;

/// What hyper writes to.
pub(super) struct Coalesced<S>(Rc<RefCell<Held<S>>>);

/// The other handle, of whoever says when the turn is over.
pub(super) struct Turn<S>(Rc<RefCell<Held<S>>>);

struct Held<S> {
    stream: S,
    bytes: Vec<u8>,
    /// Of these, so many are written already.
    written: usize,
    /// The stream may hold some of it itself, as TLS does where it cannot write at once.
    flushing: bool,
}

pub(super) fn coalesce<S>(stream: S) -> (Coalesced<S>, Turn<S>) {
    let held = Rc::new(RefCell::new(Held { stream, bytes: Vec::new(), written: 0, flushing: false }));
    (Coalesced(Rc::clone(&held)), Turn(held))
}

impl<S: AsyncWrite + Unpin> Turn<S> {
    /// Writes what is held. Pending: the connection's task is woken when there is room for more.
    pub(super) fn over(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().write(cx)
    }
}

impl<S: AsyncWrite + Unpin> Held<S> {
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() && !self.flushing {
            return Poll::Ready(Ok(()));
        }
        while self.written < self.bytes.len() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.bytes[self.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        self.written = 0;
        self.bytes.clear();
        if self.bytes.capacity() > KEPT {
            self.bytes = Vec::new();
        }
        self.flushing = true;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.flushing = false;
        Poll::Ready(Ok(()))
    }

    fn hold(&mut self, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.bytes.len() >= MOST {
            ready!(self.write(cx))?;
        }
        let before = self.bytes.len();
        let more: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        if before == 0 && more > KEPT {
            // A long body: room for all that will be held, at once.
            self.bytes.reserve(MOST + more);
        }
        for buffer in buffers {
            self.bytes.extend_from_slice(buffer);
        }
        Poll::Ready(Ok(more))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalesced<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalesced<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().hold(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().hold(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Says yes and does nothing: the end of the turn is when.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = self.0.borrow_mut();
        ready!(held.write(cx))?;
        Pin::new(&mut held.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt as _, duplex};

    use super::*;

    /// A stream that takes everything and has passed it on only at the second time of asking, as TLS may.
    #[derive(Default)]
    struct Late {
        taken: Vec<u8>,
        passed_on: usize,
        asked: bool,
    }

    impl AsyncWrite for Late {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.taken.extend_from_slice(buf);
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.asked = !self.asked;
            if self.asked {
                return Poll::Pending;
            }
            self.passed_on = self.taken.len();
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_the_stream_holds_itself_is_flushed_at_the_next_turn() {
        let (writer, turn) = coalesce(Late::default());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(writer.0.borrow_mut().hold(&mut cx, &[IoSlice::new(b"one")]).is_ready());
        assert!(turn.over(&mut cx).is_pending());
        assert!(turn.over(&mut cx).is_ready());
        assert_eq!(writer.0.borrow().stream.passed_on, 3);
    }

    #[tokio::test]
    async fn writes_of_one_turn_are_one_and_a_peer_that_does_not_read_holds_the_writer_back() {
        let (near, mut far) = duplex(8 << 10);
        let (mut writer, turn) = coalesce(near);
        let mut cx = Context::from_waker(Waker::noop());
        for part in [&b"one "[..], b"two ", b"three"] {
            assert!(Pin::new(&mut writer).poll_write(&mut cx, part).is_ready());
            assert!(Pin::new(&mut writer).poll_flush(&mut cx).is_ready());
        }
        let mut buffer = [0; 64];
        let nothing = Pin::new(&mut far).poll_read(&mut cx, &mut ReadBuf::new(&mut buffer));
        assert!(nothing.is_pending(), "nothing is written before the turn is over");
        assert!(turn.over(&mut cx).is_ready());
        assert_eq!(far.read(&mut buffer).await.unwrap(), 13);

        let mut taken = 0;
        while let Poll::Ready(written) = Pin::new(&mut writer).poll_write(&mut cx, &[7; 1024]) {
            taken += written.unwrap();
            assert!(taken <= MOST + (8 << 10), "what is held has a bound");
        }
        assert!(turn.over(&mut cx).is_pending());
        let mut received = 0;
        while received < taken {
            received += far.read(&mut buffer).await.unwrap();
            drop(turn.over(&mut cx));
        }
        assert!(turn.over(&mut cx).is_ready());
        assert!(Pin::new(&mut writer).poll_shutdown(&mut cx).is_ready());
        assert_eq!(far.read(&mut buffer).await.unwrap(), 0);
    }
}
