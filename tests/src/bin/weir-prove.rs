//! What `cargo xtask prove` runs: `weir-prove SECONDS SEED`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "it speaks to a person")]

use std::process::ExitCode;
use std::time::Duration;

use tests::prove::{Tally, prove};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (Some(Ok(seconds)), Some(Ok(seed)), None) = (arguments.next(), arguments.next(), arguments.next())
    else {
        eprintln!("usage: weir-prove SECONDS SEED");
        return ExitCode::FAILURE;
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let progress = |tally: Tally| eprintln!("{} pairs in {} worlds so far", tally.pairs, tally.worlds);
    match prove(seed, Duration::from_secs(seconds), threads, progress) {
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
