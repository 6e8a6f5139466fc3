//! Health and metrics, on an address of their own.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tracing::debug;

use crate::proxy::Shared;

/// What the answers depend on.
pub struct Admin {
    pub shared: Arc<Shared>,
    /// No longer ready once the proxy drains, so that nobody sends it anything new.
    pub draining: AtomicBool,
}

/// Answers `/healthz`, `/readyz` and `/metrics` for as long as it is polled.
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
        (&Method::GET, "/readyz") if admin.draining.load(Relaxed) => {
            text(StatusCode::SERVICE_UNAVAILABLE, "draining\n".into())
        }
        (&Method::GET, "/readyz") => text(StatusCode::OK, "ok\n".into()),
        (&Method::GET, "/metrics") => text(StatusCode::OK, admin.shared.metrics().text()),
        _ => text(StatusCode::NOT_FOUND, "GET /healthz, /readyz or /metrics\n".into()),
    }
}
