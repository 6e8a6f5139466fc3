//! `weir doctor`: whether this machine can run Weir, and whether it does: before and after the installation.
//!
//! What is looked at is gathered first ([`Machine`]) and judged then, by functions that touch nothing. Nothing is changed.

mod machine;

use std::io::{IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use ::sandbox::client;
use anyhow::Result;
use api::Status;
use common::release::{KERNEL_FLOOR, release_numbers};
use ipnet::IpNet;

use crate::agents::{block_on, unless_closed};
use crate::columns::{Cell, Tone, aligned};
use machine::Machine;

#[derive(clap::Args)]
#[command(after_help = "Exit status: 1 if there is a problem, else 0.")]
pub(crate) struct Args {
    /// Where the runtime looks for network configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// What pods get addresses of; may be repeated [default: what our network configuration says, once it is there]
    #[arg(long = "pod-cidr", value_name = "CIDR")]
    pod_cidrs: Vec<IpNet>,
    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value = api::DEFAULT_SOCKET)]
    socket: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Well,
    /// Worth knowing, and no problem.
    Note,
    Problem,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    verdict: Verdict,
    subject: &'static str,
    /// What is there, and of a problem what to do.
    text: String,
}

const OURS: &str = "10-weir.conflist";
/// What IPv6 asks of every link.
const SMALLEST_MTU: u32 = 1280;
/// Of the kernel's configuration, and what is lost without it.
const ABILITIES: [(&str, &str); 7] = [
    ("BPF_SYSCALL", "nothing works"),
    ("CGROUP_BPF", "Services are not translated"),
    ("NET_CLS_ACT", "no program can be attached"),
    ("VETH", "pods get no network"),
    ("NF_TABLES", "neither masquerade nor hostPort works"),
    ("NFT_MASQ", "pods' traffic to outside of the cluster is not masqueraded"),
    ("VXLAN", "nodes that do not see each other's pods directly cannot be bridged by the overlay"),
];

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let (machine, agent) = block_on(async {
        let machine = Machine::look(&args.cni_conf_dir).await?;
        let agent =
            client::get::<Status>(&args.socket, "/v1/status").await.map_err(|error| format!("{error:#}"));
        Ok((machine, agent))
    })?;
    let findings = judge(&machine, &args, &agent);
    let rows: Vec<Vec<Cell>> = findings
        .iter()
        .map(|finding| {
            let verdict = match finding.verdict {
                Verdict::Well => Cell::toned("ok", Tone::Good),
                Verdict::Note => Cell::toned("note", Tone::Quiet),
                Verdict::Problem => Cell::toned("problem", Tone::Bad),
            };
            vec![verdict, Cell::new(finding.subject), Cell::new(&finding.text)]
        })
        .collect();
    let mut out = std::io::stdout().lock();
    let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    unless_closed(out.write_all(aligned(&rows, "", colour).as_bytes()).map_err(Into::into))?;
    let well = findings.iter().all(|finding| finding.verdict != Verdict::Problem);
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn judge(machine: &Machine, args: &Args, agent: &Result<Status, String>) -> Vec<Finding> {
    let is_installed = machine.conf_files.iter().any(|file| file == OURS);
    let mut findings = vec![kernel(machine), btf(machine), bpffs(machine), cgroup2(machine)];
    findings.extend(abilities(machine));
    findings.extend(underlay(machine));
    findings.extend(conf_files(machine, args));
    findings.extend(addresses(machine, args));
    findings.extend(forwarding(machine, is_installed && agent.is_ok()));
    findings.extend(answers(agent, is_installed, args));
    findings
}

fn well(subject: &'static str, text: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Well, subject, text: text.into() }
}

fn note(subject: &'static str, text: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Note, subject, text: text.into() }
}

fn problem(subject: &'static str, text: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Problem, subject, text: text.into() }
}

fn kernel(machine: &Machine) -> Finding {
    let (major, minor) = KERNEL_FLOOR;
    if release_numbers(&machine.release) < KERNEL_FLOOR {
        return problem("kernel", format!("{}: boot {major}.{minor} or later", machine.release));
    }
    well("kernel", &machine.release)
}

fn btf(machine: &Machine) -> Finding {
    match machine.has_btf {
        true => well("BTF", "/sys/kernel/btf/vmlinux"),
        false => problem("BTF", "missing: boot a kernel that was built with CONFIG_DEBUG_INFO_BTF"),
    }
}

fn bpffs(machine: &Machine) -> Finding {
    match (machine.mount_of("bpf"), machine.filesystems.lines().any(|line| line.ends_with("\tbpf"))) {
        (Some(path), _) => well("bpffs", path),
        (None, true) => note("bpffs", "not mounted; the installation mounts it at /sys/fs/bpf"),
        (None, false) => {
            problem("bpffs", "unknown to this kernel: boot one that was built with CONFIG_BPF_SYSCALL")
        }
    }
}

fn cgroup2(machine: &Machine) -> Finding {
    match machine.mount_of("cgroup2") {
        Some(path) => well("cgroup2", path),
        None => problem(
            "cgroup2",
            "not mounted, so Services cannot be translated: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
        ),
    }
}

