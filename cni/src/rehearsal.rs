//! A call without consequences: everything that is decided before the kernel, the agent or the disk is asked.
//!
//! For fuzzers, and for tests that need no namespace. A rehearsed `ADD` has every address of its ranges to give.

use std::ffi::OsString;

use serde_json::Value;

use crate::command::{add, check, config};
use crate::config::Config;
use crate::invocation::{Command, Invocation};
use crate::ipam::Ledger;
use crate::result::add_answer;
use crate::spec::{Failure, Version, version_answer};
use crate::wiring::gateway;

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Rehearsal {
    /// The answer on standard output, if there is one.
    Answer(Option<Value>),
    /// The error on standard output.
    Error(Value),
}

/// Goes through the call that `input` on standard input and the environment ask for.
pub fn rehearse(input: &[u8], variable: &dyn Fn(&str) -> Option<OsString>) -> Rehearsal {
    match answer(input, variable) {
        Ok(answer) => Rehearsal::Answer(answer),
        Err(failure) => Rehearsal::Error(failure.to_json(Version::of_input(input))),
    }
}

fn answer(input: &[u8], variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Option<Value>, Failure> {
    let invocation = Invocation::from_env(variable)?;
    if invocation.command == Command::Version {
        return Ok(Some(version_answer(Version::of_input(input))));
    }
    let config = config(&invocation, input)?;
    match invocation.command {
        Command::Add => add(&invocation, &config).map(Some),
        Command::Check => check(&config).map(|()| None),
        Command::Del => paths(&config).map(|()| None),
        Command::Gc => config.valid_attachments().and_then(|_valid| paths(&config)).map(|()| None),
        Command::Status => config.status_grace().and_then(|_grace| paths(&config)).map(|()| None),
        Command::Version => Ok(None),
    }
}

/// What every command asks for.
fn paths(config: &Config) -> Result<(), Failure> {
    config.state_dir()?;
    config.agent_socket()?;
    Ok(())
}

fn add(invocation: &Invocation, config: &Config) -> Result<Value, Failure> {
    invocation.pod()?;
    let prev_result = config.prev_result()?;
    config.port_mappings()?;
    config.bandwidth()?;
    paths(config)?;
    let wiring = add::Wanted::of(config)?.take(invocation, config, &mut Ledger::default())?;
    let netns = invocation.netns.clone().unwrap_or_default();
    Ok(add_answer(config.version, &wiring, &netns.to_string_lossy(), prev_result, config.dns()))
}

fn check(config: &Config) -> Result<(), Failure> {
    let result = check::made(config)?;
    paths(config)?;
    for ip in config.node_ips()? {
        check::has_address(result, ip);
        check::has_route(result, "0.0.0.0/0", Some(gateway(ip)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(command: &str, input: &str) -> Rehearsal {
        let environment = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/run/netns/c1"),
            ("CNI_IFNAME", "eth0"),
        ];
        let value = |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value);
        rehearse(input.as_bytes(), &|name| value(name).map(Into::into))
    }

    #[test]
    fn an_add_is_answered_as_if_nothing_were_in_the_way() {
        let input = r#"{"cniVersion":"1.1.0","name":"weir","ipam":{"ranges":["10.244.0.0/24"]}}"#;
        let Rehearsal::Answer(Some(answer)) = call("ADD", input) else { panic!("no answer") };
        assert_eq!(answer["ips"][0]["address"], "10.244.0.1/32");
        assert_eq!(answer["interfaces"][1]["sandbox"], "/run/netns/c1");
    }

    #[test]
    fn a_call_that_cannot_be_understood_ends_in_an_error_of_the_specification() {
        for (command, input, code) in [
            ("ADD", "{", 6),
            ("ADD", r#"{"cniVersion":"1.1.0","name":"weir"}"#, 7),
            ("CHECK", r#"{"cniVersion":"0.3.1","name":"weir"}"#, 1),
            ("CHECK", r#"{"cniVersion":"1.1.0","name":"weir"}"#, 7),
            ("GC", r#"{"cniVersion":"1.1.0","name":"weir"}"#, 7),
            ("add", "{}", 4),
        ] {
            let Rehearsal::Error(error) = call(command, input) else { panic!("{command} {input}: no error") };
            assert_eq!(error["code"], code, "{command} {input}: {error}");
        }
    }
}
