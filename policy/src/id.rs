//! Numbers that stand for content: the first 64 bits of a SHA-256 over a canonical text.

use sha2::{Digest, Sha256};

/// The number of `text`, which is a `kind`. Never 0 and never all ones: those are taken (`OPEN`, `NONE`, `ANY`).
pub(crate) fn content_id(kind: &str, text: &str) -> u64 {
    let digest = Sha256::new().chain_update(kind).chain_update("\n").chain_update(text).finalize();
    digest
        .chunks_exact(8)
        .map(|chunk| chunk.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
        .find(|number| ![0, u64::MAX].contains(number))
        .unwrap_or(1)
}
