//! The session bus: the whole life of a session driven by programs that are not ours, and what happens to the bus.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use lab::bus::{Bus, Monitor, NAME, PATH};
use lab::scratch::Scratch;
use lab::wrapper::{Gate, script, wrapper};
use lab::{Daemon, Kind, Lab, client, process, source_dir, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

const DAEMON: &str = "org.xrat.Daemon1";
const RUNTIME: &str = "org.xrat.Daemon1.Runtime";
const ROTATION: &str = "org.xrat.Daemon1.Rotation";
const CONFIGS: &str = "org.xrat.Daemon1.Configs";
/// The engine of most of these: what they are about is the same with each.
const KIND: Kind = Kind::V2ray;
const DISCONNECTED: u32 = 1;
const CONNECTING: u32 = 2;
const CONNECTED: u32 = 3;
const REPLACING: u32 = 4;

/// A bus, and a daemon on it with two nodes.
struct Set {
    bus: Bus,
    lab: Lab,
    daemon: Daemon,
    ids: Vec<i64>,
}

impl Set {
    fn start(settings: &[&str]) -> Option<Self> {
        Self::testing_with("/generate_204", settings)
    }

    /// A set whose tests ask the origin for `path`.
    fn testing_with(path: &str, settings: &[&str]) -> Option<Self> {
        let bus = Bus::start()?;
        let lab = Lab::start(KIND)?;
        let url = format!("testing.url = \"{}\"", lab.origin.url(path));
        let (mut daemon, first) = lab.root(KIND, &[&[url.as_str()], settings].concat());
        let second = daemon.import(&[lab.server.link("vmess-tcp-none")])[0];
        daemon.set_env("DBUS_SESSION_BUS_ADDRESS", bus.address());
        daemon.run();
        bus.wait_for_name();
        Some(Self { bus, lab, daemon, ids: vec![first, second] })
    }

    #[track_caller]
    fn connect(&self, which: usize) -> Value {
        self.bus.call(RUNTIME, "Connect", &["x", &self.ids[which].to_string()])
    }

    fn socket(&self, kind: &str, payload: &Value) -> Value {
        self.daemon.request(&json!({"type": kind, "payload": payload})).unwrap()
    }
}

#[test]
fn the_whole_life_with_busctl_and_gdbus() {
    let Some(Set { bus, lab, daemon, ids }) = Set::start(&[]) else { return };
    let [first, second] = [ids[0], ids[1]];
    assert_eq!(bus.call(DAEMON, "Ping", &[])["pid"], daemon.pid());
    assert_eq!(bus.get(DAEMON, "Version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(bus.get(DAEMON, "ProtocolVersion"), 1);

    let link = lab.server.link("trojan-tcp-tls");
    let imported = bus.call(CONFIGS, "Import", &["sa{sv}", &format!("{} nonsense://x", link.link), "0"]);
    let third = imported["added"][0].as_i64().unwrap();
    assert_eq!(imported["known"], json!([]));
    let listed = bus.call(CONFIGS, "List", &["a{sv}", "1", "query", "s", &link.name]);
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["config_id"]), (1, &json!(third)), "{listed}");
    let all = bus.gdbus("org.xrat.Daemon1.Configs.List", &["{'sort': <'name'>}"]).unwrap();
    assert!(all.contains("'vmess-tcp-none'") && !all.contains("uuid"), "{all}");

    let session = bus.call(RUNTIME, "Connect", &["x", &first.to_string()]);
    assert_eq!(session["config_id"], first);
    // When the answer is there, so are the properties.
    assert_eq!(bus.get(RUNTIME, "State"), CONNECTED);
    assert_eq!(bus.get(RUNTIME, "StateReason"), json!([CONNECTED, 2]));
    assert_eq!(bus.get(RUNTIME, "Session")["session_id"], session["session_id"]);
    assert_eq!(client::http_get_via_socks(daemon.socks(), &lab.origin.url("/page")).unwrap().status, 200);
    wait_until("the session is healthy", || bus.get(RUNTIME, "Health") == 2);
    assert!(bus.get(RUNTIME, "Traffic")[1].as_u64().unwrap() > 0);
    let status = bus.call(RUNTIME, "GetStatus", &[]);
    assert_eq!((&status["state"], &status["session"]["health"]["status"]), (&json!(CONNECTED), &json!(2)));

    bus.gdbus("org.xrat.Daemon1.Rotation.Start", &[]).unwrap();
    assert_eq!(bus.get(ROTATION, "Enabled"), true);
    assert!(bus.get(ROTATION, "NextAt").as_i64().unwrap() > 1_700_000_000);
    assert_eq!(bus.call(ROTATION, "GetStatus", &[])["enabled"], true);
    bus.busctl(&["set-property", NAME, PATH, ROTATION, "Enabled", "b", "false"]).unwrap();
    assert_eq!((bus.get(ROTATION, "Enabled"), bus.get(ROTATION, "NextAt")), (json!(false), json!(0)));

    let moved = bus.call(RUNTIME, "Replace", &["sx", "manual", &second.to_string()]);
    assert_eq!(moved["config_id"], second);
    let last = bus.get(ROTATION, "LastDecision");
    assert_eq!((&last["new_config_id"], &last["trigger"]), (&json!(second), &json!("manual")));
    assert_eq!(bus.call(ROTATION, "History", &["u", "5"])[0], last);

    let monitor = bus.monitor();
    let job = bus.call(CONFIGS, "Test", &["axa{sv}", "2", &first.to_string(), &second.to_string(), "0"]);
    let mut delays = Vec::new();
    loop {
        let signal = monitor.next();
        match signal.member.as_str() {
            "Result" => delays.push((signal.body[0].as_i64().unwrap(), signal.body[1].as_i64().unwrap())),
            "Finished" => {
                assert_eq!((signal.body, signal.path.as_str()), (json!(["done"]), job.as_str().unwrap()));
                break;
            }
            _ => {}
        }
    }
    delays.sort_unstable();
    assert!(matches!(delays[..], [(a, 0..), (b, 0..)] if a == first && b == second), "{delays:?}");
    let tested = bus.call(CONFIGS, "List", &["a{sv}", "0"]);
    assert_eq!(tested[0]["last_test"]["delay_ms"], delays[0].1);
    let progress = |name| bus.busctl(&["get-property", NAME, job.as_str().unwrap(), "org.xrat.Daemon1.Job", name]);
    assert_eq!((progress("Done"), progress("Total")), (Ok("u 2\n".into()), Ok("u 2\n".into())));

    bus.gdbus("org.xrat.Daemon1.Runtime.Disconnect", &[]).unwrap();
    assert_eq!((bus.get(RUNTIME, "State"), bus.get(RUNTIME, "Session")), (json!(DISCONNECTED), json!({})));
    bus.gdbus("org.xrat.Daemon1.Shutdown", &[]).unwrap();
    wait_until("nothing of the daemon is left", || daemon.processes().is_empty());
    assert!(!bus.has_name());
}

/// What the socket says in the words of the bus: no null, and numbers for state, reason and health.
fn translated(value: &Value) -> Value {
    let numbers = |names: &[&str], text: &Value| names.iter().position(|name| text == name).map(|number| json!(number));
    let states =
        ["unknown", "disconnected", "connecting", "connected", "replacing", "recovering", "failed", "disconnecting"];
    let health = ["unknown", "unproven", "healthy", "degraded", "failed"];
    let Value::Object(members) = value else { return value.clone() };
    let mut translated = serde_json::Map::new();
    for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
        let value = match (name.as_str(), value) {
            ("state", state) => numbers(&states, state).unwrap(),
            // Of a state; a decision's is a sentence.
            ("reason", reason) if reason == "none" => json!(1),
            ("reason", reason) if reason == "user_requested" => json!(2),
            ("status", status) if members.contains_key("consecutive_failures") => numbers(&health, status).unwrap(),
            (_, Value::Array(values)) => values.iter().map(translated_ref).collect(),
            (_, value) => translated_ref(value),
        };
        translated.insert(name.clone(), value);
    }
    Value::Object(translated)
}

