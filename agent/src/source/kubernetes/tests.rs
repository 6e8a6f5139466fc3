//! The source against an API server that misbehaves.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ::kubernetes::fake::FakeApi;
use policy::{Kind, Object, ObjectKey, Warning};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use super::{Access, Change, follow};
use crate::event::{Call, Event, Question};
use crate::records::Records;
use crate::run::Agent;
use crate::testing::{Folder, MemoryDatapath, NODES, pod, policy};

/// What the agent has been told.
struct Told {
    events: mpsc::Receiver<Event>,
    objects: BTreeMap<ObjectKey, (Object, Vec<Warning>)>,
    /// Each change, as `+NAME` and `-NAME`.
    changes: Vec<String>,
    complete: bool,
    complaints: BTreeMap<&'static str, Vec<String>>,
    /// Of how many events it was said when they arrived.
    arrivals: Vec<Kind>,
}

impl Told {
    fn by(api: &FakeApi) -> Self {
        Self::with(Access::by_url(&api.url, Path::new("/nowhere"), Path::new("/nowhere")).unwrap())
    }

    fn with(access: Access) -> Self {
        let (sender, events) = mpsc::channel(16);
        drop(follow(access, "node-0".into(), sender));
        Self {
            events,
            objects: BTreeMap::new(),
            changes: Vec::new(),
            complete: false,
            complaints: BTreeMap::new(),
            arrivals: Vec::new(),
        }
    }

    /// Listens until it is so.
    async fn until(&mut self, what: &str, so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !so(self) {
            let event = tokio::time::timeout_at(deadline, self.events.recv()).await;
            let event = event.unwrap_or_else(|_| {
                panic!("not told in time: {what}; changes {:?}, {:?}", self.changes, self.complaints)
            });
            self.hear(event.unwrap());
        }
    }

    /// Listens for so long.
    async fn listen(&mut self, ms: u64) {
        let deadline = Instant::now() + Duration::from_millis(ms);
        while let Ok(event) = tokio::time::timeout_at(deadline, self.events.recv()).await {
            self.hear(event.unwrap());
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Source(update) => {
                assert!(!self.complete || update.complete, "complete for good");
                self.complete = update.complete;
                self.arrivals.extend(update.arrived.map(|arrival| arrival.kind));
                for change in update.changes {
                    match change {
                        Change::Apply(object, warnings) => {
                            self.changes.push(format!("+{}", object.name()));
                            self.objects.insert(object.key(), (object, warnings));
                        }
                        Change::Delete(key) => {
                            self.changes.push(format!("-{}", key.name));
                            self.objects.remove(&key);
                        }
                    }
                }
            }
            Event::Complaints { part, complaints } => drop(self.complaints.insert(part, complaints)),
            _ => panic!("a source tells of objects and of trouble"),
        }
    }

    fn names(&self) -> Vec<&str> {
        self.objects.keys().map(|key| key.name.as_str()).collect()
    }

    fn complaints(&self) -> Vec<&str> {
        self.complaints.values().flatten().map(String::as_str).collect()
    }
}

/// A server with a node, a namespace and a pod elsewhere, of which everything has been told.
async fn told(test: impl AsyncFnOnce(FakeApi, Told)) {
    let local = LocalSet::new();
    let run = local.run_until(async {
        let api = FakeApi::start().await;
        for document in NODES.split("---") {
            api.put(document);
        }
        api.put(&elsewhere("db", "10.244.1.1"));
        let mut told = Told::by(&api);
        told.until("everything", |told| told.complete).await;
        told.changes.clear();
        test(api, told).await;
    });
    timeout(Duration::from_secs(60), run).await.expect("the test ends");
}

fn elsewhere(name: &str, ip: &str) -> String {
    pod(name, ip).replace("nodeName: node-0", "nodeName: node-1")
}

fn lists(api: &FakeApi) -> usize {
    api.cluster().requests.iter().filter(|request| request.contains("limit=")).count()
}

