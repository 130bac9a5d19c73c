//! parse, import, list, show, enable, disable, rename, remove.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use xrat::config::ConfigId;
use xrat::store::TestRow;

use crate::root::{Root, SECRET, bare, finish, link};

const UUID: &str = "b831381d-6324-4d53-ad4f-8cda48b30811";

fn parse(source: &str, input: &[u8]) -> crate::root::Run {
    finish(bare(&["parse", "--json", source]), input)
}

#[test]
fn parse_gives_one_object_a_link_and_leaves_absent_fields_out() {
    let run =
        parse(&format!("vless://{UUID}@h.example:443?security=tls&type=ws&path=%2Fx&alpn=h2,http/1.1#A%20b"), b"");
    let expected = json!({
        "protocol": "vless", "address": "h.example", "port": 443, "uuid": UUID, "network": "ws", "security": "tls",
        "path": "/x", "alpn": ["h2", "http/1.1"], "name": "A b",
    });
    assert_eq!(run.ok().json(), expected);
}

#[test]
fn parse_answers_in_the_order_of_the_lines_and_fails_for_one_bad_line() {
    let body =
        format!("\u{feff}# comment\r\n{}\r\nvless://x@h:0\r\n{}\r\n", link("a", "a.example"), link("b", "b.example"));
    for body in [body.clone(), STANDARD.encode(&body)] {
        let run = parse("-", body.as_bytes());
        assert_eq!(run.code, 1, "{run:#?}");
        let lines: Vec<serde_json::Value> = run.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3, "{run:#?}");
        assert_eq!((&lines[0]["name"], &lines[2]["name"]), (&json!("a"), &json!("b")));
        assert!(lines[1]["error"].as_str().unwrap().contains("port"), "{run:#?}");
    }
    let root = Root::new();
    let file = root.file("links", &body);
    let run = finish(bare(&["parse", &file]), b"");
    assert!(run.code == 1 && run.err.contains("line 3") && run.out.contains("password: hunter2"), "{run:#?}");
}

#[test]
fn parse_fails_for_what_is_no_link() {
    for (source, reason) in [("garbage", "neither"), ("-", "empty"), ("ssr://x@h:1", "ssr"), ("/", "cannot read")] {
        let run = parse(source, b"");
        assert_eq!((run.code, run.err.as_str()), (1, ""), "{run:#?}");
        assert!(run.json()["error"].as_str().unwrap().contains(reason), "{run:#?}");
        finish(bare(&["parse", source]), b"").failed(1, reason);
    }
    let half = finish(bare(&["parse", &format!("trojan:{SECRET}@h.example:443")]), b"").failed(1, "neither");
    assert!(!half.err.contains(SECRET), "{half:#?}");
}

#[test]
fn no_credential_of_any_scheme_is_shown_unasked() {
    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let root = Root::new();
    let tuic = format!("tuic://{UUID}:{SECRET}@h.example:1");
    let links = [
        format!("hysteria2://{SECRET}@h.example:1?obfs=salamander&obfs-password={SECRET}"),
        tuic,
        format!("wg://{KEY}@h.example:1?publickey=ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8&presharedkey={KEY}"),
        format!("vless://{SECRET}@h.example:1?type=kcp&seed={SECRET}"),
        format!("vless://{SECRET}@h.example:1?type=quic&quicSecurity=aes-128-gcm&key={SECRET}"),
        format!("vless://{SECRET}@h.example:1?encryption=mlkem768x25519plus.native.0rtt.{SECRET}"),
        format!("vmess://{SECRET}@h.example:1"),
        format!("ss://aes-128-gcm:{SECRET}@h.example:1?plugin=obfs-local%3B{SECRET}"),
        format!("socks://{SECRET}:{SECRET}@h.example:1"),
    ];
    root.run_with(&["import", "-"], links.join("\n").as_bytes()).ok();
    for id in 1..=links.len() {
        let id = id.to_string();
        for words in [&["show", id.as_str()] as &[_], &["show", id.as_str(), "--json"]] {
            let out = root.run(words).ok().out;
            assert!(out.contains("***") && !out.contains(SECRET) && !out.contains(KEY) && !out.contains(UUID), "{out}");
        }
        let out = root.run(&["show", &id, "--reveal"]).ok().out;
        assert!(out.contains(SECRET) || out.contains(KEY), "{out}");
    }
}

#[test]
fn a_qr_code_is_drawn_where_it_is_asked_for() {
    let root = Root::with_configs();
    let run = root.run(&["show", "1", "--qr"]).failed(2, "standard output is no terminal");
    assert_eq!(run.out, "");
    let run = root.run(&["show", "1", "--qr", "--force"]).ok();
    let widths: Vec<_> = run.out.lines().map(|line| line.chars().count()).collect();
    assert!(widths.len() > 10 && widths.iter().all(|width| *width == widths[0]), "{}", run.out);
    assert!(run.out.lines().all(|line| line.chars().all(|c| " █▀▄".contains(c))), "{}", run.out);
    root.run(&["show", "1", "--qr", "--json"]).failed(2, "do not go together");
    let both = root.run(&["show", "1", "--qr", "--link", "--force"]).ok();
    assert_eq!(both.out, format!("{}{}", run.out, root.run(&["show", "1", "--link"]).ok().out));

    let long = format!("trojan://{}@long.example:443", "p".repeat(3000));
    root.run(&["import", &long]).ok();
    root.run(&["show", "long.example", "--qr", "--force"]).failed(1, "a QR code holds 2953 at most");
}

