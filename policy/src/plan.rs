//! The ordered writes from one content of the maps to another.

use crate::tables::{MapOp, Tables};

/// The writes that turn `actual` into `desired`.
pub fn plan(_actual: &Tables, _desired: &Tables) -> Vec<MapOp> {
    Vec::new()
}