fn translated_ref(value: &Value) -> Value {
    translated(value)
}

#[test]
fn both_transports_say_the_same() {
    let Some(set) = Set::start(&["runtime.health.interval_secs = 3600"]) else { return };
    let bus = &set.bus;
    let payload = |kind: &str, payload: Value| {
        let answer = set.socket(kind, &payload);
        assert_eq!(answer["code"], 200, "{answer}");
        answer["payload"].clone()
    };
    let same = |kind: &str, interface: &str, method: &str| {
        assert_eq!(translated(&payload(kind, Value::Null)), bus.call(interface, method, &[]), "{kind}");
    };
    same("DaemonPing", DAEMON, "Ping");
    same("RuntimeStatus", RUNTIME, "GetStatus");
    same("ProxyStatus", ROTATION, "GetStatus");

    let session = set.connect(0);
    wait_until("the exchange is over", || bus.get(RUNTIME, "Health") == 2);
    let mut now = payload("RuntimeStatus", Value::Null)["session"].clone();
    let mut status = bus.call(RUNTIME, "GetStatus", &[])["session"].clone();
    // Bytes are counted between the two questions.
    for one in [&mut now, &mut status] {
        one.as_object_mut().unwrap().remove("traffic");
    }
    assert_eq!(translated(&now), status);
    assert_eq!(status, bus.get(RUNTIME, "Session"));
    assert_eq!(status["session_id"], session["session_id"]);

    payload("RuntimeReplace", json!({"trigger": "manual", "candidate_id": set.ids[1]}));
    let history = payload("RotationHistory", json!({"limit": 3}));
    let told: Value = history.as_array().unwrap().iter().map(translated).collect();
    assert_eq!(told, bus.call(ROTATION, "History", &["u", "3"]));
    let listed = set.daemon.xrat(&["list", "--json"]).ok().json();
    let listed: Value = listed.as_array().unwrap().iter().map(translated).collect();
    assert_eq!(listed, bus.call(CONFIGS, "List", &["a{sv}", "0"]));
}

