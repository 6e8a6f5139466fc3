//! The loop, with the kernel in memory.

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use api::{Attach, Attached, Attachment, Detached, PodRef, Status, Valid, VerdictKind};
use common::net::Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, timeout};

use crate::event::{Call, Event, Fault, Question, Refusal, Reply};
use crate::node::Neighbourhood;
use crate::records::Records;
use crate::run::Agent;
use crate::socket::Socket;
use crate::source::Arrival;
use crate::testing::{Folder, Kernel, MemoryDatapath, NODES, Script, pod, policy};

type Answer<T> = oneshot::Receiver<Result<T, Refusal>>;

/// A node whose agent can be stopped and started; kernel and disk stay.
struct Node {
    folder: Folder,
    datapath: MemoryDatapath,
    script: RefCell<Script>,
    agent: Option<(mpsc::Sender<Event>, JoinHandle<()>)>,
}

impl Node {
    fn new() -> Self {
        let mut node = Self {
            folder: Folder::new(),
            datapath: MemoryDatapath::default(),
            script: RefCell::default(),
            agent: None,
        };
        for ifindex in 1..10 {
            node.kernel(|kernel| drop(kernel.interfaces.insert(ifindex, format!("weir{ifindex}"))));
        }
        node.start();
        node
    }

    fn start(&mut self) {
        self.start_with(|_| {});
    }

    fn start_with(&mut self, prepare: impl FnOnce(&mut Agent<MemoryDatapath>)) {
        let records = Records::load(self.folder.path().join("endpoints")).unwrap();
        let (neighbourhood, _) = watch::channel(Neighbourhood::default());
        let mut agent = Agent::new("node-0", self.datapath.reopened(), records, neighbourhood);
        prepare(&mut agent);
        let (events, queue) = mpsc::channel(16);
        self.agent = Some((events, spawn_local(agent.run(queue))));
    }

    async fn stop(&mut self) {
        let (events, task) = self.agent.take().unwrap();
        events.send(Event::Shutdown).await.unwrap();
        task.await.unwrap();
    }

    fn kernel<T>(&self, look: impl FnOnce(&mut Kernel) -> T) -> T {
        look(&mut self.datapath.kernel.borrow_mut())
    }

    async fn send(&self, event: Event) {
        self.agent.as_ref().unwrap().0.send(event).await.unwrap();
    }

    async fn source(&self, parts: &[&str]) {
        let update = self.script.borrow_mut().read(&parts.concat());
        self.send(Event::Source(update)).await;
    }

    async fn call<T>(&self, call: impl FnOnce(Reply<T>) -> Call) -> Answer<T> {
        let (reply, answer) = oneshot::channel();
        self.send(Event::Call(call(reply))).await;
        answer
    }

    async fn attach(&self, name: &str, ifindex: u32) -> Answer<Attached> {
        self.call(|reply| Call::Attach(attach(name, ifindex), reply)).await
    }

    async fn detach(&self, name: &str) -> Detached {
        self.call(|reply| Call::Detach(attachment(name), reply)).await.await.unwrap().unwrap()
    }

    async fn status(&self) -> Status {
        self.call(|reply| Call::Ask(Question::Status(reply))).await.await.unwrap().unwrap()
    }

    fn has_row(&self, ifindex: u32) -> bool {
        self.kernel(|kernel| kernel.tables.endpoints.contains_key(&Addr::from(ip(ifindex))))
    }

    fn log(&self) -> Vec<String> {
        self.kernel(|kernel| std::mem::take(&mut kernel.log))
    }
}

fn ip(ifindex: u32) -> IpAddr {
    IpAddr::from([10, 244, 0, ifindex as u8])
}

/// For tests elsewhere.
pub(crate) fn attached(name: &str, ifindex: u32) -> Attach {
    Attach { container_id: name.to_owned(), ..attach(name, ifindex) }
}

