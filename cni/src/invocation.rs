//! What the runtime says in the environment: the command and the attachment it is about.

use std::ffi::OsString;
use std::path::PathBuf;

use api::PodRef;

use crate::spec::{Failure, code};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            _ => return None,
        })
    }

    /// The variables it cannot do without.
    fn required(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Self::Gc | Self::Status | Self::Version => &[],
        }
    }
}

/// Invariant: what the command requires is not empty, and what is not empty is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invocation {
    pub(crate) command: Command,
    pub(crate) container_id: String,
    /// The interface's name in the pod.
    pub(crate) ifname: String,
    /// Absent only for `DEL` (the namespace is gone) and for commands about no container.
    pub(crate) netns: Option<PathBuf>,
    args: String,
}

impl Invocation {
    /// Reads the environment through `variable`. Every variable that is wrong is named, not only the first.
    pub(crate) fn from_env(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        let mut wrong = Vec::new();
        let mut read = |name: &'static str| match variable(name).map(OsString::into_string) {
            Some(Ok(value)) => value,
            Some(Err(_)) => {
                wrong.push(format!("{name} is not UTF-8"));
                String::new()
            }
            None => String::new(),
        };
        let command = read("CNI_COMMAND");
        let container_id = read("CNI_CONTAINERID");
        let ifname = read("CNI_IFNAME");
        let netns = read("CNI_NETNS");
        let args = read("CNI_ARGS");

        let Some(command) = Command::parse(&command) else {
            return Err(environment(&format!(
                "CNI_COMMAND is `{command}`, not ADD, DEL, CHECK, GC, STATUS or VERSION"
            )));
        };
        let given = [("CNI_CONTAINERID", &container_id), ("CNI_NETNS", &netns), ("CNI_IFNAME", &ifname)];
        for required in command.required() {
            if given.iter().any(|(name, value)| name == required && value.is_empty()) {
                wrong.push(format!("{required} is missing"));
            }
        }
        if !container_id.is_empty() && !is_identifier(&container_id) {
            wrong.push(format!(
                "CNI_CONTAINERID is `{container_id}`, not a letter or digit followed by letters, digits, `_`, `.`, `-`"
            ));
        }
        if let (false, Some(problem)) = (ifname.is_empty(), ifname_problem(&ifname)) {
            wrong.push(format!("CNI_IFNAME is `{ifname}`, which {problem}"));
        }
        if !wrong.is_empty() {
            return Err(environment(&wrong.join("; ")));
        }
        let netns = (!netns.is_empty()).then(|| netns.into());
        Ok(Self { command, container_id, ifname, netns, args })
    }

    /// The pod, where the runtime says which. Only `ADD` needs it, so only there bad arguments are an error.
    pub(crate) fn pod(&self) -> Result<Option<PodRef>, Failure> {
        let (mut namespace, mut name, mut uid) = ("", "", "");
        let (mut unknown, mut ignore_unknown) = (Vec::new(), false);
        for pair in self.args.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(environment(&format!("CNI_ARGS has `{pair}`, not KEY=VALUE")));
            };
            match key {
                "K8S_POD_NAMESPACE" => namespace = value,
                "K8S_POD_NAME" => name = value,
                "K8S_POD_UID" => uid = value,
                "K8S_POD_INFRA_CONTAINER_ID" => {}
                "IgnoreUnknown" => ignore_unknown = matches!(value, "1" | "true" | "True" | "TRUE"),
                _ => unknown.push(key),
            }
        }
        if !unknown.is_empty() && !ignore_unknown {
            return Err(environment(&format!(
                "CNI_ARGS has {}, which mean nothing here, and no IgnoreUnknown=1",
                unknown.join(", ")
            )));
        }
        let pod = (!namespace.is_empty() && !name.is_empty()).then(|| PodRef {
            namespace: namespace.into(),
            name: name.into(),
            uid: (!uid.is_empty()).then(|| uid.into()),
        });
        Ok(pod)
    }
}

/// `[a-zA-Z0-9][a-zA-Z0-9_.-]*`: container ids and network names.
pub(crate) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn ifname_problem(name: &str) -> Option<&'static str> {
    if name.len() > 15 {
        Some("is longer than 15 bytes")
    } else if name == "." || name == ".." {
        Some("is not a name")
    } else if name.chars().any(|c| c == '/' || c == ':' || c.is_whitespace()) {
        Some("has a `/`, `:` or space in it")
    } else {
        None
    }
}

