//! The Kubernetes objects that the proxy looks at, and all of them together.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use policy::Warning;
use policy::manifest::{self, Document};

/// One object of a kind that the proxy looks at.
#[derive(Clone, Debug)]
pub enum Object {
    Ingress(Arc<Ingress>),
    IngressClass(Arc<IngressClass>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Secret(Arc<Secret>),
}

/// The kinds of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    IngressClass,
    Service,
    EndpointSlice,
    Secret,
    Ingress,
}

impl Kind {
    pub const ALL: [Self; 5] =
        [Self::IngressClass, Self::Service, Self::EndpointSlice, Self::Secret, Self::Ingress];

    /// As Kubernetes writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IngressClass => "IngressClass",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Secret => "Secret",
            Self::Ingress => "Ingress",
        }
    }

    pub const fn api_version(self) -> &'static str {
        match self {
            Self::IngressClass | Self::Ingress => "networking.k8s.io/v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::Service | Self::Secret => "v1",
        }
    }
}

/// Namespace and name; classes have the empty namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    pub namespace: String,
    pub name: String,
}

impl Name {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub(crate) fn of(metadata: &ObjectMeta) -> Self {
        let namespace = metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty());
        Self::new(namespace.unwrap_or("default"), metadata.name.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl Object {
    /// The typed object and what was lost of it. `None`: a kind that the proxy does not look at.
    pub fn read(document: &Document) -> Result<Option<(Self, Vec<Warning>)>, Warning> {
        let (object, warnings) = match (document.api_version.as_str(), document.kind.as_str()) {
            ("networking.k8s.io/v1", "Ingress") => {
                let (object, warnings) = manifest::read(document)?;
                (Self::Ingress(Arc::new(object)), warnings)
            }
            ("networking.k8s.io/v1", "IngressClass") => {
                let (object, warnings) = manifest::read(document)?;
                (Self::IngressClass(Arc::new(object)), warnings)
            }
            ("v1", "Service") => {
                let (object, warnings) = manifest::read(document)?;
                (Self::Service(Arc::new(object)), warnings)
            }
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                let (object, warnings) = manifest::read(document)?;
                (Self::EndpointSlice(Arc::new(object)), warnings)
            }
            ("v1", "Secret") => {
                let (object, warnings) = manifest::read(document)?;
                (Self::Secret(Arc::new(object)), warnings)
            }
            (version, "Ingress" | "IngressClass") => {
                return Err(Warning {
                    object: document.to_string(),
                    field: "apiVersion".into(),
                    message: format!(
                        "{version} is gone from Kubernetes since 1.22: expected networking.k8s.io/v1"
                    ),
                });
            }
            _ => return Ok(None),
        };
        if object.metadata().name.as_deref().unwrap_or_default().is_empty() {
            return Err(Warning {
                object: format!("{} at {}:{}", document.kind, document.origin, document.line),
                field: "metadata.name".into(),
                message: "missing: every object needs a name".into(),
            });
        }
        // A document does not say the namespace that it does not write.
        let name = format!("{} {}", object.kind(), object.name());
        let warnings = warnings.into_iter().map(|warning| Warning { object: name.clone(), ..warning });
        let warnings = warnings.collect();
        Ok(Some((object, warnings)))
    }

    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Ingress(object) => &object.metadata,
            Self::IngressClass(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::EndpointSlice(object) => &object.metadata,
            Self::Secret(object) => &object.metadata,
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ingress(_) => "Ingress",
            Self::IngressClass(_) => "IngressClass",
            Self::Service(_) => "Service",
            Self::EndpointSlice(_) => "EndpointSlice",
            Self::Secret(_) => "Secret",
        }
    }

    /// Cluster-wide kinds have no namespace, whatever is written.
    pub fn name(&self) -> Name {
        match self {
            Self::IngressClass(class) => Name::new("", class.metadata.name.as_deref().unwrap_or_default()),
            _ => Name::of(self.metadata()),
        }
    }
}

/// Everything that is to be served.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub ingresses: BTreeMap<Name, Arc<Ingress>>,
    pub classes: BTreeMap<Name, Arc<IngressClass>>,
    pub services: BTreeMap<Name, Arc<Service>>,
    pub slices: BTreeMap<Name, Arc<EndpointSlice>>,
    pub secrets: BTreeMap<Name, Arc<Secret>>,
}

impl World {
    /// Takes the object in, in the place of another version of it.
    pub fn apply(&mut self, object: Object) {
        let name = object.name();
        match object {
            Object::Ingress(object) => drop(self.ingresses.insert(name, object)),
            Object::IngressClass(object) => drop(self.classes.insert(name, object)),
            Object::Service(object) => drop(self.services.insert(name, object)),
            Object::EndpointSlice(object) => drop(self.slices.insert(name, object)),
            Object::Secret(object) => drop(self.secrets.insert(name, object)),
        }
    }

    /// How much of what is served a new version of the object may change: what is written back into an object does not.
    #[cfg(feature = "proxy")]
    pub(crate) fn changed_by(&self, object: &Object) -> crate::serving::Changed {
        use crate::serving::Changed;
        let name = object.name();
        let same = match object {
            Object::Ingress(new) => self.ingresses.get(&name).is_some_and(|old| {
                (&old.spec, &old.metadata.annotations, &old.metadata.creation_timestamp)
                    == (&new.spec, &new.metadata.annotations, &new.metadata.creation_timestamp)
            }),
            Object::IngressClass(new) => self.classes.get(&name).is_some_and(|old| {
                (&old.spec, &old.metadata.annotations) == (&new.spec, &new.metadata.annotations)
            }),
            Object::Service(new) => self.services.get(&name) == Some(new),
            Object::EndpointSlice(new) => self.slices.get(&name) == Some(new),
            Object::Secret(new) => {
                self.secrets.get(&name).is_some_and(|old| (&old.data, &old.type_) == (&new.data, &new.type_))
            }
        };
        match object {
            _ if same => Changed::Nothing,
            Object::EndpointSlice(_) => Changed::Endpoints,
            _ => Changed::Everything,
        }
    }

    /// Forgets the object, if it was there.
    pub fn remove(&mut self, kind: Kind, name: &Name) {
        match kind {
            Kind::Ingress => drop(self.ingresses.remove(name)),
            Kind::IngressClass => drop(self.classes.remove(name)),
            Kind::Service => drop(self.services.remove(name)),
            Kind::EndpointSlice => drop(self.slices.remove(name)),
            Kind::Secret => drop(self.secrets.remove(name)),
        }
    }
}
