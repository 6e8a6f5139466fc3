//! Folders and files of Kubernetes YAML and JSON, read again as a whole; only what has changed is parsed again.
//!
//! Nothing that was once understood is lost to a typing error: a file that cannot be read or parsed keeps its last good
//! content, an object with a mistake its last good version.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use policy::Warning;
use policy::manifest;

use crate::object::{Name, Object, World};

/// What is to be read, and what was read last.
pub struct Files {
    roots: Vec<PathBuf>,
    files: BTreeMap<PathBuf, File>,
}

#[derive(Default)]
struct File {
    stamp: Option<Stamp>,
    objects: Vec<Object>,
    warnings: Vec<Warning>,
}

/// When it differs, the content may.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A file or folder that was named cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("read {}: it must be a file or a folder that may be read", path.display())]
pub struct Error {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Files {
    pub fn new(roots: Vec<PathBuf>) -> Self {
        Self { roots, files: BTreeMap::new() }
    }

    /// The files that were read last.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }

    /// Everything that is written now. `on_folder` is called with each folder before it is listed, so that a watch set up
    /// by it misses nothing.
    pub fn read(&mut self, on_folder: &mut dyn FnMut(&Path)) -> Result<(World, Vec<Warning>), Error> {
        let mut found = BTreeMap::new();
        let mut warnings = Vec::new();
        for root in &self.roots {
            let error = |source| Error { path: root.clone(), source };
            let metadata = fs::metadata(root).map_err(error)?;
            if metadata.is_dir() {
                walk(root, on_folder, &mut BTreeSet::new(), &mut found, &mut warnings).map_err(error)?;
            } else {
                on_folder(root.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new(".")));
                found.insert(root.clone(), Stamp::of(&metadata));
            }
        }
        self.files.retain(|path, _| found.contains_key(path));
        let mut world = World::default();
        let mut places: HashMap<(&'static str, Name), String> = HashMap::new();
        for (path, stamp) in found {
            let file = self.files.entry(path.clone()).or_default();
            if file.stamp != Some(stamp) {
                file.read_again(&path);
                file.stamp = Some(stamp);
            }
            warnings.extend(file.warnings.iter().cloned());
            for object in &file.objects {
                let key = (object.kind(), object.name());
                let here = path.display().to_string();
                match places.get(&key) {
                    None => {
                        places.insert(key, here);
                        world.apply(object.clone());
                    }
                    Some(first) => warnings.push(Warning {
                        object: format!("{} {}", key.0, key.1),
                        field: "metadata.name".into(),
                        message: format!("written twice, in {first} and in {here}; the first counts"),
                    }),
                }
            }
        }
        Ok((world, warnings))
    }
}

impl File {
    fn read_again(&mut self, path: &Path) {
        let held =
            if self.objects.is_empty() { "it is left out" } else { "what it held before stays in force" };
        let whole = |message: String| Warning {
            object: format!("file {}", path.display()),
            field: String::new(),
            message: format!("{message}; {held}"),
        };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return self.warnings = vec![whole(error.to_string())],
        };
        let documents = match manifest::documents(&path.display().to_string(), &text) {
            Ok(documents) => documents,
            Err(error) => return self.warnings = vec![whole(error.to_string())],
        };
        let last = std::mem::take(&mut self.objects);
        self.warnings.clear();
        for document in documents {
            match Object::read(&document) {
                Ok(None) => {}
                Ok(Some((object, warnings))) => {
                    self.objects.push(object);
                    self.warnings.extend(warnings);
                }
                Err(mut warning) => {
                    let metadata = &document.value["metadata"];
                    let good = last.iter().find(|object| {
                        object.kind() == document.kind
                            && object.metadata().name.as_deref() == metadata["name"].as_str()
                            && object.metadata().namespace.as_deref() == metadata["namespace"].as_str()
                    });
                    warning.message.push_str(&format!(
                        " ({}:{}); {}",
                        document.origin,
                        document.line,
                        if good.is_some() {
                            "its last good version stays in force"
                        } else {
                            "it is left out"
                        }
                    ));
                    self.warnings.push(warning);
                    self.objects.extend(good.cloned());
                }
            }
        }
    }
}

