//! Options from a folder, as a cluster mounts a ConfigMap: a file for each, named like the option without its dashes.
//!
//! An empty one means the option's default, one that may be repeated has a value a line, and a flag says `true` or `false`.
//! What stands on the command line itself wins.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Arg, ArgAction, Command};

/// The option that names the folder.
const CONFIG: &str = "config";

/// The command line with what the folder of its `--config` adds to it.
pub(crate) fn expand(mut line: Vec<OsString>, command: &Command) -> Result<Vec<OsString>> {
    if let Some(folder) = folder(&line) {
        let added = read(&folder, &line, command)?;
        line.extend(added);
    }
    Ok(line)
}

fn folder(line: &[OsString]) -> Option<PathBuf> {
    line.iter().enumerate().find_map(|(at, word)| {
        let rest = word.to_str()?.strip_prefix("--config")?;
        match rest.strip_prefix('=') {
            Some(folder) => Some(folder.into()),
            None if rest.is_empty() => line.get(at + 1).map(PathBuf::from),
            None => None,
        }
    })
}

fn read(folder: &Path, line: &[OsString], command: &Command) -> Result<Vec<OsString>> {
    let place = || format!("--config {}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(place)? {
        let name = entry.with_context(place)?.file_name().to_string_lossy().into_owned();
        // How the kubelet swaps the content of the folder at once.
        if !name.starts_with('.') {
            files.push(name);
        }
    }
    files.sort();
    let mut words = Vec::new();
    for name in files {
        let path = folder.join(&name);
        if path.is_dir() {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let option = command.get_arguments().find(|arg| is_named(arg, &name) && name != CONFIG);
        let Some(option) = option else {
            bail!("{}: there is no such option; `weir-agent --help` has them all", path.display())
        };
        if text.trim().is_empty() || is_given(line, &name) {
            continue;
        }
        words.extend(words_of(option, &name, &text).with_context(|| path.display().to_string())?);
    }
    let named = |name: &&str| is_given(line, name) || is_given(&words, name);
    if !["api-server", "kubeconfig", "source"].iter().any(named) {
        bail!(
            "{}: neither `api-server` nor anything else there says who knows what is desired: set it to an address of the \
             API server that this node reaches by itself, such as https://192.0.2.10:6443 (in the ConfigMap weir-config; \
             `weir install` does so)",
            folder.display()
        );
    }
    Ok(words)
}

fn words_of(option: &Arg, name: &str, text: &str) -> Result<Vec<OsString>> {
    let text = text.trim();
    let values: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match (option.get_action(), &values[..]) {
        (ArgAction::SetTrue, ["true"]) => Ok(vec![format!("--{name}").into()]),
        (ArgAction::SetTrue, ["false"]) => Ok(Vec::new()),
        (ArgAction::SetTrue, _) => bail!("`{text}`: expected true or false"),
        (ArgAction::Append, values) => Ok(values.iter().map(|it| format!("--{name}={it}").into()).collect()),
        (_, [value]) => Ok(vec![format!("--{name}={value}").into()]),
        (_, values) => bail!("has {} lines, and --{name} takes one value", values.len()),
    }
}

/// By its name of today, or one that it had.
fn is_named(arg: &Arg, name: &str) -> bool {
    arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
}

fn is_given(line: &[OsString], name: &str) -> bool {
    line.iter().filter_map(|word| word.to_str()).any(|word| {
        word.strip_prefix("--")
            .and_then(|word| word.strip_prefix(name))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, FromArgMatches as _};

    use super::*;
    use crate::config::{Call, Config};
    use crate::testing::Folder;

    fn parse(files: &[(&str, &str)], line: &[&str]) -> Result<Config> {
        let folder = Folder::new();
        for (name, text) in files {
            fs::write(folder.path().join(name), text)?;
        }
        fs::create_dir(folder.path().join("..data"))?;
        let mut words: Vec<OsString> = vec!["weir-agent".into(), "--config".into(), folder.path().into()];
        words.extend(line.iter().map(OsString::from));
        let command = Call::command();
        let words = expand(words, &command)?;
        let call = Call::from_arg_matches(&command.try_get_matches_from(words)?)?;
        call.config.context("no call of the agent itself")
    }

    const LINE: [&str; 2] = ["--node=n1", "--pins=/sys/fs/bpf/weir"];

    #[test]
    fn each_file_is_an_option_and_an_empty_one_means_the_default() {
        let files = [
            ("api-server", "https://192.0.2.10:6443\n"),
            ("metrics", "127.0.0.1:9665"),
            ("log", ""),
            ("device", "eth0\neth1\n"),
            ("migrate", "true"),
        ];
        let config = parse(&files, &LINE).unwrap();
        assert_eq!(config.api_server.as_deref(), Some("https://192.0.2.10:6443"));
        assert_eq!(config.metrics, Some("127.0.0.1:9665".parse().unwrap()));
        assert_eq!(config.log, "info,kube_client=off");
        assert_eq!(config.devices, ["eth0", "eth1"]);
        assert!(config.migrate);
    }

    #[test]
    fn what_stands_on_the_command_line_wins() {
        let files = [("api-server", "https://192.0.2.10:6443"), ("log", "debug"), ("migrate", "false")];
        let config = parse(&files, &[LINE[0], LINE[1], "--log=warn"]).unwrap();
        assert_eq!(config.log, "warn");
        assert!(!config.migrate);
    }

    #[test]
    fn what_is_wrong_names_the_file_and_what_would_be_right() {
        for (file, text, says) in [
            ("api-servre", "https://192.0.2.10", "api-servre: there is no such option"),
            ("migrate", "yes", "migrate: `yes`: expected true or false"),
            ("log", "info\ndebug", "log: has 2 lines"),
            ("config", "/else", "config: there is no such option"),
            ("api-server", " \n", "neither `api-server` nor anything else"),
        ] {
            let error = format!("{:#}", parse(&[(file, text)], &LINE).err().unwrap());
            assert!(error.contains(says), "{error}");
        }
    }
}
