//! OCSP responses (RFC 6960) that are stapled to a certificate: read only as far as to know whether they are its own and
//! until when. Whether their signature is good is for clients to say.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use super::der::{Der, ENUMERATED, GENERALIZED_TIME, INTEGER, OCTET_STRING, OID, SEQUENCE};

/// A tag of the context that holds elements.
const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// What a response must say of a certificate to be shown with it.
const GOOD: u8 = 0x80;
/// `id-pkix-ocsp-basic`, the one kind that there is.
const BASIC: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];

/// A response, and until when it says something.
#[derive(Debug)]
pub(super) struct Staple {
    pub(super) response: Vec<u8>,
    pub(super) until: Timestamp,
}

impl Staple {
    /// The error says what would be right.
    pub(super) fn read(
        response: Vec<u8>,
        certificate: &CertificateDer<'_>,
        now: Timestamp,
    ) -> Result<Self, String> {
        let single = single(&response).ok_or(
            "is no OCSP response that is whole: expected one in DER, with a time when the next is due",
        )?;
        let certificate = EndEntityCert::try_from(certificate).map_err(|error| error.to_string())?;
        if single.serial != certificate.serial() {
            return Err("is the response for another certificate: expected tls.crt's own".into());
        }
        if single.status != GOOD {
            return Err("does not say that the certificate is good".into());
        }
        if single.until <= now {
            return Err(format!("was good until {}: expected one that still is", single.until));
        }
        let until = single.until;
        Ok(Self { response, until })
    }
}

struct Single<'a> {
    serial: &'a [u8],
    status: u8,
    until: Timestamp,
}

/// The one answer in a response of success.
fn single(response: &[u8]) -> Option<Single<'_>> {
    let mut outer = Der(response).enter(SEQUENCE)?;
    (outer.expect(ENUMERATED)? == [0]).then_some(())?;
    let mut bytes = outer.enter(context(0))?.enter(SEQUENCE)?;
    (bytes.expect(OID)? == BASIC).then_some(())?;
    let mut data = bytes.enter(OCTET_STRING)?.enter(SEQUENCE)?.enter(SEQUENCE)?;
    data.skip(context(0));
    // Who answers, by name or by key.
    let (responder, _) = data.next()?;
    (responder == context(1) || responder == context(2)).then_some(())?;
    data.expect(GENERALIZED_TIME)?;
    let mut single = data.enter(SEQUENCE)?.enter(SEQUENCE)?;
    let mut id = single.enter(SEQUENCE)?;
    id.expect(SEQUENCE)?;
    id.expect(OCTET_STRING)?;
    id.expect(OCTET_STRING)?;
    let serial = id.expect(INTEGER)?;
    let (status, _) = single.next()?;
    single.expect(GENERALIZED_TIME)?;
    let next = single.enter(context(0))?.expect(GENERALIZED_TIME)?;
    let next = DateTime::strptime("%Y%m%d%H%M%SZ", next).ok()?;
    Some(Single { serial, status, until: TimeZone::UTC.to_timestamp(next).ok()? })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SerialNumber};

    use super::*;

    fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let len = content.len();
        let len = if len < 128 { vec![len as u8] } else { vec![0x82, (len >> 8) as u8, len as u8] };
        [vec![tag], len, content].concat()
    }

    fn response(serial: &[u8], status: u8, next: &str) -> Vec<u8> {
        let time = |text: &str| element(GENERALIZED_TIME, &[text.as_bytes()]);
        let id = element(
            SEQUENCE,
            &[
                &element(SEQUENCE, &[&element(OID, &[&[0x2b, 0x0e, 3, 2, 0x1a]])]),
                &element(OCTET_STRING, &[&[1; 20]]),
                &element(OCTET_STRING, &[&[2; 20]]),
                &element(INTEGER, &[serial]),
            ],
        );
        let single = element(
            SEQUENCE,
            &[&id, &element(status, &[]), &time("20240101000000Z"), &element(context(0), &[&time(next)])],
        );
        let data = element(
            SEQUENCE,
            &[&element(context(2), &[&[4, 1, 0]]), &time("20240101000000Z"), &element(SEQUENCE, &[&single])],
        );
        let basic = element(SEQUENCE, &[&data, &element(SEQUENCE, &[]), &[3, 1, 0]]);
        let bytes = element(SEQUENCE, &[&element(OID, &[BASIC]), &element(OCTET_STRING, &[&basic])]);
        element(SEQUENCE, &[&[ENUMERATED, 1, 0], &element(context(0), &[&bytes])])
    }

    #[test]
    fn a_response_is_taken_if_it_is_the_certificates_own_and_good_for_now() {
        let mut parameters = CertificateParams::new(vec!["a.b".to_owned()]).unwrap();
        parameters.serial_number = Some(SerialNumber::from(7));
        let made = parameters.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let read = |response| Staple::read(response, made.der(), now);
        let good = response(&[7], GOOD, "20260101000001Z");
        let staple = read(good.clone()).unwrap();
        assert_eq!((staple.response, staple.until.as_second()), (good.clone(), now.as_second() + 1));
        for (bad, said) in [
            (response(&[8], GOOD, "20260101000001Z"), "for another certificate"),
            (response(&[7], context(1), "20260101000001Z"), "does not say that the certificate is good"),
            (response(&[7], GOOD, "20260101000000Z"), "was good until 2026-01-01T00:00:00Z"),
            (response(&[7], GOOD, "soon"), "no OCSP response that is whole"),
            (element(SEQUENCE, &[&[ENUMERATED, 1, 6]]), "no OCSP response that is whole"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        for cut in 0..good.len() {
            assert!(read(good[..cut].to_vec()).is_err(), "cut off after {cut}");
        }
    }
}
