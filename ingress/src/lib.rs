//! `weir-ingress`, the HTTP proxy for Ingress objects.
//!
//! ```text
//! files -> object -> World -> compile -> Compiled -> proxy: Snapshot, swapped whole
//! ```
//!
//! [`route`] and [`compile`] are pure: no I/O, no clock. [`route`] is not shaped like an Ingress; what compiles into it is
//! [`compile`]'s business. [`proxy`] moves bytes and decides nothing that the snapshot could say.
#![forbid(unsafe_code)]

pub mod admin;
pub mod compile;
pub mod files;
pub mod object;
pub mod proxy;
pub mod route;
pub mod tls;
pub mod watch;
