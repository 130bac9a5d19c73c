//! The events of a session's life: each state once, in order, with its reason, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use std::process::Stdio;

use lab::scratch::Scratch;
use lab::wrapper::{Gate, script, wrapper};
use lab::{Daemon, Events, Kind, Lab, Relay, process};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Every event from here on, up to one that the test makes at the end, as one line each.
fn told(daemon: &Daemon, events: &mut Events) -> Vec<String> {
    assert_eq!(daemon.request(&json!({"type": "ConfigsChanged"})).unwrap()["code"], 200);
    let mut told = Vec::new();
    let mut last = None;
    loop {
        let event = events.next();
        let seq = event["seq"].as_u64().unwrap();
        assert!(last.is_none_or(|last| seq == last + 1), "{event}");
        last = Some(seq);
        let text = |key: &str| event[key].as_str().unwrap_or("none").to_owned();
        told.push(match event["type"].as_str().unwrap() {
            "ConfigsChanged" => return told,
            "StateChanged" => {
                let session = if event["session"].is_null() { "" } else { " with session" };
                format!("{} -> {} ({}){session}", text("old"), text("new"), text("reason"))
            }
            "HealthChanged" => format!("health {}", event["health"]["status"].as_str().unwrap()),
            "SessionFailed" => format!("session failed ({})", text("reason")),
            other => other.to_owned(),
        });
    }
}

fn ask(daemon: &Daemon, kind: &str, payload: Value) -> Value {
    daemon.request(&json!({"type": kind, "payload": payload})).unwrap()
}

fn ask_connect(daemon: &Daemon, id: i64) -> Value {
    ask(daemon, "RuntimeConnect", json!({"config_id": id}))
}

#[test]
fn each_state_is_told_once_and_in_order() {
    for kind in Kind::ALL {
        let Some(lab) = Lab::start(kind) else { continue };
        let (mut daemon, id) = lab.root(kind, &[]);
        daemon.run();
        let mut events = daemon.events();
        assert_eq!(events.next()["type"], "Snapshot");

        // The command line waits for the first exchange: all events of the connect are there when it returns.
        daemon.xrat(&["connect", &id.to_string()]).ok();
        let connect =
            ["disconnected -> connecting (user_requested)", "connecting -> connected (user_requested) with session"];
        assert_eq!(told(&daemon, &mut events), [connect[0], connect[1], "health healthy"]);
        assert_eq!(ask_connect(&daemon, id)["code"], 409);
        assert_eq!(told(&daemon, &mut events), [""; 0], "what is refused changes nothing");

        assert_eq!(ask(&daemon, "RuntimeDisconnect", Value::Null)["code"], 200);
        let disconnect = [
            "connected -> disconnecting (user_requested) with session",
            "disconnecting -> disconnected (user_requested)",
        ];
        assert_eq!(told(&daemon, &mut events), disconnect);
        assert_eq!(ask(&daemon, "RuntimeDisconnect", Value::Null)["code"], 404);
        assert_eq!(told(&daemon, &mut events), [""; 0]);

        daemon.xrat(&["connect", &id.to_string()]).ok();
        told(&daemon, &mut events);
        let mut watcher = daemon.events();
        process::signal_pid(daemon.engine_pids()[0], Signal::KILL);
        watcher.until("the new session's health", |event| event["type"] == "HealthChanged");
        assert_eq!(
            told(&daemon, &mut events),
            [
                "session failed (engine_exited)",
                "connected -> recovering (engine_exited)",
                "RotationDecided",
                "recovering -> connected (engine_exited) with session",
                "health healthy"
            ]
        );
    }
}

#[test]
fn a_connect_that_fails_ends_where_it_began() {
    let kind = Kind::V2ray;
    let Some(lab) = Lab::start(kind) else { return };
    let dir = Scratch::new();
    let (program, gate) = (dir.path().join("v2ray"), Gate::new(dir.path().join("gate")));
    let (mut daemon, id) = lab.root(kind, &[&format!("paths.v2ray = \"{}\"", program.display())]);
    daemon.run();
    let mut events = daemon.events();
    events.next();
    let begin = "disconnected -> connecting (user_requested)";

    assert_eq!(ask_connect(&daemon, 4711)["code"], 404);
    assert_eq!(told(&daemon, &mut events), [begin, "connecting -> disconnected (none)"]);
    assert_eq!(ask_connect(&daemon, id)["code"], 500);
    assert_eq!(told(&daemon, &mut events), [begin, "connecting -> disconnected (engine_missing)"]);
    script(&program, "case $1 in -version) echo 'V2Ray 4.34.0 (user) x';; *) exit 1;; esac\n");
    assert_eq!(ask_connect(&daemon, id)["code"], 500);
    assert_eq!(
        told(&daemon, &mut events),
        [begin, "session failed (engine_not_ready)", "connecting -> disconnected (engine_not_ready)"]
    );

    // Given up by the user it is no failure.
    wrapper(&program, kind, &gate.line()).unwrap();
    let mut client = daemon.command(&["connect", &id.to_string()]);
    let mut client = client.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let waits = gate.reached();
    assert_eq!(ask(&daemon, "RuntimeDisconnect", Value::Null)["code"], 200);
    assert_eq!(client.wait().unwrap().code(), Some(5));
    drop(waits);
    assert_eq!(
        told(&daemon, &mut events),
        [begin, "connecting -> disconnecting (user_requested)", "disconnecting -> disconnected (user_requested)"]
    );
}

#[test]
fn health_says_what_failed_until_it_works() {
    let Some(lab) = Lab::start(Kind::V2ray) else { return };
    let relay = Relay::start(([127, 0, 0, 1], lab.server.port_of("vless-tcp-none")).into());
    relay.set(lab::Mode::Reset);
    let mut daemon = Daemon::new(&[
        "runtime.engine = \"v2ray\"",
        &format!("runtime.health.url = \"{}\"", lab.origin.url("/generate_204")),
        "runtime.health.failure_threshold = 2",
    ]);
    let id = daemon.import(&[lab.server.link_through("vless-tcp-none", relay.port())])[0];
    daemon.run();
    let mut events = daemon.events();
    assert_eq!(ask_connect(&daemon, id)["code"], 200);
    let health = |event: &Value| event["type"] == "HealthChanged";
    let first = events.until("the first check", health);
    assert_eq!((&first["health"]["status"], &first["health"]["consecutive_failures"]), (&json!("degraded"), &json!(1)));
    assert!(!first["detail"].as_str().unwrap().is_empty() && first["delay_ms"].is_null(), "{first}");
    let second = events.until("the second check", health);
    assert_eq!((&second["health"]["status"], &second["health"]["consecutive_failures"]), (&json!("failed"), &json!(2)));
    assert_eq!(daemon.status()["session"]["health"]["status"], "failed");
    assert_eq!(daemon.status()["state"], "connected", "the engine serves on; what becomes of it is the user's to say");
}
