//! A real `systemd --user` of the test's own, with a bus of its own, and the daemon as its service.
//!
//! It needs no login and no root: only a cgroup that the user may divide further, as everything in a desktop session
//! has. `scripts/test` makes one where it runs as root. Where systemd is not what the machine was booted with, the
//! manager gets a mount namespace in which it looks so, because it asks for that.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::bus::Bus;
use super::daemon::Daemon;
use super::engines::skip;
use super::process::Guard;
use super::wait_until;

/// The daemon's unit.
pub const UNIT: &str = "xrat.service";
/// Where systemd keeps what it looks for to know that it is at home.
const BOOTED: &str = "/run/systemd/system";
/// The program, which is in no PATH.
const PROGRAM: &str = "/lib/systemd/systemd";
/// Targets and slices that every manager needs; services of the machine are none of the test's business.
const UNITS: &str = "/usr/lib/systemd/user";
/// Moves itself into the cgroup `$1` and becomes the rest.
const ENTER: &str = r#"echo $$ >"$1/cgroup.procs" && shift && exec "$@""#;
/// In a user and a mount namespace of its own: looks as if systemd had booted, and gives up what it took to do so.
const PRETEND: &str = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && \
                       exec setpriv --inh-caps=-all --ambient-caps=-all --pdeathsig KILL -- \"$@\"";

/// A user's service manager. Whatever it started ends with it, on drop.
pub struct Manager {
    guard: Guard,
    cgroup: Cgroup,
    /// Its session bus.
    pub bus: Bus,
    environment: Vec<(String, String)>,
}

impl Manager {
    /// Starts a manager for the home of `daemon`, whose commands talk to it from now on. `None` (after saying so) where
    /// it cannot be.
    pub fn start(daemon: &mut Daemon) -> Option<Self> {
        if !["systemctl", "unshare", "setpriv"].into_iter().all(super::tool) {
            return None;
        }
        let cgroup = match Cgroup::make() {
            Ok(cgroup) => cgroup,
            Err(why) => return skip("systemd", &format!("systemd --user needs a cgroup: {why}"), ADVICE),
        };
        let booted = Path::new(BOOTED).is_dir();
        if !booted && let Err(why) = can_pretend() {
            return skip("systemd", &format!("systemd --user needs a user namespace: {why}"), ADVICE);
        }
        let home = daemon.home().to_owned();
        let bus = Bus::prepare(Some(&home.join(".local/share/dbus-1/services")))?;
        let units = units(&home, &bus);
        let config = home.join(".config/systemd/user");
        fs::create_dir_all(&config).unwrap();
        daemon.set_env("DBUS_SESSION_BUS_ADDRESS", bus.address());
        let mut prepared = daemon.command(&[]);
        prepared.env("SYSTEMD_UNIT_PATH", format!("{}:{}", config.display(), units.display()));
        let log = fs::File::create(home.join("systemd.log")).unwrap();
        let guard = Guard::spawn(Path::new("sh"), |command| {
            command.args(["-c", ENTER, "sh"]).arg(&cgroup.path);
            if !booted {
                command.args(["unshare", "--user", "--map-current-user", "--keep-caps", "--mount", "--"]);
                command.args(["sh", "-c", PRETEND, "sh"]);
            }
            command.args([PROGRAM, "--user", "--log-target=console", "--log-level=info"]);
            for (name, value) in prepared.get_envs() {
                match value {
                    Some(value) => command.env(name, value),
                    None => command.env_remove(name),
                };
            }
            command.current_dir(&home).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        });
        let text = |value: &std::ffi::OsStr| value.to_str().unwrap().to_owned();
        let environment =
            prepared.get_envs().filter_map(|(name, value)| Some((text(name), text(value?)))).collect::<Vec<_>>();
        let manager = Self { guard, cgroup, bus, environment };
        // Asked on the bus before it is there, it would have to be started by itself.
        let private = daemon.runtime_dir().join("systemd/private");
        wait_until("the service manager listens", || private.exists());
        wait_until("the service manager runs", || manager.systemctl(&["is-active", "default.target"]).is_ok());
        manager.systemctl(&["start", "dbus.socket"]).unwrap();
        wait_until("the service manager is on its bus", || {
            manager.bus.busctl(&["status", "org.freedesktop.systemd1"]).is_ok()
        });
        Some(manager)
    }

