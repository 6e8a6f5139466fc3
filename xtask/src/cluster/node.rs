//! The orders of a node's machine: containerd with the images in it, and a kubelet.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::control_plane::command;
use super::layout::Layout;
use super::orders::{API_LISTENS, CONNECTED, File, Orders, Step};
use super::tools::{PAUSE, Tools};
use super::underlay;

const SOCKET: &str = "/run/containerd/containerd.sock";
const KUBELET: &str = "/etc/kubernetes/kubelet.json";
const KUBECONFIG: &str = "/etc/kubernetes/kubelet.conf";
/// The folder of a machine's disk that is its containerd's.
pub(crate) const STORE: &str = "containerd";

/// What a node is made of.
pub(crate) struct Node<'a> {
    pub(crate) name: &'a str,
    /// Counts from 1.
    pub(crate) number: usize,
    pub(crate) layout: Layout,
    pub(crate) kubeconfig: String,
    pub(crate) hierarchies: Vec<String>,
    /// The reference plugins come along; without them `weir-agent install` has to bring its own.
    pub(crate) plugins: bool,
}

impl Node<'_> {
    pub(crate) fn orders(self, tools: &Tools, disk: &Path, logs: &Path) -> Orders {
        let kubelet = self.kubelet();
        let containerd = self.layout.containerd_config();
        let mut steps = runtime(containerd);
        steps.extend([
            Step::Await(disk.join(CONNECTED)),
            Step::Await(disk.join(API_LISTENS)),
            Step::start("kubelet", kubelet),
        ]);
        let file = |path: &str, text: String| File { path: PathBuf::from(path), text };
        Orders {
            name: self.name.to_owned(),
            disk: disk.to_owned(),
            logs: logs.to_owned(),
            bin: tools.bin.clone(),
            // The upper folders of overlays, which themselves cannot lie on one.
            bound: [("/var/lib/containerd", STORE), ("/var/lib/kubelet", "kubelet")]
                .map(|(path, name)| (PathBuf::from(path), name.to_owned()))
                .to_vec(),
            folders: [
                self.layout.cni_bin(self.number),
                self.layout.cni_conf(self.number),
                "/var/log/pods",
                "/var/log/containers",
            ]
            .map(PathBuf::from)
            .to_vec(),
            files: vec![
                file(containerd, containerd_config(tools, self.layout.named_folders(self.number))),
                file(KUBELET, self.kubelet_config()),
                file(KUBECONFIG, self.kubeconfig),
            ],
            plugins: self
                .plugins
                .then(|| (tools.cni.clone(), PathBuf::from(self.layout.cni_bin(self.number)))),
            hierarchies: self.hierarchies,
            steps,
        }
    }

    fn kubelet(&self) -> Vec<String> {
        command(
            "kubelet",
            &[
                ("config", KUBELET),
                ("kubeconfig", KUBECONFIG),
                ("hostname-override", self.name),
                ("node-ip", &underlay::addresses(self.number).join(",")),
                ("root-dir", "/var/lib/kubelet"),
                ("v", "2"),
            ],
        )
    }

    fn kubelet_config(&self) -> String {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "0.0.0.0",
            // The API server has no certificate for kubelets, and nobody else is on this network.
            "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
            "authorization": { "mode": "AlwaysAllow" },
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": "/",
            "failCgroupV1": false,
            "failSwapOn": false,
            "oomScoreAdj": 0,
            "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
            "clusterDNS": [self.layout.dns_ip()],
            "clusterDomain": "cluster.local",
            "enforceNodeAllocatable": ["pods"],
            // The disk is this machine's, full or not.
            "evictionHard": {
                "memory.available": "50Mi",
                "nodefs.available": "0%", "nodefs.inodesFree": "0%",
                "imagefs.available": "0%", "imagefs.inodesFree": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "syncFrequency": "10s",
            "kubeAPIQPS": 100,
            "kubeAPIBurst": 200,
            "nodeStatusUpdateFrequency": "1s",
            "resolvConf": "/etc/resolv.conf",
            "maxPods": 250,
        })
        .to_string()
    }
}

/// The steps of a machine whose containerd is to answer.
fn runtime(config: &str) -> Vec<Step> {
    vec![
        Step::start("containerd", vec!["containerd".to_owned(), "--config".to_owned(), config.to_owned()]),
        Step::Await(PathBuf::from(SOCKET)),
        Step::Until(["ctr", "--address", SOCKET, "version"].map(str::to_owned).to_vec()),
    ]
}

/// The orders of a machine that imports archives and does nothing else, and the file that is there when it has.
pub(crate) fn importer(
    name: &str,
    hierarchies: Vec<String>,
    tools: &Tools,
    images: &[PathBuf],
    disk: &Path,
    logs: &Path,
) -> (Orders, PathBuf) {
    let config = Layout::Kind.containerd_config();
    let mut steps = runtime(config);
    steps.extend(images.iter().map(|image| {
        let mark = image.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let import = ["ctr", "--address", SOCKET, "--namespace", "k8s.io", "images", "import"];
        let command = import.map(str::to_owned).into_iter().chain([image.display().to_string()]);
        Step::Once { mark, command: command.collect() }
    }));
    let end = ["ctr", "--address", SOCKET, "version"].map(str::to_owned).to_vec();
    steps.push(Step::Once { mark: "all".to_owned(), command: end });
    let orders = Orders {
        name: name.to_owned(),
        disk: disk.to_owned(),
        logs: logs.to_owned(),
        bin: tools.bin.clone(),
        bound: vec![(PathBuf::from("/var/lib/containerd"), STORE.to_owned())],
        folders: Vec::new(),
        files: vec![File { path: PathBuf::from(config), text: containerd_config(tools, None) }],
        plugins: None,
        hierarchies,
        steps,
    };
    (orders, disk.join("done-all"))
}

/// `folders` are those of plugins and of their configuration, where it is to name them.
fn containerd_config(tools: &Tools, folders: Option<[&str; 2]>) -> String {
    let runc = tools.bin.join("runc").display().to_string();
    let cni = folders.map_or_else(String::new, |[bin, conf]| {
        format!(
            "  [plugins.\"io.containerd.cri.v1.runtime\".cni]\n    bin_dirs = [\"{bin}\"]\n    conf_dir = \"{conf}\"\n"
        )
    });
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.erofs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing", "io.containerd.nri.v1.nri",
]
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE nobody may lower it.
  restrict_oom_score_adj = true
{cni}  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = "{runc}"
        SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
"#
    )
}
