//! What is served: a hundred hosts, each with a certificate of its own, and one upstream behind them all.

use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

pub(super) const HOSTS: usize = 100;

/// A host's certificate, ECDSA P-256, and its key.
pub(super) struct Host {
    pub(super) name: String,
    pub(super) certificate: String,
    pub(super) key: String,
    pub(super) der: CertificateDer<'static>,
}

pub(super) struct Site {
    pub(super) hosts: Vec<Host>,
    /// Two certificates for one host more: what a changed Secret changes to.
    pub(super) swapped: Vec<Host>,
    authority: CertificateDer<'static>,
}

impl Site {
    pub(super) fn new() -> Result<Self> {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)
            .context("make a certificate authority")?;
        let host = |name: String| -> Result<Host> {
            let key = KeyPair::generate().context("make a key")?;
            let certificate = CertificateParams::new([name.clone()])
                .and_then(|parameters| parameters.signed_by(&key, &authority))
                .with_context(|| format!("make a certificate for {name}"))?;
            Ok(Host {
                name,
                certificate: certificate.pem(),
                key: key.serialize_pem(),
                der: certificate.der().clone(),
            })
        };
        Ok(Self {
            hosts: (0..HOSTS)
                .map(|number| host(format!("host-{number}.bench.test")))
                .collect::<Result<_>>()?,
            swapped: (0..2).map(|_| host("swapped.bench.test".into())).collect::<Result<_>>()?,
            authority: authority.der().clone(),
        })
    }

    /// What clients offer is one thing only, which every proxy here knows: TLS 1.3, X25519, AES-128-GCM. Else each would
    /// choose what it likes, and choices would be compared. No session is resumed.
    pub(super) fn client(&self, alpn: &[u8]) -> Result<Arc<ClientConfig>> {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).context("trust the certificate authority")?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .context("agree on TLS 1.3")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// The objects of all hosts, as `weir-ingress` reads them.
    pub(super) fn objects(&self, upstream: u16) -> String {
        let mut text = service("web", upstream);
        for host in &self.hosts {
            text += &secret(&host.name, host);
            text += &ingress(&host.name, &host.name);
        }
        text
    }
}

/// A Service with one endpoint.
pub(super) fn service(name: &str, upstream: u16) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{ name: {name} }}
spec: {{ ports: [{{ port: 80 }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: {name}, labels: {{ kubernetes.io/service-name: {name} }} }}
addressType: IPv4
ports: [{{ port: {upstream} }}]
endpoints: [{{ addresses: [127.0.0.1] }}]
"
    )
}

pub(super) fn secret(name: &str, host: &Host) -> String {
    let indent = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: {name} }}\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indent(&host.certificate),
        indent(&host.key)
    )
}

/// An Ingress for one host, whose Secret has the host's name.
pub(super) fn ingress(name: &str, host: &str) -> String {
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{ name: {name} }}
spec:
  tls: [{{ hosts: [{host}], secretName: {host} }}]
  rules:
    - host: {host}
      http:
        paths: [{{ path: /, pathType: Prefix, backend: {{ service: {{ name: web, port: {{ number: 80 }} }} }} }}]
"
    )
}

/// The same without TLS, for any Service.
pub(super) fn plain_ingress(name: &str, host: &str, service: &str) -> String {
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{ name: {name} }}
spec:
  rules:
    - host: {host}
      http:
        paths: [{{ path: /, pathType: Prefix, backend: {{ service: {{ name: {service}, port: {{ number: 80 }} }} }} }}]
"
    )
}
