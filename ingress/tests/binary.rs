//! `weir-ingress` as people run it: files in, signals, and what it says.

mod edge;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use edge::running::{Running, command, folder};
use edge::{Client, Upstream, eventually, everything};
use nix::sys::signal::Signal;

#[test]
fn what_is_saved_is_served_and_a_slip_costs_nothing() {
    let (one, other) = (Upstream::named("one"), Upstream::named("other"));
    let running = Running::new("saved", &[("a.yaml", &everything(&[], &[one.address]))]);
    let mut client = running.client();
    assert_eq!(client.get("a.b", "/", "").body, "one: GET / HTTP/1.1 +0\n");

    running.write("a.yaml", "kind: [unfinished");
    running.says("a.yaml:1: not valid YAML");
    assert_eq!(client.get("a.b", "/", "").body, "one: GET / HTTP/1.1 +0\n");

    running.write("a.yaml", &everything(&[("geoip", "5")], &[other.address]));
    eventually(|| (client.get("a.b", "/", "").body == "other: GET / HTTP/1.1 +0\n").then_some(()));
    running.says("Ingress default/all: nginx.ingress.kubernetes.io/geoip: not honoured");

    fs::remove_file(running.folder.join("a.yaml")).unwrap();
    eventually(|| (client.get("a.b", "/", "").status == 404).then_some(()));
}

#[test]
fn a_signal_to_end_lets_the_request_in_flight_finish_and_the_log_has_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let objects = everything(&[], &[listener.local_addr().unwrap()]);
    let mut running = Running::new("drain", &[("a.yaml", &objects)]);
    let mut client = running.client();
    client.send("GET /last HTTP/1.1\r\nHost: a.b\r\n\r\n");
    let (mut upstream, _) = listener.accept().unwrap();
    running.signal(Signal::SIGTERM);
    running.says("draining");
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
    assert_eq!(client.answer().unwrap().body, "ok");
    assert!(running.child.wait().unwrap().success());
    let mut log = String::new();
    running.child.stdout.take().unwrap().read_to_string(&mut log).unwrap();
    let line: serde_json::Value = serde_json::from_str(log.trim()).unwrap();
    assert_eq!((line["path"].as_str(), line["status"].as_u64()), (Some("/last"), Some(200)));
}

#[test]
fn health_and_metrics_are_answered_beside_the_traffic() {
    let running = Running::new("admin", &[]);
    let get = |path: &str| Client::connect(running.address("admin")).get("x", path, "");
    assert_eq!(get("/healthz").body, "ok\n");
    // Once all files have been read.
    eventually(|| (get("/readyz").status == 200).then_some(()));
    assert_eq!(running.client().get("a.b", "/", "").status, 404);
    eventually(|| {
        get("/metrics")
            .body
            .contains("weir_ingress_requests_total{object=\"\",status=\"404\"} 1\n")
            .then_some(())
    });
    assert_eq!(get("/other").status, 404);
}

/// What a call says that cannot begin.
fn fails(arguments: &[&str]) -> String {
    let output = command().args(arguments).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn what_cannot_begin_says_why_and_what_would_be_right() {
    let said = fails(&["-f", "/nowhere/at/all"]);
    assert!(said.contains("read /nowhere/at/all: it must be a file or a folder that may be read"), "{said}");
    let said = fails(&["-f", ".", "--http", "8080"]);
    assert!(said.contains("expected for example 127.0.0.1:8080, [::]:8080 or off"), "{said}");
    let said = fails(&["-f", ".", "--default-backend", "web:80"]);
    assert!(said.contains("expected NAMESPACE/NAME"), "{said}");
    let folder = folder("taken");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = fails(&["-f", folder.to_str().unwrap(), "--http", &address]);
    fs::remove_dir_all(&folder).unwrap();
    assert!(said.contains(&format!("listen on {address}: Address already in use")), "{said}");
    // The listener is still the one that has it.
    TcpStream::connect(taken.local_addr().unwrap()).unwrap();
}
