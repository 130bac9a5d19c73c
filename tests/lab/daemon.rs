//! The real `xrat` in a root of its own: its commands, its daemon, its socket, its processes.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::client::Proxy;
use super::environment::environment;
use super::events::Events;
use super::ports::{self, Port};
use super::process::{self, Found, Guard};
use super::scratch::Scratch;
use super::tls::{Authority, TRUST_VARIABLE};
use super::{PATIENCE, wait_for_within, wait_until};

/// The longest that a command may take: the client gives up after 25 s by itself.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// What a command did.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit code; 128 and the number after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Itself, if the command succeeded.
    ///
    /// # Panics
    /// With all that the command said, if it did not.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.exits(0)
    }

    /// Itself, if the exit code is this one.
    ///
    /// # Panics
    /// With all that the command said, if it is not.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code; stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error} in {:?}; stderr: {:?}", self.stdout, self.stderr))
    }
}

/// A private root, and whatever runs in it. All of it ends on drop, however it was started.
pub struct Daemon {
    root: PathBuf,
    environment: Vec<(OsString, Option<OsString>)>,
    foreground: Option<Guard>,
    socks: Port,
    http: Port,
    /// Nothing says which root it is.
    usual: bool,
    program: PathBuf,
    home: Scratch,
}

impl Daemon {
    /// Makes a root with free ports in its config.toml; nothing runs yet.
    ///
    /// `settings` are lines of dotted keys, as `runtime.health.url = "http://127.0.0.1:20000/generate_204"`: they
    /// join the lab's own (the ports), and win over them.
    pub fn new(settings: &[&str]) -> Self {
        Self::with(settings, false)
    }

    /// [`Daemon::new`] with the root that is used when nothing names one, in a home of its own.
    pub fn at_home(settings: &[&str]) -> Self {
        Self::with(settings, true)
    }

