//! The page of `weir sandbox --report`, made by a real run and looked at in a real browser.
//!
//! Pictures of it are left in `target/tmp/report-*.png`, for people to look at.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::browser::Browser;
use tests::command::{Run, sandbox, wait_for};
use tests::stage::{Manifests, require_root};

/// A page that goes away with its owner.
struct Page(PathBuf);

impl Page {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("weir-report-{}-{name}.html", std::process::id())))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

/// Measures `manifests`; the page, and the JSON of the same run.
#[track_caller]
fn report(manifests: &Path, name: &str) -> (Page, Value) {
    require_root();
    let page = Page::new(name);
    let path = page.0.display().to_string();
    let Output { status, stdout, stderr } =
        Run::start(&mut sandbox(&[manifests], &["-o", "json", "--report", &path])).wait();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    (page, serde_json::from_slice(&stdout).expect("exactly one JSON object"))
}

fn shop() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop")
}

/// The cell whose label reads so.
fn cell(label: &str) -> String {
    format!("#grid td[aria-label={}]", Value::from(label))
}

#[track_caller]
fn says(browser: &mut Browser, selector: &str, words: &[&str]) {
    let text = browser.text(selector);
    for word in words {
        assert!(text.as_str().is_some_and(|text| text.contains(word)), "{selector} lacks {word:?}: {text}");
    }
}

/// A pod of namespace `x` that listens on port 80.
fn pod(name: &str, note: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: x, labels: {{app: {name}, note: \"{note}\"}}}}\n\
         spec: {{containers: [{{name: c, ports: [{{containerPort: 80}}]}}]}}\n---\n"
    )
}

/// Nothing went wrong in it, and it asked nobody for anything.
#[track_caller]
fn is_quiet(browser: &mut Browser) {
    assert_eq!(browser.complaints(), Vec::<String>::new());
    // What scripts write where a value is missing.
    let text = browser.text("body");
    for slip in ["undefined", "null", "NaN", "[object"] {
        assert!(text.as_str().is_some_and(|text| !text.contains(slip)), "{slip}: {text}");
    }
    let strangers: Vec<_> = browser
        .requests()
        .into_iter()
        .filter(|url| !["file://", "data:", "about:"].iter().any(|own| url.starts_with(own)))
        .collect();
    assert_eq!(strangers, Vec::<String>::new());
}

fn keep_picture(browser: &mut Browser, name: &str) {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("report-{name}.png"));
    let mut decode = Command::new("base64")
        .arg("--decode")
        .stdin(Stdio::piped())
        .stdout(std::fs::File::create(file).expect("a file for the picture"))
        .spawn()
        .expect("base64 of the coreutils");
    decode
        .stdin
        .take()
        .expect("its input")
        .write_all(browser.picture().as_bytes())
        .expect("decode the picture");
    assert!(decode.wait().expect("decode the picture").success());
}

#[test]
fn a_click_on_a_denied_cell_shows_its_policies_and_the_nearest_miss() {
    let (page, _) = report(&shop(), "click");
    let mut browser = Browser::start();
    browser.prefer("light");
    browser.open(&page.0, "");
    says(&mut browser, "#why", &["Click a cell", "ingress by shop/cache, shop/deny-all"]);
    browser.click(&cell("denied: shop/cart to shop/cache port 11299"));
    says(&mut browser, "#why h2", &["shop/cart → shop/cache"]);
    says(
        &mut browser,
        "#why .answer",
        &["Denied", "IPv4 and IPv6", "shop/cache, shop/deny-all", "no rule allows it", "policy_denied"],
    );
    says(
        &mut browser,
        "#why .miss",
        &["policy shop/cache", "11211", "11213", "you asked 11299", "spec.ingress[0]", "policies.yaml:"],
    );
    keep_picture(&mut browser, "light");
    browser.click("#why .answer details summary");
    says(&mut browser, "#why pre", &["kind: NetworkPolicy", "endPort: 11213"]);

    browser.click(&cell("reaches: shop/frontend to shop/cart port 7070"));
    says(&mut browser, "#why .answer", &["Allowed", "spec.ingress[0] of shop/cart allows it"]);
    assert_eq!(browser.text("#why .miss"), Value::Null);
    assert_eq!(browser.ask("document.querySelectorAll('[aria-selected=true]').length"), 1);
    // A link leads back to the cell.
    let link = browser.ask("location.hash.slice(1)");
    browser.open(&page.0, link.as_str().expect("a fragment"));
    says(&mut browser, "#why h2", &["shop/frontend → shop/cart"]);
    is_quiet(&mut browser);
}

