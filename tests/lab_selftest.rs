//! The lab itself: its servers carry real exchanges, its relay does what each mode says, and nothing is left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use lab::client::{self, Kept, Proxy};
use lab::origin::{Canned, PAGE, UdpEcho, bytes};
use lab::process::Guard;
use lab::scratch::Scratch;
use lab::server::{LabLink, PATH, Secrets, Server, run_engine, shadowsocks_password};
use lab::tls::NODE_NAME;
use lab::{Authority, Kind, Lab, Mode, Origin, Relay, engine, ports, process, wait_for, wait_until};
use serde_json::{Value, json};

/// An engine with one SOCKS inbound whose user name says which node to take. Written by hand: the lab must not be
/// proven by the program it is to test.
struct Client {
    port: ports::Port,
    _guard: Guard,
    _dir: Scratch,
}

impl Client {
    fn start(kind: Kind, program: &Path, lab: &Lab, links: &[LabLink]) -> Self {
        let port = ports::take();
        let names = || links.iter().map(|link| &link.name);
        let config = json!({
            "log": {"loglevel": "warning", "access": "none"},
            "inbounds": [{
                "listen": "127.0.0.1", "port": port.number(), "protocol": "socks",
                "settings": {
                    "auth": "password", "udp": true, "ip": "127.0.0.1",
                    "accounts": names().map(|name| json!({"user": name, "pass": "x"})).collect::<Vec<_>>(),
                },
            }],
            "outbounds": links.iter().map(|link| outbound(kind, link, lab.server.secrets())).collect::<Vec<_>>(),
            "routing": {"rules": names()
                .map(|name| json!({"type": "field", "user": [name], "outboundTag": name}))
                .collect::<Vec<_>>()},
        });
        let (mut guard, dir) = run_engine(kind, program, &config, &lab.authority);
        wait_for("the client engine listens", || {
            if let Some(status) = guard.exited() {
                let log = std::fs::read_to_string(dir.path().join("log"));
                panic!("{} ended with {status}:\n{}", kind.name(), log.unwrap());
            }
            TcpStream::connect(port.addr()).ok()
        });
        Self { port, _guard: guard, _dir: dir }
    }

    fn through(&self, name: &str) -> Proxy {
        Proxy::Socks(self.port.addr(), Some((name.into(), "x".into())))
    }
}

fn outbound(kind: Kind, link: &LabLink, secrets: &Secrets) -> Value {
    let spec = &link.spec;
    let (address, port) = ("127.0.0.1", link.port);
    let settings = match spec.protocol {
        "vless" => {
            let flow = if spec.vision { "xtls-rprx-vision" } else { "" };
            json!({"vnext": [{"address": address, "port": port,
                "users": [{"id": secrets.uuid, "encryption": "none", "flow": flow}]}]})
        }
        "vmess" => json!({"vnext": [{"address": address, "port": port,
            "users": [{"id": secrets.uuid, "security": "auto"}]}]}),
        "trojan" => json!({"servers": [{"address": address, "port": port, "password": secrets.password}]}),
        "shadowsocks" => json!({"servers": [{"address": address, "port": port,
            "method": spec.cipher, "password": shadowsocks_password(spec, secrets)}]}),
        _ if spec.login => json!({"servers": [{"address": address, "port": port,
            "users": [{"user": secrets.user, "pass": secrets.password}]}]}),
        _ => json!({"servers": [{"address": address, "port": port}]}),
    };
    let mut stream = json!({"network": spec.network, "security": spec.security});
    if spec.network == "ws" {
        stream["wsSettings"] = json!({"path": PATH});
    }
    if spec.http_header {
        let request = json!({"path": [PATH], "headers": {"Host": [NODE_NAME]}});
        stream["tcpSettings"] = json!({"header": {"type": "http", "request": request}});
    }
    match spec.security {
        "tls" => stream["tlsSettings"] = json!({"serverName": NODE_NAME}),
        "reality" => {
            assert_eq!(kind, Kind::Xray);
            stream["realitySettings"] = json!({"serverName": NODE_NAME, "fingerprint": "chrome",
                "publicKey": secrets.reality_public, "shortId": secrets.short_id});
        }
        _ => {}
    }
    json!({"tag": link.name, "protocol": spec.protocol, "settings": settings, "streamSettings": stream})
}

