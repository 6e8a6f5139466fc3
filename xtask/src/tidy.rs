//! The laws of this tree that no compiler knows. `cargo xtask tidy` shows every breach; each law is an ordinary test too,
//! so that a breach fails `cargo test`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{process, workspace};

/// Beyond this a file is split by noun.
const MAX_LINES: usize = 600;
/// Crates that do no I/O, and what would give it to them.
const PURE: &[&str] = &["common", "policy"];
const IMPURE: &[&str] =
    &["aya", "hyper", "kube", "libc", "mio", "nix", "rand", "rtnetlink", "rustix", "tokio"];
/// The only crates that may name aya. `common` does so behind its feature `user`, for the `Pod` marker alone.
const AYA_USERS: &[&str] = &["common", "dataplane", "ebpf", "tests"];
/// `ARCHITECTURE.md` states as many invariants as the design has.
const INVARIANTS: usize = 8;

/// One law: its name, and the breaches of it in this clone.
type Law = (&'static str, fn() -> Result<Vec<String>>);

const LAWS: &[Law] = &[
    ("files are short", long_files),
    ("each Rust file opens with what it is for", headless_files),
    ("pure crates reach nothing impure", impure_crates),
    ("aya is called in dataplane only", strangers_to_aya),
    ("each invariant is stated and names what checks it", unchecked_invariants),
    ("each drop reason is documented", undocumented_reasons),
    ("no test is skipped", skipped_tests),
    ("the tests that documents name exist", tests_that_are_not),
];

pub(crate) fn command() -> Result<()> {
    let mut broken = 0;
    for (name, breaches) in LAWS {
        let breaches = breaches()?;
        println!("{}: {name}", if breaches.is_empty() { "ok" } else { "BROKEN" });
        for breach in &breaches {
            println!("  {breach}");
        }
        broken += breaches.len();
    }
    match broken {
        0 => Ok(()),
        _ => bail!("{broken} breaches of the laws in xtask/src/tidy.rs"),
    }
}

fn long_files() -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    for (path, text) in texts(&["rs", "toml", "md", "yaml", "sh"])? {
        let lines = text.lines().count();
        if lines > MAX_LINES {
            breaches
                .push(format!("{}: {lines} lines, {MAX_LINES} at most: split it by noun", path.display()));
        }
    }
    Ok(breaches)
}

fn headless_files() -> Result<Vec<String>> {
    let headless = texts(&["rs"])?.into_iter().filter(|(_, text)| !text.starts_with("//!"));
    Ok(headless.map(|(path, _)| format!("{}: does not open with `//!`", path.display())).collect())
}

fn impure_crates() -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    for package in PURE {
        let tree = process::output(cargo().args([
            "tree",
            "--locked",
            "--package",
            package,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ]))?;
        for line in tree.lines() {
            let dependency = line.split_whitespace().next().unwrap_or_default();
            if IMPURE.contains(&dependency) {
                breaches.push(format!(
                    "{package}: reaches {dependency} (`cargo tree -p {package} -i {dependency}`)"
                ));
            }
        }
    }
    breaches.dedup();
    Ok(breaches)
}

