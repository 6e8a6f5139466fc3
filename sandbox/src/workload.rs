//! What the controllers would make of a workload: named, labelled pods.
//!
//! Templates stay JSON until they are pods, and pods go through `policy`'s own parser, so that one place says what a
//! wrong field is.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod as PodObject, PodSpec};
use policy::Object;
use policy::manifest::{Document, object};
use serde_json::{Map, Value, json};

use crate::manifest::{Error, Manifest};
use crate::name;
use crate::plan::{Listen, Pod, Port, Protocol};

/// A pod that has no node yet.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) pod: Pod,
    /// Where its manifest stands.
    pub(crate) at: String,
    /// A node that a DaemonSet makes it for.
    pub(crate) daemon_of: Option<usize>,
    /// What `spec.nodeName` or `spec.nodeSelector` asks for, and which of them.
    pub(crate) wants_node: Option<(&'static str, String)>,
}

/// One pod of a workload, before its template is filled in.
struct Replica {
    name: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    daemon_of: Option<usize>,
}

/// More would outrun the addresses of any number of nodes, and is a slip of the finger.
const MOST_COPIES: usize = 10_000;

/// The kinds that become pods.
pub(crate) fn is_workload(kind: &str) -> bool {
    matches!(
        kind,
        "Pod"
            | "Deployment"
            | "ReplicaSet"
            | "ReplicationController"
            | "StatefulSet"
            | "DaemonSet"
            | "Job"
            | "CronJob"
    )
}

