//! TLS as clients see it: a real handshake each time.

mod edge;

use edge::tls::{Certificate, certificate, client, connect, get, secret, with_tls};
use edge::{Edge, Upstream, everything, ingress_with, service};
use ingress::compile::Settings;
use ingress::object::Name;
use ingress::proxy::Tuning;
use rustls::{HandshakeKind, NamedGroup, ProtocolVersion};

#[test]
fn each_name_is_shown_its_certificate() {
    let web = Upstream::named("web");
    let (exact, wildcard, default) =
        (certificate(&["a.example.com"]), certificate(&["*.example.com"]), certificate(&["fallback.test"]));
    let objects = service("web", &[web.address])
        + &with_tls("a", &["a.example.com"], "exact")
        + &with_tls("b", &["*.example.com"], "wildcard")
        + &secret("exact", &exact.chain, &exact.key)
        + &secret("wildcard", &wildcard.chain, &wildcard.key)
        + &secret("default", &default.chain, &default.key);
    let settings =
        Settings { default_certificate: Some(Name::new("default", "default")), ..Settings::default() };
    let edge = Edge::with(&objects, Tuning::default(), settings);
    assert_eq!(*edge.warnings.lock().unwrap(), Vec::<String>::new());
    for (name, trusted) in [
        ("a.example.com", &exact),
        ("b.example.com", &wildcard),
        ("A.EXAMPLE.com", &exact),
        ("fallback.test", &default),
    ] {
        let mut stream = connect(&client(&[trusted], rustls::ALL_VERSIONS), edge.https, name).unwrap();
        assert_eq!(stream.conn.peer_certificates().unwrap()[0], trusted.root, "{name}");
        let expected = if trusted.root == default.root { "404" } else { "200" };
        assert!(get(&mut stream, name).starts_with(&format!("HTTP/1.1 {expected}")), "{name}");
    }
    let refused = connect(&client(&[&exact, &wildcard], rustls::ALL_VERSIONS), edge.https, "x.y.example.com");
    assert!(refused.is_err(), "one label only");
    assert_eq!(web.seen()[0].header("x-forwarded-proto"), Some("https"));
}

