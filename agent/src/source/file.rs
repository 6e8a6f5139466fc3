//! One file of a source folder: what of it is in force, by digests.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use policy::manifest::{self, Document};
use policy::{Object, Warning};

use super::key::Key;

/// A file that was changed this shortly before it was looked at may change again without its times telling.
const RACY_S: i64 = 2;

#[derive(Default)]
pub(super) struct File {
    /// As it was looked at last; `None`: the next look is at its bytes.
    stamp: Option<Stamp>,
    /// Of the bytes that were read last, good or bad.
    digest: Option<u64>,
    pub(super) objects: Vec<Written>,
    /// How often each kind stands in it that nobody watches, and the line of the first.
    pub(super) unwatched: BTreeMap<String, (usize, usize)>,
    pub(super) warnings: Vec<Warning>,
}

/// One object, and the line on which it begins.
#[derive(Clone)]
pub(super) struct Written {
    pub(super) line: usize,
    pub(super) key: Key,
    pub(super) digest: u64,
}

/// What was just read of one object.
pub(super) enum Parsed {
    Good(Object, Vec<Warning>),
    /// It is wrong, and its last good version stays.
    Bad,
}

/// What changes whenever the content does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the next change cannot fall into the same tick of the file system's clock.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        i64::try_from(now).is_ok_and(|now| self.changed.0 + RACY_S < now)
    }
}

impl File {
    /// Looks at the file again. `None`: it is gone. `Some(None)`: it holds what it held, or nothing that can be read.
    /// Else what was read of each of `objects`.
    ///
    /// `stamp` was taken before: what changes in between is seen the next time.
    pub(super) fn read_again(
        &mut self,
        path: &Path,
        name: &str,
        stamp: Stamp,
    ) -> Option<Option<Vec<Parsed>>> {
        if self.stamp == Some(stamp) {
            return Some(None);
        }
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                // Whatever comes next is news.
                self.forget_content();
                self.complain(name, &error.to_string());
                return Some(None);
            }
        };
        self.stamp = stamp.is_settled().then_some(stamp);
        let digest = Some(api::file_digest(&bytes));
        if digest == self.digest {
            return Some(None);
        }
        self.digest = digest;
        let parsed = match std::str::from_utf8(&bytes) {
            Ok(text) => manifest::documents(name, text).map_err(|error| error.to_string()),
            Err(error) => {
                let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
                Err(format!("{name}:{line}: not UTF-8"))
            }
        };
        drop(bytes);
        match parsed {
            Ok(documents) => Some(Some(self.take(documents))),
            Err(error) => {
                self.complain(name, &error);
                Some(None)
            }
        }
    }

    /// The next look is at the bytes, and whatever they are is news.
    pub(super) fn forget_content(&mut self) {
        self.stamp = None;
        self.digest = None;
    }

    /// [`api::file_digest`] of its bytes; of none, where they cannot be read.
    pub(super) fn digest(&self) -> u64 {
        self.digest.unwrap_or_else(|| api::file_digest(&[]))
    }

    fn complain(&mut self, name: &str, problem: &str) {
        let stays = if self.objects.is_empty() { "" } else { "; what it held before stays in force" };
        self.warnings = vec![Warning {
            object: format!("file {name}"),
            field: String::new(),
            message: format!("{problem}{stays}"),
        }];
    }

    fn take(&mut self, documents: Vec<Document>) -> Vec<Parsed> {
        let last = std::mem::take(&mut self.objects);
        let mut parsed = Vec::new();
        self.warnings.clear();
        self.unwatched.clear();
        for document in documents {
            match manifest::object(&document) {
                Ok(Some((object, warnings))) => {
                    let mut hasher = DefaultHasher::new();
                    document.value.hash(&mut hasher);
                    let key = Key::of(&object);
                    self.objects.push(Written { line: document.line, key, digest: hasher.finish() });
                    parsed.push(Parsed::Good(object, warnings));
                }
                Ok(None) => {
                    self.unwatched.entry(document.kind).or_insert((0, document.line)).0 += 1;
                }
                Err(mut warning) => {
                    let place = format!(" ({}:{})", document.origin, document.line);
                    warning.message.push_str(&place);
                    if let Some(good) = last.iter().find(|written| names(&document, &written.key)) {
                        warning.message.push_str("; its last good version stays in force");
                        self.objects.push(Written { line: document.line, ..good.clone() });
                        parsed.push(Parsed::Bad);
                    }
                    self.warnings.push(warning);
                }
            }
        }
        self.objects.shrink_to_fit();
        parsed
    }
}

/// Whether `document` is meant to be the next version of the object.
fn names(document: &Document, object: &Key) -> bool {
    let metadata = |field: &str| document.value["metadata"][field].as_str();
    document.kind == object.kind().as_str()
        && metadata("name") == Some(object.name())
        && object.namespace().is_none_or(|namespace| metadata("namespace").unwrap_or("default") == namespace)
}
