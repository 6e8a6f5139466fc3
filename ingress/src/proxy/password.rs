//! Whether a password is the one that is written down, found out without holding up a worker.
//!
//! Kinds that are slow on purpose are tried on threads of their own, a few at a time; what was right is remembered, so that
//! a client pays once and not with each request.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::compile::Password;
use crate::tls;

/// So many right answers are remembered.
const REMEMBERED: usize = 4_096;
/// So long a password waits for its turn, while others are tried.
const PATIENCE: Duration = Duration::from_secs(10);

/// What all workers know of passwords.
pub(super) struct Passwords {
    /// Without knowing it, what is remembered says nothing. None could be had: nothing is remembered.
    key: Option<[u8; 32]>,
    right: Mutex<HashSet<[u8; 32]>>,
    turns: Arc<Semaphore>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    Wrong,
    /// Too many others are being tried.
    Busy,
}

impl Passwords {
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        let secret = tls::provider().secure_random.fill(&mut key).is_ok();
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let key = secret.then_some(key);
        Self { key, right: Mutex::default(), turns: Arc::new(Semaphore::new(cores.div_ceil(2))) }
    }

    pub(super) async fn verify(&self, password: &Password, given: &[u8]) -> Verdict {
        let verdict = |right| if right { Verdict::Right } else { Verdict::Wrong };
        if let Password::Sha1 { .. } = password {
            return verdict(is_right(password, given));
        }
        let mark = self.mark(password, given);
        if self.remembers(&mark) {
            return Verdict::Right;
        }
        let Ok(Ok(turn)) = timeout(PATIENCE, Arc::clone(&self.turns).acquire_owned()).await else {
            return Verdict::Busy;
        };
        let (password, given) = (password.clone(), given.to_vec());
        // The turn is the trial's, which goes on though the client has left.
        let trial = move || {
            let right = is_right(&password, &given);
            drop(turn);
            right
        };
        let right = spawn_blocking(trial).await.unwrap_or(false);
        if right && self.key.is_some() {
            self.remember(mark);
        }
        verdict(right)
    }

    /// Another for each password as it is written down, so that a changed one is tried anew.
    fn mark(&self, password: &Password, given: &[u8]) -> [u8; 32] {
        let written = match password {
            Password::Bcrypt(text) => text.as_str(),
            Password::Md5 { hash, .. } => hash.as_str(),
            Password::Sha1 { .. } => "",
        };
        let mut hash = Sha256::new();
        hash.update(self.key.unwrap_or_default());
        hash.update(written);
        hash.update([0]);
        hash.update(given);
        hash.finalize().into()
    }

    fn remembers(&self, mark: &[u8; 32]) -> bool {
        self.right.lock().unwrap_or_else(PoisonError::into_inner).contains(mark)
    }

    fn remember(&self, mark: [u8; 32]) {
        let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        if right.len() >= REMEMBERED {
            right.clear();
        }
        right.insert(mark);
    }
}

fn is_right(password: &Password, given: &[u8]) -> bool {
    match password {
        // What is no hash is nobody's password.
        Password::Bcrypt(hash) => bcrypt::verify(given, hash).unwrap_or(false),
        Password::Md5 { magic, salt, hash } => {
            same(md5_crypt(magic.as_bytes(), salt.as_bytes(), given).as_bytes(), hash.as_bytes())
        }
        Password::Sha1 { hash, salt } => {
            let mut digest = Sha1::new();
            digest.update(given);
            digest.update(salt);
            same(&digest.finalize(), hash)
        }
    }
}

/// In a time that does not tell how much of it was right.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |sum, (one, other)| sum | (one ^ other)) == 0
}

/// MD5 as crypt(3) and Apache have it; `magic` is all that differs.
fn md5_crypt(magic: &[u8], salt: &[u8], given: &[u8]) -> String {
    let mut inner = Md5::new();
    for part in [given, salt, given] {
        inner.update(part);
    }
    let inner = inner.finalize();
    let mut outer = Md5::new();
    for part in [given, magic, salt] {
        outer.update(part);
    }
    for chunk in given.chunks(16) {
        outer.update(&inner[..chunk.len()]);
    }
    let mut bits = given.len();
    while bits > 0 {
        let first = [given.first().copied().unwrap_or_default()];
        outer.update(if bits & 1 == 1 { [0] } else { first });
        bits >>= 1;
    }
    let mut last: [u8; 16] = outer.finalize().into();
    for round in 0..1_000 {
        let mut hash = Md5::new();
        let parts: [&[u8]; 4] = [
            if round & 1 == 1 { given } else { &last },
            if round % 3 != 0 { salt } else { b"" },
            if round % 7 != 0 { given } else { b"" },
            if round & 1 == 1 { &last } else { given },
        ];
        parts.iter().for_each(|part| hash.update(part));
        last = hash.finalize().into();
    }
    let mut out = String::with_capacity(22);
    let mut write = |high: u8, middle: u8, low: u8, digits: usize| {
        const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut bits = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        for _ in 0..digits {
            out.push(char::from(DIGITS[bits & 63]));
            bits >>= 6;
        }
    };
    for [high, middle, low] in [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]] {
        write(last[high], last[middle], last[low], 4);
    }
    write(0, 0, last[11], 2);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::parse(text).unwrap()
    }

    #[test]
    fn each_kind_knows_its_password_and_no_other() {
        // Of `openssl passwd` and `htpasswd`.
        for (written, right) in [
            ("$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC", "myPassword"),
            ("$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/", "myPassword"),
            ("{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=", "myPassword"),
            ("$1$3azHgidD$DM6JbBVjroqo3ADT5ZyGZ/", "myPassword"),
            ("{SSHA}kL3+/tIbZ86DOhMac+F4u8lG275zYWx0", "myPassword"),
        ] {
            assert!(is_right(&password(written), right.as_bytes()), "{written}");
            for wrong in ["", "mypassword", "myPassword ", "myPasswor"] {
                assert!(!is_right(&password(written), wrong.as_bytes()), "{written} {wrong}");
            }
        }
    }

    #[test]
    fn whoever_waits_for_a_slow_one_waits_elsewhere() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let passwords = Passwords::new();
        let slow = password("$2y$09$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC");
        let seen = runtime.block_on(async {
            let mut verifying = std::pin::pin!(passwords.verify(&slow, b"myPassword"));
            tokio::select! {
                biased;
                verdict = &mut verifying => Err(verdict),
                () = std::future::ready(()) => Ok(verifying.await),
            }
        });
        assert_eq!(seen, Ok(Verdict::Wrong), "others were served before it was known");
    }

    #[test]
    fn what_was_right_is_remembered_for_that_password_alone() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let passwords = Passwords::new();
        let one = password("$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC");
        let verify = |password, given: &str| runtime.block_on(passwords.verify(password, given.as_bytes()));
        assert_eq!(verify(&one, "other"), Verdict::Wrong);
        assert_eq!(verify(&one, "myPassword"), Verdict::Right);
        assert!(passwords.remembers(&passwords.mark(&one, b"myPassword")));
        assert!(!passwords.remembers(&passwords.mark(&one, b"other")));
        let other = password("$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/");
        assert!(!passwords.remembers(&passwords.mark(&other, b"myPassword")));
        assert_eq!(verify(&other, "myPassword"), Verdict::Right);
    }
}
