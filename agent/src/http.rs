//! The calls of `api`, over HTTP/1.1: each becomes an event, and the loop's answer the response.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::time::Duration;

use api::{Attachment, ExplainQuery, FlowLine, FlowQuery, VerdictKind};
use futures_util::stream;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioTimer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};
use tokio::sync::{mpsc, oneshot};

use crate::event::{Call, Event, Fault, Question, Refusal, Reply};
use crate::flows::{FlowFeed, Seen};

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;
type Outcome = Result<Response<Body>, Refusal>;

/// The longest list of valid attachments that anybody has sent is far below this.
const LONGEST_BODY: usize = 8 << 20;
const IDLE: Duration = Duration::from_secs(60);

/// Serves one connection of the socket to its end.
pub(crate) async fn serve<Io>(io: Io, events: mpsc::Sender<Event>) -> hyper::Result<()>
where
    Io: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let service = service_fn(|request| {
        let events = events.clone();
        async move { Ok::<_, Infallible>(answer(request, &events).await.unwrap_or_else(refuse)) }
    });
    builder().serve_connection(io, service).await
}

pub(crate) fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE);
    builder
}

async fn answer(request: Request<Incoming>, events: &mpsc::Sender<Event>) -> Outcome {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (request.method(), parts.as_slice()) {
        (&Method::PUT, ["v1", "endpoints"]) => {
            let attach = body(request).await?;
            json(&ask(events, |reply| Call::Attach(attach, reply)).await?)
        }
        (&Method::GET, ["v1", "endpoints", container, ifname]) => {
            let attachment = attachment(container, ifname);
            json(&ask(events, |reply| Call::Ask(Question::Endpoint(attachment, reply))).await?)
        }
        (&Method::DELETE, ["v1", "endpoints", container, ifname]) => {
            let attachment = attachment(container, ifname);
            json(&ask(events, |reply| Call::Detach(attachment, reply)).await?)
        }
        (&Method::POST, ["v1", "gc"]) => {
            let valid = body(request).await?;
            json(&ask(events, |reply| Call::Collect(valid, reply)).await?)
        }
        (&Method::GET, ["v1", "status"]) => {
            json(&ask(events, |reply| Call::Ask(Question::Status(reply))).await?)
        }
        (&Method::GET, ["v1", "explain"]) => {
            let query = explain_query(request.uri().query().unwrap_or_default())?;
            json(&ask(events, |reply| Call::Ask(Question::Explain(query, reply))).await?)
        }
        (&Method::GET, ["v1", "flows"]) => {
            let query = flow_query(request.uri().query().unwrap_or_default())?;
            let feed = ask(events, |reply| Call::Ask(Question::Flows(query.clone(), reply))).await?;
            Ok(flows(feed, query))
        }
        (method, _) => Err(Refusal::absent(format!("no call {method} {path}"))),
    }
}

/// Puts a question to the loop.
pub(crate) async fn ask<T>(
    events: &mpsc::Sender<Event>,
    call: impl FnOnce(Reply<T>) -> Call,
) -> Result<T, Refusal> {
    let stopping = || Refusal::now("the agent is stopping");
    let (reply, answer) = oneshot::channel();
    events.send(Event::Call(call(reply))).await.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())?
}

async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refusal> {
    let bytes = Limited::new(request.into_body(), LONGEST_BODY)
        .collect()
        .await
        .map_err(|error| Refusal::caller(format!("body of the call: {error}")))?
        .to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| Refusal::caller(format!("body of the call: {error}")))
}

fn attachment(container: &str, ifname: &str) -> Attachment {
    Attachment { container_id: decoded(container), ifname: decoded(ifname) }
}

/// Undoes percent-encoding, with the decoder at hand: that of forms, for which more characters mean something.
fn decoded(part: &str) -> String {
    let part = part.replace('+', "%2B").replace('=', "%3D").replace('&', "%26");
    form_urlencoded::parse(part.as_bytes()).next().map(|(name, _)| name.into_owned()).unwrap_or_default()
}

fn explain_query(query: &str) -> Result<ExplainQuery, Refusal> {
    let mut explain = ExplainQuery::default();
    for (field, value) in form_urlencoded::parse(query.as_bytes()) {
        match field.as_ref() {
            "from" => explain.from = value.into_owned(),
            "to" => explain.to = value.into_owned(),
            "port" => explain.port = value.into_owned(),
            _ => {
                return Err(Refusal::caller(format!(
                    "explain: {field}={value}: must be one of from, to, port"
                )));
            }
        }
    }
    for (field, value) in [("from", &explain.from), ("to", &explain.to), ("port", &explain.port)] {
        if value.is_empty() {
            return Err(Refusal::caller(format!("explain: {field} is missing")));
        }
    }
    Ok(explain)
}

fn flow_query(query: &str) -> Result<FlowQuery, Refusal> {
    let mut flows = FlowQuery::default();
    for (field, value) in form_urlencoded::parse(query.as_bytes()) {
        let wrong = |right: &str| Refusal::caller(format!("flows: {field}={value}: must be {right}"));
        match field.as_ref() {
            "follow" => flows.follow = value.parse().map_err(|_| wrong("`true` or `false`"))?,
            "last" => flows.last = Some(value.parse().map_err(|_| wrong("a number"))?),
            "pod" => flows.pod = Some(value.into_owned()),
            "namespace" => flows.namespace = Some(value.into_owned()),
            "verdict" => {
                flows.verdict = Some(match value.as_ref() {
                    "allowed" => VerdictKind::Allowed,
                    "denied" => VerdictKind::Denied,
                    _ => return Err(wrong("`allowed` or `denied`")),
                });
            }
            "port" => flows.port = Some(value.parse().map_err(|_| wrong("a port number"))?),
            "protocol" => flows.protocol = Some(value.into_owned()),
            _ => return Err(wrong("one of follow, last, pod, namespace, verdict, port, protocol")),
        }
    }
    Ok(flows)
}

