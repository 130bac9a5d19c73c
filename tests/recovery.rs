//! What the daemon does when an engine or a node dies: hold, bring back, move away, give up politely, stay ended.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use lab::client;
use lab::load::{Downloads, Ended, Load};
use lab::origin::PAGE;
use lab::scratch::Scratch;
use lab::wrapper::wrapper;
use lab::{Daemon, Events, Kind, Lab, Mode, process, wait_until};
use rustix::net::sockopt;
use rustix::process::Signal;
use serde_json::{Value, json};

/// Health checks that do not take long, and how long noticing a dead node may take with them: as documented the sum of
/// one interval and, for each failure up to the threshold, the repeat's 2 s and the exchange's limit.
const CHECKS: [&str; 3] =
    ["runtime.health.interval_secs = 1", "runtime.health.failure_threshold = 2", "testing.timeout_ms = 1000"];
const BOUND: TimeDelta = TimeDelta::seconds(1 + 2 * (2 + 1));

#[track_caller]
fn connect(daemon: &Daemon, id: i64) {
    daemon.xrat(&["connect", &id.to_string()]).ok();
}

#[track_caller]
fn engine(daemon: &Daemon) -> u32 {
    let status = daemon.status();
    u32::try_from(status["session"]["pid"].as_u64().unwrap_or_else(|| panic!("no session in {status}"))).unwrap()
}

/// Kills the session's engine and waits until it is gone, listeners and all.
#[track_caller]
fn kill_engine(daemon: &Daemon) -> u32 {
    let pid = engine(daemon);
    process::signal_pid(pid, Signal::KILL);
    wait_until("the engine is dead", || !process::is_alive(pid));
    pid
}

#[track_caller]
fn assert_page(lab: &Lab, daemon: &Daemon) {
    for proxy in daemon.proxies() {
        assert_eq!(client::get(&proxy, &lab.origin.url("/page"), None).unwrap().text(), PAGE, "{proxy:?}");
    }
}

/// The next event of a check with this verdict.
fn health(events: &mut Events, status: &str) -> Value {
    events.until(&format!("health {status}"), |event| {
        event["type"] == "HealthChanged" && event["health"]["status"] == status
    })
}

fn at(event: &Value) -> DateTime<Utc> {
    event["at"].as_str().unwrap().parse().unwrap()
}

fn assert_closed(daemon: &Daemon) {
    for address in [daemon.socks(), daemon.http()] {
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }
    assert_eq!(daemon.engine_pids(), [0; 0]);
}

fn a_killed_engine_costs_no_new_connection(kind: Kind) {
    let Some(lab) = Lab::start(kind) else { return };
    let Some((daemon, ids)) = lab.daemon_with(kind, &[lab.server.link("vless-tcp-none")], &[]) else { return };
    connect(&daemon, ids[0]);
    let mut events = daemon.events();
    let session = daemon.status()["session"]["session_id"].clone();
    let load = Load::start(&lab.origin, &daemon.proxies(), Downloads::Endless(0));
    load.more();
    let old = kill_engine(&daemon);
    let dead = Instant::now();

    let failed = events.until("the session fails", |event| event["type"] == "SessionFailed");
    assert_eq!((&failed["session_id"], &failed["reason"]), (&session, &json!("engine_exited")), "{failed}");
    assert!(failed["detail"].as_str().unwrap().contains("signal 9 (SIGKILL)"), "{failed}");
    let recovering = events.until_state("recovering");
    assert_eq!((&recovering["reason"], &recovering["session"]), (&json!("engine_exited"), &Value::Null));
    // Alone as it is, the config comes back by itself.
    let back = events.until_state("connected");
    assert_eq!(back["session"]["config_id"], ids[0], "{back}");
    assert_ne!((&back["session"]["pid"], &back["session"]["session_id"]), (&json!(old), &session), "{back}");
    let served = load.done();
    wait_until("connections are served again", || load.done() >= served + 100);
    let Ended { done, failed: lost, .. } = load.finish();
    let (late, cut): (Vec<_>, Vec<_>) = lost.into_iter().partition(|(began, _)| *began >= dead);
    println!("{}: killed under load, {done} connections, {} cut by the death itself: {cut:?}", kind.name(), cut.len());
    assert!(late.is_empty(), "{late:#?}");
    // What the dead engine had is lost; refused was nobody.
    assert!(cut.iter().all(|(_, error)| !error.contains("os error 111") && !error.contains("SOCKS reply")), "{cut:#?}");

    let history = daemon.xrat(&["history", "--json"]).ok().json();
    let row = history.as_array().unwrap().iter().find(|row| row["session_id"] == session).unwrap();
    assert_eq!((&row["status"], &row["failure_reason"]), (&json!("failed"), &json!("engine_exited")), "{row}");
    assert!(row["failure_detail"].as_str().unwrap().contains("signal 9 (SIGKILL)"), "{row}");
    let told = daemon.xrat(&["proxy", "why", "--json"]).ok().json();
    assert_eq!((&told["trigger"], &told["outcome"]), (&json!("health"), &json!("no_candidate")), "{told}");
    for words in ["the engine was ended by signal 9 (SIGKILL)", "no other config can be chosen"] {
        assert!(told["reason"].as_str().unwrap().contains(words), "no {words:?} in {told}");
    }
}

