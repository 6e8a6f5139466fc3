//! The protocol's own words: versions, error codes, and the two answers that concern no network.

use std::error::Error;
use std::fmt;

use serde_json::{Value, json};

/// Error codes; those below 100 are the specification's.
pub(crate) mod code {
    pub(crate) const VERSION: u32 = 1;
    pub(crate) const FIELD: u32 = 2;
    /// The runtime need not clean up after this one.
    pub(crate) const CONTAINER: u32 = 3;
    pub(crate) const ENVIRONMENT: u32 = 4;
    pub(crate) const IO: u32 = 5;
    pub(crate) const DECODING: u32 = 6;
    pub(crate) const CONFIGURATION: u32 = 7;
    pub(crate) const TRY_AGAIN_LATER: u32 = 11;
    pub(crate) const NOT_AVAILABLE: u32 = 50;
    /// The interface is there already.
    pub(crate) const EXISTS: u32 = 100;
    /// The agent said no, and will say so again.
    pub(crate) const AGENT_REFUSED: u32 = 101;
    /// `CHECK` found something else than `ADD` made.
    pub(crate) const NOT_AS_MADE: u32 = 102;
}

/// A protocol version we speak, in the order they appeared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    pub(crate) const LATEST: Self = Self::V1_1_0;

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version to answer in, also where the input is otherwise unusable.
    pub(crate) fn of_input(input: &[u8]) -> Self {
        serde_json::from_slice::<Value>(input)
            .ok()
            .and_then(|input| Self::parse(input.get("cniVersion")?.as_str()?))
            .unwrap_or(Self::LATEST)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

pub(crate) fn supported_versions() -> [&'static str; 5] {
    Version::ALL.map(Version::as_str)
}

pub(crate) fn version_answer(version: Version) -> Value {
    json!({ "cniVersion": version.as_str(), "supportedVersions": supported_versions() })
}

/// A command's failure, as the runtime gets to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: u32,
    pub(crate) message: String,
    pub(crate) details: String,
}

impl Failure {
    pub(crate) fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }

    /// Adds the cause, with its own causes.
    pub(crate) fn with(mut self, cause: impl Error) -> Self {
        self.details = chain(&cause);
        self
    }

    pub(crate) fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    pub(crate) fn to_json(&self, version: Version) -> Value {
        let mut error = json!({ "cniVersion": version.as_str(), "code": self.code, "msg": self.message });
        if !self.details.is_empty() {
            error["details"] = self.details.clone().into();
        }
        error
    }
}

/// The kernel said no to one of our requests.
impl From<netlink::Error> for Failure {
    fn from(error: netlink::Error) -> Self {
        let cause = error.source().map(chain).unwrap_or_default();
        Self::new(code::IO, error.to_string()).with_details(cause)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.details.is_empty() {
            write!(f, ": {}", self.details)?;
        }
        Ok(())
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn answers_in(input: &str, expect: &str) {
        assert_eq!(Version::of_input(input.as_bytes()).as_str(), expect, "{input}");
    }

    #[test]
    fn an_answer_comes_in_the_versions_of_the_request_or_the_latest() {
        for version in supported_versions() {
            answers_in(&format!(r#"{{"cniVersion":"{version}"}}"#), version);
        }
        answers_in(r#"{"cniVersion":"2.0.0"}"#, "1.1.0");
        answers_in(r#"{"cniVersion":1}"#, "1.1.0");
        answers_in("", "1.1.0");
        answers_in("{", "1.1.0");
    }

    #[test]
    fn a_failure_says_what_the_specification_wants() {
        let failure = Failure::new(code::TRY_AGAIN_LATER, "all addresses are taken");
        assert_eq!(
            failure.to_json(Version::V0_4_0),
            json!({"cniVersion": "0.4.0", "code": 11, "msg": "all addresses are taken"})
        );
        let failure = failure.with_details("10.244.0.0/30");
        assert_eq!(failure.to_json(Version::V1_1_0)["details"], "10.244.0.0/30");
        assert_eq!(failure.to_string(), "all addresses are taken: 10.244.0.0/30");
    }
}
