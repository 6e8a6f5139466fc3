//! After `weir-agent uninstall` nothing of ours is on the node. The real binaries: needs root (`cargo xtask test netns` builds
//! them).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use netlink::{Handle, ROUTE_PROTOCOL};
use tests::command::binary;
use tests::stage::{Stage, block_on};
use tests::town::{namespace, pod};

/// The node's files, in a folder of this test's own.
struct Root(PathBuf);

impl Root {
    fn new(socket: &Path) -> Self {
        let root = std::env::temp_dir().join(format!("weir-uninstall-{}", std::process::id()));
        for folder in ["opt/cni/bin", "etc/cni/net.d", "run/weir", "var/lib/weir/cni"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in ["opt/cni/bin/weir-cni", "opt/cni/bin/bridge", "etc/cni/net.d/99-theirs.conf"] {
            fs::write(root.join(file), "").unwrap();
        }
        fs::write(root.join("etc/cni/net.d/10-weir.conflist"), "{}").unwrap();
        symlink("weir-cni", root.join("opt/cni/bin/loopback")).unwrap();
        symlink(socket, root.join("run/weir/agent.sock")).unwrap();
        Self(root)
    }

    fn files(&self) -> Vec<String> {
        let mut open = vec![self.0.clone()];
        let mut files = Vec::new();
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                let name = entry.strip_prefix(&self.0).unwrap().display().to_string();
                if entry.is_dir() && !entry.is_symlink() {
                    open.push(entry);
                }
                files.push(name);
            }
        }
        files.sort();
        files
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn after_uninstall_a_node_has_no_link_pin_route_table_or_file_of_ours_and_all_of_others() {
    block_on(async {
        let text =
            [namespace("shop", ""), pod("shop/a", 0, "app: a", "80"), pod("shop/b", 1, "app: b", "80")];
        let stage = Stage::up(&text.concat()).await;
        let folder = stage.folder().join("node-0");
        let root = Root::new(&folder.join("agent.sock"));
        let mut layouts = fs::read_dir(folder.join("bpf")).unwrap().map(|entry| entry.unwrap().path());
        let pins =
            layouts.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("layout-")).unwrap();
        let node = stage.netns("node/node-0");
        let uninstall = |more: &[&str]| -> Output {
            let mut command = Command::new(binary("weir-agent"));
            command.args(["uninstall", "--root"]).arg(&root.0).arg("--pins").arg(&pins).args(more);
            node.run(|| command.output()).unwrap().unwrap()
        };
        let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();

        let refused = uninstall(&[]);
        assert!(!refused.status.success() && said(&refused).contains("an agent answers"), "{refused:?}");
        stage.sandbox.kill_agent("node-0").await.unwrap();
        let found = uninstall(&["--check"]);
        for thing in
            ["veth weir", "route ", "programs and maps", "10-weir.conflist", "loopback", "/var/lib/weir"]
        {
            assert!(said(&found).contains(thing), "{thing}: {}", said(&found));
        }
        assert!(!found.status.success() && pins.exists(), "it only looks");

        let done = uninstall(&[]);
        assert!(done.status.success(), "{}", said(&done));
        assert!(uninstall(&["--check"]).status.success());
        // With other eyes than its own.
        assert!(!pins.exists());
        let handle = Handle::in_netns(&node).unwrap();
        let links: Vec<_> = handle.links().await.unwrap().into_iter().map(|link| link.name).collect();
        assert!(links.iter().all(|name| !name.starts_with("weir")), "{links:?}");
        let routes = handle.routes().await.unwrap();
        assert!(routes.iter().all(|route| route.protocol != ROUTE_PROTOCOL), "{routes:?}");
        let stay = ["etc", "etc/cni", "etc/cni/net.d", "etc/cni/net.d/99-theirs.conf", "opt", "opt/cni"];
        let stay = stay.into_iter().chain(["opt/cni/bin", "opt/cni/bin/bridge", "run", "var", "var/lib"]);
        assert_eq!(root.files(), stay.collect::<Vec<_>>());
        stage.down().await;
    });
}
