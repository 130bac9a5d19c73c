//! How quickly the daemon answers: a ping beside a bare echo, `status` beside `true`, and a start to its first answer.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot measure says so and ends")]

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use async_io::Async;
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use lab::scratch::Scratch;
use lab::timing::{Claims, Pairs, time};
use lab::{Daemon, PATIENCE};
use serde_json::json;

/// Pairs of each comparison.
const COUNT: usize = 31;
/// Exchanges in one measurement of a ping.
const PINGS: u32 = 200;

fn main() -> ExitCode {
    let mut claims = Claims::default();
    let mut daemon = Daemon::new(&[]);
    daemon.run();

    let pairs = ping(&daemon);
    claims.check("DaemonPing / bare echo", &pairs.line(), "at most twice a bare echo", pairs.ratio() <= 2.0);
    let pairs = status(&daemon);
    claims.check("xrat status / true", &pairs.line(), "at most 2 ms more than true", pairs.extra_ms() <= 2.0);
    let pairs = start();
    claims.check("daemon's start / true", &pairs.line(), "at most 10 ms more than true", pairs.extra_ms() <= 10.0);
    claims.exit()
}

/// One connection for each ping, as clients do, against a server that reads a line and writes one of the same length.
fn ping(daemon: &Daemon) -> Pairs {
    let request = json!({"protocol_version": 1, "request": {"type": "DaemonPing"}}).to_string() + "\n";
    let answer = exchange(&daemon.socket(), request.as_bytes());
    let dir = Scratch::new();
    let echo = echo(&dir, answer);
    let many = |socket: &Path| {
        time(|| {
            for _ in 0..PINGS {
                exchange(socket, request.as_bytes());
            }
        }) / PINGS
    };
    Pairs::measure(COUNT, || many(&echo), || many(&daemon.socket()))
}

fn exchange(socket: &Path, request: &[u8]) -> Vec<u8> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(!answer.is_empty());
    answer
}

/// A server of async-io and nothing else, on a thread that ends with the process.
fn echo(dir: &Scratch, answer: Vec<u8>) -> PathBuf {
    let path = dir.path().join("echo.sock");
    let listener = Async::new(UnixListener::bind(&path).unwrap()).unwrap();
    std::thread::spawn(move || {
        async_io::block_on(async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
            }
        })
    });
    path
}

fn status(daemon: &Daemon) -> Pairs {
    Pairs::measure(COUNT, || run(&mut Command::new("true")), || run(&mut daemon.command(&["status"])))
}

fn run(command: &mut Command) -> Duration {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    time(|| assert!(command.status().unwrap().success()))
}

/// A daemon in a root that knows one, from its start to its first answer.
fn start() -> Pairs {
    let mut daemon = Daemon::new(&[]);
    daemon.run();
    daemon.kill_daemon();
    let request = json!({"type": "DaemonPing"});
    Pairs::measure(
        COUNT,
        || run(&mut Command::new("true")),
        || {
            let mut child = None;
            let took = time(|| {
                let mut command = daemon.command(&["daemon", "run"]);
                child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok();
                let begin = std::time::Instant::now();
                while daemon.request(&request).is_err() {
                    assert!(begin.elapsed() < PATIENCE, "the daemon does not answer");
                    std::thread::sleep(Duration::from_micros(200));
                }
            });
            let mut child = child.expect("it was started");
            child.kill().unwrap();
            child.wait().unwrap();
            took
        },
    )
}
