//! Faults around the daemon: taken ports, bad engines, bad files, and two of everything.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

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

#[test]
fn a_missing_engine_is_told_how_to_get() {
    let Some(lab) = Lab::start(KIND) else { return };
    let (mut daemon, id) = lab.root(KIND, &[]);
    daemon.configure(&["runtime.engine = \"auto\""]);
    let empty = Scratch::new();
    daemon.set_env("PATH", empty.path());
    daemon.start();
    let answer = ask_connect(&daemon, id);
    let message = refusal(&answer, 500);
    assert_words(message, &["no engine found", "xray", "v2ray", "install"]);
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    if release.contains("ID=debian") || release.contains("ID=ubuntu") {
        assert_words(message, &["sudo apt install v2ray"]);
    }
    assert_eq!(daemon.status()["last_failure"]["reason"], "engine_missing");
    daemon.xrat(&["connect", &id.to_string()]).exits(1);
}

#[test]
fn a_program_that_is_no_engine_is_named() {
    let Some(lab) = Lab::start(KIND) else { return };
    let dir = Scratch::new();
    let program = dir.path().join("v2ray");
    let (mut daemon, id) = lab.root(KIND, &[&named(KIND, &program)]);
    daemon.run();
    let path = program.to_str().unwrap();
    let refused = |words: &[&str]| {
        let answer = ask_connect(&daemon, id);
        assert_words(refusal(&answer, 500), words);
        assert_words(refusal(&answer, 500), &[path]);
    };
    refused(&["paths.v2ray", "not an executable file"]);
    std::fs::create_dir(&program).unwrap();
    refused(&["paths.v2ray", "not an executable file"]);
    std::fs::remove_dir(&program).unwrap();
    std::fs::write(&program, "#!/no/such/interpreter\n").unwrap();
    refused(&["paths.v2ray", "not an executable file"]);
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    refused(&["cannot be started"]);
    script(&program, "echo 'GNU Nothing 1.0'\n");
    refused(&["does not say that it is Xray or V2Ray"]);
    // Exchanged for a good one it is looked at again.
    wrapper(&program, KIND, "").unwrap();
    connected(&daemon, id);
}

