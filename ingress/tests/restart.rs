//! A new process in the place of the old one, under load: nothing is refused.

mod edge;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

use edge::running::Running;
use edge::{PATIENCE, Upstream, eventually, everything};
use nix::sys::signal::Signal;

/// A request on a connection of its own.
fn get(address: SocketAddr) -> Result<String, String> {
    let ask = || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.b\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer)
    };
    match ask() {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(answer),
        Ok(answer) => Err(format!("answered {answer:?}")),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn a_process_that_is_replaced_in_place_and_once_more_refuses_nothing() {
    let upstream = Upstream::named("one");
    let objects = everything(&[], &[upstream.address]);
    // Nobody reads the log, and a pipe that is full would hold the workers up.
    let mut running = Running::with("restart", &[("a.yaml", &objects)], &["--access-log", "off"]);
    let address = running.address("http");
    running.says("workers=");
    let admin = running.address("admin");
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failed = thread::scope(|scope| {
        let load = || {
            let mut failed = Vec::new();
            while !over.load(Relaxed) {
                match get(address) {
                    Ok(_) => drop(served.fetch_add(1, Relaxed)),
                    Err(error) => failed.push(error),
                }
            }
            failed
        };
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(load)).collect();
        for said in ["handed over\n", "handed over once more"] {
            let before = served.load(Relaxed);
            eventually(|| (served.load(Relaxed) > before + 20).then_some(()));
            running.signal(Signal::SIGUSR2);
            running.says(said);
        }
        let before = served.load(Relaxed);
        eventually(|| (served.load(Relaxed) > before + 20).then_some(()));
        over.store(true, Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    let served = served.into_inner();
    let ready = edge::Client::connect(admin).get("x", "/readyz", "");
    // It ends as the last one ends, and leaves nobody behind.
    running.signal(Signal::SIGTERM);
    assert!(running.child.wait().unwrap().success());
    assert_eq!(failed, [""; 0], "of {served}");
    assert_eq!(ready.status, 200);
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn a_request_in_flight_ends_where_it_began_and_a_successor_that_cannot_serve_changes_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let objects = everything(&[], &[listener.local_addr().unwrap()]);
    let mut running = Running::new("restart-flight", &[("a.yaml", &objects)]);
    let mut client = running.client();
    client.send("GET /first HTTP/1.1\r\nHost: a.b\r\n\r\n");
    let (mut upstream, _) = listener.accept().unwrap();

    let folder = running.folder.clone();
    let aside = folder.with_extension("aside");
    std::fs::rename(&folder, &aside).unwrap();
    running.signal(Signal::SIGUSR2);
    running.says("the successor ended before it served: its log says why; this process goes on");
    std::fs::rename(&aside, &folder).unwrap();

    running.signal(Signal::SIGUSR2);
    running.says("handed over\n");
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
    assert_eq!(client.answer().unwrap().body, "ok");
    running.signal(Signal::SIGTERM);
    assert!(running.child.wait().unwrap().success());
}
