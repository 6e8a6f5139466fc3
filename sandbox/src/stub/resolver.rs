//! The resolver behind the Service `kube-dns`: hickory's messages over our [`Zone`], on port 53 of its pod.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::SystemTime;

use hickory_proto::op::{Message, MessageType, Metadata, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA, SRV};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::listen::{tcp_listener, udp_socket};
use super::probe::QUESTION;
use super::protocol::Taken;
use super::zone::{Answer, Record, Zone};
use crate::plan::{Cast, Listen, Protocol};

const PORT: u16 = 53;
/// Short, as everything here may change with the next edit of a manifest.
const TTL_SECONDS: u32 = 5;
/// What every client takes over UDP.
const UDP_BYTES: usize = 512;

/// Serves DNS until the stub ends; the ports that somebody else has come back.
pub(crate) fn start(name: &Rc<str>, zone: PathBuf) -> Vec<Taken> {
    let resolver = Rc::new(Resolver {
        name: Rc::clone(name),
        path: zone,
        loaded: RefCell::new((SystemTime::UNIX_EPOCH, Zone::default())),
    });
    let mut taken = Vec::new();
    for ip in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
        let address = SocketAddr::new(ip, PORT);
        let mut refused = |protocol, error: std::io::Error| {
            taken.push(Taken { listen: Listen { port: PORT, protocol }, error: error.to_string() });
        };
        match udp_socket(address) {
            Ok(socket) => drop(tokio::task::spawn_local(serve_udp(socket, Rc::clone(&resolver)))),
            Err(error) => refused(Protocol::Udp, error),
        }
        match tcp_listener(address) {
            Ok(listener) => drop(tokio::task::spawn_local(serve_tcp(listener, Rc::clone(&resolver)))),
            Err(error) => refused(Protocol::Tcp, error),
        }
    }
    taken
}

struct Resolver {
    name: Rc<str>,
    path: PathBuf,
    /// The zone, and the modification time of the file it was read from.
    loaded: RefCell<(SystemTime, Zone)>,
}

