//! The CNI configuration that tells the runtime about our plugin.
//!
//! Written last, when pods can be wired, and left there: without it a runtime cannot delete pods. Others chain
//! themselves into it, so of a file that is there only our own entry is rewritten.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use serde_json::{Value, json};
use tracing::warn;

use crate::records;
use crate::steps::cni_dirs::CniDirs;

const PLUGIN: &str = "weir-cni";
/// Our file among those of others; a runtime takes the first.
pub(crate) const FILE: &str = "10-weir.conflist";

pub(crate) struct Conflist<'a> {
    pub(crate) socket: &'a Path,
    pub(crate) state: &'a Path,
    pub(crate) mtu: u32,
    pub(crate) node_ips: &'a [IpAddr],
    /// The node's pod CIDRs.
    pub(crate) ranges: &'a [IpNet],
}

impl Conflist<'_> {
    /// Makes the file at `path` say this. Whether it had to be written.
    pub(crate) fn install(&self, path: &Path) -> Result<bool> {
        if self.ranges.is_empty() {
            bail!("Node: spec.podCIDRs: empty; without a range for pods no plugin configuration is written");
        }
        let present = match fs::read(path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let last = present.as_ref().and_then(|text| match serde_json::from_slice(text) {
            Ok(Value::Object(list)) => Some(Value::Object(list)),
            _ => {
                warn!(file = %path.display(), "no JSON object, replaced");
                None
            }
        });
        let wanted = self.merge(last.clone());
        if last.as_ref() == Some(&wanted) {
            return Ok(false);
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let mut text =
            serde_json::to_vec_pretty(&wanted).context("write the plugin's configuration as JSON")?;
        text.push(b'\n');
        records::replace(path, &text)?;
        Ok(true)
    }

    /// Our entry in the place of our last one, else before all others: it makes the interface that they work on.
    fn merge(&self, last: Option<Value>) -> Value {
        let mut list = last.unwrap_or_else(|| {
            // 1.0.0 on top: older runtimes refuse more, newer ones take the highest that is listed.
            json!({ "cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"], "name": "weir" })
        });
        let entry = self.entry();
        match list.get_mut("plugins").and_then(Value::as_array_mut) {
            Some(plugins) => match plugins.iter_mut().find(|plugin| plugin["type"] == PLUGIN) {
                Some(ours) => *ours = entry,
                None => plugins.insert(0, entry),
            },
            None => list["plugins"] = json!([entry]),
        }
        list
    }

    fn entry(&self) -> Value {
        json!({
            "type": PLUGIN,
            "agentSocket": self.socket,
            "stateDir": self.state,
            "mtu": self.mtu,
            "nodeIPs": self.node_ips,
            "ipam": { "ranges": self.ranges },
            "capabilities": { "portMappings": true, "bandwidth": true, "ips": true, "mac": true },
        })
    }
}

/// The file that `--conflist` means: itself, or in a folder that is there one with our name.
pub(crate) fn file_at(path: &Path) -> Result<PathBuf> {
    if path == Path::new("auto") {
        return Ok(CniDirs::of(Path::new("/"))?.conf.join(FILE));
    }
    Ok(if path.is_dir() { path.join(FILE) } else { path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    static NODE_IPS: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::new(172, 30, 0, 10))];

    fn conflist(ranges: &[IpNet]) -> Conflist<'_> {
        Conflist {
            socket: Path::new("/run/weir/agent.sock"),
            state: Path::new("/var/lib/weir/cni"),
            mtu: 1500,
            node_ips: &NODE_IPS,
            ranges,
        }
    }

    fn ranges(text: &str) -> Vec<IpNet> {
        text.split(',').map(|range| range.parse().unwrap()).collect()
    }

    #[test]
    fn a_new_list_says_what_the_plugin_needs_and_both_versions() {
        let list = conflist(&ranges("10.244.0.0/24,fd00:244::/64")).merge(None);
        assert_eq!(list["cniVersion"], "1.0.0");
        assert_eq!(list["cniVersions"], json!(["1.0.0", "1.1.0"]));
        assert_eq!(list["name"], "weir");
        let plugin = &list["plugins"][0];
        assert_eq!(plugin["type"], "weir-cni");
        assert_eq!(plugin["agentSocket"], "/run/weir/agent.sock");
        assert_eq!(plugin["stateDir"], "/var/lib/weir/cni");
        assert_eq!(plugin["mtu"], 1500);
        assert_eq!(plugin["nodeIPs"], json!(["172.30.0.10"]));
        assert_eq!(plugin["ipam"]["ranges"], json!(["10.244.0.0/24", "fd00:244::/64"]));
    }

    #[test]
    fn of_a_list_that_others_chained_into_only_our_entry_is_rewritten() {
        let first = ranges("10.244.0.0/24");
        let mut chained = conflist(&first).merge(None);
        chained["plugins"].as_array_mut().unwrap().push(json!({ "type": "istio-cni", "log_level": "info" }));
        chained["disableCheck"] = json!(true);

        let merged = conflist(&ranges("10.244.7.0/24")).merge(Some(chained.clone()));

        assert_eq!(merged["plugins"][0]["ipam"]["ranges"], json!(["10.244.7.0/24"]));
        assert_eq!(merged["plugins"][1], chained["plugins"][1]);
        assert_eq!(merged["disableCheck"], true);
        assert_eq!(merged["plugins"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_list_without_us_gets_us_first() {
        let list = conflist(&ranges("10.244.0.0/24"))
            .merge(Some(json!({ "name": "theirs", "plugins": [{ "type": "portmap" }] })));
        assert_eq!(list["name"], "theirs");
        assert_eq!(list["plugins"][0]["type"], "weir-cni");
        assert_eq!(list["plugins"][1]["type"], "portmap");
    }

    #[test]
    fn the_same_again_is_not_written_and_nonsense_is_replaced() {
        let folder = crate::testing::Folder::new();
        let path = folder.path().join("net.d/10-weir.conflist");
        let ranges = ranges("10.244.0.0/24");
        assert!(conflist(&ranges).install(&path).unwrap());
        assert!(!conflist(&ranges).install(&path).unwrap());
        fs::write(&path, "half a fi").unwrap();
        assert!(conflist(&ranges).install(&path).unwrap());
        assert!(!conflist(&ranges).install(&path).unwrap());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing beside it");
    }

    #[test]
    fn a_node_without_pod_ranges_gets_no_list() {
        let folder = crate::testing::Folder::new();
        let path = folder.path().join("10-weir.conflist");
        let error = conflist(&[]).install(&path).unwrap_err().to_string();
        assert!(error.contains("spec.podCIDRs"), "{error}");
        assert!(!path.exists());
    }
}
