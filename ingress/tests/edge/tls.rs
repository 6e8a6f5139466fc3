//! Certificates made for a test, and a client that shakes hands with them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};

use super::ingress_with;

/// A certificate that signs itself, as PEM and as a root to trust.
pub(crate) struct Certificate {
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) root: CertificateDer<'static>,
}

pub(crate) fn certificate(names: &[&str]) -> Certificate {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let made = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    Certificate { chain: made.pem(), key: key.serialize_pem(), root: made.der().clone() }
}

pub(crate) fn secret(name: &str, certificate: &str, key: &str) -> String {
    secret_of(name, &[("tls.crt", certificate), ("tls.key", key)])
}

/// Secret `default/NAME` with this text under these keys.
pub(crate) fn secret_of(name: &str, data: &[(&str, &str)]) -> String {
    let indent = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let data: String = data.iter().map(|(key, text)| format!("  {key}: |\n{}", indent(text))).collect();
    format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: {name} }}\nstringData:\n{data}")
}

pub(crate) fn with_tls(name: &str, hosts: &[&str], secret: &str) -> String {
    let paths: Vec<String> = hosts.iter().map(|host| format!("{host} Prefix / web")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let tls = format!("tls: [{{ hosts: {hosts:?}, secretName: {secret} }}],");
    ingress_with(name, &[], &paths, &tls)
}

pub(crate) fn client(
    roots: &[&Certificate],
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    roots.iter().for_each(|root| store.add(root.root.clone()).unwrap());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    Arc::new(builder.with_root_certificates(store).with_no_client_auth())
}

pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// The connection after its handshake, or why there is none.
pub(crate) fn connect(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
) -> Result<Stream, std::io::Error> {
    connect_by(config, address, name, b"")
}

/// The same with something said before it.
pub(crate) fn connect_by(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
    first: &[u8],
) -> Result<Stream, std::io::Error> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
    stream.write_all(first).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::clone(config), name).unwrap(), stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

pub(crate) fn get(stream: &mut Stream, host: &str) -> String {
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
