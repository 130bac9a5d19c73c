//! The system proxy with the desktops' real tools: pointed at the session, and given back exactly, whatever ends when.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod crash;
mod desk;
#[path = "../lab/mod.rs"]
mod lab;
mod session;
mod without;

use desk::{Backend, Desk, Values};
use lab::bus::Bus;
use lab::{Daemon, Kind, Lab, ports, process, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// The engine of all of these: the desktop does not see which it is.
const KIND: Kind = Kind::V2ray;
const ON: &str = "desktop.system_proxy = true";

/// A desktop that somebody has used, and a daemon on it that runs, with one node.
struct Set {
    desk: Desk,
    own: Values,
    _lab: Lab,
    daemon: Daemon,
    id: String,
}

impl Set {
    fn start(settings: &[&str]) -> Option<Self> {
        Self::on(Desk::new()?, settings)
    }

    fn on(desk: Desk, settings: &[&str]) -> Option<Self> {
        let lab = Lab::start(KIND)?;
        let own = desk.lived_in();
        let (mut daemon, id) = lab.root(KIND, settings);
        desk.seat(&mut daemon);
        daemon.start();
        Some(Self { desk, own, _lab: lab, daemon, id: id.to_string() })
    }

    /// What the settings are when they point at the session.
    fn pointed(&self) -> Values {
        Desk::pointed(&self.own, &self.daemon)
    }

    #[track_caller]
    fn connect(&self) {
        self.daemon.xrat(&["connect", &self.id]).ok();
    }

    /// Connects, and waits until the settings point at the session.
    #[track_caller]
    fn connect_and_point(&self) {
        self.connect();
        self.comes("at the session", &self.pointed());
    }

    #[track_caller]
    fn comes(&self, what: &str, values: &Values) {
        // Asking takes a process or two.
        let mut seen = Values::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(what, || {
                seen = self.desk.values();
                seen == *values
            });
        }));
        assert!(found.is_ok(), "{what}: {seen:#?} is not {values:#?}");
    }

    #[track_caller]
    fn is_own(&self) {
        assert_eq!(self.desk.values(), self.own);
        let journal = std::fs::read(self.daemon.root().join("system-proxy.json")).unwrap();
        let journal: Value = serde_json::from_slice(&journal).unwrap();
        assert_eq!((&journal["desktops"], &journal["problem"]), (&json!([]), &Value::Null));
    }

    /// SIGKILL for the daemon, its engine and everything else of its root.
    fn kill_everything(&self) {
        process::kill_all_of(self.daemon.root().parent().unwrap());
    }

    #[track_caller]
    fn state(&self) -> String {
        self.daemon.status()["state"].as_str().unwrap().to_owned()
    }
}
