//! Nodes of every transport and protocol beyond tcp and ws, as configs and as the inbounds of a server for them.
//!
//! [`super::server`] has what every engine can do. Each node here is a [`Config`] beside the inbound that it is for, so
//! that what a client can do with it is asked of `Engine::supports` and not written down twice.

mod make;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use xrat::config::Config;
use xrat::engine::{Engine, parse_version};

use self::make::Maker;
use super::engines::Kind;
use super::origin::Origin;
use super::ports::{self, Port};
use super::process::Guard;
use super::scratch::Scratch;
use super::server::{LabLink, run_engine};
use super::tls::Authority;
use super::wait_until;

/// An address that leads to this machine for those who come out of the server, and nowhere for others: the inside of a
/// WireGuard tunnel has a loopback of its own.
pub const FAR: &str = "198.51.100.7";

/// A node and its inbound.
pub struct Node {
    /// Made of its parts: `vless-kcp-srtp-seed`.
    pub name: String,
    /// What a client knows of it.
    pub config: Config,
    inbound: Value,
    port: Port,
}

impl Node {
    /// The node as a share link.
    pub fn link(&self) -> String {
        xrat::link::write(&self.config)
    }
}

/// A running server with nodes. It is killed on drop.
pub struct Nodes {
    /// Its nodes.
    pub all: Vec<Node>,
    guard: Guard,
    dir: Scratch,
}

impl Nodes {
    /// Starts `program` with all nodes that it can have, and waits until they listen. Whoever asks one of them for a
    /// name is answered by the DNS server on `resolver`, if there is one.
    pub fn start(kind: Kind, program: &Path, authority: &Authority, origin: &Origin, resolver: Option<u16>) -> Self {
        let random = uuid::Uuid::new_v4();
        let (uuid, password) = (random.to_string(), format!("p@ss:w/rd ü+{}", &random.simple().to_string()[..8]));
        let engine = version(program).expect("an engine has a version");
        let masks = kind == Kind::Xray && engine.version.major >= 26;
        let maker = Maker { program, masks, authority, origin, uuid, password, nodes: Vec::new() };
        let all = maker.make(kind, kind == Kind::Xray || engine.version.major >= 5);
        Self::serve(kind, program, authority, all, resolver)
    }

    /// Starts `program` with these nodes.
    fn serve(kind: Kind, program: &Path, authority: &Authority, all: Vec<Node>, resolver: Option<u16>) -> Self {
        let inbounds: Vec<_> = all.iter().map(|node| node.inbound.clone()).collect();
        let freedom = |redirect: Option<String>| {
            let mut settings = match kind {
                Kind::V2ray => json!({}),
                // See `Server::start`.
                Kind::Xray => json!({ "finalRules": [{ "action": "allow" }] }),
            };
            if let Some(redirect) = redirect {
                settings["redirect"] = redirect.into();
            }
            settings
        };
        let mut outbounds = vec![
            json!({ "tag": "direct", "protocol": "freedom", "settings": freedom(None) }),
            json!({ "tag": "far", "protocol": "freedom", "settings": freedom(Some("127.0.0.1:0".into())) }),
        ];
        let mut rules = vec![json!({ "type": "field", "ip": [format!("{FAR}/32")], "outboundTag": "far" })];
        if let Some(port) = resolver {
            let settings = freedom(Some(format!("127.0.0.1:{port}")));
            outbounds.push(json!({ "tag": "resolver", "protocol": "freedom", "settings": settings }));
            rules.push(json!({ "type": "field", "port": "53", "outboundTag": "resolver" }));
        }
        let config = json!({
            "log": { "loglevel": "warning", "access": "none" },
            "inbounds": inbounds, "outbounds": outbounds, "routing": { "rules": rules },
        });
        let (guard, dir) = run_engine(kind, program, &config, authority);
        let mut nodes = Self { all, guard, dir };
        nodes.wait_until_ready();
        nodes
    }

    /// The node of this name.
    ///
    /// # Panics
    /// Without it.
    pub fn get(&self, name: &str) -> &Node {
        self.all.iter().find(|node| node.name == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    /// What the server has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn wait_until_ready(&mut self) {
        wait_until("every inbound listens", || {
            if let Some(status) = self.guard.exited() {
                panic!("the server ended with {status}:\n{}", self.log());
            }
            self.all.iter().all(|node| !ports::is_free(node.port.number()))
        });
    }
}

/// What a program is. V2Ray 4 takes a bare `version` for nothing and starts, so that comes second.
pub fn version(program: &Path) -> Option<Engine> {
    ["-version", "version"].into_iter().find_map(|argument| {
        let output = std::process::Command::new(program).arg(argument).output().ok()?;
        let (family, version) = parse_version(&String::from_utf8_lossy(&output.stdout))?;
        Some(Engine { family, version, path: PathBuf::from(program) })
    })
}

/// The nodes as links that `Daemon::import` takes.
pub fn links(nodes: &[&Node]) -> Vec<LabLink> {
    nodes
        .iter()
        .map(|node| LabLink {
            name: node.name.clone(),
            link: node.link(),
            port: node.port.number(),
            needs: vec!["more"],
            spec: super::server::Spec::default(),
        })
        .collect()
}
