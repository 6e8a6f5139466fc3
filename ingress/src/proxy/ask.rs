//! Requests of the proxy's own, without a body: to who says whether a client may come, and to who has pages for errors.

use std::rc::Rc;
use std::sync::Arc;

use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::HeaderMap;
use hyper::http::response;
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Uri};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::answer::Lent;
use super::balance::{Choice, InFlight, pick};
use super::body::{Progress, Upload};
use super::forward::chain;
use super::live::{Endpoint, LiveCluster};
use super::names::Endpoints;
use super::worker::Worker;
use crate::compile::{BasicLimits, Protocol};

/// So many endpoints or connections are tried.
const TRIES: usize = 3;
/// An answer's body that nobody reads is read to its end, for the connection's sake, up to so many bytes.
const UNREAD: u64 = 64 << 10;

/// Who is asked.
pub(super) enum Whom<'a> {
    Cluster(&'a LiveCluster),
    Host { host: &'a str, port: u16, is_tls: bool },
}

/// What is asked; `headers` with `Host`.
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) path: PathAndQuery,
    pub(super) headers: HeaderMap,
}

pub(super) struct Answered {
    pub(super) head: response::Parts,
    pub(super) body: Incoming,
    pub(super) lent: Lent,
    pub(super) in_flight: InFlight,
}

/// Asks, on a kept connection or a new one. The error is for the log.
pub(super) async fn ask(
    worker: &Rc<Worker>,
    whom: &Whom<'_>,
    question: Question,
    limits: &BasicLimits,
) -> Result<Answered, String> {
    let resolved;
    let endpoints: &[Arc<Endpoint>] = match whom {
        Whom::Cluster(cluster) => match &cluster.external {
            None => &cluster.endpoints,
            Some(_) => {
                resolved = external(worker, cluster).await?;
                &resolved
            }
        },
        Whom::Host { host, port, is_tls } => {
            let protocol = if *is_tls { Protocol::Https } else { Protocol::Http };
            resolved = worker.shared.names.resolve(host, *port, protocol).await?;
            &resolved
        }
    };
    let mut tried: Vec<Arc<Endpoint>> = Vec::new();
    let mut why = match whom {
        Whom::Cluster(cluster) => cluster.empty.clone(),
        Whom::Host { .. } => None,
    };
    for count in 0..TRIES {
        let Some(endpoint) = pick(endpoints, &tried, Choice::Latency, &mut || worker.chance()) else { break };
        let in_flight = InFlight::new(Arc::clone(endpoint));
        let kept = if count + 1 < TRIES { worker.pool.take(endpoint.key()).await } else { None };
        let is_kept = kept.is_some();
        let mut sender = match kept {
            Some(sender) => sender,
            None => match worker.connector.connect(endpoint, limits.connect).await {
                Ok(sender) => sender,
                Err(failure) => {
                    endpoint.load.failed();
                    tried.push(Arc::clone(endpoint));
                    why = Some(chain(&failure));
                    continue;
                }
            },
        };
        let progress = Progress::new();
        let mut request = Request::new(Upload::none(Rc::clone(&progress)));
        progress.sent.set(super::body::Sent::All);
        *request.method_mut() = question.method.clone();
        *request.uri_mut() = Uri::from(question.path.clone());
        request.headers_mut().clone_from(&question.headers);
        match timeout(limits.read, sender.send(request)).await {
            Err(_) => return Err(format!("no answer within {:?}", limits.read)),
            Ok(Ok(response)) => {
                let (head, body) = response.into_parts();
                let lent = Lent { key: endpoint.key(), sender, progress };
                return Ok(Answered { head, body, lent, in_flight });
            }
            Ok(Err(error)) => {
                why = Some(format!("no answer: {}", chain(&error.into_error())));
                // A kept connection may have been closed under us; asking twice does no harm.
                if !is_kept {
                    tried.push(Arc::clone(endpoint));
                }
            }
        }
    }
    Err(why.unwrap_or_else(|| "nobody is there to be asked".into()))
}

/// The endpoints of a cluster that is somebody else's name.
pub(super) async fn external(worker: &Worker, cluster: &LiveCluster) -> Result<Endpoints, String> {
    let Some((host, port)) = &cluster.external else { return Ok(Endpoints::default()) };
    let found = worker.shared.names.resolve(host, *port, cluster.protocol).await?;
    let is_here = |endpoint: &Arc<Endpoint>| {
        let address = endpoint.address.ip().to_canonical();
        address.is_loopback() || address.is_unspecified()
    };
    // Whoever may write a Service has no business with what listens on this machine alone.
    if !worker.shared.tuning.loopback && found.iter().any(is_here) {
        return Err(format!("{host} leads to this machine itself"));
    }
    Ok(found)
}

/// Gives the connection back when the body has come, which nobody reads.
pub(super) fn put_back(worker: &Rc<Worker>, answered: Answered) {
    let Answered { mut body, lent, in_flight, .. } = answered;
    if body.is_end_stream() {
        return worker.pool.put(lent.key, lent.sender);
    }
    let worker = Rc::clone(worker);
    spawn_local(async move {
        let _in_flight = in_flight;
        let mut left = UNREAD;
        let read = async {
            while let Some(frame) = body.frame().await {
                let len = frame.ok()?.data_ref().map_or(0, |data| data.len() as u64);
                left = left.checked_sub(len)?;
            }
            Some(())
        };
        if let Ok(Some(())) = timeout(std::time::Duration::from_secs(5), read).await {
            worker.pool.put(lent.key, lent.sender);
        }
    });
}
