//! What is said of machines of all sorts.

use super::machine::Device;
use super::*;

fn args() -> Args {
    Args {
        cni_conf_dir: "/etc/cni/net.d".into(),
        pod_cidrs: Vec::new(),
        socket: "/run/weir/agent.sock".into(),
    }
}

/// As one should be, before the installation.
fn good() -> Machine {
    let abilities = ABILITIES.iter().map(|(name, _)| format!("CONFIG_{name}=m\n"));
    Machine {
        release: "6.12.5-cloud-amd64".into(),
        has_btf: true,
        filesystems: "nodev\tbpf\nnodev\tcgroup2\n".into(),
        mounts: "bpf /sys/fs/bpf bpf rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n".into(),
        kernel_config: Some(abilities.collect()),
        underlays: vec![Device { name: "eth0".into(), mtu: 1500 }],
        addresses: vec![("eth0".into(), "192.0.2.10/24".parse().unwrap())],
        forwarding: vec![("net/ipv4/ip_forward".into(), "1".into())],
        ..Machine::default()
    }
}

fn away() -> Result<Status, String> {
    Err("no such file".into())
}

fn ready() -> Status {
    Status { node: "node-0".into(), version: "0.1.0".into(), ready: true, ..Status::default() }
}

/// The problems, as `subject: text`.
fn problems(machine: &Machine, args: &Args, agent: &Result<Status, String>) -> Vec<String> {
    let findings = judge(machine, args, agent).into_iter();
    let problems = findings.filter(|finding| finding.verdict == Verdict::Problem);
    problems.map(|finding| format!("{}: {}", finding.subject, finding.text)).collect()
}

#[track_caller]
fn one_problem(change: impl FnOnce(&mut Machine), parts: &[&str]) {
    let mut machine = good();
    change(&mut machine);
    let found = problems(&machine, &args(), &away());
    assert!(found.len() == 1 && parts.iter().all(|part| found[0].contains(part)), "{found:?}");
}

#[test]
fn a_good_machine_has_no_problem_before_and_after_the_installation() {
    assert_eq!(problems(&good(), &args(), &away()), [""; 0]);
    let installed = Machine { conf_files: vec![OURS.into()], ..good() };
    assert_eq!(problems(&installed, &args(), &Ok(ready())), [""; 0]);
}

#[test]
fn each_thing_that_is_missing_is_one_problem_that_says_what_to_do() {
    one_problem(
        |machine| machine.release = "5.10.0-8-amd64".into(),
        &["kernel: 5.10.0-8-amd64: boot 5.15 or later"],
    );
    one_problem(|machine| machine.has_btf = false, &["BTF: missing: boot a kernel", "CONFIG_DEBUG_INFO_BTF"]);
    one_problem(
        |machine| {
            (machine.mounts, machine.filesystems) = (machine.mounts.replace("bpf rw", "x rw"), String::new())
        },
        &["bpffs: unknown to this kernel"],
    );
    one_problem(
        |machine| machine.mounts = machine.mounts.replace("cgroup2 rw", "x rw"),
        &["cgroup2: not mounted", "mount -t cgroup2"],
    );
    one_problem(
        |machine| {
            machine.kernel_config =
                machine.kernel_config.take().map(|text| text.replace("NFT_MASQ=m", "NFT_MASQ=n"))
        },
        &["CONFIG_NFT_MASQ is not in this kernel", "not masqueraded"],
    );
    one_problem(|machine| machine.underlays.clear(), &["underlay: no default route", "--underlay"]);
    one_problem(|machine| machine.underlays[0].mtu = 1000, &["eth0 has MTU 1000", "ip link set eth0 mtu"]);
}

#[test]
fn another_plugins_configuration_is_a_problem_where_it_comes_first() {
    one_problem(
        |machine| machine.conf_files = vec!["05-cilium.conflist".into(), "99-loopback.conf".into()],
        &["/etc/cni/net.d/05-cilium.conflist comes before 10-weir.conflist", "remove the file"],
    );
}

#[test]
fn a_pod_cidr_that_overlaps_a_network_of_the_node_is_a_problem() {
    let args = Args { pod_cidrs: vec!["192.0.0.0/16".parse().unwrap()], ..args() };
    let found = problems(&good(), &args, &away());
    assert_eq!(
        found,
        [
            "addresses: pod CIDR 192.0.0.0/16 overlaps 192.0.2.10/24 of eth0: give the cluster another pod CIDR"
        ]
    );
}

#[test]
fn what_the_agent_complains_of_is_a_problem_each() {
    let installed = Machine { conf_files: vec![OURS.into()], ..good() };
    let found = problems(&installed, &args(), &away());
    assert!(
        found.len() == 1 && found[0].starts_with("agent: no answer at /run/weir/agent.sock: no such file"),
        "{found:?}"
    );

    let status = Status {
        ready: false,
        not_ready: Some("the first complete list of every kind has not arrived".into()),
        last_error: Some("map `RULES` is too small".into()),
        problems: vec!["Node node-0: spec.podCIDRs: empty".into()],
        unmanaged: vec!["shop/old (10.1.0.7)".into()],
        ..ready()
    };
    let found = problems(&installed, &args(), &Ok(status));
    let expected = [
        "agent: not ready: the first complete list of every kind has not arrived",
        "agent: last plan: map `RULES` is too small",
        "agent: Node node-0: spec.podCIDRs: empty",
        "pods: not managed: shop/old (10.1.0.7): delete these pods, and they come back managed",
    ];
    assert_eq!(found, expected);

    let still = Machine { forwarding: vec![("net/ipv4/ip_forward".into(), "0".into())], ..installed };
    let found = problems(&still, &args(), &Ok(ready()));
    assert!(found.len() == 1 && found[0].contains("something sets it back"), "{found:?}");
}
