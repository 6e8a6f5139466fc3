//! `weir ingress routes`, `backends` and `certs`: what a running weir-ingress has in force.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use api::ingress::{Backend, Certificate, Route};
use serde::de::DeserializeOwned;

use crate::agents::unless_closed;
use crate::columns::{Cell, Tone, aligned};
use crate::format::Format;

/// An answer that takes longer will not come.
const ANSWER: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The proxy's --admin
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9480")]
    admin: String,
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

pub(crate) fn routes(args: &Args) -> Result<ExitCode> {
    let routes: Vec<Route> = ask(&args.admin, "/v1/routes")?;
    let rows = routes.iter().map(|it| {
        let to = match &it.refused {
            Some(why) => Cell::toned(format!("refused, {why}"), Tone::Bad),
            None => Cell::new(shares(&it.backends)),
        };
        let more = match it.conditions {
            0 => String::new(),
            conditions => format!("and {conditions} more"),
        };
        vec![
            Cell::new(&it.host),
            Cell::new(&it.path),
            Cell::new(more),
            to,
            Cell::toned(&it.object, Tone::Quiet),
        ]
    });
    show(args.output, &routes, &["HOST", "PATH", "", "TO", "OBJECT"], rows.collect())
}

pub(crate) fn backends(args: &Args) -> Result<ExitCode> {
    let backends: Vec<Backend> = ask(&args.admin, "/v1/backends")?;
    let rows = backends.iter().flat_map(|it| {
        let head = |first: bool, text: &str| Cell::new(if first { text } else { "" });
        let mut rows: Vec<Vec<Cell>> = Vec::new();
        for endpoint in &it.endpoints {
            let first = rows.is_empty();
            let state = match (endpoint.ends, endpoint.rests) {
                (true, _) => Cell::toned("ends", Tone::Quiet),
                (false, true) => Cell::toned("rests: it could not be connected to", Tone::Bad),
                (false, false) => Cell::toned("serves", Tone::Good),
            };
            let latency = match endpoint.latency_us {
                0 => "-".to_owned(),
                latency => format!("{:.1} ms", latency as f64 / 1e3),
            };
            let address = Cell::new(endpoint.address.to_string());
            let load = [Cell::new(endpoint.in_flight.to_string()), Cell::new(latency)];
            let row = [head(first, &it.name), head(first, &it.protocol), address, state];
            rows.push(row.into_iter().chain(load).collect());
        }
        if let Some(why) = &it.empty {
            let cells = [Cell::new(&it.name), Cell::new(&it.protocol), Cell::new("-")];
            rows.push(cells.into_iter().chain([Cell::toned(why, Tone::Bad)]).collect());
        }
        rows
    });
    let heads = ["BACKEND", "SPOKEN", "ENDPOINT", "", "IN FLIGHT", "LATENCY"];
    show(args.output, &backends, &heads, rows.collect())
}

pub(crate) fn certs(args: &Args) -> Result<ExitCode> {
    let certificates: Vec<Certificate> = ask(&args.admin, "/v1/certs")?;
    let rows = certificates.iter().map(|it| {
        let state = match it.in_force {
            true => Cell::toned("in force", Tone::Good),
            false => Cell::toned("not usable", Tone::Bad),
        };
        let host = it.host.as_deref().unwrap_or("the names that it has");
        vec![Cell::new(host), Cell::new(&it.secret), state, Cell::toned(&it.object, Tone::Quiet)]
    });
    show(args.output, &certificates, &["HOST", "SECRET", "", "OBJECT"], rows.collect())
}

/// Each backend with its share, if there are several.
fn shares(backends: &[(String, u32)]) -> String {
    match backends {
        [(name, _)] => name.clone(),
        several => {
            let parts: Vec<String> =
                several.iter().map(|(name, weight)| format!("{weight} × {name}")).collect();
            parts.join(", ")
        }
    }
}

fn show<T: serde::Serialize>(
    format: Format,
    value: &[T],
    heads: &[&str],
    rows: Vec<Vec<Cell>>,
) -> Result<ExitCode> {
    let print = || {
        format.print(&value, |colour| {
            let heads: Vec<Cell> = heads.iter().map(|head| Cell::toned(*head, Tone::Quiet)).collect();
            aligned(&std::iter::once(heads).chain(rows).collect::<Vec<_>>(), "", colour)
        })
    };
    unless_closed(print())?;
    Ok(ExitCode::SUCCESS)
}

fn ask<T: DeserializeOwned>(admin: &str, path: &str) -> Result<T> {
    let ask = || {
        let mut stream = TcpStream::connect(admin)
            .context("nobody answers: expected the --admin of a weir-ingress that runs")?;
        stream.set_read_timeout(Some(ANSWER))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("the answer is no HTTP") };
        let status = head.lines().next().unwrap_or_default();
        ensure!(
            status.contains(" 200"),
            "{path}: {status}: expected the --admin of a weir-ingress of this version"
        );
        serde_json::from_str(body).context("understand the answer")
    };
    ask().with_context(|| format!("--admin {admin}"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn served(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
        });
        address
    }

    #[test]
    fn an_answer_is_read_and_one_that_is_none_is_named_with_the_address() {
        let routes = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n[{\"host\": \"a.b\", \"path\": \"prefix /\", \
                      \"conditions\": 0, \"object\": \"Ingress a/b\", \"backends\": [[\"a/b:80\", 1]], \"refused\": null}]";
        let found: Vec<Route> = ask(&served(routes), "/v1/routes").unwrap();
        assert_eq!((found[0].host.as_str(), shares(&found[0].backends).as_str()), ("a.b", "a/b:80"));
        assert_eq!(shares(&[("a".into(), 9), ("b".into(), 1)]), "9 × a, 1 × b");

        let other = served("HTTP/1.1 404 Not Found\r\n\r\n");
        let error = format!("{:#}", ask::<Vec<Route>>(&other, "/v1/routes").unwrap_err());
        assert!(error.starts_with(&format!("--admin {other}: /v1/routes: HTTP/1.1 404")), "{error}");
    }
}
