//! The inputs that are kept: `corpus/` covers what a fuzzer has found to be there, `regressions/` what it found to be wrong.

use std::path::{Path, PathBuf};

/// The kept inputs of a target, each with where it stands.
///
/// # Panics
///
/// If there are none, or one cannot be read.
pub fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut inputs = Vec::new();
    for kind in ["corpus", "regressions"] {
        // No regressions is good news.
        let Ok(entries) = std::fs::read_dir(root.join(kind).join(target)) else { continue };
        for entry in entries {
            let path = entry.expect("list the inputs").path();
            let input = std::fs::read(&path).expect("read an input");
            inputs.push((path, input));
        }
    }
    assert!(!inputs.is_empty(), "no input of {target} is kept in {}", root.display());
    inputs.sort();
    inputs
}

/// Calls `check` with each; what it finds wrong is said with the file that shows it.
///
/// # Panics
///
/// Where `check` does.
pub fn replay(target: &str, check: impl Fn(&[u8])) {
    for (path, input) in inputs(target) {
        let _shown = Shown(&path);
        check(&input);
    }
}

/// Names a file if it is dropped by a panic.
struct Shown<'a>(&'a Path);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input is {}", self.0.display());
        }
    }
}
