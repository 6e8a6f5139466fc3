//! What a fuzzer must not find: one module a target, each with a `check` that panics where an invariant is broken.
//!
//! The checks know nothing of the engine: libFuzzer calls them through the doors in `bin/`, and `tests/` calls them with
//! every input that is kept in `corpus/` and `regressions/`.
#![forbid(unsafe_code)]

pub mod cni;
pub mod corrupt;
pub mod flows;
pub mod kept;
pub mod kernel;
pub mod manifest;
pub mod model;
pub mod packet;
pub mod reference;
pub mod script;
pub mod town;
pub mod tree;
