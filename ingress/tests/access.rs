//! Who may come: passwords, a service that is asked, limits; over real connections.

mod edge;

use std::io::Write as _;

use edge::{Edge, Upstream, everything, ingress, service};

/// `ann` with bcrypt and `bob` with MD5, both `myPassword`.
const USERS: &str = "---
apiVersion: v1
kind: Secret
metadata: { name: users }
stringData:
  auth: |
    ann:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC
    bob:$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/
";
const BASIC: [(&str, &str); 2] = [("auth-type", "basic"), ("auth-secret", "users")];
const ANN: &str = "Authorization: Basic YW5uOm15UGFzc3dvcmQ=\r\n";
const BOB: &str = "Authorization: Basic Ym9iOm15UGFzc3dvcmQ=\r\n";

#[test]
fn with_a_password_one_comes_in_and_without_it_learns_which_is_asked_for() {
    let web = Upstream::named("web");
    let edge = Edge::new(&(everything(&BASIC, &[web.address]) + USERS));
    let mut client = edge.client();
    let answer = client.get("a.b", "/none", "");
    assert_eq!(answer.status, 401);
    assert_eq!(
        answer.headers["www-authenticate"],
        "Basic realm=\"Authentication Required\", charset=\"UTF-8\""
    );
    for (name, wrong) in [
        ("bad", "Authorization: Basic YW5uOm15cGFzc3dvcmQ=\r\n"),
        ("unknown", "Authorization: Basic ZXZlOm15UGFzc3dvcmQ=\r\n"),
        ("bearer", "Authorization: Bearer YW5uOm15UGFzc3dvcmQ=\r\n"),
    ] {
        assert_eq!(client.get("a.b", &format!("/{name}"), wrong).status, 401, "{name}");
        assert_eq!(edge.logged(&format!("/{name}"))[0]["fault"], "client");
    }
    assert!(web.seen().is_empty());
    for known in [ANN, BOB, ANN] {
        assert_eq!(client.get("a.b", "/", known).status, 200);
    }
    assert!(web.seen()[0].header("authorization").is_some(), "the upstream may look, too, as with nginx");
}

#[test]
fn a_secret_that_changes_is_in_force_at_once_and_one_that_goes_closes() {
    let web = Upstream::named("web");
    let objects = everything(&BASIC, &[web.address]);
    let edge = Edge::new(&(objects.clone() + USERS));
    let get = || edge.client().get("a.b", "/", ANN).status;
    assert_eq!(get(), 200);
    edge.apply(&(objects.clone() + &USERS.replace("HHa6uX", "HHa6uY")));
    assert_eq!(get(), 401);
    edge.apply(&objects);
    assert_eq!(get(), 503);
    edge.apply(&(objects + USERS));
    assert_eq!(get(), 200);
}

#[test]
fn either_an_address_or_a_password_is_enough_if_the_object_says_so() {
    let web = Upstream::named("web");
    let get = |list: &str, satisfy: &str, with: &str| {
        let annotations = [BASIC[0], BASIC[1], ("satisfy", satisfy), ("whitelist-source-range", list)];
        let edge = Edge::new(&(everything(&annotations, &[web.address]) + USERS));
        edge.client().get("a.b", "/", with).status
    };
    assert_eq!(get("127.0.0.0/8", "any", ""), 200);
    assert_eq!(get("10.0.0.0/8", "any", ""), 401);
    assert_eq!(get("10.0.0.0/8", "any", ANN), 200);
    assert_eq!(get("10.0.0.0/8", "all", ANN), 403);
    assert_eq!(get("127.0.0.0/8", "all", ""), 401);
}

/// Says who it is to whom the cookie is known, and otherwise what the path says.
fn authority() -> Upstream {
    Upstream::new(|seen, stream| {
        let known = seen.header("cookie").is_some_and(|cookie| cookie.contains("session=ann"));
        let head = match (known, seen.line.split(' ').nth(1).unwrap_or_default()) {
            (true, _) => "200 OK\r\nX-User: ann\r\nSet-Cookie: seen=1",
            (false, "/forbid") => "403 Forbidden",
            (false, "/break") => "302 Found\r\nLocation: /x",
            (false, _) => "401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nSet-Cookie: csrf=2",
        };
        write!(stream, "HTTP/1.1 {head}\r\nContent-Length: 4\r\n\r\nbody")?;
        Ok(true)
    })
}

