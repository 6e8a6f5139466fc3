//! What the kernel programs and user space agree on.
//!
//! The rules of this ABI: every struct is `repr(C)` with each byte named, so there is no padding for the verifier or a
//! map key to trip over; byte order is in the type; no `bool`, `Option` or data-carrying enum crosses a map; layouts are
//! asserted beside their definition. Numbers that leave the kernel (drop reasons, map names) are append-only. A change
//! that old pins cannot be read with raises [`maps::LAYOUT_VERSION`].
//!
//! Pure decisions that both sides share live here too, so that they run under `cargo test` and in the kernel unchanged.
#![no_std]

pub mod config;
pub mod conntrack;
pub mod endpoint;
pub mod flow;
pub mod fragment;
pub mod id;
pub mod maps;
pub mod net;
pub mod overlay;
pub mod packet;
pub mod release;
pub mod rules;
pub mod service;
pub mod verdict;

#[cfg(feature = "user")]
mod user;
