//! Sessions over nodes that are reached by UDP: connect, traffic, hand-overs, tests, and names.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use lab::client::{self, Kept, Proxy};
use lab::nodes::{FAR, Nodes};
use lab::origin::{DRIP_BYTES, PAGE, UdpEcho, bytes};
use lab::{Authority, Daemon, Kind, Origin, engine, wait_until};
use serde_json::{Value, json};
use xrat::config::{Config, Protocol, Secret};

/// Larger than every buffer on the way.
const MUCH: usize = 500_000;
/// Pieces of a download that goes on while its engine is replaced.
const PIECES: usize = 30;
/// Pieces that come in 4 s.
const MANY_PIECES: usize = 200;

/// One of each way to fill UDP.
const WAYS: [&str; 4] = ["hysteria2-salamander", "wireguard", "vless-kcp-wechat-video-seed", "vless-xhttp-auto-tls-h3"];

struct Stage {
    authority: Authority,
    origin: Origin,
    nodes: Nodes,
}

impl Stage {
    fn start(resolver: Option<u16>) -> Option<Self> {
        let program = engine(Kind::Xray.name())?;
        let authority = Authority::new();
        let origin = Origin::start(&authority);
        let nodes = Nodes::start(Kind::Xray, &program, &authority, &origin, resolver);
        Some(Self { authority, origin, nodes })
    }

    /// A page of the origin for those who come out of the server.
    fn url(&self, path: &str) -> String {
        self.origin.url(path).replace("127.0.0.1", FAR)
    }

    fn daemon(&self) -> Daemon {
        let mut daemon = Daemon::new(&[
            "runtime.engine = \"xray\"",
            &format!("runtime.health.url = {:?}", self.url("/generate_204")),
            &format!("testing.url = {:?}", self.url("/generate_204")),
        ]);
        daemon.trust(&self.authority);
        daemon
    }

    fn configs(&self, names: &[&str]) -> Vec<Config> {
        names.iter().map(|name| self.nodes.get(name).config.clone()).collect()
    }
}

fn connect(daemon: &Daemon, id: i64, name: &str) {
    let connected = daemon.xrat(&["connect", &id.to_string()]).ok();
    assert!(connected.stdout.contains("Healthy: "), "{name}: {connected:?}");
}

#[test]
fn a_session_carries_everything() {
    let Some(stage) = Stage::start(None) else { return };
    let mut daemon = stage.daemon();
    let ids = daemon.store(&stage.configs(&WAYS));
    daemon.run();
    let echo = UdpEcho::start();
    let far = SocketAddr::new(FAR.parse().unwrap(), echo.addr().port());
    for (name, id) in WAYS.into_iter().zip(ids) {
        connect(&daemon, id, name);
        for proxy in daemon.proxies() {
            assert_eq!(client::get(&proxy, &stage.url("/page"), None).unwrap().text(), PAGE, "{name}");
            let much = client::get(&proxy, &stage.url(&format!("/bytes/{MUCH}")), None).unwrap();
            assert!(much.body == bytes(MUCH), "{name} by {proxy:?}: {} bytes", much.body.len());
        }
        let back = client::udp_exchange_via_socks(daemon.socks(), None, far, name.as_bytes());
        assert_eq!(back.unwrap(), name.as_bytes(), "{name}");
        // Traffic that comes back is what health is told by.
        let traffic = daemon.status()["session"]["traffic"]["downlink_bytes"].as_u64();
        assert!(traffic.is_some_and(|bytes| bytes > 2 * MUCH as u64), "{name}: {traffic:?}");
        daemon.xrat(&["disconnect"]).ok();
    }
}

/// A download goes on through the replaced engine to its end, and what is opened meanwhile goes through the new one:
/// which connections are left is looked up at the public ports, and never at the node.
#[test]
fn downloads_survive_hand_overs() {
    let Some(stage) = Stage::start(None) else { return };
    let mut daemon = stage.daemon();
    let ids = daemon.store(&stage.configs(&WAYS));
    daemon.run();
    connect(&daemon, ids[0], WAYS[0]);
    for (at, name) in WAYS.into_iter().enumerate() {
        let next = (at + 1) % WAYS.len();
        let mut download = Kept::open(&daemon.proxy(), &stage.url(""), None).unwrap();
        download.request(&format!("/drip/{PIECES}"), "keep-alive").unwrap();
        let (status, _) = download.head().unwrap();
        assert_eq!(status, 200);
        let first = download.exactly(DRIP_BYTES).unwrap();
        let told = daemon.ask("RuntimeReplace", json!({ "trigger": "manual", "candidate_id": ids[next] }));
        assert_eq!(told["payload"]["decision"]["outcome"], "replaced", "{name} by {}: {told}", WAYS[next]);
        assert_eq!(client::get(&daemon.proxy(), &stage.url("/page"), None).unwrap().text(), PAGE, "{}", WAYS[next]);
        let rest = download.exactly((PIECES - 1) * DRIP_BYTES).unwrap();
        assert!([first, rest].concat().iter().all(|byte| *byte == b'.'), "a download over {name}");
    }
    wait_until("the replaced engines have ended", || daemon.engine_pids().len() == 1);
}