fn abilities(machine: &Machine) -> Vec<Finding> {
    let Some(config) = &machine.kernel_config else {
        return vec![note(
            "abilities",
            "the kernel does not say how it was built; the agent says what it lacks",
        )];
    };
    let has = |name: &str| {
        config.lines().any(|line| line == format!("CONFIG_{name}=y") || line == format!("CONFIG_{name}=m"))
    };
    let missing: Vec<Finding> = ABILITIES
        .iter()
        .filter(|(name, _)| !has(name))
        .map(|(name, lost)| problem("abilities", format!("CONFIG_{name} is not in this kernel: {lost}")))
        .collect();
    if missing.is_empty() {
        vec![well("abilities", "all that is needed is built in or a module")]
    } else {
        missing
    }
}

fn underlay(machine: &Machine) -> Vec<Finding> {
    if machine.underlays.is_empty() {
        return vec![problem(
            "underlay",
            "no default route tells which device leads to the other nodes: name it with the agent's --underlay",
        )];
    }
    let each = machine.underlays.iter().map(|device| match device.mtu {
        mtu if mtu < SMALLEST_MTU => problem(
            "underlay",
            format!(
                "{} has MTU {mtu}: raise it to {SMALLEST_MTU} or more (ip link set {} mtu …)",
                device.name, device.name
            ),
        ),
        mtu => well("underlay", format!("{}, MTU {mtu}", device.name)),
    });
    each.collect()
}

/// A runtime takes the first file in the order of names.
fn conf_files(machine: &Machine, args: &Args) -> Vec<Finding> {
    let folder = args.cni_conf_dir.display();
    let others: Vec<&String> = machine.conf_files.iter().filter(|file| *file != OURS).collect();
    let mut findings: Vec<Finding> = others
        .iter()
        .map(|file| {
            if file.as_str() < OURS {
                problem(
                    "other CNIs",
                    format!(
                        "{folder}/{file} comes before {OURS}, so the runtime would use it: uninstall that plugin and remove \
                         the file"
                    ),
                )
            } else {
                note("other CNIs", format!("{folder}/{file} comes after {OURS} and is not used"))
            }
        })
        .collect();
    if findings.is_empty() {
        findings.push(well("other CNIs", format!("none in {folder}")));
    }
    findings
}

fn addresses(machine: &Machine, args: &Args) -> Vec<Finding> {
    let cidrs = if args.pod_cidrs.is_empty() { &machine.pod_cidrs } else { &args.pod_cidrs };
    if cidrs.is_empty() {
        return vec![note("addresses", "pod CIDR not known yet; --pod-cidr says which is planned")];
    }
    let mut findings = Vec::new();
    for cidr in cidrs {
        let overlap = machine.addresses.iter().find(|(_, address)| {
            !is_link_local(address.addr())
                && (cidr.contains(&address.network()) || address.trunc().contains(&cidr.network()))
        });
        findings.push(match overlap {
            Some((device, address)) => problem(
                "addresses",
                format!("pod CIDR {cidr} overlaps {address} of {device}: give the cluster another pod CIDR"),
            ),
            None => well("addresses", format!("pod CIDR {cidr} overlaps no network of this node")),
        });
    }
    findings
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn forwarding(machine: &Machine, agent_runs: bool) -> Vec<Finding> {
    let each = machine.forwarding.iter().map(|(setting, value)| match (value.as_str(), agent_runs) {
        ("1", _) => well("forwarding", format!("{setting} = 1")),
        (value, false) => note("forwarding", format!("{setting} = {value}; the agent sets it to 1")),
        (value, true) => problem(
            "forwarding",
            format!("{setting} = {value} although the agent runs: something sets it back, find it (sysctl.d, a firewall)"),
        ),
    });
    each.collect()
}

fn answers(agent: &Result<Status, String>, is_installed: bool, args: &Args) -> Vec<Finding> {
    let socket = args.socket.display();
    let status = match agent {
        Ok(status) => status,
        Err(_) if !is_installed => {
            return vec![note(
                "agent",
                format!("not installed: {OURS} is not in {}", args.cni_conf_dir.display()),
            )];
        }
        Err(why) => {
            return vec![problem(
                "agent",
                format!(
                    "no answer at {socket}: {why}; see the log of pod weir-agent of this node (or is this not root?)"
                ),
            )];
        }
    };
    let mut findings = vec![match &status.not_ready {
        None => well("agent", format!("{} of {}, ready", status.version, status.node)),
        Some(missing) => problem("agent", format!("not ready: {missing}")),
    }];
    findings.extend(status.last_error.iter().map(|error| problem("agent", format!("last plan: {error}"))));
    findings.extend(status.problems.iter().map(|text| problem("agent", text)));
    if !status.unmanaged.is_empty() {
        let text = format!(
            "not managed: {}: delete these pods, and they come back managed",
            status.unmanaged.join(", ")
        );
        findings.push(problem("pods", text));
    }
    findings
}

#[cfg(test)]
mod tests;
