//! Everything that can make the agent do something. Add a variant, not a task that owns state.

use api::{
    Attach, Attached, Attachment, Collected, Detached, Endpoint, ExplainQuery, Explanation, FlowQuery,
    PeerStatus, Status, Valid,
};
use common::flow::FlowEvent;
use tokio::sync::oneshot;

use crate::drift::Mended;
use crate::flows::FlowFeed;
use crate::metrics::Numbers;
use crate::source::Update;

pub(crate) enum Event {
    /// Objects have changed.
    Source(Update),
    /// Somebody at the socket waits for an answer.
    Call(Call),
    /// A batch from the kernel's ring.
    Flows(Vec<FlowEvent>),
    /// A part beside the loop has these complaints now, and none of those it had before.
    Complaints {
        part: &'static str,
        complaints: Vec<String>,
    },
    /// The plugin's configuration is in place: the runtime can wire pods.
    Wired,
    /// Look for what somebody else has changed in the datapath.
    Audit,
    /// A tc filter of this interface is gone.
    FilterGone(u32),
    /// The overlay's device was made anew: programs must be on it before anything leads there.
    Overlay(u32, oneshot::Sender<anyhow::Result<()>>),
    /// What somebody else had changed was put right.
    Mended(Vec<Mended>),
    /// How the pods of the other nodes are reached now.
    Peers(Vec<PeerStatus>),
    /// Forget expired connections.
    Sweep,
    /// Look for endpoints whose interface is gone.
    Reconcile,
    /// A deadline of the loop itself has come.
    Tick,
    Shutdown,
}

/// One call of the socket, with the place for its answer.
pub(crate) enum Call {
    Attach(Attach, Reply<Attached>),
    Detach(Attachment, Reply<Detached>),
    Collect(Valid, Reply<Collected>),
    Ask(Question),
}

/// A call that changes nothing.
pub(crate) enum Question {
    Endpoint(Attachment, Reply<Endpoint>),
    Status(Reply<Status>),
    Flows(FlowQuery, Reply<FlowFeed>),
    Explain(ExplainQuery, Reply<Vec<Explanation>>),
    Numbers(Reply<Numbers>),
    /// What is missing before the node is ready; `None`: nothing.
    Readiness(Reply<Option<String>>),
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// Whose fault it is that a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The call asks for what cannot be.
    Caller,
    /// There is no such object.
    Absent,
    /// It cannot be done now, and the same call may succeed later.
    Now,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) fault: Fault,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn caller(message: impl Into<String>) -> Self {
        Self { fault: Fault::Caller, message: message.into() }
    }

    pub(crate) fn absent(message: impl Into<String>) -> Self {
        Self { fault: Fault::Absent, message: message.into() }
    }

    pub(crate) fn now(message: impl Into<String>) -> Self {
        Self { fault: Fault::Now, message: message.into() }
    }
}