    /// `systemctl --user ARGUMENTS` to its end: standard output, or standard error when it fails.
    pub fn systemctl(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new("systemctl");
        command.arg("--user").args(arguments).envs(self.environment.iter().cloned());
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// A property of the daemon's unit.
    ///
    /// # Panics
    /// When systemd does not answer.
    #[track_caller]
    pub fn show(&self, property: &str) -> String {
        let said = self.systemctl(&["show", "--value", "--property", property, UNIT]);
        said.unwrap_or_else(|error| panic!("systemctl show: {error}")).trim().to_owned()
    }

    /// The pid that systemd holds for the daemon's.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn main_pid(&self) -> u32 {
        self.show("MainPID").parse().unwrap()
    }

    /// Adds lines to the unit, as a user would with `systemctl edit`.
    ///
    /// # Panics
    /// When systemd does not read them.
    #[track_caller]
    pub fn edit(&self, daemon: &Daemon, lines: &str) {
        let directory = daemon.home().join(".config/systemd/user/xrat.service.d");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("override.conf"), lines).unwrap();
        self.systemctl(&["daemon-reload"]).unwrap();
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.environment.iter().find(|(name, _)| name == "HOME");
            let log = log.and_then(|(_, home)| fs::read_to_string(Path::new(home).join("systemd.log")).ok());
            eprintln!("the service manager's log:\n{}", log.unwrap_or_default());
        }
        self.cgroup.kill();
        self.guard.kill();
    }
}

const ADVICE: &str = "scripts/test as root makes what it takes; in a desktop session it is there, and elsewhere \
                      'systemd-run --user --scope -p Delegate=yes' gives it to the command that follows";

fn can_pretend() -> Result<(), String> {
    let mut command = Command::new("unshare");
    command.args([
        "--user",
        "--map-current-user",
        "--keep-caps",
        "--mount",
        "--",
        "mount",
        "-t",
        "tmpfs",
        "tmpfs",
        "/run",
    ]);
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

/// The units that every manager needs, and its bus: it goes only to one that it runs itself.
fn units(home: &Path, bus: &Bus) -> PathBuf {
    let directory = home.join("units");
    fs::create_dir(&directory).unwrap();
    for entry in fs::read_dir(UNITS).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        if name.ends_with(".target") || name.ends_with(".slice") {
            std::os::unix::fs::symlink(entry.path(), directory.join(name)).unwrap();
        }
    }
    let address = bus.address();
    let socket = format!("[Socket]\nListenStream={}\n", address.trim_start_matches("unix:path="));
    let service = format!(
        "[Service]\nExecStart=dbus-daemon --config-file={} --address=systemd: --nofork --nopidfile --systemd-activation\n",
        bus.config().display()
    );
    fs::write(directory.join("dbus.socket"), socket).unwrap();
    fs::write(directory.join("dbus.service"), service).unwrap();
    directory
}

/// A cgroup below the test's own. All in it is killed, and it is removed, on drop.
struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    fn make() -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
            .into_iter()
            .find(|root| Path::new(root).join("cgroup.procs").exists())
            .ok_or("no cgroup2 is mounted")?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).ok_or("this process is in none")?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            Path::new(root).join(own.trim_start_matches('/')).join(format!("xl-{}-{number}", std::process::id()));
        // To move a process down takes the right to write here as well.
        let procs = path.parent().unwrap_or(Path::new(root)).join("cgroup.procs");
        let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
        fs::OpenOptions::new().write(true).open(&procs).map_err(|error| failed(&procs, error))?;
        fs::create_dir(&path).map_err(|error| failed(&path, error))?;
        Ok(Self { path })
    }

    fn kill(&self) {
        if let Ok(mut file) = fs::OpenOptions::new().write(true).open(self.path.join("cgroup.kill")) {
            let _ = file.write_all(b"1");
        }
        wait_until("nothing runs in the cgroup", || {
            let events = fs::read_to_string(self.path.join("cgroup.events")).unwrap_or_default();
            !events.contains("populated 1")
        });
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.kill();
        let _ = remove(&self.path);
    }
}

/// Removes a cgroup with all below it: they have files that cannot be removed, and go with them.
fn remove(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove(&entry.path())?;
    }
    fs::remove_dir(path)
}