#[test]
fn each_failure_has_its_name_and_the_message_of_the_socket() {
    let Some(set) = Set::start(&[]) else { return };
    let id = set.ids[0].to_string();
    let fails = |method: &str, arguments: &[&str], name: &str, kind: &str, payload: Value| {
        let failed = set.bus.gdbus(&format!("org.xrat.Daemon1.{method}"), arguments).unwrap_err();
        assert_eq!(failed.name, format!("org.xrat.Daemon1.Error.{name}"), "{method} {arguments:?}: {}", failed.message);
        if !kind.is_empty() {
            assert_eq!(failed.message, set.socket(kind, &payload)["message"].as_str().unwrap());
        }
    };
    let none = || Value::Null;
    fails("Runtime.Connect", &["999"], "NotFound", "RuntimeConnect", json!({"config_id": 999}));
    fails("Runtime.Disconnect", &[], "NotFound", "RuntimeDisconnect", none());
    let banana = json!({"trigger": "banana"});
    fails("Runtime.Replace", &["banana", "0"], "BadRequest", "RuntimeReplace", banana);
    set.connect(0);
    fails("Runtime.Connect", &[&id], "Conflict", "RuntimeConnect", json!({"config_id": set.ids[0]}));
    fails("Configs.List", &["{'sort': <'size'>}"], "BadRequest", "", none());
    fails("Configs.List", &["{'srot': <'id'>}"], "BadRequest", "", none());
    fails("Configs.Import", &["nonsense", "{}"], "BadRequest", "", none());
    fails("Configs.Import", &["http://127.0.0.1:1/sub", "{}"], "Internal", "", none());
    fails("Configs.Test", &["[999]", "{}"], "NotFound", "", none());
    fails("Configs.Test", &["[]", "{'timeout_ms': <'x'>}"], "BadRequest", "", none());
}

