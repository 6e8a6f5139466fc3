//! Writes the seeds in `corpus/` that are made, not found: frames in the vocabulary of the tests, short plays of them, the
//! example shop, and calls as container runtimes make them. `cargo run -p fuzz --example seeds`

use std::fs;
use std::path::Path;

use fuzz::script::RECORD;
use tests::frame::{
    AUTHENTICATION, DESTINATION_OPTIONS, Discovery, ETHERTYPE_ARP, HOP_BY_HOP, ROUTING, echo_reply,
    echo_request, ethernet, port_unreachable, sctp, tcp, too_big, udp,
};
use tests::node::{A, B, FAMILIES, Family, REMOTE, STRANGER};

fn main() {
    packets();
    plays();
    manifests();
    calls();
}

fn write(target: &str, name: &str, content: impl AsRef<[u8]>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder).expect("make the folder");
    fs::write(folder.join(name), content).expect("write a seed");
}

fn packets() {
    let packet = |name: &str, frame: Vec<u8>| write("packet", name, [vec![54], frame].concat());
    for family in FAMILIES {
        let (a, b) = (A.on(family), B.on(family));
        let version = if family == Family::V4 { "v4" } else { "v6" };
        let packet = |name: &str, frame: Vec<u8>| packet(&format!("{name}-{version}"), frame);
        packet("syn", tcp(a, b, 80).syn());
        packet("udp", udp(a, b, 53).frame());
        packet("sctp", sctp(a, b, 9).frame());
        packet("ping", echo_request(a, b, 7).frame());
        packet("pong", echo_reply(a, b, 7).frame());
        packet("too-big", too_big(STRANGER.on(family), &udp(a, b, 53).frame(), a).frame());
        packet("unreachable", port_unreachable(b, &tcp(a, b, 80).syn(), a).frame());
        let (first, later) = udp(a, b, 80).packet().fragments(7);
        packet("first", first);
        packet("later", later);
        packet("padded", [tcp(a, b, 80).syn(), vec![0; 18]].concat());
        packet("cut", tcp(a, b, 80).packet().cut(13).frame());
    }
    packet("options", tcp(A.v4.into(), B.v4.into(), 80).packet().options(10).frame());
    packet("arp", ethernet(ETHERTYPE_ARP, &[0; 28]));
    let kinds = [HOP_BY_HOP, DESTINATION_OPTIONS, ROUTING, AUTHENTICATION];
    let flow = tcp(A.v6.into(), B.v6.into(), 80);
    packet("extensions", kinds.iter().fold(flow.packet(), |packet, kind| packet.extension(*kind)).frame());
    packet("endless", flow.packet().extension_of(DESTINATION_OPTIONS, 255, 16).frame());
    packet("atomic", flow.packet().fragment(9, 0, false).frame());
    packet("solicitation", Discovery::NeighbourSolicitation.packet(A.v6, B.v6).frame());
    packet("mld", Discovery::MldReport.packet(A.v6, REMOTE.v6).frame());
    // Longer than a length can say: see `fuzz::packet`.
    let mut big = flow.syn();
    big[18..20].copy_from_slice(&[0, 0]);
    write("packet", "big", [vec![0xff], big].concat());
}

/// A record: what it begins with, the rest is 0.
fn record(bytes: &[u8]) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..bytes.len()].copy_from_slice(bytes);
    record
}

fn plays() {
    // Hook (0 and 1 from the pods, 2 to a pod, 4 from the node, 5 from the network; 8 an answer, 16 IPv6), ends, kind, ports.
    let (a_to_b, remote_to_b, b_to_remote) = (1 << 3, 2 | 1 << 3, 1 | 2 << 3);
    let syn = record(&[0, a_to_b, 0, 0, 0, 0x02]);
    let syn_ack = record(&[1 | 8, 0, 0, 0, 0, 0x12]);
    let conversation =
        [syn, syn_ack, record(&[0, a_to_b, 0, 0, 0, 0x18]), record(&[0, a_to_b, 0, 0, 0, 0x11])];
    let policies = record(&[7, 1]);
    for policies_at_first in 0..4_u8 {
        let play = |name: &str, records: &[[u8; RECORD]]| {
            let name = format!("{name}-{policies_at_first}");
            write("kernel", &name, [&[policies_at_first][..], records.as_flattened()].concat());
        };
        play("conversation", &conversation);
        play("cut", &[&conversation[..2], &[policies, conversation[2]]].concat());
        let from_net = record(&[5, remote_to_b, 0, 0, 0, 0x02]);
        let reply = record(&[1 | 8, 0, 0, 0, 0, 0x12]);
        play("from-net", &[from_net, reply, record(&[5 | 16, remote_to_b, 6, 0, 2])]);
        let first = record(&[0, a_to_b, 6, 0, 2, 0, 0, 8, 0, 1, 7]);
        let later = record(&[0, a_to_b, 6, 0, 2, 0, 0, 8, 0, 6, 7]);
        play("fragments", &[later, first, later]);
        let ping = record(&[16, a_to_b, 9, 0, 0, 0, 5]);
        play("ping", &[ping, record(&[1 | 16, 1, 10, 0, 0, 0, 5]), record(&[4, 1 << 3 | 4, 9])]);
        let asked = record(&[1, b_to_remote, 6, 0, 2]);
        play("too-big", &[asked, record(&[5, 6 | 1 << 3, 12, 0, 0, 0, 0]), record(&[2 | 1, 6 | 1 << 3, 13])]);
        play("discovery", &[record(&[16, 7, 11, 0, 0, 0, 0]), record(&[16, 7, 11, 0, 0, 0, 3])]);
        play("spoofed", &[record(&[1, a_to_b, 0, 0, 0, 2]), record(&[5, a_to_b, 0, 0, 0, 2])]);
    }
}

