//! What is wrong with a policy as it is written, whatever pods there are.

use serde_json::Value;

use super::{Look, value_at};
use crate::spelling;
use crate::warning::Warning;

const SPEC: &[&str] = &["podSelector", "policyTypes", "ingress", "egress"];
const INGRESS_RULE: &[&str] = &["from", "ports"];
const EGRESS_RULE: &[&str] = &["to", "ports"];
const PEER: &[&str] = &["podSelector", "namespaceSelector", "ipBlock"];
const PORT: &[&str] = &["port", "endPort", "protocol"];
const BLOCK: &[&str] = &["cidr", "except"];
const SELECTOR: &[&str] = &["matchLabels", "matchExpressions"];
const EXPRESSION: &[&str] = &["key", "operator", "values"];

impl Look<'_> {
    pub(super) fn shape(&mut self) {
        let warnings: Vec<&Warning> =
            self.input.world.warnings().filter(|warning| warning.object == self.object).collect();
        for warning in warnings {
            self.not_honoured(warning);
        }
        if self.raw.pointer("/spec/podSelector").is_none_or(Value::is_null) {
            self.find(
                "no-pod-selector",
                "spec.podSelector",
                "missing: the policy is for every pod of its namespace",
                "if that is meant, say so with podSelector: {}",
            );
        }
        self.types();
        for (section, peers) in [("ingress", "from"), ("egress", "to")] {
            let rules = self.raw["spec"][section].as_array().map_or(0, Vec::len);
            for index in 0..rules {
                for (list, who) in [(peers, "everyone"), ("ports", "every port")] {
                    let path = format!("spec.{section}[{index}].{list}");
                    let is_empty =
                        |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
                    if value_at(self.raw, &path).is_some_and(is_empty) {
                        self.find(
                            "empty-means-all",
                            path,
                            format!("an empty list means {who}"),
                            format!(
                                "where {who} is meant, leave {list} out; to allow nothing, leave the rule out"
                            ),
                        );
                    }
                }
            }
        }
    }

    /// Rules of a direction that is not isolated are never read.
    fn types(&mut self) {
        let spec = &self.raw["spec"];
        let types: Option<Vec<&str>> = spec["policyTypes"]
            .as_array()
            .filter(|types| !types.is_empty())
            .map(|types| types.iter().filter_map(Value::as_str).collect());
        for (section, name) in [("ingress", "Ingress"), ("egress", "Egress")] {
            let rules = spec[section].as_array().map(Vec::len);
            match (&types, rules) {
                (Some(types), Some(1..)) if !types.contains(&name) => self.find(
                    "rules-not-read",
                    format!("spec.{section}"),
                    format!(
                        "policyTypes does not list {name}, so these rules are not read and nothing is denied"
                    ),
                    format!("add {name} to policyTypes"),
                ),
                (None, Some(0)) if section == "egress" => self.find(
                    "rules-not-read",
                    "spec.egress",
                    "an empty list without policyTypes is no egress section: everything may leave",
                    "to deny all egress, write policyTypes: [Egress] beside it",
                ),
                _ => {}
            }
        }
    }

    fn not_honoured(&mut self, warning: &Warning) {
        let Warning { field, message, .. } = warning;
        if let Some(consequence) = message.strip_prefix("unknown field") {
            let right = self.known(field);
            self.find("unknown-field", field, format!("unknown field{consequence}"), right);
            return;
        }
        let lint = if field.contains(".except[") { "except-outside" } else { "not-honoured" };
        match message.split_once(": expected ") {
            Some((wrong, rest)) => {
                let (right, consequence) = rest.split_once("; ").unwrap_or((rest, ""));
                let wrong =
                    if consequence.is_empty() { wrong.to_owned() } else { format!("{wrong}: {consequence}") };
                self.find(lint, field, wrong, format!("expected {right}"));
            }
            None => {
                self.find(lint, field, message, "as the API server would have it: mend it, or take it out")
            }
        }
    }

    /// What an unknown field was probably to be.
    fn known(&self, field: &str) -> String {
        let (parent, name) = field.rsplit_once('.').unwrap_or(("", field));
        let (known, what) = around(parent);
        let of_rule = parent.strip_prefix("spec.egress[").map_or("from", |_| "to");
        // What stands in the wrong place goes before what is spelt wrong: `port` is no slip for `ports`.
        match what {
            "rule" if name == "to" || name == "from" => format!("the peers of this direction are {of_rule}"),
            "rule" if PEER.contains(&name) => format!("it belongs into an item of {of_rule}"),
            "rule" if PORT.contains(&name) => "it belongs into an item of ports".to_owned(),
            "peer" if SELECTOR.contains(&name) => {
                "it belongs under podSelector or namespaceSelector".to_owned()
            }
            "peer" if BLOCK.contains(&name) => "it belongs under ipBlock".to_owned(),
            "peer" if name == "ports" => format!("it belongs beside {of_rule}, not into it"),
            "" => "take it out, or mend its spelling".to_owned(),
            _ => {
                let near = known.iter().find(|known| spelling::is_near(known, name));
                let label = value_at(self.raw, field).and_then(Value::as_str).filter(|_| what == "selector");
                match (near, label) {
                    (Some(near), _) => format!("did you mean {near}?"),
                    (None, Some(value)) => format!("labels stand under matchLabels: {{{name}: {value}}}"),
                    (None, None) => format!("a {what} has {}", known.join(", ")),
                }
            }
        }
    }
}

/// What may stand below a path, and what that is called.
fn around(parent: &str) -> (&'static [&'static str], &'static str) {
    let last = parent.rsplit('.').next().unwrap_or_default();
    match last.split('[').next().unwrap_or_default() {
        "spec" => (SPEC, "spec"),
        "ingress" => (INGRESS_RULE, "rule"),
        "egress" => (EGRESS_RULE, "rule"),
        "from" | "to" => (PEER, "peer"),
        "ports" => (PORT, "port"),
        "ipBlock" => (BLOCK, "block"),
        "podSelector" | "namespaceSelector" => (SELECTOR, "selector"),
        "matchExpressions" => (EXPRESSION, "requirement"),
        _ => (&[], ""),
    }
}
