//! Bad input and bad ground: one clear line that names object and field; the rest works and nothing stays behind. Needs
//! root and the binaries beside this one (`cargo xtask test netns` builds them).

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::personality::{self, Persona};
use serde_json::Value;
use tests::command::{Run, binary, links, sandbox, traces, wait_for};
use tests::stage::{Manifests, require_root};

const GOOD: &str = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n\
    ---\napiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop, labels: {app: web}}\n\
    spec: {containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}\n\
    ---\napiVersion: v1\nkind: Pod\nmetadata: {name: friend, namespace: shop, labels: {app: friend}}\n\
    spec: {containers: [{name: c, image: x, ports: [{containerPort: 81}]}]}\n";

/// Runs it to its end; whatever came of it, nothing is left.
#[track_caller]
fn run(command: &mut Command) -> Output {
    require_root();
    let before = links();
    let (output, id) = Run::start(command).watch();
    assert_eq!(id.map(|id| traces(&id)).unwrap_or_default(), Vec::<String>::new());
    assert_eq!(links(), before);
    output
}

#[track_caller]
fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Refused by one line with all of `parts`, before anything was brought up.
#[track_caller]
fn refused(output: &Output, parts: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = said(output);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("weir: ") && parts.iter().all(|part| said.contains(part)), "{said}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

#[test]
fn what_is_no_yaml_is_refused_with_its_file_and_line() {
    let (good, bad) =
        (Manifests::new(GOOD), Manifests::new("apiVersion: v1\nkind: Pod\n  metadata: [oops\n"));
    let place = format!("{}:3: ", bad.0.display());
    refused(&run(&mut sandbox(&[&good.0, &bad.0], &[])), &[&place, "not valid YAML"]);
}

#[test]
fn two_pods_with_one_name_are_refused_with_both_places() {
    let (one, other) = (Manifests::new(GOOD), Manifests::new(GOOD));
    let places = [&one, &other].map(|manifests| format!("{}:6", manifests.0.display()));
    refused(&run(&mut sandbox(&[&one.0, &other.0], &[])), &["Pod shop/web", &places[0], &places[1]]);
}

#[test]
fn who_is_not_root_is_told_so() {
    let good = Manifests::new(GOOD);
    let mut command = sandbox(&[&good.0], &[]);
    refused(&run(command.uid(65_534).gid(65_534)), &["weir sandbox needs root"]);
}

#[test]
fn who_is_root_in_a_user_namespace_only_is_told_so() {
    let good = Manifests::new(GOOD);
    let sandbox = sandbox(&[&good.0], &[]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user"]).arg(sandbox.get_program()).args(sandbox.get_args());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    refused(&run(&mut command), &["weir sandbox needs the machine's own root", "user namespace"]);
}

#[test]
fn without_cgroup2_it_is_said_that_services_are_not_translated() {
    let good = Manifests::new(GOOD);
    let hide = || umount2("/sys/fs/cgroup/unified", MntFlags::MNT_DETACH).unwrap();
    let output = apart(&mut sandbox(&[&good.0], &["-o", "json"]), hide);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let warnings = report["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|warning| warning.as_str().unwrap().contains("cgroup2")), "{warnings:?}");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

fn policy(name: &str, ingress: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{ingress}]}}\n"
    )
}

#[test]
fn what_is_merely_wrong_costs_one_warning_each_and_the_rest_works() {
    let lost = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: lost, namespace: nowhere}\n\
        spec: {containers: [{name: c, image: x, ports: [{containerPort: 82}]}]}\n";
    // The node itself listens on the kubelet's port.
    let host = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: host, namespace: shop}\n\
        spec: {hostNetwork: true, containers: [{name: c, image: x, ports: [{containerPort: 10250}]}]}\n";
    let bad = [
        "apiVersion: example.org/v1\nkind: Gadget\nmetadata: {name: g, namespace: shop}\n",
        &policy("cidr", "{from: [{ipBlock: {cidr: 10.0.0.0/99}}]}"),
        &policy("port", "{ports: [{port: 90000}]}"),
        &policy("friend", "{from: [{podSelector: {matchLabels: {app: friend}}}]}"),
        lost,
        host,
    ];
    let (good, bad) = (Manifests::new(GOOD), Manifests::new(&bad.concat()));
    let output = run(&mut sandbox(&[&good.0, &bad.0], &["-o", "json"]));
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut warnings: Vec<_> =
        report["warnings"].as_array().unwrap().iter().map(|warning| warning.as_str().unwrap()).collect();
    for parts in [
        ["skipped", "Gadget"],
        ["NetworkPolicy shop/cidr: spec.ingress[0].from[0].ipBlock.cidr: ", "10.0.0.0/99"],
        ["NetworkPolicy shop/port: spec.ingress[0].ports[0].port: ", "90000"],
        ["Namespace nowhere: ", "Pod nowhere/lost"],
        ["Pod shop/host: port 10250/TCP", "in use"],
    ] {
        let found = warnings.iter().position(|warning| parts.iter().all(|part| warning.contains(part)));
        warnings.remove(found.unwrap_or_else(|| panic!("no {parts:?} in {warnings:#?}")));
    }
    assert_eq!(warnings, Vec::<&str>::new(), "nothing is said twice");

    let verdict = |from: &str, to: &str, port: u16| -> Vec<&str> {
        let probes = report["probes"].as_array().unwrap().iter();
        probes
            .filter(|probe| probe["from"] == from && probe["to"] == to && probe["port"] == port)
            .map(|probe| probe["verdict"].as_str().unwrap())
            .collect()
    };
    // Bad rules allow nothing; good ones beside them do.
    assert_eq!(verdict("shop/friend", "shop/web", 80), ["allowed"; 2]);
    assert_eq!(verdict("nowhere/lost", "shop/web", 80), ["denied"; 2]);
    assert_eq!(verdict("shop/web", "nowhere/lost", 82), ["allowed"; 2]);
}

