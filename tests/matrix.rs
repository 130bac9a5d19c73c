//! Every protocol, transport and security with every engine: imported as a share link, connected, and used through
//! the public ports. What an engine cannot carry is refused, and what it cannot verify carries nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic with a message is the report")]

mod lab;

use std::net::SocketAddr;

use lab::client::{self, Proxy};
use lab::origin::{PAGE, UdpEcho, bytes};
use lab::server::LabLink;
use lab::tls::NODE_NAME;
use lab::{Authority, Daemon, Kind, Lab, Relay};

/// Larger than every buffer on the way.
const MUCH: usize = 2_000_000;

/// The nodes that a V2Ray server has; an Xray server has those that need Xray as well.
const COMMON_NODES: usize = 30;

/// What went wrong on the way through one node, if anything did.
fn trial(lab: &Lab, daemon: &Daemon, id: i64, link: &LabLink) -> Result<(), String> {
    connect(daemon, id, link)?;
    let (socks, http) = (daemon.proxy(), Proxy::Http(daemon.http(), None));
    let (plain, tls) = (lab.origin.url(""), lab.origin.https_url(""));
    let mut ways = vec![(&socks, &plain), (&http, &tls)];
    // For an `http://` URL every engine's HTTP proxy asks the far end to close when it has answered, and when an Xray
    // server closes VLESS over a websocket what its client has not read yet may be lost, with either engine.
    let lossy = lab.server.kind() == Kind::Xray && link.spec.protocol == "vless" && link.spec.network == "ws";
    if !lossy {
        ways.push((&http, &plain));
    }
    for (proxy, site) in ways {
        match client::get(proxy, &format!("{site}/page"), Some(&lab.authority)) {
            Ok(answer) if answer.text() == PAGE => {}
            other => return Err(format!("a page of {site} by {proxy:?}: {other:?}")),
        }
        match client::get(proxy, &format!("{site}/bytes/{MUCH}"), Some(&lab.authority)) {
            Ok(answer) if answer.body == bytes(MUCH) => {}
            Ok(answer) => return Err(format!("a download of {site} by {proxy:?}: {} bytes", answer.body.len())),
            Err(error) => return Err(format!("a download of {site} by {proxy:?}: {:?}", error.kind())),
        }
    }
    Ok(())
}

/// `xrat connect`, which must report the first exchange as well.
fn connect(daemon: &Daemon, id: i64, link: &LabLink) -> Result<(), String> {
    // A REALITY server that has just started lets its first visitor wait for 5 s, while it studies the site that it
    // shows to strangers.
    let attempts = if link.spec.security == "reality" { 3 } else { 1 };
    let mut last = None;
    for _ in 0..attempts {
        let connected = daemon.xrat(&["connect", &id.to_string()]);
        if connected.code == 0 && connected.stdout.contains("Healthy: ") {
            return Ok(());
        }
        daemon.xrat(&["disconnect"]);
        last = Some(connected);
    }
    Err(format!("connect: {last:?}"))
}