fn asks(auth: &Upstream, path: &str, web: &Upstream, more: &[(&str, &str)]) -> Edge {
    let url = format!("http://auth.default.svc.cluster.local{path}");
    let annotations =
        [&[("auth-url", url.as_str()), ("auth-response-headers", "X-User, X-Group")], more].concat();
    Edge::new(&(everything(&annotations, &[web.address]) + &service("auth", &[auth.address])))
}

const SESSION: &str =
    "Cookie: session=ann\r\nX-User: root\r\nX-Group: wheel\r\nX_User: root\r\nX_Original_Uri: /public\r\n";

#[test]
fn a_service_is_asked_with_the_requests_head_and_the_upstream_learns_what_it_says() {
    let (web, auth) = (Upstream::named("web"), authority());
    let edge = asks(&auth, "/check?a=b", &web, &[]);
    let mut client = edge.client();
    client
        .send(format!("POST /shop?x=1 HTTP/1.1\r\nHost: a.b:8080\r\n{SESSION}Content-Length: 4\r\n\r\nbody"));
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "web: POST /shop?x=1 HTTP/1.1 +4\n"));
    assert_eq!(answer.headers["set-cookie"], "seen=1");
    let seen = auth.seen().remove(0);
    assert_eq!(seen.line, "GET /check?a=b HTTP/1.1");
    for (name, value) in [
        ("host", "auth.default.svc.cluster.local"),
        ("cookie", "session=ann"),
        ("x-original-url", "http://a.b:8080/shop?x=1"),
        ("x-original-method", "POST"),
        ("x-real-ip", "127.0.0.1"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-auth-request-redirect", "/shop?x=1"),
    ] {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
    assert_eq!(seen.header("content-length"), None);
    assert_eq!(seen.header("x_original_uri"), None, "taken for ours by many a reader");
    let seen = web.seen().remove(0);
    assert_eq!(seen.header("x-user"), Some("ann"));
    assert_eq!((seen.header("x-group"), seen.header("x_user")), (None, None), "not the client's to say");
    edge::eventually(|| {
        assert_eq!(client.get("a.b", "/", SESSION).status, 200);
        (auth.connections() < auth.seen().len()).then_some(())
    });
}

#[test]
fn who_comes_in_without_its_being_asked_says_nothing_in_its_name() {
    let (web, auth) = (Upstream::named("web"), authority());
    let edge = asks(&auth, "/", &web, &[("satisfy", "any"), ("whitelist-source-range", "127.0.0.0/8")]);
    assert_eq!(edge.client().get("a.b", "/", SESSION).status, 200);
    assert!(auth.seen().is_empty());
    let seen = web.seen().remove(0);
    for name in ["x-user", "x_user", "x-group"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
}

#[test]
fn who_may_not_come_is_refused_or_sent_to_sign_in() {
    let (web, auth) = (Upstream::named("web"), authority());
    let answer = asks(&auth, "/", &web, &[]).get("a.b", "/");
    assert_eq!((answer.status, answer.headers["www-authenticate"].as_str()), (401, "Bearer"));
    assert_eq!(asks(&auth, "/forbid", &web, &[]).get("a.b", "/").status, 403);
    let signin = [("auth-signin", "https://sign.in/start?tenant=$host")];
    let answer = asks(&auth, "/", &web, &signin).get("a.b:81", "/shop?x=1&y=2");
    assert_eq!(answer.status, 302);
    assert_eq!(
        answer.headers["location"],
        "https://sign.in/start?tenant=a.b&rd=http://a.b:81%2Fshop%3Fx%3D1%26y%3D2"
    );
    assert_eq!(answer.headers["set-cookie"], "csrf=2");
    assert_eq!(
        asks(&auth, "/forbid", &web, &signin).get("a.b", "/").status,
        403,
        "who is known, and may not"
    );
    assert!(web.seen().is_empty());
}

#[test]
fn a_service_that_says_nothing_of_use_lets_nobody_in() {
    let (web, auth) = (Upstream::named("web"), authority());
    let edge = asks(&auth, "/break", &web, &[]);
    assert_eq!(edge.get("a.b", "/odd").status, 500);
    let line = edge.logged("/odd").remove(0);
    assert_eq!((line["fault"].as_str(), line["status"].as_u64()), (Some("upstream"), Some(500)));
    assert!(line["reason"].as_str().unwrap().contains("its auth-url: answered 302"), "{line}");
    let closes = Upstream::new(|_, _| Ok(false));
    assert_eq!(asks(&closes, "/", &web, &[]).get("a.b", "/").status, 500);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let edge = Edge::new(&everything(&[("auth-url", &url), ("proxy-read-timeout", "1")], &[web.address]));
    assert_eq!(edge.get("a.b", "/").status, 500);
    assert!(web.seen().is_empty());
}

#[test]
fn a_url_may_have_any_host_and_one_of_the_requests_own_host_is_asked_here() {
    let (web, auth) = (Upstream::named("web"), authority());
    let url = format!("http://localhost:{}/", auth.address.port());
    let edge = Edge::new(&everything(&[("auth-url", &url)], &[web.address]));
    assert_eq!(edge.client().get("a.b", "/", SESSION).status, 200);
    assert_eq!(edge.get("a.b", "/").status, 401);
    let objects = service("web", &[web.address])
        + &service("auth", &[auth.address])
        + &ingress("web", &[("auth-url", "https://$host/oauth2/auth")], &["shop.example.com Prefix / web"])
        + &ingress("auth", &[], &["shop.example.com Prefix /oauth2 auth"]);
    let edge = Edge::new(&objects);
    assert_eq!(edge.client().get("shop.example.com", "/", SESSION).status, 200);
    assert_eq!(edge.get("shop.example.com", "/").status, 401);
    assert_eq!(auth.seen().pop().unwrap().header("host"), Some("shop.example.com"));
}

#[test]
fn who_comes_too_often_waits_and_nobody_else_does() {
    let web = Upstream::named("web");
    let objects = service("web", &[web.address])
        + &ingress(
            "limited",
            &[("limit-rpm", "1"), ("limit-burst-multiplier", "3")],
            &["limited Prefix / web"],
        )
        + &ingress(
            "exempt",
            &[("limit-rpm", "1"), ("limit-whitelist", "127.0.0.0/8")],
            &["exempt Prefix / web"],
        );
    let edge = Edge::new(&objects);
    // Each on a connection of its own: both workers count together.
    let statuses: Vec<u16> = (0..8).map(|_| edge.get("limited", "/often").status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 503, 503, 503, 503]);
    assert_eq!(edge.get("exempt", "/").status, 200);
    edge.apply(&objects.replace("exempt", "other"));
    assert_eq!(
        edge.get("limited", "/").status,
        503,
        "what came before is not forgotten for a change elsewhere"
    );
    let line = edge.logged("\"status\":503").remove(0);
    assert_eq!(line["fault"], "client", "{line}");
}

#[test]
fn so_many_requests_at_a_time_and_no_more() {
    let gate = std::sync::Arc::new(std::sync::Barrier::new(3));
    let held = std::sync::Arc::clone(&gate);
    let web = Upstream::new(move |seen, stream| {
        if seen.line.contains("/held") {
            held.wait();
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        Ok(true)
    });
    let edge = Edge::new(&everything(&[("limit-connections", "2")], &[web.address]));
    let mut clients = [edge.client(), edge.client()];
    for client in &mut clients {
        client.send("GET /held HTTP/1.1\r\nHost: a.b\r\n\r\n");
    }
    edge::eventually(|| (web.seen().len() == 2).then_some(()));
    assert_eq!(edge.get("a.b", "/").status, 503);
    gate.wait();
    for client in &mut clients {
        assert_eq!(client.answer().unwrap().status, 200);
    }
    edge::eventually(|| (edge.get("a.b", "/").status == 200).then_some(()));
}
