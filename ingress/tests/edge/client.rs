//! A client that sends exactly the bytes it is told, and reads what comes back.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    reader: BufReader<TcpStream>,
}

/// A response.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case; several of one name are joined by a line feed.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// A request without a body; `headers` with their line ends.
    pub(crate) fn get(&mut self, host: &str, path: &str, headers: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n"));
        self.answer().expect("an answer")
    }

    pub(crate) fn post(&mut self, host: &str, path: &str, body: &str) -> Answer {
        let len = body.len();
        self.send(format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len}\r\n\r\n{body}"));
        self.answer().expect("an answer")
    }

    /// The next answer, 100 included; nothing if the connection ended instead.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        let mut answer = self.head()?;
        if answer.status < 200 || matches!(answer.status, 204 | 304) {
            return Some(answer);
        }
        if answer.headers.get("transfer-encoding").is_some_and(|it| it == "chunked") {
            while let Some(chunk) = self.chunk() {
                answer.body += &chunk;
            }
        } else if let Some(len) = answer.headers.get("content-length") {
            let mut body = vec![0; len.parse().unwrap()];
            self.reader.read_exact(&mut body).ok()?;
            answer.body = String::from_utf8_lossy(&body).into_owned();
        } else {
            self.reader.read_to_string(&mut answer.body).ok()?;
        }
        Some(answer)
    }

    /// Status and headers alone.
    pub(crate) fn head(&mut self) -> Option<Answer> {
        let mut answer = Answer::default();
        let line = self.line()?;
        answer.status = line.split(' ').nth(1)?.parse().ok()?;
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { return Some(answer) };
            let value = value.trim().to_owned();
            answer
                .headers
                .entry(name.to_ascii_lowercase())
                .and_modify(|all| *all = format!("{all}\n{value}"))
                .or_insert(value);
        }
    }

    /// The next chunk; nothing after the last, whose trailers are read.
    pub(crate) fn chunk(&mut self) -> Option<String> {
        let len = usize::from_str_radix(&self.line()?, 16).unwrap();
        let mut data = vec![0; len];
        self.reader.read_exact(&mut data).ok()?;
        self.line()?;
        (len > 0).then(|| String::from_utf8(data).unwrap())
    }

    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(line.trim_end_matches(['\r', '\n']).to_owned()),
        }
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.reader.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Whether the proxy has closed the connection and sends nothing more.
    pub(crate) fn ended(&mut self) -> bool {
        let mut rest = Vec::new();
        self.reader
            .read_to_end(&mut rest)
            .map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionReset, |_| rest.is_empty())
    }
}
