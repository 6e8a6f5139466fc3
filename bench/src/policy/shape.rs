//! The worlds that are measured: the same objects in every run, made one at a time.

use clap::ValueEnum;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as net;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use policy::{Attachment, Object, PodRef};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// Pods of the node that is measured, as many as a kubelet takes by default.
pub(crate) const LOCAL: u32 = 110;
pub(crate) const NAMESPACES: u32 = 20;
const TEAMS: u32 = 5;
const SHARDS: u32 = 64;
/// Pods in each block of 512 addresses.
const RESIDENTS: u32 = 128;
/// How many of those the rules speak of, the first ones.
const SPOKEN_OF: u32 = 4;
/// Distinct blocks that the rules speak of, many inside others.
const BLOCKS: u32 = 1536;

/// What the policies of a world look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Ten policies for each application; overlapping selectors and blocks
    Mixed,
    /// The worst: every policy selects a random half of the pods, and lets in another
    Half,
}

/// A world, by its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    pub(crate) pods: u32,
    pub(crate) policies: u32,
    pub(crate) kind: Kind,
    /// Every pod has a label that no other has.
    pub(crate) unique: bool,
}

/// How a policy differs from what it is in the first place.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Variant {
    /// Added to the port of its rules.
    pub(crate) port: i32,
    /// Whose peers it has, counted from its own.
    pub(crate) peers_of: u32,
    /// A selector that no other policy has, by number.
    pub(crate) novel: Option<u32>,
}

impl Shape {
    pub(crate) fn applications(&self) -> u32 {
        (self.policies / 10).max(100)
    }

    /// A policy of those that select pods of the node, the `index`-th.
    pub(crate) fn policy_in_use(&self, index: u32) -> u32 {
        let applications = self.applications();
        let here = applications.min(LOCAL);
        let rounds = self.policies.div_ceil(applications);
        let policy = index % here + (index / here) % rounds * applications;
        if policy < self.policies { policy } else { index % here }
    }

    fn policies_in_use(&self) -> u32 {
        let applications = self.applications();
        (self.policies / applications).max(1) * applications.min(LOCAL).min(self.policies)
    }

    pub(crate) fn namespace(&self, index: u32, team: u32) -> Object {
        let labels = [("team", format!("team-{}", team % TEAMS)), ("stage", "production".to_owned())];
        let metadata = metadata(None, &namespace_name(index), labels);
        core::Namespace { metadata, ..Default::default() }.into()
    }

    /// `like`: of whose labels it has all but the unique one, and beside which its address lies.
    pub(crate) fn pod(&self, index: u32, like: u32) -> Object {
        let application = like % self.applications();
        // Pods of one workload have the labels of its template.
        let random = mix(1, self.workload(like));
        let mut labels = vec![
            ("app.kubernetes.io/name", format!("app-{application}")),
            ("app.kubernetes.io/part-of", format!("suite-{}", application / 10)),
            ("pod-template-hash", format!("{:010x}", mix(2, application) & 0xff_ffff_ffff)),
            ("tier", format!("tier-{}", random % 8)),
            ("zone", format!("zone-{}", (random >> 8) % 16)),
            ("shard", format!("shard-{}", (random >> 16) % u64::from(SHARDS))),
        ];
        if self.unique {
            labels.push(("serial", format!("{:016x}", mix(3, index))));
        }
        if self.kind == Kind::Half {
            let bucket = |key: u32| format!("b{}", mix(10 + key, like) % u64::from(SHARDS));
            labels.extend(
                ["half-0", "half-1", "half-2", "half-3"]
                    .into_iter()
                    .zip(0..)
                    .map(|(key, n)| (key, bucket(n))),
            );
        }
        let namespace = self.namespace_of(application);
        let mut metadata = metadata(Some(&namespace), &pod_name(application, index), labels);
        metadata.uid = Some(uid(index));
        let port =
            core::ContainerPort { name: Some("http".to_owned()), container_port: 8080, ..Default::default() };
        let container = core::Container { ports: Some(vec![port]), ..Default::default() };
        let ip = if index < self.pods { address(index, 0) } else { address(like, 1 + index - self.pods) };
        let ips = vec![core::PodIP { ip: ip.to_string() }];
        let object = core::Pod {
            metadata,
            spec: Some(core::PodSpec { containers: vec![container], ..Default::default() }),
            status: Some(core::PodStatus {
                phase: Some("Running".to_owned()),
                pod_ips: Some(ips),
                ..Default::default()
            }),
        };
        object.into()
    }

