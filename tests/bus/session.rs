//! Calls, errors, properties and signals while a session begins, moves and fails.

use super::*;

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
fn a_connect_that_names_no_config_takes_the_last_one_or_the_best() {
    let Some(set) = Set::start(&[]) else { return };
    let (daemon, [one, two]) = (&set.daemon, [set.ids[0], set.ids[1]]);
    let connect = |expected: i64, why: &str| {
        let session = set.bus.call(RUNTIME, "Connect", &["x", "0"]);
        assert_eq!(session["config_id"], expected, "{why}");
        daemon.xrat(&["disconnect"]).ok();
        let answer = set.socket("RuntimeConnect", &json!({"config_id": 0}));
        assert_eq!(answer["payload"]["config_id"], expected, "{why}: {answer}");
        daemon.xrat(&["disconnect"]).ok();
        let session = daemon.xrat(&["connect", "--json"]).ok().json();
        assert_eq!(session["config_id"], expected, "{why}");
        daemon.xrat(&["disconnect"]).ok();
    };
    let insert = "INSERT INTO config_tests (config_id, at, delay_ms) VALUES (?1, '2026-01-01T00:00:00Z', ?2)";
    for (id, delay) in [(one, 90), (two, 10)] {
        daemon.database().execute(insert, [id, delay]).unwrap();
    }
    connect(two, "the fastest, for none was connected before");
    daemon.xrat(&["connect", &one.to_string()]).ok();
    daemon.xrat(&["disconnect"]).ok();
    connect(one, "the one that was connected last");
    daemon.xrat(&["disable", &one.to_string()]).ok();
    let listed = |options: &[&str]| {
        let rows = set.bus.call(CONFIGS, "List", &[&["a{sv}"], options].concat());
        rows.as_array().unwrap().iter().map(|row| row["config_id"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(listed(&["1", "enabled", "b", "true"]), [two]);
    assert_eq!(listed(&["1", "enabled", "b", "false"]), [one]);
    assert_eq!(listed(&["2", "sort", "s", "delay", "limit", "u", "1"]), [two]);
    connect(two, "the last one is disabled");
    for id in [one, two] {
        daemon.xrat(&["remove", &id.to_string()]).ok();
    }
    let failed = set.bus.gdbus("org.xrat.Daemon1.Runtime.Connect", &["0"]).unwrap_err();
    assert_eq!(failed.name, "org.xrat.Daemon1.Error.NotFound", "{}", failed.message);
    assert!(failed.message.contains("xrat import"), "{}", failed.message);
    assert_eq!(set.socket("RuntimeConnect", &json!({"config_id": 0}))["code"], 404);
    assert!(daemon.xrat(&["connect"]).exits(4).stderr.contains("xrat import"));
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
    // A hundred, with everything that each interface has.
    for _ in 0..50 {
        assert_eq!(set.bus.get(RUNTIME, "State"), CONNECTING);
        assert!(set.bus.busctl(&all).unwrap().contains("Traffic"));
    }
    assert_eq!(call.try_wait().unwrap(), None, "the call waits all the time");
    drop(withheld);
    assert!(call.wait().unwrap().success());
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
    let rounds = 50;
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
fn a_property_that_is_set_while_the_daemon_ends_is_refused_in_our_words() {
    let dir = Scratch::new();
    let gate = Gate::new(dir.path().join("gate"));
    let program = dir.path().join("v2ray");
    // It does not hear when it is told to end, which keeps the daemon from ending until the gate opens.
    let Some(()) = wrapper(&program, KIND, &format!("trap '' TERM; {}; exit 0", gate.line())) else { return };
    let setting = format!("paths.v2ray = \"{}\"", program.display());
    let Some(set) = Set::start(&[&setting]) else { return };
    let mut call = set.bus.gdbus_command("org.xrat.Daemon1.Runtime.Connect", &["1"]).spawn().unwrap();
    let withheld = gate.reached();
    set.bus.call(DAEMON, "Shutdown", &[]);
    let set_enabled = ["org.xrat.Daemon1.Rotation", "Enabled", "<true>"];
    let refused = set.bus.gdbus("org.freedesktop.DBus.Properties.Set", &set_enabled).unwrap_err();
    let wanted = ("org.xrat.Daemon1.Error.Conflict", "the daemon is ending");
    assert_eq!((refused.name.as_str(), refused.message.as_str()), wanted);
    let started = set.bus.gdbus("org.xrat.Daemon1.Rotation.Start", &[]).unwrap_err();
    assert_eq!(started, refused, "Start and the property say the same");
    drop(withheld);
    assert!(!call.wait().unwrap().success());
    wait_until("nothing of the daemon is left", || set.daemon.processes().is_empty());
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
fn a_link_that_comes_over_the_bus_is_not_in_the_log() {
    let Some(bus) = Bus::start() else { return };
    let mut daemon = Daemon::new(&[]);
    daemon.set_env("DBUS_SESSION_BUS_ADDRESS", bus.address());
    daemon.set_env("RUST_LOG", "trace");
    daemon.run();
    bus.wait_for_name();
    let link = "trojan://correct-horse@node.example:443#one";
    bus.call(CONFIGS, "Import", &["sa{sv}", link, "0"]);
    bus.gdbus("org.xrat.Daemon1.Configs.Import", &["trojan://correct-horse@:0#broken", "{}"]).unwrap_err();
    let listed = bus.call(CONFIGS, "List", &["a{sv}", "0"]).to_string();
    assert!(listed.contains("node.example") && !listed.contains("correct-horse"), "{listed}");
    let log = daemon.log();
    assert!(log.contains("TRACE zbus") || log.contains("DEBUG zbus"), "the log is as talkative as it can be");
    assert!(!log.contains("correct-horse"), "{log}");
}
