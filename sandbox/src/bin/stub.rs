//! `weir-stub`: what the sandbox runs in pods, and how it puts other processes into place. Not for people to call.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use sandbox::stub::{Place, resolve, serve, spawn};

const USAGE: &str =
    "usage: weir-stub serve|spawn [--cgroup FOLDER] [--parent PROCESS] [-- COMMAND…] | resolve NAME";

fn main() -> ExitCode {
    match run(std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-stub: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let mode = arguments.next().unwrap_or_default();
    match mode.to_str() {
        Some("resolve") => {
            let name = arguments.next().and_then(|name| name.into_string().ok()).context(USAGE)?;
            resolve(&name)
        }
        Some("supervise") => sandbox::supervise_kept(),
        Some("serve") => serve(&place(&mut arguments)?),
        Some("spawn") => {
            let place = place(&mut arguments)?;
            let command: Vec<OsString> = arguments.collect();
            spawn(&place, &command)
        }
        _ => bail!(USAGE),
    }
}

/// The options before `--`.
fn place(arguments: &mut impl Iterator<Item = OsString>) -> anyhow::Result<Place> {
    let mut place = Place::default();
    while let Some(option) = arguments.next() {
        match option.to_str() {
            Some("--cgroup") => place.cgroup = Some(PathBuf::from(arguments.next().context(USAGE)?)),
            Some("--resolv-conf") => {
                place.resolv_conf = Some(PathBuf::from(arguments.next().context(USAGE)?));
            }
            Some("--parent") => {
                let parent = arguments.next().and_then(|text| text.into_string().ok()).context(USAGE)?;
                place.parent = Some(parent.parse().context("--parent wants a process's number")?);
            }
            Some("--") => break,
            _ => bail!(USAGE),
        }
    }
    Ok(place)
}