    fn with(settings: &[&str], usual: bool) -> Self {
        let home = Scratch::new();
        home.dir("h");
        home.dir("x");
        let root = home.path().join(if usual { "h/.config/xrat" } else { "r" });
        std::fs::create_dir_all(&root).unwrap();
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o700)).unwrap();
        let daemon = Self {
            environment: environment(home.path()),
            foreground: None,
            socks: ports::take(),
            http: ports::take(),
            root,
            usual,
            program: program(),
            home,
        };
        daemon.configure(settings);
        daemon
    }

    /// Writes config.toml again, as [`Daemon::new`] does.
    pub fn configure(&self, settings: &[&str]) {
        let own = [
            format!("runtime.socks.port = {}", self.socks.number()),
            format!("runtime.http.port = {}", self.http.number()),
        ];
        let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
        let given: Vec<_> = settings.iter().map(|line| key(line)).collect();
        let mut text = String::new();
        for line in
            own.iter().map(String::as_str).filter(|line| !given.contains(&key(line))).chain(settings.iter().copied())
        {
            text.push_str(line);
            text.push('\n');
        }
        std::fs::write(self.root.join("config.toml"), text).unwrap();
    }

    /// Has everything started from now on trust an authority, and no other: engines towards TLS nodes, and the
    /// daemon towards HTTPS subscriptions.
    pub fn trust(&mut self, authority: &Authority) {
        self.set_env(TRUST_VARIABLE, authority.file());
    }

    /// Sets a variable for everything started from now on.
    pub fn set_env(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.push((name.into(), Some(value.into())));
    }

    /// Where the program is that it runs.
    pub fn program_path(&self) -> &Path {
        &self.program
    }

    /// Has the program run from another place from now on: `name`, a path in the home.
    pub fn install_program(&mut self, name: &str) {
        let path = self.home().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Not by writing it: what another test starts at that moment would hold it open, and then it cannot be executed.
        assert!(Command::new("cp").arg(program()).arg(&path).status().unwrap().success());
        self.program = path;
    }

    /// Its user's home.
    pub fn home(&self) -> PathBuf {
        self.home.path().join("h")
    }

    /// Its user's directory for sockets.
    pub fn runtime_dir(&self) -> PathBuf {
        self.home.path().join("x")
    }

    /// The root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.root.join("runtime/daemon.sock")
    }

    /// The public SOCKS address that config.toml names.
    pub fn socks(&self) -> SocketAddr {
        self.socks.addr()
    }

    /// The public HTTP address that config.toml names.
    pub fn http(&self) -> SocketAddr {
        self.http.addr()
    }

    /// The public SOCKS address as a [`Proxy`].
    pub fn proxy(&self) -> Proxy {
        Proxy::Socks(self.socks(), None)
    }

    /// Both public addresses, SOCKS first.
    pub fn proxies(&self) -> [Proxy; 2] {
        [self.proxy(), Proxy::Http(self.http(), None)]
    }

    /// Runs `xrat --root ROOT ARGUMENTS` to its end.
    ///
    /// # Panics
    /// When it does not end, or when something it started keeps its output open.
    #[track_caller]
    pub fn xrat(&self, arguments: &[&str]) -> Output {
        self.xrat_with_input(arguments, b"")
    }

    /// [`Daemon::xrat`] with standard input.
    ///
    /// # Panics
    /// As [`Daemon::xrat`].
    #[track_caller]
    pub fn xrat_with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // A command may end without reading its input: that is its own affair.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let stdout = collect(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        let shown = format!("xrat {}", arguments.join(" "));
        let pid = child.id();
        let deadline = std::time::Instant::now() + COMMAND_LIMIT;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if std::time::Instant::now() > deadline {
                process::signal_pid(pid, Signal::KILL);
                let _ = child.wait();
                panic!("{shown} did not end in {COMMAND_LIMIT:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        wait_for_within(PATIENCE, &format!("the output of {shown} ends: does a background process hold it?"), || {
            (stdout.is_finished() && stderr.is_finished()).then_some(())
        });
        let _ = writer.join();
        Output { code: process::exit_code(status), stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
    }

    /// The command `xrat --root ROOT ARGUMENTS` with the lab's environment, for tests that run it their own way.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        self.prepare(&mut command, arguments);
        command
    }

    /// Imports links and gives their ids in the order of `links`.
    ///
    /// # Panics
    /// When one was refused.
    #[track_caller]
    pub fn import(&self, links: &[super::server::LabLink]) -> Vec<i64> {
        let text: Vec<_> = links.iter().map(|link| link.link.as_str()).collect();
        self.xrat_with_input(&["import", "-"], text.join("\n").as_bytes()).ok();
        let listed = self.xrat(&["list", "--json"]).ok().json();
        let rows = listed.as_array().expect("list --json prints an array");
        links
            .iter()
            .map(|link| {
                let row = rows.iter().find(|row| row["name"] == link.name.as_str());
                let row = row.unwrap_or_else(|| panic!("{} is not in {listed}", link.name));
                ["config_id", "id"].iter().find_map(|key| row[key].as_i64()).unwrap_or_else(|| panic!("no id in {row}"))
            })
            .collect()
    }

    /// Imports configs, written as links, and gives their ids in order.
    #[track_caller]
    pub fn store(&self, configs: &[xrat::config::Config]) -> Vec<i64> {
        let links: Vec<_> = configs.iter().map(xrat::link::write).collect();
        let told = self.xrat_with_input(&["import", "-", "--json"], links.join("\n").as_bytes()).ok().json();
        let added = told["added"].as_array().expect("import tells the new ids");
        assert_eq!(added.len(), configs.len(), "no two are the same node: {told}");
        added.iter().map(|id| id.as_i64().expect("an id is a number")).collect()
    }

    /// Starts `daemon run` as a child of the test, its log in [`Daemon::log`], and waits until it answers.
    ///
    /// # Panics
    /// When it ends instead, with its log.
    #[track_caller]
    pub fn run(&mut self) {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.home.path().join("daemon.log")).unwrap();
        let guard = Guard::spawn(&self.program, |command| {
            self.prepare(command, &["daemon", "run"]);
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        });
        let guard = self.foreground.insert(guard);
        let (socket, log) = (self.root.join("runtime/daemon.sock"), self.home.path().join("daemon.log"));
        wait_until("the daemon answers", || {
            if let Some(status) = guard.exited() {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                panic!("the daemon ended with {status}:\n{log}");
            }
            ask(&socket, &ping()).is_ok()
        });
    }

    /// Waits for the end of the daemon that [`Daemon::run`] started, after asking it to.
    ///
    /// # Panics
    /// When it does not end.
    pub fn wait(&mut self) {
        if let Some(guard) = &mut self.foreground {
            guard.wait();
        }
    }

    /// What the daemon logged: as a child, or in the background.
    pub fn log(&self) -> String {
        let files = [self.home.path().join("daemon.log"), self.root.join("logs/daemon.log")];
        files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect()
    }

    /// Starts `daemon start`, in the background.
    ///
    /// # Panics
    /// When it fails, with what it said.
    #[track_caller]
    pub fn start(&self) -> Output {
        self.xrat(&["daemon", "start"]).ok()
    }

    /// Asks the socket for one thing and gives the envelope that comes back.
    ///
    /// # Errors
    /// When nobody listens, or the answer is no JSON.
    pub fn request(&self, request: &Value) -> std::io::Result<Value> {
        let envelope = json!({"protocol_version": 1, "request": request});
        ask(&self.socket(), envelope.to_string().as_bytes())
    }

    /// Asks for one thing by its type and payload, and gives the envelope that comes back.
    ///
    /// # Panics
    /// When the daemon does not answer.
    #[track_caller]
    pub fn ask(&self, kind: &str, payload: Value) -> Value {
        self.request(&json!({"type": kind, "payload": payload})).expect("the daemon answers")
    }

    /// Writes bytes to the socket, half-closes it if wanted, and gives all that comes back.
    ///
    /// # Errors
    /// When nobody listens, or nothing comes for 30 s.
    pub fn raw(&self, bytes: &[u8], half_close: bool) -> std::io::Result<Vec<u8>> {
        exchange(&self.socket(), bytes, half_close)
    }

    /// Subscribes to events from now on. The snapshot is the first.
    ///
    /// # Panics
    /// When the daemon does not answer.
    #[track_caller]
    pub fn events(&self) -> Events {
        Events::subscribe(&self.socket(), None).expect("the daemon answers")
    }

    /// What `RuntimeStatus` answers.
    ///
    /// # Panics
    /// When the daemon does not answer.
    #[track_caller]
    pub fn status(&self) -> Value {
        let answer = self.request(&json!({"type": "RuntimeStatus"})).expect("the daemon answers");
        answer["payload"].clone()
    }

    /// The database, beside whoever has it open.
    pub fn database(&self) -> rusqlite::Connection {
        let database = rusqlite::Connection::open(self.root.join("xrat.db")).unwrap();
        database.busy_timeout(PATIENCE).unwrap();
        database
    }

    /// The daemon's pid, by asking it.
    ///
    /// # Panics
    /// When it does not answer.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        let answer = ask(&self.socket(), &ping()).expect("the daemon answers");
        let pid = answer["payload"]["pid"].as_u64();
        u32::try_from(pid.unwrap_or_else(|| panic!("no pid in {answer}"))).unwrap()
    }

    /// Every process that belongs to the root, a running command among them.
    pub fn processes(&self) -> Vec<Found> {
        process::all_of(self.home.path())
    }

    /// The pids of the root's engines.
    pub fn engine_pids(&self) -> Vec<u32> {
        self.processes()
            .iter()
            .filter(|found| matches!(found.name().as_str(), "xray" | "v2ray"))
            .map(|found| found.pid)
            .collect()
    }

    /// The pids of the root's `xrat` processes.
    pub fn xrat_pids(&self) -> Vec<u32> {
        self.processes().iter().filter(|found| found.name() == "xrat").map(|found| found.pid).collect()
    }

    /// Kills the daemon with SIGKILL, engines excepted, and waits until it is gone.
    pub fn kill_daemon(&mut self) {
        for pid in self.xrat_pids() {
            process::signal_pid(pid, Signal::KILL);
        }
        if let Some(guard) = &mut self.foreground {
            // Not its drop: that would take the process group.
            guard.wait();
        }
        wait_until("the daemon is gone", || self.xrat_pids().is_empty());
    }

    fn prepare(&self, command: &mut Command, arguments: &[&str]) {
        if !self.usual {
            command.arg("--root").arg(&self.root);
        }
        command.args(arguments);
        command.current_dir(self.home.path());
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
        // No polite end first: what a test wants to know about one, it asks itself.
        drop(self.foreground.take());
        process::kill_all_of(self.home.path());
    }
}

/// The built program; `scripts/test` names a copy that its unprivileged user can reach.
pub fn program() -> PathBuf {
    std::env::var_os("XRAT_TEST_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_xrat")), PathBuf::from)
}

fn ping() -> Vec<u8> {
    let ping = json!({"protocol_version": 1, "request": {"type": "DaemonPing"}});
    ping.to_string().into_bytes()
}

fn ask(socket: &Path, request: &[u8]) -> std::io::Result<Value> {
    let answer = exchange(socket, request, true)?;
    serde_json::from_slice(&answer).map_err(|error| {
        let answer = String::from_utf8_lossy(&answer);
        std::io::Error::other(format!("{error} in {answer:?}"))
    })
}

fn exchange(socket: &Path, bytes: &[u8], half_close: bool) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(bytes)?;
    if half_close {
        stream.shutdown(std::net::Shutdown::Write)?;
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