impl Resolver {
    /// The answer to one datagram, or to one message of a stream.
    fn respond(&self, question: &[u8], limit: usize) -> Vec<u8> {
        let Ok(query) = Message::from_vec(question) else {
            // No DNS: one of our own probes, which wants to know who is here.
            return self.name.as_bytes().to_vec();
        };
        self.reload();
        let response = answer(&self.loaded.borrow().1, &query);
        match response.to_vec() {
            Ok(bytes) if bytes.len() <= limit => bytes,
            Ok(_) => response.truncate().to_vec().unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    /// Reads the zone again if its file is another one; a file that cannot be read leaves the zone as it is.
    fn reload(&self) {
        let Ok(modified) = std::fs::metadata(&self.path).and_then(|metadata| metadata.modified()) else {
            return;
        };
        if self.loaded.borrow().0 == modified {
            return;
        }
        let zone = std::fs::read(&self.path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        if let Some(zone) = zone {
            *self.loaded.borrow_mut() = (modified, zone);
        }
    }
}

/// Answers every question of `query` out of `zone`.
fn answer(zone: &Zone, query: &Message) -> Message {
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata = Metadata::response_from_request(&query.metadata);
    response.metadata.authoritative = true;
    response.metadata.recursion_available = true;
    response.queries = query.queries.clone();
    if query.metadata.message_type != MessageType::Query {
        response.metadata.response_code = ResponseCode::FormErr;
        return response;
    }
    for question in &query.queries {
        let mut name = question.name.clone();
        // An alias may lead to another name of the zone, once: we make no chains.
        for _ in 0..2 {
            let Answer::Records(records) = zone.answer(&name.to_ascii()) else { break };
            let data: Vec<RData> = records.iter().filter_map(rdata).collect();
            let alias = data.iter().find_map(|data| match data {
                RData::CNAME(CNAME(target)) => Some(target.clone()),
                _ => None,
            });
            let asked = |data: &RData| {
                let kind = data.record_type();
                kind == question.query_type
                    || kind == RecordType::CNAME
                    || question.query_type == RecordType::ANY
            };
            for data in data.into_iter().filter(asked) {
                response.add_answer(hickory_proto::rr::Record::from_rdata(name.clone(), TTL_SECONDS, data));
            }
            match alias {
                Some(target) => name = target,
                None => break,
            }
        }
        if zone.answer(&question.name.to_ascii()) == Answer::Unknown {
            response.metadata.response_code = ResponseCode::NXDomain;
        }
        if response.answers.is_empty()
            && let Some(record) = start_of_authority()
        {
            response.add_authority(record);
        }
    }
    response
}

fn rdata(record: &Record) -> Option<RData> {
    let name = |name: &str| Name::from_ascii(format!("{name}.")).ok();
    Some(match record {
        Record::A(ip) => RData::A(A(*ip)),
        Record::Aaaa(ip) => RData::AAAA(AAAA(*ip)),
        Record::Cname(target) => RData::CNAME(CNAME(name(target)?)),
        Record::Srv { port, target } => RData::SRV(SRV::new(0, 100, *port, name(target)?)),
    })
}

fn start_of_authority() -> Option<hickory_proto::rr::Record> {
    let zone = Name::from_ascii(format!("{}.", Cast::CLUSTER_DOMAIN)).ok()?;
    let server = Name::from_ascii(format!("ns.dns.{}.", Cast::CLUSTER_DOMAIN)).ok()?;
    let data = SOA::new(server.clone(), server, 1, 7200, 1800, 86_400, TTL_SECONDS);
    Some(hickory_proto::rr::Record::from_rdata(zone, TTL_SECONDS, RData::SOA(data)))
}

async fn serve_udp(socket: UdpSocket, resolver: Rc<Resolver>) {
    let mut buffer = [0; 4096];
    loop {
        // An error here is an ICMP error about an earlier answer.
        if let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let response = resolver.respond(&buffer[..length], UDP_BYTES);
            socket.send_to(&response, peer).await.ok();
        }
    }
}

async fn serve_tcp(listener: TcpListener, resolver: Rc<Resolver>) {
    loop {
        match listener.accept().await {
            // A client that breaks off is its own affair.
            Ok((stream, _)) => {
                let resolver = Rc::clone(&resolver);
                tokio::task::spawn_local(async move { converse(stream, &resolver).await.ok() });
            }
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

/// Messages with their length before them, until the client closes.
async fn converse(mut stream: TcpStream, resolver: &Resolver) -> std::io::Result<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length).await?;
        if length == QUESTION {
            stream.write_all(format!("{}\n", resolver.name).as_bytes()).await?;
            continue;
        }
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut question).await?;
        let response = resolver.respond(&question, usize::from(u16::MAX));
        let Ok(length) = u16::try_from(response.len()) else { return Ok(()) };
        stream.write_all(&[&length.to_be_bytes(), response.as_slice()].concat()).await?;
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{OpCode, Query};

    use super::*;

    fn ask(name: &str, kind: RecordType) -> Message {
        let zone: Zone = serde_json::from_value(serde_json::json!({
            "web.shop.svc.cluster.local": [{"A": "10.96.0.1"}],
            "alias.shop.svc.cluster.local": [{"Cname": "web.shop.svc.cluster.local"}],
        }))
        .unwrap();
        let mut query = Message::new(7, MessageType::Query, OpCode::Query);
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        answer(&zone, &Message::from_vec(&query.to_vec().unwrap()).unwrap())
    }

    #[test]
    fn a_name_without_the_asked_type_exists_but_has_no_answer() {
        let response = ask("web.shop.svc.cluster.local.", RecordType::AAAA);
        assert_eq!(response.metadata.response_code, ResponseCode::NoError);
        assert!(response.answers.is_empty());
        assert_eq!(response.authorities.len(), 1);
    }

    #[test]
    fn an_alias_comes_with_what_it_leads_to() {
        let response = ask("ALIAS.shop.svc.cluster.local.", RecordType::A);
        let kinds: Vec<_> = response.answers.iter().map(|record| record.record_type()).collect();
        assert_eq!(kinds, [RecordType::CNAME, RecordType::A]);
    }

    #[test]
    fn a_name_that_nobody_has_is_nxdomain() {
        let response = ask("web.shop.svc.cluster.local.shop.", RecordType::A);
        assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
    }
}
