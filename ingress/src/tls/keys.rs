//! Keys and certificates from Secrets, each version of a Secret read once.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use super::provider;
use super::staple::Staple;
use crate::object::{Name, World};
use crate::route::Host;

/// Where a Secret has the OCSP response for its certificate, in DER: the key that Istio and Envoy Gateway read, too.
const STAPLE: &str = "tls.ocsp-staple";

/// A certificate with its chain and key.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) bare: Arc<CertifiedKey>,
    /// With an OCSP response, until it is too old.
    pub(super) stapled: Option<(Arc<CertifiedKey>, Timestamp)>,
}

/// What has been read from Secrets: reading thousands of keys again for each change would take longer than all else.
#[derive(Default)]
pub struct KeyCache {
    read: HashMap<Name, Read>,
}

struct Read {
    /// The version that was read. Holding on to it keeps another one from having its address.
    secret: Arc<Secret>,
    chain: Result<Arc<Chain>, String>,
    /// What is wrong with it besides.
    odd: Option<String>,
    names: HashMap<Host, bool>,
    in_use: bool,
}

impl KeyCache {
    /// The certificate and key of a Secret. The error says what would be right. A staple that is of no use is warned of and
    /// left out.
    pub(super) fn find(
        &mut self,
        world: &World,
        name: &Name,
        warn: &mut impl FnMut(String),
    ) -> Result<Arc<Chain>, String> {
        let secret = world.secrets.get(name).ok_or_else(|| format!("there is no Secret {name}"))?;
        let known = self.read.get(name).is_some_and(|read| Arc::ptr_eq(&read.secret, secret));
        if !known {
            self.read.insert(name.clone(), Read::new(name, secret));
        }
        let Some(read) = self.read.get_mut(name) else { return Err(format!("there is no Secret {name}")) };
        // Told for each object that wants it, and of each once.
        if let Some(odd) = read.odd.as_ref().filter(|_| !read.in_use) {
            warn(odd.clone());
        }
        read.in_use = true;
        read.chain.clone()
    }

    /// Whether the certificate of this Secret is for such a host.
    pub(super) fn names(&mut self, secret: &Name, chain: &Chain, host: &Host) -> bool {
        match self.read.get_mut(secret) {
            Some(read) => *read.names.entry(host.clone()).or_insert_with(|| names(chain, host)),
            None => names(chain, host),
        }
    }

    /// Forgets what was not asked for since the last time.
    pub(super) fn forget_the_others(&mut self) {
        self.read.retain(|_, read| std::mem::take(&mut read.in_use));
    }
}

impl Read {
    fn new(name: &Name, secret: &Arc<Secret>) -> Self {
        let mut odd = None;
        let chain = parse(secret).map_err(|error| format!("Secret {name}: {error}")).map(|bare| {
            let read =
                |response| Staple::read(response, bare.end_entity_cert().ok()?, Timestamp::now()).into();
            let staple: Option<Result<Staple, String>> = data(secret, STAPLE).and_then(read);
            let stapled = match staple {
                None => None,
                Some(Ok(Staple { response, until })) => {
                    Some((Arc::new(CertifiedKey { ocsp: Some(response), ..bare.clone() }), until))
                }
                Some(Err(error)) => {
                    odd = Some(format!("Secret {name}: {STAPLE} {error}; the certificate is shown without"));
                    None
                }
            };
            Arc::new(Chain { bare: Arc::new(bare), stapled })
        });
        Self { secret: Arc::clone(secret), chain, odd, names: HashMap::new(), in_use: false }
    }
}

/// What the Secret has under this key.
pub(super) fn data(secret: &Secret, key: &str) -> Option<Vec<u8>> {
    let bytes = || secret.data.as_ref()?.get(key).map(|bytes| bytes.0.clone());
    let text = || secret.string_data.as_ref()?.get(key).map(|text| text.clone().into_bytes());
    text().or_else(bytes)
}

fn parse(secret: &Secret) -> Result<CertifiedKey, String> {
    let data = |key: &str| {
        data(secret, key)
            .ok_or_else(|| format!("data has no {key}: expected tls.crt and tls.key, both in PEM"))
    };
    let chain = CertificateDer::pem_slice_iter(&data("tls.crt")?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("tls.crt is no PEM: {error}"))?;
    if chain.is_empty() {
        return Err("tls.crt has no certificate: expected `-----BEGIN CERTIFICATE-----`".into());
    }
    let key = PrivateKeyDer::from_pem_slice(&data("tls.key")?)
        .map_err(|error| format!("tls.key has no private key in PEM: {error}"))?;
    CertifiedKey::from_der(chain, key, provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => "tls.key is not the key of the certificate in tls.crt".into(),
        error => format!("tls.crt and tls.key cannot be used: {error}"),
    })
}

/// Whether the certificate is for such a host.
pub(super) fn names(chain: &Chain, host: &Host) -> bool {
    let key = &chain.bare;
    let name = match host {
        Host::Exact(name) => name.clone(),
        // Any name of one label more will tell.
        Host::Wildcard(suffix) => format!("any-name-will-do.{suffix}"),
        Host::Any => return true,
    };
    let Some(certificate) = key.cert.first().and_then(|first| ParsedCertificate::try_from(first).ok()) else {
        return false;
    };
    let name = ServerName::try_from(name);
    name.is_ok_and(|name| rustls::client::verify_server_name(&certificate, &name).is_ok())
}
