//! `STATUS`: no only when the agent has been away for a while.
//!
//! A runtime that is told no marks the whole node as not ready, and with it every pod; an agent that is being replaced
//! must not do that. A full address range is no reason either: the pods that are there are well. Since when the agent
//! has been away is noted in a file, by uptime and for this boot, so that nobody's clock can end the grace early.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::agent::Agent;
use crate::boot;
use crate::config::Config;
use crate::spec::{Failure, code};

pub(crate) async fn run(config: &Config) -> Result<(), Failure> {
    let grace = config.status_grace()?;
    let note = Note::of(config)?;
    let Err(error) = Agent::at(config.agent_socket()?).status().await else {
        return note.agent_is_there();
    };
    let away = note.agent_is_away()?;
    if away < grace {
        eprintln!("weir-cni: STATUS is well for {} s more: {error}", (grace - away).as_secs());
        return Ok(());
    }
    let message = format!("pods cannot be added: no agent for {} s", away.as_secs());
    Err(Failure::new(code::NOT_AVAILABLE, message).with_details(error.to_string()))
}

/// The file that says since when the agent has been away. It exists only while it is.
pub(super) struct Note {
    path: PathBuf,
}

impl Note {
    pub(super) fn of(config: &Config) -> Result<Self, Failure> {
        Ok(Self { path: config.state_dir()?.join("agent-away-since") })
    }

    pub(super) fn agent_is_there(&self) -> Result<(), Failure> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failure("remove", error)),
            _ => Ok(()),
        }
    }

    /// For how long it has been away, as far as anybody looked.
    fn agent_is_away(&self) -> Result<Duration, Failure> {
        let clock = |error| Failure::new(code::IO, "read the uptime and boot id").with(error);
        let (now, boot_id) = (boot::uptime().map_err(clock)?, boot::boot_id().map_err(clock)?);
        match fs::read_to_string(&self.path) {
            Ok(text) => {
                if let Some(since) = since(&text, &boot_id) {
                    return Ok(now.saturating_sub(since));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(self.failure("read", error)),
        }
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir).map_err(|error| self.failure("make the folder of", error))?;
        }
        fs::write(&self.path, format!("{} {boot_id}\n", now.as_secs_f64()))
            .map_err(|error| self.failure("write", error))?;
        Ok(Duration::ZERO)
    }

    fn failure(&self, operation: &str, error: io::Error) -> Failure {
        Failure::new(code::IO, format!("{operation} {}", self.path.display())).with(error)
    }
}

/// Reads a note, unless it is another boot's.
fn since(text: &str, boot_id: &str) -> Option<Duration> {
    let (seconds, boot) = text.trim_end().split_once(' ')?;
    let seconds = seconds.parse().ok()?;
    if boot == boot_id { Duration::try_from_secs_f64(seconds).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_counts_for_its_own_boot_only() {
        assert_eq!(since("12.5 boot-1\n", "boot-1"), Some(Duration::from_millis(12_500)));
        assert_eq!(since("12.5 boot-1\n", "boot-2"), None);
        assert_eq!(since("", "boot-1"), None);
        assert_eq!(since("-1 boot-1", "boot-1"), None);
    }
}
