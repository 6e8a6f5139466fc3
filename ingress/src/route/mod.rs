//! Which route a request takes: hosts, paths, and conditions on method, headers, query and cookies.
//!
//! Pure, and not shaped like an Ingress: what is compiled into it are [`Rule`]s, and Gateway API's routes say no more than
//! they can. The order of precedence is one for both: the closer host, then an exact path, then the longer one, then
//! the rule with more conditions, then the older rule.

mod condition;
mod host;
#[cfg(test)]
mod oracle;
mod path;
mod table;
#[cfg(test)]
mod tests;

use hyper::{HeaderMap, Method};

pub use condition::{Conditions, Value, cookie};
pub use host::{Host, of_authority};
pub use path::{PathMatch, normal};
pub use table::Table;

/// One rule: what of a request it looks at, and where it leads.
#[derive(Clone, Debug)]
pub struct Rule<R> {
    pub host: Host,
    pub path: PathMatch,
    pub conditions: Conditions,
    pub target: R,
}

/// What of a request decides its route.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// In lower case, without port and closing dot ([`of_authority`]).
    pub host: &'a str,
    /// Without dots and needless escapes ([`normal`]), without the query.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
}
