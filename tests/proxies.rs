//! The public ports as programs and settings see them, with each engine: logins, ports that are closed, IPv6, the
//! counters; and the health of a session whose node goes silent and comes back.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use lab::client::{self, Kept, Proxy};
use lab::origin::{PAGE, UdpEcho};
use lab::server::LabLink;
use lab::{Daemon, Kind, Lab, Mode, PATIENCE, Relay};
use serde_json::{Value, json};

/// The node of tests that are not about the node.
const NODE: &str = "vmess-tcp-none";

/// Runs `test` with each engine as client, connected to [`NODE`]. The server is of the same kind, so that a machine
/// with one engine has half of the tests.
fn connected(settings: &[&str], test: impl Fn(&Lab, &Daemon)) {
    for kind in Kind::ALL {
        let Some(lab) = Lab::start(kind) else { continue };
        let Some(daemon) = lab.daemon(kind, settings) else { continue };
        connect(&daemon, &lab.server.link(NODE));
        test(&lab, &daemon);
    }
}

fn connect(daemon: &Daemon, link: &LabLink) {
    let id = daemon.import(std::slice::from_ref(link))[0];
    daemon.xrat(&["connect", &id.to_string()]).ok();
}

fn status(daemon: &Daemon) -> Value {
    daemon.xrat(&["status", "--json"]).ok().json()
}

/// Whether the page comes by this proxy, over HTTP and HTTPS.
fn assert_page(lab: &Lab, proxy: &Proxy) {
    for url in [lab.origin.url("/page"), lab.origin.https_url("/page")] {
        let answer = client::get(proxy, &url, Some(&lab.authority));
        assert_eq!(answer.unwrap_or_else(|error| panic!("{proxy:?} {url}: {error}")).text(), PAGE);
    }
}

#[test]
fn the_ports_want_the_login_that_config_toml_sets() {
    let login = ["runtime.socks.username = \"lab user\"", "runtime.socks.password = 'p@ss\"w/rd'"];
    connected(&login, |lab, daemon| {
        let right = Some(("lab user".to_owned(), "p@ss\"w/rd".to_owned()));
        assert_page(lab, &Proxy::Socks(daemon.socks(), right.clone()));
        assert_page(lab, &Proxy::Http(daemon.http(), right.clone()));
        let echo = UdpEcho::start();
        let back = client::udp_exchange_via_socks(daemon.socks(), right.as_ref(), echo.addr(), b"with a login");
        assert_eq!(back.unwrap(), b"with a login");

        let pages = lab.origin.hits("/page");
        let (plain, tls) = (lab.origin.url("/page"), lab.origin.https_url("/page"));
        let wrong_password = Some(("lab user".to_owned(), "p@ss\"w/r".to_owned()));
        let wrong_user = Some(("lab".to_owned(), "p@ss\"w/rd".to_owned()));
        for user in [&wrong_password, &wrong_user, &None] {
            let refused = client::get(&Proxy::Socks(daemon.socks(), user.clone()), &plain, None).unwrap_err();
            let kind = if user.is_some() { ErrorKind::PermissionDenied } else { ErrorKind::ConnectionRefused };
            assert_eq!(refused.kind(), kind, "{user:?}: {refused}");

            let http = Proxy::Http(daemon.http(), user.clone());
            assert_eq!(client::get(&http, &plain, None).unwrap().status, 407, "{user:?}");
            let refused = client::get(&http, &tls, Some(&lab.authority)).unwrap_err();
            assert!(refused.to_string().starts_with("HTTP/1.1 407 "), "{user:?}: {refused}");
        }
        assert_eq!(lab.origin.hits("/page"), pages);
    });
}

