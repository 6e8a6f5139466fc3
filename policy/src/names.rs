//! What the numbers in the tables stand for.

use std::collections::BTreeMap;

use common::id::{RuleId, RuleSetId};
use common::verdict::Direction;

/// Names of the numbers that one compilation used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub rules: BTreeMap<RuleId, RuleName>,
    pub rule_sets: BTreeMap<RuleSetId, RuleSetName>,
}

/// One rule of one policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleName {
    /// `namespace/name`.
    pub policy: String,
    pub direction: Direction,
    /// `spec.ingress[0]`.
    pub path: String,
}

/// What one endpoint allows in one direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleSetName {
    pub direction: Direction,
    /// Every policy that isolates the endpoint in this direction, `namespace/name`, in order.
    pub policies: Vec<String>,
    /// How many rows it has in the flat table.
    pub rows: usize,
}
