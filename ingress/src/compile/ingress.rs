//! Ingress v1 into rules.

mod passthrough;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::HeaderValue;
use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressSpec};
use policy::Warning;
use regex::RegexBuilder;

use super::access::{Guard, Limits, Surroundings};
use super::annotation::{self, Options};
use super::backend::{Backends, Way};
use super::class;
use super::client_auth;
use super::pages::{self, ErrorPages};
use super::reader::Reader;
use super::{Action, CertificateUse, Compiled, Filter, Protocol, Rewrite, Route, Settings, Share, Warner};
use crate::object::{Name, World};
use crate::route::{Conditions, Host, PathMatch, Rule, Table, normal};

pub(super) fn compile(world: &World, settings: &Settings) -> Compiled {
    let mut warnings = Vec::new();
    let mut ours: Vec<Ours<'_>> = Vec::new();
    let mut limits: Vec<Limits> = Vec::new();
    let mut backends = Backends::new(world);
    for (name, ingress) in &world.ingresses {
        let object = format!("Ingress {name}");
        let mut warner = Warner { object: &object, warnings: &mut warnings };
        if !class::is_ours(ingress, world, settings, &mut warner) {
            continue;
        }
        let annotations = ingress.metadata.annotations.clone().unwrap_or_default();
        let spec = ingress.spec.clone().unwrap_or_default();
        let around = Surroundings {
            namespace: &name.namespace,
            secrets: settings.secrets.then_some(world),
            hosts_are_named: names_every_host(&spec),
        };
        let mut options = annotation::options(&annotations, &around, &mut warner);
        let mut guard = options.guard.take();
        if let Some(rates) = options.rates.take() {
            guard.get_or_insert_default().limits = Some(limits.len());
            limits.push(rates);
        }
        if let Some(external) = guard.as_mut().and_then(|guard| guard.external.as_mut()) {
            external.cluster = backends.of_url(&external.url);
        }
        let certificates = certificates(name, &spec, &mut warner);
        let guard = guard.map(Arc::new);
        ours.push(Ours { name, object: object.into(), ingress, spec, options, guard, certificates });
    }
    // The oldest first, so that of two that want the same the older one wins.
    ours.sort_by_key(|it| {
        let created = it.ingress.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (created.is_none(), created, it.name)
    });

    let mut compiler = Compiler {
        settings,
        backends,
        rules: Vec::new(),
        taken: HashMap::new(),
        secured: ours.iter().flat_map(|it| it.certificates.iter().map(|it| it.host.clone())).collect(),
        warnings: &mut warnings,
    };
    for it in ours.iter().filter(|it| it.options.canary.is_none()) {
        compiler.object(it);
    }
    for it in ours.iter().filter(|it| it.options.canary.is_some()) {
        compiler.canary(it);
    }
    for it in ours.iter().filter(|it| it.options.from_to_www) {
        compiler.www(it);
    }
    compiler.default_backend();
    let passthrough = ours.iter().filter(|it| it.options.passthrough).flat_map(|it| compiler.passthrough(it));
    let passthrough = passthrough.collect();
    let Compiler { mut backends, rules, .. } = compiler;
    warnings.append(&mut backends.warnings);
    let certificates = first_of_each_host(&ours, &mut warnings);
    let wants = ours.iter().filter(|it| it.options.canary.is_none()).flat_map(|it| {
        it.hosts().into_iter().map(|host| (host, it.options.client_auth.clone(), Arc::clone(&it.object)))
    });
    let client_auth = client_auth::of_each_host(wants, &mut warnings);
    warnings.dedup();
    let targets = rules.into_iter().map(|rule| Rule {
        host: rule.host,
        path: rule.path,
        conditions: rule.conditions,
        target: Arc::new(rule.target),
    });
    let (clusters, places) = backends.into_clusters();
    Compiled {
        table: Arc::new(Table::new(targets)),
        clusters,
        places,
        limits,
        certificates,
        client_auth,
        passthrough,
        warnings,
    }
}

/// An object that is served.
struct Ours<'a> {
    name: &'a Name,
    object: Arc<str>,
    ingress: &'a Ingress,
    spec: IngressSpec,
    options: Options,
    guard: Option<Arc<Guard>>,
    certificates: Vec<Secured>,
}

