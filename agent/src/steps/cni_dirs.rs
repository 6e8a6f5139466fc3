//! Where a node's container runtime looks for plugins, and for the file that names them.
//!
//! Nearly everywhere in the two folders that the CNI project proposes. k3s brings a containerd of its own, and writes down
//! for it where to look; where it does not say so (started without flannel, before 1.32), containerd's own choice is the
//! same two.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::below;

/// What k3s writes for its containerd at each start.
const K3S: &str = "/var/lib/rancher/k3s/agent/etc/containerd/config.toml";

/// Paths on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CniDirs {
    /// Plugins; a runtime looks in each, and ours goes into the first.
    pub(crate) bin: Vec<PathBuf>,
    pub(crate) conf: PathBuf,
}

impl CniDirs {
    /// Those of the node whose root folder is `root`.
    pub(crate) fn of(root: &Path) -> Result<Self> {
        let path = below(root, Path::new(K3S));
        match fs::read_to_string(&path) {
            Ok(text) => Self::of_containerd(&text).with_context(|| format!("read {K3S}")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::proposed()),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    fn proposed() -> Self {
        Self { bin: vec!["/opt/cni/bin".into()], conf: "/etc/cni/net.d".into() }
    }

    fn of_containerd(text: &str) -> Result<Self> {
        let config: Containerd = toml::from_str(text).context("no configuration of containerd")?;
        let mut dirs = Self::proposed();
        // One of them: what configures pods has had three names.
        for (plugin, settings) in config.plugins {
            let Some(settings) = settings.get("cni") else { continue };
            let place = || format!("plugins.'{plugin}'.cni");
            let cni: Cni = settings.clone().try_into().with_context(place)?;
            let bin: Vec<PathBuf> = cni.bin_dir.into_iter().chain(cni.bin_dirs).collect();
            if !bin.is_empty() {
                dirs.bin = bin;
            }
            if let Some(conf) = cni.conf_dir {
                dirs.conf = conf;
            }
            if let Some(path) = dirs.bin.iter().chain([&dirs.conf]).find(|path| !path.is_absolute()) {
                bail!("{}: `{}` is no absolute path", place(), path.display());
            }
        }
        Ok(dirs)
    }
}

#[derive(Deserialize)]
struct Containerd {
    #[serde(default)]
    plugins: toml::Table,
}

#[derive(Deserialize)]
struct Cni {
    /// Until containerd 2.0.
    bin_dir: Option<PathBuf>,
    #[serde(default)]
    bin_dirs: Vec<PathBuf>,
    conf_dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    /// As k3s writes it, shortened.
    const NAMED: &str = r#"
version = 3
root = "/var/lib/rancher/k3s/agent/containerd"
state = "/run/k3s/containerd"

[plugins.'io.containerd.cri.v1.runtime']
  enable_selinux = false

[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/var/lib/rancher/k3s/data/cni"]
  conf_dir = "/var/lib/rancher/k3s/agent/etc/cni/net.d"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"#;
    const OLD: &str = r#"
version = 2

[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/var/lib/rancher/k3s/data/current/bin"
  conf_dir = "/var/lib/rancher/k3s/agent/etc/cni/net.d"
"#;
    /// Started with `--flannel-backend=none`, before 1.32.
    const UNNAMED: &str = r#"
version = 2

[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/rancher/k3s/agent/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
"#;

    fn dirs(bin: &str, conf: &str) -> CniDirs {
        CniDirs { bin: vec![bin.into()], conf: conf.into() }
    }

    #[test]
    fn the_folders_are_those_that_k3s_names_to_its_containerd_in_either_of_its_forms() {
        let conf = "/var/lib/rancher/k3s/agent/etc/cni/net.d";
        assert_eq!(CniDirs::of_containerd(NAMED).unwrap(), dirs("/var/lib/rancher/k3s/data/cni", conf));
        assert_eq!(CniDirs::of_containerd(OLD).unwrap(), dirs("/var/lib/rancher/k3s/data/current/bin", conf));
    }

    #[test]
    fn where_k3s_names_none_and_where_there_is_no_k3s_they_are_the_usual_ones() {
        let usual = dirs("/opt/cni/bin", "/etc/cni/net.d");
        assert_eq!(CniDirs::of_containerd(UNNAMED).unwrap(), usual);
        let folder = Folder::new();
        assert_eq!(CniDirs::of(folder.path()).unwrap(), usual);
    }

    #[test]
    fn a_configuration_that_cannot_be_read_is_an_error_that_names_the_place() {
        let folder = Folder::new();
        let path = below(folder.path(), Path::new(K3S));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        for (text, says) in [
            ("[plugins", "no configuration of containerd"),
            ("[plugins.cri.cni]\nbin_dir = 7\n", "plugins.'cri'.cni"),
            ("[plugins.cri.cni]\nconf_dir = \"net.d\"\n", "`net.d` is no absolute path"),
        ] {
            fs::write(&path, text).unwrap();
            let error = format!("{:#}", CniDirs::of(folder.path()).unwrap_err());
            assert!(error.contains(K3S) && error.contains(says), "{error}");
        }
    }
}