#[test]
fn the_page_says_what_the_json_of_the_same_run_says() {
    let (page, json) = report(&shop(), "same");
    let mut browser = Browser::start();
    browser.open(&page.0, "");
    browser.click("#views input[value=pod]");
    let shown = browser.ask(
        "Object.fromEntries([...document.querySelectorAll('#grid td[tabindex]')].map((td) => \
         [td.getAttribute('aria-label').replace(/^[^:]*: /, ''), td.innerText]))",
    );
    let shown: BTreeMap<String, String> = serde_json::from_value(shown).expect("labels and marks");
    let node_of: BTreeMap<String, &Value> = json["pods"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|pod| (format!("{}/{}", text(&pod["namespace"]), text(&pod["name"])), &pod["node"]))
        .collect();
    // As the page calls an end that is no pod, seen from the pod at the other end.
    let name = |end: &str, other: &str| match end.strip_prefix("node/") {
        Some(node) if node_of.get(other).is_some_and(|its| **its == node) => "its own node".to_owned(),
        Some(_) => "another node".to_owned(),
        None => end.to_owned(),
    };
    let mut measured: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for probe in json["probes"].as_array().into_iter().flatten().filter(|probe| probe["from"] != probe["to"])
    {
        let (from, to) = (text(&probe["from"]), text(&probe["to"]));
        let protocol = match text(&probe["protocol"]) {
            "TCP" => String::new(),
            other => format!("/{other}"),
        };
        let label = format!("{} to {} port {}{protocol}", name(from, to), name(to, from), probe["port"]);
        measured.entry(label).or_default().insert(if probe["verdict"] == "allowed" { "✓" } else { "✗" });
    }
    assert!(measured.len() > 80, "{}", measured.len());
    // No verdict of the shop depends on the family, or on which other node it is.
    let measured: BTreeMap<String, String> =
        measured.into_iter().map(|(label, marks)| (label, Vec::from_iter(marks).concat())).collect();
    assert_eq!(shown, measured);
    is_quiet(&mut browser);
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

#[test]
fn dark_is_what_the_system_prefers_until_somebody_says_otherwise() {
    let (page, _) = report(&shop(), "dark");
    let mut browser = Browser::start();
    let ground = "getComputedStyle(document.body).backgroundColor";
    browser.prefer("light");
    browser.open(&page.0, "");
    let light = browser.ask(ground);
    assert_eq!(browser.ask("document.getElementById('theme').ariaPressed"), "false");
    browser.prefer("dark");
    let dark = browser.ask(ground);
    assert_ne!(light, dark);
    assert_eq!(browser.ask("document.getElementById('theme').ariaPressed"), "true");
    browser.click("#theme");
    assert_eq!(browser.ask(ground), light);
    browser.click("#theme");
    assert_eq!(browser.ask(ground), dark);
    browser.click(&cell("denied: shop/cart to shop/cache port 11299"));
    keep_picture(&mut browser, "dark");
    is_quiet(&mut browser);
}

#[test]
fn the_keyboard_reaches_everything() {
    let (page, _) = report(&shop(), "keys");
    let mut browser = Browser::start();
    browser.open(&page.0, "");
    let focused = "document.activeElement.getAttribute('aria-label')";
    // One stop of the Tab key is the whole matrix.
    assert_eq!(browser.ask("document.querySelectorAll('#grid [tabindex=\"0\"]').length"), 1);
    browser.ask("document.querySelector('#grid [tabindex=\"0\"]').focus()");
    assert_eq!(browser.ask(focused), "reaches: ops/backup to ops/prometheus port 9090");
    browser.press("ArrowRight");
    assert_eq!(browser.ask(focused), "denied: ops/backup to shop/cache port 11211");
    // Over a cell that was not probed.
    browser.press("ArrowDown");
    browser.press("ArrowDown");
    assert_eq!(browser.ask(focused), "reaches: shop/cart to shop/cache port 11211");
    browser.press("End");
    assert_eq!(browser.ask(focused), "reaches: shop/cart to outside port 443");
    browser.press("Home");
    browser.press("ArrowUp");
    browser.press("Enter");
    assert_eq!(browser.ask("document.activeElement.id"), "why");
    says(&mut browser, "#why h2", &["shop/cache → ops/prometheus"]);
    says(&mut browser, "#why .answer", &["out of the source (egress)", "shop/data-stays"]);
    browser.press("Escape");
    assert_eq!(browser.ask(focused), "denied: shop/cache to ops/prometheus port 9090");
    says(&mut browser, "#why", &["Click a cell"]);
    browser.press("/");
    assert_eq!(browser.ask("document.activeElement.id"), "from");
    browser.write("tier=data");
    assert_eq!(
        browser.ask("[...document.querySelectorAll('#grid th[scope=row]')].map((th) => th.title).join()"),
        "shop/cache,shop/db"
    );
    browser.write(" nobody");
    says(&mut browser, "#nothing", &["Nothing is left"]);
    browser.click("#clear");
    says(&mut browser, "#shown", &["10 × 10"]);
    is_quiet(&mut browser);
}

#[test]
fn only_differing_cells_leave_out_where_everyone_is_answered_alike() {
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: only-a, namespace: x}\n\
                  spec: {podSelector: {matchLabels: {app: c}}, ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]}\n";
    let manifests = Manifests::new(&(["a", "b", "c", "d"].map(|name| pod(name, "")).concat() + policy));
    let (page, _) = report(&manifests.0, "differing");
    let mut browser = Browser::start();
    browser.open(&page.0, "");
    let shown = "[...document.querySelectorAll('#grid th[scope=row], #grid th[title][scope=col]')].map((th) => th.title).join()";
    let all = browser.ask(shown);
    browser.click("#differing");
    // Everybody reaches the others; of c, most are kept away.
    assert_eq!(browser.ask(shown), "c:80,a,its own node");
    assert_eq!(browser.ask("document.querySelectorAll('#grid td.common').length"), 0);
    browser.click("#differing");
    assert_eq!(browser.ask(shown), all);
    is_quiet(&mut browser);
}

