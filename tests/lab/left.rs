//! What a session, a daemon or its death may leave, and must not.

use serde_json::Value;

use super::{Daemon, ports, wait_for};

/// No engine, no listener, and nothing in the runtime directory but what `left` names.
///
/// # Panics
/// When there is.
#[track_caller]
pub fn assert_nothing_runs(daemon: &Daemon, left: &[&str]) {
    assert_eq!(daemon.engine_pids(), [] as [u32; 0]);
    for address in [daemon.socks(), daemon.http()] {
        assert!(ports::is_free(address.port()), "{address} is taken");
    }
    let files = std::fs::read_dir(daemon.root().join("runtime")).unwrap();
    let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, left);
}

/// The database is whole.
///
/// # Panics
/// With what SQLite finds wrong.
#[track_caller]
pub fn assert_whole(daemon: &Daemon) {
    let found: String = daemon.database().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(found, "ok");
}

/// Sessions that have not ended, with the pids of their engines.
pub fn open_sessions(daemon: &Daemon) -> Vec<(i64, String, Option<u32>)> {
    let database = daemon.database();
    let sql = "SELECT session_id, status, pid FROM runtime_sessions \
               WHERE status NOT IN ('stopped', 'failed') ORDER BY session_id";
    let mut statement = database.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Waits until all is at rest: connected with one engine and its one row, or disconnected without any. The status.
///
/// # Panics
/// When that does not come, with what there is.
#[track_caller]
pub fn at_rest(daemon: &Daemon) -> Value {
    let mut seen = String::new();
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for("one engine with its row, or none", || {
            let (status, engines, rows) = (daemon.status(), daemon.engine_pids(), open_sessions(daemon));
            let wanted = match status["state"].as_str() {
                Some("connected") => {
                    let pid = u32::try_from(status["session"]["pid"].as_u64()?).ok()?;
                    let id = status["session"]["session_id"].as_i64()?;
                    engines == [pid] && rows == [(id, "running".to_owned(), Some(pid))]
                }
                Some("disconnected") => engines.is_empty() && rows.is_empty(),
                _ => false,
            };
            seen = format!("{status}\nengines {engines:?}, rows {rows:?}");
            wanted.then_some(status)
        })
    }));
    found.unwrap_or_else(|_| panic!("{seen}"))
}