/// In namespaces of its own, after `prepare`.
fn apart(command: &mut Command, prepare: impl FnOnce() + Send) -> Output {
    require_root();
    std::thread::scope(|scope| {
        let work = || {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
            let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
            prepare();
            // A child has the namespaces of the thread that starts it.
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
        };
        scope.spawn(work).join().unwrap()
    })
}

fn hide_btf() {
    mount(Some("weir"), "/sys/kernel/btf", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

#[test]
fn a_kernel_without_btf_is_named_and_nothing_is_brought_up() {
    let good = Manifests::new(GOOD);
    refused(&apart(&mut sandbox(&[&good.0], &[]), hide_btf), &["no BTF", "CONFIG_DEBUG_INFO_BTF"]);
}

/// An agent alone, with its files in a folder of the test.
fn agent(folder: &Path) -> Command {
    fs::create_dir_all(folder.join("source")).unwrap();
    let mut command = Command::new(binary("weir-agent"));
    command.args(["--node", "node-0", "--underlay", "lo", "--source"]).arg(folder.join("source"));
    command.arg("--socket").arg(folder.join("agent.sock"));
    command
        .arg("--cni-state")
        .arg(folder.join("state"))
        .arg("--conflist")
        .arg(folder.join("10-weir.conflist"));
    command
}

/// Ends at once, with one line that has all of `parts`; no program, socket, conflist or setting is left.
#[track_caller]
fn agent_refused(name: &str, prepare: impl FnOnce() + Send, parts: &[&str]) {
    let folder = std::env::temp_dir().join(format!("weir-test-{}-{name}", std::process::id()));
    let output = apart(agent(&folder).arg("--pins").arg(folder.join("pins")), prepare);
    let left = ["pins/config", "agent.sock", "10-weir.conflist"]
        .map(|file| folder.join(file))
        .map(|path| path.exists());
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = said(&output);
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("weir-agent: ") && parts.iter().all(|part| last.contains(part)), "{said}");
    assert!(!said.contains("kernel setting changed"), "{said}");
    assert_eq!(left, [false; 3]);
}

#[test]
fn an_agent_refuses_pins_that_are_on_no_bpffs_and_a_kernel_without_btf() {
    agent_refused("pins", || (), &["/pins", "bpf", "mount -t bpf"]);
    agent_refused("btf", hide_btf, &["no BTF", "CONFIG_DEBUG_INFO_BTF"]);
}

#[test]
fn an_agent_refuses_a_kernel_that_is_too_old() {
    // Releases from 3.0 on are told as 2.6.40 and later.
    let pretend = || {
        personality::set(personality::get().unwrap() | Persona::UNAME26).unwrap();
    };
    agent_refused("kernel", pretend, &["the kernel is 2.6.", "needs 5.15 or later"]);
}

#[test]
fn a_second_agent_on_a_node_is_refused_at_the_socket_and_at_the_pins() {
    let folder = std::env::temp_dir().join(format!("weir-test-{}-second", std::process::id()));
    let bpffs = folder.join("bpf");
    fs::create_dir_all(&bpffs).unwrap();
    let [first, second] = [folder.join("first"), folder.join("second")];
    let with_pins = |folder: &Path| {
        let mut command = agent(folder);
        command.arg("--pins").arg(bpffs.join("weir"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let work = || {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("weir"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        let mut running = with_pins(&first).spawn().unwrap();
        let socket = first.join("agent.sock");
        wait_for("the first agent", || std::os::unix::net::UnixStream::connect(&socket).ok());
        let outputs = [&first, &second].map(|folder| with_pins(folder).output().unwrap());
        assert_eq!(running.try_wait().unwrap(), None, "the first goes on");
        running.kill().unwrap();
        running.wait().unwrap();
        outputs
    };
    let outputs = std::thread::scope(|scope| scope.spawn(work).join().unwrap());
    fs::remove_dir_all(&folder).unwrap();
    for (output, parts) in outputs.iter().zip([
        ["agent.sock: another agent answers there", "stop it"],
        ["/bpf/weir` are another agent's", "stop it first"],
    ]) {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = said(output);
        let last = said.lines().last().unwrap();
        assert!(last.starts_with("weir-agent: ") && parts.iter().all(|part| last.contains(part)), "{said}");
    }
}
