//! Manifests as people write them, and what is said about those that are wrong.

use crate::manifest::{Document, documents, object};
use crate::object::Object;

/// Line, kind and name of each document.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let found: Vec<String> = match documents("f.yaml", text) {
        Ok(documents) => documents.iter().map(|document| format!("{} {document}", document.line)).collect(),
        Err(error) => vec![error.to_string()],
    };
    assert_eq!(found, expected);
}

fn only(text: &str) -> Document {
    let mut documents = documents("f.yaml", text).unwrap();
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

/// What is warned of, or the error.
#[track_caller]
fn check_object(text: &str, expected: &[&str]) {
    let found = match object(&only(text)) {
        Ok(Some((_, warnings))) => warnings.iter().map(ToString::to_string).collect(),
        Ok(None) => vec!["not watched".to_owned()],
        Err(error) => vec![format!("error: {error}")],
    };
    assert_eq!(found, expected);
}

#[test]
fn many_documents_stand_in_one_file_each_with_its_line() {
    check(
        "# a comment\n\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n---\n---\n# nothing\n--- # more\nkind: Pod\napiVersion: v1\nmetadata: {name: b, namespace: a}\n...\n---\n{kind: Pod, apiVersion: v1, metadata: {name: c}}\n",
        &["3 Namespace a", "11 Pod a/b", "16 Pod c"],
    );
    check("", &[]);
    check("# only a comment\n---\n", &[]);
}

#[test]
fn crlf_bom_directives_and_markers_in_text_do_no_harm() {
    check(
        "\u{feff}%YAML 1.2\r\n---\r\nkind: Pod\r\napiVersion: v1\r\nmetadata:\r\n  name: a\r\n  annotations:\r\n    text: |\r\n      ---\r\n      kind: no\r\n",
        &["3 Pod a"],
    );
}

#[test]
fn json_is_read_even_with_tabs_and_several_in_a_row() {
    check(
        "{\n\t\"kind\": \"Pod\",\n\t\"apiVersion\": \"v1\",\n\t\"metadata\": {\"name\": \"a\"}\n}\n{\"kind\": \"Pod\", \"apiVersion\": \"v1\", \"metadata\": {\"name\": \"b\"}}\n",
        &["1 Pod a", "6 Pod b"],
    );
}

#[test]
fn lists_are_unfolded_typed_ones_too() {
    check(
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n- {apiVersion: v1, kind: List, items: [{apiVersion: apps/v1, kind: Deployment, metadata: {name: b}}]}\n",
        &["1 Pod a", "1 Deployment b"],
    );
    check(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicyList\nmetadata: {resourceVersion: '1'}\nitems:\n- metadata: {name: a, namespace: x}\n",
        &["1 NetworkPolicy x/a"],
    );
    check("apiVersion: v1\nkind: PodList\nitems: []\n", &[]);
}

#[test]
fn anchors_and_merge_keys_work() {
    let document = only(
        "kind: Pod\napiVersion: v1\nmetadata:\n  name: a\n  labels: &l {app: web}\n  annotations:\n    <<: *l\n    more: 'yes'\n",
    );
    assert_eq!(document.value["metadata"]["annotations"]["app"], "web");
}

#[test]
fn what_is_no_kubernetes_object_is_named_with_its_line() {
    check(
        "kind: Pod\n---\nfoo\n",
        &["f.yaml:1: Pod without `apiVersion`: expected for example `apiVersion: v1`"],
    );
    check(
        "apiVersion: v1\n",
        &["f.yaml:1: object without `kind`: expected for example `kind: NetworkPolicy`"],
    );
    check(
        "\n---\n\n- a\n",
        &["f.yaml:4: not a Kubernetes object: expected fields such as `apiVersion` and `kind`"],
    );
}

#[test]
fn unparsable_yaml_is_named_with_its_line() {
    for (text, line) in [
        (
            "kind: Pod\napiVersion: v1\n---\nkind: Pod\napiVersion: [v1\nmetadata: {}\n",
            "f.yaml:6: not valid YAML: ",
        ),
        ("kind: Pod\n\tapiVersion: v1\n", "f.yaml:1: not valid YAML: "),
        ("kind: Pod\napiVersion: v1\nkind: Node\n", "f.yaml:3: not valid YAML: "),
        ("{\"kind\": \"Pod\", \"apiVersion\": }", "f.yaml:1: "),
    ] {
        let error = documents("f.yaml", text).unwrap_err().to_string();
        assert!(error.starts_with(line) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn kinds_that_we_do_not_watch_are_none_of_our_business() {
    check_object("kind: Deployment\napiVersion: apps/v1\nmetadata: {name: a}\n", &["not watched"]);
    check_object(
        "kind: NetworkPolicy\napiVersion: crd.projectcalico.org/v1\nmetadata: {name: a}\n",
        &["not watched"],
    );
}

#[test]
fn fields_that_the_type_does_not_have_are_named_by_their_path() {
    check_object(
        "kind: Pod\napiVersion: v1\nmetadata: {name: a, namespace: x, label: {}, creationTimestamp: null}\nspec:\n  colour: null\n  containers:\n  - {name: c, image: i, port: 1}\n",
        &["Pod x/a: metadata.label: unknown field", "Pod x/a: spec.containers[0].port: unknown field"],
    );
    check_object("kind: Namespace\napiVersion: v1\nmetadata: {name: a}\n", &[]);
}

#[test]
fn a_field_of_the_wrong_type_is_an_error_with_object_and_path() {
    check_object(
        "kind: Pod\napiVersion: v1\nmetadata: {name: a, namespace: x}\nspec:\n  containers:\n  - {name: c, ports: [{containerPort: eighty}]}\n",
        &[
            "error: Pod x/a: spec.containers[0].ports[0].containerPort: invalid type: string \"eighty\", expected i32",
        ],
    );
    check_object(
        "kind: Service\napiVersion: v1\nmetadata: {name: a, labels: {on: true}}\n",
        &["error: Service a: metadata.labels.on: invalid type: boolean `true`, expected a string"],
    );
}

#[test]
fn an_object_without_a_name_is_an_error_that_says_where_it_stands() {
    check_object(
        "\nkind: Pod\napiVersion: v1\nmetadata: {namespace: x}\n",
        &["error: Pod at f.yaml:2: metadata.name: missing: every object needs a name"],
    );
}

#[test]
fn a_network_policy_survives_a_field_of_the_wrong_type() {
    check_object(
        "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {name: a}\nspec: {podSelector: [], ingress: {}, policyTypes: Ingress}\n",
        &[
            "NetworkPolicy default/a: spec.ingress: invalid type: map, expected a sequence, so the field is left out",
            "NetworkPolicy default/a: spec.podSelector: invalid type: sequence, expected LabelSelector, so the field is left out",
            "NetworkPolicy default/a: spec.policyTypes: invalid type: string \"Ingress\", expected a sequence, so the field is left out",
        ],
    );
}

#[test]
fn quantities_may_be_numbers() {
    check_object(
        "kind: Pod\napiVersion: v1\nmetadata: {name: a}\nspec:\n  containers:\n  - {name: c, resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 0.5}}}\n",
        &[],
    );
}

#[test]
fn objects_know_their_key() {
    let key =
        |text| object(&only(text)).unwrap().map(|(object, _): (Object, _)| object.key().to_string()).unwrap();
    assert_eq!(key("kind: Pod\napiVersion: v1\nmetadata: {name: a}\n"), "Pod default/a");
    assert_eq!(key("kind: Node\napiVersion: v1\nmetadata: {name: a, namespace: x}\n"), "Node a");
}
