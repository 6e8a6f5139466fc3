//! When a request is given to another endpoint, where an object says so: `proxy-next-upstream`.

use std::time::Duration;

use hyper::StatusCode;

use super::reader::Reader;

/// What is tried again beyond what cannot have been acted upon. Only requests without a body: none is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Nobody else is asked.
    pub off: bool,
    /// Those who are asked, the first included; none: as many as always.
    pub tries: Option<u32>,
    /// Nobody new is asked after so long.
    pub within: Option<Duration>,
    /// Where there was no response.
    pub error: bool,
    /// Where there was none in time.
    pub timeout: bool,
    pub statuses: Vec<StatusCode>,
    /// Whatever the method.
    pub any_method: bool,
}

impl Retries {
    pub(super) fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        let expected = "off, or some of error, timeout, invalid_header, non_idempotent, http_500, http_502, http_503, \
             http_504, http_403, http_404 and http_429";
        let on = reader.value("proxy-next-upstream", expected, |text| {
            let mut retries = Self::usual();
            (retries.error, retries.timeout) = (false, false);
            for word in text.split_whitespace() {
                match word {
                    "off" => retries.off = true,
                    "error" | "invalid_header" => retries.error = true,
                    "timeout" => retries.timeout = true,
                    "non_idempotent" => retries.any_method = true,
                    _ => {
                        let code: u16 = word.strip_prefix("http_")?.parse().ok()?;
                        let known = [500, 502, 503, 504, 403, 404, 429].contains(&code);
                        retries.statuses.push(StatusCode::from_u16(code).ok().filter(|_| known)?);
                    }
                }
            }
            Some(retries)
        });
        let tries = reader.number("proxy-next-upstream-tries", 0).filter(|tries| *tries > 0);
        let within = reader.value("proxy-next-upstream-timeout", "seconds, or 0 for no bound", |text| {
            text.parse().ok().map(Duration::from_secs)
        });
        let within = within.filter(|within| !within.is_zero());
        if on.is_none() && tries.is_none() && within.is_none() {
            return None;
        }
        Some(Self { tries, within, ..on.unwrap_or(Self::usual()) })
    }

    /// What is done where nothing is said of it.
    fn usual() -> Self {
        Self {
            off: false,
            tries: None,
            within: None,
            error: false,
            timeout: false,
            statuses: Vec::new(),
            any_method: false,
        }
    }
}
