//! A private session bus, and the programs that people drive one with: `busctl` and `gdbus`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use serde_json::Value;

use super::PATIENCE;
use super::process::Guard;
use super::scratch::Scratch;
use super::wait_until;

/// The daemon's name on the bus.
pub const NAME: &str = "org.xrat.Daemon1";
/// The daemon's object.
pub const PATH: &str = "/org/xrat/Daemon1";

/// A bus of its own for one test; ends on drop.
pub struct Bus {
    guard: Option<Guard>,
    home: Scratch,
}

/// An error as a caller sees it.
#[derive(Debug, PartialEq, Eq)]
pub struct Failed {
    /// For example `org.xrat.Daemon1.Error.NotFound`.
    pub name: String,
    /// The sentence.
    pub message: String,
}

impl Bus {
    /// Starts a bus; nothing can be activated on it but what is in [`Bus::services`]. `None` (after saying so) where
    /// its programs are missing.
    pub fn start() -> Option<Self> {
        let mut bus = Self::prepare(None)?;
        bus.run();
        Some(bus)
    }

    /// A bus that does not run yet, and also knows the files in `services`.
    pub fn prepare(services: Option<&Path>) -> Option<Self> {
        if !["dbus-daemon", "busctl", "gdbus"].into_iter().all(super::tool) {
            return None;
        }
        let home = Scratch::new();
        home.dir("services");
        let bus = Self { guard: None, home };
        let config = format!(
            r#"<busconfig>
  <type>session</type><listen>{}</listen><auth>EXTERNAL</auth><servicedir>{}</servicedir>{}
  <policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>"#,
            bus.address(),
            bus.services().display(),
            services.map(|path| format!("<servicedir>{}</servicedir>", path.display())).unwrap_or_default()
        );
        bus.home.file("bus.conf", config);
        Some(bus)
    }