fn flows(feed: FlowFeed, query: FlowQuery) -> Response<Body> {
    let kept: String = feed.kept.into_iter().map(|flow| line(&FlowLine::Flow(Box::new(flow)))).collect();
    let body = match feed.live {
        None => Full::new(Bytes::from(kept)).boxed_unsync(),
        Some(live) => {
            let rest = Follower { live, query };
            let start = (Some(kept), rest);
            StreamBody::new(stream::unfold(start, |(kept, mut rest)| async move {
                let text = match kept {
                    Some(kept) if !kept.is_empty() => kept,
                    _ => rest.next().await?,
                };
                Some((Ok(Frame::data(Bytes::from(text))), (None, rest)))
            }))
            .boxed_unsync()
        }
    };
    response(StatusCode::OK, "application/x-ndjson", body)
}

/// One reader of live flows.
struct Follower {
    live: broadcast::Receiver<Seen>,
    query: FlowQuery,
}

impl Follower {
    /// The lines that are there, once there is one; `None` when the agent ends.
    async fn next(&mut self) -> Option<String> {
        let mut lines = String::new();
        while lines.is_empty() {
            match self.live.recv().await {
                Ok(seen) => self.add(&mut lines, seen),
                Err(RecvError::Lagged(lost)) => lines += &line(&FlowLine::Lost { lost }),
                Err(RecvError::Closed) => return None,
            }
        }
        while lines.len() < 1 << 16 {
            match self.live.try_recv() {
                Ok(seen) => self.add(&mut lines, seen),
                Err(TryRecvError::Lagged(lost)) => lines += &line(&FlowLine::Lost { lost }),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        Some(lines)
    }

    fn add(&self, lines: &mut String, seen: Seen) {
        match seen {
            Seen::Flow(flow) if self.query.matches(&flow) => *lines += &line(flow.as_ref()),
            Seen::Flow(_) => {}
            Seen::Lost(lost) => *lines += &line(&FlowLine::Lost { lost }),
        }
    }
}

fn line(value: &impl Serialize) -> String {
    let mut text = String::new();
    match serde_json::to_string(value) {
        Ok(json) => text += &json,
        Err(error) => write!(text, "{{\"error\":\"{error}\"}}").unwrap_or_default(),
    }
    text.push('\n');
    text
}

fn json(value: &impl Serialize) -> Outcome {
    let text = serde_json::to_vec(value).map_err(|error| Refusal::now(format!("answer: {error}")))?;
    Ok(response(StatusCode::OK, "application/json", Full::new(Bytes::from(text)).boxed_unsync()))
}

fn refuse(refusal: Refusal) -> Response<Body> {
    let status = match refusal.fault {
        Fault::Caller => StatusCode::BAD_REQUEST,
        Fault::Absent => StatusCode::NOT_FOUND,
        Fault::Now => StatusCode::SERVICE_UNAVAILABLE,
    };
    let error = api::Error { transient: refusal.fault == Fault::Now, message: refusal.message };
    response(status, "application/json", Full::new(Bytes::from(line(&error))).boxed_unsync())
}

pub(crate) fn response(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_a_flow_query_travels() {
        let query = "follow=true&last=5&pod=shop%2Fweb&namespace=shop&verdict=denied&port=80&protocol=tcp";
        let expected = FlowQuery {
            follow: true,
            last: Some(5),
            pod: Some("shop/web".into()),
            namespace: Some("shop".into()),
            verdict: Some(VerdictKind::Denied),
            port: Some(80),
            protocol: Some("tcp".into()),
        };
        assert_eq!(flow_query(query).unwrap(), expected);
        assert_eq!(flow_query("").unwrap(), FlowQuery::default());
    }

    #[test]
    fn a_flow_query_that_means_nothing_names_its_field() {
        for (query, field) in [("port=http", "port"), ("verdict=maybe", "verdict"), ("colour=red", "colour")]
        {
            let refusal = flow_query(query).unwrap_err();
            assert_eq!(refusal.fault, Fault::Caller);
            assert!(refusal.message.contains(field), "{}", refusal.message);
        }
    }

    #[test]
    fn names_in_a_path_are_decoded() {
        assert_eq!(decoded("abc-1.2_3"), "abc-1.2_3");
        assert_eq!(decoded("eth%3a0+x"), "eth:0+x");
        assert_eq!(decoded("a=b"), "a=b");
    }

    /// What the flow's own type says and what the line says must be one thing.
    #[test]
    fn a_flow_and_its_line_read_the_same() {
        let flow: api::Flow = serde_json::from_value(serde_json::json!({
            "time": "2026-11-24T06:00:00.000001Z", "node": "node-0", "protocol": "TCP", "verdict": "denied",
            "from": { "ip": "10.244.0.2", "port": 4000 }, "to": { "ip": "10.244.0.3", "port": 80 },
            "reason": "policy_denied", "by": [], "bytes": 60,
        }))
        .unwrap();
        let text = line(&FlowLine::Flow(Box::new(flow.clone())));
        assert_eq!(text, line(&flow));
        assert_eq!(serde_json::from_str::<FlowLine>(&text).unwrap(), FlowLine::Flow(Box::new(flow)));
        assert_eq!(serde_json::from_str::<FlowLine>("{\"lost\":3}").unwrap(), FlowLine::Lost { lost: 3 });
    }
}
