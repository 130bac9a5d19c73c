//! What ends and comes back around the tray, in any order; and that it costs nothing while nothing happens.

use super::*;
use desktop::{WATCHER, program};
use lab::process::{self, is_alive};
use lab::{rounds, wait_until};
use rustix::process::Signal;

#[test]
fn the_truth_is_shown_after_each_restart() {
    let Some(mut set) = Set::with_tray(&[]) else { return };
    set.painted(GREY);
    set.connect(0);
    set.shows("xrat-connected", "Connected: vless-tcp-none");
    set.painted(GREEN);

    set.daemon.kill_daemon();
    set.shows("xrat-disconnected", "The daemon does not run");
    set.painted(GREY);
    set.daemon.run();
    set.desktop.bus.wait_for_name();
    set.shows("xrat-connected", "Connected: vless-tcp-none");
    set.painted(GREEN);

    set.desktop.tray_guard().kill();
    wait_until("its icon is gone", || set.desktop.picture().find(GREEN, TILE, PANEL).is_none());
    set.desktop.tray(set.daemon.root());
    set.shows("xrat-connected", "Connected: vless-tcp-none");
    set.painted(GREEN);

    set.desktop.panel();
    set.shows("xrat-connected", "Connected: vless-tcp-none");
    set.painted(GREEN);

    set.desktop.replace_bus();
    set.desktop.bus.wait_for_name();
    set.shows("xrat-connected", "Connected: vless-tcp-none");
    set.painted(GREEN);
    assert!(set.tray_log().contains("the session bus is gone; another one is looked for"), "{}", set.tray_log());
    // And it is not a picture only.
    set.desktop.bus.gdbus("org.xrat.Daemon1.Runtime.Disconnect", &[]).unwrap();
    set.shows("xrat-disconnected", "Disconnected");
    set.painted(GREY);
}

#[test]
fn it_starts_before_everything_else_and_starts_nobody() {
    let Some(mut desktop) = Desktop::start() else { return };
    let Some(lab) = Lab::start(KIND) else { return };
    let (mut daemon, id) = lab.root(KIND, &[]);
    daemon.set_env("DBUS_SESSION_BUS_ADDRESS", desktop.bus.address());
    // The bus could start a daemon, and must not be asked to.
    let started = daemon.root().join("started");
    let file = format!("[D-BUS Service]\nName=org.xrat.Daemon1\nExec=/usr/bin/touch {}\n", started.display());
    std::fs::write(desktop.bus.services().join("org.xrat.Daemon1.service"), file).unwrap();
    let bus = "org.freedesktop.DBus";
    desktop.bus.busctl(&["call", bus, "/", bus, "ReloadConfig"]).unwrap();
    desktop.tray(daemon.root());
    wait_until("the tray is on the bus", || desktop.owned("org.xrat.Tray"));
    desktop.panel();
    let mut set = Set { desktop, lab, daemon, ids: vec![id] };
    set.shows("xrat-disconnected", "The daemon does not run");
    // Opened and read, as by a curious user.
    set.desktop.menu_call("AboutToShow", &["i", "0"]).unwrap();
    assert!(set.desktop.line("Start the daemon").enabled);
    set.daemon.run();
    set.desktop.bus.wait_for_name();
    set.shows("xrat-disconnected", "Disconnected");
    assert!(!set.desktop.menu().iter().any(|line| line.label == "Start the daemon"));
    assert!(!started.exists(), "looking at the daemon has started it");
    set.connect(0);
    set.shows("xrat-connected", "Connected: vless-tcp-none");

    // Asked for it is started, by the bus.
    set.daemon.kill_daemon();
    set.shows("xrat-disconnected", "The daemon does not run");
    let start = set.desktop.line("Start the daemon").id.to_string();
    set.desktop.menu_call("Event", &["isvu", &start, "clicked", "s", "", "0"]).unwrap();
    wait_until("the bus starts it", || started.exists());
}

#[test]
fn a_second_tray_says_that_there_is_one_and_ends() {
    let Some(mut set) = Set::with_tray(&[]) else { return };
    let second = set.desktop.command(&program()).output().unwrap();
    let pid = set.desktop.tray_guard().pid();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(
        (second.status.code(), said.trim()),
        (Some(1), &*format!("xrat-tray: xrat-tray runs already (process {pid}); this one is not needed"))
    );
    set.shows("xrat-disconnected", "Disconnected");
}

#[test]
fn without_a_bus_it_says_so() {
    let mut command = std::process::Command::new(program());
    command.env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent/bus");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.starts_with("xrat-tray: there is no session bus") && said.contains("a tray needs a desktop"),
        "{said}"
    );
}

