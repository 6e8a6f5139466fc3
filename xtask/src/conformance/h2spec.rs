//! Every case of h2spec, a suite for RFC 9113 and RFC 7541, against a `weir-ingress` with a certificate and an upstream.
//!
//! The suite is a Go tool, pinned by the `go.mod` beside this file and built once into the cache.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use rcgen::{CertificateParams, KeyPair};
use sha2::{Digest, Sha256};

use crate::cluster::go_command;
use crate::setup;
use crate::test::Count;
use crate::{process, workspace};

const MANIFEST: &str = include_str!("h2spec/go.mod");
const SUMS: &str = include_str!("h2spec/go.sum");

pub(super) fn command() -> Result<()> {
    let suite = tool()?;
    let mut build = setup::tools()?.cargo();
    process::run(build.args(["build", "--locked", "--package", "ingress", "--bin", "weir-ingress"]))?;
    let upstream = upstream()?;
    let ingress = Ingress::start(&workspace::target().join("debug/weir-ingress"), upstream)?;
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

/// A server of HTTP/1.1 that answers everything with a few bytes, for as long as this process lives.
fn upstream() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listen as the upstream")?;
    let address = listener.local_addr().context("listen as the upstream")?;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // A connection that breaks off ends its own thread and nothing else.
            thread::spawn(move || drop(answer(&stream)));
        }
    });
    Ok(address)
}

fn answer(mut stream: &TcpStream) -> Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut len = 0;
        let mut chunked = false;
        for number in 0.. {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim().to_ascii_lowercase().split_once(':') {
                Some(("content-length", value)) => len = value.trim().parse()?,
                Some(("transfer-encoding", _)) => chunked = true,
                None if number > 0 => break,
                _ => {}
            }
        }
        while chunked {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            len = usize::from_str_radix(line.trim(), 16)?;
            reader.read_exact(&mut vec![0; len + 2])?;
            chunked = len > 0;
            len = 0;
        }
        reader.read_exact(&mut vec![0; len])?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello, h2spec")?;
    }
}

/// The proxy, and the folder that it serves.
struct Ingress {
    child: Child,
    folder: PathBuf,
    https: SocketAddr,
}

impl Ingress {
    fn start(binary: &Path, upstream: SocketAddr) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("weir-h2spec-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        let key = KeyPair::generate().context("make a key")?;
        let parameters =
            CertificateParams::new(vec!["localhost".to_owned()]).context("make a certificate")?;
        let certificate = parameters.self_signed(&key).context("make a certificate")?;
        let indent = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
        let (chain, key) = (indent(&certificate.pem()), indent(&key.serialize_pem()));
        let objects = format!(
            "apiVersion: v1
kind: Secret
metadata: {{ name: certificate }}
stringData:
  tls.crt: |
{chain}  tls.key: |
{key}---
apiVersion: v1
kind: Service
metadata: {{ name: web }}
spec: {{ ports: [{{ port: 80 }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: web, labels: {{ kubernetes.io/service-name: web }} }}
addressType: IPv4
ports: [{{ port: {} }}]
endpoints: [{{ addresses: [127.0.0.1] }}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{ name: web }}
spec: {{ defaultBackend: {{ service: {{ name: web, port: {{ number: 80 }} }} }} }}
",
            upstream.port()
        );
        fs::write(folder.join("objects.yaml"), objects).context("write the objects")?;
        let mut command = Command::new(binary);
        command.arg("-f").arg(&folder).args(["--http", "off", "--https", "127.0.0.1:0", "--admin", "off"]);
        command.args(["--access-log", "off", "--default-certificate", "default/certificate"]);
        let mut child = command.stderr(Stdio::piped()).spawn().context("start weir-ingress")?;
        let stderr = child.stderr.take().context("weir-ingress has no stderr")?;
        let mut ingress = Self { child, folder, https: SocketAddr::from(([0, 0, 0, 0], 0)) };
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let said = lines.find_map(|line| Some(line.split_once(" https=\"")?.1.split('"').next()?.to_owned()));
        ingress.https =
            said.context("weir-ingress ended before it listened")?.parse().context("its address")?;
        // Nobody else reads what it says, and it must not wait for that.
        thread::spawn(move || lines.for_each(|line| eprintln!("{line}")));
        Ok(ingress)
    }
}

impl Drop for Ingress {
    fn drop(&mut self) {
        // It may have ended, and the folder may be gone: nothing is left to undo then.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
        fs::remove_dir_all(&self.folder).unwrap_or_default();
    }
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
