//! The ledger on disk, locked across processes.
//!
//! A change is one file written beside and renamed over: whenever the process dies, the old ledger or the new one is
//! there, whole. It is not synced to the disk. A sync would cost more than all of the rest of `ADD`, and only a power
//! cut could tell the difference; but that ends every pod, and the next boot starts a ledger of its own (its name holds
//! the boot id) in which everything is free. From the last boot's it takes the order of releases, if it can be read.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};

use crate::ipam::Ledger;
use crate::spec::{Failure, code};

/// Where the ledger is kept, and for which boot.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    boot_id: String,
}

/// The ledger, while no other process can read or change it. What is not committed is forgotten.
#[derive(Debug)]
pub(crate) struct Locked {
    pub(crate) ledger: Ledger,
    store: Store,
    /// The ledgers of earlier boots, to be removed once this boot has its own.
    stale: Vec<PathBuf>,
    _lock: Flock<File>,
}

impl Store {
    pub(crate) fn new(dir: PathBuf, boot_id: String) -> Self {
        Self { dir, boot_id }
    }

    /// Waits for the lock, and makes the folder where it is missing. The lock is only ever held for one change.
    pub(crate) fn lock(&self) -> Result<Locked, Failure> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(|error| failure("create", &self.dir, error))?;
        let path = self.dir.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| failure("open", &path, error))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| failure("lock", &path, errno.into()))?;
        let (ledger, stale) = self.load()?;
        Ok(Locked { ledger, store: self.clone(), stale, _lock: lock })
    }

    /// As [`Store::lock`], but where there is no folder there is no ledger, and none is made.
    pub(crate) fn lock_existing(&self) -> Result<Option<Locked>, Failure> {
        if self.dir.is_dir() { self.lock().map(Some) } else { Ok(None) }
    }

    fn load(&self) -> Result<(Ledger, Vec<PathBuf>), Failure> {
        let path = self.path();
        match fs::read(&path) {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(ledger) => Ok((ledger, Vec::new())),
                // Somebody else's hand, not a crash: to go on would give addresses out twice.
                Err(error) => {
                    Err(Failure::new(code::IO, format!("{} is not an address ledger", path.display()))
                        .with(error))
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.inherit(),
            Err(error) => Err(failure("read", &path, error)),
        }
    }

    /// A new boot's ledger: everything is free, the newest readable old ledger says in which order.
    fn inherit(&self) -> Result<(Ledger, Vec<PathBuf>), Failure> {
        let mut stale = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(|error| failure("list", &self.dir, error))? {
            let entry = entry.map_err(|error| failure("list", &self.dir, error))?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
                let modified = entry.metadata().and_then(|metadata| metadata.modified());
                stale.push((modified.unwrap_or(SystemTime::UNIX_EPOCH), entry.path()));
            }
        }
        stale.sort();
        let newest_readable =
            stale.iter().rev().find_map(|(_, path)| serde_json::from_slice(&fs::read(path).ok()?).ok());
        let mut ledger: Ledger = newest_readable.unwrap_or_default();
        ledger.release_everything(now());
        Ok((ledger, stale.into_iter().map(|(_, path)| path).collect()))
    }

    fn path(&self) -> PathBuf {
        self.dir.join(format!("{PREFIX}{}{SUFFIX}", self.boot_id))
    }
}

impl Locked {
    /// Makes the changes last.
    pub(crate) fn commit(self) -> Result<(), Failure> {
        let path = self.store.path();
        let beside = self.store.dir.join("leases.new");
        let text = serde_json::to_vec(&self.ledger)
            .map_err(|error| Failure::new(code::IO, "encode the address ledger").with(error))?;
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)
            .and_then(|mut file| file.write_all(&text))
            .map_err(|error| failure("write", &beside, error))?;
        fs::rename(&beside, &path).map_err(|error| failure("replace", &path, error))?;
        for stale in &self.stale {
            // One that stays is not read again as long as this boot has its own.
            fs::remove_file(stale).ok();
        }
        Ok(())
    }
}