#[test]
fn lists_are_sorted_and_searched() {
    let root = Root::with_configs();
    let test = |delay_ms: Option<u32>| TestRow {
        at: chrono::Utc::now(),
        delay_ms,
        failure: delay_ms.is_none().then(|| "refused".to_owned()),
    };
    root.store()
        .add_tests(&[(ConfigId(1), test(None)), (ConfigId(2), test(Some(80))), (ConfigId(3), test(Some(20)))])
        .unwrap();
    let names = |words: &[&str]| -> Vec<String> {
        let list = root.run(words).ok().json();
        list.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&["list", "--json"]), ["one", "two", "Other"]);
    assert_eq!(names(&["list", "--json", "--sort", "name"]), ["one", "Other", "two"]);
    assert_eq!(names(&["list", "--json", "--sort=delay"]), ["Other", "two", "one"]);
    assert_eq!(names(&["list", "--json", "OTHER.ex"]), ["Other"]);
    assert_eq!(names(&["list", "--json", "nothing"]), [""; 0]);
    let text = root.run(&["list"]).ok().out;
    assert!(text.contains("20 ms") && text.contains("failed"), "{text}");
}

#[test]
fn credentials_are_shown_only_when_asked_for() {
    let root = Root::new();
    let userinfo = STANDARD.encode(format!("aes-256-gcm:{SECRET}-ss"));
    for link in [
        link("trojan", "t.example"),
        format!("vless://{UUID}@v.example:443#vless"),
        format!("ss://{userinfo}@s.example:443?plugin=obfs-local%3Bobfs-host%3D{SECRET}#ss"),
        format!("socks://{SECRET}user:{SECRET}@k.example:1080#socks"),
        format!("http://{SECRET}user:{SECRET}@p.example:8080#http"),
    ] {
        root.run(&["import", &link]).ok();
    }
    for id in ["trojan", "vless", "ss", "socks", "http"] {
        for words in [&["show", id][..], &["show", id, "--json"], &["list", id], &["list", "--json", id]] {
            let run = root.run(words).ok();
            assert!(!run.out.contains(SECRET) && !run.out.contains(UUID), "{run:#?}");
        }
        let revealed = root.run(&["show", id, "--reveal"]).ok().out;
        assert!(revealed.contains(SECRET) || revealed.contains(UUID), "{revealed}");
        let printed = root.run(&["show", id, "--link"]).ok().out;
        let again = root.run(&["import", printed.trim(), "--json"]).ok().json();
        assert_eq!((&again["added"], again["known"].as_array().unwrap().len()), (&json!([]), 1), "{printed}");
    }
}

#[test]
fn names_mean_one_config_or_all_matches_are_told() {
    let root = Root::with_configs();
    assert_eq!(root.run(&["show", "othe", "--json"]).ok().json()["config_id"], 3);
    assert_eq!(root.run(&["show", "two", "--json"]).ok().json()["config_id"], 2);
    // `o` is in every name.
    let run = root.run(&["disable", "o"]).failed(2, "3 configs");
    assert!(run.err.contains("1 (one)") && run.err.contains("3 (Other)"), "{run:#?}");
    for command in ["show", "enable", "disable", "remove"] {
        root.run(&[command, "99"]).failed(4, "99");
    }
    let run = root.run(&["show", "99", "--json"]).failed(4, "99");
    assert_eq!((&run.json()["ok"], &run.json()["code"]), (&json!(false), &json!(404)));
}

#[test]
fn configs_are_enabled_disabled_renamed_and_removed() {
    let root = Root::with_configs();
    assert_eq!(root.run(&["disable", "one"]).ok().out, "disabled 1 (one)\n");
    root.run(&["disable", "1"]).ok();
    assert_eq!(root.enabled(), ["two", "Other"]);
    root.run(&["enable", "one"]).ok();
    root.run(&["rename", "one", "  香港 1 "]).ok();
    assert_eq!(root.enabled(), ["香港 1", "two", "Other"]);
    // The link that it came from brings the old name no more.
    root.run(&["import", &link("one", "one.example")]).ok();
    assert_eq!(root.enabled()[0], "香港 1");
    root.run(&["remove", "香"]).ok();
    assert_eq!(root.enabled(), ["two", "Other"]);
    for name in ["", " \t", "a\u{1b}[2Jb", "a\nb", "a\u{202e}b"] {
        root.run(&["rename", "two", name]).failed(2, "a name cannot");
    }
    root.run(&["rename", "two", &"x".repeat(201)]).failed(2, "200");
    root.run(&["rename", "--", "two", "--root"]).ok();
    assert_eq!(root.enabled(), ["--root", "Other"]);
}

#[test]
fn the_daemon_is_told_of_changes_and_of_nothing_else() {
    let root = Root::with_configs();
    let listener = UnixListener::bind(root.path().join("runtime/daemon.sock")).unwrap();
    let daemon = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = String::new();
        BufReader::new(&stream).read_line(&mut request).unwrap();
        writeln!(stream, "{{}}").unwrap();
        // Whatever else has come is in the backlog.
        listener.set_nonblocking(true).unwrap();
        (request, listener.accept().is_ok())
    });
    root.run(&["list"]).ok();
    root.run(&["show", "1"]).ok();
    root.run(&["show", "99"]).failed(4, "");
    root.run(&["disable", "1"]).ok();
    let (request, more) = daemon.join().unwrap();
    let request: serde_json::Value = serde_json::from_str(&request).unwrap();
    assert_eq!(request, json!({"protocol_version": 1, "request": {"type": "ConfigsChanged", "payload": {}}}));
    assert!(!more);
}

#[test]
fn a_daemon_that_does_not_answer_holds_nobody_up() {
    let root = Root::with_configs();
    let _silent = UnixListener::bind(root.path().join("runtime/daemon.sock")).unwrap();
    root.run(&["disable", "1"]).ok();
    assert_eq!(root.enabled(), ["two", "Other"]);
}