#[test]
fn an_http_proxy_that_is_not_wanted_is_not_there() {
    connected(&["runtime.http.enabled = false"], |lab, daemon| {
        assert_page(lab, &daemon.proxy());
        let refused = TcpStream::connect(daemon.http()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(status(daemon)["session"]["http"], Value::Null);
    });
}

#[test]
fn without_udp_no_association_is_made() {
    connected(&["runtime.socks.udp = false"], |lab, daemon| {
        assert_page(lab, &daemon.proxy());
        let echo = UdpEcho::start();
        let refused = client::udp_exchange_via_socks(daemon.socks(), None, echo.addr(), b"nobody").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
    });
}

#[test]
fn the_ports_listen_on_ipv6_where_the_settings_say_so() {
    if let Err(error) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        let _ = writeln!(std::io::stderr(), "skipped: this machine has no ::1: {error}");
        return;
    }
    connected(&["runtime.socks.host = \"::1\"", "runtime.http.host = \"::1\""], |lab, daemon| {
        let six = |address: SocketAddr| SocketAddr::from((Ipv6Addr::LOCALHOST, address.port()));
        assert_page(lab, &Proxy::Socks(six(daemon.socks()), None));
        assert_page(lab, &Proxy::Http(six(daemon.http()), None));
        let echo = UdpEcho::start();
        let back = client::udp_exchange_via_socks(six(daemon.socks()), None, echo.addr(), b"over IPv6");
        assert_eq!(back.unwrap(), b"over IPv6");
        for four in [daemon.socks(), daemon.http()] {
            assert_eq!(TcpStream::connect(four).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{four}");
        }
        assert_eq!(status(daemon)["session"]["socks"]["host"], "::1");
        let variables = daemon.xrat(&["env"]).ok().stdout;
        assert!(variables.contains(&format!("socks5h://[::1]:{}", daemon.socks().port())), "{variables}");
    });
}

#[test]
fn what_a_session_carries_is_counted() {
    /// More than everything else that happens meanwhile.
    const BODY: u64 = 1_000_000;
    connected(&[], |lab, daemon| {
        let traffic = || {
            let status = status(daemon);
            let bytes = |name: &str| status["session"]["traffic"][name].as_u64();
            bytes("uplink_bytes").zip(bytes("downlink_bytes")).unwrap_or_else(|| panic!("no counters in {status}"))
        };
        let before = traffic();
        let answer = client::get(&daemon.proxy(), &lab.origin.url(&format!("/bytes/{BODY}")), None).unwrap();
        assert_eq!(answer.body.len() as u64, BODY);
        let after = traffic();
        assert!((before.1 + BODY..before.1 + 2 * BODY).contains(&after.1), "{before:?} {after:?}");
        assert!((before.0 + 1..before.0 + BODY).contains(&after.0), "{before:?} {after:?}");
    });
}

#[test]
fn every_connection_outlives_the_command_that_connected() {
    connected(&[], |lab, daemon| {
        let mut kept = Kept::open(&daemon.proxy(), &lab.origin.url("/page"), None).unwrap();
        for _ in 0..3 {
            assert_eq!(kept.get("/page").unwrap().text(), PAGE);
            status(daemon);
        }
        daemon.xrat(&["disconnect"]).ok();
        kept.get("/page").expect_err("the session has ended");
        for door in [daemon.socks(), daemon.http()] {
            assert_eq!(TcpStream::connect(door).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
    });
}

/// The daemon's events, as any program would read them.
struct Events(BufReader<UnixStream>);

impl Events {
    fn subscribe(daemon: &Daemon) -> Self {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = json!({"protocol_version": 1, "request": {"type": "EventSubscribe"}});
        stream.write_all(format!("{request}\n").as_bytes()).unwrap();
        let mut events = Self(BufReader::new(stream));
        assert_eq!(events.next()["ok"], true);
        events
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("an event in time");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    }

    /// The next event about the node's health.
    fn health(&mut self) -> Value {
        loop {
            let event = self.next();
            if event["type"] == "HealthChanged" {
                return event;
            }
        }
    }
}

#[test]
fn the_first_exchange_proves_the_node() {
    for kind in Kind::ALL {
        let Some(lab) = Lab::start(kind) else { continue };
        let Some(daemon) = lab.daemon(kind, &[]) else { continue };
        let mut events = Events::subscribe(&daemon);
        let id = daemon.import(&[lab.server.link(NODE)])[0];
        lab.origin.answer("/generate_204", lab::origin::Canned::ok("any answer will do"));
        let connect = json!({"type": "RuntimeConnect", "payload": {"config_id": id}});
        let session = daemon.request(&connect).unwrap()["payload"].take();
        assert_eq!((&session["health"]["status"], &session["delay_ms"]), (&json!("unproven"), &Value::Null));
        let proof = events.health();
        assert_eq!(proof["session_id"], session["session_id"]);
        assert_eq!((&proof["health"]["status"], &proof["detail"]), (&json!("healthy"), &Value::Null));
        assert!(proof["delay_ms"].is_u64(), "{proof}");
        assert_eq!(status(&daemon)["session"]["health"], proof["health"]);
        assert!(lab.origin.hits("/generate_204") >= 1);
    }
}

#[test]
fn a_silent_node_is_degraded_then_failed_and_healthy_again_when_it_speaks() {
    const SETTINGS: [&str; 3] =
        ["testing.timeout_ms = 250", "runtime.health.interval_secs = 1", "runtime.health.failure_threshold = 2"];
    for kind in Kind::ALL {
        let Some(lab) = Lab::start(kind) else { continue };
        let Some(daemon) = lab.daemon(kind, &SETTINGS) else { continue };
        let relay = Relay::start(SocketAddr::from(([127, 0, 0, 1], lab.server.port_of(NODE))));
        relay.set(Mode::Swallow);
        let mut events = Events::subscribe(&daemon);
        let id = daemon.import(&[lab.server.link_through(NODE, relay.port())])[0];
        let connected = daemon.xrat(&["connect", &id.to_string()]).ok();
        assert!(connected.stderr.contains("no answer within 250 ms"), "{connected:?}");

        for (count, verdict) in [(1, "degraded"), (2, "failed"), (3, "failed")] {
            let event = events.health();
            assert_eq!(event["health"]["status"], verdict, "{event}");
            assert_eq!(event["health"]["consecutive_failures"], count, "{event}");
            assert_eq!(event["detail"], "no answer within 250 ms", "{event}");
        }
        // A node that is silent ends no session.
        let now = status(&daemon);
        assert_eq!((&now["state"], &now["session"]["health"]["status"]), (&json!("connected"), &json!("failed")));
        assert_eq!(lab.origin.requests(), 0);

        relay.set(Mode::Pass);
        // A check that began before may still fail.
        let event = std::iter::repeat_with(|| events.health()).find(|event| event["health"]["status"] != "failed");
        let event = event.unwrap();
        assert_eq!(event["health"]["status"], "healthy", "{event}");
        assert_eq!(event["health"]["consecutive_failures"], 0, "{event}");
        assert!(event["delay_ms"].is_u64(), "{event}");
        assert_page(&lab, &daemon.proxy());
    }
}
