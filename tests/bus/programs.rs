//! The programs of docs/dbus.md: each runs as it is, and tells of a session that others drive.

use std::io::{BufRead, BufReader};
use std::sync::mpsc::{Receiver, channel};

use lab::process::Guard;

use super::*;

/// A program of `examples/` that follows the session.
struct Follower {
    lines: Receiver<String>,
    _guard: Guard,
}

impl Follower {
    fn start(bus: &Bus, name: &str) -> Self {
        let (out, out_write) = std::io::pipe().unwrap();
        let guard = Guard::spawn(&source_dir().join("examples").join(name), |command| {
            command.env("DBUS_SESSION_BUS_ADDRESS", bus.address()).stdin(Stdio::null()).stdout(out_write);
        });
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { lines, _guard: guard }
    }

    #[track_caller]
    fn next(&self) -> String {
        self.lines.recv_timeout(lab::PATIENCE).expect("a line in time")
    }

    #[track_caller]
    fn until(&self, wanted: &str) {
        while self.next() != wanted {}
    }
}

#[test]
fn the_shell_script_follows_the_states() {
    let script = std::fs::read_to_string(source_dir().join("examples/dbus/follow.sh")).unwrap();
    let page = std::fs::read_to_string(source_dir().join("docs/dbus.md")).unwrap();
    assert!(page.contains(&script), "docs/dbus.md shows another one");
    assert!(script.lines().count() <= 20);
    let Some(set) = Set::start(&[]) else { return };
    let follower = Follower::start(&set.bus, "dbus/follow.sh");
    assert_eq!(follower.next(), "disconnected");
    set.connect(0);
    assert_eq!([follower.next(), follower.next()], ["disconnected -> connecting", "connecting -> connected"]);
    set.bus.call(RUNTIME, "Disconnect", &[]);
    assert_eq!([follower.next(), follower.next()], ["connected -> disconnecting", "disconnecting -> disconnected"]);
    set.bus.call(DAEMON, "Shutdown", &[]);
    assert_eq!(follower.next(), "unknown", "the daemon is gone");
}

fn follows_with_names(program: &str, interpreter: &str) {
    if !lab::tool(interpreter) {
        return;
    }
    let Some(mut set) = Set::start(&[]) else { return };
    let follower = Follower::start(&set.bus, program);
    assert_eq!(follower.next().trim(), "disconnected");
    set.connect(0);
    assert_eq!([follower.next().trim(), follower.next().trim()], ["connecting", "connected vless-tcp-none"]);
    set.bus.call(DAEMON, "Shutdown", &[]);
    follower.until("no daemon");
    assert!(!set.bus.has_name(), "looking starts none");
    set.daemon.wait();
    set.daemon.run();
    while follower.next().trim() != "disconnected" {}
}

#[test]
fn the_python_program_follows_the_states() {
    follows_with_names("dbus/follow.py", "python3");
}

#[test]
fn the_gjs_program_follows_the_states() {
    follows_with_names("dbus/follow.js", "gjs");
}

#[test]
fn the_module_of_waybar_shows_the_session() {
    let config = std::fs::read_to_string(source_dir().join("examples/waybar/config.json")).unwrap();
    let module = &serde_json::from_str::<Value>(&config).unwrap()["custom/xrat"];
    assert!(module["exec"].as_str().unwrap().ends_with("/xrat.sh"), "{module}");
    assert_eq!(module["return-type"], "json");

    let Some(set) = Set::start(&[]) else { return };
    let name = r#"a "b" \ <c> & d"#;
    set.daemon.xrat(&["rename", &set.ids[0].to_string(), name]).ok();
    let follower = Follower::start(&set.bus, "waybar/xrat.sh");
    let show = || serde_json::from_str::<Value>(&follower.next()).unwrap();
    let off = json!({"text": "disconnected", "alt": "disconnected", "class": "disconnected", "tooltip": "xrat: disconnected"});
    assert_eq!(show(), off);
    set.connect(0);
    let connected =
        lab::wait_for("it shows the session", || Some(show()).filter(|shown| shown["class"] == "connected"));
    assert_eq!(connected["text"], r#"a "b" \ &lt;c&gt; &amp; d"#, "in the words of Pango");
    set.bus.call(DAEMON, "Shutdown", &[]);
    lab::wait_for("it shows that there is none", || Some(show()).filter(|shown| shown["class"] == "off"));
}
