//! A node in a namespace of its own, pods, and an agent that only keeps books; the plugin is the real binary.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use api::{Attach, Attached, Attachment, Collected, Detached, Endpoint, Status, Valid};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use netlink::{Handle, Netns};
use serde_json::{Value, json};
use tokio::net::UnixListener;

pub(crate) const NODE_V4: &str = "172.30.0.2";
pub(crate) const NODE_V6: &str = "fd00:30::2";

/// One node; everything goes when it is dropped.
pub(crate) struct Node {
    pub(crate) netns: Netns,
    pub(crate) dir: PathBuf,
    pub(crate) books: Arc<Mutex<Books>>,
    pub(crate) ranges: Vec<&'static str>,
}

/// What the agent knows and how it behaves.
#[derive(Default)]
pub(crate) struct Books {
    pub(crate) endpoints: BTreeMap<(String, String), Attach>,
    pub(crate) refuse: Option<api::Error>,
    pub(crate) hang: bool,
    /// Somebody switches IPv6 off in the pod while the agent takes the endpoint in.
    pub(crate) switch_v6_off: bool,
    pub(crate) programs_missing: bool,
    pub(crate) rows_missing: bool,
    /// Whether the host's side was up when the agent was asked to take the endpoint in.
    pub(crate) was_up: Vec<bool>,
    pub(crate) collected: Vec<Valid>,
}

/// What a run of the plugin came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// The answer of a command that went well.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert!(self.success, "{self:?}, and said beside it: {}", self.stderr);
        if self.stdout.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&self.stdout).expect("one JSON value")
        }
    }

    /// The code of a command that failed, having said why.
    #[track_caller]
    pub(crate) fn code(&self) -> u64 {
        assert!(!self.success, "{self:?}");
        let answer: Value = serde_json::from_str(&self.stdout).expect("one JSON value");
        assert!(answer["cniVersion"].is_string() && answer["msg"].is_string(), "{answer}");
        answer["code"].as_u64().expect("a code")
    }

    /// Message and details of a command that failed.
    #[track_caller]
    pub(crate) fn complaint(&self) -> String {
        self.code();
        let answer: Value = serde_json::from_str(&self.stdout).expect("one JSON value");
        let details = answer["details"].as_str().unwrap_or_default();
        format!("{}: {details}", answer["msg"].as_str().unwrap_or_default())
    }
}

impl Node {
    pub(crate) fn new() -> Self {
        let node = Self::without_agent();
        node.start_agent();
        node
    }

    pub(crate) fn without_agent() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("weir-cni-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        let netns = netns();
        block_on(async {
            let handle = Handle::in_netns(&netns).unwrap();
            handle.set_up(1).await.unwrap();
            for ip in [NODE_V4, NODE_V6] {
                let ip: std::net::IpAddr = ip.parse().unwrap();
                handle.add_address(1, ip.into()).await.unwrap();
            }
        });
        Self { netns, dir, books: Arc::default(), ranges: vec!["10.244.0.0/24", "fd00:244::/64"] }
    }