#[test]
fn an_engine_that_is_broken_is_an_internal_error() {
    let dir = Scratch::new();
    let program = dir.path().join("v2ray");
    script(&program, "case \"$*\" in *version*) echo 'V2Ray 4.34.0 (V2Fly)';; *) echo no such luck; exit 23;; esac\n");
    let setting = format!("paths.v2ray = \"{}\"", program.display());
    let Some(set) = Set::start(&[&setting]) else { return };
    let failed = set.bus.gdbus("org.xrat.Daemon1.Runtime.Connect", &[&set.ids[0].to_string()]).unwrap_err();
    assert_eq!(failed.name, "org.xrat.Daemon1.Error.Internal", "{}", failed.message);
}

#[test]
fn properties_are_read_while_a_connect_waits() {
    let dir = Scratch::new();
    let gate = Gate::new(dir.path().join("gate"));
    let program = dir.path().join("v2ray");
    let Some(()) = wrapper(&program, KIND, &gate.line()) else { return };
    let setting = format!("paths.v2ray = \"{}\"", program.display());
    let Some(set) = Set::start(&[&setting]) else { return };
    let id = set.ids[0].to_string();
    let mut call = set.bus.gdbus_command("org.xrat.Daemon1.Runtime.Connect", &[&id]).spawn().unwrap();
    let withheld = gate.reached();
    let all = ["--json=short", "call", NAME, PATH, "org.freedesktop.DBus.Properties", "GetAll", "s", RUNTIME];
    for _ in 0..50 {
        assert_eq!(set.bus.get(RUNTIME, "State"), CONNECTING);
        assert!(set.bus.busctl(&all).unwrap().contains("Traffic"));
    }
    assert_eq!(call.try_wait().unwrap(), None, "the call waits all the time");
    drop(withheld);
    assert!(call.wait().unwrap().success());
    assert_eq!(set.bus.get(RUNTIME, "State"), CONNECTED);
}

#[test]
fn the_bus_dies_and_comes_back() {
    let Some(mut set) = Set::start(&[]) else { return };
    set.connect(0);
    let page = |set: &Set| client::http_get_via_socks(set.daemon.socks(), &set.lab.origin.url("/page")).unwrap().status;
    set.bus.kill();
    assert_eq!((page(&set), set.daemon.status()["state"].as_str()), (200, Some("connected")));
    wait_until("the daemon knows", || set.daemon.log().contains("the session bus is gone"));
    assert_eq!(set.socket("RuntimeDisconnect", &Value::Null)["code"], 200);
    // Else it might be back before anybody can listen.
    let pid = set.daemon.pid();
    process::signal_pid(pid, Signal::STOP);
    set.bus.run();
    let monitor = set.bus.monitor();
    process::signal_pid(pid, Signal::CONT);
    let mut told = Vec::new();
    while told.len() < 2 {
        let signal = monitor.next();
        assert_eq!(signal.member, "PropertiesChanged");
        told.push(signal.body);
    }
    assert_eq!(told[0][1]["State"], DISCONNECTED, "the present state is told: {told:?}");
    assert_eq!(told[1][1]["Enabled"], false, "{told:?}");
    assert_eq!(set.bus.get(RUNTIME, "State"), DISCONNECTED);
    set.connect(1);
    assert_eq!(page(&set), 200);
}

#[test]
fn a_second_daemon_works_without_the_name_and_takes_it_later() {
    let Some(set) = Set::start(&[]) else { return };
    let first = set.bus.get(DAEMON, "InstanceId");
    let (mut second, id) = set.lab.root(KIND, &[]);
    second.set_env("DBUS_SESSION_BUS_ADDRESS", set.bus.address());
    second.run();
    wait_until("the second one says so", || second.log().contains("another daemon has the name"));
    second.xrat(&["connect", &id.to_string()]).ok();
    assert_eq!(set.bus.get(DAEMON, "InstanceId"), first);
    set.bus.gdbus("org.xrat.Daemon1.Shutdown", &[]).unwrap();
    let ping = ["--json=short", "call", NAME, PATH, DAEMON, "Ping"];
    let own = second.pid().to_string();
    wait_until("the second one has the name", || set.bus.busctl(&ping).is_ok_and(|answer| answer.contains(&own)));
    assert_ne!(set.bus.get(DAEMON, "InstanceId"), first);
    assert_eq!(set.bus.get(RUNTIME, "State"), CONNECTED);
}

