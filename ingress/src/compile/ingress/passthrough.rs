//! TLS that the endpoints end themselves: `ssl-passthrough`.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::HTTPIngressPath;

use super::super::reader::Reader;
use super::super::{Action, Filter, Passthrough};
use super::{Compiler, Ours};
use crate::route::Host;

impl Compiler<'_, '_> {
    /// Where the TLS connections of an object's hosts go that are not ended here: its backend of `/`.
    pub(super) fn passthrough(&mut self, it: &Ours<'_>) -> Vec<(Host, Passthrough)> {
        let mut found = Vec::new();
        let field = Reader::name("ssl-passthrough");
        let guard = it.guard.as_ref();
        let asks = guard.is_some_and(|guard| guard.basic.is_some() || guard.external.is_some());
        if asks || it.options.client_auth.is_some() {
            let what = if asks { "auth-type or auth-url" } else { "auth-tls-secret" };
            self.warn(it, &field, format!("beside {what}, which needs TLS to end here: it is left out"));
            return found;
        }
        if guard.is_some_and(|guard| guard.limits.is_some()) {
            self.warn(it, &field, "what is not read cannot be counted: limit-* holds in the clear only");
        }
        let is_list = |filter: &&Filter| matches!(filter, Filter::AllowSources(_) | Filter::DenySources(_));
        let sources: Vec<Filter> = it.options.filters.iter().filter(is_list).cloned().collect();
        for rule in it.spec.rules.iter().flatten() {
            let Ok(host) = Host::parse(rule.host.as_deref().unwrap_or_default()) else { continue };
            let paths = rule.http.iter().flat_map(|http| &http.paths);
            let root = |path: &&HTTPIngressPath| matches!(path.path.as_deref(), None | Some("" | "/"));
            let backend =
                paths.clone().find(root).map(|path| &path.backend).or(it.spec.default_backend.as_ref());
            let cluster = match (&host, backend) {
                (Host::Any, _) => Err("a rule without a host has no name that clients would ask for"),
                (_, None) => Err("there is no backend of `/`"),
                (_, Some(backend)) => match self.action(it, backend, &field) {
                    Action::Forward(shares) => shares.first().map(|share| share.cluster).ok_or(""),
                    // It was warned of with its path.
                    Action::Refuse { .. } => continue,
                },
            };
            match cluster {
                Ok(cluster) => {
                    let all = [host].into_iter().chain(it.options.aliases.iter().cloned());
                    let passthrough = Passthrough {
                        object: Arc::clone(&it.object),
                        cluster,
                        sources: sources.clone(),
                        limits: it.options.limits,
                    };
                    found.extend(all.map(|host| (host, passthrough.clone())));
                }
                Err(why) => {
                    self.warn(it, &field, format!("{why}: expected a host and its path /; it is left out"))
                }
            }
        }
        found
    }
}
