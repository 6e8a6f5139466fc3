//! The subcommand `policy`: worlds of many pods and policies, each in a process of its own, against real maps.

mod agent;
mod memory;
mod report;
mod shape;
pub(crate) mod worker;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use self::report::Report;
use self::shape::{Kind, Shape};
use self::worker::Outcome;
use crate::place;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the JSON goes
    #[arg(long)]
    out: PathBuf,
    /// How many pods the worlds have
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000")]
    pods: Vec<u32>,
    /// How many policies the worlds have
    #[arg(long, value_delimiter = ',', default_value = "100,1000,10000")]
    policies: Vec<u32>,
    /// Only worlds of this kind
    #[arg(long)]
    only: Option<Kind>,
    /// How often the world that the targets speak of is measured, in turns with the one of unique labels: what rounds of one
    /// world differ by is noise
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Folder with `weir-agent`: measures what it occupies itself in the world that the targets speak of
    #[arg(long)]
    binaries: Option<PathBuf>,
}

/// The world that the targets speak of.
const TARGET: Shape = Shape { pods: 10_000, policies: 1_000, kind: Kind::Mixed, unique: false };
/// As much room as the refused world has not enough of.
const ROOM: u32 = 1 << 12;

pub(crate) fn run(args: &Args) -> Result<()> {
    std::fs::create_dir_all(&args.out).with_context(|| format!("make {}", args.out.display()))?;
    ensure!(
        args.pods.iter().all(|pods| *pods > shape::LOCAL),
        "--pods {:?}: more than the {} of the node, each",
        args.pods,
        shape::LOCAL
    );
    place::make_private()?;
    let worlds = worlds(args);
    let mut outcomes = Vec::new();
    for (number, (shape, room)) in worlds.iter().enumerate() {
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[Kworld {} of {}: {}", number + 1, worlds.len(), report::title(shape, *room));
        }
        outcomes.push(measure(shape, *room).with_context(|| report::title(shape, *room))?);
    }
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    let mut occupied = Vec::new();
    if let Some(binaries) = args.binaries.as_ref().filter(|_| worlds.contains(&(TARGET, None))) {
        for shape in [TARGET, Shape { unique: true, ..TARGET }, Shape { pods: 2 * TARGET.pods, ..TARGET }] {
            let measured = agent::measure(shape, binaries);
            occupied
                .push(measured.with_context(|| format!("weir-agent with {}", report::title(&shape, None)))?);
        }
    }
    let report = Report::new(outcomes, occupied);
    print!("{}", report.table());
    let json = args.out.join("policy.json");
    std::fs::write(&json, report.json()?).with_context(|| format!("write {}", json.display()))?;
    println!("\n{}", json.display());
    Ok(())
}

fn worlds(args: &Args) -> Vec<(Shape, Option<u32>)> {
    let mut worlds = Vec::new();
    let sizes =
        args.pods.iter().flat_map(|pods| args.policies.iter().map(move |policies| (*pods, *policies)));
    for (pods, policies) in sizes.clone() {
        let shape = Shape { pods, policies, ..TARGET };
        if shape != TARGET {
            worlds.push((shape, None));
        } else {
            for _ in 0..args.rounds.max(1) {
                worlds.extend([(shape, None), (Shape { unique: true, ..shape }, None)]);
            }
            // One pod more or less says nothing of what one costs; ten thousand do.
            worlds.push((Shape { pods: 2 * pods, ..shape }, None));
            worlds.push((Shape { pods: 2 * pods, unique: true, ..shape }, None));
            worlds.push((shape, Some(ROOM)));
        }
    }
    // The worst: beyond this its rows are more than any map has room for.
    let bearable = |(pods, policies): &(u32, u32)| u64::from(*pods) * u64::from(*policies) <= 10_000_000;
    worlds.extend(
        sizes
            .filter(bearable)
            .map(|(pods, policies)| (Shape { pods, policies, kind: Kind::Half, unique: false }, None)),
    );
    worlds.retain(|(shape, _)| args.only.is_none_or(|only| only == shape.kind));
    worlds
}

/// One world, in a process of its own: what it occupies is then its own, too.
fn measure(shape: &Shape, room: Option<u32>) -> Result<Outcome> {
    let mut command: Command = place::ourselves("policy-worker")?;
    command.arg(serde_json::to_string(shape)?).stdin(Stdio::null()).stderr(Stdio::inherit());
    if let Some(room) = room {
        command.args(["--rules", &room.to_string()]);
    }
    let output = command.output().context("start a worker")?;
    ensure!(output.status.success(), "the worker failed ({})", output.status);
    serde_json::from_slice(&output.stdout).context("read what the worker found")
}
