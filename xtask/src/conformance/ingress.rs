//! A `weir-ingress` for suites to be run against: one certificate, one Ingress, one upstream.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::{process, setup, workspace};

const ROOT: &str = "root.pem";
const DAY: Duration = Duration::from_secs(86_400);

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
pub(super) struct Ingress {
    child: Child,
    folder: PathBuf,
    pub(super) https: SocketAddr,
}

impl Ingress {
    /// Builds it and starts it on a port of its own, with a certificate for `localhost`.
    pub(super) fn start() -> Result<Self> {
        let mut build = setup::tools()?.cargo();
        process::run(build.args(["build", "--locked", "--package", "ingress", "--bin", "weir-ingress"]))?;
        let binary = workspace::target().join("debug/weir-ingress");
        let upstream = upstream()?;
        let folder = std::env::temp_dir().join(format!("weir-conformance-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        let Certificate { root, chain, key } = Certificate::new().context("make a certificate")?;
        fs::write(folder.join(ROOT), root).context("write the root's certificate")?;
        let indent = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
        let (chain, key) = (indent(&chain), indent(&key));
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
        command.arg("-f").arg(folder.join("objects.yaml")).args([
            "--http",
            "off",
            "--https",
            "127.0.0.1:0",
            "--admin",
            "off",
        ]);
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

impl Ingress {
    /// Where the certificate of its certificate's issuer is.
    pub(super) fn root(&self) -> PathBuf {
        self.folder.join(ROOT)
    }
}

/// What the proxy shows, in PEM.
struct Certificate {
    root: String,
    chain: String,
    key: String,
}

impl Certificate {
    /// As an authority would make them today: for three months, by an issuer that is not itself.
    fn new() -> Result<Self> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).context("read the clock")?;
        let now = date_time_ymd(1970, 1, 1) + since;
        let of = |mut parameters: CertificateParams, name: &str| {
            parameters.not_before = now - DAY;
            parameters.not_after = now + 90 * DAY;
            parameters.distinguished_name.push(DnType::CommonName, name);
            parameters
        };
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = CertifiedIssuer::self_signed(of(parameters, "Weir's conformance"), KeyPair::generate()?)?;
        let mut parameters = CertificateParams::new(vec!["localhost".to_owned()])?;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let made = of(parameters, "localhost").signed_by(&key, &root)?;
        Ok(Self { root: root.as_ref().pem(), chain: made.pem(), key: key.serialize_pem() })
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
