//! `weir ingress lint` as people run it who come from another controller.

use std::path::PathBuf;
use std::process::{Command, Output};

const MANIFESTS: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: shop
  annotations:
    nginx.ingress.kubernetes.io/rewrite-target: /$2
    nginx.ingress.kubernetes.io/enable-modsecurity: \"true\"
    nginx.ingress.kubernetes.io/configuration-snippet: |
      more_set_headers \"A: b\";
spec:
  ingressClassName: nginx
  rules:
    - host: shop.example.com
      http:
        paths:
          - path: /api(/|$)(.*)
            pathType: ImplementationSpecific
            backend: {service: {name: web, port: {number: 80}}}
          - path: /old
            pathType: Prefix
            backend: {service: {name: wbe, port: {number: 80}}}
";

/// A folder with one file, which goes away with its owner.
struct Manifests(PathBuf);

impl Manifests {
    fn new(name: &str, text: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("weir-ingress-lint-{}-{name}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("shop.yaml"), text).unwrap();
        Self(folder)
    }

    fn lint(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.current_dir(&self.0).args(["ingress", "lint", "-f", "shop.yaml"]).args(arguments);
        command.output().unwrap()
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

#[test]
fn what_would_not_be_honoured_is_named_with_its_place() {
    let output = Manifests::new("found", MANIFESTS).lint(&[]);
    let expected = "\
shop.yaml:12: Ingress default/shop: nginx.ingress.kubernetes.io/enable-modsecurity: not supported: without it the object would be \
open; the object is refused to everyone
shop.yaml:13: Ingress default/shop: nginx.ingress.kubernetes.io/configuration-snippet: not honoured: snippets of nginx's \
configuration never are
shop.yaml:26: Ingress default/shop: spec.rules[0].http.paths[1].backend.service: there is no Service default/wbe; its requests \
are answered 503
3 findings in 1 Ingress, of which 2 rules would be served
";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{output:?}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn what_would_be_honoured_is_found_whatever_class_it_names() {
    let fine = MANIFESTS.replace("wbe", "web");
    let kept: Vec<&str> = fine
        .lines()
        .filter(|line| !["modsecurity", "snippet", "more_set"].iter().any(|gone| line.contains(gone)))
        .collect();
    let manifests = Manifests::new("fine", &kept.join("\n"));
    let output = manifests.lint(&[]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "0 findings in 1 Ingress, of which 2 rules would be served\n"
    );
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(manifests.lint(&["-o", "json"]).stdout, b"[]\n");
}

#[test]
fn files_that_cannot_be_read_are_an_error_of_their_own() {
    let output = Manifests::new("broken", "kind: [unfinished").lint(&[]);
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.starts_with("weir: file shop.yaml: shop.yaml:1: not valid YAML"), "{stderr}");
}
