//! What could not be honoured, said about the object that asked for it.

use std::fmt;

/// One thing in one object that we do not honour.
///
/// A warning may narrow what an object allows, never widen it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Warning {
    /// `NetworkPolicy shop/web`.
    pub object: String,
    /// `spec.ingress[0].from[1].ipBlock.cidr`; empty where it is about the object as a whole.
    pub field: String,
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            write!(f, "{}: {}", self.object, self.message)
        } else {
            write!(f, "{}: {}: {}", self.object, self.field, self.message)
        }
    }
}

impl std::error::Error for Warning {}