/// The pod's address ends in its interface's index.
fn attach(name: &str, ifindex: u32) -> Attach {
    Attach {
        container_id: format!("id-{name}"),
        ifname: "eth0".into(),
        netns: "/proc/1/ns/net".into(),
        pod: Some(PodRef { namespace: "shop".into(), name: name.into(), uid: None }),
        host_ifname: format!("weir{ifindex}"),
        host_ifindex: ifindex,
        ips: vec![ip(ifindex)],
        mac: None,
        port_mappings: Vec::new(),
        ingress_limited: false,
    }
}

fn attachment(name: &str) -> Attachment {
    Attachment { container_id: format!("id-{name}"), ifname: "eth0".into() }
}

async fn on_a_node(test: impl AsyncFnOnce(Node)) {
    LocalSet::new().run_until(async { test(Node::new()).await }).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_programmed_before_the_first_source() {
    on_a_node(async |node| {
        let answer = node.attach("web", 1).await;
        assert!(!node.status().await.ready);
        assert_eq!(node.log(), Vec::<String>::new());

        node.source(&[NODES, &pod("web", "10.244.0.1")]).await;
        answer.await.unwrap().unwrap();
        assert!(node.status().await.ready);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_is_answered_once_rows_and_programs_are_in_place() {
    on_a_node(async |node| {
        node.source(&[NODES, &pod("web", "10.244.0.1"), &policy("quiet", "web")]).await;
        node.status().await;
        node.log();
        let attached = node.attach("web", 1).await.await.unwrap().unwrap();
        assert_eq!(node.log(), ["apply", "attach 1"]);
        assert!(node.has_row(1));
        assert_eq!(attached.generation, node.kernel(|kernel| kernel.generation));

        let status = node.status().await;
        assert_eq!(status.endpoints[0].name, "shop/web");
        assert_eq!(status.endpoints[0].egress, "open");
        assert_eq!(status.rule_sets[0].policies, ["shop/quiet"]);
        assert_eq!(status.endpoints[0].ingress, status.rule_sets[0].id);
        let endpoint = node
            .call(|reply| Call::Ask(Question::Endpoint(attachment("web"), reply)))
            .await
            .await
            .unwrap()
            .unwrap();
        assert!(endpoint.programs_attached && endpoint.rows_present);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_waits_for_its_pod_and_then_may_try_again() {
    on_a_node(async |node| {
        node.source(&[NODES]).await;
        let began = Instant::now();
        let refusal = node.attach("web", 1).await.await.unwrap().unwrap_err();
        assert_eq!(refusal.fault, Fault::Now);
        assert!(refusal.message.contains("Pod shop/web"), "{}", refusal.message);
        assert!(began.elapsed() >= Duration::from_secs(10));

        let answer = node.attach("web", 1).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        node.source(&[NODES, &pod("web", "10.244.0.1")]).await;
        timeout(Duration::from_millis(1), answer).await.unwrap().unwrap().unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_hung_up_leaves_nothing_behind() {
    on_a_node(async |node| {
        node.source(&[NODES]).await;
        drop(node.attach("web", 1).await);
        node.source(&[NODES, &pod("web", "10.244.0.1")]).await;
        assert!(node.status().await.endpoints.is_empty());
        assert!(!node.has_row(1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_whose_programs_do_not_attach_is_undone_before_the_answer() {
    on_a_node(async |node| {
        node.source(&[NODES, &pod("web", "10.244.0.1")]).await;
        node.kernel(|kernel| kernel.attach_fails = true);
        let refusal = node.attach("web", 1).await.await.unwrap().unwrap_err();
        assert_eq!(refusal.fault, Fault::Now);
        assert!(refusal.message.contains("id-web/eth0: attach program"), "{}", refusal.message);
        assert!(!node.has_row(1));
        assert!(node.status().await.endpoints.is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_interface_that_is_not_the_one_named_is_the_callers_fault() {
    on_a_node(async |node| {
        node.source(&[NODES, &pod("web", "10.244.0.1")]).await;
        let mut wrong = attach("web", 1);
        wrong.host_ifindex = 2;
        let refusal = node.call(|reply| Call::Attach(wrong, reply)).await.await.unwrap().unwrap_err();
        assert_eq!(refusal.fault, Fault::Caller);
        assert!(refusal.message.contains("host_ifindex: 2 is weir2, not weir1"), "{}", refusal.message);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_does_not_fit_leaves_the_last_generation_in_force_and_is_tried_again() {
    on_a_node(async |node| {
        let before = [NODES, &pod("web", "10.244.0.1")];
        node.source(&before).await;
        node.attach("web", 1).await.await.unwrap().unwrap();
        let good = node.status().await;
        let tables = node.kernel(|kernel| kernel.tables.clone());

        node.kernel(|kernel| kernel.room = Some(0));
        node.source(&[before[0], before[1], &policy("quiet", "web")]).await;
        let status = node.status().await;
        assert!(status.last_error.unwrap().contains("map `RULES` is too small"));
        assert_eq!(
            (status.generation, status.source_revision),
            (good.generation, good.source_revision.clone())
        );
        assert!(status.ready);
        assert_eq!(node.kernel(|kernel| kernel.tables.clone()), tables);

        node.kernel(|kernel| kernel.room = None);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let status = node.status().await;
        assert_eq!(status.last_error, None);
        assert_ne!(status.source_revision, good.source_revision);
        assert_ne!(node.kernel(|kernel| kernel.tables.clone()), tables);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_new_agent_whose_first_plan_does_not_fit_lets_the_old_generation_stand_and_says_that_it_is_not_ready()
 {
    on_a_node(async |mut node| {
        let before = [NODES, &pod("web", "10.244.0.1"), &pod("client", "10.244.0.2")];
        node.source(&before).await;
        node.attach("web", 1).await.await.unwrap().unwrap();
        node.stop().await;
        let tables = node.kernel(|kernel| kernel.tables.clone());

        node.kernel(|kernel| kernel.room = Some(0));
        node.start();
        node.source(&[&before[..], &[&policy("quiet", "web")]].concat()).await;
        let status = node.status().await;
        assert!(!status.ready && status.last_error.is_some(), "{status:?}");
        assert_eq!(node.kernel(|kernel| kernel.tables.clone()), tables, "what was in force");
        // Nobody new before what they are to be judged by.
        let refusal = node.attach("client", 2).await.await.unwrap().unwrap_err();
        assert_eq!(refusal.fault, Fault::Now, "{}", refusal.message);

        node.kernel(|kernel| kernel.room = None);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(node.status().await.ready);
        node.attach("client", 2).await.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_event_is_measured_until_it_is_in_force_also_where_a_plan_has_failed_first() {
    on_a_node(async |node| {
        let measured = async || {
            let numbers = node.call(|reply| Call::Ask(Question::Numbers(reply))).await.await.unwrap();
            let text = numbers.unwrap().text();
            let mut counts = text.lines().filter_map(|line| line.strip_prefix("weir_event_seconds_count"));
            counts.next().map(str::to_owned)
        };
        let source = [NODES, &pod("web", "10.244.0.1")];
        node.source(&source).await;
        node.attach("web", 1).await.await.unwrap().unwrap();
        assert_eq!(measured().await, None, "a list is no event");

        node.kernel(|kernel| kernel.room = Some(0));
        let mut update =
            node.script.borrow_mut().read(&[source[0], source[1], &policy("quiet", "web")].concat());
        update.arrived = Some(Arrival { kind: policy::Kind::NetworkPolicy, at: std::time::Instant::now() });
        node.send(Event::Source(update)).await;
        assert_eq!(measured().await, None, "not in force yet");
        node.kernel(|kernel| kernel.room = None);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(measured().await.as_deref(), Some("{kind=\"NetworkPolicy\"} 1"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn plans_that_fail_are_counted_and_show_while_they_do() {
    on_a_node(async |node| {
        let numbers = async |lines: [&str; 2]| {
            let numbers = node.call(|reply| Call::Ask(Question::Numbers(reply))).await.await.unwrap();
            let text = numbers.unwrap().text();
            for line in lines {
                assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
            }
        };
        let source = [NODES, &pod("web", "10.244.0.1")];
        node.source(&source).await;
        node.attach("web", 1).await.await.unwrap().unwrap();
        numbers(["weir_plans_failed_total 0", "weir_plan_failing 0"]).await;
        node.kernel(|kernel| kernel.room = Some(0));
        node.source(&[source[0], source[1], &policy("quiet", "web")]).await;
        numbers(["weir_plans_failed_total 1", "weir_plan_failing 1"]).await;
        node.kernel(|kernel| kernel.room = None);
        tokio::time::sleep(Duration::from_secs(3)).await;
        numbers(["weir_plans_failed_total 1", "weir_plan_failing 0"]).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_broke_off_is_taken_up_from_what_the_maps_hold() {
    on_a_node(async |node| {
        let before = [NODES, &pod("web", "10.244.0.1"), &pod("client", "10.244.0.2")];
        node.source(&before).await;
        node.attach("web", 1).await.await.unwrap().unwrap();
        node.kernel(|kernel| kernel.breaks_after = Some(1));
        node.source(&[before[0], before[1], before[2], &policy("quiet", "web")]).await;
        assert!(node.status().await.last_error.unwrap().contains("write map `RULES`"));
        assert!(node.kernel(|kernel| !kernel.tables.rules.is_empty()), "one write arrived");

        node.kernel(|kernel| kernel.breaks_after = None);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let status = node.status().await;
        assert_eq!(status.last_error, None);
        assert_eq!(status.rule_sets[0].policies, ["shop/quiet"]);
        assert_eq!(status.rule_sets[0].endpoints, 1);
        node.kernel(|kernel| assert_eq!(kernel.tables.rules.len(), status.rule_sets[0].rows));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_new_agent_finds_everything_as_it_should_be() {
    on_a_node(async |mut node| {
        let source = [NODES, &pod("web", "10.244.0.1"), &policy("quiet", "web")];
        node.source(&source).await;
        node.attach("web", 1).await.await.unwrap().unwrap();
        node.stop().await;
        node.log();

        node.start();
        node.source(&source).await;
        let status = node.status().await;
        assert!(status.ready);
        assert_eq!(status.endpoints[0].name, "shop/web");
        assert_eq!(node.log(), Vec::<String>::new(), "the plan is empty, and nothing is attached again");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_new_agent_lets_go_of_what_vanished_while_none_was_there() {
    on_a_node(async |mut node| {
        let source = [NODES, &pod("web", "10.244.0.1"), &pod("client", "10.244.0.2")];
        node.source(&source).await;
        node.attach("web", 1).await.await.unwrap().unwrap();
        node.attach("client", 2).await.await.unwrap().unwrap();
        node.stop().await;
        node.kernel(|kernel| drop(kernel.interfaces.remove(&1)));
        node.log();

        node.start();
        node.source(&source).await;
        assert_eq!(node.status().await.endpoints.len(), 1);
        assert_eq!(node.log(), ["detach 1", "apply"]);
        assert!(!node.has_row(1) && node.has_row(2));
        assert_eq!(std::fs::read_dir(node.folder.path().join("endpoints")).unwrap().count(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rows_leave_at_once_and_programs_with_their_interface() {
    on_a_node(async |node| {
        node.source(&[NODES, &pod("web", "10.244.0.1")]).await;
        node.attach("web", 1).await.await.unwrap().unwrap();
        node.log();
        assert!(node.detach("web").await.existed);
        assert_eq!(node.log(), ["apply"], "the programs go on dropping what the pod still sends");
        assert!(!node.has_row(1));
        assert!(!node.detach("web").await.existed);

        node.kernel(|kernel| drop(kernel.interfaces.remove(&1)));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(node.log(), ["detach 1"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn whatever_the_runtime_does_not_list_is_collected() {
    on_a_node(async |node| {
        node.source(&[NODES, &pod("web", "10.244.0.1"), &pod("client", "10.244.0.2")]).await;
        node.attach("web", 1).await.await.unwrap().unwrap();
        node.attach("client", 2).await.await.unwrap().unwrap();
        for removed in [vec![attachment("web")], Vec::new()] {
            let valid = Valid { attachments: vec![attachment("client")] };
            let collected = node.call(|reply| Call::Collect(valid, reply)).await.await.unwrap().unwrap();
            assert_eq!(collected.removed, removed);
        }
        assert!(!node.has_row(1) && node.has_row(2));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn endpoints_whose_interface_is_gone_are_reconciled() {
    on_a_node(async |node| {
        node.source(&[NODES, &pod("web", "10.244.0.1"), &pod("client", "10.244.0.2")]).await;
        node.attach("web", 1).await.await.unwrap().unwrap();
        node.attach("client", 2).await.await.unwrap().unwrap();
        node.kernel(|kernel| {
            kernel.interfaces.remove(&1);
            kernel.attached.remove(&2);
        });
        node.send(Event::Reconcile).await;
        assert_eq!(node.status().await.endpoints.len(), 1);
        assert!(!node.has_row(1));
        assert!(node.kernel(|kernel| kernel.attached.contains(&2)), "mended");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_address_that_a_dead_endpoint_had_can_be_given_away_again() {
    on_a_node(async |node| {
        node.source(&[NODES, &pod("web", "10.244.0.1"), &pod("client", "10.244.0.1")]).await;
        node.attach("web", 1).await.await.unwrap().unwrap();
        let mut successor = attach("client", 2);
        successor.ips = vec![ip(1)];
        let taken =
            node.call(|reply| Call::Attach(successor.clone(), reply)).await.await.unwrap().unwrap_err();
        assert!(taken.message.contains("id-web/eth0"), "{}", taken.message);

        node.kernel(|kernel| drop(kernel.interfaces.remove(&1)));
        node.call(|reply| Call::Attach(successor, reply)).await.await.unwrap().unwrap();
        assert_eq!(node.status().await.endpoints.len(), 1);
        assert!(node.has_row(1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn programs_are_moved_to_their_final_place_when_no_pod_comes_or_goes() {
    on_a_node(async |node| {
        node.source(&[NODES, &pod("web", "10.244.0.1"), &pod("db", "10.244.0.2")]).await;
        node.attach("web", 1).await.await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(900)).await;
        node.attach("db", 2).await.await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(900)).await;
        node.status().await;
        assert!(node.kernel(|kernel| kernel.settled.is_empty()), "a pod came less than a second ago");
        tokio::time::sleep(Duration::from_millis(200)).await;
        node.status().await;
        assert_eq!(node.kernel(|kernel| kernel.settled.len()), 2);
    })
    .await;
}

/// One exchange on the real socket, as `curl --unix-socket` does it: status line and body.
async fn exchange(socket: &Path, request: &str, body: &str) -> (String, String) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let length = body.len();
    let head =
        format!("{request} HTTP/1.1\r\nhost: weir\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[tokio::test(start_paused = true)]
async fn an_explanation_says_where_the_maps_lag_behind() {
    on_a_node(async |node| {
        let explain = async || {
            let query =
                api::ExplainQuery { from: "shop/db".into(), to: "shop/web".into(), port: "80".into() };
            node.call(|reply| Call::Ask(Question::Explain(query, reply))).await.await.unwrap()
        };
        assert_eq!(explain().await.unwrap_err().fault, Fault::Now);

        let pods = [NODES, &pod("web", "10.244.0.1"), &pod("db", "10.244.0.2")].concat();
        node.source(&[&pods]).await;
        node.attach("web", 1).await.await.unwrap().unwrap();
        node.source(&[&pods, &policy("quiet", "web")]).await;
        let [answer] = explain().await.unwrap().try_into().unwrap();
        assert_eq!((answer.verdict, answer.notes.as_slice()), (VerdictKind::Denied, [].as_slice()));
        let nearest = answer.ingress.nearest.unwrap();
        assert_eq!(
            (nearest.rule.policy.as_str(), nearest.rule.path.as_str()),
            ("shop/quiet", "spec.ingress[0]")
        );

        // The policy goes, and its rows may not.
        node.kernel(|kernel| kernel.room = Some(0));
        node.source(&[&pods]).await;
        let [answer] = explain().await.unwrap().try_into().unwrap();
        assert_eq!(answer.verdict, VerdictKind::Allowed);
        assert!(answer.notes[0].starts_with("ingress is still denied in the maps of node-0: "), "{answer:?}");
        assert!(answer.notes[0].contains("too small"), "{answer:?}");
    })
    .await;
}

#[tokio::test]
async fn the_socket_speaks_as_the_api_says() {
    on_a_node(async |node| {
        let path = node.folder.path().join("agent.sock");
        let socket = Socket::bind(&path).unwrap();
        spawn_local(socket.serve(node.agent.as_ref().unwrap().0.clone()));
        node.source(&[NODES, &pod("web", "10.244.0.1")]).await;

        let web = serde_json::to_string(&attach("web", 1)).unwrap();
        let (status, body) = exchange(&path, "PUT /v1/endpoints", &web).await;
        assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 200 OK", "{\"generation\":1}"));
        let (_, body) = exchange(&path, "GET /v1/endpoints/id-web/eth0", "").await;
        assert!(serde_json::from_str::<api::Endpoint>(&body).unwrap().programs_attached);
        let (_, body) = exchange(&path, "GET /v1/status", "").await;
        assert_eq!(serde_json::from_str::<Status>(&body).unwrap().endpoints.len(), 1);
        let (_, body) = exchange(&path, "POST /v1/gc", r#"{"attachments":[]}"#).await;
        assert_eq!(serde_json::from_str::<api::Collected>(&body).unwrap().removed, [attachment("web")]);
        let (_, body) = exchange(&path, "DELETE /v1/endpoints/id-web/eth0", "").await;
        assert_eq!(body, r#"{"existed":false}"#);
        let (_, body) = exchange(&path, "GET /v1/explain?from=shop%2Fweb&to=8.8.8.8&port=53%2Fudp", "").await;
        assert_eq!(serde_json::from_str::<Vec<api::Explanation>>(&body).unwrap()[0].protocol, "UDP");
        assert_eq!(exchange(&path, "GET /v1/flows", "").await, ("HTTP/1.1 200 OK".into(), String::new()));

        for (request, body, expected, says) in [
            ("GET /v1/endpoints/id-web/eth0", "", "404 Not Found", "no endpoint id-web/eth0"),
            ("PUT /v1/endpoints", "{}", "400 Bad Request", "missing field `container_id`"),
            ("GET /v1/flows?port=http", "", "400 Bad Request", "port=http"),
            ("GET /v1/explain?from=a&to=b", "", "400 Bad Request", "port is missing"),
            ("GET /v1/explain?from=shop/web&to=8.8.8.8&port=x", "", "400 Bad Request", "--port x: "),
            ("PATCH /v1/status", "", "404 Not Found", "no call PATCH /v1/status"),
        ] {
            let (status, body) = exchange(&path, request, body).await;
            assert_eq!(status, format!("HTTP/1.1 {expected}"));
            let error: api::Error = serde_json::from_str(&body).unwrap();
            assert!(error.message.contains(says) && !error.transient, "{error:?}");
        }
    })
    .await;
}

mod upkeep;
