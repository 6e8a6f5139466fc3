//! Reads a source folder again whenever something in it changes.
//!
//! On a thread of its own: reading and parsing a large folder keeps nobody waiting.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kubernetes::Watches;
use tokio::sync::{mpsc, oneshot};

use super::{Directory, Update};
use crate::event::Event;

/// A folder that is gone cannot be watched for its return: it is looked for so often.
const RETURN: Duration = Duration::from_secs(1);

/// Sends what `directory` holds, then again after each change. The receiver gets the error that ends it; the first read
/// must succeed.
pub(crate) fn follow(directory: Directory, events: mpsc::Sender<Event>) -> oneshot::Receiver<anyhow::Error> {
    let (ended, end) = oneshot::channel();
    thread::spawn(move || {
        if let Err(error) = watch(directory, &events) {
            // Nobody to tell: the agent is ending.
            drop(ended.send(error));
        }
    });
    end
}

/// Ends well when nobody listens any more.
fn watch(mut directory: Directory, events: &mpsc::Sender<Event>) -> Result<()> {
    let mut watches = Watches::new()
        .context("watch the source folder: no inotify instance to be had (fs.inotify.max_user_instances)")?;
    let first = directory.read(&mut |folder| watches.add(folder), &mut |changes| {
        // If nobody listens, the last word will not be heard either.
        drop(events.blocking_send(Event::Source(Update { changes, ..Update::default() })));
    })?;
    if events.blocking_send(Event::Source(first)).is_err() {
        return Ok(());
    }
    let mut lost = false;
    loop {
        watches.wait(lost.then_some(RETURN)).context("wait for changes in the source folder")?;
        let read = directory.read(&mut |folder| watches.add(folder), &mut |_| {});
        lost = read.is_err();
        if tell(read, events).is_none() {
            return Ok(());
        }
    }
}

fn tell(read: Result<Update>, events: &mpsc::Sender<Event>) -> Option<()> {
    let (update, complaints) = match read {
        Ok(update) => (Some(update), Vec::new()),
        Err(error) => (None, vec![format!("{error:#}; what was read before stays in force")]),
    };
    events.blocking_send(Event::Complaints { part: "source", complaints }).ok()?;
    match update {
        Some(update) => events.blocking_send(Event::Source(update)).ok(),
        None => Some(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;
    use crate::source::Change;
    use crate::testing::Folder;

    fn namespace(name: &str) -> String {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {name} }}\n")
    }

    /// Names of the objects that there are after the next update.
    async fn next(events: &mut mpsc::Receiver<Event>, held: &mut BTreeSet<String>) -> Vec<String> {
        let patience = Duration::from_secs(5);
        loop {
            let event =
                tokio::time::timeout(patience, events.recv()).await.expect("a change is seen").unwrap();
            let Event::Source(update) = event else { continue };
            for change in update.changes {
                match change {
                    Change::Apply(object, _) => held.insert(object.name().to_owned()),
                    Change::Delete(key) => held.remove(&key.name),
                };
            }
            return held.iter().cloned().collect();
        }
    }

    #[tokio::test]
    async fn every_way_to_change_a_folder_is_seen() {
        let folder = Folder::new();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a.yaml"), namespace("a")).unwrap();
        let (sender, mut events) = mpsc::channel(16);
        let _end = follow(Directory::new(folder.path()), sender);
        let held = &mut BTreeSet::new();
        assert_eq!(next(&mut events, held).await, ["a"]);

        fs::write(path(".new"), namespace("renamed")).unwrap();
        fs::rename(path(".new"), path("a.yaml")).unwrap();
        // The write beside it may have been seen on its own.
        while next(&mut events, held).await != ["renamed"] {}

        fs::create_dir(path("deeper")).unwrap();
        fs::write(path("deeper/b.yaml"), namespace("b")).unwrap();
        while next(&mut events, held).await != ["b", "renamed"] {}

        fs::remove_file(path("a.yaml")).unwrap();
        while next(&mut events, held).await != ["b"] {}

        std::os::unix::fs::symlink(path("deeper/b.yaml"), path("linked.yml")).unwrap();
        fs::remove_file(path("deeper/b.yaml")).unwrap();
        while !next(&mut events, held).await.is_empty() {}
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_at_the_start_is_an_error_that_names_it() {
        let (sender, _events) = mpsc::channel(16);
        let error = follow(Directory::new("/nowhere/at/all"), sender).await.unwrap();
        assert!(format!("{error:#}").contains("/nowhere/at/all"), "{error:#}");
    }
}
