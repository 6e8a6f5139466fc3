//! What runs beside a node's agent: prints each drop in one namespace, until killed.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use api::FlowLine;
use sandbox::client::Lines;
use serde::{Deserialize, Serialize};

/// A line of its log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Heard {
    Flow(FlowLine),
    /// The agent cannot be asked, or no longer.
    Deaf {
        deaf: String,
    },
}

pub(super) async fn watch(namespace: &str) -> Result<ExitCode> {
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("follow", "true")
        .append_pair("verdict", "denied")
        .append_pair("namespace", namespace)
        .finish();
    let deaf = match Lines::open(Path::new(api::DEFAULT_SOCKET), &format!("/v1/flows?{query}")).await {
        Err(error) => format!("{error:#}"),
        Ok(mut lines) => {
            while let Some(line) = lines.next::<FlowLine>().await {
                say(&Heard::Flow(line))?;
            }
            "the agent has ended".to_owned()
        }
    };
    say(&Heard::Deaf { deaf })?;
    // What was said is read from this pod's log, which goes on as long as it lives.
    std::future::pending().await
}

fn say(heard: &Heard) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, heard).context("say what was heard")?;
    out.write_all(b"\n").context("say what was heard")
}
