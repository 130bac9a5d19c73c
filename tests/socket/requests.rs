//! Requests and answers: each kind, and every way to get one wrong.

use super::*;

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
