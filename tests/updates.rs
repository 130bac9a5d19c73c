//! Subscriptions that the daemon updates by itself: when they are due, and never to the session's harm.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use lab::origin::Canned;
use lab::{Daemon, Kind, Lab, process, wait_until};
use rustix::process::Signal;
use serde_json::Value;

const KIND: Kind = Kind::V2ray;
const LONG_AGO: &str = "2020-01-01T00:00:00.000Z";

/// A lab with the subscriptions `/a` and `/b`, each imported with one node, and each with two nodes since.
struct Set {
    lab: Lab,
    daemon: Daemon,
    node: String,
}

impl Set {
    fn new(settings: &[&str]) -> Option<Self> {
        let lab = Lab::start(KIND)?;
        let (daemon, node) = lab.root(KIND, settings);
        for name in ["a", "b"] {
            lab.origin.answer(&format!("/{name}"), Canned::ok(links(name, 1)));
            daemon.xrat(&["import", &lab.origin.url(&format!("/{name}"))]).ok();
            lab.origin.answer(&format!("/{name}"), Canned::ok(links(name, 2)));
        }
        Some(Self { lab, daemon, node: node.to_string() })
    }

    /// The last update of a subscription was long ago.
    fn age(&self, id: i64) {
        let changed = self.daemon.database().execute(
            "UPDATE subscriptions SET updated_at = ?1 WHERE subscription_id = ?2",
            rusqlite::params![LONG_AGO, id],
        );
        assert_eq!(changed.unwrap(), 1);
    }

    fn subscription(&self, id: i64) -> Value {
        let all = self.daemon.xrat(&["subscription", "list", "--json"]).ok().json();
        all.as_array().unwrap().iter().find(|row| row["subscription_id"] == id).unwrap().clone()
    }

    /// Times that `/a` and `/b` were fetched, the import included.
    fn fetched(&self) -> [usize; 2] {
        ["/a", "/b"].map(|path| self.lab.origin.hits(path))
    }

    fn reload(&self, settings: &[&str]) {
        self.daemon.configure(settings);
        process::signal_pid(self.daemon.pid(), Signal::HUP);
    }
}

fn links(name: &str, count: usize) -> String {
    (1..=count).map(|number| format!("http://{name}{number}:x@127.0.0.1:9#{name}{number}\n")).collect()
}

#[test]
fn what_is_due_when_the_daemon_starts_is_updated_and_nothing_else() {
    let Some(mut set) = Set::new(&["subscriptions.update_hours = 12"]) else { return };
    // The second one: whoever went through all would have come to the first one before.
    set.age(2);
    set.daemon.run();
    wait_until("it has its new node", || set.subscription(2)["configs"] == 2);
    assert_eq!(set.fetched(), [1, 2]);
    assert_ne!(set.subscription(2)["updated_at"], LONG_AGO);
    wait_until("the log says it", || set.daemon.log().contains("updated subscription 2: 1 new, 1 known, 0 gone"));
    assert!(!set.daemon.log().contains(&set.lab.origin.url("/b")), "the path of an address is a credential");
}

#[test]
fn by_default_nothing_is_fetched_and_a_sighup_turns_it_on_without_a_word_to_the_session() {
    let Some(mut set) = Set::new(&[]) else { return };
    set.age(1);
    set.daemon.run();
    set.daemon.xrat(&["connect", &set.node]).ok();
    let before = set.daemon.status()["session"].clone();
    assert_eq!(set.fetched(), [1, 1]);
    let mut events = set.daemon.events();
    set.reload(&["runtime.engine = \"v2ray\"", "subscriptions.update_hours = 1"]);
    events.until("the event for programs", |event| event["type"] == "ConfigsChanged");
    assert_eq!(set.subscription(1)["configs"], 2);
    let after = set.daemon.status()["session"].clone();
    assert_eq!([&before["session_id"], &before["pid"]], [&after["session_id"], &after["pid"]]);
}

#[test]
fn a_provider_that_fails_or_hangs_holds_nobody_up() {
    let Some(mut set) = Set::new(&["subscriptions.update_hours = 1"]) else { return };
    set.age(1);
    set.age(2);
    set.lab.origin.answer("/a", Canned { status: 500, headers: Vec::new(), body: Vec::new() });
    let url = set.lab.origin.url("/withheld");
    let changed = set.daemon.database().execute("UPDATE subscriptions SET url = ?1 WHERE subscription_id = 2", [&url]);
    assert_eq!(changed.unwrap(), 1);
    set.daemon.run();
    set.lab.origin.wait_for_hits("/withheld", 1);
    // All while the second one hangs.
    let failed = set.subscription(1);
    assert!(failed["last_error"].as_str().unwrap().contains("500"), "{failed}");
    assert_eq!((&failed["configs"], &failed["updated_at"]), (&1.into(), &"2020-01-01T00:00:00Z".into()));
    set.daemon.xrat(&["connect", &set.node]).ok();
    set.daemon.xrat(&["disconnect"]).ok();
    set.daemon.xrat(&["daemon", "stop"]).ok();
    set.daemon.wait();
}

#[test]
fn what_failed_is_tried_again_when_there_is_a_session() {
    let Some(mut set) = Set::new(&["subscriptions.update_hours = 1"]) else { return };
    set.age(1);
    set.lab.origin.answer("/a", Canned { status: 503, headers: Vec::new(), body: Vec::new() });
    set.daemon.run();
    wait_until("it has failed", || !set.subscription(1)["last_error"].is_null());
    set.lab.origin.answer("/a", Canned::ok(links("a", 2)));
    set.daemon.xrat(&["connect", &set.node]).ok();
    wait_until("it is updated", || set.subscription(1)["configs"] == 2);
    assert!(set.subscription(1)["last_error"].is_null());
    assert_eq!(set.fetched(), [3, 1]);
}
