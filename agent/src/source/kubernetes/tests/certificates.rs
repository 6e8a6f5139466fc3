//! An API server whose certificate is wrong: one clear complaint each, that says what to do.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::*;

/// A certificate authority.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { params, key: KeyPair::generate().unwrap() }
    }

    fn pem(&self) -> String {
        self.params.self_signed(&self.key).unwrap().pem()
    }

    /// Serves at the URL with a certificate for `name`, and answers nothing.
    async fn serve(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // The client hangs up.
                drop(acceptor.accept(stream).await);
            }
        });
        url
    }
}

/// The complaint of an agent that trusts `trusted`.
async fn complaint(url: &str, trusted: &Authority) -> String {
    let folder = Folder::new();
    let [token, ca] = ["token", "ca.crt"].map(|name| folder.path().join(name));
    std::fs::write(&token, "secret").unwrap();
    std::fs::write(&ca, trusted.pem()).unwrap();
    let mut told = Told::with(Access::by_url(url, &token, &ca).unwrap());
    told.until("a complaint", |told| !told.complaints().is_empty()).await;
    assert!(!told.complete && told.names().is_empty());
    told.complaints()[0].to_owned()
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_named_so() {
    let test = async {
        let authority = Authority::new();
        let past = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
        let url = authority.serve("127.0.0.1", past).await;
        let complaint = complaint(&url, &authority).await;
        assert!(complaint.contains("certificate has expired: renew it"), "{complaint}");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_named_so() {
    let test = async {
        let url = Authority::new().serve("127.0.0.1", |_| ()).await;
        let complaint = complaint(&url, &Authority::new()).await;
        assert!(complaint.contains("is not from the authority in --ca-file"), "{complaint}");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_certificate_for_another_address_is_named_so() {
    let test = async {
        let authority = Authority::new();
        let url = authority.serve("192.0.2.10", |_| ()).await;
        let complaint = complaint(&url, &authority).await;
        assert!(complaint.contains("is not for this address"), "{complaint}");
    };
    LocalSet::new().run_until(test).await;
}
