//! testssl.sh against a `weir-ingress`: what its TLS offers and what it is open to, and the grade that follows from that.
//!
//! A shell script of Debian's, of the first suite that has a version with grades, unpacked once into the cache. It takes
//! minutes: it tries some hundred handshakes by hand, written in shell.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::ingress::Ingress;
use crate::{debian, workspace};

/// The first line of versions that grade.
const LINE: &str = "3.2";
const SUITES: &[&str] = &["trixie", "forky", "sid"];
/// All that a grade needs; not who of thirty browsers would get in.
const TESTS: &[&str] = &[
    "--protocols",
    "--std",
    "--fs",
    "--server-preference",
    "--server-defaults",
    "--headers",
    "--vulnerable",
];
/// Grades that will do.
const GOOD: [&str; 2] = ["A", "A+"];

pub(super) fn command() -> Result<()> {
    let suite = tool()?;
    let ingress = Ingress::start()?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut run = Command::new("bash");
    run.arg(suite.join("usr/bin/testssl"));
    run.env("TESTSSL_INSTALL_DIR", suite.join("etc/testssl"));
    run.env("PATH", format!("{}:{path}", suite.join("no-dns").display()));
    run.args(["--color", "0", "--warnings", "off", "--nodns", "none", "--ip", "127.0.0.1", "--add-ca"]);
    run.arg(ingress.root())
        .args(TESTS)
        .arg(format!("localhost:{}", ingress.https.port()))
        .stderr(Stdio::inherit());
    let output = run.output().context("run testssl.sh")?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    // Its own status counts findings, which the grade weighs.
    let grade = text.lines().find_map(grade).context("testssl.sh gave no grade")?;
    ensure!(GOOD.contains(&grade), "testssl.sh grades {grade}: expected {}", GOOD.join(" or "));
    println!("1 passed, 0 failed");
    Ok(())
}

/// ` Overall Grade                A+`.
fn grade(line: &str) -> Option<&str> {
    line.trim().strip_prefix("Overall Grade").map(str::trim)
}

fn tool() -> Result<PathBuf> {
    let root = workspace::cache()?.join(format!("testssl-{LINE}"));
    if !root.join("usr/bin/testssl").is_file() {
        debian::unpack_line(&["testssl.sh"], LINE, SUITES, &root)?;
    }
    for needed in ["openssl", "hexdump", "ps"] {
        let found =
            Command::new(needed).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_err() {
            bail!(
                "testssl.sh needs {needed}, which is not installed: expected Debian's openssl, bsdextrautils and procps"
            );
        }
    }
    // It does not begin without a program that looks up names, and is told to look up none.
    let folder = root.join("no-dns");
    let host = folder.join("host");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    fs::write(&host, "#!/bin/sh\nexit 1\n").with_context(|| format!("write {}", host.display()))?;
    fs::set_permissions(&host, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("make {} executable", host.display()))?;
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grade_is_found() {
        assert_eq!(grade(" Overall Grade                A+"), Some("A+"));
        assert_eq!(grade(" Overall Score                95"), None);
    }
}