    pub(crate) fn attachment(&self, index: u32) -> Attachment {
        let application = index % self.applications();
        Attachment {
            container_id: format!("{:032x}{:032x}", mix(4, index), mix(5, index)),
            ifname: "eth0".to_owned(),
            pod: Some(PodRef {
                namespace: self.namespace_of(application),
                name: pod_name(application, index),
                uid: Some(uid(index)),
            }),
            ifindex: 1000 + index,
            ips: vec![address(index, 0)],
        }
    }

    pub(crate) fn policy(&self, index: u32, variant: Variant) -> Object {
        let spec = match self.kind {
            Kind::Mixed => self.mixed(index, variant),
            Kind::Half => self.half(index, variant),
        };
        let application = index % self.applications();
        let metadata = metadata(Some(&self.namespace_of(application)), &format!("policy-{index}"), []);
        net::NetworkPolicy { metadata, spec: Some(spec) }.into()
    }

    fn mixed(&self, index: u32, variant: Variant) -> net::NetworkPolicySpec {
        let application = index % self.applications();
        let random = mix(6, self.policy_in_use(index + variant.peers_of));
        let team = format!("team-{}", random % u64::from(TEAMS));
        let first = (random >> 8) % u64::from(SHARDS);
        let mut shards: Vec<String> =
            (0..3).map(|more| format!("shard-{}", (first + more) % u64::from(SHARDS))).collect();
        if let Some(number) = variant.novel {
            shards = (0..3).map(|n| format!("shard-{}", mix(20 + n, number) % u64::from(SHARDS))).collect();
        }
        let of_team = net::NetworkPolicyPeer {
            namespace_selector: Some(equal([("team", team)])),
            pod_selector: Some(one_of("shard", shards)),
            ..Default::default()
        };
        let anywhere = net::NetworkPolicyPeer {
            namespace_selector: Some(meta::LabelSelector::default()),
            pod_selector: Some(equal([
                ("tier", format!("tier-{}", (random >> 16) % 8)),
                ("zone", format!("zone-{}", (random >> 24) % 16)),
            ])),
            ..Default::default()
        };
        let each = BLOCKS.div_ceil(self.policies_in_use());
        let blocks = (0..each).map(|n| block((index * each + n) % BLOCKS));
        let from = [of_team.clone(), anywhere].into_iter().chain(blocks);
        let port = |number| net::NetworkPolicyPort {
            port: Some(IntOrString::Int(number + variant.port)),
            ..Default::default()
        };
        net::NetworkPolicySpec {
            pod_selector: Some(equal([("app.kubernetes.io/name", format!("app-{application}"))])),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(vec![net::NetworkPolicyIngressRule {
                from: Some(from.collect()),
                ports: Some(vec![port(8080)]),
            }]),
            egress: Some(vec![net::NetworkPolicyEgressRule {
                to: Some(vec![of_team]),
                ports: Some(vec![port(5432)]),
            }]),
        }
    }

    fn half(&self, index: u32, variant: Variant) -> net::NetworkPolicySpec {
        let random_half = |salt: u32| {
            let buckets = (0..SHARDS).filter(|bucket| mix(salt, index * SHARDS + bucket).is_multiple_of(2));
            one_of(
                &format!("half-{}", mix(salt, index) % 4),
                buckets.map(|bucket| format!("b{bucket}")).collect(),
            )
        };
        let peer = net::NetworkPolicyPeer {
            namespace_selector: Some(meta::LabelSelector::default()),
            pod_selector: Some(random_half(31 + variant.peers_of + variant.novel.map_or(0, |n| n + 100))),
            ..Default::default()
        };
        let port = net::NetworkPolicyPort {
            port: Some(IntOrString::Int(8080 + variant.port)),
            ..Default::default()
        };
        net::NetworkPolicySpec {
            pod_selector: Some(random_half(30)),
            ingress: Some(vec![net::NetworkPolicyIngressRule {
                from: Some(vec![peer]),
                ports: Some(vec![port]),
            }]),
            ..Default::default()
        }
    }

