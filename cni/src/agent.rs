//! The agent's local socket, as a client: HTTP/1.1 and JSON, a connection per call.
//!
//! Every call has a time limit, so an agent that hangs cannot hang the runtime. An agent that is away is told apart from
//! one that says no: the first is worth another try.

use std::cell::Cell;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use api::{Attach, Attached, Collected, Detached, Endpoint, Status, Valid};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::spec::{Failure, code};

/// The agent waits up to 10 s for a pod that the API server has not told it of yet.
const ATTACH_LIMIT: Duration = Duration::from_secs(15);
/// `DEL` goes on without the agent, so it does not wait long for it.
const DETACH_LIMIT: Duration = Duration::from_secs(3);
const QUESTION_LIMIT: Duration = Duration::from_secs(2);
const COLLECT_LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Agent {
    socket: PathBuf,
    /// Made by [`Agent::reach`] for the next call.
    connected: Cell<Option<UnixStream>>,
}

#[derive(Debug)]
pub(crate) enum AgentError {
    /// No answer: nobody listens, or not in time.
    Away { socket: PathBuf, cause: String },
    /// An answer, and it is no.
    Refused { status: StatusCode, error: api::Error },
}

impl Agent {
    pub(crate) fn at(socket: PathBuf) -> Self {
        Self { socket, connected: Cell::new(None) }
    }

    /// Makes sure that somebody listens: `ADD` asks before it makes anything.
    pub(crate) async fn reach(&self) -> Result<(), AgentError> {
        self.connected.set(Some(self.connect().await?));
        Ok(())
    }

    pub(crate) async fn attach(&self, attach: &Attach) -> Result<Attached, AgentError> {
        self.call(ATTACH_LIMIT, Method::PUT, "/v1/endpoints", Some(attach)).await
    }

    pub(crate) async fn detach(&self, container_id: &str, ifname: &str) -> Result<Detached, AgentError> {
        self.call(DETACH_LIMIT, Method::DELETE, &path(container_id, ifname), NOTHING).await
    }

    /// What the agent has for the attachment, if it has something.
    pub(crate) async fn endpoint(
        &self,
        container_id: &str,
        ifname: &str,
    ) -> Result<Option<Endpoint>, AgentError> {
        match self.call(QUESTION_LIMIT, Method::GET, &path(container_id, ifname), NOTHING).await {
            Ok(endpoint) => Ok(Some(endpoint)),
            Err(AgentError::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn collect(&self, valid: &Valid) -> Result<Collected, AgentError> {
        self.call(COLLECT_LIMIT, Method::POST, "/v1/gc", Some(valid)).await
    }

    pub(crate) async fn status(&self) -> Result<Status, AgentError> {
        self.call(QUESTION_LIMIT, Method::GET, "/v1/status", NOTHING).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        limit: Duration,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, AgentError> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| self.away(error))?,
            None => Vec::new(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.away(error))?;
        let (status, body) = match tokio::time::timeout(limit, self.exchange(request)).await {
            Ok(answer) => answer?,
            Err(_) => return Err(self.away(format!("no answer within {} s", limit.as_secs()))),
        };
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.away(error));
        }
        let error = serde_json::from_slice(&body).unwrap_or_else(|_| api::Error {
            transient: status.is_server_error(),
            message: String::from_utf8_lossy(&body).into_owned(),
        });
        Err(AgentError::Refused { status, error })
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), AgentError> {
        let stream = match self.connected.take() {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.away(error))?;
        // Ends when the sender is gone; what goes wrong in it shows in the answer.
        drop(tokio::spawn(connection));
        let answer = sender.send_request(request).await.map_err(|error| self.away(error))?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|error| self.away(error))?.to_bytes();
        Ok((status, body))
    }

    /// Never waits: a socket whose queue is full refuses.
    async fn connect(&self) -> Result<UnixStream, AgentError> {
        UnixStream::connect(&self.socket).await.map_err(|error| self.away(error))
    }

    fn away(&self, cause: impl fmt::Display) -> AgentError {
        AgentError::Away { socket: self.socket.clone(), cause: cause.to_string() }
    }
}

/// No body; its type does not matter.
const NOTHING: Option<&()> = None;

fn path(container_id: &str, ifname: &str) -> String {
    // A container id needs no escaping (`invocation::is_identifier`); an interface's name may hold anything but `/`.
    let mut escaped = String::new();
    for byte in ifname.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            escaped.push(byte.into());
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    format!("/v1/endpoints/{container_id}/{escaped}")
}

impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away { socket, cause } => write!(f, "the agent is away ({}): {cause}", socket.display()),
            Self::Refused { error, .. } => write!(f, "the agent refused: {}", error.message),
        }
    }
}

impl From<AgentError> for Failure {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Away { socket, cause } => {
                Self::new(code::TRY_AGAIN_LATER, format!("the agent is away ({})", socket.display()))
                    .with_details(cause)
            }
            AgentError::Refused { error, .. } => {
                let code = if error.transient { code::TRY_AGAIN_LATER } else { code::AGENT_REFUSED };
                Self::new(code, "the agent refused").with_details(error.message)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_are_escaped_in_paths() {
        assert_eq!(path("c1", "eth0"), "/v1/endpoints/c1/eth0");
        assert_eq!(path("c1", "a%b?c#d"), "/v1/endpoints/c1/a%25b%3Fc%23d");
    }

    #[test]
    fn only_what_may_go_better_later_is_worth_another_try() {
        let refused = |transient| {
            let error = api::Error { transient, message: "pod shop/web is not known".into() };
            Failure::from(AgentError::Refused { status: StatusCode::CONFLICT, error })
        };
        assert_eq!(refused(true).code, 11);
        assert_eq!(refused(false).code, 101);
        assert_eq!(refused(false).to_string(), "the agent refused: pod shop/web is not known");
    }
}
