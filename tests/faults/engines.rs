//! Engines that are missing, wrong, silent, talkative, stopped or gone.

use super::*;

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
    assert_words(
        message,
        &["no engine found", "neither xray nor v2ray in PATH", "the daemon's PATH", "install", "paths.xray"],
    );
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