#[test]
fn an_engine_that_ends_at_once_has_the_last_word() {
    let Some(lab) = Lab::start(KIND) else { return };
    let dir = Scratch::new();
    let program = dir.path().join("v2ray");
    let (mut daemon, id) = lab.root(KIND, &[&named(KIND, &program)]);
    daemon.run();
    let mut events = daemon.events();
    wrapper(&program, KIND, "echo starting; echo 'no luck today' >&2; exit 23").unwrap();
    let answer = ask_connect(&daemon, id);
    let message = refusal(&answer, 500);
    assert_words(message, &["exit code 23", "no luck today"]);
    assert_eq!(failed_row(&daemon, "engine_not_ready"), message);
    let event = events.until("the failure", |event| event["type"] == "SessionFailed");
    assert_eq!((&event["reason"], &event["detail"]), (&json!("engine_not_ready"), &json!(message)));
    let status = daemon.status();
    assert_eq!((&status["state"], &status["last_failure"]["detail"]), (&json!("disconnected"), &json!(message)));

    wrapper(&program, KIND, "kill -9 $$").unwrap();
    assert_words(refusal(&ask_connect(&daemon, id), 500), &["SIGKILL"]);
    // What it would have read is gone with it.
    let left: Vec<_> = std::fs::read_dir(daemon.root().join("runtime")).unwrap().map(|file| file.unwrap()).collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn an_engine_that_never_gets_ready_is_given_up() {
    if !nightly() {
        let _ = writeln!(std::io::stderr(), "skipped: takes 10 s: set XRAT_NIGHTLY=1");
        return;
    }
    let Some(lab) = Lab::start(KIND) else { return };
    let dir = Scratch::new();
    let (program, gate) = (dir.path().join("v2ray"), Gate::new(dir.path().join("gate")));
    wrapper(&program, KIND, &format!("echo waiting for nothing; {}", gate.line())).unwrap();
    let (mut daemon, id) = lab.root(KIND, &[&named(KIND, &program)]);
    daemon.run();
    let answer = ask_connect(&daemon, id);
    assert_words(refusal(&answer, 500), &["was not ready within 10 s", "waiting for nothing"]);
    wait_until("it is ended", || daemon.processes().len() == 1);
}

#[test]
fn an_engine_that_ignores_sigterm_is_killed() {
    let Some(lab) = Lab::start(KIND) else { return };
    let dir = Scratch::new();
    let (program, gate) = (dir.path().join("v2ray"), Gate::new(dir.path().join("gate")));
    wrapper(&program, KIND, &format!("trap '' TERM; {}", gate.line())).unwrap();
    let (mut daemon, id) = lab.root(KIND, &[&named(KIND, &program)]);
    daemon.run();
    std::thread::scope(|scope| {
        let connecting = scope.spawn(|| ask_connect(&daemon, id));
        let waits = gate.reached();
        let answer = daemon.request(&json!({"type": "RuntimeDisconnect"})).unwrap();
        assert_eq!(answer["code"], 200, "{answer}");
        assert_eq!(connecting.join().unwrap()["code"], 409);
        drop(waits);
    });
    assert_eq!(daemon.processes().len(), 1, "the daemon alone: {:?}", daemon.processes());
    assert_words(&daemon.log(), &["killing it"]);
}

#[test]
fn a_talkative_engine_does_not_fill_the_disk() {
    if !nightly() {
        let _ = writeln!(std::io::stderr(), "skipped: takes 15 s: set XRAT_NIGHTLY=1");
        return;
    }
    let Some(lab) = Lab::start(KIND) else { return };
    let dir = Scratch::new();
    let program = dir.path().join("v2ray");
    wrapper(&program, KIND, "head -c 100000000 /dev/zero | tr '\\0' x").unwrap();
    let (mut daemon, id) = lab.root(KIND, &[&named(KIND, &program)]);
    daemon.run();
    connected(&daemon, id);
    let log = daemon.root().join("logs/session-1.log");
    assert!(std::fs::metadata(&log).unwrap().len() >= 100_000_000);
    wait_until("its log is emptied", || std::fs::metadata(&log).unwrap().len() < 10 << 20);
    assert_eq!(daemon.status()["state"], "connected");
}

#[test]
fn a_program_that_vanishes_leaves_its_session_alone() {
    let Some(lab) = Lab::start(KIND) else { return };
    let Some(real) = engine(KIND.name()) else { return };
    let dir = Scratch::new();
    let program = dir.path().join("v2ray");
    assert!(Command::new("cp").arg(real).arg(&program).status().unwrap().success());
    let (mut daemon, id) = lab.root(KIND, &[&named(KIND, &program)]);
    daemon.start();
    let pid = connected(&daemon, id);
    std::fs::remove_file(&program).unwrap();
    assert_eq!(client::http_get_via_socks(daemon.socks(), &lab.origin.url("/page")).unwrap().text(), PAGE);
    daemon.kill_daemon();
    daemon.start();
    assert_eq!(daemon.status()["session"]["pid"], pid, "{}", daemon.log());
    daemon.xrat(&["disconnect"]).ok();
    assert!(!process::is_alive(pid));
    let answer = ask_connect(&daemon, id);
    assert_words(refusal(&answer, 500), &["paths.v2ray", program.to_str().unwrap()]);
}

/// Ends an engine with a signal and looks at what everybody is told of it.
fn ended_by(daemon: &Daemon, id: i64, signal: Signal, words: &str) {
    let pid = connected(daemon, id);
    let mut events = daemon.events();
    process::signal_pid(pid, signal);
    let failure = events.until("the failure", |event| event["type"] == "SessionFailed");
    assert_eq!(failure["reason"], "engine_exited");
    let detail = failure["detail"].as_str().unwrap();
    assert_words(detail, &[words]);
    assert_eq!(events.until_state("recovering")["reason"], "engine_exited");
    assert_eq!(events.until_state("connected")["reason"], "engine_exited");
    let status = daemon.status();
    assert_eq!((&status["state"], &status["reason"]), (&json!("connected"), &json!("engine_exited")));
    assert_ne!(status["session"]["pid"], pid);
    assert_eq!(status["last_failure"]["detail"], detail);
    let row = wait_for("the row is closed", || {
        let sql = "SELECT failure_reason, failure_detail FROM runtime_sessions WHERE pid = ?1 AND status = 'failed'";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?));
        daemon.database().query_row(sql, [pid], read).ok()
    });
    assert_eq!((row.0.as_str(), row.1.as_str()), ("engine_exited", detail));
    assert_eq!(daemon.request(&json!({"type": "RuntimeDisconnect"})).unwrap()["code"], 200);
    assert_eq!(daemon.status()["state"], "disconnected");
}

