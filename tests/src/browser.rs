//! A real Chromium, spoken to over the DevTools protocol: enough of it to look at a page, click, type and listen.
//!
//! Messages travel through two pipes, each ended by a zero byte, so there is no port that anybody else could reach.
//! `cargo xtask test browser` says in `WEIR_CHROMIUM` which one it is.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long an answer may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// One browser with one page. Dropped, it is ended, and its profile goes with it.
pub struct Browser {
    child: Child,
    profile: PathBuf,
    commands: ChildStdin,
    messages: Receiver<Value>,
    session: Option<String>,
    next: u64,
    events: Vec<Value>,
}

impl Browser {
    pub fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let executable = std::env::var_os("WEIR_CHROMIUM")
            .expect("WEIR_CHROMIUM names no Chromium: `cargo xtask test browser` fetches one and sets it");
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let profile = std::env::temp_dir().join(format!("weir-browser-{}-{count}", std::process::id()));
        std::fs::create_dir(&profile).expect("make a folder for the browser");
        let log = std::fs::File::create(profile.join("log")).expect("make the browser's log");
        // The browser reads commands from descriptor 3 and answers on 4.
        let mut child = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >&2"#])
            .arg(executable)
            // Root has no sandbox to put it in; the page is our own, and /dev/shm may be small.
            .args(["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"])
            .args(["--no-first-run", "--remote-debugging-pipe", "--window-size=1440,900"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("start Chromium");
        let commands = child.stdin.take().expect("a pipe to the browser");
        let answers = BufReader::new(child.stdout.take().expect("a pipe from the browser"));
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for message in answers.split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("JSON from the browser");
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser =
            Self { child, profile, commands, messages, session: None, next: 0, events: Vec::new() };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attached =
            browser.call("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true }));
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.size(1440, 900);
        browser
    }

    /// One command of the protocol, and its result.
    #[track_caller]
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let mut command = json!({ "id": self.next, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let mut text = command.to_string().into_bytes();
        text.push(0);
        self.commands.write_all(&text).and_then(|()| self.commands.flush()).expect("a browser that listens");
        loop {
            let Ok(message) = self.messages.recv_timeout(PATIENCE) else {
                let log = std::fs::read_to_string(self.profile.join("log")).unwrap_or_default();
                panic!("{method}: the browser does not answer; it said:\n{log}");
            };
            if message["id"] == self.next {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            // It waits for an answer that nobody gives.
            assert_ne!(
                message["method"], "Page.javascriptDialogOpening",
                "the page opens a dialog: {message}"
            );
            self.events.push(message);
        }
    }

    /// Opens a file, and waits until it is there whole. `fragment` is what follows `#`.
    #[track_caller]
    pub fn open(&mut self, file: &Path, fragment: &str) {
        // Away from it first: another fragment alone would load nothing.
        self.call("Page.navigate", json!({ "url": "about:blank" }));
        let url = format!("file://{}#{fragment}", file.display());
        let gone = self.call("Page.navigate", json!({ "url": url }));
        assert!(gone["errorText"].is_null(), "open {url}: {}", gone["errorText"]);
        let deadline = Instant::now() + PATIENCE;
        while self.ask("document.readyState + location.protocol") != "completefile:" {
            assert!(Instant::now() < deadline, "{url} does not become complete");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The value of an expression in the page.
    #[track_caller]
    pub fn ask(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", parameters);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// The text of the first element that fits, as people see it; `null` where none does.
    #[track_caller]
    pub fn text(&mut self, selector: &str) -> Value {
        self.ask(&format!("document.querySelector({})?.innerText ?? null", json!(selector)))
    }

    /// Clicks with the mouse into the middle of the first element that fits, wherever it has to be scrolled to.
    #[track_caller]
    pub fn click(&mut self, selector: &str) {
        let at = self.ask(&format!(
            "(() => {{ const e = document.querySelector({}); if (!e) return null; \
             e.scrollIntoView({{ block: 'center', inline: 'center' }}); const r = e.getBoundingClientRect(); \
             return {{ x: r.x + r.width / 2, y: r.y + r.height / 2 }}; }})()",
            json!(selector)
        ));
        assert!(!at.is_null(), "there is no {selector} to click");
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let button = if kind == "mouseMoved" { "none" } else { "left" };
            self.call(
                "Input.dispatchMouseEvent",
                json!({ "type": kind, "x": at["x"], "y": at["y"], "button": button, "clickCount": 1 }),
            );
        }
    }

    /// Presses a key by its name: `Enter`, `ArrowDown`.
    #[track_caller]
    pub fn press(&mut self, key: &str) {
        let text = match key {
            "Enter" => Some("\r".to_owned()),
            key if key.chars().count() == 1 => Some(key.to_owned()),
            _ => None,
        };
        let down = if text.is_some() { "keyDown" } else { "rawKeyDown" };
        self.call(
            "Input.dispatchKeyEvent",
            json!({ "type": down, "key": key, "code": key, "text": text.unwrap_or_default() }),
        );
        self.call("Input.dispatchKeyEvent", json!({ "type": "keyUp", "key": key, "code": key }));
    }

    /// Types into whatever has the focus.
    #[track_caller]
    pub fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// What the person's system prefers.
    #[track_caller]
    pub fn prefer(&mut self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
        // The page hears of it when the next picture is drawn.
        self.ask("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))");
    }

    #[track_caller]
    pub fn size(&mut self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// A picture of what is in sight, as a PNG in base64.
    #[track_caller]
    pub fn picture(&mut self) -> String {
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        shot["data"].as_str().expect("a picture").to_owned()
    }

    /// What the page did that a good page does not do: errors, console messages, refused scripts.
    pub fn complaints(&mut self) -> Vec<String> {
        // Events come before the answer to a later command.
        self.ask("0");
        let bad = ["Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"];
        let found = self.events.iter().filter(|event| bad.iter().any(|bad| event["method"] == *bad));
        found.map(Value::to_string).collect()
    }

    /// Every address that was asked for since the start.
    pub fn requests(&mut self) -> Vec<String> {
        self.ask("0");
        let sent = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        sent.filter_map(|event| event["params"]["request"]["url"].as_str().map(str::to_owned)).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        // Its own children write until they notice.
        for _ in 0..100 {
            if std::fs::remove_dir_all(&self.profile).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
