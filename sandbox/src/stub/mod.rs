//! What stands in each pod in place of its containers: the process `weir-stub`.
//!
//! It listens on the pod's ports and says the pod's name to whoever asks, and it probes other pods when the supervisor
//! tells it to. The two talk in JSON lines over the stub's standard input and output ([`protocol`]).

mod listen;
mod place;
mod probe;
pub mod protocol;
mod resolve;
mod resolver;
mod sctp;
mod sctp_socket;
mod serve;
pub mod zone;

pub use place::{Place, spawn};
pub use resolve::resolve;
pub use serve::serve;
