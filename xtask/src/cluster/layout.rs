//! Where a distribution puts things: the CNI folders of its nodes, and the ranges it gives to pods and Services.
//!
//! Only what an overlay in `deploy/` depends on; the rest of a node is the same in every layout.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A distribution of Kubernetes, as far as its nodes differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Layout {
    /// kind and kubeadm: `/opt/cni/bin`, `/etc/cni/net.d`, pods in 10.244.0.0/16
    Kind,
    /// k3s: folders below `/var/lib/rancher/k3s`, pods in 10.42.0.0/16
    K3s,
}

/// One node beside the bridge: 10.90.0.11, 10.90.0.12, …
pub(crate) const UNDERLAY_V4: &str = "10.90.0";
pub(crate) const UNDERLAY_V6: &str = "fd00:90:";
/// The bridge's own address, which is the control plane's.
pub(crate) const API_SERVER: &str = "10.90.0.1";
pub(crate) const API_SERVER_V6: &str = "fd00:90::1";
pub(crate) const API_PORT: u16 = 6443;
pub(crate) const API_URL: &str = "https://10.90.0.1:6443";

/// Where every runtime looks that is told nothing.
const DEFAULT_FOLDERS: [&str; 2] = ["/opt/cni/bin", "/etc/cni/net.d"];

impl Layout {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::K3s => "k3s",
        }
    }

    /// Where the runtime of node `number` looks for plugins and for their configuration, if its own configuration says so.
    /// Both are to be had on one cluster: k3s names folders of its own, unless somebody has taken that out.
    pub(crate) fn named_folders(self, number: usize) -> Option<[&'static str; 2]> {
        match self {
            Self::Kind => Some(DEFAULT_FOLDERS),
            Self::K3s if number.is_multiple_of(2) => None,
            Self::K3s => Some(["/var/lib/rancher/k3s/data/cni", "/var/lib/rancher/k3s/agent/etc/cni/net.d"]),
        }
    }

    pub(crate) fn cni_bin(self, number: usize) -> &'static str {
        self.named_folders(number).unwrap_or(DEFAULT_FOLDERS)[0]
    }

    pub(crate) fn cni_conf(self, number: usize) -> &'static str {
        self.named_folders(number).unwrap_or(DEFAULT_FOLDERS)[1]
    }

    /// The runtime's own configuration; on k3s the one place that names the folders above.
    pub(crate) fn containerd_config(self) -> &'static str {
        match self {
            Self::Kind => "/etc/containerd/config.toml",
            Self::K3s => "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
        }
    }

    pub(crate) fn pod_cidrs(self) -> &'static str {
        match self {
            Self::Kind => "10.244.0.0/16,fd00:10:244::/56",
            Self::K3s => "10.42.0.0/16,fd00:10:42::/56",
        }
    }

    pub(crate) fn service_cidrs(self) -> &'static str {
        match self {
            Self::Kind => "10.96.0.0/16,fd00:10:96::/112",
            Self::K3s => "10.43.0.0/16,fd00:10:43::/112",
        }
    }

    /// The `kubernetes` Service always gets the first address of the range.
    pub(crate) fn kubernetes_ip(self) -> &'static str {
        match self {
            Self::Kind => "10.96.0.1",
            Self::K3s => "10.43.0.1",
        }
    }

    pub(crate) fn dns_ip(self) -> &'static str {
        match self {
            Self::Kind => "10.96.0.10",
            Self::K3s => "10.43.0.10",
        }
    }
}
