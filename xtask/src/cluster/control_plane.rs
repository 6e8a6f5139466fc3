//! The orders of the control plane's machine: etcd, API server, controller manager, scheduler.

use std::path::{Path, PathBuf};

use super::layout::{API_SERVER, Layout};
use super::orders::{API_LISTENS, API_READY, CONNECTED, Orders, Step};
use super::pki::Pki;

pub(crate) const NAME: &str = "control-plane";
const ETCD: &str = "http://127.0.0.1:2379";

pub(crate) fn orders(layout: Layout, pki: &Pki, disk: &Path, logs: &Path, bin: &Path) -> Orders {
    Orders {
        name: NAME.to_owned(),
        disk: disk.to_owned(),
        logs: logs.to_owned(),
        bin: bin.to_owned(),
        hierarchies: Vec::new(),
        bound: vec![(PathBuf::from("/var/lib/etcd"), "etcd".to_owned())],
        folders: Vec::new(),
        files: Vec::new(),
        plugins: None,
        steps: vec![
            Step::Await(disk.join(CONNECTED)),
            Step::start("etcd", etcd()),
            Step::start("kube-apiserver", api_server(layout, pki)),
            // It waits by itself until the server is healthy, which is when all roles are there.
            Step::Await(disk.join(API_LISTENS)),
            Step::start("kube-controller-manager", controller_manager(layout, pki)),
            // It would not wait for the role that the API server makes for it, and give up.
            Step::Await(disk.join(API_READY)),
            Step::start("kube-scheduler", scheduler(pki)),
        ],
    }
}

/// A command line of `--OPTION=VALUE`.
pub(crate) fn command(program: &str, options: &[(&str, &str)]) -> Vec<String> {
    let options = options.iter().map(|(name, value)| format!("--{name}={value}"));
    std::iter::once(program.to_owned()).chain(options).collect()
}

fn etcd() -> Vec<String> {
    command(
        "etcd",
        &[
            ("data-dir", "/var/lib/etcd/data"),
            ("listen-client-urls", ETCD),
            ("advertise-client-urls", ETCD),
            ("listen-peer-urls", "http://127.0.0.1:2380"),
            ("log-level", "warn"),
            // A test cluster that loses power is made anew.
            ("unsafe-no-fsync", "true"),
        ],
    )
}

fn api_server(layout: Layout, pki: &Pki) -> Vec<String> {
    let file = |name| pki.file(name).display().to_string();
    command(
        "kube-apiserver",
        &[
            ("etcd-servers", ETCD),
            ("advertise-address", API_SERVER),
            ("secure-port", "6443"),
            ("tls-cert-file", &file("api.crt")),
            ("tls-private-key-file", &file("api.key")),
            ("client-ca-file", &file("ca.crt")),
            ("token-auth-file", &file("tokens.csv")),
            ("authorization-mode", "Node,RBAC"),
            // The agent's DaemonSet.
            ("allow-privileged", "true"),
            ("service-cluster-ip-range", layout.service_cidrs()),
            ("service-account-issuer", "https://kubernetes.default.svc"),
            ("service-account-key-file", &file("sa.pub")),
            ("service-account-signing-key-file", &file("sa.key")),
            // No name of a node resolves.
            ("kubelet-preferred-address-types", "InternalIP"),
            ("endpoint-reconciler-type", "lease"),
            ("v", "1"),
        ],
    )
}

fn controller_manager(layout: Layout, pki: &Pki) -> Vec<String> {
    let config = pki.file("controller-manager.conf").display().to_string();
    let (key, authority) =
        (pki.file("sa.key").display().to_string(), pki.file("ca.crt").display().to_string());
    command(
        "kube-controller-manager",
        &[
            ("kubeconfig", &config),
            ("authentication-kubeconfig", &config),
            ("authorization-kubeconfig", &config),
            // Who may ask for its metrics it may not read yet.
            ("authentication-tolerate-lookup-failure", "true"),
            ("allocate-node-cidrs", "true"),
            ("cluster-cidr", layout.pod_cidrs()),
            ("service-cluster-ip-range", layout.service_cidrs()),
            ("leader-elect", "false"),
            ("service-account-private-key-file", &key),
            ("root-ca-file", &authority),
            ("use-service-account-credentials", "true"),
            // A node that is gone is noticed in seconds.
            ("node-monitor-period", "2s"),
            ("node-monitor-grace-period", "16s"),
            ("flex-volume-plugin-dir", "/var/lib/flex"),
            ("kube-api-qps", "500"),
            ("kube-api-burst", "1000"),
            ("v", "1"),
        ],
    )
}

fn scheduler(pki: &Pki) -> Vec<String> {
    let config = pki.file("scheduler.conf").display().to_string();
    command(
        "kube-scheduler",
        &[
            ("kubeconfig", &config),
            ("authentication-kubeconfig", &config),
            ("authorization-kubeconfig", &config),
            ("leader-elect", "false"),
            ("v", "1"),
        ],
    )
}
