//! How a command shows what it has: for people, or for programs.

use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

impl Format {
    /// Writes what there is to standard output; `table` is told whether it may use colours.
    pub(crate) fn print(self, value: &impl Serialize, table: impl FnOnce(bool) -> String) -> Result<()> {
        let mut out = io::stdout().lock();
        match self {
            Self::Json => {
                serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from)?;
                out.write_all(b"\n")?;
            }
            Self::Table => {
                let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
                out.write_all(table(colour).as_bytes())?;
            }
        }
        Ok(out.flush()?)
    }
}

/// `1 finding`, `2 findings`.
pub(crate) fn count(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