pub(crate) fn environment(problem: &str) -> Failure {
    Failure::new(code::ENVIRONMENT, format!("invalid environment: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADD: &str = "CNI_COMMAND=ADD CNI_CONTAINERID=c1 CNI_NETNS=/run/netns/c1 CNI_IFNAME=eth0";

    /// Later words win over earlier ones.
    fn parse(environment: &str) -> Result<Invocation, Failure> {
        Invocation::from_env(&|name| {
            let mut pairs = environment.split(' ').filter_map(|word| word.split_once('='));
            pairs.rfind(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    }

    #[track_caller]
    fn refused(environment: &str, expect: &str) {
        let failure = parse(environment).expect_err(environment);
        assert_eq!(
            (failure.code, failure.message),
            (4, format!("invalid environment: {expect}")),
            "{environment}"
        );
    }

    #[track_caller]
    fn accepted(environment: &str) {
        parse(environment).expect(environment);
    }

    #[test]
    fn every_missing_variable_is_named() {
        refused("CNI_COMMAND=ADD", "CNI_CONTAINERID is missing; CNI_NETNS is missing; CNI_IFNAME is missing");
        refused("CNI_COMMAND=CHECK CNI_IFNAME=eth0", "CNI_CONTAINERID is missing; CNI_NETNS is missing");
        refused("CNI_COMMAND=DEL", "CNI_CONTAINERID is missing; CNI_IFNAME is missing");
        refused("CNI_COMMAND=add", "CNI_COMMAND is `add`, not ADD, DEL, CHECK, GC, STATUS or VERSION");
    }

    #[test]
    fn commands_need_only_what_concerns_them() {
        accepted(ADD);
        accepted("CNI_COMMAND=DEL CNI_CONTAINERID=c1 CNI_IFNAME=eth0");
        accepted("CNI_COMMAND=DEL CNI_CONTAINERID=c1 CNI_IFNAME=eth0 CNI_NETNS=");
        accepted("CNI_COMMAND=GC");
        accepted("CNI_COMMAND=STATUS");
        accepted("CNI_COMMAND=VERSION");
    }

    #[test]
    fn a_container_id_is_letters_digits_and_three_signs() {
        for id in ["a", "0123456789abcdef", "A_b.c-d"] {
            accepted(&format!("{ADD} CNI_CONTAINERID={id}"));
        }
        for id in ["-a", ".a", "_a", "a/b", "../a", "a b", "ä", "a:b"] {
            let environment = ADD.replace("CNI_CONTAINERID=c1", "");
            let failure = Invocation::from_env(&|name| match name {
                "CNI_CONTAINERID" => Some(id.into()),
                _ => environment
                    .split(' ')
                    .find_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.into())),
            });
            assert_eq!(failure.expect_err(id).code, 4);
        }
    }

    #[test]
    fn an_interface_name_is_what_the_kernel_takes() {
        accepted(&format!("{ADD} CNI_IFNAME=abcdefghijklmno"));
        accepted(&format!("{ADD} CNI_IFNAME=eth0.100"));
        refused(
            &format!("{ADD} CNI_IFNAME=abcdefghijklmnop"),
            "CNI_IFNAME is `abcdefghijklmnop`, which is longer than 15 bytes",
        );
        for (name, problem) in
            [(".", "is not a name"), ("..", "is not a name"), ("a/b", "has a `/`, `:` or space in it")]
        {
            refused(&format!("{ADD} CNI_IFNAME={name}"), &format!("CNI_IFNAME is `{name}`, which {problem}"));
        }
        refused(&format!("{ADD} CNI_IFNAME=a:b"), "CNI_IFNAME is `a:b`, which has a `/`, `:` or space in it");
        refused(
            &format!("{ADD} CNI_IFNAME=a\tb"),
            "CNI_IFNAME is `a\tb`, which has a `/`, `:` or space in it",
        );
    }

    fn pod(args: &str) -> Result<Option<(String, String, Option<String>)>, String> {
        let invocation = parse(&format!("{ADD} CNI_ARGS={args}")).unwrap();
        match invocation.pod() {
            Ok(pod) => Ok(pod.map(|pod| (pod.namespace, pod.name, pod.uid))),
            Err(failure) => Err(failure.message),
        }
    }

    #[test]
    fn the_pod_is_named_by_kubernetes_arguments() {
        let shop = |uid: Option<&str>| Ok(Some(("shop".into(), "web".into(), uid.map(Into::into))));
        assert_eq!(pod("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web"), shop(None));
        assert_eq!(
            pod(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1;X=y"
            ),
            shop(Some("u1"))
        );
        assert_eq!(pod(""), Ok(None));
        assert_eq!(pod("K8S_POD_NAMESPACE=shop"), Ok(None));
        assert_eq!(
            pod("X=y;K8S_POD_NAME=web"),
            Err("invalid environment: CNI_ARGS has X, which mean nothing here, and no IgnoreUnknown=1".into())
        );
        assert_eq!(
            pod("nonsense"),
            Err("invalid environment: CNI_ARGS has `nonsense`, not KEY=VALUE".into())
        );
    }
}