#[test]
fn what_manifests_say_is_text_and_nothing_else() {
    let hostile = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)>";
    let pods = ["a", "b"].map(|name| pod(name, hostile)).concat();
    let policy = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: some, namespace: x, labels: {{note: \
         \"{hostile}\"}}}}\nspec:\n  podSelector: {{matchLabels: {{app: a}}}}\n  ingress:\n  - from: [{{podSelector: \
         {{matchLabels: {{app: \"<b>{hostile}\"}}}}}}]\n"
    );
    let manifests = Manifests::new(&(pods + &policy));
    let (page, _) = report(&manifests.0, "hostile");
    let mut browser = Browser::start();
    browser.open(&page.0, "");
    let elements =
        "document.querySelectorAll('script').length + ' ' + document.querySelectorAll('img, b b').length";
    assert_eq!(browser.ask(elements), "2 0");
    browser.click(&cell("denied: b to a port 80"));
    // It is shown as it was written.
    says(&mut browser, "#why .answer", &[hostile, "Denied"]);
    says(&mut browser, "#why .labels", &[hostile]);
    assert_eq!(browser.ask(elements), "2 0");
    assert_eq!(browser.ask("document.title"), "Who reaches whom · weir sandbox");
    is_quiet(&mut browser);
    // What got in in spite of that would not run: the policy of the page lets in one script.
    let ran = browser.ask(
        "(() => { const s = document.createElement('script'); s.textContent = 'window.ran = true'; \
         document.body.append(s); return window.ran === true; })()",
    );
    assert_eq!(ran, false);
}

#[test]
fn sixty_pods_stay_readable() {
    let pods: String = (0..60)
        .map(|index| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: pod-{index:02}, namespace: team-{}, labels: {{app: \
                 pod-{index:02}}}}}\nspec: {{containers: [{{name: c, ports: [{{containerPort: 80}}]}}]}}\n---\n",
                index % 4
            )
        })
        .collect();
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: own, namespace: team-0}\n\
                  spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}\n";
    let manifests = Manifests::new(&(pods + policy));
    let (page, _) = report(&manifests.0, "sixty");
    let mut browser = Browser::start();
    browser.open(&page.0, "");
    says(&mut browser, "#shown", &["63 × 63"]);
    // Names stay in sight, however far one scrolls.
    browser.ask("document.getElementById('scroll').scrollTo(700, 900)");
    let in_sight = browser.ask(
        "(() => { const box = document.getElementById('scroll').getBoundingClientRect(); \
         const seen = (e) => { const r = e.getBoundingClientRect(); return r.bottom > box.top && r.right > box.left && \
         r.top < box.bottom && r.left < box.right; }; const td = document.elementFromPoint(box.left + box.width / 2, \
         box.top + box.height / 2).closest('td'); const row = td.parentElement.querySelector('th'); \
         const head = document.querySelector('#grid .heads').cells; \
         return [seen(row), seen(document.querySelector('#grid .corner')), [...head].filter(seen).length > 10]; })()",
    );
    assert_eq!(in_sight, serde_json::json!([true, true, true]));
    keep_picture(&mut browser, "sixty");
    // Drawing it anew is what each letter in a filter costs.
    let ms = browser.ask(
        "(() => { const from = document.getElementById('from'); const start = performance.now(); \
         for (const text of ['p', 'po', 'pod', 'pod-']) { from.value = text; from.dispatchEvent(new Event('input')); } \
         document.body.getBoundingClientRect(); return (performance.now() - start) / 4; })()",
    );
    // A tenth of this on an idle machine; what grows faster than the number of cells is caught on a busy one too.
    assert!(ms.as_f64().is_some_and(|ms| ms < 3000.0), "{ms} ms a letter");
    is_quiet(&mut browser);
}

