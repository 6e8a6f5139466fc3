//! Client certificates: who is let in, what the upstream learns, and that nothing of one host's clients counts with another.

mod edge;

use std::net::SocketAddr;
use std::sync::Arc;

use edge::tls::{Certificate, Stream, certificate, connect, get, secret, secret_of};
use edge::{Edge, Upstream, ingress_with, service};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::client::ClientSessionMemoryCache;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn parameters(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::OrganizationName, "Shop, Inc.");
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters
}

fn issuer_parameters(name: &str) -> CertificateParams {
    let mut parameters = parameters(name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

fn issuer(name: &str) -> Issuer {
    CertifiedIssuer::self_signed(issuer_parameters(name), KeyPair::generate().unwrap()).unwrap()
}

/// A client's certificate, the chain that it shows, and its key.
type Shows = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn shows(parameters: &CertificateParams, issuer: &Issuer, between: &[&Issuer]) -> Shows {
    let key = KeyPair::generate().unwrap();
    let made = parameters.signed_by(&key, issuer).unwrap();
    let between = between.iter().map(|it| it.as_ref().der().clone());
    (
        [made.der().clone()].into_iter().chain(between).collect(),
        PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    )
}

/// Hosts `mtls.test`, with these annotations, and `plain.test`, without.
struct Setting {
    server: Certificate,
    root: Issuer,
    web: Upstream,
}

impl Setting {
    fn new() -> Self {
        Self {
            server: certificate(&["mtls.test", "plain.test"]),
            root: issuer("root"),
            web: Upstream::named("web"),
        }
    }

    fn objects(&self, annotations: &[(&str, &str)], ca: &[(&str, &str)]) -> String {
        let tls = |host: &str| format!("tls: [{{ hosts: [{host}], secretName: server }}],");
        let mut all = vec![("auth-tls-secret", "default/ca")];
        all.extend(annotations);
        service("web", &[self.web.address])
            + &ingress_with("mtls", &all, &["mtls.test Prefix / web"], &tls("mtls.test"))
            + &ingress_with("plain", &[], &["plain.test Prefix / web"], &tls("plain.test"))
            + &secret("server", &self.server.chain, &self.server.key)
            + &secret_of("ca", ca)
    }

    fn edge(&self, annotations: &[(&str, &str)]) -> Edge {
        let edge = Edge::new(&self.objects(annotations, &[("ca.crt", &self.root.as_ref().pem())]));
        assert_eq!(*edge.warnings.lock().unwrap(), Vec::<String>::new());
        edge
    }

    fn client(&self, shows: Option<&Shows>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.server.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.unwrap().with_root_certificates(roots);
        Arc::new(match shows {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key()).unwrap(),
        })
    }

    /// The status that `mtls.test` gives to a client that shows this.
    fn status(&self, edge: &Edge, shows: Option<&Shows>) -> u16 {
        status(&ask(&self.client(shows), edge.https, "mtls.test", "mtls.test"))
    }

    /// What the upstream learned last.
    fn learned(&self, header: &str) -> Option<String> {
        self.web.seen().last().unwrap().header(header).map(str::to_owned)
    }
}

fn ask(config: &Arc<ClientConfig>, address: SocketAddr, name: &str, host: &str) -> String {
    get(&mut connect(config, address, name).unwrap(), host)
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn resumed(stream: &Stream) -> bool {
    stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)
}

#[test]
fn a_host_that_requires_a_certificate_lets_in_who_shows_a_good_one() {
    let it = Setting::new();
    let edge = it.edge(&[]);
    assert_eq!(it.status(&edge, None), 400);
    assert!(edge.logged("no client certificate")[0]["fault"] == "client");
    let stranger = shows(&parameters("alice"), &issuer("root"), &[]);
    assert_eq!(it.status(&edge, Some(&stranger)), 400, "of another root of the same name");
    let mut old = parameters("alice");
    (old.not_before, old.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
    assert_eq!(it.status(&edge, Some(&shows(&old, &it.root, &[]))), 400);
    edge.logged("the certificate has expired");
    let own = certificate(&["alice"]);
    let own_key = KeyPair::from_pem(&own.key).unwrap();
    let own = (vec![own.root.clone()], PrivateKeyDer::try_from(own_key.serialize_der()).unwrap());
    assert_eq!(it.status(&edge, Some(&own)), 400, "signed by itself");
    assert!(it.web.seen().is_empty());

    let good = shows(&parameters("alice"), &it.root, &[]);
    assert_eq!(it.status(&edge, Some(&good)), 200);
    assert_eq!(it.learned("ssl-client-verify").as_deref(), Some("SUCCESS"));
    assert_eq!(it.learned("ssl-client-subject-dn").as_deref(), Some("CN=alice,O=Shop\\, Inc."));
    assert_eq!(it.learned("ssl-client-issuer-dn").as_deref(), Some("CN=root,O=Shop\\, Inc."));
    assert_eq!(it.learned("ssl-client-cert"), None);
}

#[test]
fn without_being_required_none_is_good_and_a_bad_one_is_told_to_the_upstream_or_refused() {
    let it = Setting::new();
    let stranger = shows(&parameters("alice"), &issuer("other"), &[]);
    let edge = it.edge(&[("auth-tls-verify-client", "optional")]);
    assert_eq!(it.status(&edge, None), 200);
    assert_eq!(it.learned("ssl-client-verify").as_deref(), Some("NONE"));
    assert_eq!(it.status(&edge, Some(&stranger)), 400);
    let edge = it.edge(&[("auth-tls-verify-client", "optional_no_ca")]);
    assert_eq!(it.status(&edge, Some(&stranger)), 200);
    assert_eq!(it.learned("ssl-client-verify").as_deref(), Some("FAILED:none of ca.crt has signed it"));
    let edge = it.edge(&[("auth-tls-verify-client", "off")]);
    assert_eq!(it.status(&edge, None), 200);
}

#[test]
fn certificates_between_are_counted() {
    let it = Setting::new();
    let parameters_between = issuer_parameters("between");
    let between =
        CertifiedIssuer::signed_by(parameters_between, KeyPair::generate().unwrap(), &it.root).unwrap();
    let deep = shows(&parameters("alice"), &between, &[&between]);
    assert_eq!(it.status(&it.edge(&[]), Some(&deep)), 200, "one is allowed unless said otherwise");
    assert_eq!(it.status(&it.edge(&[("auth-tls-verify-depth", "0")]), Some(&deep)), 400);
}

#[test]
fn a_client_without_a_good_certificate_is_sent_to_the_error_page() {
    let it = Setting::new();
    let edge = it.edge(&[("auth-tls-error-page", "https://plain.test/help")]);
    let answer = ask(&it.client(None), edge.https, "mtls.test", "mtls.test");
    assert_eq!(status(&answer), 302);
    assert!(answer.contains("location: https://plain.test/help\r\n"), "{answer}");
}

#[test]
fn a_common_name_must_fit_to_its_end() {
    let it = Setting::new();
    let edge = it.edge(&[("auth-tls-match-cn", "CN=ali(ce|en)")]);
    let of = |name: &str| it.status(&edge, Some(&shows(&parameters(name), &it.root, &[])));
    assert_eq!([of("alice"), of("alien"), of("malice"), of("alice2")], [200, 200, 403, 403]);
    let mut forged = parameters("mallory");
    forged.distinguished_name.push(DnType::OrganizationalUnitName, "x,CN=alice");
    assert_eq!(it.status(&edge, Some(&shows(&forged, &it.root, &[]))), 403);
}

#[test]
fn the_upstream_is_given_the_certificate_and_nobody_can_make_up_one() {
    let it = Setting::new();
    let edge = it.edge(&[("auth-tls-pass-certificate-to-upstream", "true")]);
    let good = shows(&parameters("alice"), &it.root, &[]);
    assert_eq!(it.status(&edge, Some(&good)), 200);
    let passed = it.learned("ssl-client-cert").unwrap();
    let pem = passed.replace("%20", " ").replace("%0A", "\n").replace("%2B", "+").replace("%2F", "/");
    let pem = pem.replace("%3D", "=");
    let read: CertificateDer<'_> = rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap();
    assert_eq!(read, good.0[0]);
    let mut client = edge.client();
    let forged = "SSL-Client-Verify: SUCCESS\r\nssl-client-subject-dn: CN=alice\r\nssl-client-cert: x\r\n";
    // In the clear, with no certificate asked for.
    edge.apply(&it.objects(&[], &[("ca.crt", &it.root.as_ref().pem())]).replace(
        "metadata: { name: plain, annotations: {  } }",
        "metadata: { name: plain, annotations: { nginx.ingress.kubernetes.io/ssl-redirect: \"false\" } }",
    ));
    assert_eq!(client.get("plain.test", "/", forged).status, 200);
    for header in ["ssl-client-verify", "ssl-client-subject-dn", "ssl-client-cert"] {
        assert_eq!(it.learned(header), None);
    }
    assert_eq!(edge.client().get("plain.test", "/", "ssl_client_verify: SUCCESS\r\n").status, 400);
}

#[test]
fn the_service_of_auth_url_learns_of_the_certificate_too() {
    let it = Setting::new();
    let auth = Upstream::named("auth");
    let objects = it.objects(
        &[("auth-url", "http://auth.default.svc.cluster.local/")],
        &[("ca.crt", &it.root.as_ref().pem())],
    );
    let edge = Edge::new(&(objects + &service("auth", &[auth.address])));
    assert_eq!(it.status(&edge, Some(&shows(&parameters("alice"), &it.root, &[]))), 200);
    assert_eq!(auth.seen()[0].header("ssl-client-verify"), Some("SUCCESS"));
}

#[test]
fn a_host_that_is_not_the_connections_is_misdirected() {
    let it = Setting::new();
    let edge = it.edge(&[("auth-tls-verify-client", "optional")]);
    let good = shows(&parameters("alice"), &it.root, &[]);
    for (shows, name, host, expected) in [
        (None, "plain.test", "mtls.test", 421),
        (Some(&good), "plain.test", "mtls.test", 421),
        (Some(&good), "mtls.test", "plain.test", 421),
        (None, "plain.test", "plain.test", 200),
        (Some(&good), "mtls.test", "mtls.test", 200),
        (None, "plain.test", "nobody.test", 404),
    ] {
        let answer = ask(&it.client(shows), edge.https, name, host);
        assert_eq!(status(&answer), expected, "{name} {host}");
    }
}

#[test]
fn in_the_clear_such_a_host_is_closed() {
    let it = Setting::new();
    let edge = it.edge(&[]);
    assert_eq!(edge.get("mtls.test", "/").status, 308, "sent to TLS");
    let edge = it.edge(&[("ssl-redirect", "false")]);
    assert_eq!(edge.get("mtls.test", "/").status, 403);
    assert!(it.web.seen().is_empty());
}

#[test]
fn a_session_is_resumed_with_its_client_and_only_where_nothing_about_clients_has_changed() {
    let it = Setting::new();
    let edge = it.edge(&[]);
    let good = shows(&parameters("alice"), &it.root, &[]);
    let mut config = Arc::unwrap_or_clone(it.client(Some(&good)));
    config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(32)));
    let config = Arc::new(config);
    let connection = |expected: bool| {
        let mut stream = connect(&config, edge.https, "mtls.test").unwrap();
        assert_eq!(resumed(&stream), expected);
        status(&get(&mut stream, "mtls.test"))
    };
    assert_eq!(connection(false), 200);
    assert_eq!(connection(true), 200);
    assert_eq!(it.learned("ssl-client-subject-dn").as_deref(), Some("CN=alice,O=Shop\\, Inc."));
    // Something else changes.
    let root = it.root.as_ref().pem();
    edge.apply(&it.objects(&[], &[("ca.crt", &root)]).replace("Prefix", "Exact"));
    assert_eq!(connection(true), 200);
    // Who signs does: the old sessions are of no use.
    let mut kept = connect(&config, edge.https, "mtls.test").unwrap();
    let other = issuer("other");
    edge.apply(&it.objects(&[], &[("ca.crt", &other.as_ref().pem())]));
    assert_eq!(connection(false), 400);
    assert_eq!(status(&get(&mut kept, "mtls.test")), 421, "nor is a connection that is open");
}

