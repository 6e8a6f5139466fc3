//! Readiness, and what somebody else changed in the datapath.

use common::endpoint::EndpointRow;
use common::id::RuleSetId;

use super::*;
use crate::drift::{Kind, Mended};

impl Node {
    async fn readiness(&self) -> Option<String> {
        self.call(|reply| Call::Ask(Question::Readiness(reply))).await.await.unwrap().unwrap()
    }

    async fn repaired(&self, kind: Kind) -> u64 {
        let drift = self.status().await.drift;
        drift.iter().find(|drift| drift.kind == kind.as_str()).map_or(0, |drift| drift.repaired)
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_is_ready_once_everything_is_in_force_and_the_plugin_is_configured() {
    on_a_node(async |mut node| {
        node.stop().await;
        node.start_with(|agent| agent.awaits_conflist = true);
        let missing = node.readiness().await.unwrap();
        assert_eq!(missing, "the first complete list of every kind has not arrived");
        let complaints = vec!["API server, Pods: 403 Forbidden".to_owned()];
        node.send(Event::Complaints { part: "Pod", complaints }).await;
        let missing = node.readiness().await.unwrap();
        assert!(missing.ends_with("has not arrived: API server, Pods: 403 Forbidden"), "{missing}");
        node.send(Event::Complaints { part: "Pod", complaints: Vec::new() }).await;

        node.kernel(|kernel| kernel.room = Some(0));
        node.source(&[NODES, &pod("web", "10.244.0.1"), &policy("quiet", "web")]).await;
        node.attach("web", 1).await.await.unwrap().unwrap_err();
        node.kernel(|kernel| kernel.room = None);
        tokio::time::sleep(Duration::from_secs(3)).await;

        let complaints = vec!["Node node-0: spec.podCIDRs: empty".to_owned()];
        node.send(Event::Complaints { part: "node", complaints }).await;
        let missing = node.readiness().await.unwrap();
        assert_eq!(missing, "the plugin's configuration is not written: Node node-0: spec.podCIDRs: empty");
        let status = node.status().await;
        assert!(!status.ready && status.not_ready == Some(missing));

        node.send(Event::Wired).await;
        assert_eq!(node.readiness().await, None);
        assert!(node.status().await.ready);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rows_and_programs_that_somebody_changed_are_put_right_and_counted() {
    on_a_node(async |node| {
        node.source(&[NODES, &pod("web", "10.244.0.1"), &policy("quiet", "web")]).await;
        node.attach("web", 1).await.await.unwrap().unwrap();
        let right = node.kernel(|kernel| kernel.tables.clone());
        node.send(Event::Audit).await;
        assert_eq!(node.status().await.drift, [], "nothing was wrong");

        node.kernel(|kernel| {
            kernel.attached.remove(&1);
            let row = kernel.tables.endpoints.values_mut().next().unwrap();
            *row = EndpointRow { ingress: RuleSetId::OPEN, ..*row };
            kernel.tables.rules.clear();
        });
        node.send(Event::Audit).await;
        assert!(node.repaired(Kind::Row).await >= 2);
        assert_eq!(node.repaired(Kind::Program).await, 1);
        assert_eq!(node.kernel(|kernel| kernel.tables.clone()), right);
        assert!(node.kernel(|kernel| kernel.attached.contains(&1)));

        let what = "route 10.244.1.0/24".to_owned();
        node.send(Event::Mended(vec![Mended { kind: Kind::Route, what }])).await;
        assert_eq!(node.repaired(Kind::Route).await, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn before_the_first_list_is_in_force_nothing_is_put_right() {
    on_a_node(async |mut node| {
        node.source(&[NODES, &pod("web", "10.244.0.1")]).await;
        node.attach("web", 1).await.await.unwrap().unwrap();
        node.stop().await;
        node.start();
        node.kernel(|kernel| kernel.tables.endpoints.clear());
        node.send(Event::Audit).await;
        assert_eq!(node.status().await.drift, []);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_goes_when_its_pod_and_its_namespace_are_gone_and_not_when_one_of_them_is() {
    on_a_node(async |node| {
        let place = |name: &str| node.folder.path().join(name).display().to_string();
        let both = [NODES, &pod("web", "10.244.0.1"), &pod("db", "10.244.0.2")];
        node.source(&both).await;
        for (name, ifindex) in [("web", 1), ("db", 2)] {
            std::fs::write(place(name), "").unwrap();
            let attach = Attach { netns: place(name), ..attach(name, ifindex) };
            node.call(|reply| Call::Attach(attach, reply)).await.await.unwrap().unwrap();
        }
        let reconcile = async || {
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_secs(30)).await;
                node.send(Event::Reconcile).await;
            }
            node.status().await.endpoints.len()
        };
        std::fs::remove_file(place("web")).unwrap();
        assert_eq!(reconcile().await, 2, "the API shows both pods");
        std::fs::write(place("web"), "").unwrap();
        node.source(&both[..1]).await;
        assert_eq!(reconcile().await, 2, "both namespaces are there");
        std::fs::remove_file(place("web")).unwrap();
        assert_eq!(reconcile().await, 1);
        assert!(!node.has_row(1) && node.has_row(2));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pods_that_another_plugin_has_wired_are_named_with_what_to_do() {
    on_a_node(async |node| {
        let host =
            pod("host", "172.30.0.10").replace("nodeName: node-0,", "nodeName: node-0, hostNetwork: true,");
        let elsewhere = pod("far", "10.244.1.1").replace("nodeName: node-0", "nodeName: node-1");
        node.source(&[NODES, &pod("web", "10.244.0.1"), &pod("old", "10.1.0.7"), &host, &elsewhere]).await;
        node.attach("web", 1).await.await.unwrap().unwrap();
        node.send(Event::Reconcile).await;
        assert_eq!(node.status().await.unmanaged, [""; 0], "one that is going looks like this for a moment");
        tokio::time::sleep(Duration::from_secs(30)).await;
        node.send(Event::Reconcile).await;
        let status = node.status().await;
        assert_eq!(status.unmanaged, ["shop/old (10.1.0.7)"]);
        assert!(
            status.problems[0].contains("delete them, and they come back managed"),
            "{:?}",
            status.problems
        );
        assert_eq!((status.source.kind.as_str(), status.source.connected), ("folder", true));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn blocks_that_changed_under_running_pods_are_a_problem_and_the_pods_go_on() {
    on_a_node(async |node| {
        let web = pod("web", "10.244.0.1");
        node.source(&[NODES, &web]).await;
        node.attach("web", 1).await.await.unwrap().unwrap();
        node.send(Event::Reconcile).await;
        assert_eq!(node.status().await.problems, [""; 0]);
        node.source(&[&NODES.replace("10.244.0.0", "10.245.0.0"), &web]).await;
        node.send(Event::Reconcile).await;
        let status = node.status().await;
        assert!(status.problems[0].contains("shop/web (10.244.0.1); delete them"), "{:?}", status.problems);
        assert!(status.ready && node.has_row(1));

        node.source(&[&NODES.replace("10.244.0.0/24", "10.244.0.1/32"), &web]).await;
        node.send(Event::Reconcile).await;
        let problems = node.status().await.problems;
        assert!(problems[0].contains("all addresses of 10.244.0.1/32 are taken"), "{problems:?}");
    })
    .await;
}
