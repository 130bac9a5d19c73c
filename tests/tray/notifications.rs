//! Notifications: what is told and when, what is chosen in one, and desktops that have none.

use super::*;
use lab::bus::plain;
use lab::process::{self, Guard, is_alive};
use lab::{Mode, Relay, tool, wait_for, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;

const NOTIFICATIONS: &str = "org.freedesktop.Notifications";
const OBJECT: &str = "/org/freedesktop/Notifications";
const MOCK: &str = "org.freedesktop.DBus.Mock";

/// The notification service that python-dbusmock has: it shows nothing and remembers everything.
struct Mock {
    _guard: Guard,
}

impl Mock {
    fn start(desktop: &Desktop, capabilities: &str) -> Self {
        let log = std::fs::File::create(desktop.log_file("dbusmock")).unwrap();
        let parameters = format!("{{\"capabilities\": \"{capabilities}\"}}");
        let guard = Guard::spawn(Path::new("/usr/bin/python3"), |command| {
            command.args(["-m", "dbusmock", "--session", "--template", "notification_daemon", "--parameters"]);
            command.arg(parameters).env("DBUS_SESSION_BUS_ADDRESS", desktop.bus.address());
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        });
        wait_until("notifications can be shown", || desktop.owned(NOTIFICATIONS));
        Self { _guard: guard }
    }

    /// What `Notify` was called with, oldest first.
    fn told(&self, desktop: &Desktop) -> Vec<Value> {
        let words = ["--json=short", "call", NOTIFICATIONS, OBJECT, MOCK, "GetMethodCalls", "s", "Notify"];
        let answer = desktop.bus.busctl(&words).unwrap();
        let calls = plain(serde_json::from_str(&answer).unwrap());
        let mut told: Vec<_> = calls[0].as_array().unwrap().iter().map(|call| call[1].clone()).collect();
        for call in &mut told {
            // Thousands of numbers, which nobody wants to see in a failed test.
            if let Some(pixels) = call[6]["image-data"].get_mut(6) {
                *pixels = json!(pixels.as_array().map(Vec::len));
            }
        }
        told
    }

    /// Waits until so many notifications were shown.
    #[track_caller]
    fn wait(&self, desktop: &Desktop, count: usize) -> Vec<Value> {
        wait_for(&format!("{count} notifications"), || {
            let told = self.told(desktop);
            (told.len() >= count).then_some(told)
        })
    }

    /// The user chooses an action of a notification.
    fn choose(&self, desktop: &Desktop, id: u32, action: &str) {
        let id = id.to_string();
        let emit = ["call", NOTIFICATIONS, OBJECT, MOCK, "EmitSignal", "sssav", NOTIFICATIONS, "ActionInvoked", "us"];
        desktop.bus.busctl(&[&emit[..], &["2", "u", &id, "s", action]].concat()).unwrap();
    }
}

/// Kills the session's engine until the daemon gives up on it.
fn give_up(set: &Set) {
    let mut events = set.daemon.events();
    loop {
        let status = set.daemon.status();
        if status["state"] == "failed" {
            return;
        }
        let Some(pid) = status["session"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()) else {
            let next = events.until("connected, or given up", |event| {
                event["type"] == "StateChanged" && matches!(event["new"].as_str(), Some("connected" | "failed"))
            });
            if next["new"] == "failed" {
                return;
            }
            continue;
        };
        process::signal_pid(pid, Signal::KILL);
        wait_until("the engine is dead", || !is_alive(pid));
    }
}

/// Two failures in a row are enough, and soon there.
const CHECKS: [&str; 4] = [
    "runtime.rotation.health_trigger_enabled = false",
    "runtime.health.interval_secs = 1",
    "runtime.health.failure_threshold = 2",
    "testing.timeout_ms = 1000",
];

/// Connects to another node, whose line is cut when the result's mode is set so.
fn connect_by_a_line(set: &Set) -> Relay {
    let (relay, link) = set.lab.node("one");
    let id = set.daemon.import(&[link])[0];
    set.desktop.bus.call(RUNTIME, "Connect", &["x", &id.to_string()]);
    relay
}

const KINDS: [&str; 2] = ["runtime.rotation.health_trigger_enabled = false", "runtime.health.interval_secs = 3600"];

#[test]
fn a_session_is_told_from_its_begin_to_its_return() {
    let Some(set) = Set::with_tray(&KINDS) else { return };
    if !tool("python3") {
        return;
    }
    set.daemon.xrat(&["rename", &set.ids[1].to_string(), "<b>two</b> & more"]).ok();
    let mock = Mock::start(&set.desktop, "body body-markup actions");
    set.connect(0);
    let told = mock.wait(&set.desktop, 1);
    let [app, replaces, icon, summary, _, actions, hints, expires] = &told[0].as_array().unwrap()[..] else { panic!() };
    assert_eq!([app, icon, summary], ["xrat", "xrat-connected", "Connected to vless-tcp-none"]);
    assert_eq!((replaces, actions, expires), (&json!(0), &json!([]), &json!(-1)));
    assert_eq!((&hints["urgency"], &hints["desktop-entry"]), (&json!(0), &json!("org.xrat.Xrat")));
    assert_eq!(hints["image-data"], json!([48, 48, 192, true, 8, 4, 48 * 192]));

    give_up(&set);
    let told = mock.wait(&set.desktop, 2);
    assert_eq!((&told[1][1], &told[1][3]), (&json!(1), &json!("The connection is lost")), "{}", told[1]);
    assert_eq!(told[1][5], json!(["rotate", "Rotate", "disconnect", "Disconnect"]));
    assert_eq!((&told[1][6]["urgency"], &told[1][2]), (&json!(2), &json!("xrat-failed")));
    set.shows("xrat-failed", "Failed: it failed too often");
    set.painted(RED);
    // A choice in somebody else's notification is not ours, and anybody on the bus can say that there was one: with a
    // disconnect before it nothing could rotate.
    mock.choose(&set.desktop, 4711, "disconnect");
    let forged =
        ["emit", "--destination=org.xrat.Tray", OBJECT, NOTIFICATIONS, "ActionInvoked", "us", "1", "disconnect"];
    set.desktop.bus.busctl(&forged).unwrap();
    mock.choose(&set.desktop, 1, "rotate");
    let told = mock.wait(&set.desktop, 3);
    assert_eq!((&told[2][1], &told[2][3]), (&json!(1), &json!("Connected again")), "in its place: {}", told[2]);
    assert!(told[2][4].as_str().unwrap().starts_with("Through &lt;b&gt;two&lt;/b&gt; &amp; more"), "{}", told[2]);
    assert_eq!((set.active(), &told[2][6]["urgency"]), (Some(set.ids[1]), &json!(0)));
}

#[test]
fn disconnect_is_chosen_in_the_notification_of_a_silent_node() {
    let Some(set) = Set::with_tray(&CHECKS) else { return };
    let mock = Mock::start(&set.desktop, "body actions");
    let relay = connect_by_a_line(&set);
    mock.wait(&set.desktop, 1);
    relay.set(Mode::Swallow);
    let told = mock.wait(&set.desktop, 2);
    assert_eq!((&told[1][3], &told[1][6]["urgency"]), (&json!("one does not answer"), &json!(2)));
    set.shows("xrat-failed", "The node does not answer: one");
    mock.choose(&set.desktop, 1, "disconnect");
    set.shows("xrat-disconnected", "Disconnected");
    let closed = || {
        let words = ["--json=short", "call", NOTIFICATIONS, OBJECT, MOCK, "GetMethodCalls", "s", "CloseNotification"];
        let calls = plain(serde_json::from_str(&set.desktop.bus.busctl(&words).unwrap()).unwrap());
        calls[0].as_array().unwrap().iter().map(|call| call[1].clone()).collect::<Vec<_>>()
    };
    wait_until("what is not true any more is off the screen", || closed() == [json!([1])]);
}

#[test]
fn what_flaps_is_one_notification() {
    let Some(set) = Set::with_tray(&[]) else { return };
    let mock = Mock::start(&set.desktop, "body");
    for round in 0..10 {
        set.connect(round % 2);
        set.shows("xrat-connected", ["Connected: vless-tcp-none", "Connected: vmess-tcp-none"][round % 2]);
        set.desktop.bus.gdbus("org.xrat.Daemon1.Runtime.Disconnect", &[]).unwrap();
        set.shows("xrat-disconnected", "Disconnected");
    }
    set.connect(0);
    set.shows("xrat-connected", "Connected: vless-tcp-none");
    let told = mock.wait(&set.desktop, 3);
    // Those after the third wait their turn, which is far longer than this takes.
    assert_eq!(told.len(), 3, "{told:#?}");
    assert_eq!(told.iter().map(|call| call[1].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 1]);
}

#[test]
fn kinds_can_be_switched_off_and_a_new_service_begins_anew() {
    let Some(set) = Set::with_tray(&["desktop.notify = [\"rotated\"]"]) else { return };
    set.daemon.xrat(&["rename", &set.ids[1].to_string(), "<b>two</b>"]).ok();
    let mut mock = Mock::start(&set.desktop, "body body-markup");
    let move_to = |which: usize| {
        set.desktop.bus.call(RUNTIME, "Replace", &["sx", "manual", &set.ids[which].to_string()]);
        set.desktop.bus.get("org.xrat.Daemon1.Rotation", "LastDecision")["reason"].clone()
    };
    set.connect(0);
    set.shows("xrat-connected", "Connected: vless-tcp-none");
    let reason = move_to(1);
    let told = mock.wait(&set.desktop, 1);
    // The connect is not told; and a summary is never markup.
    assert_eq!((&told[0][3], &told[0][4]), (&json!("Moved to <b>two</b>"), &reason));
    drop(mock);
    wait_until("the service is gone", || !set.desktop.owned(NOTIFICATIONS));
    mock = Mock::start(&set.desktop, "body");
    let reason = move_to(0);
    let told = mock.wait(&set.desktop, 1);
    assert_eq!((&told[0][1], &told[0][4]), (&json!(0), &reason), "a new service has no old numbers");
    assert_eq!(told.len(), 1);
}

#[test]
fn without_a_notification_service_the_tray_goes_on() {
    let Some(set) = Set::start(&KINDS) else { return };
    // Many desktops start theirs with the first notification, and it may fail.
    let started = set.daemon.root().join("started");
    let file =
        format!("[D-BUS Service]\nName={NOTIFICATIONS}\nExec=/bin/sh -c \"touch {}; exit 1\"\n", started.display());
    std::fs::write(set.desktop.bus.services().join("notifications.service"), file).unwrap();
    let bus = "org.freedesktop.DBus";
    set.desktop.bus.busctl(&["call", bus, "/", bus, "ReloadConfig"]).unwrap();
    let set = set.and_tray();
    assert!(!started.exists(), "nothing was to be told yet");
    set.connect(0);
    wait_until("it is said once", || set.tray_log().contains("no notification could be shown"));
    assert!(started.exists(), "it was asked for");
    give_up(&set);
    set.shows("xrat-failed", "Failed: it failed too often");
    set.desktop.bus.call(RUNTIME, "Replace", &["sx", "manual", "0"]);
    set.shows("xrat-connected", "Connected: vmess-tcp-none");
    assert_eq!(set.tray_log().matches("no notification").count(), 1, "{}", set.tray_log());
}

#[test]
fn a_real_service_shows_it_on_the_screen() {
    let Some(mut set) = Set::with_tray(&CHECKS) else { return };
    set.desktop.dunst();
    let relay = connect_by_a_line(&set);
    set.painted(GREEN);
    let told = |colour| wait_for("the notification", || set.desktop.picture().find(colour, TILE, ABOVE));
    told(GREEN);
    set.desktop.picture().keep("tray-connected");
    relay.set(Mode::Swallow);
    told(RED);
    set.painted(RED);
    assert_eq!(set.desktop.picture().find(GREEN, TILE, ABOVE), None, "it is in the place of the other");
    set.desktop.picture().keep("tray-failed");
    relay.set(Mode::Pass);
    told(GREEN);
    set.painted(GREEN);
    assert_eq!(set.desktop.picture().find(RED, TILE, ABOVE), None, "it is in the place of the other");
}