#[test]
fn the_end_of_an_engine_is_noticed_with_its_reason() {
    for kind in Kind::ALL {
        let (Some(lab), Some(real)) = (Lab::start(kind), engine(kind.name())) else { continue };
        let (mut daemon, id) = lab.root(kind, &[]);
        daemon.run();
        ended_by(&daemon, id, Signal::KILL, "SIGKILL");
        ended_by(&daemon, id, Signal::ABORT, "");

        // One that ends as if all were well. A script, because engines handle SIGTERM only some time after they serve.
        let dir = Scratch::new();
        let (program, gate) = (dir.path().join(kind.name()), Gate::new(dir.path().join("gate")));
        let (real, wait) = (real.display(), gate.line());
        let end = "kill $engine; wait $engine; exit 0";
        let serve = format!("{real} \"$@\" & engine=$!\ntrap '{end}' USR1\nwhile :; do {wait}; done");
        wrapper(&program, kind, &serve).unwrap();
        let (mut daemon, id) = lab.root(kind, &[&named(kind, &program)]);
        daemon.run();
        ended_by(&daemon, id, Signal::USR1, "exit code 0");
    }
}

#[test]
fn a_stopped_engine_hangs_nobody() {
    let Some(lab) = Lab::start(KIND) else { return };
    let (mut daemon, id) = lab.root(KIND, &[]);
    daemon.start();
    let pid = connected(&daemon, id);
    process::signal_pid(pid, Signal::STOP);
    assert_eq!(daemon.status()["session"]["pid"], pid);
    daemon.xrat(&["disconnect"]).ok();
    assert!(!process::is_alive(pid));

    // One that hangs cannot be taken over, and is not left behind.
    let pid = connected(&daemon, id);
    daemon.kill_daemon();
    process::signal_pid(pid, Signal::STOP);
    daemon.start();
    wait_until("it is ended", || !process::is_alive(pid));
    let sql = "SELECT failure_reason FROM runtime_sessions WHERE pid = ?1";
    let reason: String = daemon.database().query_row(sql, [pid], |row| row.get(0)).unwrap();
    assert_eq!(reason, "adoption_refused");
}

#[test]
fn what_a_dead_daemon_left_at_the_socket_is_no_obstacle() {
    let daemon = Daemon::new(&[]);
    let runtime = daemon.root().join("runtime");
    std::fs::create_dir(&runtime).unwrap();
    drop(UnixListener::bind(daemon.socket()).unwrap());
    daemon.xrat(&["daemon", "status"]).exits(3);
    daemon.start();
    daemon.xrat(&["daemon", "stop"]).ok();
    std::fs::write(daemon.socket(), "no socket").unwrap();
    daemon.start();
    daemon.xrat(&["daemon", "stop"]).ok();
    std::fs::create_dir(daemon.socket()).unwrap();
    let refused = daemon.xrat(&["daemon", "start"]).exits(1);
    assert_words(&refused.stderr, &["the daemon did not start", daemon.socket().to_str().unwrap(), "directory"]);
    assert_eq!(daemon.xrat_pids(), [] as [u32; 0]);
}

