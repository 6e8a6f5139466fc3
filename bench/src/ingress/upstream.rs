//! The upstream of every proxy: HTTP/1.1 with kept connections, a request read and answered with one system call each.
//! `GET /1024` is answered with so many bytes, and with which upstream this is.

use std::rc::Rc;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

use super::client::SIZES;

/// A size, and the whole response with a body of it.
type Answer = (String, Vec<u8>);

/// Serves on this port until the process ends.
pub(super) fn serve(port: u16) -> Result<()> {
    let answer = |size| (format!("/{size} "), response(port, size));
    let answers: Rc<[Answer]> = SIZES.into_iter().map(answer).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.context("listen as the upstream")?;
        loop {
            let (stream, _) = listener.accept().await.context("accept as the upstream")?;
            stream.set_nodelay(true)?;
            let answers = Rc::clone(&answers);
            spawn_local(async move {
                if let Err(error) = connection(stream, &answers).await {
                    eprintln!("weir-bench: the upstream: {error:#}");
                }
            });
        }
    })
}

fn response(port: u16, size: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: bench-{port}\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n"
    );
    let mut response = head.into_bytes();
    response.resize(response.len() + size, b'x');
    response
}

/// Nobody sends requests with a body here, and nobody sends one before the last is answered.
async fn connection(mut stream: TcpStream, answers: &[Answer]) -> Result<()> {
    let mut buffer = vec![0; 16 << 10];
    let mut filled = 0;
    loop {
        // Whoever asked may be gone, and is not waited for.
        match stream.read(&mut buffer[filled..]).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(read) => filled += read,
        }
        let request = &buffer[..filled];
        if !request.ends_with(b"\r\n\r\n") {
            anyhow::ensure!(filled < buffer.len(), "a request larger than {filled} bytes");
            continue;
        }
        let path = request.strip_prefix(b"GET ").context("a request that is no GET")?;
        let found = answers.iter().find(|(wanted, _)| path.starts_with(wanted.as_bytes()));
        let (_, answer) = found.context("a path that is no size of a body")?;
        filled = 0;
        if stream.write_all(answer).await.is_err() {
            return Ok(());
        }
    }
}
