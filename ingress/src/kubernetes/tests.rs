//! The source against an API server that misbehaves, and what is written back to it.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use kubernetes::Access;
use kubernetes::fake::FakeApi;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, LocalSet};

use super::*;
use crate::compile::Settings;
use crate::proxy::{Shared, Tuning};

const OBJECTS: &str = "\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: web, namespace: shop }
spec:
  ingressClassName: weir
  rules: [{ host: a.b, http: { paths: [{ path: /, pathType: Prefix, backend: { service: { name: web, port: { number: 80 } } } }] } }]
---
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec: { ports: [{ port: 80 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: web-1, namespace: shop, labels: { kubernetes.io/service-name: web } }
addressType: IPv4
ports: [{ port: 3000 }]
endpoints: [{ addresses: [10.0.0.1] }]
---
apiVersion: v1
kind: Pod
metadata: { name: one, namespace: weir-system, labels: { app.kubernetes.io/name: weir-ingress } }
status: { hostIP: 192.0.2.1, conditions: [{ type: Ready, status: 'True' }] }
";

/// One replica.
struct Replica {
    shared: Arc<Shared>,
    progress: Rc<RefCell<Vec<Option<String>>>>,
    ending: watch::Sender<Option<Ending>>,
    task: JoinHandle<()>,
}

impl Replica {
    fn start(api: &FakeApi, name: &str) -> Self {
        let shared = Arc::new(Shared::new(Tuning::default(), None));
        let serving = Serving::new(Settings::default(), Arc::clone(&shared));
        let access = Access::by_url(&api.url, Path::new("/nowhere"), Path::new("/nowhere")).unwrap();
        let (ending, told) = watch::channel(None);
        let options = Options {
            identity: Identity {
                name: name.into(),
                namespace: "weir-system".into(),
                lease: "weir-ingress".into(),
            },
            publish: Publish {
                addresses: Vec::new(),
                service: None,
                pods: "app.kubernetes.io/name=weir-ingress".into(),
                keep: false,
            },
            ending: told,
        };
        let progress = Rc::new(RefCell::new(Vec::new()));
        let heard = Rc::clone(&progress);
        let tell = move |missing| heard.borrow_mut().push(missing);
        let task = spawn_local(follow(Api::new(access), options, serving, tell));
        Self { shared, progress, ending, task }
    }

    fn serves(&self) -> bool {
        self.progress.borrow().last() == Some(&None)
    }

    async fn end(self) {
        self.ending.send_replace(Some(Ending::ForGood));
        self.task.await.unwrap();
    }
}

fn put(api: &FakeApi, yaml: &str) {
    yaml.split("---\n").for_each(|document| api.put(document));
}

async fn test(run: impl AsyncFnOnce(FakeApi)) {
    let run = async { run(FakeApi::start().await).await };
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, LocalSet::new().run_until(run)).await.expect("the test ends");
}

async fn eventually(mut so: impl FnMut() -> bool) {
    while !so() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn shown(api: &FakeApi, name: &str) -> Value {
    let cluster = api.cluster();
    cluster.object("Ingress", "shop", name).unwrap()["status"]["loadBalancer"]["ingress"].clone()
}

#[tokio::test]
async fn nothing_is_served_before_the_first_list_of_every_kind_is_whole_and_a_relist_that_breaks_off_changes_nothing()
 {
    test(async |api| {
        put(&api, OBJECTS);
        api.set(|cluster| cluster.forbidden = Some("secrets"));
        let replica = Replica::start(&api, "one");
        let waits = |it: &Option<String>| {
            it.as_ref().is_some_and(|it| it.starts_with("waiting for the first list of: Secret\n"))
        };
        eventually(|| replica.progress.borrow().last().is_some_and(waits)).await;
        let said = replica.progress.borrow().last().unwrap().clone().unwrap();
        assert!(said.contains("API server, Secrets: 403 Forbidden"), "{said}");
        assert_eq!(replica.shared.rules(), 0);

        api.set(|cluster| cluster.forbidden = None);
        eventually(|| replica.serves() && replica.shared.rules() == 1).await;

        api.set(|cluster| (cluster.half_lists, cluster.page) = (true, Some(1)));
        put(
            &api,
            &OBJECTS.split("---\n").next().unwrap().replace("name: web, namespace", "name: more, namespace"),
        );
        eventually(|| replica.shared.rules() == 1 && shown(&api, "web") != Value::Null).await;
        api.compact();
        api.cut();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(replica.shared.rules(), 1, "half of a list is no list");
        api.set(|cluster| cluster.half_lists = false);
        api.delete("Ingress", "shop", "web");
        api.delete("Ingress", "shop", "more");
        eventually(|| replica.shared.rules() == 0).await;
    })
    .await;
}

#[tokio::test]
async fn endpoints_change_without_a_look_at_rules_and_what_is_written_back_is_no_change() {
    test(async |api| {
        put(&api, OBJECTS);
        let replica = Replica::start(&api, "one");
        eventually(|| shown(&api, "web") == json!([{ "ip": "192.0.2.1" }])).await;
        let endpoints = || {
            let text = replica.shared.metrics().text();
            let line = text.lines().find(|line| line.starts_with("weir_ingress_generation ")).unwrap();
            line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
        };
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = endpoints();
        let slice = OBJECTS.split("---\n").nth(2).unwrap();
        put(&api, &slice.replace("10.0.0.1", "10.0.0.2"));
        eventually(|| endpoints() == before + 1).await;
        assert_eq!(replica.shared.backends()[0].endpoints[0].address, "10.0.0.2:3000".parse().unwrap());
        assert_eq!(replica.shared.rules(), 1);
    })
    .await;
}

#[tokio::test]
async fn one_replica_writes_the_status_the_next_goes_on_and_the_last_takes_it_back() {
    test(async |api| {
        put(&api, OBJECTS);
        let one = Replica::start(&api, "one");
        eventually(|| shown(&api, "web") == json!([{ "ip": "192.0.2.1" }])).await;
        put(
            &api,
            &OBJECTS.split("---\n").nth(3).unwrap().replace("one", "two").replace("192.0.2.1", "192.0.2.2"),
        );
        let two = Replica::start(&api, "two");
        eventually(|| two.serves()).await;
        api.delete("Pod", "weir-system", "one");
        one.end().await;
        let holder = || {
            let cluster = api.cluster();
            let lease = cluster.object("Lease", "weir-system", "weir-ingress").unwrap();
            lease["spec"]["holderIdentity"].as_str().unwrap().to_owned()
        };
        eventually(|| holder() == "two" && shown(&api, "web") == json!([{ "ip": "192.0.2.2" }])).await;
        two.end().await;
        assert_eq!(shown(&api, "web"), json!([]));
        assert_eq!(holder(), "");
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_honoured_is_an_event_on_the_object_that_asks_for_it() {
    test(async |api| {
        let odd = "metadata: { name: web, namespace: shop, annotations: { nginx.ingress.kubernetes.io/enable-lua: x } }";
        let objects = OBJECTS.replacen("metadata: { name: web, namespace: shop }", odd, 1);
        put(&api, &objects.replacen("  rules:", "  tls: [{ hosts: [a.b], secretName: none }]\n  rules:", 1));
        put(&api, &OBJECTS.split("---\n").next().unwrap().replace("ClassName: weir", "ClassName: theirs").replace("{ name: web", "{ name: other"));
        let _replica = Replica::start(&api, "one");
        let events = || {
            let cluster = api.cluster();
            let all = cluster.written.iter().filter(|(request, _)| request.contains("/events"));
            all.map(|(_, event)| event.clone()).collect::<Vec<_>>()
        };
        eventually(|| events().len() >= 2).await;
        let mut reasons: Vec<_> = events()
            .iter()
            .map(|event| (event["regarding"]["name"].as_str().unwrap().to_owned(), event["reason"].as_str().unwrap().to_owned()))
            .collect();
        reasons.sort();
        let told = [("web", "AnnotationNotHonoured"), ("web", "CertificateNotUsable")];
        assert_eq!(reasons, told.map(|(name, reason)| (name.to_owned(), reason.to_owned())));
    })
    .await;
}
