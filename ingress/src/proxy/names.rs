//! Endpoints known by name: looked up when they are asked for, and again after a while.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::lookup_host;
use tokio::time::timeout;

use super::connect::Identity;
use super::live::Endpoint;
use crate::compile::Protocol;

/// What the resolver says does not tell for how long it is good.
const FRESH: Duration = Duration::from_secs(5);
/// A name that cannot be looked up any more keeps its addresses for so long.
const STALE: Duration = Duration::from_secs(300);
const PATIENCE: Duration = Duration::from_secs(5);
/// Names may be what clients ask for: no more than this are kept.
const MOST: usize = 1_024;

type Key = (String, u16, Protocol);
pub(super) type Endpoints = Arc<[Arc<Endpoint>]>;

#[derive(Default)]
pub(super) struct Names(Mutex<HashMap<Key, Known>>);

struct Known {
    endpoints: Endpoints,
    looked_up: Instant,
    good: Instant,
}

impl Names {
    /// The error says what could not be looked up.
    pub(super) async fn resolve(
        &self,
        host: &str,
        port: u16,
        protocol: Protocol,
    ) -> Result<Endpoints, String> {
        let key = (host.to_owned(), port, protocol);
        let now = Instant::now();
        let known = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.get_mut(&key).filter(|known| now - known.good < STALE).map(|known| {
                let fresh = now - known.looked_up < FRESH;
                // Whoever comes while we look has what was known before.
                known.looked_up = now;
                (fresh, Arc::clone(&known.endpoints))
            })
        };
        if let Some((true, endpoints)) = known {
            return Ok(endpoints);
        }
        match look_up(host, port).await {
            Ok(addresses) => Ok(self.know(key, addresses)),
            Err(why) => known.map(|(_, endpoints)| endpoints).ok_or(why),
        }
    }

    /// Endpoints that were known already stay the same, and keep their load.
    fn know(&self, key: Key, addresses: Vec<SocketAddr>) -> Endpoints {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST && !all.contains_key(&key) {
            all.clear();
        }
        let before = all.get(&key).map(|known| Arc::clone(&known.endpoints)).unwrap_or_default();
        let identity = key.2.is_tls().then(|| Identity::named(&key.0)).flatten().map(Arc::new);
        let endpoint = |address: &SocketAddr| match before.iter().find(|it| it.address == *address) {
            Some(endpoint) => Arc::clone(endpoint),
            None => Arc::new(Endpoint::new(*address, key.2, identity.clone())),
        };
        let endpoints: Endpoints = addresses.iter().map(endpoint).collect();
        all.insert(key, Known { endpoints: Arc::clone(&endpoints), looked_up: now, good: now });
        endpoints
    }
}

async fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let found = match timeout(PATIENCE, lookup_host((bare, port))).await {
        Err(_) => return Err(format!("{bare} was not looked up within {PATIENCE:?}")),
        Ok(Err(error)) => return Err(format!("{bare} cannot be looked up: {error}")),
        Ok(Ok(found)) => found,
    };
    let mut found: Vec<SocketAddr> = found.collect();
    found.sort();
    found.dedup();
    if found.is_empty() { Err(format!("{bare} has no address")) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_once_in_a_while_and_its_endpoints_stay_the_same() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let names = Names::default();
        let resolve = |host: &str| runtime.block_on(names.resolve(host, 80, Protocol::Http));
        let one = resolve("localhost").unwrap();
        assert!(one.iter().all(|endpoint| endpoint.address.ip().is_loopback()), "{one:?}");
        assert!(Arc::ptr_eq(&one, &resolve("localhost").unwrap()));
        let later = names.know(("localhost".into(), 80, Protocol::Http), vec![one[0].address]);
        assert!(Arc::ptr_eq(&one[0], &later[0]));
        assert_eq!(resolve("[::1]").unwrap()[0].address, "[::1]:80".parse().unwrap());
        assert_eq!(resolve("10.0.0.1").unwrap()[0].address, "10.0.0.1:80".parse().unwrap());
        // No resolver is asked for a label of so many letters.
        let nowhere = "x".repeat(70);
        let error = resolve(&nowhere).unwrap_err();
        assert!(error.contains(&nowhere), "{error}");
    }
}
