//! How long an import of many links takes, beside as many bare insertions into SQLite in one transaction, and how much
//! memory it has at its peak.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot measure says so and ends")]

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::fmt::Write as _;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lab::Daemon;
use lab::scratch::Scratch;
use lab::timing::{Claims, PAIRS, Pairs, time};
use rusqlite::Connection;

/// Parsing and comparing a link may cost so many insertions of its text.
const MOST: f64 = 10.0;
/// The most memory that an import of any length may take, in MiB: 16 of SQLite's pages, 16 of a body that has to be
/// there as a whole and as much again for its decoded form, and the program.
const MOST_MIB: u64 = 64;
/// How often the memory is read.
const SAMPLE: Duration = Duration::from_millis(1);

fn main() -> ExitCode {
    let mut claims = Claims::default();
    for count in [10_000, 100_000] {
        let text = links(count);
        let dir = Scratch::new();
        let file = dir.file("links.txt", &text);
        let file = file.to_str().expect("the lab's paths are ASCII");
        let insertions = || insert(&text);

        let pairs = Pairs::measure(PAIRS, insertions, || import(&Daemon::new(&[]), file, count));
        let claim = format!("at most {MOST} bare insertions a link");
        claims.check(&format!("import of {count} new links"), &pairs.line(), &claim, pairs.ratio() <= MOST);

        let known = Daemon::new(&[]);
        import(&known, file, count);
        let pairs = Pairs::measure(PAIRS, insertions, || import(&known, file, 0));
        claims.check(&format!("import of {count} known links"), &pairs.line(), &claim, pairs.ratio() <= MOST);
    }
    for (name, count, base64) in
        [("10000 lines", 10_000, false), ("100000 lines", 100_000, false), ("75000 in base64", 75_000, true)]
    {
        let text = links(count);
        let text = if base64 { STANDARD.encode(text) } else { text };
        let dir = Scratch::new();
        let file = dir.file("links.txt", &text);
        let daemon = Daemon::new(&[]);
        let peak = peak(&daemon, file.to_str().expect("the lab's paths are ASCII"));
        let measured = format!("{:.1} MiB for a file of {:.1} MiB", mib(peak), mib(text.len() as u64));
        let claim = format!("at most {MOST_MIB} MiB");
        claims.check(&format!("peak memory, {name}"), &measured, &claim, peak <= MOST_MIB << 20);
    }
    claims.exit()
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The most memory an import ever had. Its own high-water mark is read until it ends: what the system tells of a child
/// that has ended begins with the memory of the one that started it.
fn peak(daemon: &Daemon, file: &str) -> u64 {
    let mut child = daemon.command(&["import", file]).stdout(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or_default() << 10);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return peak;
        }
        std::thread::sleep(SAMPLE);
    }
}

/// Nodes as a provider lists them: no two alike.
fn links(count: usize) -> String {
    (0..count).fold(String::new(), |mut text, number| {
        let user = uuid::Uuid::from_u128(number as u128);
        let (high, low) = (number >> 8, number & 255);
        writeln!(
            text,
            "vless://{user}@node-{high}.example:{}?encryption=none&type=ws&security=tls&sni=node-{high}.example\
             &path=%2Fway%2F{low}&fp=chrome#node%20{number}",
            1024 + low
        )
        .expect("a String takes everything");
        text
    })
}

fn import(daemon: &Daemon, file: &str, added: usize) -> Duration {
    let mut output = None;
    let took = time(|| output = Some(daemon.xrat(&["import", file]).ok()));
    let output = output.expect("it was run");
    let count = format!("{added} added");
    assert!(output.stdout.lines().any(|line| line.starts_with(&count)), "not {count}: {output:?}");
    took
}

/// The floor: every line with a unique key, into a file, in one transaction.
fn insert(text: &str) -> Duration {
    let dir = Scratch::new();
    let mut database = Connection::open(dir.path().join("bare.db")).unwrap();
    database.pragma_update(None, "journal_mode", "wal").unwrap();
    database.execute_batch("CREATE TABLE lines (id INTEGER PRIMARY KEY, line TEXT NOT NULL UNIQUE) STRICT").unwrap();
    time(|| {
        let transaction = database.transaction().unwrap();
        let mut insert = transaction.prepare("INSERT INTO lines (line) VALUES (?1)").unwrap();
        for line in text.lines() {
            insert.execute([line]).unwrap();
        }
        drop(insert);
        transaction.commit().unwrap();
    })
}
