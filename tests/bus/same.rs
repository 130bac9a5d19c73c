//! Both transports say the same: every command of the socket, and what answers it on the bus, field by field.

use std::collections::BTreeSet;

use xrat::command::COMMAND_NAMES;

use super::*;

/// What the socket says in the words of the bus: no null, and numbers for state, reason and health.
fn translated(value: &Value) -> Value {
    let numbers = |names: &[&str], text: &Value| names.iter().position(|name| text == name).map(|number| json!(number));
    let states =
        ["unknown", "disconnected", "connecting", "connected", "replacing", "recovering", "failed", "disconnecting"];
    let health = ["unknown", "unproven", "healthy", "degraded", "failed"];
    let members = match value {
        Value::Object(members) => members,
        Value::Array(values) => return values.iter().map(translated).collect(),
        other => return other.clone(),
    };
    let mut all = serde_json::Map::new();
    for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
        let value = match (name.as_str(), value) {
            ("state" | "new" | "old", state) => numbers(&states, state).unwrap(),
            // Of a state; a decision's is a sentence.
            ("reason", reason) if reason == "none" => json!(1),
            ("reason", reason) if reason == "user_requested" => json!(2),
            ("reason", reason) if reason == "manual_rotation" => json!(4),
            ("status", status) if members.contains_key("consecutive_failures") => numbers(&health, status).unwrap(),
            (_, value) => translated(value),
        };
        all.insert(name.clone(), value);
    }
    Value::Object(all)
}

/// Two answers to the same question at two moments: every field is in both and of one type, and those that `vary` does
/// not name are equal.
#[track_caller]
fn assert_alike(socket: &Value, bus: &Value, vary: &[&str]) {
    let (socket, bus) = (translated(socket), bus.as_object().expect("an object"));
    let socket = socket.as_object().unwrap();
    assert_eq!(socket.keys().collect::<BTreeSet<_>>(), bus.keys().collect::<BTreeSet<_>>());
    for (name, value) in socket {
        let same = if vary.contains(&name.as_str()) {
            std::mem::discriminant(value) == std::mem::discriminant(&bus[name])
        } else {
            *value == bus[name]
        };
        assert!(same, "{name}: {value} on the socket, {} on the bus", bus[name]);
    }
}

/// Of two sessions of one config: what is each one's own.
const OF_A_SESSION: &[&str] = &["session_id", "pid", "started_at"];
/// Of two decisions about moves between the same two.
const OF_A_DECISION: &[&str] =
    &["decision_id", "at", "took_ms", "reason", "old_config_id", "new_config_id", "candidates"];