    pub(crate) fn start_agent(&self) {
        let (netns, books) = (self.netns.try_clone().unwrap(), self.books.clone());
        let listener = std::os::unix::net::UnixListener::bind(self.socket()).unwrap();
        std::thread::spawn(move || block_on(serve(listener, netns, books)));
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    pub(crate) fn config(&self) -> Value {
        json!({
            "cniVersion": "1.1.0", "name": "weir", "type": "weir-cni",
            "agentSocket": self.socket(), "stateDir": self.dir.join("cni"), "mtu": 1400,
            "nodeIPs": [NODE_V4, NODE_V6], "ipam": { "ranges": self.ranges },
            "capabilities": { "portMappings": true, "bandwidth": true, "ips": true, "mac": true },
        })
    }

    /// Runs the plugin in the node's namespace. `environment` is `KEY=VALUE` words.
    pub(crate) fn run(&self, environment: &str, config: &Value) -> Outcome {
        self.run_raw(environment, config.to_string().as_bytes())
    }

    pub(crate) fn run_raw(&self, environment: &str, input: &[u8]) -> Outcome {
        let output = self.spawn(environment, input).wait_with_output().unwrap();
        Outcome {
            success: output.status.success(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Children inherit the namespace of the thread that spawns them.
    pub(crate) fn spawn(&self, environment: &str, input: &[u8]) -> Child {
        let variables = environment.split(' ').filter_map(|word| word.split_once('='));
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir-cni"));
        command.env_clear().envs(variables);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.netns.run(|| command.spawn()).unwrap().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A plugin that fails early does not read it.
        stdin.write_all(input).ok();
        child
    }

    pub(crate) fn add(&self, id: &str, netns: &Path) -> Outcome {
        self.run(&attachment("ADD", id, netns), &self.config())
    }

    pub(crate) fn del(&self, id: &str, netns: &Path) -> Outcome {
        self.run(&attachment("DEL", id, netns), &self.config())
    }

    pub(crate) fn check(&self, id: &str, netns: &Path, result: &Value) -> Outcome {
        let mut config = self.config();
        config["prevResult"] = result.clone();
        self.run(&attachment("CHECK", id, netns), &config)
    }

    /// Who holds which address.
    pub(crate) fn held(&self) -> Vec<String> {
        let Ok(files) = std::fs::read_dir(self.dir.join("cni")) else { return Vec::new() };
        let mut held = Vec::new();
        for file in files.map(|file| file.unwrap().path()) {
            if file.extension().is_some_and(|extension| extension == "json") {
                let ledger: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
                held.extend(ledger["held"].as_object().unwrap().keys().cloned());
            }
        }
        held
    }

    pub(crate) fn links(&self) -> Vec<String> {
        let links = block_on(async { Handle::in_netns(&self.netns).unwrap().links().await.unwrap() });
        links.into_iter().map(|link| link.name).filter(|name| name != "lo").collect()
    }

    #[track_caller]
    pub(crate) fn must_be_empty(&self) {
        assert_eq!(self.links(), [""; 0]);
        assert_eq!(self.held(), [""; 0]);
        assert!(self.books().endpoints.is_empty());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

/// A new namespace, with one sentence for whoever runs this without the right to make it.
pub(crate) fn netns() -> Netns {
    Netns::new_anonymous().expect("these tests need root, because they make network namespaces")
}

pub(crate) fn attachment(command: &str, id: &str, netns: &Path) -> String {
    format!("CNI_COMMAND={command} CNI_CONTAINERID={id} CNI_NETNS={} CNI_IFNAME=eth0", netns.display())
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn serve(listener: std::os::unix::net::UnixListener, netns: Netns, books: Arc<Mutex<Books>>) {
    listener.set_nonblocking(true).unwrap();
    let listener = UnixListener::from_std(listener).unwrap();
    let handle = Handle::in_netns(&netns).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (handle, books) = (handle.clone(), books.clone());
        let service =
            hyper::service::service_fn(move |request| answer(request, handle.clone(), books.clone()));
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn answer(
    request: Request<Incoming>,
    handle: Handle,
    books: Arc<Mutex<Books>>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    if books.lock().unwrap().hang {
        std::future::pending::<()>().await;
    }
    let path: Vec<&str> = head.uri.path().split('/').skip(2).collect();
    let (status, answer) = match (head.method, path.as_slice()) {
        (Method::PUT, ["endpoints"]) => {
            let attach: Attach = serde_json::from_slice(&body).unwrap();
            let link = handle.link_by_name(&attach.host_ifname).await.unwrap().unwrap();
            assert_eq!(link.index, attach.host_ifindex);
            let mut books = books.lock().unwrap();
            books.was_up.push(link.up);
            if books.switch_v6_off {
                let pod = Netns::open(&attach.netns).unwrap();
                pod.run(|| netlink::sysctl("ipv6/conf/eth0/disable_ipv6", "1")).unwrap().unwrap();
            }
            match books.refuse.clone() {
                Some(error) => (StatusCode::CONFLICT, json!(error)),
                None => {
                    books.endpoints.insert((attach.container_id.clone(), attach.ifname.clone()), attach);
                    (StatusCode::OK, json!(Attached { generation: 1 }))
                }
            }
        }
        (Method::GET, ["endpoints", id, ifname]) => {
            let books = books.lock().unwrap();
            match books.endpoints.get(&(id.to_string(), ifname.to_string())) {
                Some(attach) => (
                    StatusCode::OK,
                    json!(Endpoint {
                        attach: attach.clone(),
                        programs_attached: !books.programs_missing,
                        rows_present: !books.rows_missing,
                    }),
                ),
                None => {
                    (StatusCode::NOT_FOUND, json!(api::Error { transient: false, message: "unknown".into() }))
                }
            }
        }
        (Method::DELETE, ["endpoints", id, ifname]) => {
            let removed = books.lock().unwrap().endpoints.remove(&(id.to_string(), ifname.to_string()));
            (StatusCode::OK, json!(Detached { existed: removed.is_some() }))
        }
        (Method::POST, ["gc"]) => {
            let valid: Valid = serde_json::from_slice(&body).unwrap();
            let mut books = books.lock().unwrap();
            let keep = |id: &str, ifname: &str| {
                let attachment = Attachment { container_id: id.into(), ifname: ifname.into() };
                valid.attachments.contains(&attachment)
            };
            books.endpoints.retain(|(id, ifname), _| keep(id, ifname));
            books.collected.push(valid);
            (StatusCode::OK, json!(Collected::default()))
        }
        (Method::GET, ["status"]) => (StatusCode::OK, json!(Status::default())),
        other => panic!("no such call: {other:?}"),
    };
    Ok(Response::builder().status(status).body(Full::new(answer.to_string().into())).unwrap())
}