/// Every node of a server of one kind carries an exchange for a client of the other, or the same, kind.
fn every_node_works(server: Kind, client: Kind) {
    let (Some(program), Some(lab)) = (engine(client.name()), Lab::start(server)) else {
        return;
    };
    let mut links = lab.server.links();
    links.retain(|link| link.suits(client));
    assert!(links.len() >= 30, "{} nodes", links.len());
    let engine = Client::start(client, &program, &lab, &links);
    let mut failed = Vec::new();
    for link in &links {
        match client::get(&engine.through(&link.name), &lab.origin.url("/page"), None) {
            Ok(answer) if answer.text() == PAGE => {}
            other => failed.push(format!("{}: {other:?}", link.name)),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(lab.origin.hits("/page"), links.len());
}

#[test]
fn v2ray_serves_v2ray() {
    every_node_works(Kind::V2ray, Kind::V2ray);
}

#[test]
fn v2ray_serves_xray() {
    every_node_works(Kind::V2ray, Kind::Xray);
}

#[test]
fn xray_serves_v2ray() {
    every_node_works(Kind::Xray, Kind::V2ray);
}

#[test]
fn xray_serves_xray() {
    every_node_works(Kind::Xray, Kind::Xray);
}

#[test]
fn links_have_names_of_their_own_and_lead_where_they_should() {
    let Some(lab) = Lab::start(Kind::V2ray) else {
        return;
    };
    let links = lab.server.links();
    let mut names: Vec<_> = links.iter().map(|link| link.name.clone()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), links.len());
    let relayed = lab.server.link_through("trojan-ws-tls", 4321);
    assert_eq!(relayed.port, 4321);
    assert!(relayed.link.starts_with("trojan://"), "{}", relayed.link);
    assert!(relayed.link.contains("@127.0.0.1:4321?"), "{}", relayed.link);
    assert_ne!(lab.server.port_of("trojan-ws-tls"), 4321);
}

/// A client engine whose only node is behind a relay.
fn relayed(lab: &Lab, kind: Kind, name: &str) -> Option<(Relay, Client, Proxy)> {
    let program = engine(kind.name())?;
    let relay = Relay::start(SocketAddr::from(([127, 0, 0, 1], lab.server.port_of(name))));
    let link = lab.server.link_through(name, relay.port());
    let client = Client::start(kind, &program, lab, &[link]);
    let proxy = client.through(name);
    Some((relay, client, proxy))
}

#[test]
fn an_engine_sees_what_the_relay_does() {
    for kind in Kind::ALL {
        let Some(lab) = Lab::start(kind) else { continue };
        let Some((relay, _client, proxy)) = relayed(&lab, kind, "vmess-ws-tls") else {
            continue;
        };
        let url = lab.origin.url("/page");
        assert_eq!(client::get(&proxy, &url, None).unwrap().text(), PAGE);
        assert!(relay.accepted() >= 1);
        for mode in [Mode::Refuse, Mode::Reset] {
            relay.set(mode);
            client::get(&proxy, &url, None).expect_err("nothing comes through");
        }
        relay.set(Mode::Pass);
        assert_eq!(client::get(&proxy, &url, None).unwrap().text(), PAGE);
        assert_eq!(lab.origin.hits("/page"), 2);
    }
}

/// A relay in front of a web server: its modes without an engine in between.
fn relayed_origin() -> (Origin, Relay, String) {
    let origin = Origin::start(&Authority::new());
    let relay = Relay::start(origin.http());
    let url = format!("http://{}/page", relay.addr());
    (origin, relay, url)
}

/// A request without a proxy, through the same code: an HTTP proxy's absolute form is understood by the origin.
fn direct(addr: SocketAddr, url: &str) -> std::io::Result<Kept> {
    Kept::open(&Proxy::Http(addr, None), url, None)
}

#[test]
fn refuse_closes_the_port_and_resets_what_is_open() {
    let (_origin, relay, url) = relayed_origin();
    let mut open = direct(relay.addr(), &url).unwrap();
    assert_eq!(open.get("/page").unwrap().text(), PAGE);
    relay.set(Mode::Refuse);
    let error = open.get("/page").unwrap_err().kind();
    assert!(matches!(error, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error:?}");
    let error = TcpStream::connect(relay.addr()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    relay.set(Mode::Pass);
    assert_eq!(direct(relay.addr(), &url).unwrap().get("/page").unwrap().text(), PAGE);
    assert_eq!(relay.accepted(), 2);
}

#[test]
fn reset_accepts_and_resets() {
    let (origin, relay, url) = relayed_origin();
    relay.set(Mode::Reset);
    let error = direct(relay.addr(), &url).and_then(|mut kept| kept.get("/page"));
    let error = error.unwrap_err().kind();
    assert!(matches!(error, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error:?}");
    assert_eq!((relay.accepted(), origin.connections()), (1, 0));
}

#[test]
fn swallow_takes_everything_and_answers_nothing() {
    let (origin, relay, url) = relayed_origin();
    let mut open = direct(relay.addr(), &url).unwrap();
    assert_eq!(open.get("/page").unwrap().text(), PAGE);
    relay.set(Mode::Swallow);
    let mut new = direct(relay.addr(), &url).unwrap();
    let before = relay.upstream_bytes();
    for kept in [&mut open, &mut new] {
        kept.request("/page", "keep-alive").unwrap();
    }
    // Both requests were taken in: that nothing comes now is not just slowness.
    wait_until("the relay swallows", || relay.upstream_bytes() >= before + 100);
    for kept in [&mut open, &mut new] {
        kept.set_timeout(Duration::from_millis(100));
        let error = kept.response().unwrap_err().kind();
        assert!(matches!(error, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error:?}");
    }
    assert_eq!(origin.hits("/page"), 1);
    relay.set(Mode::Pass);
    assert_eq!(open.get("/page").unwrap().text(), PAGE);
}

#[test]
fn delay_holds_each_direction() {
    let (_origin, relay, url) = relayed_origin();
    let mut open = direct(relay.addr(), &url).unwrap();
    open.get("/page").unwrap();
    relay.set(Mode::Delay(Duration::from_millis(150)));
    let begin = Instant::now();
    open.get("/page").unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
}

#[test]
fn a_relay_carries_much_and_counts_it() {
    let (origin, relay, url) = relayed_origin();
    let mut open = direct(relay.addr(), &url).unwrap();
    let answer = open.get_and_close("/bytes/3000000").unwrap();
    assert!(answer.body == bytes(3_000_000));
    assert!(relay.downstream_bytes() > 3_000_000);
    drop(open);
    wait_until("the connection closes at both ends", || relay.open() == 0 && origin.open() == 0);
}

#[test]
fn the_origin_answers_as_its_table_says() {
    let authority = Authority::new();
    let origin = Origin::start(&authority);
    let mut kept = direct(origin.http(), &origin.url("/")).unwrap();
    assert_eq!(kept.get("/generate_204").unwrap().status, 204);
    assert_eq!(kept.get("/nowhere").unwrap().status, 404);
    let begin = Instant::now();
    assert_eq!(kept.get("/slow/60").unwrap().status, 204);
    assert!(begin.elapsed() >= Duration::from_millis(60));
    origin.answer("/list", Canned::ok("one\ntwo\n"));
    assert_eq!(kept.get("/list?token=1").unwrap().text(), "one\ntwo\n");
    assert_eq!((origin.hits("/list"), origin.requests(), origin.connections()), (1, 4, 1));
    assert_eq!(kept.get("/drip/3").unwrap().body.len(), 3 * lab::origin::DRIP_BYTES);
}

#[test]
fn the_origin_withholds_until_released() {
    let origin = Origin::start(&Authority::new());
    let mut kept = direct(origin.http(), &origin.url("/")).unwrap();
    kept.request("/withhold", "keep-alive").unwrap();
    origin.wait_for_hits("/withhold", 1);
    kept.set_timeout(Duration::from_millis(50));
    kept.response().expect_err("it is withheld");
    kept.set_timeout(lab::PATIENCE);
    origin.release();
    assert_eq!(kept.response().unwrap().status, 204);
    assert_eq!(kept.get("/withhold").unwrap().status, 204);
}

#[test]
fn an_endless_answer_ends_with_its_client() {
    let origin = Origin::start(&Authority::new());
    let mut kept = direct(origin.http(), &origin.url("/")).unwrap();
    kept.request("/drip", "keep-alive").unwrap();
    kept.head().unwrap();
    kept.exactly(2 * lab::origin::DRIP_BYTES).unwrap();
    assert_eq!(origin.open(), 1);
    drop(kept);
    wait_until("the origin notices", || origin.open() == 0);
}

#[test]
fn programs_reach_https_and_udp_through_both_kinds_of_proxy() {
    for kind in Kind::ALL {
        let Some(lab) = Lab::start(kind) else { continue };
        let port = |name: &str| SocketAddr::from(([127, 0, 0, 1], lab.server.port_of(name)));
        let secrets = lab.server.secrets();
        let user = Some((secrets.user.clone(), secrets.password.clone()));
        for proxy in [
            Proxy::Socks(port("socks-tcp-none"), None),
            Proxy::Socks(port("socks-login-tcp-none"), user.clone()),
            Proxy::Http(port("http-tcp-none"), None),
            Proxy::Http(port("http-login-tcp-none"), user.clone()),
        ] {
            for url in [lab.origin.url("/page"), lab.origin.https_url("/page")] {
                let answer = client::get(&proxy, &url, Some(&lab.authority));
                assert_eq!(answer.unwrap().text(), PAGE, "{proxy:?} {url}");
            }
        }
        let wrong = Some(("lab-user".into(), "wrong".into()));
        client::get(&Proxy::Socks(port("socks-login-tcp-none"), wrong), &lab.origin.url("/page"), None)
            .expect_err("the password matters");
        let echo = UdpEcho::start();
        let answer = client::udp_exchange_via_socks(port("socks-tcp-none"), None, echo.addr(), b"over UDP");
        assert_eq!(answer.unwrap(), b"over UDP");
    }
}

#[test]
fn only_those_who_are_told_trust_the_authority() {
    let (mine, other) = (Authority::new(), Authority::new());
    let origin = Origin::start(&mine);
    let stream = TcpStream::connect(origin.https()).unwrap();
    mine.connect("localhost", stream).unwrap();
    let stream = TcpStream::connect(origin.https()).unwrap();
    other.connect("localhost", stream).expect_err("another authority");
}

#[test]
fn no_two_tests_have_one_port() {
    let taken: Vec<_> = (0..200).map(|_| ports::take()).collect();
    let mut numbers: Vec<_> = taken.iter().map(ports::Port::number).collect();
    assert!(numbers.iter().all(|number| *number < 32_768));
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 200);
    let held = std::net::TcpListener::bind(taken[0].addr()).unwrap();
    assert!(!ports::is_free(taken[0].number()));
    drop(held);
}

#[test]
fn nothing_is_left_after_a_drop() {
    let sleeper = |owner: &Path| {
        let owner = owner.to_owned();
        Guard::spawn(Path::new("sh"), move |command| {
            command.args(["-c", "sleep 1000 & wait"]).env(process::OWNER_VARIABLE, owner);
        })
    };
    let dir = Scratch::new();
    let path = dir.path().to_owned();
    let guard = sleeper(&path);
    let pid = guard.pid();
    wait_until("the shell and its child run", || process::all_of(&path).len() == 2);
    drop(guard);
    assert!(!process::is_alive(pid));
    wait_until("the child is gone too", || process::all_of(&path).is_empty());

    let mut guard = sleeper(&path);
    wait_until("the shell and its child run", || process::all_of(&path).len() == 2);
    process::kill_all_of(&path);
    assert_eq!(process::exit_code(guard.wait()), 137);
    drop(dir);
    assert!(!path.exists());
}

#[test]
fn a_server_ends_with_its_drop() {
    let Some(mut lab) = Lab::start(Kind::V2ray) else {
        return;
    };
    let pid = lab.server.guard().pid();
    let port = lab.server.port_of("vless-tcp-none");
    assert!(process::is_alive(pid));
    drop::<Server>(lab.server);
    assert!(!process::is_alive(pid));
    assert!(ports::is_free(port));
}
