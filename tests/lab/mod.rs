//! The lab: real engines, servers and relays on loopback, made and removed by the tests themselves.
//!
//! An integration test says `mod lab;` and takes what it needs; nothing here is a mock.
//!
//! | part | what it is |
//! |---|---|
//! | [`ports`] | TCP and UDP ports no other test has |
//! | [`scratch`] | private directories with short paths |
//! | [`process`] | child processes that cannot outlive the test |
//! | [`engines`] | where `v2ray` and `xray` are, and what to do without them |
//! | [`wrapper`] | an engine that does something else first, or waits at a gate |
//! | [`tls`] | a throw-away certificate authority |
//! | [`origin`] | the web server at the far end |
//! | [`relay`] | the line in between, which can be made slow, dead or deaf |
//! | [`server`] | the proxy server, and the share links its user would paste |
//! | [`nodes`] | another one, with every transport and protocol beyond those |
//! | [`client`] | SOCKS5, HTTP proxy and UDP clients |
//! | [`daemon`] | the real `xrat` in a root of its own |
//! | [`events`] | a reader of its event stream |
//! | [`left`] | what may be left of a session or a daemon, and must not |
//! | [`random`] | chance, with a seed that comes again |
//! | [`load`] | programs that use the proxies all the time |
//! | [`bus`] | a private session bus, `busctl` and `gdbus` |
//! | [`systemd`] | a `systemd --user` with the daemon as its service |
//! | [`bare`] | an engine with a session's file and without a daemon |
//! | [`vectors`] | the tables of share links |
//! | [`timing`] | two things measured in turn, and their medians |
//!
//! Everything ends on drop. What a killed test leaves behind is swept by the next one.
#![allow(dead_code, reason = "each integration test is a crate of its own and uses its own part of the lab")]
#![allow(unreachable_pub, reason = "the lab is a library in the shape of a module")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

pub mod bare;
pub mod bus;
pub mod client;
pub mod daemon;
pub mod engines;
mod environment;
pub mod events;
pub mod left;
pub mod load;
pub mod nodes;
pub mod origin;
pub mod ports;
pub mod process;
pub mod random;
pub mod relay;
pub mod scratch;
pub mod server;
pub mod systemd;
mod thread;
pub mod timing;
pub mod tls;
pub mod vectors;
pub mod wrapper;

use std::path::PathBuf;
use std::time::{Duration, Instant};

#[allow(unused_imports, reason = "not every test has a daemon")]
pub use daemon::Daemon;
#[allow(unused_imports, reason = "not every test runs other programs")]
pub use engines::tool;
pub use engines::{Kind, engine};
#[allow(unused_imports, reason = "not every test reads events")]
pub use events::Events;
pub use origin::Origin;
#[allow(unused_imports, reason = "not every test has a line to break")]
pub use relay::{Mode, Relay};
pub use server::Server;
pub use tls::Authority;

/// How long the lab waits for anything that should happen soon: long enough for two busy cores.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How often a condition that has no event of its own is looked at.
const POLL: Duration = Duration::from_millis(4);

/// A proxy server with an origin behind it: what most tests start from.
pub struct Lab {
    /// Signs the certificates of `server` and `origin`.
    pub authority: Authority,
    /// The web server that requests through the proxy should reach.
    pub origin: Origin,
    /// The proxy server.
    pub server: Server,
}

impl Lab {
    /// Starts everything with the server run by `kind`; `None` (after saying so) without that engine.
    pub fn start(kind: Kind) -> Option<Self> {
        let program = engine(kind.name())?;
        let authority = Authority::new();
        let origin = Origin::start(&authority);
        let server = Server::start(kind, &program, &authority, &origin);
        Some(Self { authority, origin, server })
    }

    /// A root whose daemon (not running yet) uses this engine and tests sessions against the origin, with one node
    /// imported; and the node's id. `settings` as for [`Daemon::new`].
    pub fn root(&self, kind: Kind, settings: &[&str]) -> (Daemon, i64) {
        self.furnish(Daemon::new(&[]), kind, settings)
    }

