//! Health, metrics and what is in force, on an address of their own.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::TcpListener;
use tracing::debug;

use crate::proxy::Shared;

/// What the answers depend on.
pub struct Admin {
    pub shared: Arc<Shared>,
    phase: Mutex<Phase>,
}

/// Where a proxy is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not ready, and why.
    Starting(String),
    Ready,
    /// No longer ready, so that nobody sends it anything new.
    Draining,
}

impl Admin {
    /// Starting.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, phase: Mutex::new(Phase::Starting("starting".into())) }
    }

    /// What `/readyz` says from now on.
    pub fn enter(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }
}

/// Answers `/healthz`, `/readyz`, `/metrics` and [`api::ingress`] for as long as it is polled.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = answer(&request, &admin);
                async { Ok::<_, Infallible>(response) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                debug!(%peer, %error, "connection to the admin address ended early");
            }
        });
    }
}

fn answer(request: &Request<Incoming>, admin: &Admin) -> Response<Full<Bytes>> {
    let text = |status, text: String| {
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    };
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/healthz") => text(StatusCode::OK, "ok\n".into()),
        (&Method::GET, "/readyz") => {
            match admin.phase.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                Phase::Ready => text(StatusCode::OK, "ok\n".into()),
                Phase::Starting(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
                Phase::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n".into()),
            }
        }
        (&Method::GET, "/v1/routes") => json(&admin.shared.routes()),
        (&Method::GET, "/v1/backends") => json(&admin.shared.backends()),
        (&Method::GET, "/v1/certs") => json(&admin.shared.certificates()),
        (&Method::GET, "/metrics") => text(StatusCode::OK, admin.shared.metrics().text()),
        _ => text(
            StatusCode::NOT_FOUND,
            "GET /healthz, /readyz, /metrics, /v1/routes, /v1/backends or /v1/certs\n".into(),
        ),
    }
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    // What is written has no maps with keys that are no text: it cannot fail.
    let text = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
