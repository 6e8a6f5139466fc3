//! What `weir sandbox` does, from the options to the exit status.

use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::expect::{self, Differences, Expectation};
use crate::explain::Explainer;
use crate::ground::{self, Binaries};
use crate::keep::{self, Settle};
use crate::live::Ticker;
use crate::manifest::Source;
use crate::output::{self, Look};
use crate::page::Beside;
use crate::plan::{Cast, Options, Output};
use crate::report::Report;
use crate::supervisor::Sandbox;
use crate::watch::Watch;
use crate::{assemble, change, live, manifest, page, state};

/// Brings up, measures, shows, and takes down again (unless `keep`). Call it before the process has a second thread.
pub fn run(options: Options) -> anyhow::Result<ExitCode> {
    ground::check()?;
    // Whatever is wrong with the input is said before anything is brought up.
    options.report.as_deref().map(page::check).transpose()?;
    let (input, _) = read(&options, None)?;
    let binaries = Binaries::beside_us()?;
    if options.keep { keep::start(options, input) } else { supervise(options, input, binaries, None) }
}

/// What the user's manifests hold.
#[derive(Serialize, Deserialize)]
pub(crate) struct Input {
    cast: Cast,
    /// What `cast` was read from.
    sources: Vec<Source>,
}

/// What the user's files hold now.
fn read(options: &Options, before: Option<&Cast>) -> anyhow::Result<(Input, Option<Expectation>)> {
    let sources = manifest::sources(&options.files, options.expect.as_deref())?;
    let cast = assemble::assemble(manifest::parse(&sources)?, options, before)?;
    let expectation = options.expect.as_deref().map(expect::load).transpose()?;
    if let Some(expectation) = &expectation {
        expectation.check_names(&cast, options.all)?;
    }
    Ok((Input { cast, sources }, expectation))
}

/// Owns a sandbox from beginning to end. With `settle`, it stays up after that was told.
pub(crate) fn supervise(
    options: Options,
    Input { cast, sources }: Input,
    binaries: Binaries,
    settle: Option<Settle>,
) -> anyhow::Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let result = runtime.block_on(async {
        let mut interrupt = Interrupt::new()?;
        let ticker = Ticker::new();
        let tick = |progress| ticker.show(progress);
        let mut sandbox = tokio::select! {
            up = Sandbox::up(cast, binaries, &tick) => up,
            () = interrupt.wait() => return Ok(INTERRUPTED.into()),
        }?;
        let session = Session {
            options: &options,
            ticker: &ticker,
            failed: Cell::new(false),
            judged: RefCell::default(),
            page: RefCell::default(),
        };
        let attended = tokio::select! {
            attended = session.attend(&mut sandbox, &sources, settle) => attended.map(|()| Ended::Done),
            () = interrupt.wait() => Ok(Ended::Interrupted),
        };
        ticker.clear();
        let down = tokio::select! {
            down = sandbox.down() => down,
            // Only a way out where taking down hangs: what is left undone then, the kernel and the next run clean up.
            () = interrupt.wait_often() => Err(anyhow::anyhow!("interrupted while taking the sandbox down")),
        };
        let ended = attended?;
        down.context("take the sandbox down")?;
        Ok(match ended {
            // Nobody else ends a session that stays up.
            Ended::Interrupted if !options.watch && !options.keep => INTERRUPTED.into(),
            _ if session.failed.get() => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        })
    });
    // Reading standard input may still hold a thread.
    runtime.shutdown_background();
    result
}

enum Ended {
    Done,
    Interrupted,
}

/// As shells report a command that was ended by Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Ctrl-C, `kill`, or a terminal that goes away.
struct Interrupt([Signal; 3]);

impl Interrupt {
    fn new() -> anyhow::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [a, b, c] = kinds.map(signal);
        let wait = "wait for signals";
        Ok(Self([a.context(wait)?, b.context(wait)?, c.context(wait)?]))
    }

    async fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }

    /// Someone really wants out.
    async fn wait_often(&mut self) {
        for _ in 0..3 {
            self.wait().await;
        }
    }
}

struct Session<'a> {
    options: &'a Options,
    ticker: &'a Ticker,
    /// The last table was not as expected.
    failed: Cell<bool>,
    /// What was last said about that.
    judged: RefCell<String>,
    /// What was last written of it.
    page: RefCell<String>,
}

