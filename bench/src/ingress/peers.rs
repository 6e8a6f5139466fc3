//! The proxies that are compared: one worker each, kept connections to the upstream, an access log in JSON held back for
//! as long as ours and thrown away, the same forwarding headers, the same certificates, TLS 1.2 and 1.3 with tickets.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;

use super::site::Site;
use crate::place;

pub(super) const UPSTREAM: u16 = 9000;
/// Where an endpoint moves to.
pub(super) const OTHER_UPSTREAM: u16 = 9001;
/// Where weir-ingress serves in the clear.
pub(super) const HTTP: u16 = 9098;
/// Where weir-ingress answers for metrics.
pub(super) const ADMIN: u16 = 9099;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Weir,
    Nginx,
    Haproxy,
    Bare,
}

impl Peer {
    pub(super) const ALL: [Self; 4] = [Self::Weir, Self::Nginx, Self::Haproxy, Self::Bare];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Weir => "weir-ingress",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Bare => "bare hyper",
        }
    }

    pub(super) fn address(self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 9100 + self as u16))
    }
}

/// The programs, and a folder of files for each.
pub(super) struct Programs {
    pub(super) weir: PathBuf,
    pub(super) nginx: PathBuf,
    pub(super) haproxy: PathBuf,
    folder: PathBuf,
}

impl Programs {
    /// Writes every configuration below `folder`.
    pub(super) fn new(site: &Site, [weir, nginx, haproxy]: [PathBuf; 3], folder: PathBuf) -> Result<Self> {
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            let parent = path.parent().context("a file in a folder")?;
            fs::create_dir_all(parent)
                .and_then(|()| fs::write(&path, text))
                .with_context(|| format!("write {}", path.display()))
        };
        let mut map = String::new();
        for host in &site.hosts {
            write(&format!("certificates/{}.pem", host.name), &format!("{}{}", host.certificate, host.key))?;
            writeln!(map, "{} upstream", host.name)?;
        }
        write("weir/objects.yaml", &site.objects(UPSTREAM))?;
        write("nginx/nginx.conf", &nginx_configuration(site, &folder))?;
        write("haproxy/hosts.map", &map)?;
        write("haproxy/haproxy.cfg", &haproxy_configuration(&folder))?;
        Ok(Self { weir, nginx, haproxy, folder })
    }

    /// What weir-ingress reads.
    pub(super) fn objects(&self) -> PathBuf {
        self.folder.join("weir")
    }

    /// Starts it and waits until it listens. Call it in the namespace, and on the CPU that it is to have.
    pub(super) fn start(&self, peer: Peer) -> Result<Running> {
        let mut command = place::ourselves("become")?;
        command.arg("--");
        match peer {
            Peer::Weir => {
                command.arg(&self.weir).arg("-f").arg(self.objects()).args([
                    "--http",
                    &format!("127.0.0.1:{HTTP}"),
                    "--https",
                ]);
                command.arg(peer.address().to_string()).args(["--workers", "1", "--log", "warn"]);
                command.args(["--admin", &format!("127.0.0.1:{ADMIN}")]);
            }
            Peer::Nginx => {
                let folder = self.folder.join("nginx");
                command.arg(&self.nginx).args(["-e", "stderr", "-c"]).arg(folder.join("nginx.conf"));
                command.arg("-p").arg(folder);
            }
            Peer::Haproxy => {
                command.arg(&self.haproxy).args(["-db", "-f"]).arg(self.folder.join("haproxy/haproxy.cfg"));
            }
            Peer::Bare => {
                command.arg(std::env::current_exe().context("find our own program")?);
                command.args(["ingress-part", "bare", "--port", &peer.address().port().to_string()]);
                command.arg("--certificates").arg(self.folder.join("certificates"));
            }
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let mut running = Running { peer, child: child.with_context(|| format!("start {}", peer.title()))? };
        wait_for(&mut running.child, peer.address()).with_context(|| peer.title())?;
        Ok(running)
    }
}

