//! An engine with the file a session's engine gets, and nothing around it: the floor of what a connect can take.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use xrat::engine::{Engine, SessionFiles, private, session_config};

use super::daemon::Daemon;
use super::engines::Kind;
use super::process::{OWNER_VARIABLE, signal_pid};
use super::scratch::Scratch;
use super::server::LabLink;
use super::timing::{self, Pairs};
use super::{Lab, PATIENCE, client, wait_until};

/// Between two looks whether the engine is ready.
const LOOK: Duration = Duration::from_millis(1);

/// A file for an engine, to be started as often as wanted.
pub struct Bare {
    engine: Engine,
    sockets: SessionFiles,
    file: std::path::PathBuf,
    dir: Scratch,
}

impl Bare {
    /// Writes what a session for `link` gives `program`.
    pub fn new(program: &Path, link: &LabLink) -> Self {
        let engine = super::nodes::version(program).expect("an engine has a version");
        let dir = Scratch::new();
        let socket = |name: &str| dir.path().join(name);
        let socks = engine.private_socks().then(|| socket("socks.sock"));
        let sockets = SessionFiles { socks, http: socket("http.sock"), api: socket("api.sock") };
        let config = xrat::link::parse(&link.link).unwrap();
        let text = session_config(&engine, &config, &sockets).unwrap().to_string();
        let file = dir.file("session.json", text);
        Self { engine, sockets, file, dir }
    }

    /// Starts the engine, waits until its private proxy answers, and ends it: how long it took to answer.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn start(&self) -> Duration {
        self.sweep();
        let begin = Instant::now();
        let child = Command::new(&self.engine.path)
            .args(self.engine.run_args(&self.file))
            .env(OWNER_VARIABLE, self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let _running = Running(child.unwrap());
        while smol::block_on(private::ready(&self.sockets.http)).is_err() {
            assert!(begin.elapsed() < PATIENCE, "{} does not answer", self.engine);
            std::thread::sleep(LOOK);
        }
        begin.elapsed()
    }

    /// Removes what the engine that was killed before left: V2Ray does not start over a lock.
    fn sweep(&self) {
        for entry in std::fs::read_dir(self.dir.path()).unwrap().flatten() {
            if entry.path() != self.file {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

/// Ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// RuntimeConnect, from the request to the answer, in turn with the bare start of the same engine with the same file;
/// `None` (after saying so) without that engine.
pub fn connect_and_floor(kind: Kind, count: usize) -> Option<Pairs> {
    let lab = Lab::start(kind)?;
    let daemon = lab.daemon(kind, &[])?;
    let link = lab.server.link("vless-tcp-tls");
    let bare = Bare::new(&super::engine(kind.name())?, &link);
    let id = daemon.import(&[link])[0];
    let connect = json!({"type": "RuntimeConnect", "payload": {"config_id": id}});
    Some(Pairs::measure(
        count,
        || bare.start(),
        || {
            let took = timing::time(|| ask(&daemon, &connect));
            ask(&daemon, &json!({"type": "RuntimeDisconnect"}));
            took
        },
    ))
}

/// From the kill of a session's engine to the first request that is served, in turn with the bare start of the same
/// engine with the same file; `None` (after saying so) without that engine.
pub fn recovery_and_floor(kind: Kind, count: usize) -> Option<Pairs> {
    let lab = Lab::start(kind)?;
    let mut daemon = lab.daemon(kind, &[])?;
    let link = lab.server.link("vless-tcp-none");
    let bare = Bare::new(&super::engine(kind.name())?, &link);
    let id = daemon.import(&[link])[0];
    let url = lab.origin.url("/page");
    Some(Pairs::measure(
        count,
        || bare.start(),
        || {
            // Many deaths in a short time would be waited after: each has a daemon of its own.
            ask(&daemon, &json!({"type": "DaemonShutdown"}));
            daemon.wait();
            daemon.run();
            daemon.xrat(&["connect", &id.to_string()]).ok();
            let pid = u32::try_from(daemon.status()["session"]["pid"].as_u64().unwrap()).unwrap();
            timing::time(|| {
                signal_pid(pid, Signal::KILL);
                // What the dying engine has still taken is lost with it.
                wait_until("a request is served", || client::http_get_via_socks(daemon.socks(), &url).is_ok());
            })
        },
    ))
}

fn ask(daemon: &Daemon, request: &Value) {
    let answer = daemon.request(request).unwrap();
    assert_eq!(answer["ok"], true, "{answer}");
}
