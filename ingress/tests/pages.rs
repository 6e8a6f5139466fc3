//! Pages for errors, hosts with and without `www.`, other endpoints asked, and which one: over real connections.

mod edge;

use std::io::Write as _;
use std::net::SocketAddr;

use edge::{Edge, Upstream, everything, ingress, service};
use ingress::compile::Settings;
use ingress::object::Name;
use ingress::proxy::Tuning;

/// Answers with the status that the path's last element says.
fn says(name: &'static str) -> Upstream {
    Upstream::new(move |seen, stream| {
        let path = seen.line.split(' ').nth(1).unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        let status: u16 = path.rsplit('/').next().and_then(|it| it.parse().ok()).unwrap_or(200);
        write!(
            stream,
            "HTTP/1.1 {status} X\r\nX-From: {name}\r\nContent-Length: {}\r\n\r\n{name}",
            name.len()
        )?;
        Ok(true)
    })
}

/// A page that says what it was asked for.
fn page() -> Upstream {
    Upstream::new(|seen, stream| {
        let body = format!("page of {}", seen.header("x-code").unwrap_or("nothing"));
        write!(stream, "HTTP/1.1 418 X\r\nX-Page: yes\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        Ok(true)
    })
}

#[test]
fn an_error_is_replaced_by_the_page_of_another_backend() {
    let (web, page) = (says("web"), page());
    let annotations = [("custom-http-errors", "404, 503"), ("default-backend", "page")];
    let edge = Edge::new(&(everything(&annotations, &[web.address]) + &service("page", &[page.address])));
    let mut client = edge.client();
    assert_eq!(client.get("a.b", "/x/200", "").body, "web");
    assert_eq!(client.get("a.b", "/x/500", "").status, 500);
    let answer = client.get("a.b", "/x/404?q=1", "Accept: text/html\r\n");
    assert_eq!((answer.status, answer.body.as_str()), (418, "page of 404"));
    assert_eq!(answer.headers["x-page"], "yes");
    assert!(!answer.headers.contains_key("x-from"));
    let seen = page.seen().remove(0);
    assert_eq!(seen.line, "GET / HTTP/1.1");
    for (name, value) in [
        ("host", "a.b"),
        ("x-code", "404"),
        ("x-format", "text/html"),
        ("x-original-uri", "/x/404?q=1"),
        ("x-namespace", "default"),
        ("x-ingress-name", "all"),
        ("x-service-name", "web"),
        ("x-service-port", "80"),
    ] {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
    assert_eq!(client.post("a.b", "/x/503", "body").body, "page of 503");
    assert_eq!(edge.logged("/x/404")[0]["status"], 418);
}

#[test]
fn where_no_endpoint_serves_the_default_backend_does_and_without_a_page_the_error_stays() {
    let page = page();
    let objects = everything(&[("default-backend", "page")], &[]) + &service("page", &[page.address]);
    assert_eq!(Edge::new(&objects).get("a.b", "/").body, "page of 503");
    let silent = everything(&[("custom-http-errors", "503"), ("default-backend", "page")], &[]);
    assert_eq!(Edge::new(&(silent + &service("page", &[]))).get("a.b", "/").status, 503);
    let settings = Settings {
        default_backend: Some((Name::new("default", "page"), "80".into())),
        ..Settings::default()
    };
    let objects = everything(&[("custom-http-errors", "503")], &[]) + &service("page", &[page.address]);
    assert_eq!(Edge::with(&objects, Tuning::default(), settings).get("a.b", "/").body, "page of 503");
}

#[test]
fn who_is_kept_out_sees_a_page_too() {
    let (web, page) = (says("web"), page());
    let annotations = [
        ("limit-rpm", "1"),
        ("limit-burst-multiplier", "1"),
        ("custom-http-errors", "503"),
        ("default-backend", "page"),
    ];
    let edge = Edge::new(&(everything(&annotations, &[web.address]) + &service("page", &[page.address])));
    let bodies: Vec<String> = (0..3).map(|_| edge.get("a.b", "/").body).collect();
    assert_eq!(bodies, ["web", "web", "page of 503"]);
}

#[test]
fn a_host_without_www_leads_to_the_one_with_it_and_the_other_way_round() {
    let web = says("web");
    let objects = service("web", &[web.address])
        + &ingress("bare", &[("from-to-www-redirect", "true")], &["bare.example Prefix / web"])
        + &ingress("www", &[("from-to-www-redirect", "true")], &["www.full.example Prefix / web"])
        + &ingress(
            "both",
            &[("from-to-www-redirect", "true")],
            &["both.example Prefix / web", "www.both.example Prefix / web"],
        );
    let edge = Edge::new(&objects);
    for (asked, to) in [("www.bare.example", "bare.example"), ("full.example", "www.full.example")] {
        let answer = edge.get(asked, "/x?y=1");
        assert_eq!(answer.status, 308);
        assert_eq!(answer.headers["location"], format!("http://{to}/x?y=1"));
        assert_eq!(edge.get(to, "/x").status, 200);
    }
    assert_eq!(edge.get("www.both.example", "/").status, 200);
    assert_eq!(edge.get("both.example", "/").status, 200);
}

#[test]
fn another_endpoint_is_asked_for_what_the_object_names_and_for_nothing_else() {
    let bad = Upstream::new(|_, stream| {
        write!(stream, "HTTP/1.1 503 X\r\nContent-Length: 3\r\n\r\nbad")?;
        Ok(true)
    });
    let good = says("good");
    let statuses = |annotations: &[(&str, &str)], method: &str| -> Vec<u16> {
        // By requests, so that both are asked however fast each of them is: that one of them is not, is 2^-30.
        let all = [&[("load-balance", "least_request")], annotations].concat();
        let edge = Edge::new(&everything(&all, &[bad.address, good.address]));
        let ask = |_| {
            let mut client = edge.client();
            client.send(format!("{method} / HTTP/1.1\r\nHost: a.b\r\n\r\n"));
            client.answer().unwrap().status
        };
        (0..30).map(ask).collect()
    };
    let all_well = |statuses: &[u16]| statuses.iter().all(|status| *status == 200);
    let on = ("proxy-next-upstream", "error http_503");
    assert!(all_well(&statuses(&[on], "GET")));
    assert!(!all_well(&statuses(&[], "GET")));
    assert!(!all_well(&statuses(&[("proxy-next-upstream", "http_502")], "GET")));
    assert!(!all_well(&statuses(&[on], "POST")), "it may have been acted upon");
    assert!(all_well(&statuses(&[("proxy-next-upstream", "http_503 non_idempotent")], "POST")));
    assert!(!all_well(&statuses(&[on, ("proxy-next-upstream-tries", "1")], "GET")));
}

#[test]
fn nobody_else_is_asked_where_that_is_off() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let good = says("good");
    let endpoints = [socket.local_addr().unwrap(), good.address];
    let annotations = [("proxy-next-upstream", "off"), ("load-balance", "least_request")];
    let edge = Edge::new(&everything(&annotations, &endpoints));
    let statuses: Vec<u16> = (0..40).map(|_| edge.get("a.b", "/").status).collect();
    assert!(statuses.contains(&502), "{statuses:?}");
    assert!(edge.logged("/").iter().all(|line| line["tries"].as_u64() <= Some(1)));
}

#[test]
fn a_request_that_is_hashed_goes_to_the_same_endpoint_each_time() {
    let upstreams: Vec<Upstream> = ["one", "two", "three"].map(Upstream::named).into();
    let addresses: Vec<SocketAddr> = upstreams.iter().map(|it| it.address).collect();
    let edge = Edge::new(&everything(&[("upstream-hash-by", "$arg_user")], &addresses));
    for user in ["ann", "bob", "eve", "joe", "kim"] {
        let ask = |path: &str| {
            edge.get("a.b", &format!("/{path}?user={user}")).body.split(':').next().unwrap().to_owned()
        };
        let first = ask("x");
        assert!((0..5).all(|count| ask(&count.to_string()) == first), "{user}");
    }
}

#[test]
fn the_upstream_learns_the_prefix_and_the_service_may_be_asked_at_its_own_address() {
    let web = Upstream::named("web");
    let service = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: web }}\nspec: {{ clusterIP: 127.0.0.1, ports: [{{ port: {} }}] }}\n",
        web.address.port()
    );
    let annotations = [("service-upstream", "true"), ("x-forwarded-prefix", "/shop")];
    let rule = ingress("all", &annotations, &["- Prefix / web"])
        .replace("number: 80", &format!("number: {}", web.address.port()));
    let edge = Edge::new(&(service + &rule));
    assert_eq!(edge.client().get("a.b", "/", "X-Forwarded-Prefix: /evil\r\n").status, 200);
    assert_eq!(web.seen()[0].header("x-forwarded-prefix"), Some("/shop"));
}