/// Waits until somebody listens there.
pub(super) fn wait_for(child: &mut Child, address: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(address).is_err() {
        if let Some(status) = child.try_wait().context("wait for it")? {
            bail!("it ended with {status} before it listened");
        }
        ensure!(Instant::now() < deadline, "it did not listen on {address} in 20 s");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A proxy that serves; dropping it ends it.
pub(super) struct Running {
    pub(super) peer: Peer,
    child: Child,
}

impl Running {
    /// CPU time of all its processes so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let mut sum = Duration::ZERO;
        for process in self.processes()? {
            let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(process)).context("find a CPU clock")?;
            sum += Duration::from(clock.now().context("read a CPU clock")?);
        }
        Ok(sum)
    }

    /// Bytes that its processes occupy, what they share divided among them.
    pub(super) fn memory(&self) -> Result<u64> {
        let mut sum = 0;
        for process in self.processes()? {
            let path = format!("/proc/{process}/smaps_rollup");
            let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
            sum += kib.with_context(|| format!("{path} has no Pss"))? << 10;
        }
        Ok(sum)
    }

    /// Itself and its children.
    fn processes(&self) -> Result<Vec<i32>> {
        let own = i32::try_from(self.child.id())?;
        let mut processes = vec![own];
        for entry in fs::read_dir("/proc").context("list /proc")?.flatten() {
            let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            // It may have ended since.
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
            if parent == Some(own) {
                processes.push(process);
            }
        }
        Ok(processes)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // nginx's master takes its workers along when asked, and not when killed. It may have ended by itself.
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap_or_default();
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

fn nginx_configuration(site: &Site, folder: &Path) -> String {
    let address = Peer::Nginx.address();
    let certificates = folder.join("certificates");
    let servers: String = site
        .hosts
        .iter()
        .map(|host| {
            let (name, pem) = (&host.name, certificates.join(format!("{}.pem", host.name)));
            let pem = pem.display();
            format!(
                "  server {{
    listen {address} ssl http2;
    server_name {name};
    ssl_certificate {pem};
    ssl_certificate_key {pem};
    location / {{ proxy_pass http://upstream; }}
  }}
"
            )
        })
        .collect();
    // As ingress-nginx writes it, but for the limits of requests a connection, which nobody else has here, and for its buffers
    // of 4 KiB: with those nginx takes three milliseconds of CPU for a MiB.
    format!(
        r#"daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile 16384;
error_log stderr warn;
pid nginx.pid;
events {{ worker_connections 8192; multi_accept on; use epoll; }}
http {{
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  log_format json escape=json '{{"time":"$time_iso8601","client":"$remote_addr","method":"$request_method","scheme":"$scheme","host":"$host","path":"$request_uri","protocol":"$server_protocol","status":$status,"received":$request_length,"sent":$body_bytes_sent,"ms":$request_time,"id":"$request_id","object":"default/$server_name","service":"default/web:80","upstream":"$upstream_addr","upstream_ms":"$upstream_header_time","tries":1}}';
  access_log /dev/null json buffer=32k flush=1s;
  sendfile on;
  tcp_nopush on;
  tcp_nodelay on;
  server_tokens off;
  reset_timedout_connection on;
  keepalive_timeout 75s;
  keepalive_requests 1000000000;
  ssl_protocols TLSv1.2 TLSv1.3;
  ssl_session_cache shared:SSL:10m;
  ssl_session_tickets on;
  ssl_early_data off;
  proxy_http_version 1.1;
  proxy_buffers 16 16k;
  proxy_buffer_size 16k;
  proxy_max_temp_file_size 0;
  proxy_request_buffering off;
  proxy_set_header Host $host;
  proxy_set_header Connection "";
  proxy_set_header X-Request-ID $request_id;
  proxy_set_header X-Real-IP $remote_addr;
  proxy_set_header X-Forwarded-For $remote_addr;
  proxy_set_header X-Forwarded-Host $host;
  proxy_set_header X-Forwarded-Port $server_port;
  proxy_set_header X-Forwarded-Proto $scheme;
  proxy_set_header Forwarded "for=$remote_addr;host=\"$host\";proto=$scheme";
  upstream upstream {{
    server 127.0.0.1:{UPSTREAM};
    keepalive 320;
    keepalive_requests 1000000000;
    keepalive_timeout 60s;
  }}
{servers}}}
"#
    )
}

fn haproxy_configuration(folder: &Path) -> String {
    let address = Peer::Haproxy.address();
    let (certificates, map) = (folder.join("certificates"), folder.join("haproxy/hosts.map"));
    let (certificates, map) = (certificates.display(), map.display());
    format!(
        r#"global
  nbthread 1
  maxconn 8192
  log stdout format raw local0 info
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode http
  log global
  option http-keep-alive
  option forwardfor
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout http-request 60s
  timeout http-keep-alive 60s
  unique-id-format %[uuid()]
  unique-id-header X-Request-ID
  log-format '{{"time":"%T","client":"%ci","method":"%HM","host":"%[var(txn.host)]","path":"%HU","protocol":"%HV","status":%ST,"received":%U,"sent":%B,"ms":%Ta,"id":"%ID","service":"%b","upstream":"%si:%sp","upstream_ms":%Tr,"tries":%rc}}'
frontend tls
  bind {address} ssl crt {certificates} alpn h2,http/1.1
  http-request set-var(txn.host) req.hdr(host),field(1,:),lower
  http-request set-header X-Real-IP %[src]
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header X-Forwarded-Port %[dst_port]
  http-request set-header X-Forwarded-Proto https
  use_backend %[var(txn.host),map({map})]
backend upstream
  server web 127.0.0.1:{UPSTREAM} pool-max-conn 320
"#
    )
}
