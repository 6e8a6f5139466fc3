//! Label selectors, as Kubernetes' label library has them.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub(crate) use crate::labels::Labels;

/// All of its requirements must hold; without any it selects everything.
///
/// A set, so that two ways of writing one selector (`matchLabels` or `In`, any order) are one selector.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Selector {
    pub requirements: BTreeSet<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Requirement {
    pub key: String,
    pub test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Test {
    In(BTreeSet<String>),
    /// Holds for objects without the key, too.
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
}

/// What is wrong with a selector, and where in it.
pub(crate) struct Invalid {
    pub field: String,
    pub message: String,
}

impl Selector {
    pub(crate) fn new(selector: &LabelSelector) -> Result<Self, Invalid> {
        let mut requirements = BTreeSet::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements
                .insert(Requirement { key: key.clone(), test: Test::In(BTreeSet::from([value.clone()])) });
        }
        for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
            let values: BTreeSet<String> = expression.values.iter().flatten().cloned().collect();
            let test = match (expression.operator.as_str(), values.is_empty()) {
                ("In", false) => Test::In(values),
                ("NotIn", false) => Test::NotIn(values),
                ("Exists", true) => Test::Exists,
                ("DoesNotExist", true) => Test::DoesNotExist,
                ("In" | "NotIn", true) => {
                    return Err(Invalid {
                        field: format!("matchExpressions[{index}].values"),
                        message: format!("{} needs at least one value", expression.operator),
                    });
                }
                ("Exists" | "DoesNotExist", false) => {
                    return Err(Invalid {
                        field: format!("matchExpressions[{index}].values"),
                        message: format!("{} takes no values", expression.operator),
                    });
                }
                (operator, _) => {
                    return Err(Invalid {
                        field: format!("matchExpressions[{index}].operator"),
                        message: format!(
                            "unknown operator {operator:?}: expected In, NotIn, Exists or DoesNotExist"
                        ),
                    });
                }
            };
            if expression.key.is_empty() {
                return Err(Invalid {
                    field: format!("matchExpressions[{index}].key"),
                    message: "missing: expected the name of a label".to_owned(),
                });
            }
            requirements.insert(Requirement { key: expression.key.clone(), test });
        }
        Ok(Self { requirements })
    }

    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| requirement.holds(labels))
    }

    /// A label that every match carries, as its key and the values it may have: what an index finds the selector by.
    pub(crate) fn anchor(&self) -> Option<(&str, &BTreeSet<String>)> {
        self.requirements.iter().find_map(|requirement| match &requirement.test {
            Test::In(values) => Some((requirement.key.as_str(), values)),
            Test::NotIn(_) | Test::Exists | Test::DoesNotExist => None,
        })
    }
}

impl Requirement {
    pub(crate) fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.contains(value)),
            Test::NotIn(values) => !value.is_some_and(|value| values.contains(value)),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
        }
    }
}

impl fmt::Display for Selector {
    /// Canonical: equal selectors and no others have equal text. Ids are made of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for Requirement { key, test } in &self.requirements {
            match test {
                Test::In(values) => write!(f, "{key:?} in {values:?};")?,
                Test::NotIn(values) => write!(f, "{key:?} not in {values:?};")?,
                Test::Exists => write!(f, "{key:?};")?,
                Test::DoesNotExist => write!(f, "not {key:?};")?,
            }
        }
        f.write_str("}")
    }
}