#[test]
fn what_is_not_as_expected_stands_out() {
    require_root();
    let folder = Folder::new("expected");
    let (page, expect) = (folder.0.join("x.html"), folder.0.join("expect.yaml"));
    std::fs::write(
        &expect,
        "expect:\n- {from: shop/cart, to: shop/cache, port: 11299, reach: yes}\n\
         - {from: shop/cart, to: shop/db, port: 5432, reach: yes}\n",
    )
    .expect("write the expectation");
    let (path, expectation) = (page.display().to_string(), expect.display().to_string());
    let run = Run::start(&mut sandbox(&[&shop()], &["--report", &path, "--expect", &expectation]));
    assert_eq!(run.wait().status.code(), Some(1));
    let mut browser = Browser::start();
    browser.open(&page, "");
    says(&mut browser, "#facts", &["1\nnot as expected"]);
    says(
        &mut browser,
        "#unexpected",
        &["shop/cart → shop/cache:11299/TCP", "must reach, but denied", "expect.yaml:2"],
    );
    assert_eq!(browser.ask("document.querySelectorAll('#grid .wrong').length"), 1);
    browser.click(&cell("not as expected, denied: shop/cart to shop/cache port 11299"));
    says(&mut browser, "#why .expected", &["must reach, but denied", "expect.yaml:2"]);
    keep_picture(&mut browser, "expected");
    is_quiet(&mut browser);
}

#[test]
fn a_page_that_errs_or_asks_the_network_would_be_noticed() {
    let folder = Folder::new("bad");
    let page = folder.0.join("bad.html");
    std::fs::write(
        &page,
        "<script>console.log(1); fetch('http://127.0.0.1:9/').catch(() => 0); nobody();</script>",
    )
    .expect("write the page");
    let mut browser = Browser::start();
    browser.open(&page, "");
    let complaints = browser.complaints().concat();
    for one in ["consoleAPICalled", "nobody is not defined"] {
        assert!(complaints.contains(one), "{complaints}");
    }
    assert!(browser.requests().iter().any(|url| url == "http://127.0.0.1:9/"));
}

#[test]
fn with_watch_the_page_follows_the_files_and_nothing_else() {
    require_root();
    // The page lies in the folder that is watched: writing it must not be a reason to write it.
    let folder = Folder::new("watch");
    let (manifests, page) = (folder.0.join("x.yaml"), folder.0.join("report.html"));
    let pods = ["a", "b"].map(|name| pod(name, "")).concat();
    let closed = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: closed, namespace: x}\n\
                  spec: {podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {matchLabels: {app: c}}}]}]}\n";
    std::fs::write(&manifests, format!("{pods}{closed}")).expect("write the manifests");
    let path = page.display().to_string();
    let run = Run::start(&mut sandbox(&[&folder.0], &["--watch", "--report", &path]));
    let written = || std::fs::metadata(&page).ok().map(|page| page.ino());
    let first = wait_for("the page", written);
    let mut browser = Browser::start();
    browser.open(&page, "");
    browser.click(&cell("denied: b to a port 80"));
    let line = pods.lines().count() + 1;
    says(&mut browser, "#why .answer", &["x/closed", &format!("x.yaml:{line}")]);

    let settled = std::time::Duration::from_millis(700);
    std::thread::sleep(settled);
    assert_eq!(written(), Some(first), "rewritten, though nothing was saved");

    // A comment moves lines and changes no verdict.
    std::fs::write(&manifests, format!("{pods}# closed\n{closed}")).expect("write the manifests");
    let second = wait_for("another page", || written().filter(|page| *page != first));
    browser.open(&page, "");
    browser.click(&cell("denied: b to a port 80"));
    says(&mut browser, "#why .answer", &[&format!("x.yaml:{}", line + 1)]);

    std::fs::write(&manifests, pods).expect("write the manifests");
    wait_for("a third page", || written().filter(|page| *page != second));
    browser.open(&page, "");
    browser.click(&cell("reaches: b to a port 80"));
    says(&mut browser, "#why .answer", &["Allowed"]);
    is_quiet(&mut browser);
    run.signal(Signal::SIGINT);
    assert!(run.wait().status.success());
}

/// A folder that goes away with its owner.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weir-report-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).expect("make a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}
