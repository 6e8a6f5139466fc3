//! What supervisor and stub say to each other, one JSON value a line.
//!
//! The first line on the stub's standard input is a [`Role`], its first answer [`Said::Ready`]. After that the
//! supervisor sends [`Order`]s, and for each probe the stub says [`Said::Started`] and, in the end, [`Said::Done`]. The
//! stub ends when its standard input does.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::plan::{Listen, Protocol};

/// Whose stub this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// `namespace/pod`, `node/NAME` or `outside`: what it answers with.
    pub name: String,
    pub listen: Vec<Listen>,
    /// Other stubs live in the same network namespace: leave packets to ports that are not ours alone.
    pub shared: bool,
    /// This is the resolver's pod: answer DNS on port 53 from this file, read again whenever it changes.
    pub zone: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Try all of these at once.
    Probe(Vec<Probe>),
    /// Stop waiting for these; each still gets its [`Said::Done`].
    GiveUp(Vec<u64>),
    /// Listen on these, and on nothing else any more.
    Listen(Vec<Listen>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The supervisor's number; never used twice.
    pub id: u64,
    pub ip: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    pub timeout_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    Ready {
        taken: Vec<Taken>,
    },
    /// The first packet is about to leave, from this address.
    Started {
        id: u64,
        from: SocketAddr,
    },
    Done {
        id: u64,
        outcome: Outcome,
    },
}

/// A port on which the stub could not listen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    pub listen: Listen,
    pub error: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Who answered, by its own word.
    Answered(String),
    /// Somebody said that nobody listens there.
    Refused(String),
    /// Nothing came in time.
    Silence,
    /// The probe could not be sent.
    Failed(String),
}
