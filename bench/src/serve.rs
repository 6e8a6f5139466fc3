//! The server's side: one thread a port, each connection served to its end before the next is taken.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result};

/// Answers each byte, for as long as the connection lasts.
pub(crate) const ECHO_PORT: u16 = 5201;
/// Answers one byte and closes.
pub(crate) const ONCE_PORT: u16 = 5202;
/// Reads to the end and says how much it was.
pub(crate) const SINK_PORT: u16 = 5203;
/// Served as well, but no policy of ours allows it.
pub(crate) const FORBIDDEN_PORT: u16 = 5209;

pub(crate) const CHUNK_BYTES: usize = 128 * 1024;

/// Listens on all ports; returns once connections can be made.
pub(crate) fn start() -> Result<()> {
    serve(ECHO_PORT, |mut connection| {
        connection.set_nodelay(true)?;
        let mut byte = [0];
        while connection.read(&mut byte)? == 1 {
            connection.write_all(&byte)?;
        }
        Ok(())
    })?;
    let once = |mut connection: TcpStream| {
        let mut byte = [0];
        connection.read_exact(&mut byte)?;
        connection.write_all(&byte)
    };
    serve(ONCE_PORT, once)?;
    serve(FORBIDDEN_PORT, once)?;
    // The only port with several connections at a time.
    serve(SINK_PORT, |connection| {
        thread::spawn(move || sink(connection));
        Ok(())
    })
}

fn serve(port: u16, handle: impl Fn(TcpStream) -> std::io::Result<()> + Send + 'static) -> Result<()> {
    let listener =
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).with_context(|| format!("listen on port {port}"))?;
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // A client that went away has its own error to report.
            handle(connection).ok();
        }
    });
    Ok(())
}

fn sink(mut connection: TcpStream) {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut received = 0_u64;
    while let Ok(bytes @ 1..) = connection.read(&mut chunk) {
        received += bytes as u64;
    }
    // As above.
    connection.write_all(&received.to_be_bytes()).ok();
}