impl Ours<'_> {
    fn pages(&self, cluster: usize, backend: &IngressBackend) -> Arc<ErrorPages> {
        let header = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
        let (service, port) = pages::written(backend);
        Arc::new(ErrorPages {
            statuses: self.options.pages.statuses.clone(),
            when_empty: self.options.pages.backend.is_some(),
            cluster,
            namespace: header(&self.name.namespace),
            ingress: header(&self.name.name),
            service,
            port,
        })
    }

    /// Those of all its rules that can be read; none but a default backend is for all hosts.
    fn hosts(&self) -> Vec<Host> {
        let rules = self.spec.rules.as_deref().unwrap_or_default();
        let written = rules.iter().filter_map(|rule| Host::parse(rule.host.as_deref().unwrap_or("")).ok());
        let all = written.chain(self.options.aliases.iter().cloned());
        let whole = rules.is_empty() && self.spec.default_backend.is_some();
        all.chain(whole.then_some(Host::Any)).collect()
    }
}

fn names_every_host(spec: &IngressSpec) -> bool {
    let rules = spec.rules.as_deref().unwrap_or_default();
    let is_named = |host: &str| matches!(Host::parse(host), Ok(Host::Exact(_)));
    !rules.is_empty() && rules.iter().all(|rule| rule.host.as_deref().is_some_and(is_named))
}

/// A host of `spec.tls`; without a Secret the default certificate is meant, without a host the certificate's own.
struct Secured {
    host: Option<Host>,
    secret: Option<Name>,
    field: String,
}

fn certificates(name: &Name, spec: &IngressSpec, warner: &mut Warner<'_>) -> Vec<Secured> {
    let mut found = Vec::new();
    for (index, tls) in spec.tls.iter().flatten().enumerate() {
        let field = format!("spec.tls[{index}]");
        let secret = tls.secret_name.as_deref().filter(|name| !name.is_empty());
        let secret = secret.map(|secret| Name::new(name.namespace.clone(), secret));
        let hosts = tls.hosts.as_deref().unwrap_or_default();
        if hosts.is_empty() {
            found.push(Secured { host: None, secret: secret.clone(), field: format!("{field}.secretName") });
        }
        for (index, host) in hosts.iter().enumerate() {
            match Host::parse(host) {
                Ok(Host::Any) => warner
                    .warn(format!("{field}.hosts[{index}]"), "empty: expected a DNS name; it is left out"),
                Ok(host) => found.push(Secured {
                    host: Some(host),
                    secret: secret.clone(),
                    field: format!("{field}.secretName"),
                }),
                Err(error) => {
                    warner.warn(format!("{field}.hosts[{index}]"), format!("{error}; it is left out"))
                }
            }
        }
    }
    found
}

