//! Real engines with the files and API calls of `xrat::engine`: traffic flows, ports open and close.
//!
//! Needs `xray` and `v2ray` in PATH. One that is missing fails the test in CI and skips it elsewhere.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroU16;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use serde_json::{Value, json};
use smol::block_on;
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};
use xrat::config::{Config, HttpHeader, Protocol, Reality, Secret, Security, Tls, Transport};
use xrat::engine::api::{Api, ApiError, InboundKind, PublicInbound};
use xrat::engine::{Engine, Family, SessionFiles, parse_version, private, ready, session_config};

const UUID: &str = "3b7a2f0e-6c1d-4f5a-9e8b-1c2d3e4f5a6b";
const DEADLINE: Duration = Duration::from_secs(10);

/// The installed engine of this family, or `None` with the reason on standard error.
fn engine(family: Family) -> Option<Engine> {
    // V2Ray 5 knows only the second, and V2Ray 4 takes that for nothing and starts.
    let found = ["-version", "version"].into_iter().find_map(|argument| {
        let output = Command::new(family.name()).arg(argument).output().ok()?;
        let (family, version) = parse_version(&String::from_utf8_lossy(&output.stdout))?;
        Some(Engine { family, version, path: PathBuf::from(family.name()) })
    });
    if found.is_none() {
        let advice = format!("no `{0}` in PATH: install {0} to run this test", family.name());
        assert!(env::var("CI").as_deref() != Ok("true"), "{advice}");
        eprintln!("skipped: {advice}");
    }
    found
}

/// A directory of the test's own, removed at its end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("xrat-engine-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: &Value) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content.to_string()).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running engine, ended with the value.
struct Running(Child);

impl Running {
    fn start(engine: &Engine, file: &Path) -> Self {
        let child = Command::new(&engine.path)
            .args(engine.run_args(file))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A free port below the ephemeral range, no two alike within one test process.
fn port() -> NonZeroU16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = process::id() % 10_000;
    loop {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(20_000 + (start + step * 7) % 10_000).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return NonZeroU16::new(port).unwrap();
        }
    }
}

fn local(port: NonZeroU16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port.get()).into()
}

