//! Rows: files and folders in, named objects or an error that names the place out.

use super::*;

/// A folder with these files, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let folder = std::env::temp_dir().join(format!("weir-manifest-{}-{name}", std::process::id()));
        for (path, text) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(folder)
    }

    /// What loading `paths` below the folder gives: titles, or the error with the folder's name taken out.
    fn load(&self, paths: &[&str], expect: Option<&str>) -> String {
        let paths: Vec<_> = paths.iter().map(|path| self.0.join(path)).collect();
        match load(&paths, expect.map(|path| self.0.join(path)).as_deref()) {
            Ok(manifests) => manifests.items.iter().map(Manifest::title).collect::<Vec<_>>().join(", "),
            Err(error) => error.to_string().replace(&format!("{}/", self.0.display()), ""),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A leftover in the temporary folder is no reason to fail a test.
        fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

#[test]
fn folders_are_read_whole_in_order_and_each_file_once() {
    let folder = Folder::new(
        "whole",
        &[
            ("b.yaml", &namespace("b")),
            ("a/deep/c.yml", &namespace("c")),
            ("a/d.json", r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "d"}}"#),
            ("README.md", "not: [yaml"),
            (".git/e.yaml", "not: [yaml"),
            ("odd.txt", &namespace("f")),
        ],
    );
    assert_eq!(folder.load(&["."], None), "Namespace d, Namespace c, Namespace b");
    assert_eq!(folder.load(&["b.yaml", ".", "b.yaml"], None), "Namespace b, Namespace d, Namespace c");
    // A file that is named is read whatever it is called.
    assert_eq!(folder.load(&["odd.txt"], None), "Namespace f");
}

#[test]
fn one_bad_file_in_a_folder_is_an_error_with_file_and_line() {
    let folder =
        Folder::new("bad", &[("a.yaml", &namespace("a")), ("b.yaml", "kind: Namespace\nmetadata: [\n")]);
    let error = folder.load(&["."], None);
    assert!(error.starts_with("./b.yaml:") && error.contains("not valid YAML"), "{error}");
}

#[test]
fn a_folder_without_manifests_and_a_missing_file_are_errors() {
    let folder = Folder::new("none", &[("README.md", "")]);
    assert_eq!(
        folder.load(&["."], None),
        ".: no manifests in this folder: no *.yaml, *.yml or *.json file below it"
    );
    assert_eq!(folder.load(&["gone.yaml"], None), "read gone.yaml");
}

#[test]
fn an_expectation_may_lie_among_the_manifests() {
    let folder = Folder::new("expect", &[("a.yaml", &namespace("a")), ("e.yaml", "expect: []\n")]);
    assert_eq!(folder.load(&["."], Some("e.yaml")), "Namespace a");
    assert_eq!(
        folder.load(&["."], None),
        "./e.yaml:1: object without `kind`: expected for example `kind: NetworkPolicy`"
    );
}