/// Follows properties and states, and complains about any two that contradict each other.
struct Follower {
    monitor: Monitor,
    state: u64,
    reason: u64,
    session: Value,
}

impl Follower {
    fn new(bus: &Bus) -> Self {
        let monitor = bus.monitor();
        let pair = bus.get(RUNTIME, "StateReason");
        let (state, reason) = (pair[0].as_u64().unwrap(), pair[1].as_u64().unwrap());
        Self { monitor, state, reason, session: bus.get(RUNTIME, "Session") }
    }

    /// The next state that is entered, as the signal has it: new, old, reason.
    fn next(&mut self) -> [u64; 3] {
        let mut before = self.state;
        loop {
            let signal = self.monitor.next();
            match (signal.interface.as_str(), signal.member.as_str()) {
                ("Properties", _) if signal.body[0] == RUNTIME => {
                    let changed = &signal.body[1];
                    if let Some(pair) = changed.get("StateReason") {
                        let state = changed.get("State").map_or(self.state, |state| state.as_u64().unwrap());
                        assert_eq!(pair[0], state, "State and StateReason in one signal: {changed}");
                        before = self.state;
                        (self.state, self.reason) = (state, pair[1].as_u64().unwrap());
                    } else {
                        assert!(changed.get("State").is_none(), "a State without its reason: {changed}");
                    }
                    if let Some(session) = changed.get("Session") {
                        self.session = session.clone();
                    }
                    let has_session = self.session != json!({});
                    let wants = [CONNECTED, REPLACING].contains(&u32::try_from(self.state).unwrap());
                    assert!(!wants || has_session, "state {} without a session", self.state);
                    let must_not = [DISCONNECTED, CONNECTING].contains(&u32::try_from(self.state).unwrap());
                    assert!(!(must_not && has_session), "state {} with a session", self.state);
                }
                ("Runtime", "StateChanged") => {
                    let state = [0, 1, 2].map(|at: usize| signal.body[at].as_u64().unwrap());
                    assert_eq!([self.state, before, self.reason], state, "the properties come first");
                    return state;
                }
                _ => {}
            }
        }
    }
}

#[test]
fn states_are_told_once_in_order_and_never_contradict_the_properties() {
    let Some(set) = Set::start(&[]) else { return };
    let mut follower = Follower::new(&set.bus);
    set.connect(0);
    assert_eq!([follower.next(), follower.next()], [[2, 1, 2], [3, 2, 2]]);
    let rounds = lab::rounds(12, 50);
    let moving = std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            for round in 1..=rounds {
                let id = set.ids[round % 2].to_string();
                set.bus.call(RUNTIME, "Replace", &["sx", "manual", &id]);
            }
        });
        let manual = 4;
        for round in 1..=rounds {
            assert_eq!([follower.next(), follower.next()], [[4, 3, manual], [3, 4, manual]], "rotation {round}");
            assert_eq!(follower.session["config_id"], set.ids[round % 2], "rotation {round}");
            let rotated = follower.monitor.until("Rotated").body;
            let (old, new) = (set.ids[(round + 1) % 2], set.ids[round % 2]);
            assert_eq!([&rotated[0], &rotated[1], &rotated[2]], [&json!(old), &json!(new), &json!("manual")]);
        }
        mover.join()
    });
    moving.unwrap();
    set.bus.gdbus("org.xrat.Daemon1.Runtime.Disconnect", &[]).unwrap();
    assert_eq!([follower.next(), follower.next()], [[7, 3, 2], [1, 7, 2]]);
}

#[test]
fn the_setter_tells_of_a_change_once() {
    let Some(set) = Set::start(&[]) else { return };
    set.connect(0);
    let monitor = set.bus.monitor();
    set.bus.busctl(&["set-property", NAME, PATH, ROTATION, "Enabled", "b", "true"]).unwrap();
    set.bus.gdbus("org.xrat.Daemon1.Runtime.Disconnect", &[]).unwrap();
    let (mut told, mut next_at) = (0, 0);
    loop {
        let signal = monitor.next();
        if signal.member == "StateChanged" {
            break;
        }
        if signal.body[0] == ROTATION {
            told += i32::from(signal.body[1].get("Enabled").is_some());
            // The disconnect makes it 0.
            next_at += i32::from(signal.body[1].get("NextAt").is_some_and(|at| *at != 0));
        }
    }
    assert_eq!((told, next_at), (1, 1));
}

