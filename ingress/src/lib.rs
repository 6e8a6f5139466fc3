//! `weir-ingress`, the HTTP proxy for Ingress objects.
//!
//! ```text
//! files, kubernetes -> object -> World -> compile -> Compiled -> proxy: Snapshot, swapped whole
//! ```
//!
//! [`route`] and [`compile`] are pure: no I/O, no clock. [`route`] is not shaped like an Ingress; what compiles into it is
//! [`compile`]'s business. [`proxy`] moves bytes and decides nothing that the snapshot could say.
#![forbid(unsafe_code)]

#[cfg(feature = "proxy")]
pub mod admin;
pub mod compile;
pub mod files;
#[cfg(feature = "proxy")]
pub mod handover;
#[cfg(feature = "proxy")]
pub mod kubernetes;
pub mod object;
#[cfg(feature = "proxy")]
pub mod proxy;
pub mod route;
#[cfg(feature = "proxy")]
pub mod serving;
#[cfg(feature = "proxy")]
pub mod tls;
