//! How long to wait before something is tried again.

use std::time::Duration;

/// Twice as long each time, up to the longest, and never quite as long, so that the nodes of a cluster do not come back all
/// at once.
pub struct Patience {
    next: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self::new()
    }
}

impl Patience {
    const SHORTEST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(30);

    pub fn new() -> Self {
        Self { next: Self::SHORTEST }
    }

    /// Waits, and will wait longer the next time.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next.mul_f64(0.5 + 0.5 * chance())).await;
        self.next = (2 * self.next).min(Self::LONGEST);
    }

    /// It went well: begins with the shortest wait again.
    pub fn restore(&mut self) {
        *self = Self::new();
    }
}

/// From 0 to 1, another each time: what the standard library seeds its hash maps with.
pub(crate) fn chance() -> f64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    let random = RandomState::new().build_hasher().finish();
    f64::from(u16::try_from(random % 1024).unwrap_or_default()) / 1024.0
}
