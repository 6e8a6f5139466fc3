//! The plugin's conversation with a runtime: whatever stands in the environment and on standard input, the answer is one
//! of the specification's, and an error says what is wrong with a code that the specification or we define.

use std::collections::HashMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt;

use ::cni::{Rehearsal, rehearse};
use serde_json::Value;

/// The specification's (CNI 1.1.0, "Error"), and ours from 100 on.
const CODES: [u64; 13] = [1, 2, 3, 4, 5, 6, 7, 8, 11, 50, 100, 101, 102];
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// `input`: the environment, a variable a line, an empty line, standard input.
pub fn check(input: &[u8]) {
    let split = input.windows(2).position(|two| two == b"\n\n").unwrap_or(input.len());
    let stdin = input.get(split + 2..).unwrap_or_default();
    let variables = input[..split].split(|byte| *byte == b'\n').filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b'=')?;
        Some((String::from_utf8(line[..at].to_vec()).ok()?, OsString::from_vec(line[at + 1..].to_vec())))
    });
    let variables: HashMap<String, OsString> = variables.collect();
    let rehearsal = rehearse(stdin, &|name| variables.get(name).cloned());
    assert_eq!(rehearsal, rehearse(stdin, &|name| variables.get(name).cloned()), "the same call twice");
    let command = variables.get("CNI_COMMAND").and_then(|command| command.to_str()).unwrap_or_default();
    match rehearsal {
        Rehearsal::Error(error) => is_error(&error),
        Rehearsal::Answer(None) => assert!(["DEL", "CHECK", "GC", "STATUS"].contains(&command), "{command}"),
        Rehearsal::Answer(Some(answer)) if command == "VERSION" => {
            assert_eq!(answer["supportedVersions"], serde_json::json!(VERSIONS));
        }
        Rehearsal::Answer(Some(answer)) => {
            assert_eq!(command, "ADD", "{answer}");
            is_result(&answer);
        }
    }
}

#[track_caller]
fn is_version(answer: &Value) {
    let version = answer["cniVersion"].as_str().unwrap_or_default();
    assert!(VERSIONS.contains(&version), "{answer}");
}

#[track_caller]
fn is_error(error: &Value) {
    is_version(error);
    let fields = error.as_object().expect("an error is an object");
    assert!(
        fields.keys().all(|name| ["cniVersion", "code", "msg", "details"].contains(&name.as_str())),
        "{error}"
    );
    assert!(error["code"].as_u64().is_some_and(|code| CODES.contains(&code)), "{error}");
    assert!(error["msg"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
}

/// What a runtime relies on: our interfaces, addresses with their gateways, and references that lead somewhere.
#[track_caller]
fn is_result(answer: &Value) {
    is_version(answer);
    let list = |name: &str| answer[name].as_array().unwrap_or_else(|| panic!("{name} is no list: {answer}"));
    let (interfaces, ips) = (list("interfaces"), list("ips"));
    let [.., host, pod] = interfaces.as_slice() else { panic!("a pair of interfaces: {answer}") };
    assert!(
        host["name"].as_str().is_some_and(|name| name.len() == 15 && name.starts_with("weir")),
        "{answer}"
    );
    assert!(pod["name"].as_str().is_some_and(|name| (1..16).contains(&name.len())), "{answer}");
    let ours = ips.iter().filter(|ip| ip["interface"].as_u64() == Some(interfaces.len() as u64 - 1));
    let families: Vec<bool> = ours
        .filter_map(|ip| {
            let (address, bits) = ip["address"].as_str()?.split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            assert_eq!(bits, if address.is_ipv4() { "32" } else { "128" }, "{answer}");
            Some(address.is_ipv4())
        })
        .collect();
    assert!(matches!(families[..], [.., true] | [.., false]), "no address: {answer}");
    assert!(!list("routes").is_empty(), "{answer}");
}