/// It waits a minute, as documented: too long for every change.
#[test]
#[ignore = "takes more than a minute: just nightly"]
fn a_bus_that_stays_away_is_the_end() {
    let Some(mut set) = Set::with_tray(&[]) else { return };
    set.desktop.bus.kill();
    let tray = set.desktop.tray_guard();
    let status = lab::wait_for_within(Duration::from_secs(90), "the tray ends", || tray.exited());
    assert_eq!(status.code(), Some(1));
    assert!(set.tray_log().ends_with("gone for a minute: the desktop session is over\n"), "{}", set.tray_log());
}

#[test]
fn its_arguments_are_few() {
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(program()).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(if output.stdout.is_empty() { &output.stderr } else { &output.stdout });
        (output.status.code(), said.into_owned())
    };
    assert_eq!(run(&["--version"]), (Some(0), format!("xrat-tray {}\n", env!("CARGO_PKG_VERSION"))));
    let (code, said) = run(&["--help"]);
    assert!(code == Some(0) && said.contains("--root"), "{said}");
    let (code, said) = run(&["--nonsense"]);
    assert!(code == Some(2) && said.contains("--nonsense"), "{said}");
}

#[test]
fn an_installed_icon_wins_over_the_pixels() {
    const MAGENTA: Colour = [0xff, 0, 0xff];
    let Some(mut set) = Set::start(&[]) else { return };
    let installed = set.desktop.data().join("icons/hicolor/scalable/status");
    std::fs::create_dir_all(&installed).unwrap();
    let ours = lab::source_dir().join("desktop/icons/hicolor/scalable/status/xrat-disconnected.svg");
    let drawn = std::fs::read_to_string(ours).unwrap();
    std::fs::write(installed.join("xrat-disconnected.svg"), drawn.replace("#8c929c", "#ff00ff")).unwrap();
    set.desktop.panel();
    set.desktop.tray(set.daemon.root());
    wait_until("the installed icon", || set.desktop.picture().find(MAGENTA, FRAME, PANEL).is_some());
    // One that is not installed is drawn from its pixels all the same.
    set.connect(0);
    set.painted(GREEN);
}

#[test]
fn a_panel_that_hangs_does_not_keep_it_from_telling_the_next_one() {
    let Some(mut set) = Set::with_tray(&[]) else { return };
    let bus = "org.freedesktop.DBus";
    let owner = set.desktop.bus.busctl(&["call", bus, "/", bus, "GetConnectionUnixProcessID", "s", WATCHER]).unwrap();
    let panel: u32 = owner.trim().strip_prefix("u ").unwrap().parse().unwrap();
    process::signal_pid(panel, Signal::STOP);
    set.connect(0);
    set.desktop.panel();
    assert!(!is_alive(panel));
    set.shows("xrat-connected", "Connected: vless-tcp-none");
    set.painted(GREEN);
}

/// How often the threads of a process went to sleep and were woken.
fn switches(pid: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let statuses = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok());
    let count = |status: String| {
        let value = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:").map(str::to_owned));
        value.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    statuses.map(count).sum()
}

/// Nothing happens, and so nothing wakes it up. Nothing can be waited for here but time.
#[test]
fn it_sleeps_while_nothing_happens() {
    let settings = ["runtime.health.interval_secs = 3600"];
    let Some(mut set) = Set::with_tray(&settings) else { return };
    set.connect(0);
    set.shows("xrat-connected", "Connected: vless-tcp-none");
    wait_until("the session is proven", || set.desktop.bus.get(RUNTIME, "Health") == 2);
    // Also on its second bus, of the first of which nothing is left.
    set.desktop.replace_bus();
    set.desktop.bus.wait_for_name();
    set.shows("xrat-connected", "Connected: vless-tcp-none");
    set.painted(GREEN);
    let pid = set.desktop.tray_guard().pid();
    // What it was last told is dealt with: a helper thread of its start is gone, and two looks in a row find it asleep.
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    wait_until("its own threads are left", || threads() == 3);
    let mut last = 0;
    wait_until("it is at rest", || std::mem::replace(&mut last, switches(pid)) == switches(pid));
    let seconds = rounds(5, 60) as u64;
    let before = switches(pid);
    std::thread::sleep(Duration::from_secs(seconds));
    let woken = switches(pid) - before;
    println!("woken {woken} times in {seconds} s");
    assert_eq!(woken, 0, "in {seconds} s");
    // It was not dead.
    set.desktop.bus.gdbus("org.xrat.Daemon1.Runtime.Disconnect", &[]).unwrap();
    set.shows("xrat-disconnected", "Disconnected");
}
