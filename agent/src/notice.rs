//! Which complaint is news to whom. Pure.
//!
//! The log and `weir status` have all of it; where the source is an API server, it becomes Events there
//! (`kubernetes/src/events.rs`).

use kubernetes::{About, Notice};
use tokio::sync::mpsc;

/// Whom notices go to, if anybody.
#[derive(Clone, Default)]
pub(crate) struct Notices(Option<mpsc::Sender<Notice>>);

impl Notices {
    pub(crate) fn to(sender: mpsc::Sender<Notice>) -> Self {
        Self(Some(sender))
    }

    /// Never waits: where too many are on their way, this one is only in the log.
    pub(crate) fn tell(&self, notice: Notice) {
        if let Some(sender) = &self.0 {
            drop(sender.try_send(notice));
        }
    }
}

/// The kinds about which `policy` has something to say.
const KINDS: &[&str] = &["NetworkPolicy", "Pod", "Service", "EndpointSlice"];

/// Who is to hear of a new complaint of this part, if anybody is.
pub(crate) fn of_complaint(part: &str, complaint: &str, node: &str) -> Option<Notice> {
    let (about, reason) = match part {
        "policy" => (About::of(complaint, KINDS)?, "NotHonoured"),
        "node" => (About::node(node), "NodeNotConfigured"),
        "addresses" => (About::node(node), "PodAddresses"),
        "unmanaged" => (About::node(node), "PodsNotManaged"),
        "plan" => (About::node(node), "PlanRefused"),
        "audit" | "drift" => (About::node(node), "DriftNotRepaired"),
        // Whatever else is wrong with the API server, it would not take the Event, or everybody tells it the same.
        _ if complaint.contains("403 Forbidden") => (About::node(node), "Forbidden"),
        _ => return None,
    };
    Some(Notice { about, reason, message: complaint.to_owned(), is_warning: true })
}

/// Something that somebody else had changed on this node.
pub(crate) fn of_drift(what: &str, node: &str) -> Notice {
    Notice {
        about: About::node(node),
        reason: "DriftRepaired",
        message: format!("changed by somebody else, put right: {what}"),
        is_warning: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_about_an_object_is_told_there_and_one_about_the_node_at_the_node() {
        let told = of_complaint("policy", "NetworkPolicy shop/web: spec.ingress[0]: no", "node-0").unwrap();
        let about = About { kind: "NetworkPolicy", namespace: "shop".into(), name: "web".into() };
        assert_eq!((told.about, told.reason), (about, "NotHonoured"));
        let told = of_complaint("node", "Node node-0: spec.podCIDRs: empty", "node-0").unwrap();
        assert_eq!(told.about, About::node("node-0"));
        assert_eq!(told.message, "Node node-0: spec.podCIDRs: empty");
    }

    #[test]
    fn a_server_that_is_gone_is_not_told_so_and_one_that_forbids_is() {
        assert_eq!(of_complaint("Pod", "API server, Pods: connection refused", "node-0"), None);
        let told = of_complaint("Pod", "API server, Pods: 403 Forbidden: no", "node-0").unwrap();
        assert_eq!(told.reason, "Forbidden");
        assert_eq!(of_complaint("policy", "no object at all", "node-0"), None);
    }
}