/// Repeats until it works or the deadline has passed.
fn until<T, E: std::fmt::Debug>(what: &str, mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < end, "{what}: {error:?}"),
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// An HTTP/1.1 server that answers `body of <path>` to every request, many on one connection.
fn origin() -> SocketAddr {
    let listener = until("origin", || TcpListener::bind(local(port())));
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                while let Some(Ok(request)) = lines.next() {
                    let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
                    let path =
                        path.strip_prefix("http://").map_or(path.as_str(), |rest| &rest[rest.find('/').unwrap()..]);
                    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                    let body = format!("body of {path}");
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                    if stream.write_all((head + &body).as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// One request and its answer on a connection that leads to the origin.
fn exchange(stream: &mut TcpStream, path: &str) {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: origin.test\r\n\r\n").as_bytes()).unwrap();
    expect_answer(stream, path);
}

fn expect_answer(stream: &mut TcpStream, path: &str) {
    let wanted = format!("body of {path}");
    let mut answer = String::new();
    let mut buffer = [0; 1024];
    while !answer.ends_with(&wanted) {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "the connection ended after {answer:?}");
        answer.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn read<const N: usize>(stream: &mut TcpStream) -> [u8; N] {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Sends a SOCKS 5 request and returns the address of the answer.
fn socks(stream: &mut TcpStream, command: u8, target: SocketAddr) -> SocketAddr {
    let SocketAddr::V4(target) = target else { panic!("{target} is not IPv4") };
    stream.write_all(&[5, 1, 0]).unwrap();
    assert_eq!(read(stream), [5, 0]);
    stream.write_all(&[&[5, command, 0, 1][..], &target.ip().octets(), &target.port().to_be_bytes()].concat()).unwrap();
    let [5, 0, 0, 1, a, b, c, d, high, low] = read(stream) else { panic!("the SOCKS request was refused") };
    (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into()
}

/// Sends a datagram through a SOCKS association to an echo server, and expects it back.
fn echo_over_udp(association: SocketAddr) {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let SocketAddr::V4(target) = server.local_addr().unwrap() else { panic!("bound to IPv4") };
    thread::spawn(move || {
        let mut buffer = [0; 64];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        server.send_to(&buffer[..length], from).unwrap();
    });
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let datagram = [&[0, 0, 0, 1][..], &target.ip().octets(), &target.port().to_be_bytes(), b"ping"].concat();
    client.send_to(&datagram, association).unwrap();
    let mut answer = [0; 64];
    let length = client.recv(&mut answer).unwrap();
    assert_eq!(answer[..length], datagram);
}

fn config(protocol: Protocol, transport: Transport, security: Security, port: NonZeroU16) -> Config {
    Config { name: "test".into(), address: "127.0.0.1".into(), port, protocol, transport, security }
}

fn vless() -> Protocol {
    Protocol::Vless { uuid: Secret::new(UUID), encryption: Secret::new("none"), flow: None }
}

fn tcp() -> Transport {
    Transport::Tcp { http_header: None }
}

/// A session's engine, its server (a second process of the same engine) and an API to it.
struct Lab {
    api: Api,
    sockets: SessionFiles,
    origin: SocketAddr,
    _client: Running,
    _server: Running,
    dir: Dir,
}

fn lab(engine: &Engine) -> Lab {
    let dir = Dir::new();
    let node = port();
    let server = json!({
        "log": { "access": "none", "loglevel": "warning" },
        "inbounds": [{
            "listen": "127.0.0.1", "port": node, "protocol": "vless",
            "settings": { "clients": [{ "id": UUID }], "decryption": "none" },
        }],
        "outbounds": [{ "protocol": "freedom" }],
    });
    let server = Running::start(engine, &dir.write("server.json", &server));
    let sockets = SessionFiles {
        socks: engine.private_socks().then(|| dir.0.join("socks.sock")),
        http: dir.0.join("http.sock"),
        api: dir.0.join("api.sock"),
    };
    let session = session_config(engine, &config(vless(), tcp(), Security::None, node), &sockets).unwrap();
    let client = Running::start(engine, &dir.write("session.json", &session));
    until("readiness", || block_on(ready(engine, &sockets)));
    until("the server", || TcpStream::connect(local(node)));
    let api = Api::new(engine, sockets.api.clone());
    Lab { api, sockets, origin: origin(), _client: client, _server: server, dir }
}

fn public(tag: &str, kind: InboundKind, port: NonZeroU16) -> PublicInbound {
    PublicInbound { tag: tag.into(), kind, host: IpAddr::V4(Ipv4Addr::LOCALHOST), port, auth: None }
}

const SOCKS: InboundKind = InboundKind::Socks { udp: true };

fn a_session_carries_traffic_and_its_ports_open_and_close(family: Family) {
    let Some(engine) = engine(family) else { return };
    let lab = lab(&engine);
    assert_eq!(block_on(lab.api.traffic()).unwrap().uplink, 0);

    let socks_port = public("public-socks", SOCKS, port());
    block_on(lab.api.add_inbound(&socks_port)).unwrap();
    let mut open = dial(socks_port.address());
    socks(&mut open, 1, lab.origin);
    exchange(&mut open, "/over-socks");
    // Xray counts no uplink for what a connection sends first.
    exchange(&mut open, "/over-socks-again");
    let mut control = dial(socks_port.address());
    let association = socks(&mut control, 3, (Ipv4Addr::UNSPECIFIED, 0).into());
    assert_eq!(association, socks_port.address(), "where UDP is to be sent");
    echo_over_udp(association);

    let http_port = PublicInbound {
        auth: Some(("user".into(), Secret::new("pass"))),
        ..public("public-http", InboundKind::Http, port())
    };
    block_on(lab.api.add_inbound(&http_port)).unwrap();
    let request = |credentials: &str| {
        let mut stream = dial(http_port.address());
        let origin = lab.origin;
        let head = format!("GET http://{origin}/over-http HTTP/1.1\r\nHost: {origin}\r\n{credentials}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    assert!(read::<12>(&mut request("")).starts_with(b"HTTP/1.1 407"), "no password, no service");
    let mut answer = String::new();
    let credentials = "Proxy-Authorization: Basic dXNlcjpwYXNz\r\nConnection: close\r\n";
    request(credentials).read_to_string(&mut answer).unwrap();
    assert!(answer.contains("200 OK") && answer.ends_with("body of /over-http"), "{answer}");

    let traffic = block_on(lab.api.traffic()).unwrap();
    assert!(traffic.uplink > 0 && traffic.downlink > 0, "{traffic:?}");

    block_on(lab.api.remove_inbound("public-socks")).unwrap();
    let refused = TcpStream::connect(socks_port.address()).map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    exchange(&mut open, "/after-the-port-was-closed");
    block_on(lab.api.remove_inbound("public-socks")).expect("gone already is what was asked for");
    request(credentials).read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("body of /over-http"), "the other port stays open");
}

#[test]
fn v2ray_carries_traffic_and_its_ports_open_and_close() {
    a_session_carries_traffic_and_its_ports_open_and_close(Family::V2ray);
}

#[test]
fn xray_carries_traffic_and_its_ports_open_and_close() {
    a_session_carries_traffic_and_its_ports_open_and_close(Family::Xray);
}

fn the_private_proxy_reaches_the_origin_and_nobody_else_can_open_it(family: Family) {
    let Some(engine) = engine(family) else { return };
    let lab = lab(&engine);
    block_on(async {
        let host = lab.origin.ip().to_string();
        let mut stream = private::connect(&lab.sockets.http, &host, lab.origin.port()).await.unwrap();
        stream.write_all(b"GET /private HTTP/1.1\r\n\r\n").await.unwrap();
        let wanted = b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\nbody of /private";
        let mut answer = vec![0; wanted.len()];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, wanted);
    });
    if let Some(socks_socket) = &lab.sockets.socks {
        let mut stream = std::os::unix::net::UnixStream::connect(socks_socket).unwrap();
        stream.write_all(&[5, 1, 0]).unwrap();
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [5, 0]);
    }
    if family == Family::Xray {
        for socket in [&lab.sockets.http, &lab.sockets.api] {
            assert_eq!(fs::metadata(socket).unwrap().permissions().mode() & 0o777, 0o600, "{}", socket.display());
        }
    }
}

#[test]
fn the_private_proxy_of_v2ray() {
    the_private_proxy_reaches_the_origin_and_nobody_else_can_open_it(Family::V2ray);
}

#[test]
fn the_private_proxy_of_xray() {
    the_private_proxy_reaches_the_origin_and_nobody_else_can_open_it(Family::Xray);
}

fn errors_of_the_api_are_told_and_leave_nothing_behind(family: Family) {
    let Some(engine) = engine(family) else { return };
    let lab = lab(&engine);

    let taken = until("a taken port", || TcpListener::bind(local(port())));
    let inbound = public("late", SOCKS, NonZeroU16::new(taken.local_addr().unwrap().port()).unwrap());
    let error = block_on(lab.api.add_inbound(&inbound)).unwrap_err();
    assert!(error.to_string().contains("address already in use"), "{error}");
    drop(taken);
    block_on(lab.api.add_inbound(&inbound)).expect("the same tag and port, now that it is free");
    block_on(lab.api.remove_inbound("late")).unwrap();
    TcpStream::connect(inbound.address()).map(drop).expect_err("one listener, and it is closed");

    // Xray also answers to V2Ray's name of this service.
    if family == Family::V2ray {
        let confused = Api::new(&Engine { family: Family::Xray, ..engine.clone() }, lab.sockets.api.clone());
        let error = block_on(confused.traffic()).unwrap_err();
        assert!(matches!(error, ApiError::Unimplemented { .. }), "{error}");
    }

    let nobody = Api::new(&engine, lab.dir.0.join("nobody.sock"));
    assert!(matches!(block_on(nobody.traffic()).unwrap_err(), ApiError::Connect { .. }));
}

#[test]
fn errors_of_v2rays_api() {
    errors_of_the_api_are_told_and_leave_nothing_behind(Family::V2ray);
}

#[test]
fn errors_of_xrays_api() {
    errors_of_the_api_are_told_and_leave_nothing_behind(Family::Xray);
}

#[test]
fn a_hanging_engine_is_given_up() {
    let dir = Dir::new();
    let socket = dir.0.join("hangs.sock");
    let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let engine = Engine { family: Family::Xray, version: "26.3.27".parse().unwrap(), path: "xray".into() };
    let error = block_on(Api::new(&engine, socket).remove_inbound("any")).unwrap_err();
    assert!(matches!(error, ApiError::Timeout { .. }), "{error}");
}

/// Every protocol, transport and security; the engine must take what is generated, word by word.
fn the_engine_accepts_what_is_generated(family: Family) {
    let Some(engine) = engine(family) else { return };
    let dir = Dir::new();
    let secret = || Secret::new("secret");
    let ss = |method: &str, password: &str| Protocol::Shadowsocks {
        method: method.into(),
        password: Secret::new(password),
        plugin: None,
    };
    let mut protocols = vec![
        vless(),
        Protocol::Vless { uuid: Secret::new("short"), encryption: Secret::new("none"), flow: Some(String::new()) },
        Protocol::Vmess { uuid: Secret::new(UUID), method: "auto".into(), alter_id: 0 },
        Protocol::Trojan { password: secret() },
        ss("aes-256-gcm", "secret"),
        ss("chacha20-ietf-poly1305", "secret"),
        Protocol::Socks { username: None, password: None },
        Protocol::Socks { username: Some("user".into()), password: Some(secret()) },
        Protocol::Http { username: None, password: None },
        Protocol::Http { username: Some("user".into()), password: Some(secret()) },
    ];
    if family == Family::Xray {
        protocols.push(ss("xchacha20-ietf-poly1305", "secret"));
        protocols.push(ss("2022-blake3-aes-128-gcm", "AAAAAAAAAAAAAAAAAAAAAA=="));
        protocols.push(Protocol::Vmess { uuid: Secret::new(UUID), method: "zero".into(), alter_id: 0 });
    } else {
        protocols.push(ss("none", "secret"));
        protocols.push(Protocol::Vmess { uuid: Secret::new(UUID), method: "none".into(), alter_id: 64 });
    }
    let header = HttpHeader { hosts: vec!["a.test".into(), "b.test".into()], paths: vec!["/x".into()] };
    let transports = [
        tcp(),
        Transport::Tcp { http_header: Some(HttpHeader::default()) },
        Transport::Tcp { http_header: Some(header) },
        Transport::Ws { path: "/p?ed=2048".into(), host: Some("h.test".into()) },
    ];
    let tls = Tls {
        sni: Some("s.test".into()),
        alpn: vec!["h2".into(), "http/1.1".into()],
        fingerprint: Some("Firefox".into()),
        ..Tls::default()
    };
    let securities = [Security::None, Security::Tls(Tls::default()), Security::Tls(tls)];
    let mut configs = Vec::new();
    for protocol in &protocols {
        for transport in &transports {
            for security in &securities {
                configs.push(config(protocol.clone(), transport.clone(), security.clone(), port()));
            }
        }
    }
    if family == Family::Xray {
        configs.extend(xray_only());
    } else {
        let careless = Tls { allow_insecure: true, ..Tls::default() };
        configs.push(config(vless(), tcp(), Security::Tls(careless), port()));
    }
    let sockets = SessionFiles { socks: None, http: dir.0.join("h.sock"), api: dir.0.join("a.sock") };
    for config in &configs {
        let session = session_config(&engine, config, &sockets).unwrap();
        let file = dir.write("test.json", &session);
        let output = Command::new(&engine.path).args(engine.test_args(&file)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("Configuration OK"), "{engine} refused {session:#}:\n{said}");
    }
}

fn xray_only() -> Vec<Config> {
    let reality = Reality {
        sni: Some("s.test".into()),
        fingerprint: "chrome".into(),
        public_key: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8".into(),
        short_id: "0123abcd".into(),
        spider_x: "/".into(),
        mldsa65_verify: None,
    };
    let vision = Protocol::Vless {
        uuid: Secret::new(UUID),
        encryption: Secret::new("none"),
        flow: Some("xtls-rprx-vision".into()),
    };
    let pinned = Tls {
        pinned_sha256: Some("ab".repeat(32)),
        verify_name: Some("v.test".into()),
        allow_insecure: true,
        ..Tls::default()
    };
    vec![
        config(vision.clone(), tcp(), Security::Reality(reality.clone()), port()),
        config(vision, tcp(), Security::Tls(Tls::default()), port()),
        config(Protocol::Trojan { password: Secret::new("p") }, tcp(), Security::Reality(reality), port()),
        config(vless(), tcp(), Security::Tls(pinned), port()),
    ]
}

#[test]
fn v2ray_accepts_what_is_generated() {
    the_engine_accepts_what_is_generated(Family::V2ray);
}

#[test]
fn xray_accepts_what_is_generated() {
    the_engine_accepts_what_is_generated(Family::Xray);
}

/// The mapping of short ids is Xray's own.
#[test]
fn short_ids_are_mapped_as_xray_maps_them() {
    let Some(engine) = engine(Family::Xray) else { return };
    let output = Command::new(&engine.path).args(["uuid", "-i", "example"]).output().unwrap();
    let wanted = String::from_utf8(output.stdout).unwrap();
    let short = Protocol::Vless { uuid: Secret::new("example"), encryption: Secret::new("none"), flow: None };
    let sockets = SessionFiles { socks: None, http: "/h".into(), api: "/a".into() };
    let session = session_config(&engine, &config(short, tcp(), Security::None, port()), &sockets).unwrap();
    assert_eq!(session["outbounds"][1]["settings"]["vnext"][0]["users"][0]["id"], wanted.trim());
}
