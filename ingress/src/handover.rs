//! In-place restarts: a successor gets our listening sockets, and we end when it serves.
//!
//! The sockets travel over a Unix socket that is the successor's standard input, so that none of them has to be left open
//! for whatever else a process starts. Connections that nobody has accepted yet wait in the sockets, which are never closed.

use std::ffi::OsString;
use std::io::{IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::proxy::Sockets;

/// The option that tells a process that its standard input has sockets for it.
pub const OPTION: &str = "--take-over";
/// The kernel passes no more at once.
const MOST: usize = 253;
/// A successor that does not serve by then never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no successor.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{OPTION}: standard input is no socket of a weir-ingress")]
    NoSockets(#[source] std::io::Error),
    #[error("hand {0} sockets over: {MOST} are the most that the kernel passes at once; use fewer --workers")]
    TooMany(usize),
    #[error("hand the sockets over")]
    Send(#[source] std::io::Error),
    #[error("start {0:?}")]
    Start(OsString, #[source] std::io::Error),
    #[error("the successor {0}")]
    Failed(&'static str),
}

/// All that is handed over.
#[derive(Debug, Default)]
pub struct Estate {
    pub sockets: Sockets,
    pub admin: Option<TcpListener>,
}

impl Estate {
    /// The same sockets once more.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        let admin = self.admin.as_ref().map(TcpListener::try_clone).transpose()?;
        Ok(Self { sockets: self.sockets.try_clone()?, admin })
    }
}

/// The one before us, who waits to hear that we serve.
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// What the one before us hands over.
    pub fn take_over() -> Result<(Self, Estate), Error> {
        let take = || {
            let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
            let mut counts = [0; 3];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            recvmsg(&stream, &mut [IoSliceMut::new(&mut counts)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let mut found: Vec<OwnedFd> = Vec::new();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    found.extend(descriptors);
                }
            }
            let mut listeners = found.into_iter().map(TcpListener::from);
            let http = listeners.by_ref().take(counts[0].into()).collect();
            let https = listeners.by_ref().take(counts[1].into()).collect();
            let admin = listeners.next();
            Ok((Self(stream), Estate { sockets: Sockets { http, https }, admin }))
        };
        take().map_err(Error::NoSockets)
    }

    /// We serve; it may end.
    pub fn serving(mut self) {
        // If it is gone already, nobody needs to know.
        drop(self.0.write_all(b"s"));
    }
}

/// The process that is to go on in our place.
pub struct Successor {
    pub process: Child,
    stream: UnixStream,
}

impl Successor {
    /// Starts the program of our own command line once more, which may be another by now, with our sockets.
    pub fn start(estate: &Estate) -> Result<Self, Error> {
        let Sockets { http, https } = &estate.sockets;
        let all = http.iter().chain(https).chain(&estate.admin);
        let descriptors: Vec<BorrowedFd<'_>> = all.map(|it| it.as_fd()).collect();
        if descriptors.len() > MOST {
            return Err(Error::TooMany(descriptors.len()));
        }
        let (ours, theirs) = UnixStream::pair().map_err(Error::Send)?;
        let mut arguments = std::env::args_os();
        let program = arguments.next().unwrap_or_else(|| "weir-ingress".into());
        let process = Command::new(&program)
            .args(arguments.filter(|argument| argument != OPTION))
            .arg(OPTION)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Error::Start(program, error))?;
        // `MOST` fits into a byte.
        let count = |listeners: &[TcpListener]| u8::try_from(listeners.len()).unwrap_or(u8::MAX);
        let counts = [count(http), count(https), u8::from(estate.admin.is_some())];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&ours, &[IoSlice::new(&counts)], &mut control, SendFlags::NOSIGNAL)
            .map_err(|error| Error::Send(error.into()))?;
        Ok(Self { process, stream: ours })
    }

    /// Waits until it serves. If it does not, it is ended.
    pub async fn serves(self) -> Result<Child, Error> {
        let Self { mut process, stream } = self;
        let said = async {
            stream.set_nonblocking(true)?;
            let mut stream = tokio::net::UnixStream::from_std(stream)?;
            stream.read_u8().await
        };
        let outcome = match timeout(PATIENCE, said).await {
            Ok(Ok(_)) => return Ok(process),
            Ok(Err(_)) => Error::Failed("ended before it served: its log says why"),
            Err(_) => Error::Failed("does not serve after 60 s"),
        };
        // It may have ended already.
        drop(process.kill().await);
        Err(outcome)
    }
}
