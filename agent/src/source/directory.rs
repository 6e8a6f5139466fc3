//! A folder of Kubernetes YAML and JSON, and what has changed in it since it was last read.
//!
//! Nothing that was once understood is lost to a typing error: where a file cannot be read or parsed, its last good
//! content stays in force; where one object in it is wrong, the last good version of that object does.
//!
//! Of texts and objects only digests are kept, so a saved file is parsed again, alone, and what it changes is told.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use policy::Warning;

use super::file::{File, Parsed, Stamp};
use super::key::Key;
use super::{Change, Update};

/// So many changes go ahead at once while the folder is read for the first time.
const AHEAD: usize = 256;

pub(crate) struct Directory {
    root: PathBuf,
    /// By path: the order of files is the order of paths.
    files: BTreeMap<PathBuf, File>,
    /// The digest of each object as it was told last.
    told: HashMap<Key, u64>,
    /// A whole read has been told.
    complete: bool,
}

impl Directory {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), files: BTreeMap::new(), told: HashMap::new(), complete: false }
    }

    /// Reads what is there now. `on_folder` is called with each folder before it is listed, so that a watch set up by
    /// it misses nothing. `ahead` gets the first changes of the first read, so that not all of them are held at once.
    ///
    /// Fails only where the root itself cannot be listed: a folder that is gone is no order to forget everything.
    pub(crate) fn read(
        &mut self,
        on_folder: &mut dyn FnMut(&Path),
        ahead: &mut dyn FnMut(Vec<Change>),
    ) -> Result<Update> {
        let mut walk = Walk { on_folder, seen: HashSet::new(), files: Vec::new(), warnings: Vec::new() };
        walk.folder(&self.root).with_context(|| {
            format!("read source {}: it must be a folder that this agent may list", self.root.display())
        })?;
        let Walk { mut files, mut warnings, .. } = walk;
        files.sort();

        let mut changes = Vec::new();
        let mut last = std::mem::take(&mut self.files);
        // Where each object stands that counts: the number of its file, and the line.
        let mut places: HashMap<Key, (usize, usize)> = HashMap::with_capacity(self.told.len());
        for (number, (path, stamp)) in files.iter().enumerate() {
            let name = self.name_of(path);
            let mut file = last.remove(path).unwrap_or_default();
            // A file that went away between listing and reading is no file.
            let Some(mut parsed) = file.read_again(path, &name, *stamp) else { continue };
            if parsed.is_none() && self.counts_anew(&file, &places) {
                // What stood before it in another file is gone.
                file.forget_content();
                parsed = file.read_again(path, &name, *stamp).flatten();
            }
            warnings.extend(file.warnings.iter().cloned());
            let mut parsed = parsed.unwrap_or_default().into_iter();
            for written in &file.objects {
                let parsed = parsed.next();
                match places.entry(written.key.clone()) {
                    Entry::Vacant(free) => {
                        free.insert((number, written.line));
                        if self.told.get(&written.key) == Some(&written.digest) {
                            continue;
                        }
                        if let Some(Parsed::Good(object, warnings)) = parsed {
                            self.told.insert(written.key.clone(), written.digest);
                            changes.push(Change::Apply(object, warnings));
                        }
                    }
                    Entry::Occupied(first) => {
                        let (first, line) = *first.get();
                        let first = files.get(first).map(|(path, _)| self.name_of(path)).unwrap_or_default();
                        warnings.push(Warning {
                            object: written.key.to_object_key().to_string(),
                            field: "metadata.name".into(),
                            message: format!(
                                "written twice, at {first}:{line} and at {name}:{}; the first counts",
                                written.line
                            ),
                        });
                    }
                }
                if !self.complete && changes.len() >= AHEAD {
                    ahead(std::mem::take(&mut changes));
                }
            }
            self.files.insert(path.clone(), file);
        }
        self.told.retain(|key, _| {
            let stays = places.contains_key(key);
            if !stays {
                changes.push(Change::Delete(key.to_object_key()));
            }
            stays
        });
        self.complete = true;
        warnings.extend(self.unwatched());
        let revision = api::revision_of_digests(self.files.values().map(File::digest));
        Ok(Update { changes, complete: true, warnings, revision: Some(revision), arrived: None })
    }

    /// Whether an object of the file, which has not changed, counts now and is not what was told last.
    fn counts_anew(&self, file: &File, places: &HashMap<Key, (usize, usize)>) -> bool {
        let mut counting = file.objects.iter().filter(|written| !places.contains_key(&written.key));
        counting.any(|written| self.told.get(&written.key) != Some(&written.digest))
    }

    /// One warning a kind, however many objects of it there are.
    fn unwatched(&self) -> impl Iterator<Item = Warning> {
        let mut kinds: BTreeMap<&str, (usize, String)> = BTreeMap::new();
        for (path, file) in &self.files {
            for (kind, (count, line)) in &file.unwatched {
                kinds.entry(kind).or_insert_with(|| (0, format!("{}:{line}", self.name_of(path)))).0 += count;
            }
        }
        kinds.into_iter().map(|(kind, (count, first))| Warning {
            object: kind.to_owned(),
            field: "kind".into(),
            message: format!(
                "skipped, Weir does not watch this kind ({count} written, the first at {first})"
            ),
        })
    }

    /// As people know the file: below the source's folder.
    fn name_of(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }
}

