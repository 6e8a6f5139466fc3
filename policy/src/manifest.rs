//! Text in, objects out: YAML and JSON as people write them.

use serde_json::Value;

use crate::object::Object;
use crate::warning::Warning;

/// One Kubernetes object of any kind, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The file's name.
    pub origin: String,
    /// The line on which it begins, from 1.
    pub line: usize,
    pub kind: String,
    pub api_version: String,
    pub value: Value,
}

/// Text that is no list of Kubernetes objects.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}:{line}: {message}")]
pub struct ParseError {
    pub origin: String,
    pub line: usize,
    pub message: String,
}

/// The objects of one text, of any kind; `List` objects are unfolded.
pub fn documents(_origin: &str, _text: &str) -> Result<Vec<Document>, ParseError> {
    Ok(Vec::new())
}

/// The typed object, and a warning for each field that its type does not have. `None`: a kind that we do not watch.
pub fn object(_document: &Document) -> Result<Option<(Object, Vec<Warning>)>, Warning> {
    Ok(None)
}
