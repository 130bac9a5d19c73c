//! The socket protocol, byte by byte: every request, every way to get one wrong, and clients that behave badly.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod clients;
#[path = "../lab/mod.rs"]
mod lab;
mod requests;
mod streams;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use lab::{Daemon, Events, Kind, Lab, PATIENCE, rounds, tool, wait_until};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};

/// The longest request there is, in bytes.
const MAX_REQUEST: usize = 64 << 10;
const PING: &str = r#"{"protocol_version":1,"request":{"type":"DaemonPing"}}"#;

fn running() -> Daemon {
    let mut daemon = Daemon::new(&[]);
    daemon.run();
    daemon
}

/// The one line that an answer must be, as JSON.
#[track_caller]
fn one_line(answer: &[u8]) -> Value {
    let text = std::str::from_utf8(answer).unwrap();
    assert!(text.ends_with('\n') && text.matches('\n').count() == 1, "not exactly one line: {text:?}");
    serde_json::from_str(text).unwrap()
}

#[track_caller]
fn assert_ping(answer: &[u8]) {
    let answer = one_line(answer);
    assert_eq!((&answer["ok"], &answer["code"]), (&json!(true), &json!(200)), "{answer}");
    assert!(answer["payload"]["pid"].is_u64(), "{answer}");
}

#[track_caller]
fn assert_refused(answer: &[u8], words: &[&str]) {
    let answer = one_line(answer);
    assert_eq!((&answer["ok"], &answer["code"]), (&json!(false), &json!(400)), "{answer}");
    let message = answer["message"].as_str().unwrap();
    for word in words {
        assert!(message.contains(word), "no {word:?} in {message:?}");
    }
}

fn connect(daemon: &Daemon) -> UnixStream {
    let stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn read_all(mut stream: UnixStream) -> Vec<u8> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

fn code(answer: &Value) -> u64 {
    answer["code"].as_u64().unwrap()
}

fn keys(object: &Value) -> Vec<String> {
    object.as_object().unwrap().keys().cloned().collect()
}
