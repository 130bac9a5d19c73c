//! The session bus: the whole life of a session driven by programs that are not ours, and what happens to the bus.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

#[path = "../lab/mod.rs"]
mod lab;
mod life;
mod presence;
mod programs;
mod same;
mod session;

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use lab::bus::{Bus, Monitor, NAME, PATH};
use lab::scratch::Scratch;
use lab::wrapper::{Gate, script, wrapper};
use lab::{Daemon, Kind, Lab, client, process, source_dir, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

const DAEMON: &str = "org.xrat.Daemon1";
const RUNTIME: &str = "org.xrat.Daemon1.Runtime";
const ROTATION: &str = "org.xrat.Daemon1.Rotation";
const CONFIGS: &str = "org.xrat.Daemon1.Configs";
/// The engine of most of these: what they are about is the same with each.
const KIND: Kind = Kind::V2ray;
const DISCONNECTED: u32 = 1;
const CONNECTING: u32 = 2;
const CONNECTED: u32 = 3;
const REPLACING: u32 = 4;

/// A bus, and a daemon on it with two nodes.
struct Set {
    bus: Bus,
    lab: Lab,
    daemon: Daemon,
    ids: Vec<i64>,
}

impl Set {
    fn start(settings: &[&str]) -> Option<Self> {
        Self::testing_with("/generate_204", settings)
    }

    /// A set whose tests ask the origin for `path`.
    fn testing_with(path: &str, settings: &[&str]) -> Option<Self> {
        let bus = Bus::start()?;
        let lab = Lab::start(KIND)?;
        let url = format!("testing.url = \"{}\"", lab.origin.url(path));
        let (mut daemon, first) = lab.root(KIND, &[&[url.as_str()], settings].concat());
        let second = daemon.import(&[lab.server.link("vmess-tcp-none")])[0];
        daemon.set_env("DBUS_SESSION_BUS_ADDRESS", bus.address());
        daemon.run();
        bus.wait_for_name();
        Some(Self { bus, lab, daemon, ids: vec![first, second] })
    }

    #[track_caller]
    fn connect(&self, which: usize) -> Value {
        self.bus.call(RUNTIME, "Connect", &["x", &self.ids[which].to_string()])
    }

    fn socket(&self, kind: &str, payload: &Value) -> Value {
        self.daemon.request(&json!({"type": kind, "payload": payload})).unwrap()
    }
}