/// What the bus has for one command of the socket; both are asked.
fn compare(set: &mut Set, kind: &str) {
    let payload = |set: &Set, kind: &str, payload: Value| {
        let answer = set.socket(kind, &payload);
        assert_eq!(answer["code"], 200, "{answer}");
        answer["payload"].clone()
    };
    let [first, second] = [set.ids[0], set.ids[1]];
    match kind {
        "DaemonPing" => {
            assert_eq!(payload(set, kind, Value::Null), set.bus.call(DAEMON, "Ping", &[]));
        }
        "RuntimeConnect" => {
            let ours = payload(set, kind, json!({"config_id": first}));
            payload(set, "RuntimeDisconnect", Value::Null);
            assert_alike(&ours, &set.connect(0), OF_A_SESSION);
        }
        "RuntimeStatus" => {
            wait_until("the exchange is over", || set.bus.get(RUNTIME, "Health") == 2);
            let ours = payload(set, kind, Value::Null);
            let status = set.bus.call(RUNTIME, "GetStatus", &[]);
            assert_alike(&ours, &status, &["session"]);
            // Bytes are counted between the two questions.
            assert_alike(&ours["session"], &status["session"], &["traffic"]);
            assert_alike(
                &ours["session"]["traffic"],
                &status["session"]["traffic"],
                &["uplink_bytes", "downlink_bytes"],
            );
            let mut session = status["session"].clone();
            session.as_object_mut().unwrap().remove("traffic");
            assert_eq!(set.bus.get(RUNTIME, "Session"), session);
            let pair = json!([status["state"], status["reason"]]);
            assert_eq!(
                (set.bus.get(RUNTIME, "State"), set.bus.get(RUNTIME, "StateReason")),
                (status["state"].clone(), pair)
            );
        }
        "RuntimeReplace" => {
            let ours = payload(set, kind, json!({"trigger": "manual", "candidate_id": second}));
            assert_eq!(translated(&ours["decision"]), set.bus.get(ROTATION, "LastDecision"));
            // There and back, so that both come to the same config.
            set.bus.call(RUNTIME, "Replace", &["sx", "manual", &first.to_string()]);
            let moved = set.bus.call(RUNTIME, "Replace", &["sx", "manual", &second.to_string()]);
            let varies = [OF_A_SESSION, &["delay_ms", "health"]].concat();
            assert_alike(&ours["session"], &moved, &varies);
            assert_alike(&ours["decision"], &set.bus.get(ROTATION, "LastDecision"), OF_A_DECISION);
        }
        "RotationHistory" => {
            let ours = payload(set, kind, json!({"limit": 3}));
            assert_eq!(ours.as_array().unwrap().len(), 3);
            assert_eq!(translated(&ours), set.bus.call(ROTATION, "History", &["u", "3"]));
            let all = payload(set, kind, Value::Null);
            assert_eq!(translated(&all), set.bus.call(ROTATION, "History", &["u", "0"]), "20 unless asked");
        }
        "ProxyStart" | "ProxyStop" => {
            let ours = payload(set, kind, Value::Null);
            let other = if kind == "ProxyStart" { "ProxyStop" } else { "ProxyStart" };
            payload(set, other, Value::Null);
            set.bus.call(ROTATION, kind.trim_start_matches("Proxy"), &[]);
            assert_alike(&ours, &set.bus.call(ROTATION, "GetStatus", &[]), &["next_timer_at"]);
            assert_eq!(set.bus.get(ROTATION, "Enabled"), ours["enabled"]);
        }
        "ProxyStatus" => {
            let status = set.bus.call(ROTATION, "GetStatus", &[]);
            assert_alike(&payload(set, kind, Value::Null), &status, &["next_timer_at"]);
        }
        "ConfigsChanged" => {
            let monitor = set.bus.monitor();
            assert_eq!(payload(set, kind, Value::Null), json!({}));
            monitor.until("Changed");
            let listed = set.daemon.xrat(&["list", "--json"]).ok().json();
            assert_eq!(translated(&listed), set.bus.call(CONFIGS, "List", &["a{sv}", "0"]));
        }
        "EventSubscribe" => {
            let next = |events: &mut lab::Events, kind: &str| events.until(kind, |event| event["type"] == kind);
            let (mut events, monitor) = (set.daemon.events(), set.bus.monitor());
            set.bus.call(RUNTIME, "Replace", &["sx", "manual", &first.to_string()]);
            for _ in 0..2 {
                let event = translated(&next(&mut events, "StateChanged"));
                let signal = monitor.until("StateChanged").body;
                assert_eq!(json!([event["new"], event["old"], event["reason"]]), signal);
            }
            let (event, signal) = (next(&mut events, "Rotated"), monitor.until("Rotated").body);
            assert_eq!(translated(&event["decision"]), signal[3]);
            let ids = json!([event["old_config_id"], event["new_config_id"], event["decision"]["trigger"]]);
            assert_eq!(ids, json!([signal[0], signal[1], signal[2]]));
        }
        "RuntimeDisconnect" => {
            let session = set.bus.get(RUNTIME, "Session")["session_id"].clone();
            assert_eq!(payload(set, kind, Value::Null), json!({"stopped_session_id": session}));
            set.connect(0);
            assert_eq!(set.bus.call(RUNTIME, "Disconnect", &[]), Value::Null);
            assert_eq!(set.bus.get(RUNTIME, "StateReason"), json!([DISCONNECTED, 2]));
            assert_eq!(translated(&set.daemon.status()), set.bus.call(RUNTIME, "GetStatus", &[]));
        }
        "DaemonRestart" => {
            let (pid, mut instance) = (set.daemon.pid(), set.bus.get(DAEMON, "InstanceId"));
            for on_bus in [false, true] {
                let answer =
                    if on_bus { set.bus.call(DAEMON, "Restart", &[]) } else { payload(set, kind, Value::Null) };
                assert!(answer == json!({}) || answer == Value::Null, "{answer}");
                let property = ["--json=short", "get-property", NAME, PATH, DAEMON, "InstanceId"];
                let before = instance.as_str().unwrap().to_owned();
                wait_until("it has begun again", || set.bus.busctl(&property).is_ok_and(|now| !now.contains(&before)));
                instance = set.bus.get(DAEMON, "InstanceId");
                assert_eq!(set.daemon.pid(), pid);
            }
        }
        "DaemonShutdown" => {
            assert_eq!(payload(set, kind, Value::Null), json!({}));
            set.daemon.wait();
            set.daemon.run();
            set.bus.wait_for_name();
            assert_eq!(set.bus.call(DAEMON, "Shutdown", &[]), Value::Null);
            set.daemon.wait();
        }
        other => panic!("{other} is a command of the socket, and nobody has said what it is on the bus"),
    }
}

#[test]
fn every_command_gives_the_same_on_the_socket_and_on_the_bus() {
    let Some(mut set) = Set::start(&["runtime.health.interval_secs = 3600"]) else { return };
    // In an order in which each can be done; what is missing here comes first and is complained about.
    let last = [
        "DaemonPing",
        "ProxyStatus",
        "RuntimeConnect",
        "RuntimeStatus",
        "RuntimeReplace",
        "RotationHistory",
        "ProxyStart",
        "ProxyStop",
        "ConfigsChanged",
        "EventSubscribe",
        "RuntimeDisconnect",
        "DaemonRestart",
        "DaemonShutdown",
    ];
    let unknown = COMMAND_NAMES.iter().filter(|name| !last.contains(name));
    for kind in unknown.chain(&last) {
        compare(&mut set, kind);
    }
}
