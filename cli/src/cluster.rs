//! A person's way into a cluster: their kubeconfig, and the few requests that our commands make.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use kube::Client;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, LogParams, Patch, PatchParams, PostParams,
    Request,
};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use serde_json::Value;

/// Whose fields ours are, in the API server's books.
const MANAGER: &str = "weir-install";

#[derive(clap::Args)]
pub(crate) struct Which {
    /// The cluster of this kubeconfig [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context to use [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The cluster that kind calls so
    #[arg(long, value_name = "NAME", conflicts_with = "context")]
    kind: Option<String>,
}

pub(crate) struct Cluster {
    client: Client,
    /// The API server, as the person reaches it.
    pub(crate) url: String,
}

impl Cluster {
    pub(crate) async fn of(which: &Which) -> Result<Self> {
        let (kubeconfig, place) = match &which.kubeconfig {
            Some(file) => (Kubeconfig::read_from(file), format!("--kubeconfig {}", file.display())),
            None => (Kubeconfig::read(), "the kubeconfig".to_owned()),
        };
        // Their text has their cause in it already.
        let kubeconfig = kubeconfig.map_err(|error| anyhow!("{error}")).with_context(|| place.clone())?;
        let context = match &which.kind {
            Some(name) => Some(format!("kind-{name}")),
            None => which.context.clone(),
        };
        let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let mut config = config.map_err(|error| anyhow!("{error}")).with_context(|| place.clone())?;
        config.connect_timeout = Some(Duration::from_secs(5));
        config.read_timeout = Some(Duration::from_secs(30));
        let url = config.cluster_url.to_string();
        // As in the agent: where two providers are built, rustls does not choose.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = Client::try_from(config).map_err(|error| anyhow!("{error}")).context(place)?;
        Ok(Self { client, url })
    }

    /// Makes the object be as it says, whoever made it before.
    pub(crate) async fn apply(&self, object: &Value) -> Result<()> {
        let (api, name) = self.api_of(object)?;
        let params = PatchParams::apply(MANAGER).force();
        let applied = api.patch(&name, &params, &Patch::Apply(object)).await;
        applied.map(drop).with_context(|| format!("apply {}", title(object)))
    }

    /// Makes an object that is not there yet; what became of it.
    pub(crate) async fn create(&self, object: &Value) -> Result<Value> {
        let (version, kind) = kind_of(object)?;
        let api = self.api(&version, &kind, object["metadata"]["namespace"].as_str())?;
        let made = api.create(&PostParams::default(), &serde_json::from_value(object.clone())?).await;
        Ok(serde_json::to_value(made.with_context(|| format!("create a {kind}"))?)?)
    }

    /// What the only container of a pod has printed.
    pub(crate) async fn log(&self, namespace: &str, pod: &str) -> Result<String> {
        let request = Request::new(format!("/api/v1/namespaces/{namespace}/pods"));
        let request = request.logs(pod, &LogParams::default())?;
        let log = self.client.request_text(request).await;
        log.with_context(|| format!("read the log of Pod {namespace}/{pod}"))
    }

    pub(crate) async fn get(&self, object: &Value) -> Result<Option<Value>> {
        let (api, name) = self.api_of(object)?;
        let found = api.get_opt(&name).await.with_context(|| format!("get {}", title(object)))?;
        Ok(found.map(serde_json::to_value).transpose()?)
    }

    /// Deletes the object, what it owns first. Whether it was there.
    pub(crate) async fn delete(&self, object: &Value) -> Result<bool> {
        let (api, name) = self.api_of(object)?;
        match api.delete(&name, &DeleteParams::foreground()).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(error).with_context(|| format!("delete {}", title(object))),
        }
    }

    /// Objects of a kind of the core group, or with their group before a slash.
    pub(crate) async fn list(
        &self,
        version: &str,
        kind: &str,
        namespace: Option<&str>,
        labels: &str,
    ) -> Result<Vec<Value>> {
        let api = self.api(version, kind, namespace)?;
        let mut params = ListParams::default();
        if !labels.is_empty() {
            params = params.labels(labels);
        }
        let found = api.list(&params).await.with_context(|| format!("list {kind}s"))?;
        Ok(found.items.into_iter().map(serde_json::to_value).collect::<Result<_, _>>()?)
    }

    fn api_of(&self, object: &Value) -> Result<(Api<DynamicObject>, String)> {
        let (version, kind) = kind_of(object)?;
        let name = text(&object["metadata"]["name"], "metadata.name")?;
        Ok((self.api(&version, &kind, object["metadata"]["namespace"].as_str())?, name))
    }

    fn api(&self, version: &str, kind: &str, namespace: Option<&str>) -> Result<Api<DynamicObject>> {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let kind = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk(&kind);
        Ok(match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        })
    }

    /// Where nodes reach the API server: what its own Service leads to, unless that is several and people come by an address
    /// in front of them.
    pub(crate) async fn api_server(&self) -> Result<String> {
        let slices = self
            .list(
                "discovery.k8s.io/v1",
                "EndpointSlice",
                Some("default"),
                "kubernetes.io/service-name=kubernetes",
            )
            .await?;
        let endpoints = endpoints(&slices);
        match &endpoints[..] {
            [one] => Ok(one.clone()),
            [] if is_local(&self.url) => bail!(
                "neither the kubeconfig ({}) nor the Service default/kubernetes says where nodes reach the API server: \
                 name it with --api-server https://HOST:PORT",
                self.url
            ),
            [first, ..] if is_local(&self.url) => Ok(first.clone()),
            _ => Ok(self.url.trim_end_matches('/').to_owned()),
        }
    }
}

fn kind_of(object: &Value) -> Result<(String, String)> {
    Ok((text(&object["apiVersion"], "apiVersion")?, text(&object["kind"], "kind")?))
}

fn text(value: &Value, field: &str) -> Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("an object without {field}"))
}

fn title(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

fn endpoints(slices: &[Value]) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut urls = Vec::new();
    for slice in slices {
        let ports = list(&slice["ports"]);
        let Some(port) =
            ports.iter().find(|port| port["name"] == "https").and_then(|port| port["port"].as_u64())
        else {
            continue;
        };
        for endpoint in list(&slice["endpoints"]) {
            for address in list(&endpoint["addresses"]).iter().filter_map(Value::as_str) {
                urls.push(match address.parse() {
                    Ok(IpAddr::V6(ip)) => format!("https://[{ip}]:{port}"),
                    _ => format!("https://{address}:{port}"),
                });
            }
        }
    }
    urls.sort();
    urls
}

/// Whether the URL leads somewhere else on every machine.
fn is_local(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split([':', '/']).next().unwrap_or_default(),
    };
    match host.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || ip.is_unspecified(),
        Err(_) => host == "localhost",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_of_the_persons_own_machine_is_none_for_nodes() {
        for local in
            ["https://127.0.0.1:6443/", "https://localhost:6443", "https://[::1]:6443/", "https://0.0.0.0:1"]
        {
            assert!(is_local(local), "{local}");
        }
        for other in ["https://192.0.2.10:6443", "https://api.example:6443/x", "https://[2001:db8::1]:6443"] {
            assert!(!is_local(other), "{other}");
        }
    }

    #[test]
    fn the_api_servers_own_service_leads_to_its_addresses() {
        let slices = [json!({
            "ports": [{ "name": "https", "port": 6443 }],
            "endpoints": [{ "addresses": ["192.0.2.10"] }, { "addresses": ["2001:db8::1"] }],
        })];
        assert_eq!(endpoints(&slices), ["https://192.0.2.10:6443", "https://[2001:db8::1]:6443"]);
    }
}