fn first_of_each_host(ours: &[Ours<'_>], warnings: &mut Vec<Warning>) -> Vec<CertificateUse> {
    let mut uses: Vec<CertificateUse> = Vec::new();
    let mut taken: BTreeMap<Host, usize> = BTreeMap::new();
    for it in ours {
        for secured in &it.certificates {
            let Some(secret) = &secured.secret else { continue };
            if let Some(host) = &secured.host
                && let Some(first) = taken.get(host).and_then(|index| uses.get(*index))
            {
                if first.secret != *secret {
                    warnings.push(Warning {
                        object: it.object.to_string(),
                        field: secured.field.clone(),
                        message: format!(
                            "{host} shows the certificate of Secret {} already, as the older {} wants; it keeps that one",
                            first.secret, first.object
                        ),
                    });
                }
                continue;
            }
            if let Some(host) = &secured.host {
                taken.insert(host.clone(), uses.len());
            }
            uses.push(CertificateUse {
                host: secured.host.clone(),
                secret: secret.clone(),
                object: it.object.to_string(),
                field: secured.field.clone(),
            });
        }
    }
    uses
}

/// What a rule asks for, to find another one that asks for the same.
type Place = (Host, &'static str, String);

struct Compiler<'a, 'w> {
    settings: &'a Settings,
    backends: Backends<'a>,
    rules: Vec<Rule<Route>>,
    taken: HashMap<Place, usize>,
    /// Hosts of every `spec.tls`.
    secured: Vec<Option<Host>>,
    warnings: &'w mut Vec<Warning>,
}

impl Compiler<'_, '_> {
    fn object(&mut self, it: &Ours<'_>) {
        let default = it.spec.default_backend.as_ref();
        let default = default.map(|backend| self.action(it, backend, "spec.defaultBackend"));
        let page = self.page(it);
        let rules = it.spec.rules.as_deref().unwrap_or_default();
        if rules.is_empty() && default.is_none() {
            self.warn(it, "spec", "neither rules nor defaultBackend: nothing to serve; expected one of them");
        }
        for (index, rule) in rules.iter().enumerate() {
            let field = format!("spec.rules[{index}]");
            let Some(hosts) = self.hosts(it, rule.host.as_deref().unwrap_or_default(), &field) else {
                continue;
            };
            let paths = rule.http.as_ref().map(|http| http.paths.as_slice()).unwrap_or_default();
            if paths.is_empty() && default.is_none() {
                self.warn(
                    it,
                    &format!("{field}.http"),
                    "no paths, and the object has no defaultBackend: expected one of them",
                );
            }
            for (index, path) in paths.iter().enumerate() {
                let field = format!("{field}.http.paths[{index}]");
                let Some((matched, place)) = self.path(it, path, &field) else { continue };
                let action = self.action(it, &path.backend, &format!("{field}.backend"));
                let pages = page.map(|page| it.pages(page, &path.backend));
                for host in &hosts {
                    let mut route = self.route(it, host, &matched, action.clone());
                    route.pages.clone_from(&pages);
                    self.add(it, (host.clone(), place.0, place.1.clone()), matched.clone(), route, &field);
                }
            }
            for host in &hosts {
                if let Some(action) = &default {
                    // Two rules of one object may name one host.
                    let place = (host.clone(), "default", String::new());
                    let own = self
                        .taken
                        .get(&place)
                        .is_some_and(|index| self.rules[*index].target.object == it.object);
                    if !own {
                        let route = self.route(it, host, &PathMatch::Otherwise, action.clone());
                        self.add(it, place, PathMatch::Otherwise, route, "spec.defaultBackend");
                    }
                }
            }
        }
        if rules.is_empty()
            && let Some(action) = default
        {
            let route = self.route(it, &Host::Any, &PathMatch::Otherwise, action);
            let place = (Host::Any, "default", String::new());
            self.add(it, place, PathMatch::Otherwise, route, "spec.defaultBackend");
        }
    }

    /// The cluster that has pages for the object's errors.
    fn page(&mut self, it: &Ours<'_>) -> Option<usize> {
        let options = &it.options.pages;
        let found = match (&options.backend, &self.settings.default_backend) {
            (Some(service), _) => self.backends.first_port(Name::new(&it.name.namespace, service)),
            (None, _) if options.statuses.is_empty() => return None,
            (None, Some((service, port))) => {
                self.backends.cluster(service.clone(), port.clone(), Protocol::Http)
            }
            (None, None) => Err("there is no default-backend, and no --default-backend".into()),
        };
        let key = if options.backend.is_some() { "default-backend" } else { "custom-http-errors" };
        found.map_err(|why| self.warn(it, &Reader::name(key), format!("{why}: errors stay as they are"))).ok()
    }

    /// Hosts with and without `www.` lead to those that are served.
    fn www(&mut self, it: &Ours<'_>) {
        for host in it.hosts() {
            let Some(other) = pages::other(&host) else { continue };
            if self.rules.iter().any(|rule| rule.host == other) {
                continue;
            }
            let target = pages::to_host(Arc::clone(&it.object), &host);
            self.rules.extend(target.map(|target| Rule {
                host: other,
                path: PathMatch::Prefix("/".into()),
                conditions: Conditions::default(),
                target,
            }));
        }
    }

    /// Puts the shares of a canary into the routes of those whose paths it has, too.
    fn canary(&mut self, it: &Ours<'_>) {
        let Some(canary) = &it.options.canary else { return };
        for (index, rule) in it.spec.rules.iter().flatten().enumerate() {
            let field = format!("spec.rules[{index}]");
            let Some(hosts) = self.hosts(it, rule.host.as_deref().unwrap_or_default(), &field) else {
                continue;
            };
            for (index, path) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
                let field = format!("{field}.http.paths[{index}]");
                let Some((matched, place)) = self.path(it, path, &field) else { continue };
                let action = self.action(it, &path.backend, &format!("{field}.backend"));
                for host in &hosts {
                    let place = (host.clone(), place.0, place.1.clone());
                    let Some(main) = self.taken.get(&place).copied() else {
                        self.warn(
                            it,
                            &field,
                            "a canary of a path that no other object has: nothing to take a part of",
                        );
                        continue;
                    };
                    // A canary that cannot be served takes nothing; its backend was warned of.
                    let Action::Forward(own) = &action else { continue };
                    let Action::Forward(shares) = self.rules[main].target.action.clone() else { continue };
                    if shares.len() > 1 {
                        self.warn(
                            it,
                            &field,
                            "another canary takes a part of this path already: it takes nothing",
                        );
                        continue;
                    }
                    let plain = self.rules[main].target.clone();
                    let mut conditional = |conditions: &Conditions, action: Action| {
                        self.rules.push(Rule {
                            host: host.clone(),
                            path: matched.clone(),
                            conditions: conditions.clone(),
                            target: Route { action, ..plain.clone() },
                        });
                    };
                    canary.always.iter().for_each(|it| conditional(it, action.clone()));
                    canary.never.iter().for_each(|it| conditional(it, plain.action.clone()));
                    let weighted = |shares: &[Share], weight| {
                        shares.iter().map(move |share| Share { weight, ..*share }).collect::<Vec<_>>()
                    };
                    let mut both = weighted(&shares, canary.total - canary.weight);
                    both.extend(weighted(own, canary.weight));
                    if let Some(rule) = self.rules.get_mut(main) {
                        rule.target.action = Action::Forward(both);
                    }
                }
            }
        }
    }

    fn default_backend(&mut self) {
        let Some((service, port)) = &self.settings.default_backend else { return };
        let action = match self.backends.cluster(service.clone(), port.clone(), Protocol::Http) {
            Ok(cluster) => Action::Forward(vec![Share { weight: 1, cluster }]),
            Err(why) => {
                self.warnings.push(Warning {
                    object: "option --default-backend".into(),
                    field: String::new(),
                    message: format!("{why}; what nobody serves is answered 503"),
                });
                Action::Refuse { status: StatusCode::SERVICE_UNAVAILABLE, why }
            }
        };
        let target = Route {
            object: "option --default-backend".into(),
            filters: Vec::new(),
            guard: None,
            retries: None,
            pages: None,
            action,
            limits: Default::default(),
            affinity: None,
            client_auth: None,
        };
        let conditions = Conditions::default();
        self.rules.push(Rule { host: Host::Any, path: PathMatch::Otherwise, conditions, target });
    }

    fn warn(&mut self, it: &Ours<'_>, field: &str, message: impl Into<String>) {
        Warner { object: &it.object, warnings: self.warnings }.warn(field, message);
    }

    /// The rule's host and the object's aliases.
    fn hosts(&mut self, it: &Ours<'_>, text: &str, field: &str) -> Option<Vec<Host>> {
        match Host::parse(text) {
            Ok(host) => Some([host].into_iter().chain(it.options.aliases.iter().cloned()).collect()),
            Err(error) => {
                self.warn(it, &format!("{field}.host"), format!("{error}; the rule is left out"));
                None
            }
        }
    }

    fn action(&mut self, it: &Ours<'_>, backend: &IngressBackend, field: &str) -> Action {
        let mut warner = Warner { object: &it.object, warnings: self.warnings };
        let way = Way { protocol: it.options.protocol, through_service: it.options.through_service };
        let action = self.backends.action(&it.name.namespace, backend, way, field, &mut warner);
        match &it.options.closed {
            Some(why) => Action::Refuse { status: StatusCode::SERVICE_UNAVAILABLE, why: why.clone() },
            None => action,
        }
    }

    /// What the path matches, and by which type and text it is compared with others.
    fn path(
        &mut self,
        it: &Ours<'_>,
        path: &HTTPIngressPath,
        field: &str,
    ) -> Option<(PathMatch, (&'static str, String))> {
        let field_of_path = format!("{field}.path");
        let text = match (path.path.as_deref(), path.path_type.as_str()) {
            (None | Some(""), "ImplementationSpecific") => "/",
            (text, _) => text.unwrap_or_default(),
        };
        if !text.starts_with('/') {
            self.warn(
                it,
                &field_of_path,
                format!("{text:?}: expected a path that begins with `/`; it is left out"),
            );
            return None;
        }
        let options = &it.options;
        let kind = path.path_type.as_str();
        let is_regex =
            options.use_regex || (options.rewrite_target.is_some() && kind == "ImplementationSpecific");
        let end = match kind {
            "Exact" => "$",
            "Prefix" | "ImplementationSpecific" => "",
            other => {
                let message = format!(
                    "{other:?}: expected Exact, Prefix or ImplementationSpecific; the path is left out"
                );
                self.warn(it, &format!("{field}.pathType"), message);
                return None;
            }
        };
        if is_regex {
            let pattern = format!("^{text}{end}");
            return match RegexBuilder::new(&pattern).case_insensitive(true).size_limit(1 << 20).build() {
                Ok(pattern) => Some((PathMatch::Regex(pattern), ("regex", text.to_owned()))),
                Err(error) => {
                    let error = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
                    let message =
                        format!("{text:?} is no regular expression of linear time ({error}); it is left out");
                    self.warn(it, &field_of_path, message);
                    None
                }
            };
        }
        let Some(text) = normal(text).filter(|text| !text.contains(['?', '#'])).map(|text| text.into_owned())
        else {
            let message = format!(
                "{text:?}: no request has such a path; expected one without query and `..`; it is left out"
            );
            self.warn(it, &field_of_path, message);
            return None;
        };
        Some(if end == "$" {
            (PathMatch::Exact(text.clone()), ("exact", text))
        } else {
            let compared = text.strip_suffix('/').unwrap_or(&text).to_owned();
            (PathMatch::Prefix(text), ("prefix", compared))
        })
    }

    fn route(&self, it: &Ours<'_>, host: &Host, path: &PathMatch, action: Action) -> Route {
        let options = &it.options;
        let mut filters = options.filters.clone();
        let secured = self.secured.iter().flatten().any(|secured| match (secured, host) {
            (Host::Wildcard(_), Host::Exact(name)) => secured.matches(name),
            (secured, host) => secured == host,
        });
        let secured = secured || it.certificates.iter().any(|it| it.host.is_none());
        if options.force_ssl_redirect || (options.ssl_redirect && secured) {
            // After the lists of sources, before all else.
            let is_list =
                |filter: &Filter| matches!(filter, Filter::AllowSources(_) | Filter::DenySources(_));
            let at = filters.iter().take_while(|filter| is_list(filter)).count();
            filters.insert(at, Filter::ToHttps(StatusCode::PERMANENT_REDIRECT));
        }
        if let Some(template) = &options.rewrite_target {
            let pattern = match path {
                PathMatch::Regex(pattern) => Some(pattern.clone()),
                // The whole path becomes the template, as with nginx.
                PathMatch::Exact(_) | PathMatch::Prefix(_) => regex::Regex::new("^.*$").ok(),
                PathMatch::Otherwise => None,
            };
            filters.extend(
                pattern.map(|pattern| Filter::Rewrite(Rewrite { pattern, template: template.clone() })),
            );
        }
        Route {
            object: Arc::clone(&it.object),
            filters,
            guard: it.guard.clone(),
            retries: it.options.retries.clone(),
            pages: None,
            action,
            limits: options.limits,
            affinity: options.affinity.clone(),
            client_auth: options.client_auth.clone(),
        }
    }

    fn add(&mut self, it: &Ours<'_>, place: Place, path: PathMatch, route: Route, field: &str) {
        if let Some(first) = self.taken.get(&place).and_then(|index| self.rules.get(*index)) {
            let older = first.target.object.to_string();
            let what = match place.1 {
                "default" => format!("the default of {}", place.0),
                kind => format!("{kind} path {} of {}", place.2, place.0),
            };
            self.warn(
                it,
                field,
                format!("{what} is {older}'s already, which is older or comes before it; it is left out"),
            );
            return;
        }
        let host = place.0.clone();
        self.taken.insert(place, self.rules.len());
        self.rules.push(Rule { host, path, conditions: Conditions::default(), target: route });
    }
}