#[test]
fn a_killed_v2ray_costs_no_new_connection() {
    a_killed_engine_costs_no_new_connection(Kind::V2ray);
}

#[test]
fn a_killed_xray_costs_no_new_connection() {
    a_killed_engine_costs_no_new_connection(Kind::Xray);
}

/// While there is no engine connections wait for the next one; the second death has a wait of its own before that.
#[test]
fn what_is_opened_while_the_engine_is_down_is_served() {
    let Some(lab) = Lab::start(Kind::V2ray) else { return };
    let nodes = [lab.server.link("vless-tcp-none")];
    let Some((daemon, ids)) = lab.daemon_with(Kind::V2ray, &nodes, &[]) else { return };
    connect(&daemon, ids[0]);
    let mut events = daemon.events();
    kill_engine(&daemon);
    events.until_state("connected");
    kill_engine(&daemon);
    events.until_state("recovering");
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..20)
            .map(|number| {
                let (proxy, url) = (daemon.proxies()[number % 2].clone(), lab.origin.url("/page"));
                scope.spawn(move || client::get(&proxy, &url, None).map(|answer| answer.text()))
            })
            .collect();
        for client in clients {
            assert_eq!(client.join().unwrap().unwrap(), PAGE);
        }
    });
    assert_eq!(daemon.status()["state"], "connected");
}

#[test]
fn a_node_that_swallows_is_noticed_and_left() {
    for kind in Kind::ALL {
        let Some(lab) = Lab::start(kind) else { continue };
        let ((line, first), (_other, second)) = (lab.node("first"), lab.node("second"));
        let Some((daemon, ids)) = lab.daemon_with(kind, &[first, second], &CHECKS) else { continue };
        connect(&daemon, ids[0]);
        let mut events = daemon.events();
        line.set(Mode::Swallow);
        let deaf = Utc::now();
        // Somebody uses it: what goes out and never comes back is what makes it suspicious.
        let mut user = client::Kept::open(&daemon.proxy(), &lab.origin.url("/page"), None).unwrap();
        user.request("/page", "close").unwrap();
        let failed = health(&mut events, "failed");
        assert_eq!(failed["health"]["consecutive_failures"], 2, "{failed}");
        let took = at(&failed) - deaf;
        println!("{}: noticed after {} ms", kind.name(), took.num_milliseconds());
        assert!(took <= BOUND, "{took} is more than {BOUND}");
        let moved = events.until("the session moves", |event| event["type"] == "Rotated");
        assert_eq!((&moved["new_config_id"], &moved["decision"]["trigger"]), (&json!(ids[1]), &json!("health")));
        assert_page(&lab, &daemon);
        let told = daemon.xrat(&["proxy", "why", "--json"]).ok().json();
        assert!(told["reason"].as_str().unwrap().contains("does not answer any more"), "{told}");
        wait_until("the old engine has ended", || daemon.engine_pids().len() == 1);
        let rows = daemon.xrat(&["history", "--json"]).ok().json();
        let row = rows.as_array().unwrap().iter().find(|row| row["config_id"] == ids[0]).unwrap();
        assert_eq!((&row["status"], &row["failure_reason"]), (&json!("failed"), &json!("exchange_failed")), "{row}");
    }
}

