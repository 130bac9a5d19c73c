//! Faults around the daemon: taken ports, bad engines, bad files, and two of everything.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod engines;
mod files;
#[path = "../lab/mod.rs"]
mod lab;
mod left;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use lab::client;
use lab::origin::PAGE;
use lab::process::Guard;
use lab::scratch::Scratch;
use lab::wrapper::{Gate, script, wrapper};
use lab::{Daemon, Kind, Lab, engine, process, rounds, tool, wait_for, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Both engines behave alike where the fault is not theirs.
const KIND: Kind = Kind::V2ray;

fn nightly() -> bool {
    rounds(0, 1) == 1
}

/// The `paths` setting for an engine's program.
fn named(kind: Kind, program: &Path) -> String {
    format!("paths.{} = \"{}\"", kind.name(), program.display())
}

/// The answer to RuntimeConnect.
fn ask_connect(daemon: &Daemon, id: i64) -> Value {
    daemon.request(&json!({"type": "RuntimeConnect", "payload": {"config_id": id}})).unwrap()
}

#[track_caller]
fn connected(daemon: &Daemon, id: i64) -> u32 {
    let answer = ask_connect(daemon, id);
    assert_eq!(answer["code"], 200, "{answer}");
    u32::try_from(answer["payload"]["pid"].as_u64().unwrap()).unwrap()
}

/// The message of an answer with this code.
#[track_caller]
fn refusal(answer: &Value, code: u64) -> &str {
    assert_eq!(answer["code"], code, "{answer}");
    answer["message"].as_str().unwrap()
}

#[track_caller]
fn assert_words(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text:?}");
    }
}

/// Status, failure reason and detail of the newest row.
fn last_row(daemon: &Daemon) -> (String, Option<String>, Option<String>) {
    let sql = "SELECT status, failure_reason, failure_detail FROM runtime_sessions ORDER BY session_id DESC LIMIT 1";
    daemon.database().query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap()
}

/// Waits for the newest row to be closed as failed; its detail.
fn failed_row(daemon: &Daemon, reason: &str) -> String {
    wait_for("the row is closed", || {
        let (status, found, detail) = last_row(daemon);
        (status == "failed").then(|| {
            assert_eq!(found.as_deref(), Some(reason));
            detail.unwrap()
        })
    })
}

/// Another program that has a port. Not the test itself: its sockets live on in every child that is just being started.
fn take_port(kind: &str, address: SocketAddr) -> (Guard, Scratch) {
    let text = "import signal, socket, sys\n\
        kind, host, port, ready = sys.argv[1:]\n\
        s = socket.socket(type=socket.SOCK_DGRAM if kind == 'udp' else socket.SOCK_STREAM)\n\
        if kind == 'shared':\n  s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
        s.bind((host, int(port)))\n\
        if kind != 'udp':\n  s.listen()\n\
        open(ready, 'w').close()\n\
        signal.pause()\n";
    let dir = Scratch::new();
    let ready = dir.path().join("ready");
    let mut guard = Guard::spawn(Path::new("python3"), |command| {
        command.args(["-c", text, kind, &address.ip().to_string(), &address.port().to_string()]).arg(&ready);
    });
    wait_until("the other program has the port", || {
        assert!(guard.exited().is_none());
        ready.exists()
    });
    (guard, dir)
}

#[test]
fn a_port_of_another_program_is_refused_with_its_name_and_pid() {
    let Some(lab) = Lab::start(KIND) else { return };
    if !tool("python3") {
        return;
    }
    let (mut daemon, id) = lab.root(KIND, &[]);
    daemon.run();
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, daemon.socks().port()));
    for (kind, taken, address, key) in [
        ("alone", daemon.socks(), daemon.socks(), "runtime.socks.port"),
        ("shared", daemon.socks(), daemon.socks(), "runtime.socks.port"),
        ("alone", any, daemon.socks(), "runtime.socks.port"),
        ("udp", daemon.socks(), daemon.socks(), "runtime.socks.port"),
        ("shared", daemon.http(), daemon.http(), "runtime.http.port"),
    ] {
        let (other, _dir) = take_port(kind, taken);
        let name = std::fs::read_to_string(format!("/proc/{}/comm", other.pid())).unwrap();
        let owner = format!("{} (pid {})", name.trim(), other.pid());
        let answer = ask_connect(&daemon, id);
        let message = refusal(&answer, 409);
        let payload = &answer["payload"];
        assert_eq!((&payload["pid"], &payload["name"]), (&json!(other.pid()), &json!(name.trim())));
        let free = u16::try_from(payload["free_port"].as_u64().unwrap()).unwrap();
        assert_words(message, &[&format!("{address} belongs to {owner}"), key, &format!("{free} is free")]);
        assert!(![daemon.socks().port(), daemon.http().port()].contains(&free), "not one that the settings name");
        let said = daemon.xrat(&["connect", &id.to_string()]).exits(5);
        assert_words(&said.stderr, &[&owner]);
        assert_eq!(daemon.engine_pids(), [] as [u32; 0]);
        assert_eq!(daemon.status()["state"], "disconnected");
    }
    connected(&daemon, id);
}