    /// [`Lab::root`] for the root that is used when nothing names one.
    pub fn root_at_home(&self, kind: Kind, settings: &[&str]) -> (Daemon, i64) {
        self.furnish(Daemon::at_home(&[]), kind, settings)
    }

    fn furnish(&self, daemon: Daemon, kind: Kind, settings: &[&str]) -> (Daemon, i64) {
        let engine = format!("runtime.engine = \"{}\"", kind.name());
        let url = format!("runtime.health.url = \"{}\"", self.origin.url("/generate_204"));
        let mut all = vec![engine.as_str(), url.as_str()];
        all.extend(settings);
        daemon.configure(&all);
        let id = daemon.import(&[self.server.link("vless-tcp-none")])[0];
        (daemon, id)
    }

    /// A running daemon that trusts the lab's authority, proves its sessions with the origin and has `client` as its
    /// only engine; `None` (after saying so) without that engine. `settings` are those of [`Daemon::new`].
    pub fn daemon(&self, client: Kind, settings: &[&str]) -> Option<Daemon> {
        self.daemon_that_trusts(&self.authority, client, settings)
    }

    /// [`Lab::daemon`] with another authority to trust.
    pub fn daemon_that_trusts(&self, authority: &Authority, client: Kind, settings: &[&str]) -> Option<Daemon> {
        engine(client.name())?;
        let engine = format!("runtime.engine = {:?}", client.name());
        let health = format!("runtime.health.url = {:?}", self.origin.url("/generate_204"));
        let mut daemon = Daemon::new(&[&[engine.as_str(), health.as_str()], settings].concat());
        daemon.trust(authority);
        daemon.run();
        Some(daemon)
    }
}

impl Lab {
    /// A running daemon with these nodes imported, and their ids. Its sessions and candidates are proven with the
    /// origin; `settings` as for [`Daemon::new`]. `None` (after saying so) without that engine.
    pub fn daemon_with(
        &self,
        client: Kind,
        nodes: &[server::LabLink],
        settings: &[&str],
    ) -> Option<(Daemon, Vec<i64>)> {
        let url = format!("testing.url = {:?}", self.origin.url("/generate_204"));
        let daemon = self.daemon(client, &[&[url.as_str()], settings].concat())?;
        let ids = daemon.import(nodes);
        Some((daemon, ids))
    }

    /// A node of another name, with a line of its own to the server.
    pub fn node(&self, name: &str) -> (Relay, server::LabLink) {
        let kind = "http-tcp-none";
        let relay = Relay::start(([127, 0, 0, 1], self.server.port_of(kind)).into());
        let mut node = self.server.link_through(kind, relay.port());
        // This one takes anyone, and who asks under another name is another config to xrat.
        node.link = format!("http://{name}:x@127.0.0.1:{}#{name}", relay.port());
        name.clone_into(&mut node.name);
        (relay, node)
    }
}

/// Looks at `condition` until it gives a value.
///
/// # Panics
/// After [`PATIENCE`], with `what` in the message.
pub fn wait_for<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_for_within(PATIENCE, what, condition)
}

/// [`wait_for`] with a deadline of its own.
pub fn wait_for_within<T>(patience: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} in vain: {what}");
        std::thread::sleep(POLL);
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// After [`PATIENCE`], with `what` in the message.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// How often a test of something random is repeated: `usual` times, or `nightly` times with `XRAT_NIGHTLY=1`.
pub fn rounds(usual: usize, nightly: usize) -> usize {
    match std::env::var("XRAT_NIGHTLY") {
        Ok(value) if value == "1" => nightly,
        _ => usual,
    }
}

/// The source tree, for tests that read files of the repository.
///
/// `scripts/test` sets it when the tests run on a copy: as root it cannot be the tree they were built in.
pub fn source_dir() -> PathBuf {
    std::env::var_os("XRAT_TEST_SOURCE").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// Keeps a file where `XRAT_ARTIFACTS` says, for people to look at; without it nothing happens.
pub fn artifact(file: &std::path::Path) {
    if let (Some(directory), Some(name)) = (std::env::var_os("XRAT_ARTIFACTS"), file.file_name()) {
        std::fs::copy(file, PathBuf::from(directory).join(name)).unwrap();
    }
}