#[test]
fn a_deleted_socket_file_is_made_again() {
    if !nightly() {
        let _ = writeln!(std::io::stderr(), "skipped: takes 15 s: set XRAT_NIGHTLY=1");
        return;
    }
    let mut daemon = Daemon::new(&[]);
    daemon.run();
    let pid = daemon.pid();
    let mut events = daemon.events();
    events.next();
    std::fs::remove_file(daemon.socket()).unwrap();
    daemon.xrat(&["daemon", "status"]).exits(3);
    // Nobody gets a second daemon this way.
    let said = daemon.xrat(&["daemon", "start"]).ok().stdout;
    assert_words(&said, &[&format!("Already running: pid {pid}")]);
    assert_eq!(daemon.request(&json!({"type": "ConfigsChanged"})).unwrap()["code"], 200);
    assert_eq!(events.next()["type"], "ConfigsChanged", "the old stream goes on");
}

#[test]
fn directories_that_cannot_be_used_are_named() {
    let daemon = Daemon::new(&[]);
    let (root, runtime) = (daemon.root().to_owned(), daemon.root().join("runtime"));
    let refused = |words: &[&str]| {
        for action in ["start", "run"] {
            assert_words(&daemon.xrat(&["daemon", action]).exits(1).stderr, words);
        }
        assert_eq!(daemon.xrat_pids(), [] as [u32; 0]);
    };
    let elsewhere = Scratch::new();
    for name in ["runtime", "logs"] {
        let path = root.join(name);
        let _ = std::fs::remove_dir_all(&path);
        symlink(elsewhere.path(), &path).unwrap();
        refused(&[path.to_str().unwrap(), "symbolic link"]);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        refused(&[path.to_str().unwrap(), "not a directory"]);
        std::fs::remove_file(&path).unwrap();
    }
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0, "nothing was written through the link");
    if rustix::process::geteuid().is_root() {
        let _ = writeln!(std::io::stderr(), "skipped: permissions do not bind root");
    } else {
        for (path, words) in [(&runtime, "denied"), (&root, "cannot be written")] {
            std::fs::create_dir_all(path).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o500)).unwrap();
            refused(&[path.to_str().unwrap(), words]);
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
        }
    }
    // Missing ones are made, and open ones closed.
    let _ = std::fs::remove_dir_all(&runtime);
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755)).unwrap();
    daemon.start();
    for path in [&root, &runtime] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    }

    let long = format!("/tmp/{}", "x".repeat(100));
    let output = Command::new(lab::daemon::program()).args(["--root", &long, "daemon", "start"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_words(&String::from_utf8_lossy(&output.stderr), &["107 bytes", "--root"]);
}

#[test]
fn a_damaged_database_is_kept_and_named() {
    let Some(lab) = Lab::start(KIND) else { return };
    let (daemon, _) = lab.root(KIND, &[]);
    let path = daemon.root().join("xrat.db");
    let good = std::fs::read(&path).unwrap();
    let noise: Vec<u8> = (0..20_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let half = good[..good.len() / 2].to_vec();
    let mut scratched = good.clone();
    scratched[100..4096].fill(0xff);
    for bytes in [noise, half, scratched] {
        std::fs::write(&path, &bytes).unwrap();
        for command in [&["daemon", "start"][..], &["list"]] {
            let refused = daemon.xrat(command).exits(1);
            assert_words(&refused.stderr, &[path.to_str().unwrap(), "damaged", "Nothing was changed", "mv "]);
        }
        assert!(std::fs::read(&path).unwrap() == bytes, "it is as it was");
        assert_eq!(daemon.xrat_pids(), [] as [u32; 0]);
    }
    std::fs::write(&path, &good).unwrap();
    daemon.start();
    assert_eq!(daemon.xrat(&["list", "--json"]).ok().json().as_array().unwrap().len(), 1);
}

#[test]
fn a_database_that_another_program_writes_holds_up_only_who_needs_it() {
    let Some(lab) = Lab::start(KIND) else { return };
    let (mut daemon, id) = lab.root(KIND, &[]);
    daemon.run();
    let mut events = daemon.events();
    let other = daemon.database();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    std::thread::scope(|scope| {
        let connecting = scope.spawn(|| ask_connect(&daemon, id));
        events.until_state("connecting");
        for _ in 0..20 {
            assert_eq!(daemon.status()["state"], "connecting");
        }
        if nightly() {
            assert_words(refusal(&connecting.join().unwrap(), 500), &["locked by another program", "10 s"]);
            other.execute_batch("COMMIT").unwrap();
        } else {
            other.execute_batch("COMMIT").unwrap();
            assert_eq!(connecting.join().unwrap()["code"], 200);
        }
    });
    assert_eq!(daemon.engine_pids().len(), usize::from(!nightly()));
}

#[test]
fn of_daemons_started_at_the_same_moment_one_wins() {
    let daemon = Daemon::new(&[]);
    for _ in 0..rounds(20, 100) {
        let starts: Vec<_> = (0..4)
            .map(|_| {
                let mut command = daemon.command(&["daemon", "start", "--json"]);
                command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        let mut run = daemon.command(&["daemon", "run"]);
        let run = run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut pids: Vec<_> = starts
            .into_iter()
            .map(|start| {
                let output = start.wait_with_output().unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                serde_json::from_slice::<Value>(&output.stdout).unwrap()["pid"].as_u64().unwrap()
            })
            .collect();
        pids.dedup();
        assert_eq!(pids, [u64::from(daemon.pid())], "all speak of the same one");
        let won = u64::from(run.id()) == pids[0];
        if won {
            daemon.xrat(&["daemon", "stop"]).ok();
        }
        let output = run.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !won {
            assert_eq!(output.status.code(), Some(5), "{said}");
            assert_words(&said, &["another daemon already runs", daemon.root().to_str().unwrap()]);
            assert_eq!(daemon.xrat_pids(), [daemon.pid()]);
            daemon.xrat(&["daemon", "stop"]).ok();
        }
        assert_eq!(daemon.xrat_pids(), [] as [u32; 0]);
    }
}

#[test]
fn a_stopped_engine_that_is_replaced_gets_nothing_new() {
    let Some(lab) = Lab::start(KIND) else { return };
    let (mut daemon, id) = lab.root(KIND, &[]);
    let other = daemon.import(&[lab.server.link("vmess-tcp-none")])[0];
    daemon.run();
    let pid = connected(&daemon, id);
    process::signal_pid(pid, Signal::STOP);
    // It has a connection, so that it is not ended at once.
    let _kept = TcpStream::connect(daemon.socks()).unwrap();
    let replace = json!({"type": "RuntimeReplace", "payload": {"trigger": "manual", "candidate_id": other}});
    let answer = daemon.request(&replace).unwrap();
    assert_eq!(answer["code"], 200, "{answer}");
    assert!(process::is_alive(pid), "it drains");
    for _ in 0..20 {
        assert_eq!(client::http_get_via_socks(daemon.socks(), &lab.origin.url("/page")).unwrap().text(), PAGE);
    }
    daemon.xrat(&["daemon", "stop"]).ok();
    assert!(!process::is_alive(pid), "the daemon's end waits for it");
    assert_eq!(daemon.engine_pids(), [] as [u32; 0]);
}

/// Daemon and engine die, and the row of the session is changed meanwhile.
fn after_a_crash(daemon: &mut Daemon, engine: u32, sql: &str, values: impl rusqlite::Params) {
    process::signal_pid(engine, Signal::STOP);
    daemon.kill_daemon();
    process::signal_pid(engine, Signal::KILL);
    wait_until("the engine is gone", || !process::is_alive(engine));
    let database = daemon.database();
    assert_eq!(database.execute(sql, values).unwrap(), 1);
    database.execute("DELETE FROM daemon_state WHERE key = 'wanted'", []).unwrap();
}

#[test]
fn a_pid_that_is_another_process_now_is_left_alone() {
    let Some(lab) = Lab::start(KIND) else { return };
    let (mut daemon, id) = lab.root(KIND, &[]);
    let mut stranger = Guard::spawn(Path::new("sleep"), |command| {
        command.arg("1000");
    });
    let stat = || std::fs::read_to_string(format!("/proc/{}/stat", stranger.pid())).unwrap();
    wait_until("it sleeps", || stat().contains("(sleep)"));
    let ticks: i64 = stat().rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    // The pid alone, and the rare case that the start time fits as well.
    for ticks in [ticks + 1, ticks] {
        daemon.start();
        let engine = connected(&daemon, id);
        let sql = "UPDATE runtime_sessions SET pid = ?1, pid_start_ticks = ?2 WHERE status = 'running'";
        after_a_crash(&mut daemon, engine, sql, (stranger.pid(), ticks));
        daemon.start();
        assert_eq!(daemon.status()["state"], "disconnected");
        assert_words(&failed_row(&daemon, "adoption_refused"), &["not found again", "left alone"]);
        assert!(stranger.exited().is_none());
        daemon.xrat(&["daemon", "stop"]).ok();
        assert!(stranger.exited().is_none());
    }
}

#[test]
fn an_engine_that_no_session_knows_is_ended() {
    for kind in Kind::ALL {
        let Some(lab) = Lab::start(kind) else { continue };
        let (mut daemon, id) = lab.root(kind, &[]);
        daemon.start();
        let pid = connected(&daemon, id);
        // Another root's engine is none of its business.
        let (mut other, other_id) = lab.root(kind, &[]);
        other.run();
        let others = connected(&other, other_id);
        daemon.kill_daemon();
        let database = daemon.database();
        assert_eq!(database.execute("DELETE FROM runtime_sessions", []).unwrap(), 1);
        assert_eq!(database.execute("DELETE FROM daemon_state WHERE key = 'wanted'", []).unwrap(), 1);
        daemon.start();
        assert_eq!(daemon.status()["state"], "disconnected");
        assert!(!process::is_alive(pid));
        assert!(process::is_alive(others));
        connected(&daemon, id);
    }
}

#[test]
fn an_engine_in_the_middle_of_its_start_is_ended_by_the_next_daemon() {
    let Some(lab) = Lab::start(KIND) else { return };
    let dir = Scratch::new();
    let (program, gate) = (dir.path().join("v2ray"), Gate::new(dir.path().join("gate")));
    wrapper(&program, KIND, &gate.line()).unwrap();
    let (mut daemon, id) = lab.root(KIND, &[&named(KIND, &program)]);
    daemon.start();
    let mut client = daemon.command(&["connect", &id.to_string()]);
    let client = client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let waits = gate.reached();
    // Before the row names the process it is ended as one that nobody knows; after that, as the row's.
    let pid = "SELECT count(pid) FROM runtime_sessions";
    wait_until("the row names the process", || {
        daemon.database().query_row(pid, [], |row| row.get::<_, i64>(0)).unwrap() == 1
    });
    daemon.kill_daemon();
    drop(client.wait_with_output());
    daemon.start();
    assert_words(&failed_row(&daemon, "internal_error"), &["while the engine was being started"]);
    drop(waits);
    wait_until("nothing but the daemon is left", || daemon.processes().len() == 1);
    assert_eq!(daemon.status()["state"], "disconnected");
    assert_eq!(std::fs::read_dir(daemon.root().join("runtime")).unwrap().count(), 1);
}
