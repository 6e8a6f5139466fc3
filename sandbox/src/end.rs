//! How an expectation names the ends of a connection, and who is meant.

use std::collections::BTreeMap;
use std::fmt;

use crate::plan::Cast;
use crate::report::{OUTSIDE, Report, node_end};

/// Whom `from:` or `to:` means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// A pod or the pods of a workload; `*` stands for any run of characters.
    Named {
        namespace: String,
        name: String,
    },
    /// Pods with all of these labels.
    Labelled {
        namespace: String,
        labels: Vec<(String, String)>,
    },
    Node(String),
    Outside,
}

impl Pattern {
    /// `shop/web`, `web` (in `default`), `shop/*`, `*`, `shop/app=web,tier=front`, `node/node-0`, `outside`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (namespace, name) = match text.trim().split_once('/') {
            _ if text.trim() == OUTSIDE => return Ok(Self::Outside),
            _ if text.trim() == "*" => ("*", "*"),
            Some(("node", name)) => return Ok(Self::Node(name.to_owned())),
            // A label's key may hold a slash: `app.kubernetes.io/name=web` is no namespace.
            Some((prefix, _)) if prefix.contains(['=', '.']) => ("default", text.trim()),
            Some((namespace, name)) => (namespace, name),
            None => ("default", text.trim()),
        };
        if namespace.is_empty() || name.is_empty() {
            return Err(format!(
                "{text:?} is none of `namespace/name`, `namespace/label=value`, `node/NAME`, `outside`, `*`"
            ));
        }
        if !name.contains('=') {
            return Ok(Self::Named { namespace: namespace.to_owned(), name: name.to_owned() });
        }
        let labels = name.split(',').map(|label| match label.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
            _ => Err(format!("{label:?} in {text:?} is no `label=value`")),
        });
        Ok(Self::Labelled { namespace: namespace.to_owned(), labels: labels.collect::<Result<_, _>>()? })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named { namespace, name } => write!(f, "{namespace}/{name}"),
            Self::Labelled { namespace, labels } => {
                let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                write!(f, "{namespace}/{}", labels.join(","))
            }
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Outside => f.write_str(OUTSIDE),
        }
    }
}

struct PodEnd {
    namespace: String,
    name: String,
    /// The workload's name, without its kind and namespace.
    workload: String,
    labels: BTreeMap<String, String>,
}

/// Everyone who can be named.
pub(crate) struct Ends {
    /// By `namespace/name`.
    pods: BTreeMap<String, PodEnd>,
    nodes: Vec<String>,
}

impl Ends {
    pub(crate) fn of_cast(cast: &Cast, all: bool) -> Self {
        let pods = cast.shown(all).map(|pod| (&pod.namespace, &pod.name, &pod.workload, &pod.labels));
        Self::new(pods, cast.nodes.iter().map(|node| node.name.clone()).collect())
    }

    pub(crate) fn of_report(report: &Report) -> Self {
        let pods = report.pods.iter().map(|pod| (&pod.namespace, &pod.name, &pod.workload, &pod.labels));
        Self::new(pods, report.nodes.iter().map(|node| node.name.clone()).collect())
    }

    fn new<'a>(
        pods: impl Iterator<Item = (&'a String, &'a String, &'a String, &'a BTreeMap<String, String>)>,
        nodes: Vec<String>,
    ) -> Self {
        let pods = pods.map(|(namespace, name, workload, labels)| {
            let workload = workload.rsplit('/').next().unwrap_or(workload).to_owned();
            let end =
                PodEnd { namespace: namespace.clone(), name: name.clone(), workload, labels: labels.clone() };
            (format!("{namespace}/{name}"), end)
        });
        Self { pods: pods.collect(), nodes }
    }

    pub(crate) fn is_pod(&self, end: &str) -> bool {
        self.pods.contains_key(end)
    }

    /// Whether `pattern` means the end that a probe names so.
    pub(crate) fn is(&self, pattern: &Pattern, end: &str) -> bool {
        match pattern {
            Pattern::Outside => end == OUTSIDE,
            Pattern::Node(name) => {
                !self.is_pod(end) && end.strip_prefix("node/").is_some_and(|node| glob(name, node))
            }
            Pattern::Named { namespace, name } => self.pods.get(end).is_some_and(|pod| {
                glob(namespace, &pod.namespace) && (glob(name, &pod.workload) || glob(name, &pod.name))
            }),
            Pattern::Labelled { namespace, labels } => self.pods.get(end).is_some_and(|pod| {
                glob(namespace, &pod.namespace)
                    && labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
            }),
        }
    }

    pub(crate) fn any(&self, pattern: &Pattern) -> bool {
        match pattern {
            Pattern::Outside => true,
            Pattern::Node(_) => self.nodes.iter().any(|node| self.is(pattern, &node_end(node))),
            _ => self.pods.keys().any(|end| self.is(pattern, end)),
        }
    }

    /// Who could have been meant, for an error.
    pub(crate) fn known(&self, pattern: &Pattern) -> String {
        let mut names: Vec<String> = match pattern {
            Pattern::Node(_) | Pattern::Outside => self.nodes.iter().map(|node| node_end(node)).collect(),
            Pattern::Named { .. } => {
                self.pods.values().map(|pod| format!("{}/{}", pod.namespace, pod.workload)).collect()
            }
            Pattern::Labelled { .. } => {
                let labels = self.pods.values().flat_map(|pod| {
                    pod.labels.iter().map(|(key, value)| format!("{}/{key}={value}", pod.namespace))
                });
                labels.collect()
            }
        };
        names.sort();
        names.dedup();
        names.join(", ")
    }
}

/// Whether `text` is `pattern`, in which each `*` stands for any run of characters.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(head) else { return false };
    (0..=text.len()).filter(|&at| text.is_char_boundary(at)).any(|at| glob(rest, &text[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        for (pattern, text, is) in [
            ("*", "", true),
            ("web", "web", true),
            ("web", "web-1", false),
            ("web-*", "web-1", true),
            ("*-db", "shop-db", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxc", false),
        ] {
            assert_eq!(glob(pattern, text), is, "{pattern} {text}");
        }
    }

    #[test]
    fn each_way_to_name_an_end_is_read_and_written_back() {
        for (text, written) in [
            ("shop/web", "shop/web"),
            ("web", "default/web"),
            ("*", "*/*"),
            ("shop/*", "shop/*"),
            ("shop/app=web,tier=front", "shop/app=web,tier=front"),
            ("app.kubernetes.io/name=web", "default/app.kubernetes.io/name=web"),
            ("shop/app.kubernetes.io/name=web", "shop/app.kubernetes.io/name=web"),
            ("node/*", "node/*"),
            ("outside", "outside"),
        ] {
            assert_eq!(Pattern::parse(text).map(|pattern| pattern.to_string()).as_deref(), Ok(written));
        }
        assert_eq!(
            Pattern::parse("shop/").unwrap_err(),
            "\"shop/\" is none of `namespace/name`, `namespace/label=value`, `node/NAME`, `outside`, `*`"
        );
    }
}