#[test]
fn a_certificate_that_was_called_back_is_none() {
    let it = Setting::new();
    let named = |serial: u64| {
        let mut parameters = parameters("alice");
        parameters.serial_number = Some(SerialNumber::from(serial));
        shows(&parameters, &it.root, &[])
    };
    let list = |next: i32| {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(7),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(next, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&it.root).unwrap().pem().unwrap()
    };
    let root = it.root.as_ref().pem();
    let edge = Edge::new(&it.objects(&[], &[("ca.crt", &root), ("ca.crl", &list(4000))]));
    assert_eq!([it.status(&edge, Some(&named(7))), it.status(&edge, Some(&named(8)))], [400, 200]);
    edge.logged("the certificate was called back");
    edge.apply(&it.objects(&[], &[("ca.crt", &root), ("ca.crl", &list(2025))]));
    assert_eq!(it.status(&edge, Some(&named(8))), 400, "a list that is not in force any more says nothing");
}

#[test]
fn a_secret_that_is_missing_or_broken_closes_its_own_hosts_alone() {
    let it = Setting::new();
    let root = it.root.as_ref().pem();
    let good = shows(&parameters("alice"), &it.root, &[]);
    for (data, said) in [
        (vec![("other", "x")], "Secret default/ca: data has no ca.crt: expected certificates in PEM"),
        (vec![("ca.crt", "nonsense")], "Secret default/ca: ca.crt has no certificate: expected `-----BEGIN"),
        (vec![("ca.crt", &*root), ("ca.crl", "nonsense")], "Secret default/ca: ca.crl has no list: expected"),
    ] {
        let edge = Edge::new(&it.objects(&[("ssl-redirect", "false")], &data));
        let warnings = edge.warnings.lock().unwrap().clone();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let start = "Ingress default/mtls: nginx.ingress.kubernetes.io/auth-tls-secret: ";
        assert!(warnings[0].starts_with(start) && warnings[0].contains(said), "{warnings:?}");
        assert_eq!(it.status(&edge, Some(&good)), 503);
        assert_eq!(edge.get("mtls.test", "/").status, 403);
        let answer = ask(&it.client(None), edge.https, "plain.test", "plain.test");
        assert_eq!(status(&answer), 200);
    }
    let edge = Edge::new(&it.objects(&[], &[("ca.crt", &root)]).replace("name: ca }", "name: cb }"));
    assert!(edge.warnings.lock().unwrap()[0].contains("there is no Secret default/ca"));
    assert_eq!(it.status(&edge, Some(&good)), 503);
}

