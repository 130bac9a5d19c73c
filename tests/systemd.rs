//! The daemon as a service of a real `systemd --user`: installed, watched, reloaded, stopped, and taken away again.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use lab::bus::PATH;
use lab::client::{self, Kept};
use lab::left::assert_nothing_runs;
use lab::origin::DRIP_BYTES;
use lab::systemd::{Manager, UNIT};
use lab::{Daemon, Kind, Lab, process, wait_for, wait_until};
use rustix::process::Signal;

const KIND: Kind = Kind::V2ray;

/// A manager, and a daemon that is installed as its service and does not run yet.
struct Set {
    // Ends before the daemon's home is removed.
    manager: Manager,
    lab: Lab,
    daemon: Daemon,
    id: String,
}

impl Set {
    fn install() -> Option<Self> {
        let lab = Lab::start(KIND)?;
        let (mut daemon, id) = lab.root_at_home(KIND, &[]);
        daemon.install_program("my programs/xrat");
        let manager = Manager::start(&mut daemon)?;
        let said = daemon.xrat(&["daemon", "install"]).ok();
        assert_eq!(said.stderr, "", "every step works");
        Some(Self { manager, lab, daemon, id: id.to_string() })
    }

    /// Starts the unit and connects; the pids of daemon and engine.
    fn connect(&self) -> (u32, u32) {
        self.manager.systemctl(&["start", UNIT]).unwrap();
        self.daemon.xrat(&["connect", &self.id]).ok();
        assert_eq!(self.page(), 200);
        (self.manager.main_pid(), self.engine())
    }

    /// The engine of the session.
    fn engine(&self) -> u32 {
        let status = self.daemon.status();
        let pid = status["session"]["pid"].as_u64().unwrap_or_else(|| panic!("no session: {status}"));
        u32::try_from(pid).unwrap()
    }

    fn page(&self) -> u16 {
        client::http_get_via_socks(self.daemon.socks(), &self.lab.origin.url("/page")).unwrap().status
    }

    /// A download without an end.
    fn download(&self) -> Kept {
        let mut kept = Kept::open(&self.daemon.proxy(), &self.lab.origin.url("/"), None).unwrap();
        kept.request("/drip", "keep-alive").unwrap();
        kept.head().unwrap();
        kept
    }

    fn stop_leaves_nothing(&self) {
        self.manager.systemctl(&["stop", UNIT]).unwrap();
        assert_nothing_runs(&self.daemon, &[]);
        assert_eq!(self.daemon.xrat_pids(), [] as [u32; 0]);
        assert_eq!(
            (self.manager.show("ActiveState").as_str(), self.manager.show("Result").as_str()),
            ("inactive", "success")
        );
        assert_eq!(self.manager.show("ControlGroup"), "", "not one process is left in it");
    }
}

#[test]
fn install_start_activation_and_uninstall() {
    let Some(set) = Set::install() else { return };
    let Set { manager, daemon, id, .. } = &set;
    assert_eq!(manager.systemctl(&["is-enabled", UNIT]).unwrap().trim(), "enabled");
    let exec = manager.show("ExecStart");
    assert!(exec.contains(&format!("path={}/my programs/xrat ;", daemon.home().display())), "{exec}");

    // A call on the bus starts the unit, no second daemon beside it, and no session.
    assert_eq!(manager.show("ActiveState"), "inactive");
    let status = manager.bus.call("org.xrat.Daemon1.Runtime", "GetStatus", &[]);
    assert_eq!(status["state"], 1, "{status} at {PATH}");
    assert_eq!((manager.main_pid(), daemon.engine_pids()), (daemon.pid(), vec![]));
    daemon.xrat(&["connect", id]).ok();
    wait_until("systemd shows the session", || manager.show("StatusText").starts_with("connected: vless-tcp-none"));

    // What runs goes on without the unit's file.
    let pid = daemon.pid();
    let said = daemon.xrat(&["daemon", "uninstall"]).ok();
    assert_eq!(said.stderr, "", "every step works");
    assert!(!daemon.home().join(".config/systemd/user/xrat.service").exists());
    assert!(!daemon.home().join(".local/share/dbus-1/services/org.xrat.Daemon1.service").exists());
    assert_eq!((daemon.pid(), daemon.status()["state"].as_str()), (pid, Some("connected")));
    daemon.xrat(&["daemon", "stop"]).ok();
    assert_nothing_runs(daemon, &[]);
    wait_until("systemd has forgotten the unit", || manager.show("LoadState") == "not-found");
}

