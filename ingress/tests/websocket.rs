//! HTTP/2 in the clear with prior knowledge, and WebSocket over a stream of it (RFC 8441).

mod edge;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use edge::local::{Local, block_on};
use edge::{Edge, Upstream, everything};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::ext::Protocol;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

type Sender = SendRequest<Empty<Bytes>>;

async fn connect(address: SocketAddr) -> Sender {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http2::handshake(Local, TokioIo::new(stream)).await.unwrap();
    spawn_local(async move { drop(connection.await) });
    sender
}

/// What an upstream says to a WebSocket's request, and then it echoes in capitals.
fn upstream(answer: &'static str) -> Upstream {
    Upstream::new(move |seen, stream| {
        if seen.header("upgrade").is_none() {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain")?;
            return Ok(true);
        }
        write!(stream, "HTTP/1.1 {answer}\r\n\r\n")?;
        let mut buffer = [0; 64];
        loop {
            let len = stream.read(&mut buffer)?;
            if len == 0 {
                return Ok(false);
            }
            stream.write_all(buffer[..len].to_ascii_uppercase().as_slice())?;
        }
    })
}

const AGREES: &str = "101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: chat";

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://a.b{path}")).body(Empty::new()).unwrap()
}

/// An extended CONNECT. One request before it lets the server's settings arrive, without which no client may send it.
async fn ask(sender: &mut Sender, protocol: &'static str) -> Response<hyper::body::Incoming> {
    let before = sender.send_request(get("/before")).await.unwrap();
    assert_eq!(before.into_body().collect().await.unwrap().to_bytes(), "plain");
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://a.b/chat?x=1")
        .extension(Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .body(Empty::new())
        .unwrap();
    sender.send_request(request).await.unwrap()
}

#[test]
fn a_stream_of_http2_becomes_a_websocket_with_an_upstream_of_http1() {
    let web = upstream(AGREES);
    let edge = Edge::new(&everything(&[], &[web.address]));
    block_on(async {
        let mut sender = connect(edge.http).await;
        let response = ask(&mut sender, "websocket").await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        for name in ["upgrade", "connection", "sec-websocket-accept"] {
            assert!(!response.headers().contains_key(name), "{name}");
        }
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        for said in [&b"hello"[..], b"again"] {
            stream.write_all(said).await.unwrap();
            let mut heard = [0; 5];
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, said.to_ascii_uppercase().as_slice());
        }
        // Other streams of the connection go on beside it.
        assert_eq!(sender.send_request(get("/after")).await.unwrap().status(), 200);
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"");
    });
    let seen = web.seen().into_iter().find(|seen| seen.line.contains("/chat")).unwrap();
    assert_eq!(seen.line, "GET /chat?x=1 HTTP/1.1");
    assert_eq!(seen.header("upgrade"), Some("websocket"));
    assert_eq!(seen.header("connection"), Some("upgrade"));
    assert_eq!(seen.header("sec-websocket-version"), Some("13"));
    assert_eq!(seen.header("sec-websocket-key").map(str::len), Some(24));
    assert_eq!(seen.header("host"), Some("a.b"));
    edge.logged("/before");
}

#[test]
fn who_does_not_agree_is_heard_and_nobody_is_misled() {
    for (answer, expected) in
        [("403 Forbidden\r\nContent-Length: 0", 403), ("200 OK\r\nContent-Length: 0", 502)]
    {
        let web = upstream(answer);
        let edge = Edge::new(&everything(&[], &[web.address]));
        block_on(async {
            let mut sender = connect(edge.http).await;
            assert_eq!(ask(&mut sender, "websocket").await.status(), expected);
        });
    }
    let web = upstream(AGREES);
    let edge = Edge::new(&everything(&[], &[web.address]));
    block_on(async {
        let mut sender = connect(edge.http).await;
        assert_eq!(ask(&mut sender, "connect-udp").await.status(), 405);
        edge.apply(&everything(&[("backend-protocol", "H2C")], &[web.address]));
        let request = Request::builder().method(Method::CONNECT).uri("http://a.b/chat");
        let request = request.extension(Protocol::from_static("websocket")).body(Empty::new()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 501);
    });
}

#[test]
fn http2_in_the_clear_is_known_by_its_first_bytes_however_they_come() {
    let web = Upstream::named("web");
    let edge = Edge::new(&everything(&[], &[web.address]));
    let mut slow = std::net::TcpStream::connect(edge.http).unwrap();
    slow.set_nodelay(true).unwrap();
    slow.set_read_timeout(Some(edge::PATIENCE)).unwrap();
    // The preface and empty settings.
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0" {
        slow.write_all(&[*byte]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let mut frame = [0; 9];
    slow.read_exact(&mut frame).unwrap();
    assert_eq!(frame[3], 4, "settings, not an answer of HTTP/1.1");

    // Methods that begin with the same letters.
    for method in ["POST", "PUT", "PROPFIND", "P"] {
        let mut client = edge.client();
        client.send(&method[..1]);
        std::thread::sleep(std::time::Duration::from_millis(10));
        client.send(format!("{} / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 0\r\n\r\n", &method[1..]));
        assert_eq!(client.answer().map(|it| it.status), Some(200), "{method}");
    }
}
