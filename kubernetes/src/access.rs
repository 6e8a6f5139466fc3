//! How the API server is reached.
//!
//! The agent names its own address, never the ClusterIP that it is to serve; a pod has the ClusterIP.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, io};

use hyper::http::uri::InvalidUri;
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

use crate::api::innermost;

/// A connection that takes longer will not come.
const CONNECT: Duration = Duration::from_secs(5);
/// Where a pod finds who it is.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A client that knows where the API server is and who we are.
#[derive(Clone)]
pub struct Access {
    pub(crate) client: Client,
}

/// There is no way to the API server. Each names the option that has to change.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("--api-server {url}: not a URL")]
    Url {
        url: String,
        #[source]
        source: InvalidUri,
    },
    #[error("--api-server {0}: expected for example https://192.0.2.10:6443")]
    Address(String),
    #[error("{option} {}: --api-server wants the files of a service account", file.display())]
    Account {
        option: &'static str,
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{option} {}: {why}", file.display())]
    Unusable { option: &'static str, file: PathBuf, why: String },
    #[error("not in a pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")]
    NoPod,
}

impl Access {
    /// The API server at `url`, with the token and the certificate authority of a service account. Both files are read
    /// again when they change. Neither is asked for where the URL is `http`.
    pub fn by_url(url: &str, token_file: &Path, ca_file: &Path) -> Result<Self, Error> {
        let uri: hyper::Uri = url.parse().map_err(|source| Error::Url { url: url.to_owned(), source })?;
        let mut config = match (uri.scheme_str(), uri.host()) {
            (Some("http" | "https"), Some(_)) => Config::new(uri.clone()),
            _ => return Err(Error::Address(url.to_owned())),
        };
        if uri.scheme_str() == Some("https") {
            for (option, file) in [("--token-file", token_file), ("--ca-file", ca_file)] {
                let missing = |source| Error::Account { option, file: file.to_owned(), source };
                std::fs::metadata(file).map_err(missing)?;
            }
            config.root_cert_file = Some(ca_file.to_owned());
            // Whoever names no roots gets the system's first, and an image that holds our programs alone has none.
            config.root_cert = Some(Vec::new());
            config.auth_info.token_file = Some(token_file.display().to_string());
        }
        Self::with(config).map_err(|why| Error::Unusable {
            option: "--ca-file",
            file: ca_file.to_owned(),
            why,
        })
    }

    /// The current context of a kubeconfig.
    pub async fn by_kubeconfig(file: &Path) -> Result<Self, Error> {
        let unusable = |why| Error::Unusable { option: "--kubeconfig", file: file.to_owned(), why };
        // Their text has their cause in it already.
        let kubeconfig = Kubeconfig::read_from(file).map_err(|error| unusable(error.to_string()))?;
        let current = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &current).await;
        Self::with(config.map_err(|error| unusable(error.to_string()))?).map_err(unusable)
    }

    /// The API server of the pod that this process is in, by its ClusterIP, as the pod's service account.
    pub fn in_pod() -> Result<Self, Error> {
        let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let (Some(host), Some(port)) =
            (variable("KUBERNETES_SERVICE_HOST"), variable("KUBERNETES_SERVICE_PORT"))
        else {
            return Err(Error::NoPod);
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let account = Path::new(ACCOUNT);
        Self::by_url(&format!("https://{host}:{port}"), &account.join("token"), &account.join("ca.crt"))
    }

    fn with(mut config: Config) -> Result<Self, String> {
        config.connect_timeout = Some(CONNECT);
        // A watch is silent for long, and each request has a time limit of its own.
        config.read_timeout = None;
        // Trying again is what the feeds do, in their own time.
        config.default_retry = false;
        // Where the whole workspace is built at once there are two providers, and rustls does not choose. If somebody has
        // chosen before, that is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        Ok(Self { client: Client::try_from(config).map_err(|error| innermost(&error))? })
    }
}
