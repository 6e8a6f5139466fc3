//! What cannot be honoured, as Events on the Ingress objects that ask for it.

use std::collections::BTreeSet;

use kubernetes::{About, Notice};
use policy::Warning;
use tokio::sync::mpsc;

use crate::object::Name;

/// Tells each warning once, for as long as it lasts. All replicas tell the same, which is one Event.
pub(super) struct Notices {
    to: mpsc::Sender<Notice>,
    told: BTreeSet<Warning>,
}

impl Notices {
    pub(super) fn new(to: mpsc::Sender<Notice>) -> Self {
        Self { to, told: BTreeSet::new() }
    }

    /// What is wrong now. `ours`: whether an Ingress is served by us; what others serve is theirs to tell.
    pub(super) fn tell(&mut self, warnings: &BTreeSet<Warning>, ours: impl Fn(&Name) -> bool) {
        for warning in warnings.difference(&self.told) {
            let Some(notice) = notice(warning) else { continue };
            let About { kind, namespace, name } = &notice.about;
            if *kind == "Ingress" && ours(&Name::new(namespace.clone(), name.clone())) {
                // Where too many are on their way, this one is only in the log.
                drop(self.to.try_send(notice));
            }
        }
        self.told.clone_from(warnings);
    }
}

fn notice(warning: &Warning) -> Option<Notice> {
    let message = warning.to_string();
    let about = About::of(&message, &["Ingress"])?;
    let reason = match warning.field.as_str() {
        field if field.starts_with("spec.tls") => "CertificateNotUsable",
        field if field.starts_with("spec") => "NotServedAsWritten",
        _ => "AnnotationNotHonoured",
    };
    Some(Notice { about, reason, message, is_warning: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(object: &str, field: &str) -> Warning {
        Warning { object: object.into(), field: field.into(), message: "no".into() }
    }

    #[test]
    fn a_warning_is_told_once_on_its_object_and_again_when_it_comes_back() {
        let (to, mut told) = mpsc::channel(8);
        let mut notices = Notices::new(to);
        let broken = warning("Ingress shop/web", "spec.tls[0].secretName");
        let theirs = warning("Ingress shop/theirs", "spec.ingressClassName");
        let slice = warning("EndpointSlice shop/web-1", "addressType");
        let all: BTreeSet<_> = [broken.clone(), theirs, slice].into();
        let ours = |name: &Name| name.name == "web";
        notices.tell(&all, ours);
        notices.tell(&all, ours);
        let first = told.try_recv().unwrap();
        assert_eq!((first.reason, first.about.name.as_str()), ("CertificateNotUsable", "web"));
        assert_eq!(first.message, broken.to_string());
        assert!(told.try_recv().is_err(), "told once, and nothing of others");
        notices.tell(&BTreeSet::new(), ours);
        notices.tell(&[broken].into(), ours);
        assert!(told.try_recv().is_ok(), "it is back");
    }
}
