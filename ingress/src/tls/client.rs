//! Clients with certificates: how a host asks for one, and what it thinks of who came.
//!
//! Every handshake goes through, with whatever certificate whose key the client has: what is wrong with it is said in HTTP,
//! as nginx does, where people can read it. It is judged once for each connection, resumed ones included.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ResolvesServerCert;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};
use webpki::EndEntityCert;

use super::authority::Authority;
use super::name::{from_each_common_name, rfc2253};
use super::{provider, server_config};
use crate::compile::{ClientAuth, Verify};

/// What the upstream learns of a client's certificate, and nobody else may say.
pub(crate) const HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("ssl-client-verify"),
    HeaderName::from_static("ssl-client-subject-dn"),
    HeaderName::from_static("ssl-client-issuer-dn"),
    HeaderName::from_static("ssl-client-cert"),
];

/// How a host that asks for certificates speaks TLS. Its sessions are its own: none of another set-up is resumed here.
#[derive(Debug)]
pub(crate) struct Setup {
    authority: Arc<Authority>,
    config: Option<Arc<ServerConfig>>,
}

/// Who a client is, by its certificate.
#[derive(Debug)]
pub(crate) struct Identity {
    /// For the upstream.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) refusal: Option<Refusal>,
}

/// Why a client is not served.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// Where it is sent instead.
    pub(crate) location: Option<HeaderValue>,
    pub(crate) reason: String,
}

impl Setup {
    pub(crate) fn new(authority: Arc<Authority>, resolver: Arc<dyn ResolvesServerCert>) -> Self {
        let config = authority.roots.as_ref().ok().map(|roots| {
            let verifier = AnyOwner { subjects: roots.subjects() };
            Arc::new(server_config(resolver, Some(Arc::new(verifier))))
        });
        Self { authority, config }
    }

    pub(crate) fn is(&self, authority: &Authority) -> bool {
        *self.authority == *authority
    }

    pub(crate) fn auth(&self) -> &ClientAuth {
        &self.authority.auth
    }

    /// None: nobody can be verified, and so nobody is asked.
    pub(crate) fn config(&self) -> Option<&Arc<ServerConfig>> {
        self.config.as_ref()
    }

    /// What is to be thought of a client that has shown this.
    pub(crate) fn judge(&self, chain: &[CertificateDer<'_>]) -> Identity {
        let auth = self.auth();
        let refuse = |status, location, reason| Some(Refusal { status, location, reason });
        let roots = match &self.authority.roots {
            Ok(roots) => roots,
            Err(why) => {
                let why = format!("clients cannot be verified: {why}");
                let refusal = refuse(StatusCode::SERVICE_UNAVAILABLE, None, why);
                return Identity { headers: Vec::new(), refusal };
            }
        };
        let verified = chain.first().map(|_| roots.verify(chain, auth.depth));
        let names = chain.first().and_then(|first| Names::of(first)).unwrap_or_default();
        let bad = |reason| match &auth.error_page {
            Some(page) => refuse(StatusCode::FOUND, Some(page.clone()), reason),
            None => refuse(StatusCode::BAD_REQUEST, None, reason),
        };
        let refusal = match (auth.verify, &verified) {
            (Verify::Required, None) => bad("it shows no client certificate".into()),
            (Verify::Required | Verify::Optional, Some(Err(error))) => {
                bad(format!("its client certificate is not good: {error}"))
            }
            _ => None,
        };
        let unknown = || {
            let pattern = auth.subject.as_ref()?;
            let fits = from_each_common_name(&names.subject).any(|name| pattern.is_match(name));
            let reason =
                format!("auth-tls-match-cn does not fit its client certificate, {:?}", names.subject);
            if fits { None } else { refuse(StatusCode::FORBIDDEN, None, reason) }
        };
        Identity { refusal: refusal.or_else(unknown), headers: headers(auth, chain, &verified, &names) }
    }
}

fn headers(
    auth: &ClientAuth,
    chain: &[CertificateDer<'_>],
    verified: &Option<Result<(), String>>,
    names: &Names,
) -> Vec<(HeaderName, HeaderValue)> {
    let [verify, subject, issuer, certificate] = HEADERS;
    let said = match verified {
        None => "NONE".to_owned(),
        Some(Ok(())) => "SUCCESS".to_owned(),
        Some(Err(error)) => format!("FAILED:{error}"),
    };
    let mut pairs = vec![(verify, said)];
    if let Some(first) = chain.first() {
        pairs.push((subject, names.subject.clone()));
        pairs.push((issuer, names.issuer.clone()));
        if auth.pass_certificate {
            pairs.push((certificate, escaped_pem(first)));
        }
    }
    pairs.into_iter().filter_map(|(name, value)| Some((name, HeaderValue::from_str(&value).ok()?))).collect()
}

#[derive(Default)]
struct Names {
    subject: String,
    issuer: String,
}

impl Names {
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = EndEntityCert::try_from(certificate).ok()?;
        Some(Self { subject: rfc2253(certificate.subject()), issuer: rfc2253(certificate.issuer()) })
    }
}

/// PEM as a URL has it: what nginx calls `$ssl_client_escaped_cert`.
fn escaped_pem(certificate: &CertificateDer<'_>) -> String {
    let text = BASE64_STANDARD.encode(certificate);
    let mut out = String::from("-----BEGIN%20CERTIFICATE-----%0A");
    for (index, char) in text.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            out.push_str("%0A");
        }
        match char {
            '+' => out.push_str("%2B"),
            '/' => out.push_str("%2F"),
            '=' => out.push_str("%3D"),
            char => out.push(char),
        }
    }
    out.push_str("%0A-----END%20CERTIFICATE-----%0A");
    out
}

/// Takes every certificate for now, but none whose key the client does not have.
#[derive(Debug)]
struct AnyOwner {
    subjects: Vec<DistinguishedName>,
}

impl ClientCertVerifier for AnyOwner {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
