//! Certificates by name.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use policy::Warning;
use rustls::sign::CertifiedKey;

use super::authority::Authority;
use super::keys::{Chain, KeyCache, names};
use crate::compile::{ClientAuth, Compiled, HostAuth, Settings};
use crate::object::{Name, World};
use crate::route::Host;

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
    /// The Secrets that could be used.
    secrets: HashSet<Name>,
}

impl Certificates {
    /// [`Certificates::cached`], with nothing known from before.
    pub fn new(compiled: &Compiled, world: &World, settings: &Settings) -> (Self, Vec<Warning>) {
        Self::cached(compiled, world, settings, &mut KeyCache::default())
    }

    /// Those that are in use. A Secret that is missing or broken is warned of and leaves its hosts to a wildcard or the
    /// default certificate; no other host notices.
    pub fn cached(
        compiled: &Compiled,
        world: &World,
        settings: &Settings,
        cache: &mut KeyCache,
    ) -> (Self, Vec<Warning>) {
        let mut certificates = Self::default();
        let mut warnings = Vec::new();
        for wanted in &compiled.certificates {
            let mut warn = |message| {
                let (object, field) = (wanted.object.clone(), wanted.field.clone());
                warnings.push(Warning { object, field, message });
            };
            let key = match cache.find(world, &wanted.secret, &mut warn) {
                Ok(key) => key,
                Err(error) => {
                    let host = wanted.host.as_ref().map(Host::to_string).unwrap_or_default();
                    warn(format!("{error}; {host} has no certificate of its own"));
                    continue;
                }
            };
            if let Some(host) = &wanted.host
                && !cache.names(&wanted.secret, &key, host)
            {
                warn(format!(
                    "the certificate of Secret {} is not for {host}: clients will refuse it; expected {host} among its names",
                    wanted.secret
                ));
            }
            if !certificates.secrets.contains(&wanted.secret) {
                certificates.secrets.insert(wanted.secret.clone());
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
            match cache.find(world, name, &mut warn) {
                Ok(key) => certificates.default = Some(key),
                Err(message) => warn(format!("{message}; names without a certificate get no connection")),
            }
        }
        cache.forget_the_others();
        certificates.clients = clients(&compiled.client_auth, world, &mut warnings);
        (certificates, warnings)
    }

    /// Whether the certificate of this Secret is in force.
    pub fn has(&self, secret: &Name) -> bool {
        self.secrets.contains(secret)
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
