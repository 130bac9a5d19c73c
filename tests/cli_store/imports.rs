//! `import`: what is stored, what is refused and how that is told, at any size.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use crate::root::{Root, finish, link};

#[test]
fn import_tells_added_known_and_refused() {
    let root = Root::new();
    let body =
        format!("{}\nvless://x@h:0\n{}\n{}\n", link("a", "a.example"), link("b", "b.example"), link("c", "a.example"));
    let run = root.run_with(&["import", "-"], body.as_bytes()).ok();
    assert!(run.out.starts_with("2 added, 1 already known, 1 refused\n"), "{run:#?}");
    assert!(run.out.contains("added: 1 (a)") && run.out.contains("line 2: "), "{run:#?}");

    let file = root.file("links", STANDARD.encode(&body));
    let again = root.run(&["import", &file, "--json"]).ok().json();
    assert_eq!((&again["added"], &again["known"]), (&json!([]), &json!([1, 2, 1])));
    assert_eq!(again["refused"][0]["line"], 2);

    let pasted = format!("{} {}\n{}", link("d", "d.example"), link("e", "e.example"), link("a", "a.example"));
    let run = root.run(&["import", &pasted]).ok();
    assert!(run.out.starts_with("2 added, 1 already known, 0 refused\n"), "{run:#?}");
    assert_eq!(root.enabled(), ["a", "b", "d", "e"]);
}

#[test]
fn import_tells_refusals_by_reason_or_all_lines() {
    let root = Root::new();
    let mut body = "vless://bad\n".repeat(30);
    body.push_str("ssr://x@h:1\nssr://y@h:1\ntrojan://p@h.example:0\n");
    body.push_str(&link("a", "a.example"));
    let run = root.run_with(&["import", "-"], body.as_bytes()).ok();
    let told: Vec<_> = run.out.lines().skip_while(|line| !line.contains("times")).collect();
    let [most, next, single] = told.as_slice() else { panic!("{run:#?}") };
    assert!(most.starts_with("  30 times: the link has no uuid"), "{run:#?}");
    assert!(most.ends_with("(line 1, line 2, line 3, line 4, line 5, …)"), "{run:#?}");
    assert!(next.starts_with("  2 times: scheme `ssr`") && next.ends_with("(line 31, line 32)"), "{run:#?}");
    assert!(single.starts_with("  line 33: port `0` is not valid"), "{run:#?}");

    let all = root.run_with(&["import", "-", "--verbose"], body.as_bytes()).ok();
    assert_eq!(all.out.lines().filter(|line| line.starts_with("  line ")).count(), 33);

    let value = root.run_with(&["import", "-", "--json"], body.as_bytes()).ok().json();
    assert_eq!((&value["refused_total"], &value["refused_reasons"][0]["count"]), (&json!(33), &json!(30)));
    assert_eq!(value["refused_reasons"][1]["first"], json!(["line 31", "line 32"]));
}

#[test]
fn more_lines_than_fit_a_body_are_imported() {
    let root = Root::new();
    let filler = "x".repeat(1000);
    let lines =
        (0..20_000).map(|number| format!("{}?{filler}\n", link("", &format!("h{number}.example")).replace('#', "")));
    let body: String = lines.collect();
    assert!(body.len() > 16 << 20);
    let run = root.run_with(&["import", "-"], body.as_bytes()).ok();
    assert_eq!(run.out, "20000 added, 0 already known, 0 refused\n");
    let file = root.file("links", &body);
    assert_eq!(root.run(&["import", &file]).ok().out, "0 added, 20000 already known, 0 refused\n");
    // Decoding has to have all of a link, and a configuration is no list.
    root.run_with(&["import", "-"], STANDARD.encode(&body).as_bytes()).failed(1, "16 MiB");
    root.run_with(&["parse", "-"], body.as_bytes()).failed(1, "16 MiB");
}

/// Whether somebody writes to the database.
fn is_locked(root: &Root) -> bool {
    let Ok(connection) = Connection::open_with_flags(root.path().join("xrat.db"), OpenFlags::SQLITE_OPEN_READ_WRITE)
    else {
        return false;
    };
    connection.busy_timeout(Duration::ZERO).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_err()
}

