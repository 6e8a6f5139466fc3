//! Who may speak to the API server: an authority, the server's certificate, a key for service accounts, and tokens.
//!
//! Components and people show tokens from a file, since a test cluster needs no certificate of theirs.

use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::prelude::{BASE64_STANDARD, Engine};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use serde_json::json;

use super::layout::{API_SERVER, API_SERVER_V6, API_URL, Layout};

/// Files in one folder.
pub(crate) struct Pki {
    folder: PathBuf,
    authority: String,
}

/// Somebody whom the API server knows.
struct User {
    file: String,
    name: String,
    group: Option<&'static str>,
}

impl Pki {
    /// Makes everything anew in `folder`, for nodes of these names.
    pub(crate) fn create(folder: PathBuf, layout: Layout, nodes: &[String]) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("close {} to others", folder.display()))?;
        let authority_key = KeyPair::generate().context("make the authority's key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "weir-cluster-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = params.self_signed(&authority_key).context("sign the authority's certificate")?;
        let issuer = Issuer::new(params, authority_key);

        let server_key = KeyPair::generate().context("make the API server's key")?;
        let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];
        let mut params = CertificateParams::new(names.map(str::to_owned).to_vec())
            .context("name the API server in its certificate")?;
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        for ip in [API_SERVER, API_SERVER_V6, "127.0.0.1", layout.kubernetes_ip()] {
            let ip: IpAddr = ip.parse().with_context(|| format!("`{ip}` is no address"))?;
            params.subject_alt_names.push(SanType::IpAddress(ip));
        }
        let server = params.signed_by(&server_key, &issuer).context("sign the API server's certificate")?;
        let accounts_key = KeyPair::generate().context("make the key of service accounts")?;

        let pki = Self { folder, authority: authority.pem() };
        pki.write("ca.crt", &pki.authority)?;
        pki.write("api.crt", &server.pem())?;
        pki.write("api.key", &server_key.serialize_pem())?;
        pki.write("sa.key", &accounts_key.serialize_pem())?;
        pki.write("sa.pub", &accounts_key.public_key_pem())?;
        pki.people(nodes)?;
        Ok(pki)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What the kubeconfig of this name says.
    pub(crate) fn kubeconfig(&self, name: &str) -> Result<String> {
        let path = self.file(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    fn people(&self, nodes: &[String]) -> Result<()> {
        let component = |name: &str| User {
            file: format!("{name}.conf"),
            name: format!("system:kube-{name}"),
            group: None,
        };
        let node = |node: &String| User {
            file: format!("{node}.conf"),
            name: format!("system:node:{node}"),
            group: Some("system:nodes"),
        };
        let admin = User { file: ADMIN.to_owned(), name: "admin".to_owned(), group: Some("system:masters") };
        let users = [admin, component("controller-manager"), component("scheduler")];
        let mut tokens = String::new();
        for user in users.into_iter().chain(nodes.iter().map(node)) {
            let token = token()?;
            let groups = user.group.map(|group| format!(",{group}")).unwrap_or_default();
            tokens.push_str(&format!("{token},{0},{0}{groups}\n", user.name));
            self.write(&user.file, &self.config_with(&token))?;
        }
        self.write("tokens.csv", &tokens)
    }

    /// A kubeconfig; JSON is YAML.
    fn config_with(&self, token: &str) -> String {
        // Not the file's path: nodes and pods do not see it.
        let authority = BASE64_STANDARD.encode(&self.authority);
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "weir",
            "clusters": [{ "name": "weir", "cluster": { "server": API_URL, "certificate-authority-data": authority } }],
            "users": [{ "name": "weir", "user": { "token": token } }],
            "contexts": [{ "name": "weir", "context": { "cluster": "weir", "user": "weir" } }],
        })
        .to_string()
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        write_private(&self.file(name), text)
    }
}

/// The kubeconfig of whoever types `cargo xtask cluster kubectl`.
pub(crate) const ADMIN: &str = "admin.conf";

fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}

/// 128 random bits in hexadecimal digits.
fn token() -> Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_gets_a_token_and_no_stranger_may_read_it() {
        let folder = std::env::temp_dir().join(format!("weir-pki-{}", std::process::id()));
        let pki =
            Pki::create(folder.clone(), Layout::K3s, &["node-1".to_owned()]).expect("make certificates");
        let tokens = fs::read_to_string(pki.file("tokens.csv")).expect("read the tokens");
        let lines: Vec<&str> = tokens.lines().collect();
        assert_eq!(lines.len(), 4, "admin, two components, one node: {tokens}");
        assert!(lines[3].ends_with(",system:node:node-1,system:node:node-1,system:nodes"), "{tokens}");
        let token = lines[3].split(',').next().expect("begins with the token");
        assert!(pki.kubeconfig("node-1.conf").expect("is there").contains(token));
        for (name, mark) in [("ca.crt", "CERTIFICATE"), ("sa.pub", "PUBLIC KEY"), ("sa.key", "PRIVATE KEY")] {
            let text = fs::read_to_string(pki.file(name)).expect("is there");
            assert!(text.starts_with(&format!("-----BEGIN {mark}-----")), "{name}: {text}");
        }
        let mode = fs::metadata(pki.file("tokens.csv")).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::remove_dir_all(folder).expect("remove the folder");
    }
}
