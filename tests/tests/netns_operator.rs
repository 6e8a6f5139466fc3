//! `weir capture` and `weir doctor`, as people run them. Needs root and the binaries beside this one (`cargo xtask test netns`
//! builds them).

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::packet::{Memory, PARSED, Packet, parse};
use tests::command::{Run, binary, wait_for};
use tests::node::{FAMILIES, Family};
use tests::stage::{Stage, block_on};
use tests::town::web_near_and_far;
use tests::traffic::{Echo, Outcome, PATIENCE, tcp};

const NODE: &str = "node-0";
const WEB: &str = "shop/web";
const ECHO: u16 = 7000;

fn socket(stage: &Stage) -> PathBuf {
    stage.sandbox.agents().into_iter().find(|(node, _)| node == NODE).unwrap().1
}

fn weir(stage: &Stage, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("weir"));
    command.args(arguments).arg("--socket").arg(socket(stage));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The frames of a pcap file.
fn frames(file: &[u8]) -> Vec<Vec<u8>> {
    assert_eq!(file[..4], [0xd4, 0xc3, 0xb2, 0xa1]);
    let mut rest = &file[24..];
    let mut frames = Vec::new();
    while rest.len() >= 16 {
        let length = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        frames.push(rest[16..16 + length].to_vec());
        rest = &rest[16 + length..];
    }
    assert!(rest.is_empty(), "the last packet is whole");
    frames
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

#[test]
fn a_capture_has_both_directions_of_what_is_redirected_from_pod_to_pod_and_ends_whole() {
    block_on(async {
        let stage = Stage::up(&web_near_and_far()).await;
        let _echo = Echo::start(&stage.netns(WEB), ECHO);
        let file = std::env::temp_dir().join(format!("weir-test-{}.pcap", std::process::id()));
        let file_name = file.display().to_string();
        let port = ECHO.to_string();
        let run = Run::start(&mut weir(&stage, &["capture", WEB, "-w", &file_name, "--port", &port]));
        // The file is made once the pod is listened to.
        wait_for("the capture's file", || fs::metadata(&file).ok().filter(|file| file.len() >= 24));
        let near = stage.netns("shop/near");
        for family in FAMILIES {
            assert_eq!(tcp(&near, stage.address(WEB, family, ECHO), PATIENCE), Outcome::Answered);
            // Of another port.
            tcp(&near, stage.address(WEB, family, 80), PATIENCE);
        }
        tokio::time::sleep(Duration::from_millis(600)).await;
        run.signal(nix::sys::signal::Signal::SIGINT);
        let output = run.wait();
        assert!(output.status.success(), "{output:?}");
        let frames = frames(&fs::read(&file).unwrap());
        fs::remove_file(&file).unwrap();
        for family in FAMILIES {
            let [client, server] = ["shop/near", WEB].map(|end| stage.ip(end, family));
            for (from, to, flags) in [(client, server, 0x02), (server, client, 0x12)] {
                let is_meant = |frame: &Vec<u8>| {
                    let mut packet = Packet::default();
                    parse(Memory::new(frame, 0), &mut packet) == PARSED
                        && (packet.source.to_ip(), packet.destination.to_ip()) == (from, to)
                        && packet.tcp_flags & 0x12 == flags
                };
                assert!(frames.iter().any(is_meant), "no packet from {from} to {to} with flags {flags:#x}");
            }
        }
        let is_echo = |frame: &Vec<u8>| {
            let mut packet = Packet::default();
            parse(Memory::new(frame, 0), &mut packet) == PARSED
                && [packet.source_port, packet.destination_port].iter().any(|port| port.to_host() == ECHO)
        };
        assert!(frames.iter().all(is_echo), "nothing of another port");

        let ip = stage.ip(WEB, Family::V4).to_string();
        let run = Run::start(&mut weir(&stage, &["capture", &ip, "--count", "2"]));
        let asked = (0..100).find(|_| {
            std::thread::sleep(Duration::from_millis(50));
            tcp(&near, stage.address(WEB, Family::V4, ECHO), PATIENCE) != Outcome::Answered
                || fs::read_to_string(format!("/proc/{}/stat", run.pid()))
                    .is_ok_and(|stat| stat.contains(") Z "))
        });
        assert!(asked.is_some(), "it ends by itself");
        let output = run.wait();
        let lines = String::from_utf8(output.stdout.clone()).unwrap();
        assert_eq!(lines.lines().count(), 2, "{}", text(&output));
        assert!(lines.contains(&format!("{ip}:")) && lines.contains(" TCP "), "{lines}");
        let nobody = weir(&stage, &["capture", "shop/nobody"]).output().unwrap();
        assert_eq!(nobody.status.code(), Some(1));
        assert!(text(&nobody).contains("no pod shop/nobody is managed by the agent of node-0"), "{nobody:?}");
        stage.down().await;
    });
}

#[test]
fn a_doctor_says_what_is_well_and_what_to_do_about_what_is_not() {
    block_on(async {
        let stage = Stage::up(&web_near_and_far()).await;
        let conf_dir = stage.folder().join(NODE).join("cni");
        let conf = conf_dir.display().to_string();
        let node = stage.netns("node/node-0");
        let doctor = |more: &[&str]| {
            let arguments = [&["doctor", "--cni-conf-dir", &conf][..], more].concat();
            let mut command = weir(&stage, &arguments);
            let output = node.run(|| command.output()).unwrap().unwrap();
            (output.status.code(), text(&output))
        };
        let (code, said) = doctor(&[]);
        for line in [
            "ok  ",
            "kernel",
            "BTF",
            "cgroup2",
            "underlay    eth0, MTU",
            "overlaps no network",
            "of node-0, ready",
        ] {
            assert!(said.contains(line), "no {line} in\n{said}");
        }
        assert_eq!(code, Some(0), "{said}");

        fs::write(conf_dir.join("05-other.conflist"), "{}").unwrap();
        let (code, said) = doctor(&["--pod-cidr", "172.30.0.0/16"]);
        assert_eq!(code, Some(1), "{said}");
        let problems: Vec<&str> = said.lines().filter(|line| line.starts_with("problem")).collect();
        assert!(
            problems.iter().any(|line| line.contains("05-other.conflist comes before 10-weir.conflist")),
            "{said}"
        );
        assert!(problems.iter().any(|line| line.contains("pod CIDR 172.30.0.0/16 overlaps")), "{said}");

        // The agent says so, too, and gets over it.
        let other = "05-other.conflist comes before 10-weir.conflist";
        let complains =
            async || stage.sandbox.status(NODE).await.unwrap().problems.iter().any(|it| it.contains(other));
        for expected in [true, false] {
            let began = std::time::Instant::now();
            while complains().await != expected {
                assert!(began.elapsed() < Duration::from_secs(10), "{expected}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            if expected {
                fs::remove_file(conf_dir.join("05-other.conflist")).unwrap();
            }
        }
        let status = stage.sandbox.status(NODE).await.unwrap();
        assert!(status.ready && status.problems.is_empty(), "{status:#?}");
        stage.down().await;
    });
}
