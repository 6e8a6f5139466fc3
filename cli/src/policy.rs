//! `weir policy lint`: the classic mistakes in NetworkPolicies, named before they are in force.

use std::path::PathBuf;
use std::process::ExitCode;

use ::sandbox::lint::{self, Linted};
use anyhow::Result;
use clap::Subcommand;
use ipnet::IpNet;

use crate::agents::unless_closed;
use crate::columns::{Tone, toned};
use crate::format::{Format, count};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Name the classic mistakes in NetworkPolicies
    #[command(after_help = AFTER)]
    Lint {
        /// File or folder of Kubernetes YAML or JSON; `-` is standard input. Give the workloads, too
        #[arg(short = 'f', long = "filename", value_name = "MANIFESTS", num_args = 1.., required = true)]
        files: Vec<PathBuf>,
        /// The cluster's pod ranges, to find ipBlocks that hold pods
        #[arg(long, value_name = "CIDR,…", value_delimiter = ',')]
        pod_cidr: Vec<IpNet>,
        /// `json` is a list with an object for each finding
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: Format,
    },
}

const AFTER: &str = "\
Selectors, peers and ports are held against the pods that the same manifests make; of a namespace without pods among \
them nothing is said.

Exit status: 0 if nothing is found, 1 if something is, 2 if the manifests cannot be read.";

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let Command::Lint { files, pod_cidr, output } = args.command;
    let linted = match lint::files(&files, &pod_cidr) {
        Ok(linted) => linted,
        Err(error) => {
            eprintln!("weir: {:#}", anyhow::Error::from(error));
            return Ok(ExitCode::from(2));
        }
    };
    unless_closed(print(&linted, output))?;
    Ok(if linted.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(linted: &Linted, format: Format) -> Result<()> {
    format.print(&linted.findings, |colour| text(linted, colour))
}

/// As compilers write it, so that editors find the place.
fn text(linted: &Linted, colour: bool) -> String {
    let mut text = String::new();
    for finding in &linted.findings {
        let at = finding.at.as_ref().map(|at| format!("{at}: ")).unwrap_or_default();
        let lint = toned(&format!("[{}]", finding.lint), Tone::Quiet, colour);
        text += &format!(
            "{at}{}: {}: {} {lint}\n",
            finding.object,
            finding.field,
            toned(&finding.wrong, Tone::Bad, colour)
        );
        text += &format!("    {}\n", finding.right);
    }
    text + &format!(
        "{} in {}\n",
        count(linted.findings.len(), "finding", "findings"),
        count(linted.policies, "policy", "policies")
    )
}

#[cfg(test)]
mod tests {
    use ::policy::lint::Finding;

    use super::*;

    #[test]
    fn a_finding_begins_with_its_place_and_says_what_would_be_right() {
        let finding = Finding {
            lint: "selects-nothing",
            object: "NetworkPolicy shop/web".into(),
            field: "spec.podSelector.matchLabels.app".into(),
            at: Some("web.yaml:8".into()),
            wrong: "no pod of namespace shop has app=wbe: the policy is for nobody".into(),
            right: "did you mean app=web?".into(),
        };
        let expected = "\
web.yaml:8: NetworkPolicy shop/web: spec.podSelector.matchLabels.app: no pod of namespace shop has app=wbe: the policy is \
for nobody [selects-nothing]
    did you mean app=web?
1 finding in 2 policies
";
        assert_eq!(text(&Linted { policies: 2, findings: vec![finding] }, false), expected);
    }
}
