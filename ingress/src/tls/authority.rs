//! Who signs the certificates of clients: `ca.crt` of a Secret, and `ca.crl` if it has one.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use rustls::DistinguishedName;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, Error, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationOptionsBuilder, VerifiedPath, anchor_from_trusted_cert,
};

use super::keys::data;
use super::provider;
use crate::compile::ClientAuth;
use crate::object::World;

/// What one host asks of its clients, and by whom it verifies them.
#[derive(Debug)]
pub(crate) struct Authority {
    pub(crate) auth: Arc<ClientAuth>,
    /// Or why nobody can be verified: then nobody is served.
    pub(crate) roots: Result<Roots, String>,
}

#[derive(Debug)]
pub(crate) struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
    lists: Vec<CertRevocationList<'static>>,
    /// The bytes that all this was read from.
    read: Vec<Vec<u8>>,
}

impl PartialEq for Authority {
    fn eq(&self, other: &Self) -> bool {
        let read = |it: &Self| it.roots.as_ref().map(|roots| roots.read.clone()).map_err(String::clone);
        self.auth == other.auth && read(self) == read(other)
    }
}

impl Authority {
    pub(super) fn read(auth: &Arc<ClientAuth>, world: &World) -> Self {
        let name = &auth.secret;
        let secret = world.secrets.get(name).ok_or_else(|| format!("there is no Secret {name}"));
        let roots =
            secret.and_then(|secret| Roots::read(secret).map_err(|error| format!("Secret {name}: {error}")));
        Self { auth: Arc::clone(auth), roots }
    }
}

impl Roots {
    fn read(secret: &Secret) -> Result<Self, String> {
        let certificates =
            data(secret, "ca.crt").ok_or("data has no ca.crt: expected certificates in PEM")?;
        let chain = CertificateDer::pem_slice_iter(&certificates)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("ca.crt is no PEM: {error}"))?;
        if chain.is_empty() {
            return Err("ca.crt has no certificate: expected `-----BEGIN CERTIFICATE-----`".into());
        }
        let anchors = chain
            .iter()
            .map(|certificate| anchor_from_trusted_cert(certificate).map(|anchor| anchor.to_owned()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("ca.crt has a certificate that cannot be read: {error}"))?;
        let mut read = vec![certificates];
        let mut lists = Vec::new();
        if let Some(bytes) = data(secret, "ca.crl") {
            for list in CertificateRevocationListDer::pem_slice_iter(&bytes) {
                let list = list.map_err(|error| format!("ca.crl is no PEM: {error}"))?;
                let list = OwnedCertRevocationList::from_der(&list)
                    .map_err(|error| format!("ca.crl has a list that cannot be read: {error}"))?;
                lists.push(CertRevocationList::from(list));
            }
            if lists.is_empty() {
                return Err("ca.crl has no list: expected `-----BEGIN X509 CRL-----`".into());
            }
            read.push(bytes);
        }
        Ok(Self { anchors, lists, read })
    }

    /// What clients are told, so that they know which of their certificates to show.
    pub(super) fn subjects(&self) -> Vec<DistinguishedName> {
        self.anchors.iter().map(|anchor| DistinguishedName::in_sequence(&anchor.subject)).collect()
    }

    /// Whether the first certificate is good now, the others being between it and ours. The error is for people.
    pub(super) fn verify(&self, chain: &[CertificateDer<'_>], depth: usize) -> Result<(), String> {
        let (first, between) = chain.split_first().ok_or("no certificate")?;
        let certificate = EndEntityCert::try_from(first).map_err(|error| error.to_string())?;
        let lists: Vec<&CertRevocationList<'_>> = self.lists.iter().collect();
        // As OpenSSL has it for nginx: every certificate of the path must be on no list, and its list at hand and in force.
        let revocation = RevocationOptionsBuilder::new(&lists)
            .ok()
            .map(|options| options.with_expiration_policy(ExpirationPolicy::Enforce).build());
        let bounded = |path: &VerifiedPath<'_>| match path.intermediate_certificates().count() {
            count if count > depth => Err(Error::MaximumPathDepthExceeded),
            _ => Ok(()),
        };
        certificate
            .verify_for_usage(
                provider().signature_verification_algorithms.all,
                &self.anchors,
                between,
                UnixTime::now(),
                KeyUsage::client_auth(),
                revocation,
                Some(&bounded),
            )
            .map(drop)
            .map_err(|error| match error {
                Error::CertExpired { .. } => "the certificate has expired".into(),
                Error::CertNotValidYet { .. } => "the certificate is not valid yet".into(),
                Error::CertRevoked => "the certificate was called back".into(),
                Error::CrlExpired { .. } => "the list of certificates called back has expired".into(),
                Error::UnknownRevocationStatus => "ca.crl has no list of its issuer".into(),
                Error::UnknownIssuer => "none of ca.crt has signed it".into(),
                Error::MaximumPathDepthExceeded => {
                    format!("more than {depth} certificates between it and ca.crt")
                }
                error => error.to_string(),
            })
    }
}
