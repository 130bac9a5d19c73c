//! Every transport and protocol beyond tcp and ws: what is generated for it carries traffic through real engines, and
//! nothing is generated for an engine that cannot.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use lab::nodes::{self, FAR, Node, Nodes};
use lab::origin::{PAGE, bytes};
use lab::process::{Guard, OWNER_VARIABLE};
use lab::scratch::Scratch;
use lab::tls::TRUST_VARIABLE;
use lab::{Authority, Kind, Origin, PATIENCE, engine, wait_until};
use smol::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use xrat::config::ConfigId;
use xrat::engine::{Engine, batch_config, outbound_tag, private};

/// Some hundreds of packets.
const MUCH: usize = 300_000;

/// Nodes tried at once: mKCP sends as if every line were its own, and many together find the machine too small.
const AT_ONCE: usize = 5;

/// Between two looks whether a server is ready that says so to nobody.
const POLL: Duration = Duration::from_millis(50);

/// One engine with an outbound for each of many nodes.
struct Client {
    dir: Scratch,
    _guard: Guard,
}

impl Client {
    fn start(engine: &Engine, nodes: &[&Node], authority: &Authority) -> Self {
        let dir = Scratch::new();
        let configs = nodes.iter().zip(1..).map(|(node, id)| (ConfigId(id), &node.config));
        let file = batch_config(engine, configs, &dir.path().join("http.sock")).unwrap();
        let file = dir.file("client.json", file.to_string());
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut guard = Guard::spawn(&engine.path, |command| {
            command
                .args(engine.run_args(&file))
                .env(TRUST_VARIABLE, authority.file())
                .env(OWNER_VARIABLE, dir.path())
                .stdin(std::process::Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log);
        });
        wait_until("the client is ready", || {
            if let Some(status) = guard.exited() {
                panic!("{engine} ended with {status}: {}", std::fs::read_to_string(dir.path().join("log")).unwrap());
            }
            smol::block_on(private::ready(&dir.path().join("http.sock"))).is_ok()
        });
        Self { dir, _guard: guard }
    }

    /// What the origin answers to a request through the node of this number.
    async fn get(&self, id: i64, port: u16, path: &str) -> std::io::Result<Vec<u8>> {
        let user = outbound_tag(ConfigId(id));
        let socket = self.dir.path().join("http.sock");
        let mut stream = private::connect_as(&socket, Some(&user), FAR, port).await?;
        // Not to be closed by the far end: engines may lose what they have not passed on by then.
        let request = format!("GET {path} HTTP/1.1\r\nHost: {FAR}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut stream = smol::io::BufReader::new(stream);
        let mut length = 0;
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 2 {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            }
            line.clear();
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        Ok(body)
    }

    /// A page and a download through a node.
    async fn trial(&self, id: i64, node: &Node, port: u16) -> Result<(), String> {
        let began = Instant::now();
        // A REALITY server that has just started turns visitors away while it studies the site it borrows.
        let studies = || node.config.security.name() == "reality" && began.elapsed() < PATIENCE;
        loop {
            match within(self.get(id, port, "/page")).await {
                Ok(page) if page == PAGE.as_bytes() => break,
                _ if studies() => drop(smol::Timer::after(POLL).await),
                other => return Err(format!("a page: {other:?}")),
            }
        }
        let much = within(self.get(id, port, &format!("/bytes/{MUCH}"))).await?;
        let whole = much == bytes(MUCH);
        whole.then_some(()).ok_or_else(|| format!("{} bytes of {MUCH}", much.len()))
    }
}

async fn within<T>(future: impl Future<Output = std::io::Result<T>>) -> Result<T, String> {
    let timeout = async {
        smol::Timer::after(PATIENCE).await;
        Err(std::io::Error::from(std::io::ErrorKind::TimedOut))
    };
    smol::future::or(future, timeout).await.map_err(|error| error.to_string())
}

/// All nodes of a server of one kind that a client of one kind can use carry traffic; those that it can are `expected`.
fn carried(server: Kind, client: Kind, expected: impl Fn(&Node) -> bool) {
    let (Some(_), Some(client)) = (engine(server.name()), engine(client.name())) else { return };
    carried_by(server, &client, |engine, node| {
        assert_eq!(engine.supports(&node.config).is_ok(), expected(node), "{engine} and {}", node.name);
    });
}

/// All nodes of a server of one kind that this program can use carry traffic.
fn carried_by(server: Kind, client: &Path, check: impl Fn(&Engine, &Node)) {
    let Some(program) = engine(server.name()) else { return };
    let authority = Authority::new();
    let origin = Origin::start(&authority);
    let nodes = Nodes::start(server, &program, &authority, &origin, None);
    let engine = nodes::version(client).expect("an engine has a version");
    nodes.all.iter().for_each(|node| check(&engine, node));
    let (able, unable): (Vec<&Node>, Vec<_>) = nodes.all.iter().partition(|node| engine.supports(&node.config).is_ok());
    for node in &unable {
        let config = [(ConfigId(1), &node.config)];
        assert!(batch_config(&engine, config, Path::new("/run/http.sock")).is_err(), "{}", node.name);
    }
    assert!(!able.is_empty());

    let client = Client::start(&engine, &able, &authority);
    let port = origin.http().port();
    let trials = able
        .iter()
        .zip(1..)
        .map(async |(node, id)| Some(format!("{}: {}", node.name, client.trial(id, node, port).await.err()?)));
    let trials = futures::stream::iter(trials).buffer_unordered(AT_ONCE);
    let failed: Vec<_> = smol::block_on(trials.filter_map(std::future::ready).collect());
    let logs = || (nodes.log(), std::fs::read_to_string(client.dir.path().join("log")).unwrap());
    assert!(failed.is_empty(), "{engine} through {}:\n{}\n{:#?}", server.name(), failed.join("\n"), logs());
    println!("{engine} through {}: {} nodes, not {}", server.name(), able.len(), unable.len());
    assert!(origin.hits("/page") >= able.len());
}

#[test]
fn xray_carries_all_that_xray_serves() {
    carried(Kind::Xray, Kind::Xray, |_| true);
}

#[test]
fn xray_carries_mkcp_of_v2ray() {
    carried(Kind::V2ray, Kind::Xray, |node| node.name.contains("-kcp-") || node.name.contains("-grpc-"));
}

#[test]
fn v2ray_carries_all_that_v2ray_serves() {
    carried(Kind::V2ray, Kind::V2ray, |_| true);
}

#[test]
fn v2ray_carries_mkcp_of_xray() {
    let five =
        engine("v2ray").and_then(|program| nodes::version(&program)).is_some_and(|v2ray| v2ray.version.major >= 5);
    carried(Kind::Xray, Kind::V2ray, |node| {
        let kcp = node.name.contains("-kcp-") && node.name != "vless-kcp-dns";
        let plain = ["vless-grpc-none", "trojan-grpc-tls", "vmess-grpc-unnamed-tls"];
        kcp || five && plain.contains(&node.name.as_str())
    });
}

/// Versions other than those that every change is tested with: programs named in `XRAT_OTHER_ENGINES`, with colons
/// between them.
#[test]
#[ignore = "for a night: takes engines that scripts/other-engines builds"]
fn other_versions_carry_what_is_claimed_for_them() {
    let programs = std::env::var_os("XRAT_OTHER_ENGINES").unwrap_or_default();
    for program in std::env::split_paths(&programs).filter(|program| program.is_file()) {
        for server in Kind::ALL {
            carried_by(server, &program, |_, _| {});
        }
    }
}