impl Session<'_> {
    /// Measures and shows; with `watch` again and again, with `keep` until somebody ends it.
    async fn attend(
        &self,
        sandbox: &mut Sandbox,
        sources: &[Source],
        settle: Option<Settle>,
    ) -> anyhow::Result<()> {
        let _flows =
            if self.options.flows { Some(live::print_flows(sandbox, self.ticker).await) } else { None };
        let mut watch = if self.options.watch { Some(Watch::new(self.options)?) } else { None };
        let report = self.measure(sandbox).await?;
        // Whoever has stopped reading (`| head`) still gets the page that was asked for.
        let shown = self.show(&report);
        let expectation = self.options.expect.as_deref().map(expect::load).transpose()?;
        let differences = self.judge(expectation.as_ref(), &report)?;
        self.write_page(sandbox, sources, &report, differences.as_ref())?;
        if let Some(path) = &self.options.report {
            self.ticker.say(&format!("who reaches whom, and why: {}", path.display()));
        }
        shown?;
        if let Some(settle) = settle {
            settle.tell(sandbox.id(), self.failed.get())?;
        }
        match &mut watch {
            Some(watch) => self.follow(watch, sandbox, report).await,
            None if self.options.keep => std::future::pending().await,
            None => Ok(()),
        }
    }

    async fn measure(&self, sandbox: &mut Sandbox) -> anyhow::Result<Report> {
        let report = sandbox.probe(self.options.all, &|progress| self.ticker.show(progress)).await?;
        self.ticker.clear();
        Ok(report)
    }

    /// Whenever a file changes: applies what the files hold now, and says what that changed.
    async fn follow(
        &self,
        watch: &mut Watch,
        sandbox: &mut Sandbox,
        mut report: Report,
    ) -> anyhow::Result<()> {
        let mut half_done = false;
        loop {
            watch.changed().await?;
            let (Input { cast, sources }, expectation) = match read(self.options, Some(sandbox.cast())) {
                Ok(read) => read,
                Err(error) => {
                    self.ticker.say(&format!("weir: {error:#}; the sandbox stays as it was"));
                    continue;
                }
            };
            if half_done || cast != *sandbox.cast() {
                let applied = self.again(sandbox, cast, &mut report).await;
                half_done = applied.is_err();
                if let Err(error) = applied {
                    self.ticker.say(&format!("weir: {error:#}; it is tried again at the next change"));
                    continue;
                }
            }
            let differences = self.judge(expectation.as_ref(), &report)?;
            // Also where no verdict is another: lines may have moved, and what is expected.
            if let Err(error) = self.write_page(sandbox, &sources, &report, differences.as_ref()) {
                self.ticker.say(&format!("weir: {error:#}"));
            }
        }
    }

    async fn again(&self, sandbox: &mut Sandbox, cast: Cast, report: &mut Report) -> anyhow::Result<()> {
        let start = Instant::now();
        sandbox.apply(cast, &|progress| self.ticker.show(progress)).await?;
        let after = self.measure(sandbox).await?;
        let mut out = std::io::stdout().lock();
        match self.options.output {
            Output::Json => writeln!(out, "{}", output::json(&after)),
            Output::Table => {
                let ms = start.elapsed().as_millis();
                writeln!(out, "{}(applied and measured in {ms} ms)", change::changes(report, &after))
            }
        }
        .and_then(|()| out.flush())
        .context("write to standard output")?;
        *report = after;
        Ok(())
    }

    fn show(&self, report: &Report) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        let text = match self.options.output {
            Output::Json => output::json(report) + "\n",
            Output::Table => output::text(report, look()),
        };
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("write to standard output")
    }

    /// Writes the page if it says anything else than the one before. In a folder of manifests, writing it is a change too.
    fn write_page(
        &self,
        sandbox: &Sandbox,
        sources: &[Source],
        report: &Report,
        differences: Option<&Differences>,
    ) -> anyhow::Result<()> {
        let Some(path) = &self.options.report else { return Ok(()) };
        let files: Vec<_> = self.options.files.iter().map(|file| file.display().to_string()).collect();
        let explainer = Explainer::new(sandbox.cast(), &sandbox.ips(), manifest::places(sources));
        let beside =
            Beside { subject: &files.join(", "), cast: sandbox.cast(), explainer: &explainer, differences };
        let page = page::render(report, &beside)?;
        if *self.page.borrow() != page {
            state::replace(path, page.as_bytes()).context("--report")?;
            self.page.replace(page);
        }
        Ok(())
    }

    /// Whether the table is as expected, by exit status and in words (which are not repeated).
    fn judge(
        &self,
        expectation: Option<&Expectation>,
        report: &Report,
    ) -> anyhow::Result<Option<Differences>> {
        let Some(expectation) = expectation else { return Ok(None) };
        let differences = expectation.compare(report)?;
        self.failed.set(!differences.is_empty());
        let words = differences.to_string();
        if self.judged.replace(words.clone()) != words {
            eprint!("{words}");
        }
        Ok(Some(differences))
    }
}

/// How the table may look where it goes to.
fn look() -> Look {
    if !std::io::stdout().is_terminal() {
        return Look::PLAIN;
    }
    let width =
        std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(Look::PLAIN.width);
    Look { colour: std::env::var_os("NO_COLOR").is_none(), width }
}

/// How long after a change the next ones are waited for.
pub(crate) const SETTLE: Duration = Duration::from_millis(60);
