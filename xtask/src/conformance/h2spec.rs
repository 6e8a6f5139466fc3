//! Every case of h2spec, a suite for RFC 9113 and RFC 7541, against a `weir-ingress` with a certificate and an upstream.
//!
//! The suite is a Go tool, pinned by the `go.mod` beside this file and built once into the cache.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::ingress::Ingress;
use crate::cluster::go_command;
use crate::test::Count;
use crate::{process, workspace};

const MANIFEST: &str = include_str!("h2spec/go.mod");
const SUMS: &str = include_str!("h2spec/go.sum");

pub(super) fn command() -> Result<()> {
    let suite = tool()?;
    let ingress = Ingress::start()?;
    let mut run = Command::new(suite);
    run.args(["--tls", "--insecure", "--host", "127.0.0.1", "--timeout", "5", "--port"]);
    let output = run.arg(ingress.https.port().to_string()).output().context("run h2spec")?;
    let text = String::from_utf8(output.stdout).context("read what h2spec printed")?;
    print!("{text}");
    let count = text.lines().find_map(summary).context("h2spec printed no summary")?;
    ensure!(output.status.success() || count.failed > 0, "h2spec ended with {}", output.status);
    count.close()
}

/// `146 tests, 145 passed, 1 skipped, 0 failed`. What the suite itself skips is no case for this server.
fn summary(line: &str) -> Option<Count> {
    let number = |word: &str| {
        let part = line.split(", ").find(|part| part.ends_with(word))?;
        part.split_whitespace().next()?.parse().ok()
    };
    Some(Count { passed: number(" passed")?, failed: number(" failed")? })
}

fn tool() -> Result<PathBuf> {
    let cache = workspace::cache()?;
    let digest = Sha256::new().chain_update(MANIFEST).chain_update(SUMS).finalize();
    let pin: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let root = cache.join(format!("h2spec-{pin}"));
    let tool = root.join("h2spec");
    if tool.is_file() {
        return Ok(tool);
    }
    fs::create_dir_all(&root).with_context(|| format!("make {}", root.display()))?;
    for (name, text) in [("go.mod", MANIFEST), ("go.sum", SUMS)] {
        fs::write(root.join(name), text).with_context(|| format!("write {name} in {}", root.display()))?;
    }
    let mut build = Command::new(go_command(&cache)?);
    build.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(root.join("")).arg("tool");
    build.env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=readonly").env_remove("GOROOT");
    build.env("GOMODCACHE", cache.join("go-modules")).env("GOCACHE", cache.join("go-build"));
    build.env("CGO_ENABLED", "0").current_dir(&root);
    process::quietly(
        "h2spec: building it from Go modules, once for all clones",
        &root.join("log"),
        &mut build,
    )?;
    Ok(tool)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_the_suite_is_counted() {
        let line = "146 tests, 144 passed, 1 skipped, 1 failed";
        assert_eq!(summary(line), Some(Count { passed: 144, failed: 1 }));
        assert_eq!(summary("Finished in 2.6 seconds"), None);
    }
}
