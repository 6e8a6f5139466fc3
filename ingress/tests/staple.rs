//! An OCSP response in a certificate's Secret reaches the client in the handshake, unless it is of no use.

mod edge;

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use edge::tls::{connect, secret, with_tls};
use edge::{Edge, Upstream, service};
use rcgen::{CertificateParams, KeyPair, SerialNumber};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

/// Keeps what the server stapled.
#[derive(Debug, Default)]
struct Looks(Mutex<Vec<u8>>);

impl ServerCertVerifier for Looks {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.0.lock().unwrap() = ocsp.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let len = content.len();
    let len = if len < 128 { vec![len as u8] } else { vec![0x82, (len >> 8) as u8, len as u8] };
    [vec![tag], len, content].concat()
}

/// What OpenSSL would make for the certificate of serial number 7, without a signature.
fn response(next: &str) -> Vec<u8> {
    let time = |text: &str| element(0x18, &[text.as_bytes()]);
    let algorithm = element(0x30, &[&element(6, &[&[0x2b, 0x0e, 3, 2, 0x1a]])]);
    let id = element(0x30, &[&algorithm, &element(4, &[&[1; 20]]), &element(4, &[&[2; 20]]), &[2, 1, 7]]);
    let single = element(0x30, &[&id, &[0x80, 0], &time("20240101000000Z"), &element(0xa0, &[&time(next)])]);
    let answers = element(0x30, &[&single]);
    let data = element(0x30, &[&element(0xa2, &[&[4, 1, 0]]), &time("20240101000000Z"), &answers]);
    let basic = element(0x30, &[&data, &element(0x30, &[]), &[3, 1, 0]]);
    let kind = element(6, &[&[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1]]);
    element(0x30, &[&[0x0a, 1, 0], &element(0xa0, &[&element(0x30, &[&kind, &element(4, &[&basic])])])])
}

#[test]
fn a_staple_is_shown_while_it_is_good() {
    let mut parameters = CertificateParams::new(vec!["a.b".to_owned()]).unwrap();
    parameters.serial_number = Some(SerialNumber::from(7));
    let (key, web) = (KeyPair::generate().unwrap(), Upstream::named("web"));
    let made = parameters.self_signed(&key).unwrap();
    let objects = |staple: &[u8]| {
        service("web", &[web.address])
            + &with_tls("a", &["a.b"], "one")
            + &secret("one", &made.pem(), &key.serialize_pem())
            + &format!("data: {{ tls.ocsp-staple: {:?} }}\n", BASE64_STANDARD.encode(staple))
    };
    let looks = Arc::new(Looks::default());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::clone(&looks) as _);
    let mut config = builder.with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    let config = Arc::new(config);
    let shown = |edge: &Edge| {
        connect(&config, edge.https, "a.b").unwrap();
        looks.0.lock().unwrap().clone()
    };

    let good = response("40000101000000Z");
    let edge = Edge::new(&objects(&good));
    assert_eq!(*edge.warnings.lock().unwrap(), Vec::<String>::new());
    assert_eq!(shown(&edge), good);

    for (useless, said) in [
        (response("20250101000000Z"), "tls.ocsp-staple was good until 2025-01-01T00:00:00Z"),
        (good[1..].to_vec(), "tls.ocsp-staple is no OCSP response that is whole"),
    ] {
        edge.apply(&objects(&useless));
        let warnings = edge.warnings.lock().unwrap().clone();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].starts_with("Ingress default/a: spec.tls[0].secretName: Secret default/one: "));
        assert!(warnings[0].contains(said), "{warnings:?}");
        assert_eq!(shown(&edge), b"", "the certificate alone");
    }
}