#[test]
fn activation_starts_a_daemon_and_no_session() {
    let Some(bus) = Bus::start() else { return };
    let Some(lab) = Lab::start(KIND) else { return };
    let (mut daemon, _) = lab.root(KIND, &[]);
    daemon.set_env("DBUS_SESSION_BUS_ADDRESS", bus.address());
    // What the bus starts inherits nothing of the lab's: the words of the file have to do.
    let words = std::fs::read_to_string(source_dir().join("dbus/org.xrat.Daemon1.service")).unwrap();
    let exec = words.lines().find(|line| line.starts_with("Exec=")).expect("the file names the program");
    assert!(exec.ends_with(" daemon run"), "{exec}");
    let start = bus.services().join("start");
    let command = daemon.command(&["daemon", "run"]);
    let environment = command.get_envs().map(|(name, value)| match value {
        Some(value) => format!("export {}='{}'\n", name.display(), value.display()),
        None => format!("unset {}\n", name.display()),
    });
    let arguments = command.get_args().map(|word| format!(" '{}'", word.display()));
    let program = Path::new(command.get_program()).display();
    let text = format!("{}exec '{program}'{}\n", environment.collect::<String>(), arguments.collect::<String>());
    script(&start, &text);
    // SystemdService only counts where the bus works with systemd.
    let file = words.replace(exec, &format!("Exec={}", start.display()));
    std::fs::write(bus.services().join("org.xrat.Daemon1.service"), file).unwrap();
    bus.busctl(&["call", "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "ReloadConfig"]).unwrap();

    assert!(!bus.has_name());
    let status = bus.call(RUNTIME, "GetStatus", &[]);
    assert_eq!((&status["state"], &status["session"]), (&json!(DISCONNECTED), &Value::Null));
    assert_eq!((daemon.status()["state"].as_str(), daemon.engine_pids().len()), (Some("disconnected"), 0));
    bus.gdbus("org.xrat.Daemon1.Shutdown", &[]).unwrap();
    wait_until("the daemon is gone", || daemon.processes().is_empty());
}

#[test]
fn a_job_is_cancelled_and_ends_with_the_daemon() {
    let Some(set) = Set::testing_with("/withhold", &[]) else { return };
    let monitor = set.bus.monitor();
    let begin = || {
        set.bus.call(CONFIGS, "Test", &["axa{sv}", "0", "1", "timeout_ms", "u", "60000"]).as_str().unwrap().to_owned()
    };
    let job = begin();
    set.bus.busctl(&["call", NAME, &job, "org.xrat.Daemon1.Job", "Cancel"]).unwrap();
    assert_eq!(monitor.until("Finished").body, json!(["cancelled"]));
    for _ in 0..4 {
        begin();
    }
    let failed = set.bus.gdbus("org.xrat.Daemon1.Configs.Test", &["[]", "{}"]).unwrap_err();
    assert_eq!(failed.name, "org.xrat.Daemon1.Error.Conflict");
    wait_until("the engines of the tests run", || set.daemon.engine_pids().len() == 4);
    let restart = set.daemon.xrat(&["daemon", "restart"]).ok();
    assert!(restart.stdout.starts_with("Restarted"), "{}", restart.stdout);
    wait_until("no engine of a test is left", || set.daemon.engine_pids().is_empty());
    set.bus.wait_for_name();
    set.lab.origin.release();
}

#[test]
fn without_a_bus_the_daemon_says_so_once_and_works() {
    let Some(lab) = Lab::start(KIND) else { return };
    let (mut daemon, id) = lab.root(KIND, &[]);
    daemon.run();
    daemon.xrat(&["connect", &id.to_string()]).ok();
    assert_eq!(daemon.log().matches("no session bus").count(), 1, "{}", daemon.log());
}

#[test]
fn no_dbus_stays_off_the_bus() {
    let Some(bus) = Bus::start() else { return };
    let mut daemon = Daemon::new(&[]);
    daemon.set_env("DBUS_SESSION_BUS_ADDRESS", bus.address());
    let mut child = daemon.command(&["daemon", "run", "--no-dbus"]).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the daemon answers", || daemon.request(&json!({"type": "DaemonPing"})).is_ok());
    assert!(!bus.has_name());
    let names = bus.busctl(&["--no-pager", "list"]).unwrap();
    assert!(!names.contains(&format!(" {} xrat ", child.id())), "{names}");
    process::signal_pid(child.id(), Signal::TERM);
    assert!(child.wait().unwrap().success());
}

/// The description of one interface as the daemon tells it, as a file of its own.
fn description(whole: &str, interface: &str) -> String {
    let begin = whole.find(&format!("  <interface name=\"{interface}\">")).unwrap_or_else(|| panic!("no {interface}"));
    let end = begin + whole[begin..].find("</interface>\n").unwrap() + "</interface>\n".len();
    let head = "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n \
                \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n";
    format!("{head}<node>\n{}</node>\n", &whole[begin..end])
}

#[test]
fn introspection_is_the_golden_copy() {
    let Some(set) = Set::start(&[]) else { return };
    let introspect = |path: &str| {
        let line = ["--json=short", "call", NAME, path, "org.freedesktop.DBus.Introspectable", "Introspect"];
        let answer: Value = serde_json::from_str(&set.bus.busctl(&line).unwrap()).unwrap();
        answer["data"][0].as_str().unwrap().to_owned()
    };
    let whole = introspect(PATH);
    let job = set.bus.call(CONFIGS, "Test", &["axa{sv}", "1", &set.ids[0].to_string(), "0"]);
    let of_job = introspect(job.as_str().unwrap());
    for (whole, name) in
        [(&whole, DAEMON), (&whole, RUNTIME), (&whole, ROTATION), (&whole, CONFIGS), (&of_job, "org.xrat.Daemon1.Job")]
    {
        let file = source_dir().join(format!("dbus/{name}.xml"));
        let told = description(whole, name);
        if std::env::var_os("XRAT_BLESS").is_some() {
            std::fs::write(&file, &told).unwrap();
        }
        let golden = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(golden, told, "{} differs; XRAT_BLESS=1 writes it again", file.display());
    }
}

/// A command with this bus as its session bus.
fn on(bus: &Bus, program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("DBUS_SESSION_BUS_ADDRESS", bus.address()).stdin(Stdio::null());
    command
}

#[test]
fn the_whole_life_with_python() {
    if !lab::tool("python3") {
        return;
    }
    let Some(set) = Set::start(&[]) else { return };
    let mut life = on(&set.bus, "/usr/bin/python3");
    life.arg(source_dir().join("tests/bus_life.py")).args(set.ids.iter().map(ToString::to_string));
    let output = life.arg(set.lab.server.link("trojan-tcp-tls").link).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    wait_until("nothing of the daemon is left", || set.daemon.processes().is_empty());
}

#[test]
fn every_line_of_the_page_works() {
    let Some(set) = Set::start(&[]) else { return };
    assert_eq!(set.ids, [1, 2], "the page speaks of these");
    let page = std::fs::read_to_string(source_dir().join("docs/dbus.md")).unwrap();
    let mut members = Vec::new();
    for block in page.split("```sh\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            let output = on(&set.bus, "sh").args(["-euc", line]).output().unwrap();
            assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
            members.extend(line.split([' ', '.']).map(str::to_owned));
        }
    }
    for name in [DAEMON, RUNTIME, ROTATION, CONFIGS, "org.xrat.Daemon1.Job"] {
        let golden = std::fs::read_to_string(source_dir().join(format!("dbus/{name}.xml"))).unwrap();
        let lines = golden.lines().filter(|line| line.contains("<method name=") || line.contains("<property name="));
        for member in lines.map(|line| line.split('"').nth(1).unwrap()) {
            assert!(members.iter().any(|word| word == member), "{name}.{member} has no line in docs/dbus.md");
        }
    }
}

#[test]
fn a_service_manager_hears_that_it_is_ready_alive_and_how_it_is() {
    let Some(lab) = Lab::start(KIND) else { return };
    let dir = Scratch::new();
    let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(lab::PATIENCE)).unwrap();
    let next = || {
        let mut word = [0; 512];
        let length = socket.recv(&mut word).expect("a word in time");
        String::from_utf8_lossy(&word[..length]).into_owned()
    };
    let (mut daemon, id) = lab.root(KIND, &[]);
    daemon.set_env("NOTIFY_SOCKET", dir.path().join("notify"));
    daemon.set_env("WATCHDOG_USEC", "60000000");
    daemon.run();
    assert_eq!([next(), next(), next()], ["READY=1", "WATCHDOG=1", "STATUS=disconnected"]);
    daemon.xrat(&["connect", &id.to_string()]).ok();
    let connected = format!("STATUS=connected: vless-tcp-none (config {id}) by {}", KIND.name());
    assert_eq!([next(), next()], ["STATUS=connecting".to_owned(), connected]);
    // The housekeeping of the loop itself, every 15 s.
    assert_eq!(next(), "WATCHDOG=1");
}

