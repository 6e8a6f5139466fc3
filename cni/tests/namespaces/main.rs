//! The real binary in namespaces of its own, against an agent that only keeps books. Needs root.

mod conversation;
mod loopback;
mod support;
mod undo;
mod upkeep;