#[tokio::test]
async fn what_a_watch_tells_says_when_it_arrived_and_a_list_does_not() {
    told(async |api, mut told| {
        assert!(told.arrivals.is_empty(), "of a list: {:?}", told.arrivals);
        api.put(&elsewhere("web", "10.244.1.2"));
        told.until("a pod", |told| told.names().contains(&"web")).await;
        assert_eq!(told.arrivals, [Kind::Pod]);
    })
    .await;
}

#[tokio::test]
async fn nothing_is_complete_before_every_kind_is_listed_to_its_last_page() {
    let test = async {
        let api = FakeApi::start().await;
        api.set(|cluster| {
            cluster.page = Some(2);
            cluster.forbidden = Some("services");
        });
        for index in 1..8 {
            api.put(&elsewhere(&format!("pod-{index}"), &format!("10.244.1.{index}")));
        }
        let mut told = Told::by(&api);
        told.until("a complaint", |told| !told.complaints().is_empty()).await;
        told.until("what is known, which goes ahead", |told| told.names().len() == 7).await;
        told.listen(300).await;
        assert!(!told.complete);
        let [complaint] = told.complaints()[..] else { panic!("{:?}", told.complaints()) };
        assert!(
            complaint.starts_with("API server, Services: 403 Forbidden: services is forbidden ("),
            "{complaint}"
        );
        assert!(complaint.contains("must allow list and watch"), "{complaint}");
        api.set(|cluster| cluster.forbidden = None);
        told.until("the rest", |told| told.complete && told.complaints().is_empty()).await;
        let requests = api.cluster().requests.clone();
        let first = |what: &str| requests.iter().rposition(|request| request.contains(what)).unwrap();
        assert!(first("pods?limit=250&continue=6") < first("networkpolicies?limit"), "{requests:?}");
        assert!(first("pods?limit=250&continue=6") < first("namespaces?limit"), "{requests:?}");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn changes_are_told_as_they_happen_and_once() {
    told(async |api, mut told| {
        api.put(&elsewhere("web", "10.244.1.2"));
        api.put(&elsewhere("web", "10.244.1.3"));
        api.put(&policy("quiet", "web"));
        told.until("the policy", |told| told.changes.len() == 3).await;
        api.delete("Pod", "shop", "web");
        told.until("its end", |told| told.changes.contains(&"-web".to_owned())).await;
        assert_eq!(told.names(), ["shop", "node-0", "db", "quiet"]);
        assert_eq!(told.changes.len(), 4);
    })
    .await;
}

#[tokio::test]
async fn a_watch_that_is_cut_off_is_taken_up_where_it_was() {
    told(async |api, mut told| {
        let listed = lists(&api);
        api.cut();
        api.put(&elsewhere("web", "10.244.1.2"));
        told.until("what came meanwhile", |told| told.names().contains(&"web")).await;
        assert_eq!(told.changes, ["+web"]);
        assert_eq!(lists(&api), listed, "nothing is listed again");
        assert_eq!(told.complaints(), [""; 0]);
    })
    .await;
}

#[tokio::test]
async fn a_lost_place_is_found_by_a_list_and_only_differences_are_told() {
    told(async |api, mut told| {
        api.put(&elsewhere("web", "10.244.1.2"));
        told.until("web", |told| told.names().contains(&"web")).await;
        told.changes.clear();
        api.mute(&Kind::ALL.map(Kind::as_str));
        api.delete("Pod", "shop", "db");
        api.put(&elsewhere("new", "10.244.1.4"));
        api.compact();
        api.cut();
        told.until("the difference", |told| told.changes.len() == 2).await;
        told.listen(300).await;
        assert_eq!(told.changes, ["+new", "-db"]);
        assert_eq!(told.names(), ["shop", "node-0", "new", "web"]);
    })
    .await;
}

#[tokio::test]
async fn a_list_that_breaks_off_changes_nothing() {
    told(async |api, mut told| {
        api.set(|cluster| {
            cluster.mute.extend(Kind::ALL.map(Kind::as_str));
            cluster.page = Some(1);
            cluster.half_lists = true;
        });
        api.delete("Pod", "shop", "db");
        for name in ["a", "b", "c"] {
            api.put(&elsewhere(name, "10.244.1.9"));
        }
        api.compact();
        api.cut();
        told.until("the trouble", |told| told.complaints.get("Pod").is_some_and(|all| !all.is_empty())).await;
        told.listen(500).await;
        assert_eq!(told.changes, [""; 0]);
        assert!(told.complaints()[0].ends_with("; what was known stays in force"), "{:?}", told.complaints());
        api.set(|cluster| cluster.half_lists = false);
        told.until("all at once", |told| !told.changes.is_empty()).await;
        assert_eq!(told.changes, ["+a", "+b", "+c", "-db"]);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_gone_changes_nothing_and_is_found_again() {
    told(async |api, mut told| {
        api.set(|cluster| cluster.gone = true);
        api.cut();
        told.until("the trouble", |told| told.complaints().len() == Kind::ALL.len()).await;
        told.listen(500).await;
        assert_eq!(told.changes, [""; 0]);
        let requests = api.cluster().requests.len();
        told.listen(1000).await;
        let requests = api.cluster().requests.len() - requests;
        assert!(requests < 6 * Kind::ALL.len(), "{requests} requests in a second");

        api.set(|cluster| cluster.gone = false);
        api.put(&elsewhere("web", "10.244.1.2"));
        told.until("what came meanwhile", |told| told.changes == ["+web"]).await;
        told.until("no more trouble", |told| told.complaints().is_empty()).await;
    })
    .await;
}

#[tokio::test]
async fn a_pod_of_this_node_waits_for_the_policies_that_are_older_than_it() {
    told(async |api, mut told| {
        api.mute(&["NetworkPolicy"]);
        api.put(&policy("quiet", "web"));
        // Scheduled later, as pods are.
        api.put(&pod("web", "10.244.0.1").replace("nodeName: node-0, ", ""));
        api.put(&pod("web", "10.244.0.1"));
        api.put(&elsewhere("other", "10.244.1.2"));
        told.until("a pod of another node", |told| told.changes == ["+other"]).await;
        told.listen(1500).await;
        assert_eq!(told.changes, ["+other"], "the policy is still on its way");
        api.unmute("NetworkPolicy");
        told.until("the pod", |told| told.names().contains(&"web")).await;
        assert_eq!(told.changes, ["+other", "+quiet", "+web"]);

        // Known once, it waits no more.
        api.mute(&["NetworkPolicy"]);
        api.put(&policy("louder", "web"));
        api.put(&pod("web", "10.244.0.7"));
        told.until("its new address", |told| told.changes.len() == 4).await;
        assert_eq!(told.changes[3], "+web");
    })
    .await;
}

#[tokio::test]
async fn a_pod_of_this_node_waits_for_a_policy_that_is_gone_and_for_its_namespace() {
    told(async |api, mut told| {
        api.put(&policy("quiet", "web"));
        told.until("the policy", |told| told.changes == ["+quiet"]).await;
        api.mute(&["NetworkPolicy", "Namespace"]);
        api.delete("NetworkPolicy", "shop", "quiet");
        api.put("apiVersion: v1\nkind: Namespace\nmetadata: { name: shop, labels: { open: 'yes' } }\n");
        api.put(&pod("web", "10.244.0.1"));
        told.listen(300).await;
        api.unmute("NetworkPolicy");
        told.until("the policy's end", |told| told.changes == ["+quiet", "-quiet"]).await;
        told.listen(300).await;
        assert!(!told.names().contains(&"web"));
        Kind::ALL.into_iter().for_each(|kind| api.unmute(kind.as_str()));
        told.until("the pod", |told| told.names().contains(&"web")).await;
        assert_eq!(told.changes, ["+quiet", "-quiet", "+shop", "+web"]);
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_leaves_while_it_waits_is_never_told() {
    told(async |api, mut told| {
        api.mute(&["NetworkPolicy"]);
        api.put(&policy("quiet", "web"));
        api.put(&pod("web", "10.244.0.1"));
        told.listen(200).await;
        api.delete("Pod", "shop", "web");
        told.until("its end", |told| told.changes == ["-web"]).await;
        Kind::ALL.into_iter().for_each(|kind| api.unmute(kind.as_str()));
        told.listen(300).await;
        assert_eq!(told.changes, ["-web", "+quiet"]);
    })
    .await;
}

#[tokio::test]
async fn objects_are_trimmed_to_what_the_compiler_reads() {
    told(async |api, mut told| {
        let image = "image: none, env: [{ name: SECRET, value: long }],";
        api.put(&elsewhere("web", "10.244.1.2").replace("image: none,", image));
        api.put(&policy("quiet", "web").replace("  ingress:", "  tomorrow: true\n  ingress:"));
        told.until("both", |told| told.changes.len() == 2).await;
        for (object, _) in told.objects.values() {
            assert_eq!(object.metadata().managed_fields, None, "{object:?}");
        }
        let mut objects = told.objects.values();
        let (web, _) = objects.find(|(object, _)| object.name() == "web").unwrap();
        let Object::Pod(web) = web else { panic!("{web:?}") };
        let [container] = web.spec.as_ref().unwrap().containers.as_slice() else { panic!("{web:?}") };
        assert_eq!((container.env.as_ref(), container.ports.as_ref().unwrap()[0].container_port), (None, 80));
        assert_eq!(web.status.as_ref().unwrap().pod_ips.as_ref().unwrap()[0].ip, "10.244.1.2");
        let (_, warnings) = objects.next_back().unwrap();
        assert_eq!(warnings[0].to_string(), "NetworkPolicy shop/quiet: spec.tomorrow: unknown field");
    })
    .await;
}

#[tokio::test]
async fn an_object_that_cannot_be_read_stays_as_it_was_and_holds_nothing_up() {
    told(async |api, mut told| {
        let quiet = policy("quiet", "web");
        api.put(&quiet);
        told.until("the policy", |told| told.changes == ["+quiet"]).await;
        api.corrupt("NetworkPolicy", "quiet", |value| value["metadata"]["labels"] = "none".into());
        told.until("the trouble", |told| !told.complaints().is_empty()).await;
        assert!(
            told.complaints()[0].starts_with("NetworkPolicy shop/quiet: metadata.labels: "),
            "{:?}",
            told.complaints()
        );
        api.put(&pod("web", "10.244.0.1"));
        told.until("the pod", |told| told.changes == ["+quiet", "+web"]).await;
        api.put(&quiet);
        told.until("the policy again", |told| told.changes.len() == 3 && told.complaints().is_empty()).await;
    })
    .await;
}

/// As `weir-agent` prints it.
fn told_whole(error: ::kubernetes::Error) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

#[tokio::test]
async fn a_kubeconfig_leads_to_the_server_and_a_bad_one_is_named() {
    let folder = Folder::new();
    let file = folder.path().join("agent.kubeconfig");
    let error = |refused: Result<Access, ::kubernetes::Error>| told_whole(refused.err().unwrap());
    let named = format!("--kubeconfig {}: ", file.display());
    assert!(error(Access::by_kubeconfig(&file).await).starts_with(&named));
    std::fs::write(&file, "clusters: nonsense").unwrap();
    assert!(error(Access::by_kubeconfig(&file).await).starts_with(&named));

    let kubeconfig = |server: &str| {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{ name: test, cluster: {{ server: '{server}' }} }}]\n\
             users: [{{ name: test, user: {{ token: secret }} }}]\n\
             contexts: [{{ name: test, context: {{ cluster: test, user: test }} }}]\n"
        )
    };
    std::fs::write(&file, kubeconfig("https://192.0.2.10:6443")).unwrap();
    Access::by_kubeconfig(&file).await.unwrap();

    let test = async {
        let api = FakeApi::start().await;
        std::fs::write(&file, kubeconfig(&api.url)).unwrap();
        let mut told = Told::with(Access::by_kubeconfig(&file).await.unwrap());
        told.until("everything there is: nothing", |told| told.complete).await;
    };
    LocalSet::new().run_until(test).await;
}

#[test]
fn what_is_no_address_of_an_api_server_is_said() {
    let error = |url: &str| {
        let refused = Access::by_url(url, Path::new("/nowhere/token"), Path::new("/nowhere/ca.crt"));
        told_whole(refused.err().unwrap())
    };
    assert!(
        error("192.0.2.10:6443").starts_with("--api-server 192.0.2.10:6443: expected for example https://")
    );
    assert!(error("https://192.0.2.10:6443").starts_with("--token-file /nowhere/token: "));
    let empty = Folder::new();
    let file = empty.path().join("ca.crt");
    std::fs::write(&file, "nothing").unwrap();
    let refused = Access::by_url("https://192.0.2.10:6443", &file, &file).err().unwrap();
    assert_eq!(
        told_whole(refused),
        format!("--ca-file {}: no root trust anchors were provided", file.display())
    );
}

/// The loop itself, with the kernel in memory.
#[tokio::test]
async fn an_endpoint_is_taken_in_with_its_policies_and_no_silence_of_the_server_changes_that() {
    let test = async {
        let api = FakeApi::start().await;
        NODES.split("---").for_each(|document| api.put(document));
        let folder = Folder::new();
        let datapath = MemoryDatapath::default();
        datapath.kernel.borrow_mut().interfaces.insert(1, "weir1".into());
        let records = Records::load(folder.path().join("endpoints")).unwrap();
        let agent = Agent::new("node-0", datapath.reopened(), records, watch::Sender::default());
        let (events, queue) = mpsc::channel(256);
        spawn_local(agent.run(queue));
        let access = Access::by_url(&api.url, Path::new("/nowhere"), Path::new("/nowhere")).unwrap();
        drop(follow(access, "node-0".into(), events.clone()));
        let status = async || {
            let (reply, answer) = oneshot::channel();
            events.send(Event::Call(Call::Ask(Question::Status(reply)))).await.unwrap();
            answer.await.unwrap().unwrap()
        };
        while !status().await.ready {
            sleep(Duration::from_millis(20)).await;
        }

        api.mute(&["NetworkPolicy"]);
        api.put(&policy("quiet", "web"));
        api.put(&pod("web", "10.244.0.1"));
        let (reply, mut answer) = oneshot::channel();
        let attach = ::api::Attach {
            container_id: "id-web".into(),
            ifname: "eth0".into(),
            netns: "/proc/1/ns/net".into(),
            pod: Some(::api::PodRef { namespace: "shop".into(), name: "web".into(), uid: None }),
            host_ifname: "weir1".into(),
            host_ifindex: 1,
            ips: vec!["10.244.0.1".parse().unwrap()],
            mac: None,
            port_mappings: Vec::new(),
            ingress_limited: false,
        };
        events.send(Event::Call(Call::Attach(attach, reply))).await.unwrap();
        sleep(Duration::from_millis(500)).await;
        assert!(answer.try_recv().is_err(), "the pod's policy is still on its way");
        api.unmute("NetworkPolicy");
        timeout(Duration::from_secs(5), answer).await.unwrap().unwrap().unwrap();
        let before = status().await;
        assert_eq!(before.rule_sets[0].policies, ["shop/quiet"]);
        assert_eq!(before.endpoints[0].ingress, before.rule_sets[0].id);

        let tables = datapath.kernel.borrow().tables.clone();
        api.set(|cluster| cluster.gone = true);
        api.cut();
        let complains =
            |status: &::api::Status| status.problems.iter().any(|it| it.starts_with("API server, Pods: "));
        let mut after = status().await;
        while !complains(&after) {
            sleep(Duration::from_millis(20)).await;
            after = status().await;
        }
        assert!(after.ready);
        assert_eq!((after.generation, after.endpoints.len()), (before.generation, 1));
        assert_eq!(datapath.kernel.borrow().tables, tables);
    };
    timeout(Duration::from_secs(60), LocalSet::new().run_until(test)).await.expect("the test ends");
}

mod certificates;