#[test]
fn annotations_that_cannot_be_read_close_the_object() {
    let it = Setting::new();
    let good = shows(&parameters("alice"), &it.root, &[]);
    for (key, value, expected) in [
        ("auth-tls-secret", "elsewhere/ca", "expected default/NAME of a Secret with ca.crt"),
        ("auth-tls-verify-client", "maybe", "expected on, off, optional or optional_no_ca"),
        ("auth-tls-verify-depth", "-1", "expected a number of certificates between, 0 or more"),
        ("auth-tls-match-cn", "alice", "expected a regular expression that begins with CN="),
        ("auth-tls-match-cn", "CN=(", "expected a regular expression that begins with CN="),
    ] {
        let edge = Edge::new(&it.objects(&[], &[("ca.crt", &it.root.as_ref().pem())]));
        let line = "\"nginx.ingress.kubernetes.io/auth-tls-secret\": \"default/ca\"";
        let more = match key {
            "auth-tls-secret" => line.replace("default/ca", value),
            _ => format!("{line}, \"nginx.ingress.kubernetes.io/{key}\": {value:?}"),
        };
        let objects = it.objects(&[], &[("ca.crt", &it.root.as_ref().pem())]);
        edge.apply(&objects.replace(line, &more));
        let warnings = edge.warnings.lock().unwrap().clone();
        assert!(warnings.iter().any(|it| it.contains(key) && it.contains(expected)), "{warnings:?}");
        assert_eq!(it.status(&edge, Some(&good)), 503, "{key}");
    }
    let objects = it.objects(&[], &[("ca.crt", &it.root.as_ref().pem())]);
    let edge =
        Edge::new(&objects.replace("auth-tls-secret\": \"default/ca\"", "auth-tls-verify-client\": \"on\""));
    assert!(
        edge.warnings.lock().unwrap()[0].contains("without auth-tls-secret there is nothing to verify by")
    );
    assert_eq!(it.status(&edge, Some(&good)), 503);
}

#[test]
fn of_two_objects_of_one_host_the_older_one_decides_and_the_other_is_not_left_open() {
    let it = Setting::new();
    let root = it.root.as_ref().pem();
    let objects = it.objects(&[], &[("ca.crt", &root)])
        + &ingress_with(
            "other",
            &[("auth-tls-secret", "ca"), ("auth-tls-verify-client", "optional")],
            &["mtls.test Prefix /other web"],
            "",
        )
        + &ingress_with("third", &[], &["mtls.test Prefix /third web"], "");
    let edge = Edge::new(&objects);
    let warnings = edge.warnings.lock().unwrap().clone();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("as the older Ingress default/mtls wants already"), "{warnings:?}");
    let good = shows(&parameters("alice"), &it.root, &[]);
    let on = |path: &str, shows: Option<&Shows>| {
        let mut stream = connect(&it.client(shows), edge.https, "mtls.test").unwrap();
        std::io::Write::write_all(
            &mut stream,
            format!("GET {path} HTTP/1.1\r\nHost: mtls.test\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        status(&answer)
    };
    assert_eq!([on("/other", Some(&good)), on("/third", Some(&good)), on("/third", None)], [403, 200, 400]);
}
