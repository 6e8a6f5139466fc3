//! Placeholder while the rest compiles.
pub const KIND: &str = "Expectation";
