//! Sockets, directories and databases that others left, hold or damaged; two daemons at once.

use super::*;

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
