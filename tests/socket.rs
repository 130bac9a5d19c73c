//! The socket protocol, byte by byte: every request, every way to get one wrong, and clients that behave badly.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use lab::{Daemon, Events, Kind, Lab, PATIENCE, rounds, tool, wait_until};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};

/// The longest request there is, in bytes.
const MAX_REQUEST: usize = 64 << 10;
const PING: &str = r#"{"protocol_version":1,"request":{"type":"DaemonPing"}}"#;

fn running() -> Daemon {
    let mut daemon = Daemon::new(&[]);
    daemon.run();
    daemon
}

/// The one line that an answer must be, as JSON.
#[track_caller]
fn one_line(answer: &[u8]) -> Value {
    let text = std::str::from_utf8(answer).unwrap();
    assert!(text.ends_with('\n') && text.matches('\n').count() == 1, "not exactly one line: {text:?}");
    serde_json::from_str(text).unwrap()
}

#[track_caller]
fn assert_ping(answer: &[u8]) {
    let answer = one_line(answer);
    assert_eq!((&answer["ok"], &answer["code"]), (&json!(true), &json!(200)), "{answer}");
    assert!(answer["payload"]["pid"].is_u64(), "{answer}");
}

#[track_caller]
fn assert_refused(answer: &[u8], words: &[&str]) {
    let answer = one_line(answer);
    assert_eq!((&answer["ok"], &answer["code"]), (&json!(false), &json!(400)), "{answer}");
    let message = answer["message"].as_str().unwrap();
    for word in words {
        assert!(message.contains(word), "no {word:?} in {message:?}");
    }
}

