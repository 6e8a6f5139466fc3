//! The fixtures of the tests that need a kernel and root. What lacks root fails with a sentence; nothing skips itself.
#![forbid(unsafe_code)]

pub mod beyond;
pub mod bpffs;
pub mod browser;
pub mod command;
pub mod denials;
pub mod dice;
pub mod eager;
pub mod flows;
pub mod frame;
pub mod judges;
pub mod load;
pub mod node;
pub mod pins;
pub mod prove;
pub mod raw;
pub mod rows;
pub mod scene;
pub mod shrink;
pub mod stage;
pub mod town;
pub mod traffic;
pub mod words;
pub mod worlds;
