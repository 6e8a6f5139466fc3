//! Who may come: asked of a request that no filter has answered, before it is given to anyone.

use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::{self, HeaderName, HeaderValue};

use super::external;
use super::filter::{Reply, Subject};
use super::limit::{Excess, Held};
use super::live::Snapshot;
use super::password::Verdict;
use super::record::Fault;
use super::worker::Worker;
use crate::compile::{Basic, BasicLimits, Guard};

/// What goes on with a request that may come.
#[derive(Default)]
pub(super) struct Admitted {
    /// It counts as one of its client's for as long as this lives.
    pub(super) held: Option<Held>,
    /// What the upstream learns; nothing: what the client says by such a name is not passed on.
    pub(super) request: Vec<(HeaderName, Option<HeaderValue>)>,
    /// For the response.
    pub(super) cookies: Vec<HeaderValue>,
}

pub(super) async fn pass(
    guard: &Guard,
    subject: &Subject<'_>,
    worker: &Rc<Worker>,
    snapshot: &Snapshot,
    limits: &BasicLimits,
) -> Result<Admitted, Reply> {
    let held = match guard.limits.and_then(|index| snapshot.limiters.get(index)) {
        Some(limiter) => limiter.take(subject.origin.client).map_err(|excess| too_much(excess, subject))?,
        None => None,
    };
    let client = subject.origin.client;
    if guard.sources.as_ref().is_some_and(|sources| sources.iter().any(|net| net.contains(&client))) {
        return Ok(unasked(guard, held));
    }
    if let Some(basic) = &guard.basic {
        match by_password(basic, subject, worker).await {
            Ok(()) if guard.any => return Ok(unasked(guard, held)),
            Ok(()) => {}
            // The other way in may still be open.
            Err(_) if guard.any && guard.external.is_some() => {}
            Err(reply) => return Err(reply),
        }
    }
    let admitted = match &guard.external {
        Some(external) => external::pass(external, subject, worker, snapshot, limits).await?,
        None => Admitted::default(),
    };
    Ok(Admitted { held, ..admitted })
}

/// Whoever may come without his `auth-url` being asked: what it alone may say is not his to say either.
fn unasked(guard: &Guard, held: Option<Held>) -> Admitted {
    let names = guard.external.iter().flat_map(|external| &external.response_headers);
    Admitted { held, request: names.map(|name| (name.clone(), None)).collect(), cookies: Vec::new() }
}

fn too_much(excess: Excess, subject: &Subject<'_>) -> Reply {
    let what = match excess {
        Excess::TooOften => "comes more often than its limit",
        Excess::TooManyAtATime => "has more requests at a time than its limit",
    };
    refuse(StatusCode::SERVICE_UNAVAILABLE, Fault::Client, format!("{} {what}", subject.origin.client))
}

pub(super) fn refuse(status: StatusCode, fault: Fault, reason: impl Into<String>) -> Reply {
    Reply { status, headers: Vec::new(), fault: Some((fault, reason.into())) }
}

async fn by_password(basic: &Basic, subject: &Subject<'_>, worker: &Rc<Worker>) -> Result<(), Reply> {
    let unknown = |reason: &str| Reply {
        headers: vec![(header::WWW_AUTHENTICATE, basic.challenge.clone())],
        ..refuse(StatusCode::UNAUTHORIZED, Fault::Client, reason)
    };
    let Some(given) = subject.headers.get(header::AUTHORIZATION) else {
        return Err(unknown("it brings no name and password"));
    };
    let Some((user, password)) = credentials(given) else {
        return Err(unknown("its Authorization is no name and password"));
    };
    let Some(written) = basic.users.get(&user) else {
        return Err(unknown("there is no user of its name"));
    };
    match worker.shared.passwords.verify(written, &password).await {
        Verdict::Right => Ok(()),
        Verdict::Wrong => Err(unknown("its password is wrong")),
        Verdict::Busy => {
            Err(refuse(StatusCode::SERVICE_UNAVAILABLE, Fault::Client, "too many passwords are being tried"))
        }
    }
}

/// The name and the password that `Basic ...` has.
fn credentials(value: &HeaderValue) -> Option<(String, Vec<u8>)> {
    let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(rest.trim()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let (user, password) = decoded.split_at(colon);
    Some((String::from_utf8(user.to_vec()).ok()?, password.get(1..)?.to_vec()))
}

/// Puts into the upstream's request what the guard says. Whatever a client writes by these names, or by names that an
/// upstream may take for them, is gone.
pub(super) fn write(edits: Vec<(HeaderName, Option<HeaderValue>)>, headers: &mut hyper::HeaderMap) {
    for (name, value) in edits {
        if name.as_str().contains('-') {
            let alike: Vec<HeaderName> = headers
                .keys()
                .filter(|it| it.as_str().contains('_') && it.as_str().replace('_', "-") == name.as_str())
                .cloned()
                .collect();
            alike.iter().for_each(|it| drop(headers.remove(it)));
        }
        match value {
            Some(value) => drop(headers.insert(name, value)),
            None => drop(headers.remove(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;

    use super::*;

    #[test]
    fn credentials_are_a_name_and_a_password() {
        let of = |text: &'static str| credentials(&HeaderValue::from_static(text));
        let ann = Some(("ann".to_owned(), b"se:cret".to_vec()));
        assert_eq!(of("Basic YW5uOnNlOmNyZXQ="), ann);
        assert_eq!(of("basic  YW5uOnNlOmNyZXQ= "), ann);
        for wrong in ["Basic", "Bearer YW5uOnNlOmNyZXQ=", "Basic YW5u", "Basic YW5", "Basic ****"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_the_guard_says_cannot_be_said_by_the_client() {
        let mut map = HeaderMap::new();
        for (name, value) in [("x-user", "root"), ("x_user", "root"), ("x-group", "wheel"), ("x_other", "1")]
        {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let user = HeaderName::from_static("x-user");
        let group = HeaderName::from_static("x-group");
        write(vec![(user, Some(HeaderValue::from_static("ann"))), (group, None)], &mut map);
        let left: Vec<String> =
            map.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        assert_eq!(left, ["x-user: ann", "x_other: 1"]);
    }
}
