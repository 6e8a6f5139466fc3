//! What `cargo xtask prove` runs: `weir-prove SECONDS SEED`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "it speaks to a person")]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use tests::prove::{Tally, prove};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (Some(Ok(seconds)), Some(Ok(seed)), None) = (arguments.next(), arguments.next(), arguments.next())
    else {
        eprintln!("usage: weir-prove SECONDS SEED");
        return ExitCode::FAILURE;
    };
    let over = Arc::new(AtomicBool::new(false));
    if let Err(error) = stop_at_signals(Arc::clone(&over)) {
        eprintln!("weir-prove: wait for signals: {error}");
        return ExitCode::FAILURE;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let progress = |tally: Tally| eprintln!("{} pairs in {} worlds so far", tally.pairs, tally.worlds);
    match prove(seed, Duration::from_secs(seconds), threads, &over, progress) {
        Ok(Tally { pairs, allowed, worlds }) => {
            println!(
                "{pairs} pairs (world, flow) in {worlds} worlds judged alike by the specification, the tables, the kernel \
                 and the compiler that remembers ({allowed} allowed), from seed {seed} on"
            );
            ExitCode::SUCCESS
        }
        Err(report) => {
            println!("{report}");
            ExitCode::FAILURE
        }
    }
}

/// Ctrl-C ends it as the end of its time does: what was judged is said, and what was mounted is taken down. Before any
/// other thread is started, since a thread has the mask of the one that starts it.
fn stop_at_signals(over: Arc<AtomicBool>) -> nix::Result<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block()?;
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            over.store(true, Ordering::Relaxed);
        }
    });
    Ok(())
}