    /// Starts the bus that was killed again, at the same address.
    pub fn run(&mut self) {
        let socket = self.home.path().join("bus");
        let _ = std::fs::remove_file(&socket);
        let config = self.config();
        let log = std::fs::File::create(self.home.path().join("bus.log")).unwrap();
        let home = self.home.path().to_owned();
        self.guard = Some(Guard::spawn(Path::new("dbus-daemon"), |command| {
            command.arg("--config-file").arg(&config).arg("--nofork").stdin(Stdio::null()).stdout(Stdio::null());
            command.stderr(log).env("XDG_RUNTIME_DIR", &home);
        }));
        wait_until("the bus answers", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    }

    /// Kills the bus.
    pub fn kill(&mut self) {
        self.guard = None;
    }

    /// What `DBUS_SESSION_BUS_ADDRESS` has to be.
    pub fn address(&self) -> String {
        format!("unix:path={}", self.home.path().join("bus").display())
    }

    /// The file that `dbus-daemon` reads.
    pub fn config(&self) -> PathBuf {
        self.home.path().join("bus.conf")
    }

    /// The directory of the files that say how a name is activated.
    pub fn services(&self) -> PathBuf {
        self.home.path().join("services")
    }

    /// `busctl ARGUMENTS` to its end: standard output, or standard error when it fails.
    pub fn busctl(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new("busctl");
        command.arg(format!("--address={}", self.address())).args(arguments);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// A call of a method of the daemon's object with `busctl`; `arguments` are a signature and values, as it wants
    /// them. Gives the answer's only value as plain JSON.
    ///
    /// # Panics
    /// When the call fails.
    #[track_caller]
    pub fn call(&self, interface: &str, method: &str, arguments: &[&str]) -> Value {
        let line = [&["--json=short", "call", NAME, PATH, interface, method], arguments].concat();
        let answer = self.busctl(&line).unwrap_or_else(|error| panic!("{interface}.{method}: {error}"));
        if answer.trim().is_empty() {
            return Value::Null;
        }
        plain(serde_json::from_str(&answer).unwrap()).get(0).cloned().unwrap_or(Value::Null)
    }

    /// A property of the daemon's object, read with `busctl`, as plain JSON.
    ///
    /// # Panics
    /// When it cannot be read.
    #[track_caller]
    pub fn get(&self, interface: &str, property: &str) -> Value {
        let answer = self.busctl(&["--json=short", "get-property", NAME, PATH, interface, property]);
        let answer = answer.unwrap_or_else(|error| panic!("{interface}.{property}: {error}"));
        plain(serde_json::from_str(&answer).unwrap())
    }

    /// A call with `gdbus`, which tells the names of errors.
    pub fn gdbus(&self, method: &str, arguments: &[&str]) -> Result<String, Failed> {
        let output = self.gdbus_command(method, arguments).output().unwrap();
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let (_, rest) = text.split_once("GDBus.Error:").unwrap_or(("", &text));
        let (name, message) = rest.split_once(": ").unwrap_or((rest, ""));
        Err(Failed { name: name.to_owned(), message: message.trim().to_owned() })
    }

    /// The command of [`Bus::gdbus`], to be run beside others.
    pub fn gdbus_command(&self, method: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("gdbus");
        command.args(["call", "--address", &self.address(), "--dest", NAME, "--object-path", PATH, "--method"]);
        command.arg(method).arg("--").args(arguments).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Whether somebody has the daemon's name.
    pub fn has_name(&self) -> bool {
        let owner = ["call", "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "NameHasOwner", "s", NAME];
        self.busctl(&owner).is_ok_and(|answer| answer.trim() == "b true")
    }

    /// Waits until the daemon's name is there.
    #[track_caller]
    pub fn wait_for_name(&self) {
        wait_until("the name is on the bus", || self.has_name());
    }

    /// Reads every signal of the daemon's objects from now on.
    pub fn monitor(&self) -> Monitor {
        self.monitor_of("path_namespace='/org/xrat/Daemon1'")
    }

    /// Reads every signal that a match rule is about, from now on.
    pub fn monitor_of(&self, rule: &str) -> Monitor {
        let mut stdout = None;
        let mut stderr = None;
        let (out, out_write) = std::io::pipe().unwrap();
        let (err, err_write) = std::io::pipe().unwrap();
        let guard = Guard::spawn(Path::new("busctl"), |command| {
            command.arg(format!("--address={}", self.address())).args(["--json=short", "monitor"]);
            command.arg(format!("--match=type='signal',{rule}"));
            command.stdin(Stdio::null()).stdout(out_write).stderr(err_write);
            stdout = Some(out);
            stderr = Some(err);
        });
        let mut ready = String::new();
        BufReader::new(stderr.unwrap()).read_line(&mut ready).unwrap();
        assert!(ready.starts_with("Monitoring"), "{ready}");
        let (sender, signals) = channel();
        let stdout = stdout.unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(message) = serde_json::from_str::<Value>(&line)
                    && sender.send(message).is_err()
                {
                    return;
                }
            }
        });
        Monitor { signals, _guard: guard }
    }
}

/// A signal with its arguments as plain JSON.
#[derive(Debug, Clone)]
pub struct Signal {
    /// The object.
    pub path: String,
    /// The last part of the interface's name.
    pub interface: String,
    /// The signal's name.
    pub member: String,
    /// The arguments.
    pub body: Value,
}

/// See [`Bus::monitor`].
pub struct Monitor {
    signals: Receiver<Value>,
    _guard: Guard,
}

impl Monitor {
    /// The next signal.
    ///
    /// # Panics
    /// When none comes within [`PATIENCE`].
    #[track_caller]
    pub fn next(&self) -> Signal {
        let message = match self.signals.recv_timeout(PATIENCE) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => panic!("no signal within {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("the monitor has ended"),
        };
        let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
        Signal {
            path: text("path"),
            interface: text("interface").rsplit('.').next().unwrap_or_default().to_owned(),
            member: text("member"),
            body: plain(message["payload"].clone()),
        }
    }

    /// The first signal from here on of this name.
    #[track_caller]
    pub fn until(&self, member: &str) -> Signal {
        loop {
            let signal = self.next();
            if signal.member == member {
                return signal;
            }
        }
    }
}

/// busctl's JSON without its types.
pub fn plain(value: Value) -> Value {
    match value {
        Value::Object(mut members) => {
            if members.len() == 2
                && members.get("type").is_some_and(Value::is_string)
                && let Some(data) = members.remove("data")
            {
                return plain(data);
            }
            members.into_iter().map(|(name, value)| (name, plain(value))).collect()
        }
        Value::Array(values) => values.into_iter().map(plain).collect(),
        other => other,
    }
}
