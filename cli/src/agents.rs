//! Which agents a command is about: the node's own, or those of a sandbox.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use ::sandbox::client;
use anyhow::{Context, Result, bail};
use api::Status;

#[derive(clap::Args)]
pub(crate) struct Which {
    /// The agent that listens here [default: /run/weir/agent.sock, else the sandbox that is up]
    #[arg(long, value_name = "PATH", conflicts_with = "sandbox")]
    socket: Option<PathBuf>,
    /// The agents of this sandbox
    #[arg(long, value_name = "ID")]
    sandbox: Option<String>,
}

impl Which {
    /// The sockets of the agents that are meant; at least one.
    pub(crate) fn sockets(&self) -> Result<Vec<PathBuf>> {
        if let Some(socket) = &self.socket {
            return Ok(vec![socket.clone()]);
        }
        let default = Path::new(api::DEFAULT_SOCKET);
        // A socket that its agent left behind is no agent.
        if self.sandbox.is_none() && UnixStream::connect(default).is_ok() {
            return Ok(vec![default.to_owned()]);
        }
        choose(sandbox::running()?, self.sandbox.as_deref())
    }

    /// What each of these agents says of itself.
    pub(crate) fn statuses(&self) -> Result<Vec<Status>> {
        let sockets = self.sockets()?;
        block_on(async {
            let mut statuses = Vec::new();
            for socket in &sockets {
                statuses.push(client::get::<Status>(socket, "/v1/status").await?);
            }
            Ok(statuses)
        })
    }
}

fn choose(mut running: Vec<sandbox::Running>, id: Option<&str>) -> Result<Vec<PathBuf>> {
    if let Some(id) = id {
        running.retain(|sandbox| sandbox.id == id);
    }
    match (running.len(), id) {
        (1, _) => Ok(running.remove(0).agents.into_iter().map(|(_, socket)| socket).collect()),
        (0, Some(id)) => bail!("no sandbox {id} is up; `weir sandbox list` shows those that are"),
        (0, None) => bail!(
            "no agent answers at {} and no sandbox is up; `weir sandbox -f MANIFESTS --keep` leaves one up, --socket \
             names another agent",
            api::DEFAULT_SOCKET
        ),
        _ => {
            let ids: Vec<_> = running.iter().map(|sandbox| sandbox.id.as_str()).collect();
            bail!("several sandboxes are up; say which with --sandbox: {}", ids.join(", "))
        }
    }
}

/// Runs a command's calls on a runtime of their own.
pub(crate) fn block_on<T>(calls: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?
        .block_on(calls)
}

/// A reader that has read enough (`| head`) ends the command well.
pub(crate) fn unless_closed(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(error)
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) =>
        {
            Ok(())
        }
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(id: &str) -> sandbox::Running {
        let agents = ["node-0", "node-1"].map(|node| (node.into(), format!("/{id}/{node}").into()));
        sandbox::Running { id: id.into(), agents: agents.into() }
    }

    #[test]
    fn the_only_sandbox_is_meant_and_of_several_the_one_named() {
        let sockets: [PathBuf; 2] = ["/a1/node-0".into(), "/a1/node-1".into()];
        assert_eq!(choose(vec![sandbox("a1")], None).unwrap(), sockets);
        assert_eq!(choose(vec![sandbox("a1"), sandbox("b2")], Some("a1")).unwrap(), sockets);
    }

    #[test]
    fn what_is_not_clear_is_said() {
        for (running, id, says) in [
            (vec![], None, "no sandbox is up"),
            (vec![sandbox("a1")], Some("b2"), "no sandbox b2 is up"),
            (vec![sandbox("a1"), sandbox("b2")], None, "say which with --sandbox: a1, b2"),
        ] {
            let error = choose(running, id).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