    /// An application is a few workloads; a pod and the one `applications` further are neighbours in this.
    fn workload(&self, index: u32) -> u32 {
        const EACH: u32 = 8;
        let applications = self.applications();
        index % applications + index / applications % EACH * applications
    }

    /// Two pods of other nodes, of one application and in no block that a rule speaks of, that are of different workloads;
    /// `None` where there are not so many pods.
    pub(crate) fn neighbours(&self, number: u32) -> Option<(u32, u32)> {
        let applications = self.applications();
        let blocks = (self.pods / RESIDENTS).saturating_sub(SPOKEN_OF).max(1);
        let block = SPOKEN_OF + number / 16 % blocks;
        let pod = block * RESIDENTS + number % 16;
        let other = pod + applications;
        (pod >= LOCAL && other < self.pods && other / RESIDENTS == block).then_some((pod, other))
    }

    /// In the worst world they all live in one: a policy selects pods of its own namespace.
    fn namespace_of(&self, application: u32) -> String {
        match self.kind {
            Kind::Mixed => namespace_name(application % NAMESPACES),
            Kind::Half => namespace_name(0),
        }
    }
}

/// The key of a pod that `Shape::pod` made.
pub(crate) fn pod_name(application: u32, index: u32) -> String {
    format!("app-{application}-{:010x}-{index}", mix(2, application) & 0xff_ffff_ffff)
}

fn namespace_name(index: u32) -> String {
    format!("namespace-{index}")
}

/// Pods are by the hundred and more in blocks of 512 addresses, which leaves room for guests: whoever comes is in the blocks
/// that the pod like it is in.
fn address(index: u32, guest: u32) -> IpAddr {
    let place = if guest == 0 { index % RESIDENTS } else { RESIDENTS + guest % (512 - RESIDENTS) };
    IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + index / RESIDENTS * 512 + place))
}

fn uid(index: u32) -> String {
    let (high, low) = (mix(7, index), mix(8, index));
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        low >> 52,
        low & 0xffff_ffff_ffff
    )
}

/// Blocks of 14 to 24 bits in 100.64.0.0/10; a few are parts of the pods' own addresses.
fn block(number: u32) -> net::NetworkPolicyPeer {
    let random = mix(9, number);
    let (base, bits) = match number % (BLOCKS / SPOKEN_OF) {
        0 => (0x0a00_0000 | ((number / (BLOCKS / SPOKEN_OF)) << 9), 23),
        _ => (0x6440_0000 | (random as u32 & 0x003f_ffff), 14 + number % 11),
    };
    let net = Ipv4Addr::from_bits(base & (u32::MAX << (32 - bits)));
    let ip_block = Some(net::IPBlock { cidr: format!("{net}/{bits}"), except: None });
    net::NetworkPolicyPeer { ip_block, ..Default::default() }
}

fn equal<const N: usize>(labels: [(&str, String); N]) -> meta::LabelSelector {
    let labels = labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    meta::LabelSelector { match_labels: Some(labels), match_expressions: None }
}

fn one_of(key: &str, values: Vec<String>) -> meta::LabelSelector {
    let requirement = meta::LabelSelectorRequirement {
        key: key.to_owned(),
        operator: "In".to_owned(),
        values: Some(values),
    };
    meta::LabelSelector { match_expressions: Some(vec![requirement]), match_labels: None }
}

fn metadata<'a>(
    namespace: Option<&str>,
    name: &str,
    labels: impl IntoIterator<Item = (&'a str, String)>,
) -> meta::ObjectMeta {
    let labels: BTreeMap<String, String> =
        labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    meta::ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.map(str::to_owned),
        labels: Some(labels),
        ..Default::default()
    }
}

/// A number that looks random and is the same every time (splitmix64).
pub(crate) fn mix(salt: u32, index: u32) -> u64 {
    let mut z = (u64::from(salt) << 32 | u64::from(index)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
