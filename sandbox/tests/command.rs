//! `weir sandbox` as people run it: signals, two side by side, `--keep`. Needs root and the binaries beside this one
//! (`cargo xtask test netns` builds them).

mod support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandbox::{Binaries, running};
use serde_json::Value;
use support::{Manifests, NAMESPACE, only_from, pod, require_root};

fn weir() -> Command {
    let path = Binaries::beside_us().unwrap().cni_path.join("weir");
    assert!(path.is_file(), "{} is missing: build it with `cargo build -p cli`", path.display());
    let mut command = Command::new(path);
    command.arg("sandbox").stdin(Stdio::null());
    command
}

fn shop() -> Manifests {
    require_root();
    let pods =
        [NAMESPACE, &pod("web", "{containerPort: 80}"), &pod("friend", "{containerPort: 81}")].concat();
    Manifests::new(&(pods + &only_from("web", "friend")))
}

fn up(manifests: &Manifests, arguments: &[&str]) -> Child {
    let mut command = weir();
    command.arg("-f").arg(manifests.path()).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

/// The sandbox whose supervisor is `pid`, as soon as it is there.
fn id_of(pid: i32) -> String {
    wait_for("the sandbox's folder", || {
        let folders = fs::read_dir("/run/weir/sandbox").ok()?;
        folders.flatten().find_map(|folder| {
            let state: Value =
                serde_json::from_slice(&fs::read(folder.path().join("state.json")).ok()?).ok()?;
            (state["supervisor"]["pid"] == pid).then(|| state["id"].as_str().unwrap().to_owned())
        })
    })
}

#[track_caller]
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whatever of a sandbox can be seen from the host.
fn traces(id: &str) -> Vec<PathBuf> {
    let mut traces = vec![Path::new("/run/weir/sandbox").join(id)];
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    for root in
        mounts.lines().filter(|line| line.contains(" cgroup2 ")).map(|line| line.split(' ').nth(1).unwrap())
    {
        let entries = fs::read_dir(root).unwrap().flatten().map(|entry| entry.path());
        traces.extend(entries.filter(|path| path.to_string_lossy().contains(&format!("weir-{id}-"))));
    }
    traces.retain(|path| path.exists());
    traces.extend(mounts.lines().filter(|line| line.contains(id)).map(PathBuf::from));
    traces
}

/// Processes with the sandbox's folder or cgroup on their command line.
fn processes(id: &str) -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let commands = all.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
    commands.filter(|command| command.contains(id) && command.contains("weir-")).collect()
}

#[test]
fn ctrl_c_at_any_moment_leaves_nothing() {
    let manifests = shop();
    for moment_ms in [0, 40, 150, 400, 700, 1100] {
        let mut child = up(&manifests, &["--watch"]);
        let id = id_of(pid(&child));
        std::thread::sleep(Duration::from_millis(moment_ms));
        kill(Pid::from_raw(pid(&child)), Signal::SIGINT).unwrap();
        child.wait().unwrap();
        assert_eq!(traces(&id), Vec::<PathBuf>::new(), "after {moment_ms} ms");
        assert_eq!(processes(&id), Vec::<String>::new(), "after {moment_ms} ms");
    }
}

#[test]
fn what_a_killed_supervisor_leaves_is_swept_by_the_next() {
    let manifests = shop();
    let mut child = up(&manifests, &["--watch"]);
    let pid = pid(&child);
    let id = id_of(pid);
    wait_for("pods", || running().unwrap().iter().any(|running| running.id == id).then_some(()));
    std::thread::sleep(Duration::from_millis(300));
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    // Everything that lives dies with it by itself.
    wait_for("the children to end", || processes(&id).is_empty().then_some(()));
    let output = up(&manifests, &["-o", "json"]).wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(traces(&id), Vec::<PathBuf>::new());
}