#[test]
fn a_service_that_is_a_name_is_looked_up_and_never_leads_to_this_machine_unless_allowed() {
    let web = Upstream::named("web");
    let service = |name: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: web }}\nspec: {{ type: ExternalName, externalName: {name:?} }}\n"
        )
    };
    let rule = ingress("all", &[], &["- Prefix / web"])
        .replace("number: 80", &format!("number: {}", web.address.port()));
    // An old spelling of 127.0.0.1 that resolvers know.
    let objects = service("127.1") + &rule;
    let allowed = Tuning { loopback: true, ..Tuning::default() };
    let edge = Edge::tuned(&objects, allowed);
    assert_eq!(edge.get("a.b", "/x").body, "web: GET /x HTTP/1.1 +0\n");
    let edge = Edge::new(&objects);
    assert_eq!(edge.get("a.b", "/here").status, 502);
    assert_eq!(edge.logged("/here")[0]["reason"], "127.1 leads to this machine itself");
    let edge = Edge::new(&(service("localhost") + &rule));
    assert_eq!(edge.get("a.b", "/").status, 503);
    let warnings = edge.warnings.lock().unwrap().join("\n");
    assert!(warnings.contains("externalName \"localhost\": expected a DNS name elsewhere"), "{warnings}");
    // No resolver is asked for a label of so many letters.
    let nowhere = "x".repeat(70);
    let edge = Edge::tuned(&(service(&nowhere) + &rule), Tuning { loopback: true, ..Tuning::default() });
    assert_eq!(edge.get("a.b", "/none").status, 502);
    let reason = edge.logged("/none").remove(0)["reason"].to_string();
    assert!(reason.contains(&nowhere), "{reason}");
}
