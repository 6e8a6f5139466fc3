//! `weir sandbox`: what the user types, turned into the sandbox's options.

use std::path::PathBuf;
use std::process::ExitCode;

use ::sandbox::plan::{Options, Output, Routing};
use anyhow::bail;
use clap::Subcommand;
use ipnet::IpNet;

use crate::format::Format;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXIT_STATUS)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    up: Option<Up>,
}

const EXIT_STATUS: &str = "Exit status: 0 if it came up (and the table is as expected), 1 if the table differs from \
--expect or the input is bad, 2 if the command line is wrong.";

#[derive(clap::Args)]
struct Up {
    /// File or folder of Kubernetes YAML or JSON; `-` is standard input
    #[arg(short = 'f', long = "filename", value_name = "MANIFESTS", num_args = 1.., required = true)]
    files: Vec<PathBuf>,
    /// How many nodes to bring up
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=200))]
    nodes: u8,
    /// At most this many copies of each workload [default: as many as the manifest says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    replicas: Option<u16>,
    /// The cluster's pod ranges; node i gets the i-th /24 (IPv4) and /64 (IPv6)
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',', default_value = "10.244.0.0/16,fd00:244::/48")]
    pod_cidr: Vec<IpNet>,
    /// YAML of who must and must not reach whom (docs/sandbox-expect.md)
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// Write one page of HTML as well: who reaches whom, and why not (rewritten on each change with --watch)
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    /// How packets get from node to node: as they are over one link, or in VXLAN over a router
    #[arg(long, value_enum, value_name = "WAY", default_value = "direct")]
    routing: Way,
    /// Apply again when a file changes, and print what that changed
    #[arg(long)]
    watch: bool,
    /// Leave it up, for `weir sandbox exec` and `weir sandbox down`
    #[arg(long)]
    keep: bool,
    /// Show live flows beside it
    #[arg(long)]
    flows: bool,
    /// Show kube-dns in the table too
    #[arg(long)]
    all: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Way {
    Direct,
    Auto,
    Vxlan,
}

#[derive(Subcommand)]
enum Command {
    /// Run a command in a pod of a sandbox that was left up
    Exec {
        /// Which sandbox, where several are up
        #[arg(long)]
        id: Option<String>,
        /// `namespace/name`, or a name that only one pod has
        pod: String,
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Take a sandbox down
    Down {
        /// Which one, where several are up
        id: Option<String>,
        /// Every one of them
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
    /// Which sandboxes are up
    List,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        None => match args.up {
            Some(up) => ::sandbox::run(options(up)?),
            None => bail!("no manifests given: name files or folders with -f"),
        },
        Some(Command::Exec { id, pod, command }) => ::sandbox::exec(id.as_deref(), &pod, &command),
        Some(Command::Down { id, all }) => ::sandbox::down(id.as_deref(), all),
        Some(Command::List) => ::sandbox::list(),
    }
}

/// Refuses what cannot be meant, before anything is brought up.
fn options(up: Up) -> anyhow::Result<Options> {
    if up.watch && up.files.iter().any(|file| file.as_os_str() == "-") {
        bail!("--watch: standard input cannot be read again; name files or folders");
    }
    Ok(Options {
        files: up.files,
        nodes: up.nodes.into(),
        replicas: up.replicas.map(usize::from),
        pod_cidrs: up.pod_cidr,
        expect: up.expect,
        report: up.report,
        output: match up.output {
            Format::Table => Output::Table,
            Format::Json => Output::Json,
        },
        routing: match up.routing {
            Way::Direct => Routing::Direct,
            Way::Auto => Routing::Auto,
            Way::Vxlan => Routing::Vxlan,
        },
        watch: up.watch,
        keep: up.keep,
        flows: up.flows,
        all: up.all,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// What a command line means, in short.
    fn read(line: &str) -> String {
        let args = match Line::try_parse_from(["sandbox"].into_iter().chain(line.split(' '))) {
            Ok(line) => line.args,
            Err(error) => return error.to_string().lines().next().unwrap_or_default().to_owned(),
        };
        match (args.command, args.up) {
            (Some(Command::Exec { id, pod, command }), _) => format!("exec {id:?} {pod} {command:?}"),
            (Some(Command::Down { id, all }), _) => format!("down {id:?} {all}"),
            (Some(Command::List), _) => "list".into(),
            (None, Some(up)) => options(up).map_or_else(
                |error| error.to_string(),
                |it| format!("up {:?} {} {:?} {:?}", it.files, it.nodes, it.replicas, it.pod_cidrs),
            ),
            (None, None) => "nothing".into(),
        }
    }

    #[test]
    fn command_lines_mean_what_the_help_says() {
        for (line, meaning) in [
            ("-f a b -f c", r#"up ["a", "b", "c"] 2 None [10.244.0.0/16, fd00:244::/48]"#),
            ("-f a --nodes 3 --replicas 1 --pod-cidr 10.0.0.0/8", r#"up ["a"] 3 Some(1) [10.0.0.0/8]"#),
            ("-f - --watch", "--watch: standard input cannot be read again; name files or folders"),
            ("exec shop/web -- ip addr", r#"exec None shop/web ["ip", "addr"]"#),
            ("exec --id x web -- sh", r#"exec Some("x") web ["sh"]"#),
            ("down", "down None false"),
            ("down --all", "down None true"),
            ("down x --all", "error: the argument '[ID]' cannot be used with '--all'"),
            ("list", "list"),
            ("--nodes 0 -f a", "error: invalid value '0' for '--nodes <N>': 0 is not in 1..=200"),
        ] {
            assert_eq!(read(line), meaning, "{line}");
        }
    }
}
