//! The other plugin that runtimes call for every pod: its own `lo`, up. Ours where a node has nobody else's
//! (`weir-agent install` makes the link by that name).

use netlink::{Handle, Netns};
use serde_json::{Value, json};

use super::{config, open_netns};
use crate::invocation::{Command, Invocation};
use crate::spec::{Failure, Version, code, version_answer};
use crate::wiring::LOOPBACK;

pub(crate) async fn run(invocation: &Invocation, input: &[u8]) -> Result<Option<Value>, Failure> {
    let config = config(invocation, input)?;
    match invocation.command {
        Command::Add => {
            let inside = Handle::in_netns(&open_netns(invocation)?)?;
            inside.set_up(LOOPBACK).await?;
            let sandbox = invocation.netns.as_ref().map(|path| path.display().to_string());
            Ok(Some(answer(config.version, sandbox.unwrap_or_default(), config.prev_result()?)))
        }
        Command::Check => {
            let inside = Handle::in_netns(&open_netns(invocation)?)?;
            let up = inside.link_by_name("lo").await?.is_some_and(|lo| lo.up);
            if !up {
                return Err(Failure::new(code::NOT_AS_MADE, "interface lo is down"));
            }
            Ok(None)
        }
        Command::Del => {
            let path = invocation.netns.clone().unwrap_or_default();
            match Netns::open(path) {
                // Whose namespace we would be in, its `lo` is not a container's.
                Ok(netns) if !netns.is_current()? => Handle::in_netns(&netns)?.set_down(LOOPBACK).await?,
                // Gone, and `lo` with it.
                _ => {}
            }
            Ok(None)
        }
        Command::Gc | Command::Status => Ok(None),
        Command::Version => Ok(Some(version_answer(config.version))),
    }
}

/// What another plugin answered before stays all there is to say.
fn answer(version: Version, sandbox: String, prev: Option<&Value>) -> Value {
    if let Some(prev) = prev {
        let mut answer = prev.clone();
        answer["cniVersion"] = version.as_str().into();
        return answer;
    }
    let address = |address: &str, family: &str| {
        let mut address = json!({ "address": address, "interface": 0 });
        if version < Version::V1_0_0 {
            address["version"] = family.into();
        }
        address
    };
    json!({
        "cniVersion": version.as_str(),
        "interfaces": [{ "name": "lo", "mac": "00:00:00:00:00:00", "sandbox": sandbox }],
        "ips": [address("127.0.0.1/8", "4"), address("::1/128", "6")],
        "dns": {},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_has_the_shape_of_its_version_or_is_what_the_plugin_before_said() {
        let new = answer(Version::V1_0_0, "/run/netns/a".into(), None);
        assert_eq!(new["ips"][0], json!({ "address": "127.0.0.1/8", "interface": 0 }));
        assert_eq!(new["interfaces"][0]["sandbox"], "/run/netns/a");
        let old = answer(Version::V0_3_1, "/run/netns/a".into(), None);
        assert_eq!(old["ips"][1], json!({ "address": "::1/128", "interface": 0, "version": "6" }));
        let prev = json!({ "cniVersion": "1.0.0", "ips": [] });
        assert_eq!(answer(Version::V1_0_0, String::new(), Some(&prev)), prev);
    }
}
