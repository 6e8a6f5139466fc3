//! What is left of a process that has handed over: whoever started it still watches it, in a pod as process 1.
//!
//! It passes signals on to its successor, replaces that one when told to, and ends as that one ends.

use std::process::ExitStatus;

use anyhow::{Context as _, Result, bail};
use ingress::handover::{Estate, Successor};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::{Signals, Told};

/// Until the successor ends by itself.
pub(crate) async fn keep(mut successor: Child, estate: Estate, signals: &mut Signals) -> Result<()> {
    let mut estate = Some(estate);
    let mut draining = JoinSet::new();
    loop {
        let told = tokio::select! {
            status = successor.wait() => {
                let status = status.context("wait for the successor")?;
                while draining.join_next().await.is_some() {}
                return ended(status);
            }
            told = signals.next() => told,
        };
        if told == Told::End {
            // Else who connects while the successor drains would wait for nobody.
            estate = None;
            pass_on(&successor, Signal::SIGTERM);
            continue;
        }
        // Told to end, nothing is handed over any more.
        let Some(estate) = &estate else { continue };
        match replace(estate).await {
            Ok(next) => {
                info!("handed over once more");
                pass_on(&successor, Signal::SIGTERM);
                let mut last = std::mem::replace(&mut successor, next);
                // It drains in its own time.
                draining.spawn(async move { last.wait().await });
            }
            Err(error) => warn!("{error:#}; the one that serves goes on"),
        }
    }
}

/// A successor that serves.
pub(crate) async fn replace(estate: &Estate) -> Result<Child> {
    Ok(Successor::start(estate)?.serves().await?)
}

fn pass_on(process: &Child, signal: Signal) {
    let pid = process.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid {
        // It may have ended just now.
        kill(Pid::from_raw(pid), signal).unwrap_or_default();
    }
}

fn ended(status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("the successor ended with {status}");
    }
    Ok(())
}