/// Finds the files, following links (the files of a ConfigMap volume are links) but no folder twice.
struct Walk<'a> {
    on_folder: &'a mut dyn FnMut(&Path),
    seen: HashSet<(u64, u64)>,
    files: Vec<(PathBuf, Stamp)>,
    warnings: Vec<Warning>,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Path) -> io::Result<()> {
        let metadata = fs::metadata(folder)?;
        if !self.seen.insert((metadata.dev(), metadata.ino())) {
            return Ok(());
        }
        (self.on_folder)(folder);
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            // Editors and ConfigMap volumes keep their unfinished business under such names.
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
                continue;
            }
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if metadata.is_dir() {
                if let Err(error) = self.folder(&path) {
                    self.warnings.push(Warning {
                        object: format!("folder {}", path.display()),
                        field: String::new(),
                        message: error.to_string(),
                    });
                }
            } else if path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json") {
                self.files.push((path, Stamp::of(&metadata)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use policy::{Object, ObjectKey};

    use super::*;
    use crate::testing::Folder;

    const WEB: &str = "apiVersion: v1\nkind: Namespace\nmetadata: { name: web }\n";
    const DB: &str = "apiVersion: v1\nkind: Namespace\nmetadata: { name: db }\n";

    struct Source {
        folder: Folder,
        directory: Directory,
        /// What was told, all together.
        held: BTreeMap<ObjectKey, Object>,
    }

    impl Source {
        fn new(files: &[(&str, &str)]) -> Self {
            let folder = Folder::new();
            let directory = Directory::new(folder.path());
            let source = Self { directory, folder, held: BTreeMap::new() };
            files.iter().for_each(|(name, text)| source.write(name, text));
            source
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn update(&mut self) -> Update {
            let mut ahead = Vec::new();
            let mut update = self.directory.read(&mut |_| {}, &mut |changes| ahead.extend(changes)).unwrap();
            ahead.append(&mut update.changes);
            update.changes = ahead;
            update
        }

        /// What changed, as `+NAME` and `-NAME`.
        fn changes(&mut self) -> Vec<String> {
            let told = |change| match change {
                Change::Apply(object, _) => format!("+{}", object.name()),
                Change::Delete(key) => format!("-{}", key.name),
            };
            self.update().changes.into_iter().map(told).collect()
        }

        /// Names of the objects, and the warnings.
        fn read(&mut self) -> (Vec<String>, Vec<String>) {
            let update = self.update();
            for change in update.changes {
                match change {
                    Change::Apply(object, _) => drop(self.held.insert(object.key(), object)),
                    Change::Delete(key) => assert!(self.held.remove(&key).is_some(), "{key} was told before"),
                }
            }
            let names = self.held.keys().map(|key| key.name.clone()).collect();
            (names, update.warnings.iter().map(Warning::to_string).collect())
        }
    }

    #[test]
    fn yaml_and_json_are_read_wherever_they_lie_and_nothing_else() {
        let mut source = Source::new(&[
            ("a.yaml", WEB),
            ("deep/er/b.yml", DB),
            ("c.json", r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"json"}}"#),
            (".hidden.yaml", "kind: ["),
            ("notes.txt", "kind: ["),
        ]);
        let (mut names, warnings) = source.read();
        names.sort();
        assert_eq!(names, ["db", "json", "web"]);
        assert_eq!(warnings, Vec::<String>::new());
    }

    #[test]
    fn a_file_that_cannot_be_parsed_keeps_its_last_good_content_and_harms_no_other() {
        let mut source = Source::new(&[("a.yaml", WEB), ("b.yaml", DB)]);
        source.read();
        source.write("a.yaml", "kind: [unfinished");
        source.write("b.yaml", "");
        let (names, warnings) = source.read();
        assert_eq!(names, ["web"]);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("file a.yaml: a.yaml:"), "{warnings:?}");
        assert!(warnings[0].ends_with("what it held before stays in force"), "{warnings:?}");

        source.write("a.yaml", WEB);
        assert_eq!(source.read(), (vec!["web".to_owned()], Vec::new()));
    }

    #[test]
    fn a_file_that_was_never_good_is_named_and_the_others_count() {
        let mut source = Source::new(&[("a.yaml", "kind: [unfinished"), ("b.yaml", DB)]);
        let (names, warnings) = source.read();
        assert_eq!(names, ["db"]);
        assert!(warnings[0].starts_with("file a.yaml: a.yaml:"), "{warnings:?}");
    }

    #[test]
    fn one_wrong_object_keeps_its_last_good_version_and_harms_no_other_in_its_file() {
        let service = |port: &str| {
            format!(
                "{WEB}---\napiVersion: v1\nkind: Service\nmetadata: {{ name: front, namespace: web }}\n\
                 spec: {{ ports: [{{ port: {port} }}] }}\n"
            )
        };
        let mut source = Source::new(&[("a.yaml", &service("80"))]);
        source.read();
        source.write("a.yaml", &service("eighty"));
        let (mut names, warnings) = source.read();
        names.sort();
        assert_eq!(names, ["front", "web"]);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("Service web/front: spec.ports[0].port: "), "{warnings:?}");
        assert!(warnings[0].ends_with("(a.yaml:5); its last good version stays in force"), "{warnings:?}");
    }

    #[test]
    fn a_file_that_is_gone_takes_its_objects_along() {
        let mut source = Source::new(&[("a.yaml", WEB), ("b.yaml", DB)]);
        source.read();
        fs::remove_file(source.folder.path().join("a.yaml")).unwrap();
        assert_eq!(source.read(), (vec!["db".to_owned()], Vec::new()));
    }

    #[test]
    fn an_object_written_twice_is_named_with_both_places() {
        let mut source = Source::new(&[("a.yaml", WEB), ("b.yaml", WEB)]);
        let (names, warnings) = source.read();
        assert_eq!(names, ["web"]);
        assert_eq!(
            warnings,
            ["Namespace web: metadata.name: written twice, at a.yaml:1 and at b.yaml:1; the first counts"]
        );
    }

    #[test]
    fn kinds_that_nobody_watches_are_named_once_and_skipped() {
        let map = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: settings }\n";
        let mut source = Source::new(&[("a.yaml", &format!("{WEB}{map}{map}")), ("b.yaml", map)]);
        let (names, warnings) = source.read();
        assert_eq!(names, ["web"]);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("ConfigMap: kind: skipped"), "{warnings:?}");
        assert!(warnings[0].contains("3 written, the first at a.yaml:"), "{warnings:?}");
    }

    #[test]
    fn a_folder_that_is_gone_is_an_error_not_an_empty_cluster() {
        let mut source = Source::new(&[("a.yaml", WEB)]);
        source.read();
        fs::remove_dir_all(source.folder.path()).unwrap();
        assert!(source.directory.read(&mut |_| {}, &mut |_| {}).is_err());
        source.write("a.yaml", WEB);
        assert_eq!(source.read().0, ["web"]);
    }

    #[test]
    fn the_revision_is_that_of_all_bytes_in_the_order_of_paths() {
        let mut source = Source::new(&[("b.yaml", DB), ("a.yaml", WEB)]);
        assert_eq!(source.update().revision, Some(api::source_revision([WEB.as_bytes(), DB.as_bytes()])));
    }

    #[test]
    fn a_saved_file_tells_what_changed_in_it_and_nothing_else() {
        let both = |label: &str| {
            format!(
                "{WEB}---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: db, labels: {{ is: {label} }} }}\n"
            )
        };
        let mut source = Source::new(&[("a.yaml", &both("old")), ("b.yaml", &WEB.replace("web", "other"))]);
        assert_eq!(source.changes(), ["+web", "+db", "+other"]);
        assert_eq!(source.changes(), [""; 0]);
        source.write("a.yaml", &both("new"));
        assert_eq!(source.changes(), ["+db"]);
        source.write("a.yaml", &format!("# moved\n---\n{DB}---\n{WEB}"));
        assert_eq!(source.changes(), ["+db"], "places and order are no change");
        source.write("a.yaml", DB);
        assert_eq!(source.changes(), ["-web"]);
        source.write("a.yaml", "kind: [unfinished");
        assert_eq!(source.changes(), [""; 0]);
        fs::remove_file(source.folder.path().join("a.yaml")).unwrap();
        assert_eq!(source.changes(), ["-db"]);
    }

    #[test]
    fn the_second_of_two_counts_once_the_first_is_gone() {
        let labelled = |label: &str| {
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: web, labels: {{ is: {label} }} }}\n")
        };
        let mut source = Source::new(&[("a.yaml", &labelled("first")), ("b.yaml", &labelled("second"))]);
        let label = |source: &Source| {
            let web = source.held.values().next().unwrap();
            web.metadata().labels.as_ref().unwrap()["is"].clone()
        };
        source.read();
        assert_eq!(label(&source), "first");
        source.write("b.yaml", &labelled("changed"));
        assert_eq!(source.changes(), [""; 0], "it does not count");
        fs::remove_file(source.folder.path().join("a.yaml")).unwrap();
        assert_eq!(source.read().1, [""; 0]);
        assert_eq!(label(&source), "changed");
        source.write("a.yaml", &labelled("third"));
        source.read();
        assert_eq!(label(&source), "third");
    }

    #[test]
    fn the_first_read_goes_ahead_in_parts_and_later_ones_come_as_one() {
        let namespaces = |prefix: &str| -> String {
            let one = |index| {
                format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: {prefix}{index} }}\n")
            };
            (0..2 * AHEAD).map(one).collect()
        };
        let source = Source::new(&[("a.yaml", &namespaces("a"))]);
        let mut directory = source.directory;
        let mut ahead = 0;
        let mut read = |ahead: &mut usize| {
            directory.read(&mut |_| {}, &mut |changes| *ahead += changes.len()).unwrap().changes.len()
        };
        assert_eq!((read(&mut ahead), ahead), (0, 2 * AHEAD));
        fs::write(source.folder.path().join("a.yaml"), namespaces("b")).unwrap();
        assert_eq!((read(&mut ahead), ahead), (4 * AHEAD, 2 * AHEAD));
    }
}
