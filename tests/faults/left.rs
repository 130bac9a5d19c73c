//! What a daemon that crashed left behind, and what the next one makes of it.

use super::*;

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
