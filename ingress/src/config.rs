//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, ValueEnum};
use ingress::object::Name;
use ipnet::IpNet;

/// Serves Ingress objects: HTTP/1.1, HTTP/2 and TLS in, HTTP/1.1 and HTTP/2 out.
///
/// SIGTERM and SIGINT drain and end it. SIGUSR2 starts its program anew, hands the listening sockets over and drains.
#[derive(Parser)]
#[command(name = "weir-ingress", version)]
pub(crate) struct Config {
    /// Files and folders of Kubernetes YAML: Ingress, IngressClass, Service, EndpointSlice, Secret. Read again on change
    #[arg(short = 'f', long = "files", num_args = 1..)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// Where to listen for HTTP in the clear; `off` for nowhere
    #[arg(long, default_value = "[::]:8080", value_name = "ADDRESS")]
    pub(crate) http: Bind,
    /// Where to listen for HTTP over TLS; `off` for nowhere
    #[arg(long, default_value = "[::]:8443", value_name = "ADDRESS")]
    pub(crate) https: Bind,
    /// Where /healthz, /readyz, /metrics and `weir ingress` are answered, to whoever can connect; `off` for nowhere
    #[arg(long, default_value = "127.0.0.1:9480", value_name = "ADDRESS")]
    pub(crate) admin: Bind,
    /// Threads that serve; absent: one for each core
    #[arg(long)]
    pub(crate) workers: Option<usize>,
    /// Names of classes that are ours though no IngressClass object says so
    #[arg(long = "class", default_value = "weir")]
    pub(crate) classes: Vec<String>,
    /// Leave objects that name no class to the default class
    #[arg(long)]
    pub(crate) only_with_class: bool,
    /// NAMESPACE/SERVICE:PORT for what no object serves
    #[arg(long, value_parser = backend)]
    pub(crate) default_backend: Option<(Name, String)>,
    /// NAMESPACE/SECRET whose certificate is shown to names that have none
    #[arg(long, value_parser = name)]
    pub(crate) default_certificate: Option<Name>,
    /// Blocks of addresses whose X-Forwarded-* and Forwarded are believed
    #[arg(long, value_delimiter = ',')]
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Blocks of addresses (load balancers) whose connections begin with a header of the PROXY protocol, version 1 or 2
    #[arg(long, value_delimiter = ',')]
    pub(crate) proxy_protocol: Vec<IpNet>,
    /// The port that redirects to TLS name
    #[arg(long, default_value_t = 443)]
    pub(crate) https_port: u16,
    /// How many seconds requests in flight may take after SIGTERM
    #[arg(long, default_value_t = 30)]
    pub(crate) drain_seconds: u64,
    /// How many seconds to go on taking connections after SIGTERM, not ready any more
    #[arg(long, default_value_t = 0)]
    pub(crate) drain_delay_seconds: u64,
    /// Where the access log goes, one JSON object a line
    #[arg(long, value_enum, default_value_t = AccessLog::Stdout)]
    pub(crate) access_log: AccessLog,
    /// Standard input has the sockets of the process before: set by it, in an in-place restart
    #[arg(long, hide = true)]
    pub(crate) take_over: bool,
    /// What to log, as a tracing filter
    #[arg(long, default_value = "info")]
    pub(crate) log: String,
}

/// The API server as the source, and what is written back to it.
#[derive(clap::Args)]
pub(crate) struct Cluster {
    /// The API server to follow [default, without --files and --kubeconfig: that of the pod that this runs in]
    #[arg(long, value_name = "URL", conflicts_with_all = ["files", "kubeconfig"])]
    pub(crate) api_server: Option<String>,
    /// The same, as the current context of this file names it
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Token for --api-server; read again when it changes
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/kubernetes.io/serviceaccount/token")]
    pub(crate) token_file: PathBuf,
    /// Certificate authority of --api-server; read again when it changes
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")]
    pub(crate) ca_file: PathBuf,
    /// Our name among the replicas: the pod's
    #[arg(long, value_name = "NAME", env = "POD_NAME", default_value = "weir-ingress")]
    pub(crate) pod_name: String,
    /// The namespace of the replicas and of their Lease
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "default")]
    pub(crate) pod_namespace: String,
    /// The Lease whose holder writes status.loadBalancer
    #[arg(long, value_name = "NAME", default_value = "weir-ingress")]
    pub(crate) lease: String,
    /// Address or name to write into status.loadBalancer; may be repeated
    #[arg(long = "publish-address", value_name = "ADDRESS", conflicts_with = "publish_service")]
    pub(crate) publish_addresses: Vec<String>,
    /// NAMESPACE/SERVICE whose load balancer's and external addresses to write there
    #[arg(long, value_parser = name)]
    pub(crate) publish_service: Option<Name>,
    /// Else the nodes of the ready pods with these labels are written there
    #[arg(long, value_name = "LABELS", default_value = "app.kubernetes.io/name=weir-ingress")]
    pub(crate) publish_pods: String,
    /// Leave status.loadBalancer as it is when the last replica ends
    #[arg(long)]
    pub(crate) keep_status: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum AccessLog {
    Stdout,
    Off,
}

/// An address to listen on, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bind(pub(crate) Option<SocketAddr>);

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(None)),
            text => text
                .parse()
                .map(|address| Self(Some(address)))
                .map_err(|_| format!("{text:?}: expected for example 127.0.0.1:8080, [::]:8080 or off")),
        }
    }
}

fn name(text: &str) -> Result<Name, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(Name::new(namespace, name))
        }
        _ => Err(format!("{text:?}: expected NAMESPACE/NAME")),
    }
}

fn backend(text: &str) -> Result<(Name, String), String> {
    let (service, port) =
        text.rsplit_once(':').ok_or(format!("{text:?}: expected NAMESPACE/SERVICE:PORT"))?;
    Ok((name(service)?, port.to_owned()))
}
