//! The life of a session: connect, crash, adoption, restart and end, with real traffic through each engine.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use lab::client::{self, Kept, udp_exchange_via_socks};
use lab::left::assert_nothing_runs;
use lab::origin::{DRIP_BYTES, PAGE, UdpEcho};
use lab::scratch::Scratch;
use lab::wrapper::{Gate, wrapper};
use lab::{Daemon, Kind, Lab, process, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Makes a test of each of these for each engine.
macro_rules! with_each_engine {
    ($($name:ident),* $(,)?) => {
        mod v2ray { $(#[test] fn $name() { super::$name(super::Kind::V2ray); })* }
        mod xray { $(#[test] fn $name() { super::$name(super::Kind::Xray); })* }
    };
}

with_each_engine!(
    connect_carries_traffic_until_disconnect,
    a_killed_daemon_costs_no_traffic_and_is_succeeded,
    a_restart_keeps_pids_and_connections,
    a_restart_that_would_fail_changes_nothing,
    sigterm_and_stop_leave_nothing,
    a_crash_of_both_is_recovered_from_and_a_stop_is_respected,
    another_boot_connects_only_if_told_to,
    a_disconnect_ends_a_connect,
);

/// What a running session is known by.
#[derive(Clone, Debug, PartialEq)]
struct Running {
    session: i64,
    pid: u32,
}

#[track_caller]
fn running(daemon: &Daemon) -> Running {
    let status = daemon.status();
    assert_eq!(status["state"], "connected", "{status}");
    let session = &status["session"];
    Running {
        session: session["session_id"].as_i64().unwrap(),
        pid: u32::try_from(session["pid"].as_u64().unwrap()).unwrap(),
    }
}

#[track_caller]
fn connect(daemon: &Daemon, id: i64) -> Running {
    daemon.xrat(&["connect", &id.to_string()]).ok();
    running(daemon)
}

/// Status, why it was ended on purpose, and what was wrong, of every row.
fn rows(daemon: &Daemon) -> Vec<(i64, String, Option<String>, Option<String>)> {
    let database = daemon.database();
    let sql = "SELECT session_id, status, stop_reason, failure_reason FROM runtime_sessions ORDER BY session_id";
    let mut statement = database.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

#[track_caller]
fn assert_page(lab: &Lab, daemon: &Daemon) {
    let answer = client::http_get_via_socks(daemon.socks(), &lab.origin.url("/page")).unwrap();
    assert_eq!(answer.text(), PAGE);
}

fn connect_carries_traffic_until_disconnect(kind: Kind) {
    let Some(lab) = Lab::start(kind) else { return };
    let (daemon, id) = lab.root(kind, &[]);
    let refused = daemon.xrat(&["connect", "1"]).exits(3);
    assert!(refused.stderr.contains("daemon socket not reachable at ") && refused.stderr.contains("xrat daemon start"));
    daemon.start();
    daemon.xrat(&["disconnect"]).exits(4);
    daemon.xrat(&["connect", "no-such-node"]).exits(4);

    // By name as well as by number.
    let said = daemon.xrat(&["connect", "vless-tcp-none"]).ok().stdout;
    for words in ["Connected to vless-tcp-none", &format!("socks5h://{}", daemon.socks()), "Healthy: "] {
        assert!(said.contains(words), "no {words:?} in {said:?}");
    }
    assert_eq!(lab.origin.hits("/generate_204"), 1, "the exchange that proves it");
    assert_page(&lab, &daemon);
    for proxy in [daemon.proxy(), client::Proxy::Http(daemon.http(), None)] {
        for url in [lab.origin.url("/bytes/300000"), lab.origin.https_url("/bytes/300000")] {
            let answer = client::get(&proxy, &url, Some(&lab.authority)).unwrap();
            assert!(answer.body == lab::origin::bytes(300_000), "{proxy:?} {url}");
        }
    }
    let echo = UdpEcho::start();
    assert_eq!(udp_exchange_via_socks(daemon.socks(), None, echo.addr(), b"over UDP").unwrap(), b"over UDP");

    let status = daemon.xrat(&["status", "--json"]).ok().json();
    let session = &status["session"];
    assert_eq!((&status["state"], &status["reason"]), (&json!("connected"), &json!("user_requested")));
    assert_eq!((&session["config_id"], &session["engine"]), (&json!(id), &json!(kind.name())));
    assert_eq!((&session["health"]["status"], &session["status"]), (&json!("healthy"), &json!("running")));
    assert!(session["delay_ms"].is_u64(), "{session}");
    assert!(session["traffic"]["downlink_bytes"].as_u64().unwrap() > 1_200_000, "{session}");
    assert_eq!(daemon.engine_pids(), [u32::try_from(session["pid"].as_u64().unwrap()).unwrap()]);
    let text = daemon.xrat(&["status"]).ok().stdout;
    assert!(text.contains("vless-tcp-none") && text.contains(kind.name()), "{text}");
    let variables = daemon.xrat(&["env"]).ok().stdout;
    assert!(variables.contains(&format!("export all_proxy='socks5h://{}'", daemon.socks())), "{variables}");
    // One session at a time.
    let second = daemon.xrat(&["connect", &id.to_string()]).exits(5);
    assert!(second.stderr.contains("already running: vless-tcp-none"), "{}", second.stderr);

    let ended = daemon.xrat(&["disconnect", "--json"]).ok().json();
    assert_eq!(ended["stopped_session_id"], session["session_id"]);
    assert_nothing_runs(&daemon, &["daemon.sock"]);
    assert_eq!(rows(&daemon), [(1, "stopped".into(), Some("user_requested".into()), None)]);
    assert_eq!(daemon.status()["session"], Value::Null);
    daemon.xrat(&["env"]).exits(4);
    // And again: nothing of the first one is in the way.
    connect(&daemon, id);
    assert_page(&lab, &daemon);
}

fn a_killed_daemon_costs_no_traffic_and_is_succeeded(kind: Kind) {
    let Some(lab) = Lab::start(kind) else { return };
    let (mut daemon, id) = lab.root(kind, &[]);
    daemon.start();
    let before = connect(&daemon, id);
    let first_owner = daemon.status()["session"]["owner_instance_id"].clone();
    let mut open = Kept::open(&daemon.proxy(), &lab.origin.url("/"), None).unwrap();
    assert_eq!(open.get("/page").unwrap().text(), PAGE);
    open.request("/drip", "keep-alive").unwrap();
    open.head().unwrap();

    daemon.kill_daemon();
    open.exactly(2 * DRIP_BYTES).unwrap();
    assert_page(&lab, &daemon);
    assert_eq!(daemon.engine_pids(), [before.pid]);

    daemon.start();
    assert_eq!(running(&daemon), before);
    let status = daemon.status();
    assert_eq!(status["reason"], "adopted");
    assert_ne!(status["session"]["owner_instance_id"], first_owner);
    open.exactly(2 * DRIP_BYTES).unwrap();
    assert_page(&lab, &daemon);
    let mut events = daemon.events();
    if events.next()["session"]["health"]["status"] != "healthy" {
        events.until("its health is known again", |event| event["health"]["status"] == "healthy");
    }

    let ended = daemon.xrat(&["disconnect", "--json"]).ok().json();
    assert_eq!(ended["stopped_session_id"], before.session);
    assert!(!process::is_alive(before.pid));
    assert_nothing_runs(&daemon, &["daemon.sock"]);
}

fn a_restart_keeps_pids_and_connections(kind: Kind) {
    let Some(lab) = Lab::start(kind) else { return };
    // In the background as people have it, and in the foreground as systemd has it.
    for foreground in [false, true] {
        let (mut daemon, id) = lab.root(kind, &[]);
        if foreground {
            daemon.run();
        } else {
            daemon.start();
        }
        let before = (connect(&daemon, id), daemon.pid());
        let instance = daemon.status()["session"]["owner_instance_id"].clone();
        let open = |path: &str| {
            let mut kept = Kept::open(&daemon.proxy(), &lab.origin.url("/"), None).unwrap();
            kept.request(path, "keep-alive").unwrap();
            kept
        };
        let mut download = open("/drip");
        download.head().unwrap();
        lab.origin.withhold();
        let waiting = lab.origin.hits("/withhold");
        let mut withheld = open("/withhold");
        lab.origin.wait_for_hits("/withhold", waiting + 1);

        for _ in 0..2 {
            let said = daemon.xrat(&["daemon", "restart"]).ok().stdout;
            assert!(said.starts_with(&format!("Restarted: pid {}", before.1)), "{said}");
            assert_eq!((running(&daemon), daemon.pid()), before);
            assert_ne!(daemon.status()["session"]["owner_instance_id"], instance);
            download.exactly(2 * DRIP_BYTES).unwrap();
            assert_page(&lab, &daemon);
        }
        lab.origin.release();
        assert_eq!(withheld.response().unwrap().status, 204);
        // The lock was handed over as well: there still is only one.
        let second = daemon.xrat(&["daemon", "run"]).exits(5);
        assert!(second.stderr.contains("another daemon already runs"), "{}", second.stderr);
        daemon.xrat(&["daemon", "stop"]).ok();
        assert!(!process::is_alive(before.1));
        assert_nothing_runs(&daemon, &[]);
    }
}

/// A restart that cannot be is refused or done with what there is: the session is never without a daemon.
fn a_restart_that_would_fail_changes_nothing(kind: Kind) {
    let Some(lab) = Lab::start(kind) else { return };
    let (mut daemon, id) = lab.root(kind, &[]);
    daemon.install_program("bin/xrat");
    daemon.start();
    let before = (connect(&daemon, id), daemon.pid());
    let instance = || daemon.status()["session"]["owner_instance_id"].clone();
    let first = instance();

    let settings = daemon.root().join("config.toml");
    let good = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{good}\n[subscriptions]\nupdate_hours = \"x\"\n")).unwrap();
    let refused = daemon.xrat(&["daemon", "restart"]).exits(2).stderr;
    assert!(refused.contains("goes on as it was") && refused.contains("config.toml: line "), "{refused}");
    assert_eq!(((running(&daemon), daemon.pid()), instance()), (before.clone(), first.clone()));
    std::fs::write(&settings, good).unwrap();

    let (place, away) = (daemon.program_path().to_owned(), daemon.program_path().with_extension("away"));
    std::fs::rename(&place, &away).unwrap();
    let restarted = Command::new(&away).arg("--root").arg(daemon.root()).args(["daemon", "restart"]).output().unwrap();
    assert!(restarted.status.success(), "{restarted:?}");
    std::fs::rename(&away, &place).unwrap();
    let second = instance();
    assert_ne!(second, first);
    assert_eq!((running(&daemon), daemon.pid()), before);
    // And from then on with the file that is in the place again.
    daemon.xrat(&["daemon", "restart"]).ok();
    assert_eq!(((running(&daemon), daemon.pid()), instance() == second), (before, false));
    assert_page(&lab, &daemon);
}

fn sigterm_and_stop_leave_nothing(kind: Kind) {
    let Some(lab) = Lab::start(kind) else { return };
    let (daemon, id) = lab.root(kind, &[]);
    for (round, signal) in [Some(Signal::TERM), Some(Signal::INT), None].into_iter().enumerate() {
        daemon.start();
        let pid = daemon.pid();
        let session = connect(&daemon, id);
        match signal {
            Some(signal) => process::signal_pid(pid, signal),
            None => {
                let said = daemon.xrat(&["daemon", "stop"]).ok().stdout;
                assert_eq!(said, format!("Stopped: pid {pid}\n"));
                assert!(!process::is_alive(pid), "it returns when the daemon is gone");
            }
        }
        wait_until("the daemon ends", || !process::is_alive(pid));
        assert!(!process::is_alive(session.pid));
        assert_nothing_runs(&daemon, &[]);
        let row = &rows(&daemon)[round];
        assert_eq!((row.1.as_str(), row.2.as_deref(), &row.3), ("stopped", Some("daemon_shutdown"), &None));
    }
    assert_eq!(daemon.xrat(&["daemon", "stop"]).ok().stdout, "No daemon runs\n");
    daemon.xrat(&["daemon", "status"]).exits(3);
}

fn a_crash_of_both_is_recovered_from_and_a_stop_is_respected(kind: Kind) {
    let Some(lab) = Lab::start(kind) else { return };
    let (mut daemon, id) = lab.root(kind, &[]);
    daemon.start();
    let first = connect(&daemon, id);
    crash(&mut daemon);

    daemon.start();
    let mut events = daemon.events();
    if events.next()["state"] != "connected" {
        events.until_state("connected");
    }
    let second = running(&daemon);
    assert_ne!(second, first);
    assert_page(&lab, &daemon);
    assert_eq!(rows(&daemon)[0], (1, "failed".into(), None, Some("engine_exited".into())));
    assert_eq!(daemon.status()["last_failure"]["session_id"], first.session);

    // What the user ended stays ended, whether the daemon ended with it or crashed after it.
    daemon.xrat(&["daemon", "stop"]).ok();
    daemon.start();
    assert_eq!(daemon.status()["state"], "disconnected");
    connect(&daemon, id);
    daemon.xrat(&["disconnect"]).ok();
    crash(&mut daemon);
    daemon.start();
    assert_eq!(daemon.status()["state"], "disconnected");
    assert_nothing_runs(&daemon, &["daemon.sock"]);
}

/// Daemon and engine die at once.
fn crash(daemon: &mut Daemon) {
    let engines = daemon.engine_pids();
    for pid in &engines {
        process::signal_pid(*pid, Signal::STOP);
    }
    daemon.kill_daemon();
    for pid in &engines {
        process::signal_pid(*pid, Signal::KILL);
    }
    wait_until("the engine is gone", || engines.iter().all(|pid| !process::is_alive(*pid)));
}

fn another_boot_connects_only_if_told_to(kind: Kind) {
    let Some(lab) = Lab::start(kind) else { return };
    let (mut daemon, id) = lab.root(kind, &[]);
    let engine = format!("runtime.engine = \"{}\"", kind.name());
    daemon.start();
    for autoconnect in [false, true] {
        if daemon.status()["session"].is_null() {
            connect(&daemon, id);
        }
        // Power fails: nothing was ended, and no process of before is left.
        crash(&mut daemon);
        let database = daemon.database();
        let boot = "UPDATE daemon_state SET value = 'another boot' WHERE key = 'boot_id'";
        assert_eq!(database.execute(boot, []).unwrap(), 1);
        // The pid of the engine may be anybody's now: the test's own.
        let rows = "UPDATE runtime_sessions SET boot_id = 'another boot', pid = ?1 WHERE status = 'running'";
        assert_eq!(database.execute(rows, [std::process::id()]).unwrap(), 1);
        drop(database);
        daemon.configure(&[&engine, &format!("runtime.autoconnect = {autoconnect}")]);
        daemon.start();
        if autoconnect {
            let mut events = daemon.events();
            if events.next()["state"] != "connected" {
                events.until_state("connected");
            }
            assert_eq!(daemon.status()["reason"], "autoconnect");
            assert_page(&lab, &daemon);
        } else {
            assert_eq!(daemon.status()["state"], "disconnected");
            assert_nothing_runs(&daemon, &["daemon.sock"]);
        }
        let failure = &daemon.status()["last_failure"];
        assert!(failure["detail"].as_str().unwrap().contains("restarted"), "{failure}");
    }
}

/// A root whose engine waits at a gate before it starts.
fn gated(lab: &Lab, kind: Kind, dir: &Path) -> Option<(Daemon, i64, Gate)> {
    let gate = Gate::new(dir.join("gate"));
    let program = dir.join(kind.name());
    wrapper(&program, kind, &gate.line())?;
    let setting = format!("paths.{} = \"{}\"", kind.name(), program.display());
    let (daemon, id) = lab.root(kind, &[&setting]);
    Some((daemon, id, gate))
}

fn a_disconnect_ends_a_connect(kind: Kind) {
    let Some(lab) = Lab::start(kind) else { return };
    let dir = Scratch::new();
    let Some((daemon, id, gate)) = gated(&lab, kind, dir.path()) else { return };
    daemon.start();
    let id = id.to_string();
    let begin = || {
        let mut command = daemon.command(&["connect", &id]);
        let client = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        (client, gate.reached())
    };
    let (client, waits) = begin();
    assert_eq!(daemon.status()["state"], "connecting");
    let second = daemon.xrat(&["connect", &id]).exits(5);
    assert!(second.stderr.contains("a transition is in progress: connect"), "{}", second.stderr);
    let restart = daemon.xrat(&["daemon", "restart"]).exits(5);
    assert!(restart.stderr.contains("in progress"), "{}", restart.stderr);

    daemon.xrat(&["disconnect"]).ok();
    let given_up = client.wait_with_output().unwrap();
    let stderr = String::from_utf8(given_up.stderr).unwrap();
    assert_eq!(given_up.status.code(), Some(5), "{stderr}");
    assert!(stderr.contains("given up"), "{stderr}");
    drop(waits);
    assert_eq!(daemon.status()["state"], "disconnected");
    assert_nothing_runs(&daemon, &["daemon.sock"]);
    assert_eq!(rows(&daemon), [(1, "stopped".into(), Some("user_requested".into()), None)]);

    // The daemon's end comes first as well.
    let (client, waits) = begin();
    daemon.xrat(&["daemon", "stop"]).ok();
    assert_eq!(client.wait_with_output().unwrap().status.code(), Some(5));
    drop(waits);
    assert_nothing_runs(&daemon, &[]);
    assert_eq!(daemon.processes().len(), 0, "{:?}", daemon.processes());

    // With the gate open it works, also for a client that waits.
    daemon.start();
    assert_eq!(daemon.status()["state"], "disconnected");
    let (client, waits) = begin();
    drop(waits);
    assert!(client.wait_with_output().unwrap().status.success());
    assert_page(&lab, &daemon);
    TcpStream::connect(daemon.http()).unwrap();
}
