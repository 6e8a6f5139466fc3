//! One netlink socket in one namespace, and the two shapes of conversation over it.

use std::io;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;

use crate::error::{Error, Result};
use crate::netns::Netns;

/// A netlink socket. It stays in the namespace it was opened in and may be used from any thread of its runtime.
#[derive(Clone, Debug)]
pub struct Handle {
    connection: rtnetlink::Handle,
}

impl Handle {
    /// Opens a socket in the calling thread's namespace. Must be called within a tokio runtime, which then drives it.
    pub fn new() -> Result<Self> {
        // Strict checking makes the kernel honour the filters of dump requests.
        let (connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().map_err(|source| Error::Socket { source })?;
        // Ends by itself when the last clone of the handle is gone.
        drop(tokio::spawn(connection));
        Ok(Self { connection: handle })
    }

    /// Opens a socket inside `netns`; the calling thread stays where it is. Must be called within a tokio runtime.
    pub fn in_netns(netns: &Netns) -> Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        netns.run(|| {
            let _runtime = runtime.enter();
            Self::new()
        })?
    }

    /// Sends a request and waits for the kernel's acknowledgement.
    pub(crate) async fn change(&self, about: &About, message: RouteNetlinkMessage, flags: u16) -> Result<()> {
        self.converse(about, message, NLM_F_ACK | flags).await.map(drop)
    }

    /// Asks for one object.
    pub(crate) async fn ask(
        &self,
        about: &About,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        self.converse(about, message, 0).await
    }

    /// Asks for all objects that match.
    pub(crate) async fn dump(
        &self,
        about: &About,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        self.converse(about, message, NLM_F_DUMP).await
    }

    async fn converse(
        &self,
        about: &About,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        let mut connection = self.connection.clone();
        let mut answers =
            connection.request(request).map_err(|error| about.answer(format!("{error} (socket closed)")))?;
        let mut objects = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(object) => objects.push(object),
                // Without a code it is an acknowledgement.
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(about.refused(error.to_io()));
                }
                NetlinkPayload::Overrun(_) => return Err(about.answer("the kernel lost messages".into())),
                _ => {}
            }
        }
        Ok(objects)
    }
}

/// Looks again every millisecond until what is looked for is there, at most for `limit`. The first look is usually enough.
pub(crate) async fn look_until(limit: Duration, mut look: impl AsyncFnMut() -> Result<bool>) -> Result<bool> {
    let started = Instant::now();
    loop {
        if look().await? {
            return Ok(true);
        }
        if started.elapsed() >= limit {
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What a request is about, for its errors.
pub(crate) struct About {
    pub(crate) operation: &'static str,
    /// Already text, although few requests fail: `format_args!` would make every future here `!Send`.
    pub(crate) object: String,
}

impl About {
    pub(crate) fn answer(&self, problem: String) -> Error {
        Error::Answer { operation: self.operation, object: self.object.clone(), problem }
    }

    fn refused(&self, source: io::Error) -> Error {
        Error::Request { operation: self.operation, object: self.object.clone(), source }
    }
}

/// Names an operation and its object: `about!("delete link", "eth{}", 0)`.
macro_rules! about {
    ($operation:literal, $($object:tt)+) => {
        &crate::handle::About { operation: $operation, object: format!($($object)+) }
    };
}
pub(crate) use about;
