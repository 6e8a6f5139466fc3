//! From objects to what is served: compiles no more than a change asks for, and tells each warning once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use policy::Warning;
use tracing::{debug, info, warn};

use crate::compile::{self, Settings};
use crate::object::World;
use crate::proxy::Shared;
use crate::tls::{Certificates, KeyCache};

/// How much of the last generation a change leaves in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Changed {
    /// All of it.
    Nothing,
    /// All but the endpoints of Services: no rule and no certificate is looked at again.
    Endpoints,
    Everything,
}

/// The one that compiles.
pub struct Serving {
    settings: Settings,
    shared: Arc<Shared>,
    keys: KeyCache,
    /// What the clusters in force were made from.
    places: Vec<compile::Place>,
    /// Of the last generation: of its rules and certificates, and of its endpoints.
    of_rules: Vec<Warning>,
    of_endpoints: Vec<Warning>,
    /// Those of the last generation: each is told once, for as long as it lasts.
    told: BTreeSet<Warning>,
    begun: bool,
}

impl Serving {
    /// Nothing is served yet.
    pub fn new(settings: Settings, shared: Arc<Shared>) -> Self {
        Self {
            settings,
            shared,
            keys: KeyCache::default(),
            places: Vec::new(),
            of_rules: Vec::new(),
            of_endpoints: Vec::new(),
            told: BTreeSet::new(),
            begun: false,
        }
    }

    /// What the operator decides.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Serves the world from now on, of which this has changed since it was served last. `odd`: what was found wrong with
    /// the objects before they came here. Gives back all that is wrong.
    pub fn serve(&mut self, world: &World, odd: Vec<Warning>, changed: Changed) -> &BTreeSet<Warning> {
        let begin = Instant::now();
        match changed {
            Changed::Nothing if self.begun => {}
            Changed::Endpoints if self.begun => self.serve_endpoints(world),
            _ => self.serve_everything(world),
        }
        let took = begin.elapsed();
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let compiled = changed != Changed::Nothing || !self.begun;
        if compiled {
            self.shared.metrics().compiled(took);
        }
        let warnings: BTreeSet<Warning> =
            odd.into_iter().chain(self.of_rules.iter().chain(&self.of_endpoints).cloned()).collect();
        warnings.difference(&self.told).for_each(|warning| warn!("{warning}"));
        self.told = warnings;
        if changed == Changed::Everything || !self.begun {
            info!(
                ingresses = world.ingresses.len(),
                rules = self.shared.rules(),
                services = self.places.len(),
                warnings = self.told.len(),
                took_us,
                "serving"
            );
        } else if compiled {
            debug!(took_us, "endpoints changed");
        }
        self.begun = true;
        &self.told
    }

    fn serve_everything(&mut self, world: &World) {
        let mut compiled = compile::compile(world, &self.settings);
        let (certificates, of_certificates) =
            Certificates::cached(&compiled, world, &self.settings, &mut self.keys);
        self.places = std::mem::take(&mut compiled.places);
        // What is wrong with slices is found again whenever endpoints change.
        (self.of_endpoints, self.of_rules) = std::mem::take(&mut compiled.warnings)
            .into_iter()
            .partition(|warning| warning.object.starts_with("EndpointSlice "));
        self.of_rules.extend(of_certificates);
        self.shared.serve(compiled, certificates);
    }

    fn serve_endpoints(&mut self, world: &World) {
        match compile::endpoints(world, &self.places) {
            Some((clusters, warnings)) => {
                self.of_endpoints = warnings;
                self.shared.serve_endpoints(clusters);
            }
            None => self.serve_everything(world),
        }
    }
}