fn strangers_to_aya() -> Result<Vec<String>> {
    let text = process::output(cargo().args(["metadata", "--locked", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&text).context("parse what cargo metadata printed")?;
    let mut breaches = Vec::new();
    for package in array(&metadata["packages"]) {
        let name = package["name"].as_str().unwrap_or_default();
        let names = array(&package["dependencies"]).iter().filter_map(|it| it["name"].as_str());
        for dependency in names.filter(|it| *it == "aya" || it.starts_with("aya-")) {
            if !AYA_USERS.contains(&name) {
                breaches.push(format!("{name}: depends on {dependency}, which only dataplane may call"));
            }
        }
    }
    Ok(breaches)
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// `ARCHITECTURE.md` has a paragraph `**Invariant N.** … Checked by `path`, `path`.` for each, and the paths exist.
fn unchecked_invariants() -> Result<Vec<String>> {
    let text = read("ARCHITECTURE.md")?;
    let mut breaches = Vec::new();
    for number in 1..=INVARIANTS {
        let mark = format!("**Invariant {number}.**");
        let Some(paragraph) = text.split("\n\n").find(|paragraph| paragraph.starts_with(&mark)) else {
            breaches.push(format!("ARCHITECTURE.md: no paragraph begins with {mark}"));
            continue;
        };
        let checks: Vec<&str> = match paragraph.split_once("Checked by") {
            Some((_, checks)) => checks.split('`').skip(1).step_by(2).collect(),
            None => Vec::new(),
        };
        if checks.is_empty() {
            breaches.push(format!("ARCHITECTURE.md: invariant {number} does not say what it is checked by"));
        }
        for check in checks {
            if !workspace::root().join(check).exists() {
                breaches.push(format!(
                    "ARCHITECTURE.md: invariant {number} is checked by `{check}`, which does not exist"
                ));
            }
        }
    }
    Ok(breaches)
}

fn undocumented_reasons() -> Result<Vec<String>> {
    let text = read("docs/datapath.md")?;
    let reasons = common::verdict::DropReason::ALL.iter().map(|reason| reason.as_str());
    let missing = reasons.filter(|reason| !text.contains(&format!("| `{reason}` |")));
    Ok(missing
        .map(|reason| format!("docs/datapath.md: its table has no row for the drop reason `{reason}`"))
        .collect())
}

fn skipped_tests() -> Result<Vec<String>> {
    let mark = concat!("#[", "ignore");
    let skipped = texts(&["rs"])?.into_iter().filter(|(_, text)| text.contains(mark));
    Ok(skipped.map(|(path, _)| format!("{}: has a test that is ignored", path.display())).collect())
}

/// The files of this clone, tracked or about to be, with these endings.
fn texts(endings: &[&str]) -> Result<Vec<(PathBuf, String)>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(workspace::root());
    let listing = process::output(&mut git)?;
    let wanted =
        |path: &Path| path.extension().and_then(|it| it.to_str()).is_some_and(|it| endings.contains(&it));
    let mut texts = Vec::new();
    for path in listing.lines().map(PathBuf::from).filter(|path| wanted(path)) {
        match std::fs::read_to_string(workspace::root().join(&path)) {
            Ok(text) => texts.push((path, text)),
            // Removed, and the removal is not committed yet.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
    Ok(texts)
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(workspace::root().join(path)).with_context(|| format!("read {path}"))
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(workspace::root());
    command
}

/// In backquotes, words joined by low lines, too many of them to be anything but the name of a test.
fn tests_that_are_not() -> Result<Vec<String>> {
    const WORDS: usize = 5;
    let path = "docs/policy-semantics.md";
    let code = texts(&["rs"])?;
    let tests: BTreeSet<&str> = code.iter().flat_map(|(_, text)| tests_in(text)).collect();
    let mut breaches = Vec::new();
    for (number, line) in read(path)?.lines().enumerate() {
        let quoted = line.split('`').skip(1).step_by(2);
        for name in quoted.filter(|name| name.split('_').count() >= WORDS) {
            if !tests.contains(name) {
                breaches.push(format!("{path}:{}: there is no test {name}", number + 1));
            }
        }
    }
    Ok(breaches)
}

/// The functions that a test run calls, by name: marked as tests, with nothing but attributes and comments in between.
fn tests_in(code: &str) -> impl Iterator<Item = &str> {
    let mut is_marked = false;
    code.lines().map(str::trim_start).filter_map(move |line| {
        let is_mark = line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        if is_mark || line.starts_with("#[") || line.starts_with("//") {
            is_marked |= is_mark;
            return None;
        }
        let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?.split('(').next();
        std::mem::take(&mut is_marked).then_some(name).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn holds(breaches: fn() -> Result<Vec<String>>) {
        match breaches() {
            Ok(breaches) => assert!(breaches.is_empty(), "\n{}", breaches.join("\n")),
            Err(error) => panic!("{error:#}"),
        }
    }

    #[test]
    fn files_are_short() {
        holds(long_files);
    }

    #[test]
    fn each_rust_file_opens_with_what_it_is_for() {
        holds(headless_files);
    }

    #[test]
    fn pure_crates_reach_nothing_impure() {
        holds(impure_crates);
    }

    #[test]
    fn aya_is_called_in_dataplane_only() {
        holds(strangers_to_aya);
    }

    #[test]
    fn each_invariant_is_stated_and_names_what_checks_it() {
        holds(unchecked_invariants);
    }

    #[test]
    fn each_drop_reason_is_documented() {
        holds(undocumented_reasons);
    }

    #[test]
    fn no_test_is_skipped() {
        holds(skipped_tests);
    }

    #[test]
    fn the_tests_that_documents_name_exist() {
        holds(tests_that_are_not);
    }

    #[test]
    fn only_what_a_test_run_calls_is_a_test() {
        let code = "#[test]\nfn plain() {}\nfn helper() {}\n#[tokio::test(start_paused = true)]\n/// Why.\nasync fn timed() {}\n\
            proptest! {\n    #[test]\n    fn random(n in 0..3) {}\n}\n#[cfg(test)]\nmod m {}\nfn last() {}\n";
        assert_eq!(tests_in(code).collect::<Vec<_>>(), ["plain", "timed", "random"]);
    }
}
