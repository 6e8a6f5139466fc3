//! `BPF_PROG_TEST_RUN`: one program, one frame, no network.

use std::time::Duration;

use aya::{TestRun, TestRunOptions};

use crate::Dataplane;
use crate::error::Error;
use crate::load::classifier;

/// A frame met at a hook.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// The name of a program of tc.
    pub program: &'static str,
    /// From the Ethernet header on.
    pub frame: &'a [u8],
    /// The device at whose hook the program runs; it must exist in the caller's network namespace.
    pub ifindex: u32,
    /// The device that the packet came in by; 0 if this host made it.
    pub ingress_ifindex: u32,
    pub repeat: u32,
}

/// What tc does with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// On to the next program, and in the end to the stack.
    Next,
    Drop,
    /// Into a pod, or out of the node.
    Redirect,
    Other(u32),
}

/// What came of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trialled {
    pub action: Action,
    /// What became of the frame.
    pub frame: Vec<u8>,
    /// Of one run, on average.
    pub duration: Duration,
}

/// Offsets in `struct __sk_buff` (include/uapi/linux/bpf.h; append-only).
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;
/// Up to and with `hwtstamp`.
const SK_BUFF_LEN: usize = 192;

pub(crate) fn run(dataplane: &mut Dataplane, trial: &Trial<'_>) -> Result<Trialled, Error> {
    let mut context = [0; SK_BUFF_LEN];
    context[INGRESS_IFINDEX..INGRESS_IFINDEX + 4].copy_from_slice(&trial.ingress_ifindex.to_ne_bytes());
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&trial.ifindex.to_ne_bytes());
    // Room for the headers that a program may put around it.
    let mut frame = vec![0; trial.frame.len() + 256];
    let program = classifier(&mut dataplane.ebpf, trial.program)?;
    let result = program
        .test_run(TestRunOptions {
            data_in: Some(trial.frame),
            data_out: Some(&mut frame),
            ctx_in: Some(&context),
            repeat: trial.repeat.max(1),
            ..TestRunOptions::new()
        })
        .map_err(|source| Error::Load { program: trial.program, source: Box::new(source) })?;
    let action = match result.return_value as i32 {
        -1 => Action::Next,
        2 => Action::Drop,
        7 => Action::Redirect,
        other => Action::Other(other as u32),
    };
    frame.truncate(result.data_size_out as usize);
    Ok(Trialled { action, frame, duration: result.duration })
}