/// `xrat test` tells working nodes from others, also where the engine would take one for the other.
#[test]
fn each_gets_its_own_verdict() {
    let Some(stage) = Stage::start(None) else { return };
    let daemon = stage.daemon();
    let mut configs: Vec<Config> = stage.nodes.all.iter().map(|node| node.config.clone()).collect();
    // A REALITY server that has just started lets its first visitor wait for 5 s.
    configs.retain(|config| config.security.name() != "reality");
    let good = configs.len();
    for name in ["hysteria2", "wireguard", "vless-kcp-none-seed"] {
        let mut stranger = stage.nodes.get(name).config.clone();
        stranger.name = format!("{name}-stranger");
        match &mut stranger.protocol {
            Protocol::Hysteria2(node) => node.auth = Secret::new("another"),
            Protocol::Wireguard(node) => node.secret_key = Secret::new("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
            Protocol::Vless { uuid, .. } => *uuid = Secret::new(uuid::Uuid::new_v4().to_string()),
            _ => {}
        }
        configs.push(stranger);
    }
    daemon.store(&configs);
    let tested = daemon.xrat(&["test", "--json", "--timeout", "5s"]).ok().json();
    let results = tested["results"].as_array().unwrap();
    let verdicts: BTreeMap<&str, bool> =
        results.iter().map(|row| (row["name"].as_str().unwrap(), row["delay_ms"].is_number())).collect();
    for config in &configs {
        let expected = !config.name.ends_with("-stranger");
        assert_eq!(verdicts[config.name.as_str()], expected, "{}: {tested:#}", config.name);
    }
    assert_eq!(verdicts.len(), good + 3);
    assert_eq!(daemon.engine_pids(), Vec::<u32>::new());
}

/// A WireGuard node answers to where the last packet with its user's key came from: tests leave it to the session.
#[test]
fn tests_leave_the_session_its_wireguard_node() {
    let Some(stage) = Stage::start(None) else { return };
    let mut daemon = stage.daemon();
    let mut configs = stage.configs(&["wireguard", "hysteria2"]);
    let mut brother = configs[0].clone();
    brother.name = "brother".into();
    if let Protocol::Wireguard(node) = &mut brother.protocol {
        node.mtu = Some(1280);
    }
    configs.push(brother);
    let ids = daemon.store(&configs);
    daemon.run();
    // With nothing to disturb, both with the one key are tested, one after the other.
    let verdicts = || {
        let tested = daemon.xrat(&["test", "--json", "--timeout", "5s"]).ok().json();
        let told = |row: &Value| (row["name"].as_str().unwrap().to_owned(), row["failure"]["kind"].clone());
        tested["results"].as_array().unwrap().iter().map(told).collect::<BTreeMap<_, _>>()
    };
    let all = |brother: Value| {
        let verdicts = [("brother", brother), ("hysteria2", Value::Null), ("wireguard", Value::Null)];
        BTreeMap::from(verdicts.map(|(name, kind)| (name.to_owned(), kind)))
    };
    assert_eq!(verdicts(), all(Value::Null));

    connect(&daemon, ids[0], "wireguard");
    let mut download = Kept::open(&daemon.proxy(), &stage.url(""), None).unwrap();
    download.request("/drip", "keep-alive").unwrap();
    assert_eq!(download.head().unwrap().0, 200);
    assert_eq!(verdicts(), all("in_use".into()));
    // Rotation measures the active node beside the others, and stays where nothing is faster.
    let told = daemon.ask("RuntimeReplace", json!({ "trigger": "timer" }));
    assert!(told["message"].as_str().unwrap().contains("not faster"), "{told}");
    // More than was sent before and meanwhile.
    let pieces = download.exactly(MANY_PIECES * DRIP_BYTES);
    assert!(pieces.is_ok(), "{:?}", pieces.err());
}

/// A DNS server that answers [`FAR`] to everything and remembers what it was asked for.
fn resolver() -> (u16, Arc<Mutex<Vec<String>>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (port, asked) = (socket.local_addr().unwrap().port(), Arc::<Mutex<Vec<String>>>::default());
    let heard = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // A header of 12 bytes, labels, an empty label, type and class.
            let end = 12 + buffer[12..length].iter().position(|byte| *byte == 0).unwrap();
            let (mut at, mut labels) = (12, Vec::new());
            while at < end {
                let next = at + 1 + usize::from(buffer[at]);
                labels.push(String::from_utf8_lossy(&buffer[at + 1..next]).into_owned());
                at = next;
            }
            heard.lock().unwrap().push(labels.join("."));
            let is_a = buffer[end + 1..end + 3] == [0, 1];
            let answers = u8::from(is_a);
            let head = [&buffer[..2], &[0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0]].concat();
            let mut answer = [&head[..], &buffer[12..end + 5]].concat();
            if is_a {
                // The name by reference, type A, class IN, a minute, four bytes.
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(FAR.parse::<std::net::Ipv4Addr>().unwrap().octets());
            }
            socket.send_to(&answer, from).unwrap();
        }
    });
    (port, asked)
}

/// WireGuard's node resolves no names: they are asked through the tunnel, and not of this machine's own resolver.
#[test]
fn names_are_resolved_through_the_tunnel() {
    let (port, asked) = resolver();
    let Some(stage) = Stage::start(Some(port)) else { return };
    let mut daemon = stage.daemon();
    let ids = daemon.store(&stage.configs(&["wireguard"]));
    daemon.run();
    connect(&daemon, ids[0], "wireguard");
    assert_eq!(*asked.lock().unwrap(), Vec::<String>::new(), "so far nobody needed a name");
    let url = stage.url("/page").replace(FAR, "nowhere.test");
    for proxy in [daemon.proxy(), Proxy::Http(daemon.http(), None)] {
        assert_eq!(client::get(&proxy, &url, None).unwrap().text(), PAGE);
    }
    let asked = asked.lock().unwrap();
    assert!(!asked.is_empty() && asked.iter().all(|name| name == "nowhere.test"), "{asked:?}");
}
