//! A folder of Kubernetes YAML and JSON, read whole.
//!
//! Nothing that was once understood is lost to a typing error: where a file cannot be read or parsed, its last good
//! content stays in force; where one object in it is wrong, the last good version of that object does.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use policy::manifest::{self, Document};
use policy::{Object, ObjectKey, Warning};

use super::Snapshot;

pub(crate) struct Directory {
    root: PathBuf,
    /// By path: the order of files is the order of paths.
    files: BTreeMap<PathBuf, File>,
}

/// What is in force of one file.
#[derive(Default)]
struct File {
    /// As it was last read, good or bad; empty before.
    bytes: Vec<u8>,
    objects: Vec<Written>,
    /// How often each kind stands in it that nobody watches, and the line of the first.
    unwatched: BTreeMap<String, (usize, usize)>,
    warnings: Vec<Warning>,
}

/// One object and the line on which it begins.
#[derive(Clone)]
struct Written {
    line: usize,
    object: Object,
    warnings: Vec<Warning>,
}

impl Directory {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), files: BTreeMap::new() }
    }

    /// Reads what is there now. `on_folder` is called with each folder before it is listed, so that a watch set up by
    /// it misses nothing.
    ///
    /// Fails only where the root itself cannot be listed: a folder that is gone is no order to forget everything.
    pub(crate) fn read(&mut self, on_folder: &mut dyn FnMut(&Path)) -> Result<Snapshot> {
        let mut walk = Walk { on_folder, seen: HashSet::new(), files: Vec::new(), warnings: Vec::new() };
        walk.folder(&self.root).with_context(|| {
            format!("read source {}: it must be a folder that this agent may list", self.root.display())
        })?;
        let Walk { mut files, warnings, .. } = walk;
        files.sort();

        let mut last = std::mem::take(&mut self.files);
        for path in files {
            let file = last.remove(&path).unwrap_or_default();
            // A file that went away between listing and reading is no file.
            if let Some(file) = file.read_again(&path, &self.name_of(&path)) {
                self.files.insert(path, file);
            }
        }
        Ok(self.snapshot(warnings))
    }

    fn snapshot(&self, mut warnings: Vec<Warning>) -> Snapshot {
        let mut objects: BTreeMap<ObjectKey, (String, &Written)> = BTreeMap::new();
        for (path, file) in &self.files {
            warnings.extend(file.warnings.iter().cloned());
            for written in &file.objects {
                let place = format!("{}:{}", self.name_of(path), written.line);
                if let Some((first, _)) = objects.get(&written.object.key()) {
                    warnings.push(Warning {
                        object: written.object.key().to_string(),
                        field: "metadata.name".into(),
                        message: format!("written twice, at {first} and at {place}; the first counts"),
                    });
                } else {
                    objects.insert(written.object.key(), (place, written));
                }
            }
        }
        warnings.extend(self.unwatched());
        let objects = objects
            .into_values()
            .map(|(_, written)| (written.object.clone(), written.warnings.clone()))
            .collect();
        let revision = api::source_revision(self.files.values().map(|file| file.bytes.as_slice()));
        Snapshot { objects, warnings, revision: Some(revision) }
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

impl File {
    /// What is in force once the file has been looked at again; `None` where it is gone.
    fn read_again(mut self, path: &Path, name: &str) -> Option<Self> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                // Whatever comes next is news.
                self.bytes.clear();
                self.complain(name, &error.to_string());
                return Some(self);
            }
        };
        if bytes == self.bytes {
            return Some(self);
        }
        let parsed = match std::str::from_utf8(&bytes) {
            Ok(text) => manifest::documents(name, text).map_err(|error| error.to_string()),
            Err(error) => {
                let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
                Err(format!("{name}:{line}: not UTF-8"))
            }
        };
        self.bytes = bytes;
        match parsed {
            Ok(documents) => self.take(&documents),
            Err(error) => self.complain(name, &error),
        }
        Some(self)
    }

    fn complain(&mut self, name: &str, problem: &str) {
        let stays = if self.objects.is_empty() { "" } else { "; what it held before stays in force" };
        self.warnings = vec![Warning {
            object: format!("file {name}"),
            field: String::new(),
            message: format!("{problem}{stays}"),
        }];
    }

    fn take(&mut self, documents: &[Document]) {
        let last = std::mem::take(&mut self.objects);
        self.warnings.clear();
        self.unwatched.clear();
        for document in documents {
            match manifest::object(document) {
                Ok(Some((object, warnings))) => {
                    self.objects.push(Written { line: document.line, object, warnings });
                }
                Ok(None) => {
                    self.unwatched.entry(document.kind.clone()).or_insert((0, document.line)).0 += 1;
                }
                Err(mut warning) => {
                    let place = format!(" ({}:{})", document.origin, document.line);
                    warning.message.push_str(&place);
                    if let Some(good) = last.iter().find(|written| names(document, &written.object)) {
                        warning.message.push_str("; its last good version stays in force");
                        self.objects.push(Written { line: document.line, ..good.clone() });
                    }
                    self.warnings.push(warning);
                }
            }
        }
    }
}

/// Whether `document` is meant to be the next version of `object`.
fn names(document: &Document, object: &Object) -> bool {
    let metadata = |field: &str| document.value["metadata"][field].as_str();
    document.kind == object.kind().as_str()
        && metadata("name") == Some(object.name())
        && object.namespace().is_none_or(|namespace| metadata("namespace").unwrap_or("default") == namespace)
}

/// Finds the files, following links (the files of a ConfigMap volume are links) but no folder twice.
struct Walk<'a> {
    on_folder: &'a mut dyn FnMut(&Path),
    seen: HashSet<(u64, u64)>,
    files: Vec<PathBuf>,
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
                self.files.push(path);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    const WEB: &str = "apiVersion: v1\nkind: Namespace\nmetadata: { name: web }\n";
    const DB: &str = "apiVersion: v1\nkind: Namespace\nmetadata: { name: db }\n";

    struct Source {
        folder: Folder,
        directory: Directory,
    }

    impl Source {
        fn new(files: &[(&str, &str)]) -> Self {
            let folder = Folder::new();
            let source = Self { directory: Directory::new(folder.path()), folder };
            files.iter().for_each(|(name, text)| source.write(name, text));
            source
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// Names of the objects, and the warnings.
        fn read(&mut self) -> (Vec<String>, Vec<String>) {
            let snapshot = self.directory.read(&mut |_| {}).unwrap();
            let names = snapshot.objects.iter().map(|(object, _)| object.name().to_owned()).collect();
            (names, snapshot.warnings.iter().map(Warning::to_string).collect())
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
        assert!(source.directory.read(&mut |_| {}).is_err());
        source.write("a.yaml", WEB);
        assert_eq!(source.read().0, ["web"]);
    }

    #[test]
    fn the_revision_is_that_of_all_bytes_in_the_order_of_paths() {
        let mut source = Source::new(&[("b.yaml", DB), ("a.yaml", WEB)]);
        let snapshot = source.directory.read(&mut |_| {}).unwrap();
        assert_eq!(snapshot.revision, Some(api::source_revision([WEB.as_bytes(), DB.as_bytes()])));
    }
}
