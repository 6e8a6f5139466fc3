//! Flow events with their names, kept for a while and handed on as they come.
//!
//! An event gets its names when it arrives and becomes text only when somebody looks: the ring holds thousands of flows
//! that nobody will ever read.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use api::{Flow, FlowEnd, FlowQuery, PolicyRef, VerdictKind, protocol_name};
use common::flow::FlowEvent;
use common::id::{RuleId, RuleSetId};
use common::net::protocol;
use common::verdict::{Direction, DropReason, PassReason};
use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use policy::{RuleName, RuleSetName, World};
use tokio::sync::broadcast;

use crate::naming::Naming;

/// How many flows are kept for those who ask later: about 1 MiB.
const KEPT: usize = 4096;
/// How far a follower may fall behind before it loses flows (and is told how many).
const BACKLOG: usize = 8192;

/// What a follower gets.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    Flow(Arc<Flow>),
    /// So many flows did not fit into the kernel's ring.
    Lost(u64),
}

/// What was kept, and, for followers, what comes: without a gap and without a flow twice.
pub(crate) struct FlowFeed {
    pub(crate) kept: Vec<Flow>,
    pub(crate) live: Option<broadcast::Receiver<Seen>>,
}

pub(crate) struct Flows {
    node: String,
    kept: VecDeque<NamedEvent>,
    live: broadcast::Sender<Seen>,
    lost: u64,
}

impl Flows {
    pub(crate) fn new(node: impl Into<String>) -> Self {
        Self { node: node.into(), kept: VecDeque::new(), live: broadcast::channel(BACKLOG).0, lost: 0 }
    }

    pub(crate) fn record(&mut self, events: Vec<FlowEvent>, naming: &mut Naming, world: &World) {
        let clock = Clock::read();
        for event in events {
            let named = NamedEvent::new(event, &clock, naming, world);
            if self.live.receiver_count() > 0 {
                // Nobody listening any more is no loss.
                drop(self.live.send(Seen::Flow(Arc::new(named.flow(&self.node)))));
            }
            if self.kept.len() == KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back(named);
        }
    }

    /// Takes in how many events the kernel's ring has lost since it was made.
    pub(crate) fn lost(&mut self, total: u64) {
        let more = total.saturating_sub(self.lost);
        self.lost = total;
        if more > 0 {
            tracing::warn!(flows = more, "flow events lost: the kernel's ring was full");
            drop(self.live.send(Seen::Lost(more)));
        }
    }

    pub(crate) fn query(&self, query: &FlowQuery) -> FlowFeed {
        let newest_first =
            self.kept.iter().rev().map(|event| event.flow(&self.node)).filter(|flow| query.matches(flow));
        let mut kept: Vec<Flow> = newest_first.take(query.last.unwrap_or(KEPT)).collect();
        kept.reverse();
        FlowFeed { kept, live: query.follow.then(|| self.live.subscribe()) }
    }
}

/// Turns the kernel's clock into wall-clock time.
struct Clock {
    /// Wall clock minus monotonic clock.
    offset_ns: i128,
}

impl Clock {
    fn read() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i128;
        Self { offset_ns: wall - monotonic_ns() }
    }

    fn wall_ns(&self, time_ns: u64) -> i128 {
        i128::from(time_ns) + self.offset_ns
    }
}

/// The clock of the kernel programs. This one exists on every Linux.
fn monotonic_ns() -> i128 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec()))
}

/// RFC 3339 in UTC with microseconds.
fn rfc3339(wall_ns: i128) -> String {
    let time = Timestamp::from_nanosecond(wall_ns).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{time:.6}")
}

/// An event and the names that its numbers had when it came.
struct NamedEvent {
    event: FlowEvent,
    wall_ns: i128,
    from: Option<Arc<str>>,
    to: Option<Arc<str>>,
    by: [Option<Decider>; 2],
}

/// What gave one direction's answer.
enum Decider {
    Rule(Arc<RuleName>),
    /// No rule allows: the default deny of these policies.
    Default(Arc<RuleSetName>),
    /// A number that no generation we remember has a name for.
    Unknown(Direction, RuleId, RuleSetId),
}

