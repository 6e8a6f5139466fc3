//! The client's side of each kind of load.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::clock::{Meter, Taken};
use crate::serve;

/// What is asked of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// One byte there, one byte back, over one connection.
    RequestResponse,
    /// Connect, one byte there, one byte back, close.
    Connect,
    /// As many bytes as go through, over this many connections.
    Stream(u8),
}

impl Kind {
    pub(crate) const ALL: [Self; 4] =
        [Self::RequestResponse, Self::Connect, Self::Stream(1), Self::Stream(4)];

    pub(crate) fn title(self) -> String {
        match self {
            Self::RequestResponse => "request/response".into(),
            Self::Connect => "connect/request/close".into(),
            Self::Stream(1) => "1 stream".into(),
            Self::Stream(streams) => format!("{streams} streams"),
        }
    }

    /// The port on which a worker serves it.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::RequestResponse => serve::ECHO_PORT,
            Self::Connect => serve::ONCE_PORT,
            Self::Stream(_) => serve::SINK_PORT,
        }
    }
}

/// What came of one measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Requests answered, or connections; 0 for streams.
    pub(crate) transactions: u64,
    pub(crate) bytes: u64,
    pub(crate) taken: Taken,
}

/// Loads the server at `to` (process `server`) for `duration`.
pub(crate) fn run(kind: Kind, to: SocketAddr, server: i32, duration: Duration) -> Result<Done> {
    match kind {
        Kind::RequestResponse => request_response(to, server, duration),
        Kind::Connect => connect(to, server, duration),
        Kind::Stream(streams) => stream(to, streams, server, duration),
    }
}

fn request_response(to: SocketAddr, server: i32, duration: Duration) -> Result<Done> {
    let mut connection = dial(to)?;
    connection.set_nodelay(true).context("turn Nagle's algorithm off")?;
    let mut exchange = |times: u64| -> Result<u64> {
        let mut byte = [1];
        for _ in 0..times {
            connection.write_all(&byte).context("send a request")?;
            connection.read_exact(&mut byte).context("receive a response")?;
        }
        Ok(times)
    };
    exchange(WARM_UP)?;
    let meter = Meter::start(server)?;
    let mut transactions = 0;
    while meter.elapsed() < duration {
        transactions += exchange(64)?;
    }
    Ok(Done { transactions, bytes: 2 * transactions, taken: meter.stop()? })
}

fn connect(to: SocketAddr, server: i32, duration: Duration) -> Result<Done> {
    let exchange = |times: u64| -> Result<u64> {
        for _ in 0..times {
            let mut connection = dial(to)?;
            let mut byte = [1];
            connection.write_all(&byte).context("send the request")?;
            connection.read_exact(&mut byte).context("receive the response")?;
            // The server closes first, so that it and not we run out of ports.
            connection.read(&mut byte).context("wait for the server to close")?;
        }
        Ok(times)
    };
    exchange(WARM_UP / 4)?;
    let meter = Meter::start(server)?;
    let mut transactions = 0;
    while meter.elapsed() < duration {
        transactions += exchange(16)?;
    }
    Ok(Done { transactions, bytes: 2 * transactions, taken: meter.stop()? })
}

fn stream(to: SocketAddr, streams: u8, server: i32, duration: Duration) -> Result<Done> {
    let connections: Vec<TcpStream> = (0..streams).map(|_| dial(to)).collect::<Result<_>>()?;
    let meter = Meter::start(server)?;
    let bytes = thread::scope(|scope| {
        let meter = &meter;
        let senders: Vec<_> = connections
            .into_iter()
            .map(|connection| scope.spawn(move || send(connection, meter, duration)))
            .collect();
        let sent = senders.into_iter().map(|sender| match sender.join() {
            Ok(sent) => sent,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        sent.sum::<Result<u64>>()
    })?;
    Ok(Done { transactions: 0, bytes, taken: meter.stop()? })
}

/// Sends until the time is up. Returns how much the server says it received.
fn send(mut connection: TcpStream, meter: &Meter, duration: Duration) -> Result<u64> {
    let chunk = vec![0; serve::CHUNK_BYTES];
    while meter.elapsed() < duration {
        connection.write_all(&chunk).context("send")?;
    }
    connection.shutdown(std::net::Shutdown::Write).context("end a stream")?;
    let mut received = [0; 8];
    connection.read_exact(&mut received).context("ask how much arrived")?;
    Ok(u64::from_be_bytes(received))
}

fn dial(to: SocketAddr) -> Result<TcpStream> {
    TcpStream::connect_timeout(&to, CONNECT_TIMEOUT).with_context(|| format!("connect to {to}"))
}

/// Requests before the clock starts: caches, and the slow start of a connection.
const WARM_UP: u64 = 256;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