#[test]
fn a_dead_node_without_another_is_watched_patiently_until_it_answers() {
    let Some(lab) = Lab::start(Kind::V2ray) else { return };
    let (line, node) = lab.node("only");
    // Its port is open all the time, and that proves nothing.
    line.set(Mode::Swallow);
    let Some((daemon, ids)) = lab.daemon_with(Kind::V2ray, &[node], &CHECKS) else { return };
    let mut events = daemon.events();
    assert_eq!(daemon.ask("RuntimeConnect", json!({"config_id": ids[0]}))["code"], 200);
    let pid = engine(&daemon);
    let first = events.until("the first verdict", |event| event["type"] == "HealthChanged");
    assert_eq!(first["health"]["status"], "degraded", "{first}");
    let mut last = health(&mut events, "failed");
    let probes = line.accepted();
    assert_eq!(probes, 2);
    for number in 1..=3 {
        let next = events.until("the next verdict", |event| event["type"] == "HealthChanged");
        assert_eq!(next["health"]["status"], "failed", "{next}");
        // An interval, and then the exchange's whole limit.
        let gap = at(&next) - at(&last);
        assert!(gap >= TimeDelta::milliseconds(1900), "only {gap} between {last} and {next}");
        assert!(line.accepted() <= probes + number + 1, "{} probes", line.accepted());
        last = next;
    }
    assert_eq!(engine(&daemon), pid, "there is nothing better: its engine stays");
    let status = daemon.status();
    assert_eq!((&status["state"], &status["session"]["health"]["status"]), (&json!("connected"), &json!("failed")));
    let history = daemon.xrat(&["proxy", "history", "--json"]).ok().json();
    let outcomes: Vec<_> = history.as_array().unwrap().iter().map(|row| row["outcome"].clone()).collect();
    assert_eq!(outcomes, ["no_candidate"], "one decision, not one a check: {history}");
    line.set(Mode::Pass);
    health(&mut events, "healthy");
    assert_page(&lab, &daemon);
    assert_eq!(engine(&daemon), pid);
}

#[test]
fn an_engine_that_dies_again_and_again_is_given_up_politely() {
    let Some(lab) = Lab::start(Kind::V2ray) else { return };
    let nodes = [lab.server.link("vless-tcp-none")];
    let Some((daemon, ids)) = lab.daemon_with(Kind::V2ray, &nodes, &[]) else { return };
    connect(&daemon, ids[0]);
    let mut events = daemon.events();
    for death in 1..=5 {
        let old = kill_engine(&daemon);
        events.until_state("recovering");
        let back = events.until_state("connected");
        assert_ne!(back["session"]["pid"], old, "death {death}");
    }
    kill_engine(&daemon);
    let failed = events.until_state("failed");
    assert_eq!((&failed["reason"], &failed["session"]), (&json!("too_many_failures"), &Value::Null), "{failed}");
    let status = daemon.status();
    assert!(status["last_failure"]["detail"].as_str().unwrap().contains("SIGKILL"), "{status}");

    let [socks, http] = daemon.proxies();
    let url = lab.origin.url("/page");
    let error = client::get(&socks, &url, None).unwrap_err();
    assert!(error.to_string().contains("SOCKS reply 1"), "{error}");
    let answer = client::get(&http, &url, None).unwrap();
    assert!(answer.status == 503 && answer.text().contains("SIGKILL"), "{answer:?}");
    assert_eq!(daemon.engine_pids(), [0; 0]);

    daemon.xrat(&["disconnect"]).ok();
    assert_eq!(daemon.status()["state"], "disconnected");
    assert_closed(&daemon);
}

