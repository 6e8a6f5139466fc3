//! How a command shows what it has: for people, or for programs.

use clap::ValueEnum;

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}