/// Every node of a server of one kind carries traffic for a daemon whose engine is of the other, or the same, kind.
fn every_node_carries_traffic(server: Kind, client: Kind) {
    let Some(lab) = Lab::start(server) else { return };
    let Some(daemon) = lab.daemon(client, &[]) else { return };
    let mut links = lab.server.links();
    links.retain(|link| link.suits(client));
    let special = links.iter().filter(|link| !link.needs.is_empty()).count();
    assert_eq!(links.len() - special, COMMON_NODES, "{:?}", names(&links));
    assert_eq!(special > 0, server == Kind::Xray && client == Kind::Xray, "{:?}", names(&links));

    let ids = daemon.import(&links);
    let mut failed = Vec::new();
    for (link, id) in links.iter().zip(ids) {
        if let Err(what) = trial(&lab, &daemon, id, link) {
            failed.push(format!("{}: {what}", link.name));
        }
        daemon.xrat(&["disconnect"]);
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    // What came back came from the far end.
    assert!(lab.origin.hits("/page") >= 2 * links.len());
}

fn names(links: &[LabLink]) -> Vec<&str> {
    links.iter().map(|link| link.name.as_str()).collect()
}

#[test]
fn v2ray_through_v2ray() {
    every_node_carries_traffic(Kind::V2ray, Kind::V2ray);
}

#[test]
fn v2ray_through_xray() {
    every_node_carries_traffic(Kind::Xray, Kind::V2ray);
}

#[test]
fn xray_through_v2ray() {
    every_node_carries_traffic(Kind::V2ray, Kind::Xray);
}

#[test]
fn xray_through_xray() {
    every_node_carries_traffic(Kind::Xray, Kind::Xray);
}

/// A node of the lab's server, counted on its way.
fn counted(lab: &Lab, name: &str) -> (Relay, LabLink) {
    let relay = Relay::start(SocketAddr::from(([127, 0, 0, 1], lab.server.port_of(name))));
    let link = lab.server.link_through(name, relay.port());
    (relay, link)
}

/// The nodes that V2Ray would run in plain text or not at all are refused before anything is started, and not one
/// connection reaches their server. Xray, on the same way, does reach it.
#[test]
fn v2ray_is_not_started_for_what_only_xray_can() {
    let Some(lab) = Lab::start(Kind::Xray) else { return };
    let special = [
        ("vless-tcp-reality", "REALITY"),
        ("vless-tcp-reality-vision", "xtls-rprx-vision"),
        ("vless-tcp-tls-vision", "xtls-rprx-vision"),
        ("shadowsocks-2022-blake3-aes-128-gcm-tcp-none", "2022-blake3-aes-128-gcm"),
    ];
    let (relays, links): (Vec<_>, Vec<_>) = special.iter().map(|(name, _)| counted(&lab, name)).unzip();

    if let Some(daemon) = lab.daemon(Kind::V2ray, &[]) {
        for (id, (name, feature)) in daemon.import(&links).into_iter().zip(special) {
            let refused = daemon.xrat(&["connect", &id.to_string()]).exits(2);
            let said = refused.stderr;
            for words in ["V2Ray ", "cannot do", feature, "Xray can"] {
                assert!(said.contains(words), "{name}: {words:?} is not in {said:?}");
            }
            let status = daemon.xrat(&["status", "--json"]).ok().json();
            assert_eq!((&status["state"], &status["session"]), (&"disconnected".into(), &().into()), "{name}");
            assert_eq!(daemon.engine_pids(), Vec::<u32>::new(), "{name}");
        }
        for (relay, link) in relays.iter().zip(&links) {
            assert_eq!((relay.accepted(), relay.upstream_bytes()), (0, 0), "{}", link.name);
        }
    }
    let Some(daemon) = lab.daemon(Kind::Xray, &[]) else { return };
    for (id, (relay, link)) in daemon.import(&links).into_iter().zip(relays.iter().zip(&links)) {
        assert_eq!(trial(&lab, &daemon, id, link), Ok(()), "{}", link.name);
        daemon.xrat(&["disconnect"]).ok();
        assert!(relay.accepted() > 0 && relay.upstream_bytes() > 0, "{}", link.name);
    }
}

/// A node that TLS should keep out: `connect` says that nothing came through, programs get nothing, and the request
/// never reaches the far end.
fn carries_nothing(lab: &Lab, daemon: &Daemon, id: i64, what: &str) {
    let connected = daemon.xrat(&["connect", &id.to_string()]).ok();
    assert!(!connected.stdout.contains("Healthy"), "{what}: {connected:?}");
    assert!(connected.stderr.contains("nothing came through the node"), "{what}: {connected:?}");
    for proxy in [daemon.proxy(), Proxy::Http(daemon.http(), None)] {
        let answer = client::get(&proxy, &lab.origin.url("/page"), None);
        // An HTTP proxy may say itself that it failed.
        assert!(answer.as_ref().map_or(true, |answer| answer.status >= 500), "{what}: {answer:?}");
    }
    daemon.xrat(&["disconnect"]).ok();
    assert_eq!(lab.origin.requests(), 0, "{what}");
}

#[test]
fn a_certificate_of_another_authority_carries_nothing() {
    for client in Kind::ALL {
        let Some(lab) = Lab::start(client) else { continue };
        let other = Authority::new();
        let Some(daemon) = lab.daemon_that_trusts(&other, client, &[]) else { continue };
        let links = ["trojan-tcp-tls", "vmess-ws-tls"].map(|name| lab.server.link(name));
        for (id, link) in daemon.import(&links).into_iter().zip(&links) {
            carries_nothing(&lab, &daemon, id, &format!("{} with {}", link.name, client.name()));
        }
    }
}

#[test]
fn a_certificate_for_another_name_carries_nothing() {
    for client in Kind::ALL {
        let Some(lab) = Lab::start(client) else { continue };
        let Some(daemon) = lab.daemon(client, &[]) else { continue };
        let mut link = lab.server.link("vless-tcp-tls");
        link.link = link.link.replace(NODE_NAME, "other.test");
        let id = daemon.import(std::slice::from_ref(&link))[0];
        carries_nothing(&lab, &daemon, id, client.name());
    }
}

#[test]
fn datagrams_come_back_through_the_socks_port() {
    let echo = UdpEcho::start();
    for client in Kind::ALL {
        let Some(lab) = Lab::start(client) else { continue };
        let Some(daemon) = lab.daemon(client, &[]) else { continue };
        let nodes = ["vless-tcp-none", "vmess-ws-tls", "trojan-tcp-tls", "shadowsocks-aes-256-gcm-tcp-none"];
        let links = nodes.map(|name| lab.server.link(name));
        for (id, link) in daemon.import(&links).into_iter().zip(&links) {
            daemon.xrat(&["connect", &id.to_string()]).ok();
            let sent = format!("{} over UDP", link.name);
            let back = client::udp_exchange_via_socks(daemon.socks(), None, echo.addr(), sent.as_bytes());
            assert_eq!(back.unwrap(), sent.as_bytes(), "{} with {}", link.name, client.name());
            daemon.xrat(&["disconnect"]).ok();
        }
    }
}
