//! Whatever is killed, and whenever: the user's own values come back.

use super::*;
use std::process::Stdio;

#[test]
fn after_everything_was_killed_off_alone_gives_everything_back() {
    let Some(set) = Set::start(&[ON]) else { return };
    set.connect_and_point();
    set.kill_everything();
    assert_eq!(set.desk.values(), set.pointed());
    set.daemon.xrat(&["system-proxy", "off"]).ok();
    set.is_own();
}

#[test]
fn what_the_user_changed_meanwhile_is_left_alone() {
    let Some(set) = Set::start(&[ON]) else { return };
    set.connect_and_point();
    set.kill_everything();
    let mut own = set.own.clone();
    set.desk.gnome(".socks", "host", "'mine.example'");
    own.insert("gnome socks.host".into(), "'mine.example'".into());
    set.desk.kde("ProxyType", "4");
    own.insert("kde ProxyType".into(), "4".into());
    let status = set.daemon.xrat(&["system-proxy", "status", "--json"]).ok().json();
    assert_eq!(status["desktops"][0]["points_here"], "partly");
    assert_eq!(status["desktops"][0]["changed_since"], json!(["socks.host"]));
    let done = set.daemon.xrat(&["system-proxy", "off", "--json"]).ok().json();
    let left = json!([{"desktop": "gnome", "key": "socks.host"}, {"desktop": "kde", "key": "ProxyType"}]);
    assert_eq!(done["left_alone"], left);
    assert_eq!(set.desk.values(), own);
}

#[test]
fn the_next_daemon_brings_the_session_back_or_gives_everything_back() {
    let Some(set) = Set::start(&[ON]) else { return };
    set.connect_and_point();
    set.desk.changes();
    // Within one boot the session is wanted still: the gate has the port again, then the engine.
    set.kill_everything();
    set.daemon.start();
    wait_until("connected again", || set.state() == "connected");
    assert_eq!(set.desk.values(), set.pointed());
    assert_eq!(set.desk.changes(), [] as [String; 0]);
    // After a reboot it is not.
    set.kill_everything();
    set.daemon.database().execute("UPDATE daemon_state SET value = 'another' WHERE key = 'boot_id'", []).unwrap();
    set.daemon.start();
    set.comes("its own", &set.own);
    assert_eq!(set.state(), "disconnected");
}

#[test]
fn only_an_orphan_is_given_back() {
    let Some(mut set) = Set::start(&[ON]) else { return };
    set.connect_and_point();
    set.desk.changes();
    let off = |set: &Set| set.daemon.xrat(&["system-proxy", "off", "--if-orphaned"]).ok();
    off(&set);
    // The engine goes on without its daemon.
    set.daemon.kill_daemon();
    off(&set);
    assert_eq!((set.desk.values(), set.desk.changes()), (set.pointed(), Vec::new()));
    set.kill_everything();
    off(&set);
    set.is_own();
    // That was no word of the user's: the next session has it on again.
    set.daemon.start();
    set.comes("at the session", &set.pointed());
    set.daemon.xrat(&["disconnect"]).ok();
    set.comes("its own", &set.own);
    off(&set);
}

/// What each write of a change looks like, in the order of turning it on.
const STEPS: [&str; 11] = [
    "org.gnome.system.proxy.http host",
    "org.gnome.system.proxy.http port",
    "org.gnome.system.proxy.https host",
    "org.gnome.system.proxy.https port",
    "org.gnome.system.proxy.socks host",
    "org.gnome.system.proxy.socks port",
    "org.gnome.system.proxy mode",
    "kwriteconfig5 --file KIOSLAVERC --group Proxy Settings --key httpProxy",
    "kwriteconfig5 --file KIOSLAVERC --group Proxy Settings --key httpsProxy",
    "kwriteconfig5 --file KIOSLAVERC --group Proxy Settings --key socksProxy",
    "kwriteconfig5 --file KIOSLAVERC --group Proxy Settings --key ProxyType",
];

/// Starts a command and kills it when its tool is about to write; `with_tool` kills that as well, before it does.
fn killed_at(set: &Set, command: &str, step: &str, with_tool: bool) {
    let step = step.replace("KIOSLAVERC", set.desk.kioslaverc().to_str().unwrap());
    let gate = set.desk.stop_at(&step);
    let mut child =
        set.daemon.command(&["system-proxy", command]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let waits = gate.reached();
    child.kill().unwrap();
    child.wait().unwrap();
    set.desk.stop_nowhere();
    if with_tool {
        let home = set.desk.kioslaverc();
        let bin = home.parent().unwrap().parent().unwrap().join("bin");
        process::kill_all_of(&bin);
        drop(waits);
    } else {
        // The tool holds the lock: whoever comes next waits until its write is made, and does not overtake it.
        let mut next = set.daemon.command(&["system-proxy", "off"]).stdout(Stdio::null()).spawn().unwrap();
        wait_until("the next one waits for the lock", || {
            let lock = set.daemon.root().join("system-proxy.lock");
            let open = std::fs::read_dir(format!("/proc/{}/fd", next.id())).unwrap().flatten();
            open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|path| path == lock)
        });
        drop(waits);
        assert!(next.wait().unwrap().success());
    }
}

#[test]
fn a_kill_at_each_step_of_on_and_off_ends_right() {
    let Some(set) = Set::start(&[]) else { return };
    set.connect();
    for step in STEPS {
        for with_tool in [true, false] {
            killed_at(&set, "on", step, with_tool);
            set.daemon.xrat(&["system-proxy", "off"]).ok();
            set.is_own();
        }
        // Half of it, then all of it.
        killed_at(&set, "on", step, true);
        set.daemon.xrat(&["system-proxy", "on"]).ok();
        assert_eq!(set.desk.values(), set.pointed());
        // On its way back; a daemon that comes goes on with it.
        killed_at(&set, "off", step, true);
        set.daemon.xrat(&["system-proxy", "on"]).ok();
        assert_eq!(set.desk.values(), set.pointed(), "{step}");
        killed_at(&set, "off", step, true);
        set.daemon.xrat(&["system-proxy", "off"]).ok();
        set.is_own();
    }
}

#[test]
fn a_journal_that_makes_no_sense_is_told_and_kept() {
    let Some(set) = Set::start(&[ON]) else { return };
    set.connect_and_point();
    set.kill_everything();
    let journal = set.daemon.root().join("system-proxy.json");
    std::fs::write(&journal, "{\"version\": 1, \"desk").unwrap();
    let said = set.daemon.xrat(&["system-proxy", "off"]).exits(1).stderr;
    assert!(said.contains("system-proxy.json") && said.contains("move it away"), "{said}");
    assert_eq!(std::fs::read_to_string(&journal).unwrap(), "{\"version\": 1, \"desk");
    set.daemon.start();
    wait_until("connected again", || set.state() == "connected");
    assert!(set.daemon.xrat(&["status"]).ok().stdout.contains("move it away"));
}