#[test]
fn a_slow_writer_does_not_keep_the_database() {
    let root = Root::with_configs();
    let mut command = root.command(&["import", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let filler = "x".repeat(1000);
    for number in 0..8_000 {
        writeln!(stdin, "{}{filler}", link("n", &format!("h{number}.example"))).unwrap();
    }
    // More than the pipe holds was taken, so that the import is under way; the rest is withheld.
    assert!(!is_locked(&root));
    root.run(&["disable", "1"]).ok();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "8000 added, 0 already known, 0 refused\n");
}

#[test]
fn a_killed_import_stores_nothing() {
    let root = Root::with_configs();
    let lines = (0..60_000).map(|number| link("n", &format!("h{number}.example")) + "\n");
    let file = root.file("links", lines.collect::<String>());
    let mut child = root.command(&["import", &file]).stdout(Stdio::null()).spawn().unwrap();
    while !is_locked(&root) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(root.enabled(), ["one", "two", "Other"]);
    assert_eq!(root.run(&["import", &file]).ok().out, "60000 added, 0 already known, 0 refused\n");
}

#[test]
fn a_terminal_sees_the_progress_and_a_pipe_does_not() {
    let root = Root::new();
    let filler = "x".repeat(1000);
    let lines = (0..3_000).map(|number| format!("{}{filler}\n", link("n", &format!("h{number}.example"))));
    let file = root.file("links", lines.collect::<String>());
    let run = root.run(&["import", &file]).ok();
    assert_eq!(run.err, "");
    // `script` gives a program a terminal.
    let xrat = root.command(&["import", &file]);
    let words: Vec<_> =
        std::iter::once(xrat.get_program()).chain(xrat.get_args()).map(|word| word.to_str().unwrap()).collect();
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &words.join(" "), "/dev/null"]).env("TERM", "xterm").env("XRAT_PATH", root.path());
    let seen = finish(script, b"").ok().out;
    assert!(seen.contains("Importing") && seen.contains("3000 already known"), "{seen:?}");
}

#[test]
fn nodes_of_other_programs_are_imported() {
    let root = Root::new();
    let yaml =
        "proxies:\n- {name: a, type: trojan, server: a.example, port: 443, password: x}\n- {name: b, type: ssr}\n";
    let run = root.run_with(&["import", "-"], yaml.as_bytes()).ok();
    assert!(
        run.out.starts_with("1 added, 0 already known, 1 refused\n") && run.out.contains("line 3: type `ssr`"),
        "{run:#?}"
    );
    let json = r#"[{"server":"s.example","server_port":1,"method":"aes-256-gcm","password":"x"},{}]"#;
    let value = root.run_with(&["import", "-", "--json"], json.as_bytes()).ok().json();
    assert_eq!((&value["added"], &value["refused"][0]["node"]), (&json!([2]), &json!(2)));
}

#[test]
fn import_fails_when_nothing_could_be_stored() {
    let root = Root::new();
    root.run(&["import", "-"]).failed(1, "standard input is empty");
    let empty = root.file("empty", "\u{feff}\r\n# nothing\r\n");
    root.run(&["import", &empty]).failed(1, "is empty");
    root.run(&["import", "missing.txt"]).failed(1, "missing.txt");
    root.run(&["import", "vless://x@h:0"]).failed(1, "port");
    let run = root.run_with(&["import", "-"], b"vless://x@h:0\nss://y\n").failed(1, "all 2 lines");
    assert!(run.out.contains("line 1") && run.out.contains("line 2"), "{run:#?}");
    let run = root.run_with(&["import", "-", "--json"], b"vless://x@h:0\n");
    assert_eq!((run.code, &run.json()["refused"][0]["line"]), (1, &json!(1)));
    root.run_with(&["import", "-"], &vec![b'x'; (16 << 20) + 1]).failed(1, "16 MiB");
    assert_eq!(root.run(&["list", "--json"]).ok().out, "[]\n");
}

#[test]
fn ten_thousand_links_are_one_import() {
    let root = Root::new();
    let links: Vec<_> = (0..10_000).map(|number| link(&format!("n{number}"), &format!("h{number}.example"))).collect();
    let run = root.run_with(&["import", "-"], links.join("\r\n").as_bytes()).ok();
    assert_eq!(run.out, "10000 added, 0 already known, 0 refused\n");
    assert_eq!(root.run(&["list"]).ok().out.lines().count(), 10_001);
}
