//! What a runtime asks of plugins for a pod beyond an address: ports of the host, and limits of bandwidth.
//!
//! As containerd does it: from `hostPort` of the containers' ports, and from the two annotations that the kubelet's runtimes
//! know. A plugin is asked only for what it says it can do.

use serde_json::{Map, Value, json};

/// `runtimeConfig` for a pod (its object in the API) of a plugin with these `capabilities`.
pub(crate) fn runtime_config(object: &Value, capabilities: &Value) -> Value {
    let mut asked = Map::new();
    let can = |name: &str| capabilities.get(name) == Some(&Value::Bool(true));
    let mappings = port_mappings(object);
    if can("portMappings") && !mappings.is_empty() {
        asked.insert("portMappings".into(), mappings.into());
    }
    let limits = bandwidth(object);
    if can("bandwidth") && !limits.is_empty() {
        asked.insert("bandwidth".into(), limits.into());
    }
    asked.into()
}

fn port_mappings(object: &Value) -> Vec<Value> {
    let list = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
    let containers = list(&object["spec"], "containers");
    let ports = containers.iter().flat_map(|container| list(container, "ports"));
    let mapped = ports.filter(|port| port["hostPort"].as_u64().is_some_and(|port| port != 0));
    mapped
        .map(|port| {
            json!({
                "hostPort": port["hostPort"],
                "containerPort": port["containerPort"],
                "protocol": port["protocol"].as_str().unwrap_or("TCP").to_lowercase(),
                "hostIP": port["hostIP"].as_str().unwrap_or_default(),
            })
        })
        .collect()
}

/// The largest burst that there is: containerd's way to say nothing of it.
const NO_BURST: u32 = u32::MAX;

/// As the kubelet's runtimes do, an annotation that is no quantity of bits limits nothing.
fn bandwidth(object: &Value) -> Map<String, Value> {
    let annotations = &object["metadata"]["annotations"];
    let mut limits = Map::new();
    for direction in ["ingress", "egress"] {
        let annotation = &annotations[format!("kubernetes.io/{direction}-bandwidth")];
        if let Some(bits) = annotation.as_str().and_then(quantity) {
            limits.insert(format!("{direction}Rate"), bits.into());
            limits.insert(format!("{direction}Burst"), NO_BURST.into());
        }
    }
    limits
}

/// `8M`, `1Gi`, `500k`, `1000000`.
fn quantity(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match &text[digits.len()..] {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_asked_for_what_the_pod_wants_and_it_can_do() {
        let pod = json!({ "spec": { "containers": [
            { "ports": [{ "containerPort": 80, "hostPort": 8080 }, { "containerPort": 81 }] },
            { "ports": [{ "containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "172.30.0.10" }] },
        ] } });
        let both = json!([
            { "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "" },
            { "hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "172.30.0.10" },
        ]);
        assert_eq!(runtime_config(&pod, &json!({ "portMappings": true })), json!({ "portMappings": both }));
        assert_eq!(runtime_config(&pod, &json!({ "portMappings": false, "mac": true })), json!({}));
        assert_eq!(runtime_config(&json!({}), &json!({ "portMappings": true })), json!({}));
    }

    #[test]
    fn annotations_limit_bandwidth_in_bits() {
        let asked = |ingress: &str| {
            let annotations = json!({ "kubernetes.io/ingress-bandwidth": ingress });
            let pod = json!({ "metadata": { "annotations": annotations } });
            runtime_config(&pod, &json!({ "bandwidth": true }))
        };
        for (text, bits) in [("8M", 8_000_000_u64), ("1Gi", 1 << 30), ("500k", 500_000), ("12345", 12345)] {
            let expected = json!({ "bandwidth": { "ingressRate": bits, "ingressBurst": u32::MAX } });
            assert_eq!(asked(text), expected, "{text}");
        }
        for text in ["", "fast", "8X", "-1"] {
            assert_eq!(asked(text), json!({}), "{text}");
        }
    }
}