#[test]
fn a_restart_without_an_engine_refuses_nobody() {
    let Some(lab) = Lab::start(Kind::V2ray) else { return };
    let dir = Scratch::new();
    let (program, broken) = (dir.path().join("v2ray"), dir.path().join("broken"));
    let Some(()) = wrapper(&program, Kind::V2ray, &format!("[ ! -e '{}' ] || exit 1", broken.display())) else {
        return;
    };
    let setting = format!("paths.v2ray = \"{}\"", program.display());
    let nodes = [lab.server.link("vless-tcp-none")];
    let Some((daemon, ids)) = lab.daemon_with(Kind::V2ray, &nodes, &[&setting]) else { return };
    connect(&daemon, ids[0]);
    std::fs::write(&broken, "").unwrap();
    kill_engine(&daemon);
    let pid = daemon.pid();
    let (ends, refused, connected) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let guard = EndsOnDrop(&ends);
        for address in [daemon.socks(), daemon.http()] {
            let (ends, refused, connected) = (&ends, &refused, &connected);
            scope.spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    match TcpStream::connect(address) {
                        Ok(client) => {
                            connected.fetch_add(1, Ordering::Relaxed);
                            // A reset: every port of the machine would soon be waiting for its time to pass.
                            sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
                        }
                        Err(error) => {
                            eprintln!("{address}: {error}");
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        for _ in 0..4 {
            // Refused while the next attempt at an engine runs; that one fails soon.
            wait_until("the daemon begins again", || daemon.xrat(&["daemon", "restart"]).code == 0);
            let status = daemon.status();
            assert!(["recovering", "failed"].contains(&status["state"].as_str().unwrap()), "{status}");
        }
        drop(guard);
    });
    assert_eq!((daemon.pid(), refused.into_inner()), (pid, 0));
    assert!(connected.into_inner() > 100);
    std::fs::remove_file(&broken).unwrap();
    daemon.xrat(&["connect", &ids[0].to_string()]);
    wait_until("the session is back", || daemon.status()["state"] == "connected");
    assert_page(&lab, &daemon);
    daemon.xrat(&["disconnect"]).ok();
    assert_closed(&daemon);
}

/// Ends the threads that look at it, also when a test fails.
struct EndsOnDrop<'a>(&'a AtomicBool);

impl Drop for EndsOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_disconnect_stays_a_disconnect() {
    let Some(lab) = Lab::start(Kind::V2ray) else { return };
    let ((_a, first), (_b, second)) = (lab.node("first"), lab.node("second"));
    let settings = ["runtime.rotation.health_trigger_enabled = false", "runtime.rotation.interval_secs = 1"];
    let Some((mut daemon, ids)) = lab.daemon_with(Kind::V2ray, &[first, second], &settings) else { return };
    let mut events = daemon.events();
    // Its engine dies of the disconnect, or just before: neither brings anything back.
    for kill in [None, Some(Signal::KILL)] {
        connect(&daemon, ids[0]);
        let pid = engine(&daemon);
        kill.into_iter().for_each(|signal| process::signal_pid(pid, signal));
        assert_eq!(daemon.ask("RuntimeDisconnect", Value::Null)["code"], 200);
        events.until_state("disconnected");
        assert_closed(&daemon);
    }
    // Nor does the wait for the next attempt go on.
    connect(&daemon, ids[0]);
    events.until_state("connected");
    kill_engine(&daemon);
    events.until_state("recovering");
    events.until_state("connected");
    kill_engine(&daemon);
    events.until_state("recovering");
    assert_eq!(daemon.ask("RuntimeDisconnect", Value::Null)["code"], 200);
    events.until_state("disconnected");
    // Nor does the timer find anything to move.
    assert_eq!(daemon.ask("ProxyStart", Value::Null)["code"], 200);
    // Longer than the timer's interval and the wait: nothing may come.
    events.set_timeout(Duration::from_secs(3));
    let changed = |event: &Value| event["type"] == "StateChanged" || event["type"] == "RotationDecided";
    while let Ok(event) = events.line() {
        assert!(!changed(&event), "{event}");
    }
    assert_closed(&daemon);
    daemon.kill_daemon();
    daemon.run();
    assert_eq!(daemon.status()["state"], "disconnected");
    assert_closed(&daemon);
}