/// The pods that `item` stands for; what of it is not honoured goes to `warnings`.
///
/// `cap` bounds the copies of everything but DaemonSets, which have one pod a node by definition.
pub(crate) fn expand(
    item: &Manifest,
    nodes: usize,
    cap: Option<usize>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Draft>, Error> {
    let template_at = match item.kind.as_str() {
        "Pod" => "",
        "CronJob" => "spec.jobTemplate.spec.template.",
        _ => "spec.template.",
    };
    let part = |field: &str| match item.get(&format!("{template_at}{field}")) {
        Some(Value::Object(fields)) => Ok(Some(fields.clone())),
        None | Some(Value::Null) => Ok(None),
        Some(_) => Err(item.error(&format!("{template_at}{field}"), "not a mapping")),
    };
    let spec = part("spec")?
        .ok_or_else(|| item.error(&format!("{template_at}spec"), "missing: there is no pod to bring up"))?;
    let metadata = part("metadata")?.unwrap_or_default();
    let template = json!({ "metadata": metadata, "spec": spec });
    let replicas = replicas(item, &template, nodes, cap)?;
    if replicas.is_empty() && item.is_true("spec.suspend") {
        warnings.push(format!("{}: spec.suspend: no pod comes up while this is true", item.title()));
    }
    if let (Some(Value::Object(wanted)), true) =
        (item.get("spec.selector.matchLabels"), !template_at.is_empty())
    {
        let labels = metadata.get("labels");
        if wanted.iter().any(|(key, value)| labels.and_then(|labels| labels.get(key)) != Some(value)) {
            warnings.push(format!(
                "{}: spec.selector.matchLabels: does not match the template's labels; an API server refuses this",
                item.title()
            ));
        }
    }
    let mut drafts = Vec::new();
    for replica in replicas {
        let first = drafts.is_empty();
        let mut said = Vec::new();
        drafts.push(draft(item, template_at, &metadata, &spec, replica, &mut said)?);
        // All copies have the same faults: the first one says them.
        if first {
            warnings.append(&mut said);
        }
    }
    Ok(drafts)
}

/// How many pods, how they are called, and which labels their controllers add.
fn replicas(
    item: &Manifest,
    template: &Value,
    nodes: usize,
    cap: Option<usize>,
) -> Result<Vec<Replica>, Error> {
    let copies = |field: &str, count: usize| match count.min(cap.unwrap_or(usize::MAX)) {
        count if count > MOST_COPIES => {
            let message =
                format!("{count} is more than a sandbox holds ({MOST_COPIES}); cap it with --replicas");
            Err(item.error(field, message))
        }
        count => Ok(count),
    };
    let replicas = || copies("spec.replicas", item.count("spec.replicas", 1)?);
    let hash = name::hash_value(template);
    let random = |prefix: &str, index: usize| {
        let hash = name::hash(&[&item.namespace, prefix, &hash.to_string(), &index.to_string()]);
        format!("{prefix}-{}", name::suffix(hash, 5))
    };
    let labelled = |name: String, labels: &[(&str, &str)]| Replica {
        name,
        labels: labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
        annotations: BTreeMap::new(),
        daemon_of: None,
    };
    let revision = name::suffix(hash, 10);
    Ok(match item.kind.as_str() {
        "Pod" => vec![labelled(item.name.clone(), &[])],
        "Deployment" => {
            let set = format!("{}-{revision}", item.name);
            (0..replicas()?)
                .map(|index| labelled(random(&set, index), &[("pod-template-hash", &revision)]))
                .collect()
        }
        "ReplicaSet" | "ReplicationController" => {
            (0..replicas()?).map(|index| labelled(random(&item.name, index), &[])).collect()
        }
        "StatefulSet" => {
            let first = item.count("spec.ordinals.start", 0)?;
            let controller_revision = format!("{}-{revision}", item.name);
            (first..first.saturating_add(replicas()?))
                .map(|index| {
                    let name = format!("{}-{index}", item.name);
                    let labels = [
                        ("apps.kubernetes.io/pod-index", &*index.to_string()),
                        ("controller-revision-hash", &controller_revision),
                        ("statefulset.kubernetes.io/pod-name", &name),
                    ];
                    labelled(name.clone(), &labels)
                })
                .collect()
        }
        "DaemonSet" => (0..nodes)
            .map(|index| {
                let labels = [("controller-revision-hash", &*revision), ("pod-template-generation", "1")];
                Replica { daemon_of: Some(index), ..labelled(random(&item.name, index), &labels) }
            })
            .collect(),
        // A suspended Job or CronJob has no pods.
        _ if item.is_true("spec.suspend") => Vec::new(),
        kind => {
            let (job, spec) = match kind {
                // The controller appends the scheduled time in minutes; any number of that length will do.
                "CronJob" => {
                    (format!("{}-{}", item.name, 20_000_000 + hash % 9_999_999), "spec.jobTemplate.spec")
                }
                _ => (item.name.clone(), "spec"),
            };
            let parallelism = item.count(&format!("{spec}.parallelism"), 1)?;
            let count = match item.get(&format!("{spec}.completions")) {
                None | Some(Value::Null) => parallelism,
                Some(_) => parallelism.min(item.count(&format!("{spec}.completions"), 1)?),
            };
            let indexed = item.text(&format!("{spec}.completionMode")) == Some("Indexed");
            let controller = name::uid(&["Job", &item.namespace, &job]);
            (0..copies(&format!("{spec}.parallelism"), count)?)
                .map(|index| {
                    let mut labels = vec![
                        ("batch.kubernetes.io/controller-uid", &*controller),
                        ("batch.kubernetes.io/job-name", &job),
                        ("controller-uid", &controller),
                        ("job-name", &job),
                    ];
                    let position = index.to_string();
                    let key = "batch.kubernetes.io/job-completion-index";
                    if !indexed {
                        return labelled(random(&job, index), &labels);
                    }
                    labels.push((key, &position));
                    let mut replica = labelled(random(&format!("{job}-{index}"), 0), &labels);
                    replica.annotations.insert(key.to_owned(), position.clone());
                    replica
                })
                .collect()
        }
    })
}

/// Fills the template in for one pod and reads it as the API server would.
fn draft(
    item: &Manifest,
    template_at: &str,
    metadata: &Map<String, Value>,
    spec: &Map<String, Value>,
    replica: Replica,
    warnings: &mut Vec<String>,
) -> Result<Draft, Error> {
    // Labels do not make another pod of a bare Pod (they change in place), but they do of a template's, whose hash is
    // in the name already. A StatefulSet's pod keeps its name: there the revision label tells.
    let revision = replica.labels.get("controller-revision-hash").map_or("", String::as_str);
    let body = format!("{:x}", name::hash_value(&Value::Object(spec.clone())));
    let uid = name::uid(&["Pod", &item.namespace, &replica.name, revision, &body]);

    let mut metadata = metadata.clone();
    metadata.insert("name".into(), replica.name.clone().into());
    metadata.insert("namespace".into(), item.namespace.clone().into());
    metadata.insert("uid".into(), uid.clone().into());
    let value = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec });
    let document =
        Document { origin: item.at.clone(), line: 0, kind: "Pod".into(), api_version: "v1".into(), value };
    let (mut object, unknown): (PodObject, _) = match object(&document) {
        Ok(Some((Object::Pod(object), unknown))) => (*object, unknown),
        Err(warning) => return Err(item.error(&format!("{template_at}{}", warning.field), warning.message)),
        Ok(_) => return Err(item.error(template_at, "not read as a pod")),
    };
    for warning in unknown {
        warnings.push(format!("{}: {template_at}{}: {}", item.title(), warning.field, warning.message));
    }
    object.status = None;
    let labels = object.metadata.labels.get_or_insert_default();
    labels.extend(replica.labels);
    let labels = labels.clone();
    let annotations = object.metadata.annotations.get_or_insert_default();
    annotations.extend(replica.annotations);
    let annotations = annotations.clone();

    let mut spec = object.spec.take().unwrap_or_default();
    if item.kind == "StatefulSet" {
        spec.hostname.get_or_insert_with(|| replica.name.clone());
        if spec.subdomain.is_none() {
            spec.subdomain = item.text("spec.serviceName").map(str::to_owned);
        }
    }
    let wants_node = match (&spec.node_name, &spec.node_selector) {
        (Some(name), _) => Some(("spec.nodeName", name.clone())),
        (None, Some(selector)) => selector
            .get("kubernetes.io/hostname")
            .map(|name| ("spec.nodeSelector.kubernetes.io/hostname", name.clone())),
        (None, None) => None,
    };
    let ports = ports(item, template_at, &spec, warnings);
    let pod = Pod {
        namespace: item.namespace.clone(),
        name: replica.name.clone(),
        uid,
        workload: item.title(),
        node: 0,
        labels,
        annotations,
        listen: ports.iter().map(|port| Listen { port: port.port, protocol: port.protocol }).collect(),
        ports,
        host_network: spec.host_network == Some(true),
        system: false,
        hostname: spec.hostname.clone().unwrap_or(replica.name),
        subdomain: spec.subdomain.clone(),
        object: {
            object.spec = Some(spec);
            // Types that came from JSON go back to JSON: their keys are strings and their numbers finite.
            serde_json::to_value(&object).unwrap_or_default()
        },
    };
    Ok(Draft { pod, at: item.at.clone(), daemon_of: replica.daemon_of, wants_node })
}

