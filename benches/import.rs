//! How long an import of many links takes, beside as many bare insertions into SQLite in one transaction.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot measure says so and ends")]

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use lab::Daemon;
use lab::scratch::Scratch;
use lab::timing::{Claims, PAIRS, Pairs, time};
use rusqlite::Connection;

/// Parsing and comparing a link may cost so many insertions of its text.
const MOST: f64 = 10.0;

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
    claims.exit()
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
