//! The subcommand `datapath`: bring all layouts up, measure, say what came out.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::layout::{Layout, Programs};
use crate::report::Report;
use crate::{attach, chart, place, rounds};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder of weir-agent and weir-cni
    #[arg(long)]
    binaries: PathBuf,
    /// The folder of the reference plugins bridge and host-local
    #[arg(long)]
    plugins: PathBuf,
    /// Where the JSON and the chart go
    #[arg(long)]
    out: PathBuf,
    #[arg(long, default_value_t = 13, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each measurement lasts
    #[arg(long, default_value_t = 0.4)]
    seconds: f64,
    /// How many pods are wired and taken away by each plugin
    #[arg(long, default_value_t = attach::MAX_PODS)]
    pods: usize,
    /// Only layouts whose name contains one of these (raw, bridge, routed, weir-0, weir-10, weir-1000); the raw pair is
    /// always measured
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.pods <= attach::MAX_PODS, "--pods {}: {} are the most", args.pods, attach::MAX_PODS);
    let duration = Duration::try_from_secs_f64(args.seconds).context("--seconds: no duration")?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("make {}", args.out.display()))?;
    place::make_private()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let report = runtime.block_on(measure(args, duration))?;
    print!("{}", report.table());
    let json = args.out.join("datapath.json");
    std::fs::write(&json, report.json()?).with_context(|| format!("write {}", json.display()))?;
    let svg = args.out.join("datapath.svg");
    std::fs::write(&svg, chart::draw(&report)).with_context(|| format!("write {}", svg.display()))?;
    println!("\n{}\n{}", json.display(), svg.display());
    Ok(())
}

async fn measure(args: &Args, duration: Duration) -> Result<Report> {
    let programs = Programs { binaries: args.binaries.clone(), plugins: args.plugins.clone() };
    let wanted = |layout: &Layout| {
        let slug = layout.slug();
        *layout == Layout::Raw
            || args.only.is_empty()
            || args.only.iter().any(|it| slug.contains(it.as_str()))
    };
    let begun = Instant::now();
    let mut clusters = Vec::new();
    for layout in Layout::ALL.into_iter().filter(wanted) {
        progress(&format!("bringing up {}", layout.title()));
        clusters.push((layout, layout.build(&programs).await?));
    }
    progress(&format!("wiring {} pods by each plugin", args.pods));
    let times = attach::measure(&clusters, args.pods).await?;
    let samples = rounds::measure(&mut clusters, args.rounds, duration, |round, layout| {
        progress(&format!("round {} of {}: {}", round + 1, args.rounds, layout.title()));
    })?;
    progress("");
    Ok(Report::new(args.rounds, duration, begun.elapsed(), samples, times))
}

/// One line, rewritten in place; nobody waits for it where there is no terminal.
fn progress(text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        // A terminal that cannot be written to has nobody who misses the line.
        write!(stderr, "\r\x1b[K{text}").ok();
        stderr.flush().ok();
    }
}