#[test]
fn two_sandboxes_run_side_by_side() {
    let manifests = shop();
    let (one, other) = (up(&manifests, &["-o", "json"]), up(&manifests, &["-o", "json"]));
    let verdicts = |child: Child| -> Vec<(Value, Value, Value)> {
        let report = json(&child.wait_with_output().unwrap());
        let probes = report["probes"].as_array().unwrap().iter();
        probes.map(|probe| (probe["from"].clone(), probe["to"].clone(), probe["verdict"].clone())).collect()
    };
    let (one, other) = (verdicts(one), verdicts(other));
    assert!(!one.is_empty());
    assert_eq!(one, other);
}

#[test]
fn a_kept_sandbox_stays_until_it_is_taken_down() {
    let manifests = shop();
    let page = manifests.path().with_extension("html");
    let report = page.to_str().unwrap();
    let output = up(&manifests, &["--keep", "-o", "json", "--report", report]).wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    json(&output);
    let text = fs::read_to_string(&page).unwrap();
    fs::remove_file(&page).unwrap();
    // It knows where policies are written, though another process has read them.
    assert!(text.contains(&format!("\"at\":\"{}:", manifests.path().display())), "{text}");
    let said = String::from_utf8(output.stderr).unwrap();
    let (_, rest) = said.split_once("sandbox ").unwrap();
    let id = rest.split(' ').next().unwrap();
    assert!(running().unwrap().iter().any(|running| running.id == id && running.agents.len() == 2));

    let exec = |command: &str| {
        weir().args(["exec", "--id", id, "friend", "--", "sh", "-c", command]).output().unwrap()
    };
    assert_eq!(exec("exit 7").status.code(), Some(7));
    let found =
        exec("cat /proc/self/cgroup /etc/resolv.conf; ls /sys/class/net >&2; ip -4 -br addr show eth0");
    let text = String::from_utf8(found.stdout).unwrap();
    assert!(text.contains(&format!("/weir-{id}-node-")) || !text.contains("0::"), "{text}");
    assert!(text.contains("search shop.svc.cluster.local"), "{text}");
    assert!(text.contains("10.244."), "{text}");

    let down = weir().args(["down", id]).output().unwrap();
    assert!(down.status.success(), "{down:?}");
    assert_eq!(traces(id), Vec::<PathBuf>::new());
    assert_eq!(processes(id), Vec::<String>::new());
}

#[test]
fn who_stops_reading_gets_the_page_all_the_same() {
    let manifests = shop();
    let page = manifests.path().with_extension("html");
    let mut child = up(&manifests, &["--report", page.to_str().unwrap()]);
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let text = fs::read_to_string(&page).unwrap();
    fs::remove_file(&page).unwrap();
    assert!(text.contains("shop/friend"), "{text}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("standard output"), "{said}");
}

#[test]
fn a_saved_manifest_is_applied_and_only_the_change_is_shown() {
    let manifests = shop();
    let mut child = up(&manifests, &["--watch"]);
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut read_until = |mark: &str| {
        let mut text = String::new();
        while !text.contains(mark) {
            let read = std::io::BufRead::read_line(&mut output, &mut text).unwrap();
            assert!(read > 0, "{text}");
        }
        text
    };
    read_until("Denied");
    let before = fs::read_to_string(manifests.path()).unwrap();
    manifests.write(
        &before.replace("ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]", "ingress: []"),
    );
    let text = read_until("applied and measured");
    assert!(text.contains("✓ → ✗  shop/friend → shop/web:80"), "{text}");
    assert!(!text.contains("shop/friend:81"), "{text}");
    kill(Pid::from_raw(pid(&child)), Signal::SIGINT).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn without_root_one_sentence_says_what_is_needed() {
    let manifests = shop();
    let mut command = weir();
    command.arg("-f").arg(manifests.path()).uid(65_534).gid(65_534);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("weir: weir sandbox needs root") && said.lines().count() == 1, "{said}");
}
