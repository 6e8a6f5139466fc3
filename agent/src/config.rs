//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::{CommandFactory as _, FromArgMatches as _};
use ipnet::IpNet;

use crate::options;
use crate::steps::Step;

/// The agent of one node: watches, compiles, programs, reports.
///
/// It runs in the node's network namespace. SIGTERM ends it and leaves the datapath enforcing; so does a crash.
#[derive(clap::Parser)]
#[command(name = "weir-agent", version)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Call {
    /// Something to do to the node and be done, instead
    #[command(subcommand)]
    pub(crate) step: Option<Step>,
    #[command(flatten)]
    pub(crate) config: Option<Config>,
}

impl Call {
    /// Reads the command line, and the folder of options that it names. A mistake in the line itself ends the process.
    pub(crate) fn read(line: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let command = Self::command();
        let line = options::expand(line.into_iter().collect(), &command)?;
        let matches = command.try_get_matches_from(line).unwrap_or_else(|error| error.exit());
        Ok(Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()))
    }
}

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("desired").required(true).args(["source", "api_server", "kubeconfig"]))]
pub(crate) struct Config {
    /// Folder of further options: a file each, named like the option and holding its value (a ConfigMap, mounted)
    #[arg(id = "config", long, value_name = "DIR")]
    _read_before: Option<PathBuf>,
    /// The Node object that this agent is for
    #[arg(long, value_name = "NAME")]
    pub(crate) node: String,
    /// Folder of Kubernetes YAML or JSON that says what is desired; read again whenever a file in it changes
    #[arg(long, value_name = "DIR")]
    pub(crate) source: Option<PathBuf>,
    /// The API server that says what is desired: an address of its own, not the ClusterIP that this agent serves
    #[arg(long, value_name = "URL")]
    pub(crate) api_server: Option<String>,
    /// The same, as the current context of this file names it
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Token for --api-server; read again when it changes
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/kubernetes.io/serviceaccount/token")]
    pub(crate) token_file: PathBuf,
    /// Certificate authority of --api-server; read again when it changes
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")]
    pub(crate) ca_file: PathBuf,
    /// Folder on a bpffs where programs and maps are pinned
    #[arg(long, value_name = "DIR")]
    pub(crate) pins: PathBuf,
    /// Take over from pins of another layout, which are refused otherwise: live connections and verdicts stay
    #[arg(long)]
    pub(crate) migrate: bool,
    /// Where the plugin and `weir` reach this agent
    #[arg(long, value_name = "PATH", default_value = api::DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
    /// CNI configuration to write once pods can be wired: a file, or a folder for a file of our name; `auto` is the folder
    /// that this node's container runtime reads
    #[arg(long, value_name = "PATH")]
    pub(crate) conflist: Option<PathBuf>,
    /// State that the plugin and the agent keep over restarts
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weir/cni")]
    pub(crate) cni_state: PathBuf,
    /// Device towards the other nodes; may be repeated [default: the devices of the default routes]
    #[arg(long = "device", alias = "underlay", value_name = "IFNAME")]
    pub(crate) devices: Vec<String>,
    /// How packets get to the pods of other nodes; the same on all nodes
    #[arg(long, value_enum, default_value_t)]
    pub(crate) routing: Routing,
    /// UDP port of the overlay, the same on all nodes
    #[arg(long, value_name = "PORT", default_value_t = 4789, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) vxlan_port: u16,
    /// Number of the overlay's network, the same on all nodes
    #[arg(long, value_name = "NUMBER", default_value_t = 87, value_parser = clap::value_parser!(u32).range(1..1 << 24))]
    pub(crate) vni: u32,
    /// Masquerade what pods send beyond the cluster [default: true with an API server, false with --source]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) masquerade: Option<bool>,
    /// Block that pods reach by their own addresses, beside the nodes and their pods; may be repeated
    #[arg(long = "non-masquerade-cidr", value_name = "CIDR")]
    pub(crate) non_masquerade_cidrs: Vec<IpNet>,
    /// cgroup2 folder of the processes whose connections to Services are translated, or a folder that has it as `unified`
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<PathBuf>,
    /// Serve /metrics, /healthz and /readyz here
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<SocketAddr>,
    /// What to log, as tracing filters are written. What `kube_client` has to say, the agent says better
    #[arg(long, value_name = "FILTER", default_value = "info,kube_client=off")]
    pub(crate) log: String,
}

impl Config {
    /// A cluster's pods reach the world; a folder of YAML says nothing of a world beyond.
    pub(crate) fn masquerades(&self) -> bool {
        self.masquerade.unwrap_or(self.source.is_none())
    }
}

/// How packets get to the pods of other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Routing {
    /// As they are where a packet with pods' addresses has been seen to come back, else in VXLAN
    Auto,
    /// As they are: all nodes are on one link, which lets pods' addresses pass
    #[default]
    Direct,
    /// In VXLAN
    Vxlan,
}