impl NamedEvent {
    fn new(event: FlowEvent, clock: &Clock, naming: &mut Naming, world: &World) -> Self {
        Self {
            wall_ns: clock.wall_ns(event.time_ns),
            from: naming.address(world, event.source),
            to: naming.address(world, event.destination),
            by: [Direction::Egress, Direction::Ingress]
                .map(|direction| Decider::of(&event, direction, naming)),
            event,
        }
    }

    fn flow(&self, node: &str) -> Flow {
        let event = &self.event;
        let has_ports = protocol::has_ports(event.protocol);
        let port = |port: u16| if has_ports { port } else { 0 };
        let (verdict, reason) = reason(event.reason);
        Flow {
            time: rfc3339(self.wall_ns),
            node: node.to_owned(),
            from: FlowEnd {
                ip: event.source.to_ip(),
                port: port(event.source_port.to_host()),
                name: self.from.as_deref().map(str::to_owned),
            },
            to: FlowEnd {
                ip: event.destination.to_ip(),
                port: port(event.destination_port.to_host()),
                name: self.to.as_deref().map(str::to_owned),
            },
            protocol: protocol_name(event.protocol),
            verdict,
            direction: Direction::from_u8(event.direction).map(|direction| direction.as_str().to_owned()),
            reason,
            by: self.by.iter().flatten().map(Decider::policy).collect(),
            bytes: event.bytes,
        }
    }
}

impl Decider {
    /// For a drop only the direction that denied decided anything; where nothing isolates, nothing did.
    fn of(event: &FlowEvent, direction: Direction, naming: &mut Naming) -> Option<Self> {
        let (judged, rule, rule_set) = match direction {
            Direction::Ingress => (FlowEvent::JUDGED_INGRESS, event.ingress_rule, event.ingress_rules),
            Direction::Egress => (FlowEvent::JUDGED_EGRESS, event.egress_rule, event.egress_rules),
        };
        let decided = match DropReason::from_u8(event.reason) {
            Some(DropReason::PolicyDenied) => event.direction == direction as u8,
            Some(_) => false,
            None => event.judged & judged != 0,
        };
        if !decided || rule_set.is_open() {
            return None;
        }
        let named = if rule == RuleId::NONE {
            naming.rule_set(rule_set).map(Self::Default)
        } else {
            naming.rule(rule).map(Self::Rule)
        };
        Some(named.unwrap_or(Self::Unknown(direction, rule, rule_set)))
    }

    fn policy(&self) -> PolicyRef {
        match self {
            Self::Rule(rule) => PolicyRef {
                direction: rule.direction.as_str().to_owned(),
                policies: vec![rule.policy.clone()],
                rule: Some(rule.path.clone()),
            },
            Self::Default(rule_set) => PolicyRef {
                direction: rule_set.direction.as_str().to_owned(),
                policies: rule_set.policies.clone(),
                rule: None,
            },
            Self::Unknown(direction, rule, rule_set) => PolicyRef {
                direction: direction.as_str().to_owned(),
                policies: Vec::new(),
                rule: Some(format!("rule {rule:?} of rule set {rule_set:?}, whose name is forgotten")),
            },
        }
    }
}