#[test]
fn the_commands_go_through_the_unit() {
    let Some(set) = Set::install() else { return };
    let Set { manager, daemon, .. } = &set;
    let said = daemon.xrat(&["daemon", "start"]).ok().stdout;
    let pid = daemon.pid();
    assert!(said.starts_with(&format!("Started: pid {pid},")), "{said}");
    assert_eq!(manager.main_pid(), pid);
    let said = daemon.xrat(&["daemon", "start"]).ok().stdout;
    assert!(said.starts_with(&format!("Already running: pid {pid},")), "{said}");
    let said = daemon.xrat(&["daemon", "restart"]).ok().stdout;
    assert!(said.starts_with(&format!("Restarted: pid {pid},")), "{said}");
    assert_eq!((manager.show("ActiveState").as_str(), manager.main_pid()), ("active", pid));
    let said = daemon.xrat(&["daemon", "stop"]).ok().stdout;
    assert_eq!(said, format!("Stopped: pid {pid}\n"));
    assert_eq!(manager.show("ActiveState"), "inactive");
    let said = daemon.xrat(&["daemon", "restart"]).ok().stdout;
    assert!(said.starts_with(&format!("Started: pid {},", manager.main_pid())), "{said}");

    // A daemon that keeps dying is one that systemd starts again, unless it is told to stop.
    manager.edit(daemon, "[Service]\nRestartSec=1h\n");
    process::signal_pid(daemon.pid(), Signal::KILL);
    wait_until("systemd waits", || manager.show("SubState") == "auto-restart");
    daemon.xrat(&["daemon", "stop"]).ok();
    assert_eq!(manager.show("ActiveState"), "inactive");

    // Settings that cannot be read: the words of systemd, the exit code of the daemon, and no second try.
    let settings = std::fs::read_to_string(daemon.root().join("config.toml")).unwrap();
    daemon.configure(&["runtime.socks.port = \"no number\""]);
    let failed = daemon.xrat(&["daemon", "start"]).exits(2);
    assert!(failed.stderr.contains("xrat.service") && failed.stderr.contains("journalctl"), "{}", failed.stderr);
    assert_eq!((manager.show("ActiveState").as_str(), manager.show("NRestarts").as_str()), ("failed", "0"));
    std::fs::write(daemon.root().join("config.toml"), settings).unwrap();

    // Another root is no business of the unit's.
    let other = daemon.home().join("other");
    let said = daemon.xrat(&["--root", other.to_str().unwrap(), "daemon", "start"]).ok().stdout;
    assert!(said.starts_with("Started"), "{said}");
    assert_eq!(manager.show("ActiveState"), "failed");
    daemon.xrat(&["--root", other.to_str().unwrap(), "daemon", "stop"]).ok();

    // Unless it was installed for that root.
    daemon.xrat(&["--root", other.to_str().unwrap(), "daemon", "install"]).ok();
    daemon.xrat(&["--root", other.to_str().unwrap(), "daemon", "start"]).ok();
    assert_eq!(manager.show("ActiveState"), "active");
    assert!(daemon.xrat(&["daemon", "start"]).ok().stdout.starts_with("Started"));
    assert_ne!(manager.main_pid(), daemon.pid(), "the usual root has a daemon without a unit");
    daemon.xrat(&["daemon", "stop"]).ok();
    assert_eq!(manager.show("ActiveState"), "active");
}

#[test]
fn a_stuck_loop_is_replaced_and_its_engine_adopted() {
    let Some(set) = Set::install() else { return };
    // Five seconds in place of a minute; the loop must notice that it is watched more closely.
    set.manager.edit(&set.daemon, "[Service]\nWatchdogSec=5\n");
    let (pid, engine) = set.connect();
    let mut last = set.manager.show("WatchdogTimestampMonotonic");
    for _ in 0..2 {
        last = wait_for("a sign of life", || {
            let now = set.manager.show("WatchdogTimestampMonotonic");
            (now != last).then_some(now)
        });
    }
    assert_eq!((set.manager.main_pid(), set.manager.show("NRestarts").as_str()), (pid, "0"), "it was never late");
    let mut download = set.download();
    process::signal_pid(pid, Signal::STOP);
    assert_eq!(set.page(), 200, "the engine serves meanwhile");
    wait_until("another daemon is ready", || {
        set.manager.main_pid() != pid && set.manager.show("ActiveState") == "active"
    });
    assert_eq!(set.manager.show("NRestarts"), "1");
    let status = set.daemon.status();
    assert_eq!((status["state"].as_str(), status["reason"].as_str()), (Some("connected"), Some("adopted")));
    assert_eq!((set.engine(), set.page()), (engine, 200));
    download.exactly(4 * DRIP_BYTES).unwrap();
    drop(download);
    set.stop_leaves_nothing();
}

// A real kernel's OOM kill needs a memory limit, and the memory controller is root's on most machines. For the daemon
// there is no difference to any SIGKILL; for systemd there is, and `OOMPolicy` is what it does then.
#[test]
fn an_engine_that_is_killed_does_not_end_the_unit() {
    let Some(set) = Set::install() else { return };
    let (pid, engine) = set.connect();
    assert_eq!(set.manager.show("OOMPolicy"), "continue");
    process::signal_pid(engine, Signal::KILL);
    wait_until("another engine serves", || {
        let status = set.daemon.status();
        status["state"] == "connected" && status["session"]["pid"] != engine
    });
    assert_eq!(set.page(), 200);
    assert_eq!((set.manager.show("ActiveState").as_str(), set.manager.main_pid()), ("active", pid));
    assert_eq!(set.manager.show("NRestarts"), "0");
}

#[test]
fn reload_keeps_process_and_traffic_and_stop_leaves_nothing() {
    let Some(set) = Set::install() else { return };
    let (pid, engine) = set.connect();
    let instance = set.daemon.status()["session"]["owner_instance_id"].clone();
    let mut download = set.download();
    set.manager.systemctl(&["reload", UNIT]).unwrap();
    assert_ne!(set.daemon.status()["session"]["owner_instance_id"], instance, "it began anew");
    assert_eq!((set.manager.main_pid(), set.daemon.pid(), set.engine()), (pid, pid, engine));
    assert_eq!((set.manager.show("ActiveState").as_str(), set.manager.show("NRestarts").as_str()), ("active", "0"));
    download.exactly(4 * DRIP_BYTES).unwrap();
    drop(download);
    assert_eq!(set.page(), 200);
    set.stop_leaves_nothing();
}
