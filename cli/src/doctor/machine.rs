//! What `weir doctor` looks at on this machine, in the calling thread's namespaces.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use netlink::Handle;
use serde_json::Value;

use super::OURS;

#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    pub(super) release: String,
    pub(super) has_btf: bool,
    /// `/proc/filesystems`.
    pub(super) filesystems: String,
    /// `/proc/self/mounts`.
    pub(super) mounts: String,
    /// How the kernel was built, if that is kept anywhere.
    pub(super) kernel_config: Option<String>,
    /// The devices of the default routes.
    pub(super) underlays: Vec<Device>,
    /// Every address of every device, with its name.
    pub(super) addresses: Vec<(String, IpNet)>,
    /// Files that a runtime would take for network configurations, in its order.
    pub(super) conf_files: Vec<String>,
    /// What our own file gives out.
    pub(super) pod_cidrs: Vec<IpNet>,
    pub(super) forwarding: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) mtu: u32,
}

impl Machine {
    pub(super) async fn look(conf_dir: &Path) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let release = read("/proc/sys/kernel/osrelease").trim_end().to_owned();
        let kernel_config = fs::read_to_string(format!("/boot/config-{release}"))
            .or_else(|_| fs::read_to_string(format!("/lib/modules/{release}/config")))
            .ok();
        let mut machine = Self {
            has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            filesystems: read("/proc/filesystems"),
            mounts: read("/proc/self/mounts"),
            kernel_config,
            conf_files: conf_files(conf_dir),
            pod_cidrs: pod_cidrs(&conf_dir.join(OURS)),
            release,
            ..Self::default()
        };
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            // A kernel without IPv6 has no such setting.
            if let Ok(value) = netlink::read_sysctl(setting) {
                machine.forwarding.push((format!("net/{setting}"), value));
            }
        }
        machine.look_at_links().await.context("look at the network's devices")?;
        Ok(machine)
    }

    async fn look_at_links(&mut self) -> Result<()> {
        let handle = Handle::new()?;
        let routes = handle.routes().await?;
        for link in handle.links().await? {
            for address in handle.addresses(link.index).await? {
                // Pods' own links have none, and those of our gateway are link-local.
                self.addresses.push((link.name.clone(), address));
            }
            let is_default =
                |route: &netlink::Route| route.destination.prefix_len() == 0 && route.oif == link.index;
            if routes.iter().any(is_default) {
                self.underlays.push(Device { name: link.name, mtu: link.mtu });
            }
        }
        Ok(())
    }

    /// Where a file system of this kind is mounted first.
    pub(super) fn mount_of(&self, kind: &str) -> Option<&str> {
        self.mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, found) = (fields.next()?, fields.next()?);
            (found == kind).then_some(path)
        })
    }
}

fn conf_files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_conf = |name: &String| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end));
    let mut names: Vec<String> = names.filter(is_conf).collect();
    names.sort();
    names
}

fn pod_cidrs(file: &Path) -> Vec<IpNet> {
    let text = fs::read(file).unwrap_or_default();
    let list: Value = serde_json::from_slice(&text).unwrap_or_default();
    let plugins = list["plugins"].as_array().into_iter().flatten();
    let ranges = plugins.filter_map(|plugin| plugin["ipam"]["ranges"].as_array()).flatten();
    ranges.filter_map(|range| range.as_str()?.parse().ok()).collect()
}
