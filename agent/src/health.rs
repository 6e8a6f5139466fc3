//! Metrics and health over TCP, for those outside the node's file system.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::event::{Call, Event, Question, Reply};
use crate::http::{self, Body};

/// A loop that does not answer for so long is not alive.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) async fn bind(addr: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| format!("--metrics {addr}"))
}

/// Answers `/metrics`, `/healthz` and `/readyz` for as long as it is polled.
pub(crate) async fn serve(listener: TcpListener, events: mpsc::Sender<Event>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "connection to the metrics not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let events = events.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| {
                let events = events.clone();
                async move { Ok::<_, Infallible>(answer(&request, &events).await) }
            });
            if let Err(error) = http::builder().serve_connection(TokioIo::new(stream), service).await {
                debug!(%error, "connection to the metrics ended early");
            }
        });
    }
}

async fn answer(request: &Request<Incoming>, events: &mpsc::Sender<Event>) -> Response<Body> {
    let path = request.uri().path();
    if request.method() != Method::GET || !matches!(path, "/metrics" | "/healthz" | "/readyz") {
        return text(StatusCode::NOT_FOUND, "GET /metrics, /healthz or /readyz\n".into());
    }
    let unavailable = |why: &str| text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
    let silent = || unavailable("the agent's loop does not answer");
    if path == "/metrics" {
        let numbers = ask(events, Question::Numbers).await;
        return numbers.map_or_else(silent, |numbers| text(StatusCode::OK, numbers.text()));
    }
    // Probes come often: unlike the metrics, this costs nothing.
    match ask(events, Question::Readiness).await {
        None => silent(),
        Some(Some(missing)) if path == "/readyz" => unavailable(&missing),
        Some(_) => text(StatusCode::OK, "ok\n".into()),
    }
}

async fn ask<T>(events: &mpsc::Sender<Event>, question: impl FnOnce(Reply<T>) -> Question) -> Option<T> {
    let answer = http::ask(events, |reply| Call::Ask(question(reply)));
    tokio::time::timeout(PATIENCE, answer).await.ok()?.ok()
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    let body = Full::new(Bytes::from(text)).boxed_unsync();
    http::response(status, "text/plain; version=0.0.4; charset=utf-8", body)
}