fn connect(daemon: &Daemon) -> UnixStream {
    let stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn read_all(mut stream: UnixStream) -> Vec<u8> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

fn code(answer: &Value) -> u64 {
    answer["code"].as_u64().unwrap()
}

fn keys(object: &Value) -> Vec<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn each_request_gets_its_answer() {
    let Some(lab) = Lab::start(Kind::V2ray) else { return };
    let (mut daemon, id) = lab.root(Kind::V2ray, &[]);
    daemon.run();
    let ask = |kind: &str, payload: Value| daemon.request(&json!({"type": kind, "payload": payload})).unwrap();

    let ping = ask("DaemonPing", Value::Null);
    assert_eq!(keys(&ping), ["protocol_version", "ok", "code", "message", "payload"]);
    assert_eq!(keys(&ping["payload"]), ["protocol_version", "version", "instance_id", "pid", "started_at"]);
    assert_eq!((&ping["protocol_version"], &ping["message"]), (&json!(1), &json!("success")));
    let instance = ping["payload"]["instance_id"].as_str().unwrap();
    assert_eq!((instance.len(), &instance[14..15]), (36, "4"), "a UUID of version 4");

    let status = ask("RuntimeStatus", Value::Null);
    assert_eq!(keys(&status["payload"]), ["state", "reason", "since", "session", "last_failure", "bus"]);
    assert_eq!(status["payload"]["state"], "disconnected");
    assert_eq!(status["payload"]["session"], Value::Null);
    for (kind, payload) in [("RuntimeDisconnect", Value::Null), ("RuntimeConnect", json!({"config_id": 4711}))] {
        let answer = ask(kind, payload);
        assert_eq!((code(&answer), &answer["payload"]), (404, &Value::Null), "{answer}");
    }

    let session = ask("RuntimeConnect", json!({"config_id": id}));
    assert_eq!(code(&session), 200, "{session}");
    let documented = "session_id config_id name protocol address port engine engine_version pid status socks http \
        started_at owner_kind owner_instance_id delay_ms health traffic";
    assert_eq!(keys(&session["payload"]), documented.split_whitespace().collect::<Vec<_>>());
    assert_eq!(keys(&session["payload"]["socks"]), ["host", "port"]);
    assert_eq!(keys(&session["payload"]["health"]), ["status", "checked_at", "consecutive_failures"]);
    assert_eq!(session["payload"]["health"]["status"], "unproven");
    assert_eq!(session["payload"]["owner_instance_id"], instance);
    let again = ask("RuntimeConnect", json!({"config_id": id}));
    assert_eq!((code(&again), &again["payload"]["config_id"]), (409, &json!(id)), "{again}");

    let status = ask("RuntimeStatus", json!({}));
    assert_eq!(status["payload"]["session"]["session_id"], session["payload"]["session_id"]);
    assert_eq!(keys(&status["payload"]["session"]["traffic"]), ["uplink_bytes", "downlink_bytes"]);
    let stopped = ask("RuntimeDisconnect", Value::Null);
    assert_eq!(stopped["payload"], json!({"stopped_session_id": session["payload"]["session_id"]}));
    for kind in ["ConfigsChanged", "DaemonShutdown"] {
        let answer = ask(kind, Value::Null);
        assert_eq!((code(&answer), &answer["payload"]), (200, &json!({})), "{kind}: {answer}");
    }
    wait_until("the daemon ends and takes its socket along", || {
        daemon.xrat_pids().is_empty() && !daemon.socket().exists()
    });
}

#[test]
fn the_rotation_answers_without_a_session_as_well() {
    let daemon = running();
    let ask = |kind: &str, payload: Value| daemon.request(&json!({"type": kind, "payload": payload})).unwrap();
    let replace = ask("RuntimeReplace", json!({"trigger": "manual", "candidate_id": null}));
    assert_eq!((code(&replace), &replace["message"]), (404, &json!("no active session")));
    for (kind, enabled) in [("ProxyStatus", false), ("ProxyStart", true), ("ProxyStart", true), ("ProxyStop", false)] {
        let status = ask(kind, Value::Null);
        assert_eq!((code(&status), &status["payload"]["enabled"]), (200, &json!(enabled)), "{kind}: {status}");
        let fields = [
            "enabled",
            "interval_secs",
            "health_trigger_enabled",
            "cooldown_secs",
            "cooldown_active",
            "cooldown_until",
            "next_timer_at",
            "last_rotation_at",
            "last_trigger",
            "last_result",
            "active_config_id",
        ];
        assert_eq!(keys(&status["payload"]), fields);
    }
    assert_eq!(ask("RotationHistory", json!({"limit": 5}))["payload"], json!([]));
}

#[test]
fn a_wrong_request_is_told_what_is_wrong() {
    let daemon = running();
    let request = |text: &str| format!(r#"{{"protocol_version":1,"request":{text}}}"#);
    for (text, words) in [
        ("{}".to_owned(), &["protocol_version"][..]),
        (r#"{"request":{"type":"DaemonPing"}}"#.into(), &["protocol_version"]),
        (r#"{"protocol_version":1}"#.into(), &["`request`"]),
        (r#"{"protocol_version":2,"request":{"type":"DaemonPing"}}"#.into(), &["version 2", "version 1"]),
        (r#"{"protocol_version":0,"request":{"type":"DaemonPing"}}"#.into(), &["version 0", "version 1"]),
        (r#"{"protocol_version":-1,"request":{"type":"DaemonPing"}}"#.into(), &["-1", "version 1"]),
        (r#"{"protocol_version":1.5,"request":{"type":"DaemonPing"}}"#.into(), &["1.5", "version 1"]),
        (r#"{"protocol_version":"1","request":{"type":"DaemonPing"}}"#.into(), &["\"1\"", "version 1"]),
        (r#"{"protocol_version":null,"request":{"type":"DaemonPing"}}"#.into(), &["null", "version 1"]),
        (request(r#"{"type":"Nonsense"}"#), &["unknown", "`Nonsense`", "DaemonPing"]),
        (request(r#"{"type":"daemonping"}"#), &["unknown", "`daemonping`"]),
        (request(r#"{"type":""}"#), &["unknown"]),
        (request(r#"{"type":7}"#), &["request.type", "string"]),
        (request("{}"), &["request.type"]),
        (request("[]"), &["request.type"]),
        (request("null"), &["request.type"]),
        (request("\"DaemonPing\""), &["request.type"]),
        (request(r#"{"type":"RuntimeConnect"}"#), &["RuntimeConnect", "config_id"]),
        (request(r#"{"type":"RuntimeConnect","payload":{}}"#), &["RuntimeConnect", "config_id"]),
        (request(r#"{"type":"RuntimeConnect","payload":{"config_id":"7"}}"#), &["RuntimeConnect", "string"]),
        (request(r#"{"type":"RuntimeConnect","payload":{"config_id":1.5}}"#), &["RuntimeConnect", "1.5"]),
        (request(r#"{"type":"RuntimeConnect","payload":{"config_id":99999999999999999999}}"#), &["RuntimeConnect"]),
        (request(r#"{"type":"RuntimeConnect","payload":[]}"#), &["RuntimeConnect"]),
        (request(r#"{"type":"RuntimeConnect","payload":7}"#), &["RuntimeConnect"]),
        (request(r#"{"type":"RuntimeReplace","payload":{"trigger":"banana"}}"#), &["RuntimeReplace", "banana"]),
        (request(r#"{"type":"EventSubscribe","payload":{"seq":1}}"#), &["EventSubscribe", "together"]),
        ("{\"protocol_version\":1,,}".into(), &["not JSON"]),
        ("{'protocol_version':1}".into(), &["not JSON"]),
        ("{\"a\": \u{1}}".into(), &["not JSON"]),
    ] {
        for half_close in [true, false] {
            let answer = daemon.raw(text.as_bytes(), half_close).unwrap();
            assert_refused(&answer, words);
        }
    }
    // Not UTF-8, deeply nested, and endlessly named: each is one answer, no more.
    assert_refused(&daemon.raw(b"{\"a\":\"\xff\xfe\"}", true).unwrap(), &["not JSON"]);
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(30_000), "]".repeat(30_000));
    assert_refused(&daemon.raw(deep.as_bytes(), true).unwrap(), &["not JSON"]);
    let long = request(&format!(r#"{{"type":"{}"}}"#, "x".repeat(60_000)));
    let answer = daemon.raw(long.as_bytes(), true).unwrap();
    assert_refused(&answer, &["unknown"]);
    assert!(answer.len() < 1000, "the name is not repeated in full");
    assert_ping(&daemon.raw(PING.as_bytes(), true).unwrap());
}

#[test]
fn ten_thousand_wrong_requests_harm_nobody() {
    let daemon = running();
    let pid = daemon.pid();
    for round in 0..rounds(500, 10_000) {
        // Every round cuts and bends the request elsewhere.
        let mut bytes = PING.as_bytes().to_vec();
        let place = round % bytes.len();
        bytes[place] = u8::try_from(round * 31 % 256).unwrap();
        let answer = daemon.raw(&bytes, true).unwrap();
        let answer = if answer.is_empty() { Value::Null } else { one_line(&answer) };
        // A change inside of a string, or of white space for white space, may leave a good request.
        assert!(answer.is_null() || answer["code"] == 400 || answer["code"] == 200, "{answer}");
    }
    assert_eq!(daemon.pid(), pid);
}

#[test]
fn the_size_has_a_limit_and_its_answer_can_be_read() {
    let daemon = running();
    // A client that writes all of it before it reads anything.
    let large = |bytes: usize| {
        let head = r#"{"protocol_version":1,"request":{"type":"DaemonPing"},"filler":""#;
        format!("{head}{}\"}}", "x".repeat(bytes - head.len() - 2))
    };
    for half_close in [true, false] {
        assert_refused(&daemon.raw(large(200 << 10).as_bytes(), half_close).unwrap(), &["64 KiB"]);
        assert_refused(&daemon.raw(large(MAX_REQUEST + 1).as_bytes(), half_close).unwrap(), &["64 KiB"]);
        assert_ping(&daemon.raw(large(MAX_REQUEST).as_bytes(), half_close).unwrap());
    }
}

#[test]
fn the_answer_can_be_read_while_the_client_still_sends() {
    let daemon = running();
    for first in [PING, "no object"] {
        let mut bytes = first.as_bytes().to_vec();
        bytes.resize(800 << 10, b'x');
        let answer = daemon.raw(&bytes, false).unwrap();
        if first == PING { assert_ping(&answer) } else { assert_refused(&answer, &["not a JSON object"]) }
    }
}

#[test]
fn a_request_ends_with_its_object_however_it_is_sent() {
    let daemon = running();
    let pretty = serde_json::to_string_pretty(&serde_json::from_str::<Value>(PING).unwrap()).unwrap();
    for text in [
        PING.to_owned(),
        format!("{PING}\n"),
        format!("{PING}\r\n"),
        pretty.clone(),
        format!("{pretty}\n"),
        format!(" \t\r\n\n{PING}"),
        // Whatever follows is not looked at: one request a connection.
        format!("{PING}{PING}"),
        format!("{PING} and so on"),
        r#"{"protocol_version":1,"request":{"type":"DaemonPing","payload":null,"more":1},"x":[{"a":"}{\"\\"}]}"#.into(),
    ] {
        for half_close in [true, false] {
            assert_ping(&daemon.raw(text.as_bytes(), half_close).unwrap());
        }
    }
    let mut stream = connect(&daemon);
    for byte in pretty.as_bytes() {
        stream.write_all(&[*byte]).unwrap();
    }
    assert_ping(&read_all(stream));
}

#[test]
fn every_prefix_of_a_request_is_refused() {
    let daemon = running();
    for end in 1..PING.len() {
        let prefix = &PING.as_bytes()[..end];
        assert_refused(&daemon.raw(prefix, true).unwrap(), &["ended before its JSON object closed"]);
    }
    // Who says nothing gets no answer.
    for nothing in [&b""[..], b" \n\t"] {
        assert!(daemon.raw(nothing, true).unwrap().is_empty());
    }
}

#[test]
fn what_is_no_object_is_refused_by_its_first_byte() {
    let daemon = running();
    for byte in (0..=255_u8).filter(|byte| !b" \t\r\n{".contains(byte)) {
        // No half-close: the daemon must not wait for more.
        assert_refused(&daemon.raw(&[b' ', byte], false).unwrap(), &["not a JSON object"]);
    }
}

#[test]
fn who_says_nothing_for_too_long_is_told() {
    let daemon = running();
    let (silent, mut half) = (connect(&daemon), connect(&daemon));
    half.write_all(&PING.as_bytes()[..20]).unwrap();
    for stream in [silent, half] {
        assert_refused(&read_all(stream), &["too late", "5 s"]);
    }
}

#[test]
fn idle_connections_delay_nobody() {
    let daemon = running();
    let count = rounds(200, 2_000);
    // Fewer descriptors than clients: who makes room must be gone, not just told to go. And more of our own.
    let few = Rlimit { current: Some(160), maximum: Some(160) };
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap()).unwrap();
    prlimit(Some(pid), Resource::Nofile, few).unwrap();
    let own = rustix::process::getrlimit(Resource::Nofile);
    prlimit(None, Resource::Nofile, Rlimit { current: own.maximum, ..own }).unwrap();

    let mut idle = Vec::new();
    for number in 1..=count {
        idle.push(connect(&daemon));
        if number % 50 == 0 {
            assert_ping(&daemon.raw(PING.as_bytes(), true).unwrap());
            // Not because those before it ran into their own time limit: the newest still waits.
            let newest = idle.last_mut().unwrap();
            newest.set_nonblocking(true).unwrap();
            assert_eq!(newest.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
            newest.set_nonblocking(false).unwrap();
        }
    }
    let newest = idle.split_off(count - 20);
    assert_refused(&read_all(idle.remove(0)), &["too many connections", "silent longest"]);
    // Whoever was not displaced may still ask.
    for mut stream in newest {
        stream.write_all(PING.as_bytes()).unwrap();
        assert_ping(&read_all(stream));
    }
    assert!(!daemon.log().contains("cannot accept"), "{}", daemon.log());
}

#[test]
fn clients_that_are_done_and_stay_delay_nobody() {
    let daemon = running();
    let few = Rlimit { current: Some(160), maximum: Some(160) };
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap()).unwrap();
    prlimit(Some(pid), Resource::Nofile, few).unwrap();
    let mut done = Vec::new();
    for _ in 0..rounds(200, 2_000) {
        let mut stream = connect(&daemon);
        stream.write_all(PING.as_bytes()).unwrap();
        done.push(stream);
    }
    for stream in done {
        assert_ping(&read_all(stream));
    }
    assert!(!daemon.log().contains("cannot accept"), "{}", daemon.log());
}

#[test]
fn clients_that_vanish_harm_nobody() {
    let daemon = running();
    let pid = daemon.pid();
    for round in 0..rounds(200, 2_000) {
        let mut stream = connect(&daemon);
        stream.write_all(&PING.as_bytes()[..PING.len() - round % 3]).unwrap();
        if round % 2 == 0 {
            stream.shutdown(Shutdown::Both).unwrap();
        }
        drop(stream);
    }
    assert_eq!(daemon.pid(), pid);
    // Nothing of theirs is left open.
    let open = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    wait_until("the daemon closes what clients left", || open() < 40);
}

#[test]
fn a_command_outlives_its_client() {
    let Some(lab) = Lab::start(Kind::V2ray) else { return };
    let (mut daemon, id) = lab.root(Kind::V2ray, &[]);
    daemon.run();
    let mut events = daemon.events();
    let request = json!({"protocol_version": 1, "request": {"type": "RuntimeConnect", "payload": {"config_id": id}}});
    let mut stream = connect(&daemon);
    stream.write_all(request.to_string().as_bytes()).unwrap();
    drop(stream);
    events.until_state("connected");
}

#[test]
fn events_begin_with_a_snapshot_and_can_be_resumed() {
    let daemon = running();
    let change = || assert_eq!(daemon.request(&json!({"type": "ConfigsChanged"})).unwrap()["code"], 200);
    let mut events = daemon.events();
    assert_eq!((&events.answer["ok"], &events.answer["code"]), (&json!(true), &json!(200)));
    let instance = events.answer["payload"]["instance_id"].as_str().unwrap().to_owned();
    let snapshot = events.next();
    assert_eq!((&snapshot["type"], &snapshot["state"]), (&json!("Snapshot"), &json!("disconnected")));
    assert_eq!(snapshot["instance_id"], instance.as_str());
    let seq = snapshot["seq"].as_u64().unwrap();
    events.half_close();
    for next in 1..=3 {
        change();
        let event = events.next();
        assert_eq!((&event["type"], event["seq"].as_u64()), (&json!("ConfigsChanged"), Some(seq + next)));
        assert!(event["at"].as_str().unwrap().ends_with('Z'), "{event}");
    }
    drop(events);

    // What was missed comes first, without a snapshot; then what happens.
    let mut resumed = Events::subscribe(&daemon.socket(), Some((&instance, seq + 1))).unwrap();
    assert_eq!(resumed.next()["seq"], seq + 2);
    assert_eq!(resumed.next()["seq"], seq + 3);
    change();
    assert_eq!(resumed.next()["seq"], seq + 4);
    // Up to date is a place as well.
    let mut resumed = Events::subscribe(&daemon.socket(), Some((&instance, seq + 4))).unwrap();
    change();
    assert_eq!(resumed.next()["seq"], seq + 5);

    let other = "00000000-0000-4000-8000-000000000000";
    for since in [(other, seq + 1), (instance.as_str(), seq + 6), (instance.as_str(), u64::MAX)] {
        let first = Events::subscribe(&daemon.socket(), Some(since)).unwrap().next();
        assert_eq!((&first["type"], first["seq"].as_u64()), (&json!("Snapshot"), Some(seq + 5)), "{since:?}");
    }
}

#[test]
fn who_does_not_read_events_delays_nobody_and_is_told() {
    let daemon = running();
    let mut slow = daemon.events();
    let mut last = slow.next()["seq"].as_u64().unwrap();
    let mut fast = daemon.events();
    fast.next();
    let count = 2_000;
    for number in 1..=count {
        // Answered although the stream of the slow one is full: nothing here waits for it.
        assert_eq!(daemon.request(&json!({"type": "ConfigsChanged"})).unwrap()["code"], 200);
        assert_eq!(fast.next()["seq"], last + number);
    }
    let end = last + count;
    let mut lagged = 0;
    while last < end {
        let event = slow.next();
        let seq = event["seq"].as_u64().unwrap();
        if event["type"] == "Lagged" {
            lagged += 1;
            assert_eq!(seq - last, event["missed"].as_u64().unwrap(), "{event}");
        } else {
            assert_eq!(seq, last + 1, "{event}");
        }
        last = seq;
    }
    assert_eq!(lagged, 1);
}

#[test]
fn streams_have_a_limit_of_their_own() {
    let daemon = running();
    let streams: Vec<_> = (0..64).map(|_| daemon.events()).collect();
    assert!(streams.iter().all(|stream| stream.answer["ok"] == true));
    let refused = daemon.events();
    assert_eq!(refused.answer["code"], 409, "{}", refused.answer);
    assert_ping(&daemon.raw(PING.as_bytes(), true).unwrap());
    drop(streams);
    wait_until("there is room again", || daemon.events().answer["ok"] == true);
}

/// Runs a command that ends in the socket's path; what it prints.
fn printed(command: &[&str], daemon: &Daemon) -> String {
    let output =
        Command::new(command[0]).args(&command[1..]).arg(daemon.socket()).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a person would write: no newline, no half-close, pretty-printed, and read to the end.
const PYTHON: &str = r#"
import json, socket, sys
def ask(text, half_close=False):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(20)
        s.connect(sys.argv[1])
        s.sendall(text.encode())
        if half_close:
            s.shutdown(socket.SHUT_WR)
        return s.makefile().read()
ping = {"protocol_version": 1, "request": {"type": "DaemonPing"}}
for text in json.dumps(ping), json.dumps(ping, indent=4), json.dumps(ping) + "\n":
    for half_close in False, True:
        answer = ask(text, half_close)
        assert answer.count("\n") == 1 and json.loads(answer)["payload"]["version"], answer
status = ask(json.dumps({"protocol_version": 1, "request": {"type": "RuntimeStatus"}}))
assert json.loads(status)["payload"]["state"] == "disconnected", status
for text, words in (
    ("hello", "not a JSON object"),
    ("{" + "x" * 200 * 1024, "64 KiB"),
    (json.dumps(ping).replace("1", "7"), "version 7"),
    (json.dumps(ping).replace("Ping", "Pong"), "unknown request type `DaemonPong`"),
):
    answer = json.loads(ask(text))
    assert answer["code"] == 400 and words in answer["message"], answer
assert json.loads(ask(json.dumps(ping)[:-1], half_close=True))["code"] == 400
print("as documented")
"#;

/// The same with what people have at hand in a shell.
const SOCAT: &str = r#"
set -e
ask() { socat -t 20 - UNIX-CONNECT:"$1"; }
printf '{"protocol_version":1,"request":{"type":"DaemonPing"}}' | ask "$1" | grep -q '"code":200'
echo '{"protocol_version":1,"request":{"type":"DaemonPing"}}' | ask "$1" | grep -q '"code":200'
printf '{\n  "protocol_version": 1,\n  "request": {\n    "type": "RuntimeStatus"\n  }\n}\n' | ask "$1" |
  grep -q '"state":"disconnected"'
printf 'hello' | ask "$1" | grep -q '"code":400'
printf '{"protocol_version":1' | ask "$1" | grep -q 'ended before its JSON object closed'
printf '{%204800s' '' | ask "$1" | grep -q '64 KiB'
printf '{"protocol_version":3,"request":{"type":"DaemonPing"}}' | ask "$1" | grep 'version 3' | grep -q 'version 1'
echo as documented
"#;

#[test]
fn python_and_socat_are_answered() {
    let daemon = running();
    for (name, command) in [("python3", &["python3", "-c", PYTHON][..]), ("socat", &["sh", "-c", SOCAT, "sh"])] {
        if tool(name) {
            assert_eq!(printed(command, &daemon), "as documented\n", "{name}");
        }
    }
}

#[test]
fn only_its_own_user_gets_to_the_socket() {
    let daemon = running();
    let socket = std::fs::metadata(daemon.socket()).unwrap();
    assert_eq!((socket.mode() & 0o7777, socket.mode() & 0o170_000), (0o600, 0o140_000));
    let directory = std::fs::metadata(daemon.root().join("runtime")).unwrap();
    assert_eq!(directory.mode() & 0o7777, 0o700);
    if !rustix::process::geteuid().is_root() || !tool("python3") {
        let _ = writeln!(std::io::stderr(), "skipped: asking as another user takes root");
        return;
    }
    // Even with every permission given away the daemon answers nobody else.
    for path in daemon.socket().ancestors().take(4).filter(|path| path.starts_with(std::env::temp_dir())) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let ask = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.settimeout(20)\ns.connect(sys.argv[1])\n\
        try:\n  s.sendall(sys.argv[2].encode())\n  print(s.makefile().read(), end='')\n\
        except OSError:\n  pass\n";
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "python3", "-c", ask])
        .arg(daemon.socket())
        .arg(PING)
        // What is in root's own home is out of the other user's reach.
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_ping(&daemon.raw(PING.as_bytes(), true).unwrap());
    assert!(daemon.log().contains("uid 65534"), "the refusal is in the log");
}
