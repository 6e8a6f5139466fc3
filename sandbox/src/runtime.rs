//! What a container runtime does with a conflist: run its plugins for a pod, and undo it.
//!
//! As containerd (libcni) does it, so that what works here works there: the environment, each plugin's configuration on
//! standard input with name, version, capabilities' arguments and the previous plugin's result, deletion in reverse.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use netlink::Netns;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::capability::runtime_config;
use crate::process;

/// The plugins that wire a node's pods, in order.
#[derive(Clone, Debug)]
pub(crate) struct Conflist {
    name: String,
    version: String,
    plugins: Vec<Value>,
    /// Where the plugins' binaries are.
    cni_path: PathBuf,
}

/// The pod's sandbox, as the runtime tells the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    /// 64 hexadecimal digits.
    pub(crate) id: String,
    pub(crate) netns: PathBuf,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// The pod's object: what it asks of plugins is in there.
    pub(crate) object: Value,
}

/// The pod's interface, everywhere.
pub(crate) const IFNAME: &str = "eth0";
/// Far longer than any plugin takes: it only ends a hang.
const PATIENCE: Duration = Duration::from_secs(30);
const TRY_AGAIN_LATER: u64 = 11;
/// Runtimes ask again too.
const ATTEMPTS: usize = 4;

impl Conflist {
    pub(crate) fn read(path: &Path, cni_path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text, cni_path).with_context(|| format!("conflist {}", path.display()))
    }

    fn parse(text: &[u8], cni_path: &Path) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Written {
            name: String,
            cni_version: String,
            #[serde(default)]
            cni_versions: Vec<String>,
            plugins: Vec<Value>,
        }
        let Written { name, cni_version, mut cni_versions, plugins } = serde_json::from_slice(text)?;
        cni_versions.push(cni_version);
        let Some(version) = cni_versions.into_iter().max_by_key(|version| ordinal(version)) else {
            bail!("no cniVersion")
        };
        Ok(Self { name, version, plugins, cni_path: cni_path.to_owned() })
    }

    /// Wires the pod and returns its addresses. Whatever happens, the caller still owes it a [`Conflist::delete`].
    pub(crate) async fn add(&self, node: &Netns, container: &Container) -> anyhow::Result<Vec<IpAddr>> {
        let mut result: Option<Value> = None;
        for plugin in &self.plugins {
            let mut attempts = 0;
            result = Some(loop {
                attempts += 1;
                match self.run("ADD", plugin, node, container, result.as_ref()).await {
                    // As the kubelet would, if less patiently.
                    Err(Refusal { code: Some(TRY_AGAIN_LATER), .. }) if attempts < ATTEMPTS => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    Err(refusal) => bail!("wire pod {}/{}: {refusal}", container.namespace, container.name),
                    Ok(answer) => {
                        break serde_json::from_slice(&answer)
                            .with_context(|| format!("understand {}'s result", type_of(plugin)))?;
                    }
                }
            });
        }
        let ips = result.as_ref().and_then(|result| result.get("ips")?.as_array()).into_iter().flatten();
        let address = |ip: &Value| ip.get("address")?.as_str()?.split('/').next()?.parse().ok();
        Ok(ips.filter_map(address).collect())
    }

    /// Undoes [`Conflist::add`], however far it came.
    pub(crate) async fn delete(&self, node: &Netns, container: &Container) -> anyhow::Result<()> {
        for plugin in self.plugins.iter().rev() {
            let mut attempts = 0;
            while let Err(refusal) = self.run("DEL", plugin, node, container, None).await {
                attempts += 1;
                if attempts == ATTEMPTS {
                    bail!("unwire pod {}/{}: {refusal}", container.namespace, container.name);
                }
            }
        }
        Ok(())
    }

    async fn run(
        &self,
        command: &str,
        plugin: &Value,
        node: &Netns,
        container: &Container,
        previous: Option<&Value>,
    ) -> Result<Vec<u8>, Refusal> {
        let kind = type_of(plugin);
        let Container { id, netns, namespace, name, uid, object } = container;
        let config = self.config(plugin, object, previous);
        let mut process = Command::new(self.cni_path.join(kind));
        process
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", IFNAME)
            .env("CNI_PATH", &self.cni_path)
            .env(
                "CNI_ARGS",
                format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
                     K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID={uid}"
                ),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let attempt = async {
            let mut child = process::start_in(node, &mut process)?;
            if let Some(mut stdin) = child.stdin.take() {
                // A plugin that does not read its configuration says why in its answer.
                stdin.write_all(config.to_string().as_bytes()).await.ok();
            }
            child.output().await.with_context(|| format!("wait for {kind}"))
        };
        let output = match tokio::time::timeout(PATIENCE, attempt).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(Refusal::new(format!("{error:#}"))),
            Err(_) => {
                return Err(Refusal::new(format!(
                    "{kind} {command} took longer than {} s",
                    PATIENCE.as_secs()
                )));
            }
        };
        if output.status.success() { Ok(output.stdout) } else { Err(Refusal::read(kind, command, &output)) }
    }

    /// A plugin's own configuration, made whole as libcni does.
    fn config(&self, plugin: &Value, object: &Value, previous: Option<&Value>) -> Value {
        let mut config = plugin.clone();
        config["name"] = self.name.clone().into();
        config["cniVersion"] = self.version.clone().into();
        if let Some(fields) = config.as_object_mut() {
            if let Some(capabilities) = fields.remove("capabilities") {
                fields.insert("runtimeConfig".into(), runtime_config(object, &capabilities));
            }
            if let Some(previous) = previous {
                fields.insert("prevResult".into(), previous.clone());
            }
        }
        config
    }
}

fn type_of(plugin: &Value) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// `1.1.0` as something that can be compared.
fn ordinal(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// Why a plugin did not do what it was told.
#[derive(Debug)]
struct Refusal {
    code: Option<u64>,
    message: String,
}

impl Refusal {
    fn new(message: String) -> Self {
        Self { code: None, message }
    }

    fn read(kind: &str, command: &str, output: &std::process::Output) -> Self {
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let text = |field| said.get(field).and_then(Value::as_str).unwrap_or_default().trim().to_owned();
        let (mut message, details) = (text("msg"), text("details"));
        if message.is_empty() {
            message = format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        if !details.is_empty() {
            message = format!("{message} ({details})");
        }
        let code = said.get("code").and_then(Value::as_u64);
        let code_text = code.map(|code| format!(" with code {code}")).unwrap_or_default();
        Self { code, message: format!("{kind} {command} failed{code_text}: {message}") }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_highest_version_on_offer_is_taken_and_capabilities_become_arguments() {
        let text = br#"{"cniVersion":"1.0.0","cniVersions":["0.4.0","1.1.0"],"name":"weir","plugins":[
            {"type":"weir-cni","mtu":1500,"capabilities":{"ips":true}},{"type":"other"}]}"#;
        let conflist = Conflist::parse(text, Path::new("/opt/cni/bin")).unwrap();
        assert_eq!(
            conflist.config(&conflist.plugins[0], &json!({}), None),
            json!({"type":"weir-cni","mtu":1500,"name":"weir","cniVersion":"1.1.0","runtimeConfig":{}})
        );
        assert_eq!(
            conflist.config(&conflist.plugins[1], &json!({}), Some(&json!({"ips":[]}))),
            json!({"type":"other","name":"weir","cniVersion":"1.1.0","prevResult":{"ips":[]}})
        );
    }
}
