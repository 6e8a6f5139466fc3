//! Where Kubernetes' objects come from: an API server that is listed and watched, or a folder that is.
//!
//! What the agent and the ingress proxy share of that: a way to the API server, one feed a kind, Events about what people
//! have to know. What the objects mean is the business of those who are told; nothing here looks into them further than
//! their names.
#![forbid(unsafe_code)]

mod access;
mod api;
mod events;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod feed;
mod folder;
mod mirror;
mod notice;
mod patience;

pub use access::{Access, Error};
pub use api::{Api, Head, Listing, Name, Resource, Trouble};
pub use events::{EventWriter, Reporter};
pub use feed::{Feed, News, Sink};
pub use folder::Watches;
pub use mirror::Mirror;
pub use notice::{About, Notice};
pub use patience::Patience;