/// The ports that containers declare, and sidecars: init containers that are restarted always and so keep running.
fn ports(item: &Manifest, template_at: &str, spec: &PodSpec, warnings: &mut Vec<String>) -> Vec<Port> {
    let is_sidecar = |container: &Container| container.restart_policy.as_deref() == Some("Always");
    let main = spec.containers.iter().enumerate().map(|(index, it)| (format!("containers[{index}]"), it));
    let init = spec.init_containers.iter().flatten().enumerate();
    let sidecars = init
        .filter(|(_, container)| is_sidecar(container))
        .map(|(index, container)| (format!("initContainers[{index}]"), container));
    let mut ports: Vec<Port> = Vec::new();
    for (at, container) in main.chain(sidecars) {
        for (index, declared) in container.ports.iter().flatten().enumerate() {
            let mut warn = |field: &str, message: String| {
                warnings.push(format!(
                    "{}: {template_at}spec.{at}.ports[{index}].{field}: {message}",
                    item.title()
                ));
            };
            let port = match u16::try_from(declared.container_port) {
                Ok(port) if port != 0 => port,
                _ => {
                    warn("containerPort", format!("{} is no port (1 to 65535)", declared.container_port));
                    continue;
                }
            };
            let Some(protocol) = Protocol::parse(declared.protocol.as_deref()) else {
                let protocol = declared.protocol.as_deref().unwrap_or_default();
                warn("protocol", format!("{protocol:?} is none of TCP, UDP, SCTP"));
                continue;
            };
            if !ports.iter().any(|known| (known.port, known.protocol) == (port, protocol)) {
                ports.push(Port { name: declared.name.clone(), port, protocol });
            }
        }
    }
    ports
}
