//! The GNOME Shell extension in a real Shell without a screen, against a real daemon that the bus can start.
//!
//! They run at night, because a Shell is 430 MB to install: `just nightly`, or with a Shell at hand
//! `XRAT_NIGHTLY=1 scripts/test --include-ignored gnome`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

#[path = "../lab/mod.rs"]
mod lab;
mod shell;

use std::time::Duration;

use lab::bus::Bus;
use lab::relay::{Mode, Relay};
use lab::scratch::Scratch;
use lab::{Daemon, Kind, Lab, wait_until};
use serde_json::{Value, json};
use shell::Shell;

const RUNTIME: &str = "org.xrat.Daemon1.Runtime";
const ROTATION: &str = "org.xrat.Daemon1.Rotation";
const KIND: Kind = Kind::V2ray;
const DISCONNECTED: u32 = 1;
const CONNECTED: u32 = 3;

/// A Shell, and a bus that can start the daemon, which does not run yet.
struct Set {
    shell: Shell,
    bus: Bus,
    daemon: Daemon,
    ids: Vec<i64>,
    _relays: Vec<Relay>,
    _lab: Lab,
    _home: Scratch,
}

impl Set {
    /// With a node for each delay, in milliseconds.
    fn start(delays: &[u64]) -> Option<Self> {
        let bus = Bus::start()?;
        let lab = Lab::start(KIND)?;
        let url = format!("testing.url = \"{}\"", lab.origin.url("/generate_204"));
        let health = format!("runtime.health.url = \"{}\"", lab.origin.url("/generate_204"));
        let mut daemon = Daemon::new(&[&url, &health, "runtime.engine = \"v2ray\""]);
        let home = Scratch::new();
        daemon.set_env("XDG_CONFIG_HOME", home.dir("config"));
        daemon.set_env("XDG_DATA_HOME", home.dir("data"));
        daemon.set_env("DBUS_SESSION_BUS_ADDRESS", bus.address());
        // The bus of the lab looks for services in a directory of its own.
        daemon.xrat(&["daemon", "install"]).ok();
        let service = "dbus-1/services/org.xrat.Daemon1.service";
        std::fs::copy(home.path().join("data").join(service), bus.services().join("org.xrat.Daemon1.service")).unwrap();
        bus.busctl(&["call", "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "ReloadConfig"]).unwrap();

        let names = ["Frankfurt", "Amsterdam", "Paris", "Zurich", "Helsinki", "Warsaw", "Vienna", "Oslo"];
        let (mut relays, mut ids) = (Vec::new(), Vec::new());
        for (delay, name) in delays.iter().zip(names) {
            let (relay, node) = lab.node(name);
            relay.set(Mode::Delay(Duration::from_millis(*delay)));
            relays.push(relay);
            ids.extend(daemon.import(&[node]));
        }
        let shell = Shell::start(&bus)?;
        Some(Self { shell, bus, daemon, ids, _relays: relays, _lab: lab, _home: home })
    }

    #[track_caller]
    fn wait_for_state(&self, state: u32) {
        wait_until(&format!("the state is {state}"), || self.bus.get(RUNTIME, "State") == state);
    }

    fn active(&self) -> Value {
        self.bus.get(RUNTIME, "Session")["config_id"].clone()
    }
}

#[test]
#[ignore = "needs a GNOME Shell: just nightly"]
fn the_toggle_connects_and_disconnects_and_its_menu_moves() {
    let Some(set) = Set::start(&[1, 30, 10, 40, 20]) else { return };
    let Set { shell, bus, ids, .. } = &set;
    set.daemon.xrat(&["test"]).ok();

    // Looking starts nothing.
    shell.eval("Main.overview.hide()");
    shell.open_menu();
    assert_eq!((shell.text(), shell.eval("toggle.checked")), (["xrat".into(), String::new()], json!(false)));
    assert_eq!(shell.eval("texts(toggle.menu._header)"), json!(["xrat", "The daemon is not running"]));
    assert!(!bus.has_name() && shell.eval("indicator.visible") == false);
    shell.eval("toggle.menu.close()");

    // On: the bus starts the daemon, and the daemon chooses the fastest node.
    shell.click("toggle");
    shell.wait("it is on", "toggle.checked && text()[1] === 'Frankfurt' && indicator.visible");
    assert_eq!((bus.get(RUNTIME, "State"), set.active()), (json!(CONNECTED), json!(ids[0])));
    shell.picture("gnome-toggle");

    // The menu has the nodes, the fastest first, and moves the session.
    shell.open_menu();
    shell.wait("the nodes are there", "rows().length === 5");
    assert_eq!(shell.eval("rows().map(row => row.label.text)[0]"), "Frankfurt");
    assert_eq!(shell.eval("texts(rows()[1])[0]"), "Paris");
    assert!(shell.eval("texts(rows()[1])[1]").as_str().unwrap().ends_with(" ms"));
    // 2 is Ornament.CHECK, in all versions.
    let ticked = "rows().filter(row => row._ornament === 2).map(row => row.label.text)";
    assert_eq!(shell.eval(ticked), json!(["Frankfurt"]));
    shell.wait("the delay is in the head", "texts(toggle.menu._header)[1].startsWith('Frankfurt, ')");
    shell.picture("gnome-menu");
    shell.click("rows()[1]");
    shell.wait("it has moved", "text()[1] === 'Paris'");
    assert_eq!(set.active(), ids[2]);
    shell.open_menu();
    shell.click("toggle._rotate");
    shell.wait("it is back at the fastest", "text()[1] === 'Frankfurt'");
    shell.open_menu();
    shell.click("toggle._automatic");
    wait_until("rotation is automatic", || bus.get(ROTATION, "Enabled") == true);
    bus.gdbus("org.xrat.Daemon1.Rotation.Stop", &[]).unwrap();
    shell.wait("the switch follows", "toggle._automatic.state === false");

    // Off.
    shell.open();
    shell.eval("toggle.menu.close()");
    shell.click("toggle");
    set.wait_for_state(DISCONNECTED);
    shell.wait("it is off", "!toggle.checked && text()[1] === '' && !indicator.visible");
    assert_eq!(shell.complaints(), [""; 0], "{}", shell.log());
}

#[test]
#[ignore = "needs a GNOME Shell: just nightly"]
fn it_tells_the_truth_after_the_daemon_died_and_after_it_was_switched_off_and_on() {
    let Some(mut set) = Set::start(&[1, 1]) else { return };
    set.daemon.run();
    set.daemon.xrat(&["connect", "Amsterdam"]).ok();
    set.shell.wait("it is on", "toggle.checked && text()[1] === 'Amsterdam'");

    set.daemon.kill_daemon();
    set.shell.wait("it is off without a daemon", "!toggle.checked && text()[1] === ''");
    set.shell.open_menu();
    assert_eq!(set.shell.eval("texts(toggle.menu._header)[1]"), "The daemon is not running");
    assert!(!set.bus.has_name(), "looking starts nothing");
    set.daemon.run();
    set.shell.wait("the next daemon has the session", "toggle.checked && text()[1] === 'Amsterdam'");

    // Off and on leaves nothing behind: no actors, and nothing that still follows the daemon.
    let shell = &set.shell;
    let actors = "[panel.menu._grid, panel.menu._overlay, panel._indicators].map(actor => actor.get_n_children())";
    let matches = || {
        shell.eval("imports.system.gc()");
        let stats = [
            "--json=short",
            "call",
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus.Debug.Stats",
            "GetAllMatchRules",
        ];
        set.bus.busctl(&stats).unwrap().matches("sender='org.xrat.Daemon1'").count()
    };
    let (before, followed) = (shell.eval(actors), matches());
    assert!(followed > 0);
    for _ in 0..10 {
        shell.enable(false);
        shell.enable(true);
    }
    shell.wait("it tells the same as before", "toggle.checked && text()[1] === 'Amsterdam'");
    assert_eq!(shell.eval(actors), before);
    wait_until("the old proxies are gone", || matches() == followed);
    shell.enable(false);
    // Whatever has not been collected yet hears of this, and must not mind.
    set.daemon.xrat(&["disconnect"]).ok();
    wait_until("nothing follows the daemon", || matches() == 0);
    shell.enable(true);
    shell.wait("it is off", "!toggle.checked && text()[1] === ''");
    assert_eq!(shell.complaints(), [""; 0], "{}", shell.log());
}

#[test]
#[ignore = "needs a GNOME Shell: just nightly"]
fn what_goes_wrong_is_shown() {
    let Some(set) = Set::start(&[]) else { return };
    let shown = |set: &Set, words: &str| {
        let texts = "Main.messageTray.getSources().flatMap(source => source.notifications)\
                     .map(one => one.bannerBodyText ?? one.body)";
        set.shell.wait(words, &format!("{texts}.some(text => text.includes('{words}'))"));
        assert_eq!(set.shell.eval("toggle.checked"), false);
    };
    set.shell.open();
    set.shell.click("toggle");
    shown(&set, "xrat import");
    // No daemon, and none that the bus could start.
    set.bus.gdbus("org.xrat.Daemon1.Shutdown", &[]).unwrap();
    std::fs::remove_file(set.bus.services().join("org.xrat.Daemon1.service")).unwrap();
    set.bus.busctl(&["call", "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "ReloadConfig"]).unwrap();
    wait_until("the daemon is gone", || !set.bus.has_name());
    set.shell.open();
    set.shell.click("toggle");
    shown(&set, "xrat daemon start");
}
