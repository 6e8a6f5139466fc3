//! The commands, one file each.

pub(crate) mod add;
pub(crate) mod check;
pub(crate) mod del;
mod gc;
pub(crate) mod loopback;
mod status;

use std::path::Path;

use netlink::Netns;
use serde_json::Value;

use crate::boot;
use crate::config::Config;
use crate::invocation::{Command, Invocation, environment};
use crate::ipam_store::Store;
use crate::spec::{Failure, Version, code};

/// Carries the command out. `None`: it went well and there is nothing to say.
pub(crate) async fn run(invocation: &Invocation, input: &[u8]) -> Result<Option<Value>, Failure> {
    let config = config(invocation, input)?;
    match invocation.command {
        Command::Add => add::run(invocation, &config).await.map(Some),
        Command::Del => del::run(invocation, &config).await.map(|()| None),
        Command::Check => check::run(invocation, &config).await.map(|()| None),
        Command::Gc => gc::run(&config).await.map(|()| None),
        Command::Status => status::run(&config).await.map(|()| None),
        Command::Version => Ok(Some(crate::spec::version_answer(config.version))),
    }
}

/// The network configuration, of a version that has the command.
pub(crate) fn config(invocation: &Invocation, input: &[u8]) -> Result<Config, Failure> {
    let config = Config::parse(input)?;
    let since = match invocation.command {
        Command::Check => Version::V0_4_0,
        Command::Gc | Command::Status => Version::V1_1_0,
        Command::Add | Command::Del | Command::Version => Version::V0_3_0,
    };
    if config.version < since {
        let message =
            format!("{:?} came with version {since}, cniVersion is {}", invocation.command, config.version);
        return Err(Failure::new(code::VERSION, message));
    }
    Ok(config)
}

fn store(config: &Config) -> Result<Store, Failure> {
    let boot_id = boot::boot_id().map_err(|error| Failure::new(code::IO, "read the boot id").with(error))?;
    Ok(Store::new(config.state_dir()?, boot_id))
}

/// The pod's namespace, which must be there and not be ours.
fn open_netns(invocation: &Invocation) -> Result<Netns, Failure> {
    let path = invocation.netns.clone().unwrap_or_default();
    let netns = match Netns::open(&path) {
        Ok(netns) => netns,
        Err(error) if error.is_not_there() || matches!(error, netlink::Error::NotANetns { .. }) => {
            return Err(Failure { code: code::CONTAINER, ..Failure::from(error) });
        }
        Err(error) => return Err(error.into()),
    };
    if netns.is_current()? {
        return Err(own_netns(&path));
    }
    Ok(netns)
}

fn own_netns(path: &Path) -> Failure {
    environment(&format!(
        "CNI_NETNS is {}, the namespace this plugin runs in, not a container's",
        path.display()
    ))
}
