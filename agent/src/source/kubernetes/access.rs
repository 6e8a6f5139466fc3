//! How the API server is reached: by its own address, never by the ClusterIP that this agent is to serve.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

use super::api::innermost;

/// A connection that takes longer will not come.
const CONNECT: Duration = Duration::from_secs(5);

/// A client that knows where the API server is and who we are.
pub(crate) struct Access {
    pub(super) client: Client,
}

impl Access {
    /// The API server at `url`, with the token and the certificate authority of a service account. Both files are read
    /// again when they change. Neither is asked for where the URL is `http`.
    pub(crate) fn by_url(url: &str, token_file: &Path, ca_file: &Path) -> Result<Self> {
        let uri: hyper::Uri = url.parse().with_context(|| format!("--api-server {url}: not a URL"))?;
        let mut config = match (uri.scheme_str(), uri.host()) {
            (Some("http" | "https"), Some(_)) => Config::new(uri.clone()),
            _ => bail!("--api-server {url}: expected for example https://192.0.2.10:6443"),
        };
        if uri.scheme_str() == Some("https") {
            for (option, file) in [("--token-file", token_file), ("--ca-file", ca_file)] {
                std::fs::metadata(file).with_context(|| {
                    format!("{option} {}: --api-server wants the files of a service account", file.display())
                })?;
            }
            config.root_cert_file = Some(ca_file.to_owned());
            // Whoever names no roots gets the system's first, and an image that holds our programs alone has none.
            config.root_cert = Some(Vec::new());
            config.auth_info.token_file = Some(token_file.display().to_string());
        }
        Self::with(config).with_context(|| format!("--ca-file {}", ca_file.display()))
    }

    /// The current context of a kubeconfig.
    pub(crate) async fn by_kubeconfig(file: &Path) -> Result<Self> {
        let context = || format!("--kubeconfig {}", file.display());
        // Their text has their cause in it already.
        let kubeconfig =
            Kubeconfig::read_from(file).map_err(|error| anyhow!("{error}")).with_context(context)?;
        let current = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &current).await;
        let config = config.map_err(|error| anyhow!("{error}")).with_context(context)?;
        Self::with(config).with_context(context)
    }

    fn with(mut config: Config) -> Result<Self> {
        config.connect_timeout = Some(CONNECT);
        // A watch is silent for long, and each request has a time limit of its own.
        config.read_timeout = None;
        // Trying again is what the feeds do, in their own time.
        config.default_retry = false;
        // Where the whole workspace is built at once there are two providers, and rustls does not choose. If somebody has
        // chosen before, that is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        Ok(Self { client: Client::try_from(config).map_err(|error| anyhow!(innermost(&error)))? })
    }
}