fn reason(number: u8) -> (VerdictKind, String) {
    match (DropReason::from_u8(number), PassReason::from_u8(number)) {
        (Some(reason), _) => (VerdictKind::Denied, reason.as_str().to_owned()),
        (None, Some(reason)) => (VerdictKind::Allowed, reason.as_str().to_owned()),
        // Of a newer datapath than this agent: the numbers say which half it is in.
        (None, None) if number < PassReason::Rule as u8 => (VerdictKind::Denied, number.to_string()),
        (None, None) => (VerdictKind::Allowed, number.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use common::net::{Addr, Be16};
    use policy::{Names, Retired};

    use super::*;
    use crate::testing::{NODES, Script, pod};

    const RULE: RuleId = RuleId::new(7);
    const WEB_RULES: RuleSetId = RuleSetId::new(8);

    struct Fixture {
        script: Script,
        flows: Flows,
        naming: Naming,
        world: World,
    }

    impl Fixture {
        fn new() -> Self {
            let mut fixture = Self {
                script: Script::default(),
                flows: Flows::new("node-0"),
                naming: Naming::default(),
                world: World::new("node-0"),
            };
            fixture.source(&[NODES, &pod("client", "10.244.0.1"), &pod("web", "10.244.0.2")]);
            let mut names = Names::default();
            let rule = RuleName {
                policy: "shop/web".into(),
                direction: Direction::Ingress,
                path: "spec.ingress[0]".into(),
            };
            names.rules.insert(RULE, rule);
            let rule_set = RuleSetName {
                direction: Direction::Ingress,
                policies: vec!["shop/quiet".into(), "shop/web".into()],
                rows: 1,
            };
            names.rule_sets.insert(WEB_RULES, rule_set);
            fixture.naming.learn(names);
            fixture
        }

        fn source(&mut self, parts: &[&str]) {
            for change in self.script.read(&parts.concat()).changes {
                self.naming.follow(&mut self.world, change);
            }
            self.naming.world_changed();
        }

        fn record(&mut self, event: FlowEvent) {
            self.flows.record(vec![event], &mut self.naming, &self.world);
        }

        fn one(&mut self, event: FlowEvent) -> Flow {
            self.record(event);
            self.flows.query(&FlowQuery { last: Some(1), ..FlowQuery::default() }).kept.remove(0)
        }
    }

    /// From `client` to port 80 of `web`, judged at the ingress of `web`.
    fn event(reason: u8) -> FlowEvent {
        let addr = |ip: &str| Addr::from(ip.parse::<IpAddr>().unwrap());
        FlowEvent {
            time_ns: 0,
            source: addr("10.244.0.1"),
            destination: addr("10.244.0.2"),
            source_port: Be16::new(4000),
            destination_port: Be16::new(80),
            protocol: protocol::TCP,
            reason,
            direction: Direction::Ingress as u8,
            judged: FlowEvent::JUDGED_INGRESS,
            ingress_rule: RuleId::NONE,
            egress_rule: RuleId::NONE,
            ingress_rules: WEB_RULES,
            egress_rules: RuleSetId::OPEN,
            bytes: 60,
            ifindex: 3,
        }
    }

    fn by(policies: &[&str], rule: Option<&str>) -> Vec<PolicyRef> {
        let policies = policies.iter().map(|policy| (*policy).to_owned()).collect();
        vec![PolicyRef { direction: "ingress".into(), policies, rule: rule.map(str::to_owned) }]
    }

    #[test]
    fn an_allowed_connection_names_both_pods_and_the_rule() {
        let event = FlowEvent { ingress_rule: RULE, ..event(PassReason::Rule as u8) };
        let flow = Fixture::new().one(event);
        assert_eq!(flow.verdict, VerdictKind::Allowed);
        assert_eq!(flow.from.name.as_deref(), Some("shop/client"));
        assert_eq!((flow.to.name.as_deref(), flow.to.port), (Some("shop/web"), 80));
        assert_eq!((flow.reason.as_str(), flow.direction.as_deref()), ("rule", Some("ingress")));
        assert_eq!(flow.by, by(&["shop/web"], Some("spec.ingress[0]")));
    }

    #[test]
    fn a_default_deny_names_every_policy_that_isolates() {
        let flow = Fixture::new().one(event(DropReason::PolicyDenied as u8));
        assert_eq!(flow.verdict, VerdictKind::Denied);
        assert_eq!(flow.by, by(&["shop/quiet", "shop/web"], None));
    }

    #[test]
    fn what_no_policy_decided_names_none() {
        let mut fixture = Fixture::new();
        assert_eq!(fixture.one(event(DropReason::Spoofed as u8)).by, []);
        let open = FlowEvent { ingress_rules: RuleSetId::OPEN, ..event(PassReason::Open as u8) };
        assert_eq!(fixture.one(open).by, []);
    }

    #[test]
    fn names_outlive_the_pods_and_rules_they_belong_to() {
        let mut fixture = Fixture::new();
        fixture.one(event(DropReason::PolicyDenied as u8));
        fixture.source(&[NODES]);
        fixture.naming.retire(&Retired { rules: [RULE].into(), rule_sets: [WEB_RULES].into() });
        let flow = fixture.one(event(DropReason::PolicyDenied as u8));
        assert_eq!(flow.from.name.as_deref(), Some("shop/client"));
        assert_eq!(flow.to.name.as_deref(), Some("shop/web"));
        assert_eq!(flow.by, by(&["shop/quiet", "shop/web"], None));
    }

    #[test]
    fn a_number_without_a_name_is_shown_as_such() {
        let unknown = FlowEvent { ingress_rules: RuleSetId::new(9), ..event(DropReason::PolicyDenied as u8) };
        let flow = Fixture::new().one(unknown);
        assert!(flow.by[0].policies.is_empty());
        assert!(flow.by[0].rule.as_ref().unwrap().contains("0000000000000009"), "{:?}", flow.by);
    }

    #[test]
    fn ports_are_shown_only_where_the_protocol_has_them() {
        let flow =
            Fixture::new().one(FlowEvent { protocol: protocol::ICMP, ..event(PassReason::Open as u8) });
        assert_eq!((flow.protocol.as_str(), flow.from.port, flow.to.port), ("ICMP", 0, 0));
    }

    #[test]
    fn time_is_written_to_the_microsecond() {
        assert_eq!(rfc3339(1_795_500_000_123_456_789), "2026-11-24T06:00:00.123456Z");
        assert_eq!(rfc3339(1_795_500_000_000_000_000), "2026-11-24T06:00:00.000000Z");
        let now = Clock::read().wall_ns(monotonic_ns() as u64);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i128;
        assert!((now - wall).abs() < 60_000_000_000, "{now} {wall}");
    }

    #[test]
    fn a_query_gets_the_newest_in_order_and_only_what_matches() {
        let mut fixture = Fixture::new();
        for port in 1..=10 {
            fixture.record(FlowEvent { destination_port: Be16::new(port), ..event(PassReason::Open as u8) });
        }
        fixture.record(event(DropReason::PolicyDenied as u8));
        let ports = |query: &FlowQuery| -> Vec<u16> {
            fixture.flows.query(query).kept.iter().map(|flow| flow.to.port).collect()
        };
        let allowed = FlowQuery { verdict: Some(VerdictKind::Allowed), ..FlowQuery::default() };
        assert_eq!(ports(&FlowQuery { last: Some(3), ..allowed.clone() }), [8, 9, 10]);
        assert_eq!(ports(&FlowQuery { port: Some(4), ..allowed }), [4]);
        let whose = |pod: &str| FlowQuery { pod: Some(pod.into()), last: Some(1), ..FlowQuery::default() };
        assert_eq!(ports(&whose("web")), [80]);
        assert_eq!(ports(&whose("shop/web")), [80]);
        assert_eq!(ports(&whose("other/web")), [0; 0]);
        let of = |namespace: &str| FlowQuery { namespace: Some(namespace.into()), ..FlowQuery::default() };
        assert_eq!(ports(&of("shop")).len(), 11);
        assert_eq!(ports(&of("web")).len(), 0);
        let over = |protocol: &str| FlowQuery { protocol: Some(protocol.into()), ..FlowQuery::default() };
        assert_eq!((ports(&over("tcp")).len(), ports(&over("udp")).len()), (11, 0));
    }

    #[test]
    fn the_ring_keeps_the_newest_and_followers_get_each_once() {
        let mut fixture = Fixture::new();
        for _ in 0..KEPT + 5 {
            fixture.record(event(PassReason::Open as u8));
        }
        let mut feed = fixture.flows.query(&FlowQuery { follow: true, ..FlowQuery::default() });
        assert_eq!(feed.kept.len(), KEPT);
        let live = feed.live.as_mut().unwrap();
        assert!(live.try_recv().is_err(), "nothing that was already among the kept");
        fixture.record(event(DropReason::PolicyDenied as u8));
        fixture.flows.lost(3);
        fixture.flows.lost(3);
        let live = feed.live.as_mut().unwrap();
        assert!(matches!(live.try_recv(), Ok(Seen::Flow(flow)) if flow.verdict == VerdictKind::Denied));
        assert!(matches!(live.try_recv(), Ok(Seen::Lost(3))));
        assert!(live.try_recv().is_err());
    }
}
