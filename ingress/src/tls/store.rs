//! Certificates by name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use policy::Warning;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use super::authority::Authority;
use super::provider;
use super::staple::Staple;
use crate::compile::{ClientAuth, Compiled, HostAuth, Settings};
use crate::object::{Name, World};
use crate::route::Host;

/// Where a Secret has the OCSP response for its certificate, in DER: the key that Istio and Envoy Gateway read, too.
const STAPLE: &str = "tls.ocsp-staple";

/// A certificate with its chain and key.
#[derive(Debug)]
struct Chain {
    bare: Arc<CertifiedKey>,
    /// With an OCSP response, until it is too old.
    stapled: Option<(Arc<CertifiedKey>, Timestamp)>,
}

/// Immutable: a changed Secret makes new ones.
#[derive(Debug, Default)]
pub struct Certificates {
    exact: HashMap<String, Arc<Chain>>,
    wildcard: HashMap<String, Arc<Chain>>,
    /// For the names that they have themselves.
    unnamed: Vec<Arc<Chain>>,
    default: Option<Arc<Chain>>,
    /// What hosts ask of their clients, if any does.
    clients: Vec<(Host, Option<Arc<Authority>>)>,
}

impl Certificates {
    /// Those that are in use. A Secret that is missing or broken is warned of and leaves its hosts to a wildcard or the
    /// default certificate; no other host notices.
    pub fn new(compiled: &Compiled, world: &World, settings: &Settings) -> (Self, Vec<Warning>) {
        let mut certificates = Self::default();
        let mut warnings = Vec::new();
        let mut read: BTreeMap<&Name, Result<Arc<Chain>, String>> = BTreeMap::new();
        for wanted in &compiled.certificates {
            let mut warn = |message| {
                let (object, field) = (wanted.object.clone(), wanted.field.clone());
                warnings.push(Warning { object, field, message });
            };
            let key = read.entry(&wanted.secret).or_insert_with(|| find(world, &wanted.secret, &mut warn));
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
            let mut warn = |message| {
                let object = "option --default-certificate".into();
                warnings.push(Warning { object, field: String::new(), message });
            };
            match find(world, name, &mut warn) {
                Ok(key) => certificates.default = Some(key),
                Err(message) => warn(format!("{message}; names without a certificate get no connection")),
            }
        }
        certificates.clients = clients(&compiled.client_auth, world, &mut warnings);
        (certificates, warnings)
    }

    /// Takes out what hosts ask of their clients.
    pub(crate) fn take_clients(&mut self) -> Vec<(Host, Option<Arc<Authority>>)> {
        std::mem::take(&mut self.clients)
    }

    /// The certificate to show to who asks for `name`, or for nobody in particular.
    pub fn find(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let Chain { bare, stapled } = &**self.chain(name)?;
        let fresh = stapled.as_ref().filter(|(_, until)| Timestamp::now() < *until);
        Some(fresh.map_or(bare, |(key, _)| key))
    }

    fn chain(&self, name: Option<&str>) -> Option<&Arc<Chain>> {
        let named = name.and_then(|name| {
            let wildcard = || name.split_once('.').and_then(|(_, suffix)| self.wildcard.get(suffix));
            let host = Host::Exact(name.to_owned());
            let unnamed = || self.unnamed.iter().find(|key| names(key, &host));
            self.exact.get(name).or_else(wildcard).or_else(unnamed)
        });
        named.or(self.default.as_ref())
    }
}

/// The certificate and key of a Secret. The error says what would be right. A staple that is of no use is warned of and
/// left out.
fn find(world: &World, name: &Name, warn: &mut impl FnMut(String)) -> Result<Arc<Chain>, String> {
    let secret = world.secrets.get(name).ok_or_else(|| format!("there is no Secret {name}"))?;
    let bare = parse(secret).map_err(|error| format!("Secret {name}: {error}"))?;
    let read = |response| Staple::read(response, bare.end_entity_cert().ok()?, Timestamp::now()).into();
    let staple: Option<Result<Staple, String>> = data(secret, STAPLE).and_then(read);
    let stapled = match staple {
        None => None,
        Some(Ok(Staple { response, until })) => {
            Some((Arc::new(CertifiedKey { ocsp: Some(response), ..bare.clone() }), until))
        }
        Some(Err(error)) => {
            warn(format!("Secret {name}: {STAPLE} {error}; the certificate is shown without"));
            None
        }
    };
    Ok(Arc::new(Chain { bare: Arc::new(bare), stapled }))
}

/// Who signs the certificates of clients. A Secret that is missing or broken closes the hosts that name it, and no other.
fn clients(
    wanted: &[HostAuth],
    world: &World,
    warnings: &mut Vec<Warning>,
) -> Vec<(Host, Option<Arc<Authority>>)> {
    let mut read: Vec<Arc<Authority>> = Vec::new();
    let mut authority = |HostAuth { host, auth, object }: &HostAuth| {
        let auth = auth.as_ref()?;
        if let Some(known) = read.iter().find(|known| known.auth == *auth) {
            return Some(Arc::clone(known));
        }
        let authority = Arc::new(Authority::read(auth, world));
        if let Err(error) = &authority.roots {
            warnings.push(Warning {
                object: object.clone(),
                field: ClientAuth::FIELD.into(),
                message: format!("{error}; {host} and all that name it are answered 503"),
            });
        }
        read.push(Arc::clone(&authority));
        Some(authority)
    };
    wanted.iter().map(|it| (it.host.clone(), authority(it))).collect()
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
fn names(chain: &Chain, host: &Host) -> bool {
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
