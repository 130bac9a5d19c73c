//! Where there is no desktop, or one that hangs, or settings that no desktop has a place for.

use super::*;

#[test]
fn a_machine_without_a_desktop_says_what_is_missing() {
    let empty = lab::scratch::Scratch::new();
    let mut daemon = Daemon::new(&[]);
    daemon.set_env("PATH", empty.path());
    let said = daemon.xrat(&["system-proxy", "on"]).exits(1).stderr;
    for word in ["gsettings", "kwriteconfig6", "KDE 5"] {
        assert!(said.contains(word), "{said}");
    }
    daemon.xrat(&["system-proxy", "off"]).ok();
    let status = daemon.xrat(&["system-proxy", "status"]).ok().stdout;
    assert!(status.contains("the program gsettings is missing"), "{status}");
    assert!(
        status.contains("the pair of programs kreadconfig6 and kwriteconfig6 (or that of KDE 5) is missing"),
        "{status}"
    );
}

#[test]
fn a_daemon_without_a_desktop_connects_and_says_it_once() {
    let Some(lab) = Lab::start(KIND) else { return };
    let engine = lab::engine(KIND.name()).unwrap();
    let path = format!("paths.v2ray = \"{}\"", engine.display());
    let (mut daemon, id) = lab.root(KIND, &[ON, &path]);
    let empty = lab::scratch::Scratch::new();
    daemon.set_env("PATH", empty.path());
    daemon.start();
    for _ in 0..2 {
        daemon.xrat(&["connect", &id.to_string()]).ok();
        let status = || daemon.xrat(&["status"]).ok().stdout;
        wait_until("the status says it", || status().contains("no desktop here has proxy settings"));
        daemon.xrat(&["disconnect"]).ok();
        wait_until("there is no problem without a session", || !status().contains("no desktop here"));
    }
    let log = daemon.log();
    assert_eq!(log.matches("system proxy: no desktop here").count(), 2, "once a session: {log}");
}

#[test]
fn a_schema_without_a_place_to_write_to_is_told() {
    let Some(set) = Set::start(&[]) else { return };
    set.connect();
    // What GLib does without dconf: it takes everything, and forgets it when the tool ends.
    let mut on = set.daemon.command(&["system-proxy", "on"]);
    let output = on.env("GSETTINGS_BACKEND", "memory").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("GNOME do not keep what they are told"), "{said}");
    // The other desktop is done all the same.
    assert_eq!(set.desk.values()["kde ProxyType"], "1");
    set.daemon.xrat(&["system-proxy", "off"]).ok();
    set.is_own();
}

#[test]
fn a_tool_that_hangs_holds_nobody_up_and_is_told() {
    let Some(set) = Set::start(&[ON]) else { return };
    let gate = set.desk.stop_at("gsettings list-keys");
    set.connect();
    let hangs = gate.reached();
    // All while it hangs.
    set.daemon.xrat(&["status"]).ok();
    set.daemon.xrat(&["disconnect"]).ok();
    set.connect();
    assert_eq!(set.state(), "connected");
    let log = || set.daemon.log();
    wait_until("it is given up", || log().contains("'gsettings list-keys org.gnome.system.proxy' did not end within"));
    drop(hangs);
    // The tool's end is the end of its script as well.
    wait_until("the status says it", || set.daemon.xrat(&["status"]).ok().stdout.contains("did not end within"));
    assert_eq!(set.desk.values()["kde ProxyType"], "1", "the other desktop is done all the same");
    set.desk.stop_nowhere();
    set.daemon.xrat(&["system-proxy", "on"]).ok();
    assert_eq!(set.desk.values(), set.pointed());
}

#[test]
fn the_daemons_end_does_not_wait_for_a_tool_that_hangs_and_the_next_one_finishes() {
    let Some(set) = Set::start(&[ON]) else { return };
    set.connect_and_point();
    let gate = set.desk.stop_at("reset org.gnome.system.proxy.socks port");
    let stop = set.daemon.command(&["daemon", "stop"]).stdout(std::process::Stdio::null()).spawn();
    let hangs = gate.reached();
    assert!(stop.unwrap().wait().unwrap().success());
    set.desk.stop_nowhere();
    assert_ne!(set.desk.values(), set.own);
    drop(hangs);
    set.daemon.start();
    set.comes("its own", &set.own);
}

#[test]
fn a_proxy_with_a_password_is_refused() {
    let settings = ["runtime.socks.username = \"u\"", "runtime.socks.password = \"secret-word\""];
    let Some(set) = Set::start(&settings) else { return };
    set.connect();
    let said = set.daemon.xrat(&["system-proxy", "on"]).exits(2).stderr;
    assert!(said.contains("have no place for them") && !said.contains("secret-word"), "{said}");
    assert_eq!(set.desk.values(), set.own);
}

#[test]
fn the_schema_that_is_built_in_is_what_its_source_says() {
    if !lab::tool("glib-compile-schemas") {
        return;
    }
    let dir = lab::scratch::Scratch::new();
    let room = lab::source_dir().join("src/system_proxy");
    std::fs::copy(room.join("user-values.gschema.xml"), dir.path().join("user-values.gschema.xml")).unwrap();
    let compiled = std::process::Command::new("glib-compile-schemas").arg("--strict").arg(dir.path()).status().unwrap();
    assert!(compiled.success());
    let [made, built_in] = [dir.path(), &room].map(|dir| std::fs::read(dir.join("gschemas.compiled")).unwrap());
    assert_eq!(made, built_in);
}
