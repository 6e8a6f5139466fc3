//! Certificates by name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use policy::Warning;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use super::provider;
use crate::compile::{CertificateUse, Settings};
use crate::object::{Name, World};
use crate::route::Host;

/// Immutable: a changed Secret makes new ones.
#[derive(Debug, Default)]
pub struct Certificates {
    exact: HashMap<String, Arc<CertifiedKey>>,
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    /// For the names that they have themselves.
    unnamed: Vec<Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Those that are in use. A Secret that is missing or broken is warned of and leaves its hosts to a wildcard or the
    /// default certificate; no other host notices.
    pub fn new(uses: &[CertificateUse], world: &World, settings: &Settings) -> (Self, Vec<Warning>) {
        let mut certificates = Self::default();
        let mut warnings = Vec::new();
        let mut read: BTreeMap<&Name, Result<Arc<CertifiedKey>, String>> = BTreeMap::new();
        for wanted in uses {
            let mut warn = |message| {
                let (object, field) = (wanted.object.clone(), wanted.field.clone());
                warnings.push(Warning { object, field, message });
            };
            let key = read.entry(&wanted.secret).or_insert_with(|| find(world, &wanted.secret));
            let key = match key {
                Ok(key) => Arc::clone(key),
                Err(error) => {
                    let host = wanted.host.as_ref().map(Host::to_string).unwrap_or_default();
                    warn(format!("{error}; {host} has no certificate of its own"));
                    continue;
                }
            };
            if let Some(host) = &wanted.host
                && !names(&key, host)
            {
                warn(format!(
                    "the certificate of Secret {} is not for {host}: clients will refuse it; expected {host} among its names",
                    wanted.secret
                ));
            }
            match &wanted.host {
                Some(Host::Exact(name)) => drop(certificates.exact.insert(name.clone(), key)),
                Some(Host::Wildcard(suffix)) => drop(certificates.wildcard.insert(suffix.clone(), key)),
                Some(Host::Any) | None => certificates.unnamed.push(key),
            }
        }
        if let Some(name) = &settings.default_certificate {
            match find(world, name) {
                Ok(key) => certificates.default = Some(key),
                Err(message) => warnings.push(Warning {
                    object: "option --default-certificate".into(),
                    field: String::new(),
                    message: format!("{message}; names without a certificate get no connection"),
                }),
            }
        }
        (certificates, warnings)
    }

    /// The certificate to show to who asks for `name`, or for nobody in particular.
    pub fn find(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let named = name.and_then(|name| {
            let wildcard = || name.split_once('.').and_then(|(_, suffix)| self.wildcard.get(suffix));
            let host = Host::Exact(name.to_owned());
            let unnamed = || self.unnamed.iter().find(|key| names(key, &host));
            self.exact.get(name).or_else(wildcard).or_else(unnamed)
        });
        named.or(self.default.as_ref())
    }
}

/// The certificate and key of a Secret. The error says what would be right.
fn find(world: &World, name: &Name) -> Result<Arc<CertifiedKey>, String> {
    let secret = world.secrets.get(name).ok_or_else(|| format!("there is no Secret {name}"))?;
    parse(secret).map(Arc::new).map_err(|error| format!("Secret {name}: {error}"))
}

fn parse(secret: &Secret) -> Result<CertifiedKey, String> {
    let data = |key: &str| -> Result<Vec<u8>, String> {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.clone());
        let text =
            secret.string_data.as_ref().and_then(|data| data.get(key)).map(|text| text.clone().into_bytes());
        text.or(bytes).ok_or_else(|| format!("data has no {key}: expected tls.crt and tls.key, both in PEM"))
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
fn names(key: &CertifiedKey, host: &Host) -> bool {
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
