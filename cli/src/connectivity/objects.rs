//! The objects that a test makes: pods, two Services, and the policies that are to hold.

use serde_json::{Value, json};

use super::knock::PORT;
use super::question::Role;

/// Servers that no policy is about.
pub(super) const OPEN: &str = "open";
/// Servers that only friends may ask.
pub(super) const GUARDED: &str = "guarded";
/// The policy that isolates the guarded ones.
pub(super) const DENY: &str = "default-deny";
/// The policy of those who may ask little.
pub(super) const CONFINED: &str = "confined";
/// On every object of ours, whoever finds one.
const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "weir-connectivity-test");
/// Nobody: nothing in these pods needs to be anybody.
const NOBODY: u32 = 65532;
/// If we are killed with nobody to clean up, the pods end by themselves.
const LONGEST_LIFE_S: u64 = 900;

pub(super) struct Image {
    pub(super) name: String,
    /// `imagePullPolicy`, the agents' own.
    pub(super) policy: String,
}

/// A node as the stage of pods.
pub(super) struct Place<'a> {
    pub(super) namespace: &'a str,
    pub(super) node: &'a str,
    /// From 1.
    pub(super) number: usize,
}

impl Place<'_> {
    pub(super) fn pod_name(&self, role: &str) -> String {
        format!("{role}-{}", self.number)
    }
}

/// `Pod x/open-1`.
pub(super) fn title(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    format!("{} {}/{}", text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]))
}

/// The API server makes the rest of its name. Pods in the host's network, and a folder of the host, are not for everybody.
pub(super) fn namespace() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {
            "generateName": "weir-connectivity-test-",
            "labels": { PART_OF.0: PART_OF.1, "pod-security.kubernetes.io/enforce": "privileged" },
        },
    })
}

pub(super) fn services(namespace: &str) -> [Value; 2] {
    [OPEN, GUARDED].map(|name| {
        let port =
            |protocol: &str| json!({ "name": protocol.to_lowercase(), "protocol": protocol, "port": PORT });
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata(namespace, name),
            "spec": {
                "selector": { "role": name }, "ipFamilyPolicy": "PreferDualStack",
                "ports": [port("TCP"), port("UDP")],
            },
        })
    })
}

pub(super) fn policies(namespace: &str) -> [Value; 3] {
    let policy = |name: &str, spec: Value| {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": metadata(namespace, name), "spec": spec,
        })
    };
    let role = |name: &str| json!({ "matchLabels": { "role": name } });
    let ports = |port: u16| json!([{ "protocol": "TCP", "port": port }, { "protocol": "UDP", "port": port }]);
    [
        policy(DENY, json!({ "podSelector": role(GUARDED), "policyTypes": ["Ingress"] })),
        policy(
            "friends-may",
            json!({
                "podSelector": role(GUARDED), "policyTypes": ["Ingress"],
                "ingress": [{ "from": [{ "podSelector": role(Role::Friend.as_str()) }], "ports": ports(PORT) }],
            }),
        ),
        policy(
            CONFINED,
            json!({
                "podSelector": role(Role::Confined.as_str()), "policyTypes": ["Egress"],
                "egress": [
                    { "ports": ports(53) },
                    { "to": [{ "podSelector": role(OPEN) }], "ports": [{ "protocol": "TCP", "port": PORT }] },
                ],
            }),
        ),
    ]
}

/// An open server and a guarded one.
pub(super) fn servers(place: &Place<'_>, image: &Image) -> [Value; 2] {
    [OPEN, GUARDED].map(|role| {
        let mut pod = pod(place, image, role, &["serve"]);
        pod["spec"]["restartPolicy"] = "Always".into();
        pod
    })
}

/// Asks, prints the answers and ends.
pub(super) fn knocker(place: &Place<'_>, image: &Image, role: Role, knocks: &str) -> Value {
    let mut pod = pod(place, image, role.as_str(), &["knock", knocks]);
    pod["spec"]["hostNetwork"] = (role == Role::Host).into();
    pod
}

/// Hears from the node's agent what it drops.
pub(super) fn watcher(place: &Place<'_>, image: &Image) -> Value {
    let mut pod = pod(place, image, "watcher", &["watch", place.namespace]);
    // The agent's socket is root's.
    pod["spec"]["securityContext"]["runAsNonRoot"] = false.into();
    pod["spec"]["securityContext"]["runAsUser"] = 0.into();
    let folder =
        std::path::Path::new(api::DEFAULT_SOCKET).parent().map(|folder| folder.display().to_string());
    pod["spec"]["volumes"] =
        json!([{ "name": "agent", "hostPath": { "path": folder, "type": "Directory" } }]);
    pod["spec"]["containers"][0]["volumeMounts"] =
        json!([{ "name": "agent", "mountPath": folder, "readOnly": true }]);
    pod
}

fn pod(place: &Place<'_>, image: &Image, role: &str, arguments: &[&str]) -> Value {
    let mut metadata = metadata(place.namespace, &place.pod_name(role));
    metadata["labels"]["role"] = role.into();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {
            // Not the scheduler's choice, and whatever the node's taints are about.
            "nodeName": place.node, "tolerations": [{ "operator": "Exists" }],
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "activeDeadlineSeconds": LONGEST_LIFE_S,
            "automountServiceAccountToken": false, "enableServiceLinks": false,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": NOBODY, "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [{
                "name": "weir", "image": image.name, "imagePullPolicy": image.policy,
                "command": ["/weir", "connectivity"], "args": arguments,
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                },
                "resources": { "requests": { "cpu": "1m", "memory": "8Mi" } },
            }],
        },
    })
}

fn metadata(namespace: &str, name: &str) -> Value {
    json!({ "name": name, "namespace": namespace, "labels": { PART_OF.0: PART_OF.1 } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_watcher_is_root_and_only_the_host_lives_in_its_nodes_network() {
        let place = Place { namespace: "test", node: "one", number: 1 };
        let image = Image { name: "localhost/weir:dev".into(), policy: "Never".into() };
        let [open, _] = servers(&place, &image);
        let knockers = Role::ALL.map(|role| knocker(&place, &image, role, "[]"));
        for pod in knockers.iter().chain([&open]) {
            let spec = &pod["spec"];
            assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{}", title(pod));
            let is_host = pod["metadata"]["name"] == "host-1";
            assert_eq!(spec["hostNetwork"].as_bool().unwrap_or_default(), is_host, "{}", title(pod));
            assert!(spec["volumes"].is_null(), "{}", title(pod));
        }
        let watcher = watcher(&place, &image);
        assert_eq!(watcher["spec"]["volumes"][0]["hostPath"]["path"], "/run/weir");
        assert_eq!(watcher["spec"]["containers"][0]["args"], json!(["watch", "test"]));
    }
}
