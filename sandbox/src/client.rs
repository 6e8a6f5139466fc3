//! Speaks to an agent over its socket: one connection a call.

use std::path::Path;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// `GET path`, as JSON.
pub async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> anyhow::Result<T> {
    let response = call(socket, path).await?;
    let body = response.into_body().collect().await.with_context(|| format!("read the answer to {path}"))?;
    serde_json::from_slice(&body.to_bytes()).with_context(|| format!("understand the answer to {path}"))
}

/// `GET path` whose answer is JSON values, one a line, for as long as it goes on.
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    /// Returns once the agent has begun to answer.
    pub async fn open(socket: &Path, path: &str) -> anyhow::Result<Self> {
        Ok(Self { body: call(socket, path).await?.into_body(), buffer: Vec::new() })
    }

    /// The next line that is a `T`; others are passed over. `None`: the agent has ended the stream, or itself.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Option<T> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if let Ok(value) = serde_json::from_slice(&line) {
                    return Some(value);
                }
            }
            let frame = self.body.frame().await?.ok()?;
            if let Some(data) = frame.data_ref() {
                self.buffer.extend_from_slice(data);
            }
        }
    }
}

async fn call(socket: &Path, path: &str) -> anyhow::Result<Response<Incoming>> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("reach the agent at {}", socket.display()))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("speak to the agent")?;
    // Its errors reach us through the answer.
    drop(tokio::spawn(async move { connection.await.unwrap_or_default() }));
    let request = Request::get(path).header("host", "weir").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.with_context(|| format!("ask the agent for {path}"))?;
    let status = response.status();
    if !status.is_success() {
        let body = response.into_body().collect().await.context("read why the agent refuses")?.to_bytes();
        match serde_json::from_slice::<api::Error>(&body) {
            Ok(error) => bail!("the agent at {} refuses: {}", socket.display(), error.message),
            Err(_) => bail!("the agent at {} answers {status} to {path}", socket.display()),
        }
    }
    Ok(response)
}
