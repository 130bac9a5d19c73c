//! What the program weighs: its file, the memory of an idle daemon, and how often that wakes up.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot measure says so and ends")]

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::fs;
use std::process::{Command, ExitCode};
use std::time::Duration;

use lab::timing::Claims;
use lab::{Daemon, Kind, Lab, daemon, wait_until};

/// How long the daemon is watched doing nothing.
const WATCH: Duration = Duration::from_secs(20);
/// The program's file, in KiB.
const MOST_FILE: u64 = 8704;
/// Memory in RAM, in KiB, shared pages of the C library and of the program itself among it.
const MOST_RESIDENT: u64 = 9728;
/// Memory that is the daemon's alone and was written to, in KiB.
const MOST_DIRTY: u64 = 2048;
/// Context switches in [`WATCH`]: two ticks of the housekeeping at about ten each, and one for luck.
const MOST_SWITCHES: u64 = 30;

fn main() -> ExitCode {
    let mut claims = Claims::default();
    let file = fs::metadata(daemon::program()).unwrap().len() / 1024;
    claims.check("program", &format!("{file} KiB"), &format!("at most {MOST_FILE} KiB"), file <= MOST_FILE);

    let mut idle = Daemon::new(&[]);
    idle.run();
    watch(&mut claims, "idle daemon", &idle);
    drop(idle);

    for kind in Kind::ALL {
        let Some(lab) = Lab::start(kind) else { continue };
        let Some(connected) = lab.daemon(kind, &[]) else { continue };
        let id = connected.import(&[lab.server.link("vless-tcp-tls")])[0];
        connected.xrat(&["connect", &id.to_string()]).ok();
        watch(&mut claims, &format!("connected by {}", kind.name()), &connected);
    }
    claims.exit()
}

fn watch(claims: &mut Claims, name: &str, daemon: &Daemon) {
    let pid = daemon.pid();
    // Right after a build the whole program counts as written to.
    assert!(Command::new("sync").status().unwrap().success());
    // What it was just asked for has ended when the pool's threads are gone: its own and async-io's stay.
    wait_until("two threads are left", || fs::read_dir(format!("/proc/{pid}/task")).unwrap().count() == 2);
    let before = switches(pid);
    std::thread::sleep(WATCH);
    let switches = switches(pid) - before;
    let (resident, dirty) = (memory(pid, "Rss:"), memory(pid, "Private_Dirty:"));
    claims.check(
        name,
        &format!("{resident} KiB resident, {dirty} KiB dirty, {switches} context switches in {} s", WATCH.as_secs()),
        &format!("at most {MOST_RESIDENT} KiB, {MOST_DIRTY} KiB and {MOST_SWITCHES}"),
        resident <= MOST_RESIDENT && dirty <= MOST_DIRTY && switches <= MOST_SWITCHES,
    );
}

/// A line of /proc/PID/smaps_rollup, in KiB.
fn memory(pid: u32, name: &str) -> u64 {
    number(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap(), name)
}

/// The context switches of all threads, of their own will or not.
fn switches(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .map(|task| {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            number(&status, "voluntary_ctxt_switches:") + number(&status, "nonvoluntary_ctxt_switches:")
        })
        .sum()
}

fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.split_whitespace().next().unwrap().parse().unwrap()
}
