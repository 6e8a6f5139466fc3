//! TLS: the one provider, and what is agreed on with clients and endpoints.
//!
//! The provider is named wherever a configuration is made and is never installed for the process: the workspace's
//! Kubernetes client has another one.

mod authority;
mod client;
mod der;
mod hosts;
mod keys;
mod name;
mod staple;
mod store;

use std::sync::{Arc, LazyLock};

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::ResolvesServerCert;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, ServerConfig};

pub(crate) use authority::Authority;
pub(crate) use client::{HEADERS, Identity, Refusal, Setup};
pub(crate) use hosts::HostMap;
pub use keys::KeyCache;
pub use store::Certificates;

/// AWS-LC, its post-quantum hybrid X25519MLKEM768 first.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    &PROVIDER
}

/// TLS 1.2 and 1.3 with endpoints.
pub(crate) fn client_config(verifier: Arc<dyn ServerCertVerifier>) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for both versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth()
}

/// TLS 1.2 and 1.3 with clients, HTTP/2 preferred. Sessions are resumed by tickets, whose keys are this configuration's own
/// and change every six hours. `clients`: whom to ask for certificates.
pub(crate) fn server_config(
    resolver: Arc<dyn ResolvesServerCert>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for both versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    match rustls::crypto::aws_lc_rs::Ticketer::new() {
        Ok(ticketer) => config.ticketer = ticketer,
        Err(error) => tracing::warn!(%error, "no session tickets: every connection is a full handshake"),
    }
    config
}