#[test]
fn both_versions_are_spoken_and_the_newer_one_with_a_key_exchange_for_after_the_quantum() {
    let web = Upstream::named("web");
    let one = certificate(&["a.b"]);
    let objects = service("web", &[web.address])
        + &with_tls("a", &["a.b"], "one")
        + &secret("one", &one.chain, &one.key);
    let edge = Edge::new(&objects);
    for (version, expected) in [
        (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let mut stream = connect(&client(&[&one], &[version]), edge.https, "a.b").unwrap();
        assert_eq!(stream.conn.protocol_version(), Some(expected));
        if expected == ProtocolVersion::TLSv1_3 {
            let group = stream.conn.negotiated_key_exchange_group().unwrap().name();
            assert_eq!(group, NamedGroup::X25519MLKEM768);
        }
        assert!(get(&mut stream, "a.b").contains("web: GET / "));
    }
}

#[test]
fn a_session_is_resumed_by_its_ticket() {
    let web = Upstream::named("web");
    let one = certificate(&["a.b"]);
    let objects = service("web", &[web.address])
        + &with_tls("a", &["a.b"], "one")
        + &secret("one", &one.chain, &one.key);
    let edge = Edge::new(&objects);
    let config = client(&[&one], rustls::ALL_VERSIONS);
    // Each worker takes some of the connections: a ticket of one is good with the other.
    for count in 0..8 {
        let mut stream = connect(&config, edge.https, "a.b").unwrap();
        let resumed = stream.conn.handshake_kind() == Some(HandshakeKind::Resumed);
        assert_eq!(resumed, count > 0, "connection {count}");
        get(&mut stream, "a.b");
    }
}

#[test]
fn a_name_that_has_no_certificate_gets_no_connection() {
    let edge = Edge::new("");
    let one = certificate(&["a.b"]);
    assert!(connect(&client(&[&one], rustls::ALL_VERSIONS), edge.https, "a.b").is_err());
    let failed = "weir_ingress_handshakes_failed_total 1\n";
    edge::eventually(|| edge.shared().metrics().text().contains(failed).then_some(()));
}

#[test]
fn a_new_certificate_is_shown_to_new_connections_and_the_old_ones_go_on() {
    let web = Upstream::named("web");
    let (old, new) = (certificate(&["a.b"]), certificate(&["a.b"]));
    let objects = |certificate: &Certificate| {
        service("web", &[web.address])
            + &with_tls("a", &["a.b"], "one")
            + &secret("one", &certificate.chain, &certificate.key)
    };
    let edge = Edge::new(&objects(&old));
    let mut before = connect(&client(&[&old], rustls::ALL_VERSIONS), edge.https, "a.b").unwrap();
    edge.apply(&objects(&new));
    let mut after = connect(&client(&[&new], rustls::ALL_VERSIONS), edge.https, "a.b").unwrap();
    assert!(get(&mut before, "a.b").contains("web: GET / "));
    assert!(get(&mut after, "a.b").contains("web: GET / "));
}

#[test]
fn a_broken_secret_is_named_with_what_would_be_right_and_harms_its_own_hosts_alone() {
    let web = Upstream::named("web");
    let (good, other) = (certificate(&["good.test"]), certificate(&["bad.test"]));
    for (broken, said) in [
        (String::new(), "there is no Secret default/bad"),
        (
            secret("bad", "nonsense", &other.key),
            "Secret default/bad: tls.crt has no certificate: expected `-----BEGIN CERTIFICATE-----`",
        ),
        (secret("bad", &other.chain, "nonsense"), "Secret default/bad: tls.key has no private key in PEM"),
        (
            secret("bad", &other.chain, &good.key),
            "Secret default/bad: tls.key is not the key of the certificate in tls.crt",
        ),
        (
            secret("bad", &other.chain, &other.key).replace("tls.crt", "cert"),
            "data has no tls.crt: expected tls.crt and tls.key",
        ),
        (secret("bad", &good.chain, &good.key), "the certificate of Secret default/bad is not for bad.test"),
    ] {
        let objects = service("web", &[web.address])
            + &with_tls("a", &["good.test"], "good")
            + &with_tls("b", &["bad.test"], "bad")
            + &secret("good", &good.chain, &good.key)
            + &broken;
        let edge = Edge::new(&objects);
        let warnings = edge.warnings.lock().unwrap().clone();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].starts_with("Ingress default/b: spec.tls[0].secretName: "), "{warnings:?}");
        assert!(warnings[0].contains(said), "{warnings:?} do not say {said:?}");
        let config = client(&[&good, &other], rustls::ALL_VERSIONS);
        assert!(
            get(&mut connect(&config, edge.https, "good.test").unwrap(), "good.test").contains("web: GET / ")
        );
        assert!(connect(&config, edge.https, "bad.test").is_err());
    }
}

#[test]
fn a_certificate_without_hosts_is_for_the_names_that_it_has() {
    let web = Upstream::named("web");
    let one = certificate(&["a.b", "*.c.d"]);
    let objects = service("web", &[web.address])
        + &ingress_with("a", &[], &["- Prefix / web"], "tls: [{ secretName: one }],")
        + &secret("one", &one.chain, &one.key);
    let edge = Edge::new(&objects);
    let config = client(&[&one], rustls::ALL_VERSIONS);
    assert!(connect(&config, edge.https, "a.b").is_ok());
    assert!(connect(&config, edge.https, "x.c.d").is_ok());
    assert!(connect(&config, edge.https, "e.f").is_err());
}

#[test]
fn in_the_clear_a_host_with_a_certificate_is_sent_to_it() {
    let web = Upstream::named("web");
    let one = certificate(&["a.b"]);
    let objects = everything(&[], &[web.address])
        + &with_tls("a", &["a.b"], "one")
        + &secret("one", &one.chain, &one.key);
    let edge = Edge::tuned(&objects, Tuning { https_port: 8443, ..Tuning::default() });
    let answer = edge.get("a.b", "/x");
    assert_eq!((answer.status, answer.headers["location"].as_str()), (308, "https://a.b:8443/x"));
    assert_eq!(edge.get("c.d", "/x").status, 200);
}

#[test]
fn who_does_not_shake_hands_is_not_waited_for() {
    let edge =
        Edge::tuned("", Tuning { handshake: std::time::Duration::from_millis(100), ..Tuning::default() });
    let mut silent = edge::Client::connect(edge.https);
    assert!(silent.ended());
}