/// Follows links, as the files of a ConfigMap volume are links, but enters no folder twice.
fn walk(
    folder: &Path,
    on_folder: &mut dyn FnMut(&Path),
    seen: &mut BTreeSet<(u64, u64)>,
    found: &mut BTreeMap<PathBuf, Stamp>,
    warnings: &mut Vec<Warning>,
) -> io::Result<()> {
    let metadata = fs::metadata(folder)?;
    if !seen.insert((metadata.dev(), metadata.ino())) {
        return Ok(());
    }
    on_folder(folder);
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // Editors and ConfigMap volumes keep their unfinished business under such names.
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        // It may have gone since it was listed.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            if let Err(error) = walk(&path, on_folder, seen, found, warnings) {
                warnings.push(Warning {
                    object: format!("folder {}", path.display()),
                    field: String::new(),
                    message: error.to_string(),
                });
            }
        } else if path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json") {
            found.insert(path, Stamp::of(&metadata));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("weir-ingress-files-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, text: &str) {
            fs::create_dir_all(self.0.join(name).parent().unwrap()).unwrap();
            fs::write(self.0.join(name), text).unwrap();
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn service(name: &str, port: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {{ ports: [{{ port: {port} }}] }}\n"
        )
    }

    fn read(files: &mut Files) -> (Vec<String>, Vec<String>) {
        let (world, warnings) = files.read(&mut |_| {}).unwrap();
        let ports = |name: &Name| world.services[name].spec.as_ref().unwrap().ports.as_ref().unwrap()[0].port;
        let names = world.services.keys().map(|name| format!("{name}:{}", ports(name))).collect();
        (names, warnings.iter().map(Warning::to_string).collect())
    }

    #[test]
    fn folders_and_files_are_read_and_kinds_that_are_not_ours_passed_over() {
        let folder = Folder::new("kinds");
        folder.write("a.yaml", &service("a", "1"));
        folder.write(
            "deep/er/b.yml",
            &(service("b", "2") + "---\napiVersion: v1\nkind: Pod\nmetadata: { name: p }\n"),
        );
        folder.write(".hidden.yaml", "kind: [");
        folder.write("notes.txt", "kind: [");
        let mut files = Files::new(vec![folder.0.clone()]);
        assert_eq!(read(&mut files), (vec!["default/a:1".into(), "default/b:2".into()], Vec::new()));
        let mut one = Files::new(vec![folder.0.join("a.yaml")]);
        assert_eq!(read(&mut one).0, ["default/a:1"]);
    }

    #[test]
    fn what_cannot_be_read_any_more_stays_as_it_was_and_harms_nothing_else() {
        let folder = Folder::new("good");
        folder.write("a.yaml", &(service("a", "1") + &service("b", "1")));
        folder.write("c.yaml", &service("c", "1"));
        let mut files = Files::new(vec![folder.0.clone()]);
        read(&mut files);
        folder.write("a.yaml", &(service("a", "eighty") + &service("b", "2")));
        folder.write("c.yaml", "kind: [unfinished");
        let (names, warnings) = read(&mut files);
        assert_eq!(names, ["default/a:1", "default/b:2", "default/c:1"]);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].starts_with("Service a: spec.ports[0].port: "), "{warnings:?}");
        assert!(warnings[0].ends_with("a.yaml:2); its last good version stays in force"), "{warnings:?}");
        assert!(warnings[1].ends_with("what it held before stays in force"), "{warnings:?}");
        fs::remove_file(folder.0.join("c.yaml")).unwrap();
        assert_eq!(read(&mut files).0, ["default/a:1", "default/b:2"]);
    }

    #[test]
    fn an_object_written_twice_is_told_with_both_places() {
        let folder = Folder::new("twice");
        folder.write("a.yaml", &service("a", "1"));
        folder.write("b.yaml", &service("a", "2"));
        let (names, warnings) = read(&mut Files::new(vec![folder.0.clone()]));
        assert_eq!(names, ["default/a:1"]);
        assert!(warnings[0].starts_with("Service default/a: metadata.name: written twice"), "{warnings:?}");
    }

    #[test]
    fn a_root_that_is_not_there_is_an_error_that_names_it() {
        let error = Files::new(vec!["/nowhere/at/all".into()]).read(&mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }
}
