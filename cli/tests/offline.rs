//! `weir explain -f` and `weir policy lint` as people run them: no root, no agent.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder of manifests that goes away with its owner.
struct Manifests(PathBuf);

impl Manifests {
    fn new(files: &[(&str, &str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("weir-offline-{}-{count}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
        Self(folder)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

/// Runs in the folder, so that files are named as they are here.
fn weir(manifests: &Manifests, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.current_dir(manifests.path()).args(arguments).output().unwrap()
}

#[track_caller]
fn check(output: &Output, status: i32, stdout: &str) {
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        stdout,
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(status), "{output:?}");
}

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {containers: [{name: c, image: x}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: x, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: front}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
";

const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from:
    - podSelector: {matchLabels: {app: client}}
    ports:
    - port: http
";

fn shop() -> Manifests {
    Manifests::new(&[("pods.yaml", PODS), ("web.yaml", POLICY)])
}

#[test]
fn an_allowed_connection_is_0_and_names_file_and_line_of_the_rule() {
    let manifests = shop();
    let asked = ["explain", "-f", ".", "--from", "default/client", "--to", "default/web", "--port", "http"];
    check(
        &weir(&manifests, &asked),
        0,
        "\
default/client (10.244.0.2) → default/web-0 (10.244.1.2)  TCP/8080  allowed
  egress of default/client: allowed
    no policy isolates the pod in this direction
  ingress of default/web-0: allowed
    spec.ingress[0] of policy default/web (./web.yaml:7) allows it
",
    );
}

#[test]
fn a_denied_connection_is_1_and_shows_the_nearest_miss() {
    let manifests = shop();
    let asked = ["explain", "-f", ".", "--from", "pod/default/client", "--to", "sts/web", "--port", "80/tcp"];
    check(
        &weir(&manifests, &asked),
        1,
        "\
default/client (10.244.0.2) → default/web-0 (10.244.1.2)  TCP/80  denied
  egress of default/client: allowed
    no policy isolates the pod in this direction
  ingress of default/web-0: denied
    default/web (./web.yaml:1) isolates the pod, and no rule of it allows this
    nearest: policy default/web allows port http; http is 8080 on default/web-0, you asked 80
      spec.ingress[0] of default/web, ./web.yaml:7
  note: default/web-0 declares no port 80/TCP: perhaps nobody listens; it declares 8080/TCP
",
    );
}

#[test]
fn a_service_is_asked_about_by_its_own_port() {
    let manifests = shop();
    let asked =
        ["explain", "-f", ".", "--from", "client", "--to", "default/front", "--port", "80", "-o", "json"];
    let output = weir(&manifests, &asked);
    let answers: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answers.as_array().unwrap().len(), 1);
    assert_eq!(answers[0]["port"], 8080);
    assert_eq!(answers[0]["to"]["name"], "default/web-0");
    assert_eq!(answers[0]["verdict"], "allowed");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn what_cannot_be_answered_is_2_with_one_sentence() {
    let manifests = shop();
    for (from, to, port, says) in [
        (
            "default/cleint",
            "default/web",
            "80",
            "--from default/cleint: no pod, workload or Service is called this; did you mean default/client?",
        ),
        ("default/client", "10.0.0.300", "80", "--to 10.0.0.300: no pod, workload or Service is called this"),
        (
            "elsewhere/client",
            "default/web",
            "80",
            "--from elsewhere/client: there is no pod in namespace elsewhere",
        ),
        ("default/client", "node/node-7", "80", "--to node/node-7: no such node: there are node-0, node-1"),
        ("default/client", "default/web", "0", "--port 0: no port number 0: expected 1 to 65535"),
        (
            "default/client",
            "default/web",
            "80/quic",
            "--port 80/quic: unknown protocol \"quic\": expected tcp, udp or sctp, as in 53/udp",
        ),
        (
            "default/client",
            "default/web",
            "grpc",
            "--port grpc: default/web-0 has no port of this name: it names http (8080/TCP)",
        ),
        ("default/client", "default/front", "81", "--port 81: the Service has no such port: it has 80/TCP"),
        (
            "default/client",
            "a/b/c/d",
            "80",
            "--to a/b/c/d: expected an address, node/NAME, outside, or [KIND/]NAMESPACE/NAME",
        ),
    ] {
        let output = weir(&manifests, &["explain", "-f", ".", "--from", from, "--to", to, "--port", port]);
        assert_eq!(String::from_utf8_lossy(&output.stderr), format!("weir: {says}\n"));
        check(&output, 2, "");
    }
    let asked = ["explain", "-f", "gone.yaml", "--from", "client", "--to", "default/web", "--port", "80"];
    assert_eq!(weir(&manifests, &asked).status.code(), Some(2));
}

#[test]
fn policies_without_mistakes_are_0() {
    let manifests = shop();
    check(&weir(&manifests, &["policy", "lint", "-f", "."]), 0, "0 findings in 1 policy\n");
    check(&weir(&manifests, &["policy", "lint", "-f", ".", "-o", "json"]), 0, "[]\n");
}

#[test]
fn mistakes_are_1_each_with_its_place_and_what_would_be_right() {
    let policy = POLICY.replace("app: client", "app: cleint").replace("port: http", "port: 80");
    let old = "apiVersion: extensions/v1beta1\nkind: NetworkPolicy\nmetadata: {name: old}\nspec: {podSelector: {}}\n";
    let manifests = Manifests::new(&[("pods.yaml", PODS), ("web.yaml", &policy), ("old.yaml", old)]);
    check(
        &weir(&manifests, &["policy", "lint", "-f", "."]),
        1,
        "\
./old.yaml:1: NetworkPolicy old: apiVersion: extensions/v1beta1: nothing of it is in force [api-version]
    expected networking.k8s.io/v1
./web.yaml:8: NetworkPolicy default/web: spec.ingress[0].from[0].podSelector.matchLabels.app: no pod of namespace default \
has app=cleint [peer-matches-nothing]
    did you mean app=client?
./web.yaml:10: NetworkPolicy default/web: spec.ingress[0].ports[0].port: nobody serves 80/TCP: the pods meant are \
default/web-0 [port-unserved]
    80 is the port of Service default/front: policies see the pod's own port, 8080
3 findings in 1 policy
",
    );
    let output = weir(&manifests, &["policy", "lint", "-f", ".", "-o", "json"]);
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(findings[1]["lint"], "peer-matches-nothing");
    assert_eq!(findings[1]["at"], "./web.yaml:8");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn an_empty_peer_list_as_it_is_written_is_found() {
    let policy =
        POLICY.replace("  - from:\n    - podSelector: {matchLabels: {app: client}}\n", "  - from:\n");
    let manifests = Manifests::new(&[("pods.yaml", PODS), ("web.yaml", &policy)]);
    check(
        &weir(&manifests, &["policy", "lint", "-f", "."]),
        1,
        "\
./web.yaml:7: NetworkPolicy default/web: spec.ingress[0].from: an empty list means everyone [empty-means-all]
    where everyone is meant, leave from out; to allow nothing, leave the rule out
1 finding in 1 policy
",
    );
}

#[test]
fn manifests_that_cannot_be_read_are_2() {
    let manifests = Manifests::new(&[("web.yaml", "apiVersion: v1\nkind: [\n")]);
    let output = weir(&manifests, &["policy", "lint", "-f", "web.yaml"]);
    check(&output, 2, "");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.starts_with("weir: web.yaml:") && said.contains("not valid YAML"), "{said}");
}