fn manifests() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop");
    let pods = ["frontend", "cart", "cache", "db"].map(|app| {
        let tier = if app == "frontend" { "web" } else { "data" };
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {app}, namespace: shop, labels: {{app: {app}, tier: {tier}}}}}\n\
             spec:\n  containers:\n  - name: c\n    ports: [{{name: http, containerPort: 8080}}, {{name: sql, containerPort: 5432}}]\n"
        )
    });
    let texts: Vec<String> = ["namespaces.yaml", "policies.yaml"]
        .iter()
        .filter_map(|name| fs::read_to_string(examples.join(name)).ok())
        .collect();
    let policies = texts.join("---\n");
    assert!(policies.contains("NetworkPolicy"), "examples/shop has its policies elsewhere");
    // One seed a policy: small inputs are mutated better.
    for (number, policy) in policies.split("\n---\n").enumerate() {
        write("manifest", &format!("shop-{number}"), format!("{policy}\n{}", pods.concat()));
    }
    for (name, text) in SEEDS {
        write("manifest", name, text);
    }
}

const SEEDS: [(&str, &str); 5] = [
    (
        "and-or",
        "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {name: p}\nspec:\n  podSelector: {}\n  ingress:\n  \
         - from:\n    - namespaceSelector: {matchLabels: {team: ops}}\n      podSelector: {matchExpressions: [{key: app, \
         operator: NotIn, values: [db]}]}\n    - ipBlock: {cidr: 10.0.0.0/8, except: [10.244.0.0/16]}\n    ports: [{port: 80, \
         endPort: 90}]\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {app: db}}\n---\napiVersion: v1\nkind: Pod\n\
         metadata: {name: b}\nstatus: {podIPs: [{ip: 10.1.0.1}, {ip: 'fd00::1'}]}\n",
    ),
    (
        "list.json",
        r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","uid":"u"},
        "status":{"phase":"Running"}},{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"p"},
        "spec":{"podSelector":{},"policyTypes":["Egress"],"egress":[{"to":[{"podSelector":{}}],"ports":[{"protocol":"UDP",
        "port":53}]}]}}]}"#,
    ),
    (
        "slips",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, annotations: {weir.dev/established: keep}}\n\
         spec:\n  podSelector: {matchLables: {app: a}}\n  policyTypes: [Ingres]\n  ingress:\n  - form: []\n    ports: [{port: 0}, \
         {port: -}, {protocol: QUIC}]\n  - from: [{}, {ipBlock: {cidr: 10.0.0.0/33}}]\n---\napiVersion: v1\nkind: Pod\n\
         metadata: {name: a}\n",
    ),
    (
        "service",
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00:96::1'], \
         selector: {app: web}, ports: [{name: http, port: 80, targetPort: http, protocol: TCP}]}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-1, labels: {kubernetes.io/service-name: web}}\n\
         addressType: IPv4\nendpoints: [{addresses: [10.244.0.2], conditions: {ready: true}}]\nports: [{name: http, port: 8080}]\n",
    ),
    (
        "yaml",
        "%YAML 1.2\n--- # comment\nanchors: &a {kind: Pod}\nkind: Pod\napiVersion: v1\nmetadata: {<<: *a, name: 'x'}\n...\n--- |\n  \
         text\n---\n- 1\n",
    ),
];

fn calls() {
    let environment = "CNI_COMMAND=ADD\nCNI_CONTAINERID=c1\nCNI_NETNS=/var/run/netns/c1\nCNI_IFNAME=eth0\nCNI_ARGS=IgnoreUnknown=1;\
                       K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u1\nCNI_PATH=/opt/cni/bin\n\n";
    let network = r#""cniVersion":"1.1.0","name":"weir","type":"weir-cni""#;
    let ranges =
        r#""ipam":{"ranges":["10.244.0.0/24","fd00:244::/64"]},"mtu":1450,"nodeIPs":["172.30.0.10"]"#;
    let call = |name: &str, command: &str, rest: &str| {
        write("cni", name, format!("{}{{{network},{rest}}}", environment.replace("ADD", command)));
    };
    call("add", "ADD", ranges);
    let asked = r#""runtimeConfig":{"ips":["10.244.0.9/24"],"mac":"02:00:00:00:00:01","portMappings":[{"hostPort":80}]}"#;
    call("add-asked", "ADD", &format!("{ranges},{asked},\"dns\":{{\"nameservers\":[\"10.96.0.10\"]}}"));
    let before = r#""prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"net0"}],"ips":[{"address":"10.0.0.2/24"}],
        "routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}]}"#;
    call("add-chained", "ADD", &format!("{ranges},{before}"));
    call("check", "CHECK", &format!("{ranges},{before}"));
    call("del", "DEL", r#""stateDir":"/tmp/x","agentSocket":"/tmp/y""#);
    call(
        "gc",
        "GC",
        r#""cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}],"cni.dev/attachments":[]"#,
    );
    call("status", "STATUS", r#""statusGraceSeconds":5"#);
    call("version", "VERSION", r#""x":1"#);
    write("cni", "old", format!("{environment}{{\"cniVersion\":\"0.3.1\",\"name\":\"n\",{ranges}}}"));
}