#[test]
fn the_unit_is_one_that_systemd_understands() {
    if !lab::tool("systemd-analyze") {
        return;
    }
    let dir = Scratch::new();
    let words = std::fs::read_to_string(source_dir().join("dbus/xrat.service")).unwrap();
    let program = Daemon::new(&[]).command(&[]).get_program().display().to_string();
    let unit = dir.file("xrat.service", words.replace("/usr/bin/xrat", &program));
    let mut verify = Command::new("systemd-analyze");
    verify.args(["--user", "verify"]).arg(&unit).env("XDG_RUNTIME_DIR", dir.path());
    let output = verify.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("xrat.service"), "{said}");
}

#[test]
fn install_writes_what_systemd_and_the_bus_understand_and_uninstall_takes_it_back() {
    let Some(mut bus) = Bus::start() else { return };
    let Some(lab) = Lab::start(KIND) else { return };
    let (mut daemon, _) = lab.root(KIND, &[]);
    let home = Scratch::new();
    daemon.set_env("XDG_CONFIG_HOME", home.dir("my config"));
    daemon.set_env("XDG_DATA_HOME", home.dir("data"));
    // No user manager and no bus: that is told, and the files are there.
    daemon.set_env("DBUS_SESSION_BUS_ADDRESS", bus.address());
    let unit = home.path().join("my config/systemd/user/xrat.service");
    let service = home.path().join("data/dbus-1/services/org.xrat.Daemon1.service");

    let said = daemon.xrat(&["daemon", "install", "--dry-run"]).ok().stdout;
    assert!(said.contains("would write") && said.contains("would run systemctl --user enable xrat.service"), "{said}");
    assert!(!unit.exists() && !service.exists());
    let said = daemon.xrat(&["daemon", "install"]).ok().stdout;
    assert!(said.contains(&format!("wrote {}", unit.display())), "{said}");
    assert!(said.contains("ran busctl --user call"), "{said}");
    let words = std::fs::read_to_string(&unit).unwrap();
    assert!(words.contains(&format!("--root \"{}\" daemon run", daemon.root().display())), "{words}");

    // The bus starts the daemon with exactly that line.
    let words = std::fs::read_to_string(&service).unwrap();
    bus.kill();
    std::fs::write(bus.services().join("org.xrat.Daemon1.service"), words).unwrap();
    bus.run();
    assert_eq!(bus.call(RUNTIME, "GetStatus", &[])["state"], DISCONNECTED);
    let pid = daemon.pid();
    assert_eq!(bus.call(DAEMON, "Ping", &[])["pid"], pid);
    bus.gdbus("org.xrat.Daemon1.Shutdown", &[]).unwrap();
    wait_until("the daemon is gone", || !process::is_alive(pid));

    daemon.xrat(&["daemon", "uninstall"]).ok();
    assert!(!unit.exists() && !service.exists());
    daemon.xrat(&["daemon", "uninstall"]).ok();
}