const PREFIX: &str = "leases-";
const SUFFIX: &str = ".json";

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn failure(operation: &str, path: &Path, error: io::Error) -> Failure {
    Failure::new(code::IO, format!("{operation} {}", path.display())).with(error)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::ipam::Holder;

    /// A store in a folder of its own, gone on drop.
    struct Scratch {
        store: Store,
    }

    impl Scratch {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let name = format!("weir-ipam-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            Self { store: Store::new(std::env::temp_dir().join(name), "boot-1".into()) }
        }

        fn allocate(&self, container_id: &str) -> String {
            let mut locked = self.store.lock().unwrap();
            let ip = give(&mut locked.ledger, container_id);
            locked.commit().unwrap();
            ip
        }

        fn reboot(&mut self, boot_id: &str) {
            self.store.boot_id = boot_id.into();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.store.dir).ok();
        }
    }

    fn give(ledger: &mut Ledger, container_id: &str) -> String {
        let holder =
            Holder { network: "weir".into(), container_id: container_id.into(), ifname: "eth0".into() };
        match ledger.allocate(&holder, &["10.244.0.0/24".parse().unwrap()], &[]) {
            Ok(ips) => ips[0].to_string(),
            Err(refusal) => refusal.to_string(),
        }
    }

    #[test]
    fn what_was_committed_is_there_and_what_was_not_is_forgotten() {
        let scratch = Scratch::new();
        assert!(scratch.store.lock_existing().unwrap().is_none());
        assert_eq!(scratch.allocate("a"), "10.244.0.1");
        let mut locked = scratch.store.lock().unwrap();
        assert_eq!(give(&mut locked.ledger, "b"), "10.244.0.2");
        drop(locked);
        assert_eq!(scratch.allocate("c"), "10.244.0.2");
    }

    #[test]
    fn a_new_boot_frees_everything_and_gives_the_unused_first() {
        let mut scratch = Scratch::new();
        assert_eq!(scratch.allocate("a"), "10.244.0.1");
        scratch.reboot("boot-2");
        assert_eq!(scratch.allocate("a"), "10.244.0.2");
        let files = fs::read_dir(&scratch.store.dir).unwrap();
        let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["leases-boot-2.json", "lock"]);
    }

    #[test]
    fn a_ledger_torn_by_a_power_cut_does_not_stop_the_next_boot() {
        let mut scratch = Scratch::new();
        scratch.allocate("a");
        fs::write(scratch.store.path(), b"").unwrap();
        let failure = scratch.store.lock().unwrap_err();
        assert_eq!(failure.code, code::IO);
        assert_eq!(failure.message, format!("{} is not an address ledger", scratch.store.path().display()));
        scratch.reboot("boot-2");
        assert_eq!(scratch.allocate("b"), "10.244.0.1");
    }

    #[test]
    fn processes_wait_for_each_other() {
        let scratch = Scratch::new();
        let addresses: std::collections::BTreeSet<String> = std::thread::scope(|scope| {
            let allocate = |n: u32| {
                scope.spawn({
                    let scratch = &scratch;
                    move || scratch.allocate(&n.to_string())
                })
            };
            let threads: Vec<_> = (0..16).map(allocate).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(addresses.len(), 16);
    }

    /// Where a process can die while it changes the ledger.
    #[derive(Clone, Copy, Debug)]
    enum Death {
        BeforeWriting,
        /// With this many bytes of the new ledger on disk, in hundredths.
        Writing(usize),
        BeforeRenaming,
    }

    fn deaths() -> impl Strategy<Value = Option<Death>> {
        prop::option::of(prop_oneof![
            Just(Death::BeforeWriting),
            (0..100usize).prop_map(Death::Writing),
            Just(Death::BeforeRenaming),
        ])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// The only writes are the new file and the rename; dying before either leaves the old ledger.
        #[test]
        fn a_death_between_any_two_writes_leaves_a_whole_ledger(
            history in prop::collection::vec((0..8u8, any::<bool>(), deaths()), 1..24),
        ) {
            let scratch = Scratch::new();
            let mut before = Ledger::default();
            for (name, add, death) in history {
                let mut locked = scratch.store.lock().unwrap();
                prop_assert_eq!(&locked.ledger, &before);
                if add {
                    give(&mut locked.ledger, &name.to_string());
                } else {
                    locked.ledger.release(&name.to_string(), "eth0", 1);
                }
                let text = serde_json::to_vec(&locked.ledger).unwrap();
                let written = match death {
                    None => {
                        before = locked.ledger.clone();
                        locked.commit().unwrap();
                        continue;
                    }
                    Some(Death::BeforeWriting) => continue,
                    Some(Death::Writing(hundredths)) => text.len() * hundredths / 100,
                    Some(Death::BeforeRenaming) => text.len(),
                };
                fs::write(scratch.store.dir.join("leases.new"), &text[..written]).unwrap();
            }
            prop_assert_eq!(&scratch.store.lock().unwrap().ledger, &before);
        }
    }
}
