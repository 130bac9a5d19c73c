//! What each engine can do and what is generated for it. That the engines agree: `tests/engine_api.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::num::NonZeroU16;

use serde_json::{Value, json};

use super::*;
use crate::config::{HttpHeader, Reality, Secret, Security, Tls, Transport};

mod transports;

/// An ECHConfigList with one configuration.
const ECH: &str = "AEH+DQA9AQAgACAAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHwAEAAEAAQAOcHVibGljLmV4YW1wbGUAAA==";

fn engine(family: Family, version: &str) -> Engine {
    Engine { family, version: version.parse().unwrap(), path: family.name().into() }
}

fn xray() -> Engine {
    engine(Family::Xray, "26.3.27")
}

fn v2ray() -> Engine {
    engine(Family::V2ray, "4.34.0")
}

fn vless(flow: Option<&str>) -> Protocol {
    Protocol::Vless {
        uuid: Secret::new("3b7a2f0e-6c1d-4f5a-9e8b-1c2d3e4f5a6b"),
        encryption: Secret::new("none"),
        flow: flow.map(str::to_owned),
    }
}

fn vmess(method: &str, alter_id: u16) -> Protocol {
    Protocol::Vmess { uuid: Secret::new("3b7a2f0e-6c1d-4f5a-9e8b-1c2d3e4f5a6b"), method: method.into(), alter_id }
}

fn shadowsocks(method: &str, plugin: Option<&str>) -> Protocol {
    Protocol::Shadowsocks { method: method.into(), password: Secret::new("p4ss"), plugin: plugin.map(Secret::new) }
}

fn tcp() -> Transport {
    Transport::Tcp { http_header: None }
}

fn ws(host: Option<&str>) -> Transport {
    Transport::Ws { path: "/p?ed=2048".into(), host: host.map(str::to_owned) }
}

fn reality() -> Security {
    Security::Reality(Reality {
        sni: Some("borrowed.test".into()),
        fingerprint: "Chrome".into(),
        public_key: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8".into(),
        short_id: "0123abcd".into(),
        spider_x: "/".into(),
        mldsa65_verify: None,
    })
}

fn config(protocol: Protocol, transport: Transport, security: Security) -> Config {
    let port = NonZeroU16::new(443).unwrap();
    Config { name: "n".into(), address: "node.test".into(), port, protocol, transport, security }
}

fn refusal(engine: &Engine, protocol: Protocol, transport: Transport, security: Security) -> String {
    let config = config(protocol, transport, security);
    let sockets = SessionFiles { socks: None, http: "/run/h".into(), api: "/run/a".into() };
    let refused = session_config(engine, &config, &sockets).expect_err("generated what the engine cannot do");
    assert_eq!(engine.supports(&config), Err(refused.clone()));
    refused.to_string()
}

fn accepts(engine: &Engine, protocol: Protocol, transport: Transport, security: Security) {
    engine.supports(&config(protocol, transport, security)).unwrap();
}

fn session(engine: &Engine, protocol: Protocol, transport: Transport, security: Security) -> Value {
    let sockets = SessionFiles { socks: None, http: "/run/h".into(), api: "/run/a".into() };
    session_config(engine, &config(protocol, transport, security), &sockets).unwrap()
}

#[test]
fn versions_are_read_from_what_engines_print() {
    let v2ray = "V2Ray 4.34.0 (user) 20230518-074445 (go1.19.8 linux/amd64)\nA unified platform for anti-censorship.\n";
    assert_eq!(parse_version(v2ray), Some((Family::V2ray, Version::new(4, 34, 0))));
    let five = "V2Ray 5.16.1 (V2Fly, a community-driven edition of V2Ray.) Custom (go1.22 linux/amd64)";
    assert_eq!(parse_version(five), Some((Family::V2ray, Version::new(5, 16, 1))));
    let xray = "warning: something\nXray 26.3.27 (Xray, Penetrates Everything.) Custom (go1.26.8 linux/amd64)\n";
    assert_eq!(parse_version(xray), Some((Family::Xray, Version::new(26, 3, 27))));
    assert_eq!(parse_version("sing-box version 1.11.0"), None);
    assert_eq!(parse_version("Xray is not a version"), None);
    assert_eq!(parse_version(""), None);
}

#[test]
fn versions_compare_by_number_and_print_as_written() {
    let version = |text: &str| text.parse::<Version>();
    assert!(version("26.10.1").unwrap() > version("26.9.30").unwrap());
    assert_eq!(version("1.8").unwrap(), Version::new(1, 8, 0));
    assert_eq!(version("5.0.8-rc1").unwrap().to_string(), "5.0.8");
    for bad in ["", "26", "v26.1.1", "1..2", "1.2.3.4", "99999999999.1"] {
        assert!(version(bad).is_err(), "{bad}");
    }
}

#[test]
fn each_family_has_its_command_line() {
    let line = |words: Vec<std::ffi::OsString>| words.join(" ".as_ref()).into_string().unwrap();
    let file = Path::new("/f.json");
    assert_eq!(line(xray().run_args(file)), "run -c /f.json");
    assert_eq!(line(xray().test_args(file)), "run -test -c /f.json");
    assert_eq!(line(v2ray().run_args(file)), "-config /f.json");
    assert_eq!(line(v2ray().test_args(file)), "-test -config /f.json");
    let five = engine(Family::V2ray, "5.16.1");
    assert_eq!(line(five.run_args(file)), "run -c /f.json");
    assert_eq!(line(five.test_args(file)), "test -c /f.json");
}

/// V2Ray would ignore each of these words and run, the first without any encryption.
#[test]
fn v2ray_refuses_what_it_would_ignore() {
    for version in ["4.34.0", "4.45.2", "5.16.1"] {
        let engine = engine(Family::V2ray, version);
        assert_eq!(
            refusal(&engine, vless(None), tcp(), reality()),
            format!("V2Ray {version} cannot do REALITY; Xray can (install it, or choose it with runtime.engine)")
        );
        let tls = |tls: Tls| Security::Tls(tls);
        let pinned = Tls { pinned_sha256: Some("ab".repeat(32)), ..Tls::default() };
        let named = Tls { verify_name: Some("a.test".into()), ..Tls::default() };
        let ech = Tls { ech: Some(ECH.into()), ..Tls::default() };
        let encrypted = Protocol::Vless {
            uuid: Secret::new("short"),
            encryption: Secret::new("mlkem768x25519plus.native.0rtt.s3cr3t"),
            flow: None,
        };
        for (protocol, security, feature) in [
            (vless(Some("xtls-rprx-vision")), tls(Tls::default()), "the flow \"xtls-rprx-vision\""),
            (vless(None), tls(pinned), "a pinned certificate"),
            (vless(None), tls(named), "a certificate verified for another name"),
            (vless(None), tls(ech), "an encrypted client hello"),
            (encrypted, Security::None, "VLESS encryption"),
            (shadowsocks("2022-blake3-aes-128-gcm", None), Security::None, "2022-blake3-aes-128-gcm"),
            (shadowsocks("xchacha20-ietf-poly1305", None), Security::None, "xchacha20-ietf-poly1305"),
        ] {
            let said = refusal(&engine, protocol, tcp(), security);
            assert!(said.contains(feature) && said.contains("; Xray can"), "{said}");
            assert!(!said.contains("s3cr3t"), "{said}");
        }
    }
    assert!(refusal(&v2ray(), vmess("zero", 0), tcp(), Security::None).contains("; Xray can"));
    accepts(&engine(Family::V2ray, "5.16.1"), vmess("zero", 0), tcp(), Security::None);
    let old = engine(Family::V2ray, "4.19.1");
    assert!(refusal(&old, vless(None), tcp(), Security::None).contains("V2Ray 4.34 or newer can"));
}

#[test]
fn what_only_changes_the_looks_is_no_reason_to_refuse() {
    let tls = Tls { fingerprint: Some("chrome".into()), ..Tls::default() };
    accepts(&v2ray(), vless(None), tcp(), Security::Tls(tls.clone()));
    let generated = session(&v2ray(), vless(None), tcp(), Security::Tls(tls));
    let stream = &generated["outbounds"][1]["streamSettings"];
    assert_eq!(stream["security"], "tls");
    assert_eq!(stream["tlsSettings"], json!({ "serverName": "node.test" }), "no word that V2Ray does not know");
}

#[test]
fn xray_refuses_by_version() {
    let careless = Tls { allow_insecure: true, ..Tls::default() };
    accepts(&engine(Family::Xray, "25.12.8"), vless(None), tcp(), Security::Tls(careless.clone()));
    accepts(&v2ray(), vless(None), tcp(), Security::Tls(careless.clone()));
    for version in ["26.1.31", "26.3.27", "26.7.28"] {
        let said = refusal(&engine(Family::Xray, version), vless(None), tcp(), Security::Tls(careless.clone()));
        assert!(said.contains("allowInsecure") && said.contains("V2Ray can"), "{said}");
    }
    let pinned = Tls { pinned_sha256: Some("ab".repeat(32)), ..careless };
    accepts(&xray(), vless(None), tcp(), Security::Tls(pinned.clone()));
    let said = refusal(&engine(Family::Xray, "25.12.8"), vless(None), tcp(), Security::Tls(pinned.clone()));
    assert!(said.contains("Xray 26.2.6 or newer can"), "{said}");
    let generated = session(&xray(), vless(None), tcp(), Security::Tls(pinned));
    let tls = &generated["outbounds"][1]["streamSettings"]["tlsSettings"];
    assert_eq!(tls["pinnedPeerCertSha256"], "ab".repeat(32));
    assert_eq!(tls.get("allowInsecure"), None, "the pin replaces it");

    accepts(&xray(), shadowsocks("none", None), tcp(), Security::None);
    let said = refusal(&engine(Family::Xray, "26.7.28"), shadowsocks("none", None), tcp(), Security::None);
    assert!(said.contains("V2Ray can"), "{said}");
    assert!(refusal(&xray(), vmess("auto", 64), tcp(), Security::None).contains("V2Ray can"));
    accepts(&v2ray(), vmess("auto", 64), tcp(), Security::None);
}

#[test]
fn xray_refuses_what_would_fail_on_each_connection_or_at_the_start() {
    let tls = || Security::Tls(Tls::default());
    let vision = || vless(Some("xtls-rprx-vision"));
    accepts(&xray(), vision(), tcp(), tls());
    accepts(&xray(), vision(), tcp(), reality());
    let odd = Tls { fingerprint: Some("netscape".into()), ..Tls::default() };
    let disguised = Transport::Tcp { http_header: Some(HttpHeader::default()) };
    for (protocol, transport, security) in [
        (vision(), tcp(), Security::None),
        (vision(), ws(None), tls()),
        (vision(), disguised, tls()),
        (vless(Some("xtls-rprx-direct")), tcp(), tls()),
        (vless(None), ws(None), reality()),
        (vless(None), tcp(), Security::Tls(odd)),
        (shadowsocks("rc4-md5", None), tcp(), Security::None),
    ] {
        let said = refusal(&xray(), protocol, transport, security);
        assert!(
            said.starts_with("Xray 26.3.27 cannot do ") && said.ends_with("; no engine that xrat knows can"),
            "{said}"
        );
    }
}

#[test]
fn what_no_engine_does_is_refused_by_each_without_a_credential() {
    for engine in [xray(), v2ray()] {
        for (options, name) in [
            ("obfs-local;obfs=tls;obfs-host=h1dden", "\"obfs-local\" without obfs=http"),
            ("v2ray-plugin;host=h1dden", "\"v2ray-plugin\" without mux=0"),
            ("v2ray-plugin;mode=quic;host=h1dden;mux=0", "\"v2ray-plugin\" in another mode than websocket"),
            ("v2ray-plugin;tls;cert=h1dden;mux=0", "\"v2ray-plugin\" with a certificate"),
            ("v2ray-plugin;server;host=h1dden;mux=0", "\"v2ray-plugin\" as a server"),
            ("shadow-tls;host=h1dden", "\"shadow-tls\""),
        ] {
            let said = refusal(&engine, shadowsocks("aes-256-gcm", Some(options)), tcp(), Security::None);
            assert!(said.contains(&format!("the Shadowsocks plugin {name};")) && !said.contains("h1dden"), "{said}");
        }
        let plugin = shadowsocks("aes-256-gcm", Some("obfs-local;obfs=http"));
        assert!(refusal(&engine, plugin, ws(None), Security::None).contains("over another transport"));
        let id = "0123456789012345678901234567890"; // 31 bytes
        let bad = Protocol::Vless { uuid: Secret::new(id), encryption: Secret::new("none"), flow: None };
        let said = refusal(&engine, bad, tcp(), Security::None);
        assert!(said.contains("user id") && !said.contains(id), "{said}");
        assert!(refusal(&engine, vmess("bogus", 0), tcp(), Security::None).contains("\"bogus\""));
        let empty = Protocol::Trojan { password: Secret::new("") };
        assert!(refusal(&engine, empty, tcp(), Security::None).contains("empty password"));
    }
}

#[test]
fn ids_are_what_engines_make_of_them() {
    let id = |text: &str| outbound::user_id(&Secret::new(text)).map(|id| id.hyphenated().to_string());
    let plain = "3b7a2f0e-6c1d-4f5a-9e8b-1c2d3e4f5a6b";
    assert_eq!(id(plain).as_deref(), Some(plain));
    assert_eq!(id(&plain.replace('-', "").to_uppercase()).as_deref(), Some(plain));
    // `xray uuid -i example`
    assert_eq!(id("example").as_deref(), Some("feb54431-301b-52bb-a6dd-e1e93e81bb9e"));
    assert!(id(&"x".repeat(30)).is_some());
    for bad in ["", &"x".repeat(31), &"x".repeat(32), &format!("{plain}0"), "{b7a2f0e-6c1d-4f5a-9e8b-1c2d3e4f5a6}"] {
        assert_eq!(id(bad), None, "{bad}");
    }
}

#[test]
fn a_session_has_one_way_out_and_no_public_way_in() {
    for engine in [xray(), v2ray()] {
        let generated = session(&engine, vless(None), tcp(), Security::None);
        assert_eq!(generated["log"]["access"], "none", "no destination is written anywhere");
        let [closed, node] = generated["outbounds"].as_array().unwrap().as_slice() else { panic!("{generated}") };
        assert_eq!(closed["protocol"], "blackhole", "what has no rule goes nowhere");
        assert_eq!(node["tag"], OUTBOUND_TAG);
        assert_eq!(
            generated["routing"]["rules"],
            json!([
                { "type": "field", "inboundTag": ["private-api"], "outboundTag": "api" },
                { "type": "field", "network": "tcp,udp", "outboundTag": OUTBOUND_TAG },
            ])
        );
        let inbounds = generated["inbounds"].as_array().unwrap();
        let tags: Vec<_> = inbounds.iter().map(|inbound| inbound["tag"].as_str().unwrap()).collect();
        assert_eq!(tags, ["private-http", "private-api"]);
        for inbound in inbounds {
            let unix = match engine.family {
                Family::Xray => inbound["listen"].as_str().unwrap().starts_with("/run/"),
                Family::V2ray => inbound["streamSettings"]["network"] == "domainsocket",
            };
            assert!(unix, "{inbound}");
        }
    }
}

#[test]
fn private_socks_is_for_v2ray_alone() {
    let sockets = SessionFiles { socks: Some("/run/s".into()), http: "/run/h".into(), api: "/run/a".into() };
    let config = config(vless(None), tcp(), Security::None);
    let generated = session_config(&v2ray(), &config, &sockets).unwrap();
    assert_eq!(generated["inbounds"][0]["streamSettings"]["dsSettings"]["path"], "/run/s");
    assert_eq!(generated["inbounds"][0]["settings"]["udp"], false);
    let said = session_config(&xray(), &config, &sockets).unwrap_err().to_string();
    assert!(said.contains("SOCKS on a Unix socket"), "{said}");
    let comma = SessionFiles { socks: None, http: "/run/a,b".into(), api: "/run/a".into() };
    session_config(&v2ray(), &config, &comma).unwrap();
    session_config(&xray(), &config, &comma).unwrap_err();
}

#[test]
fn each_protocol_has_its_settings() {
    let settings = |protocol| session(&xray(), protocol, tcp(), Security::None)["outbounds"][1]["settings"].clone();
    assert_eq!(
        settings(vless(None)),
        json!({ "vnext": [{ "address": "node.test", "port": 443, "users": [
            { "id": "3b7a2f0e-6c1d-4f5a-9e8b-1c2d3e4f5a6b", "encryption": "none" },
        ] }] })
    );
    assert_eq!(
        settings(vmess("auto", 0)),
        json!({ "vnext": [{ "address": "node.test", "port": 443, "users": [
            { "id": "3b7a2f0e-6c1d-4f5a-9e8b-1c2d3e4f5a6b", "security": "auto", "alterId": 0 },
        ] }] })
    );
    assert_eq!(
        settings(Protocol::Trojan { password: Secret::new("p:@") }),
        json!({ "servers": [{ "address": "node.test", "port": 443, "password": "p:@" }] })
    );
    assert_eq!(
        settings(shadowsocks("aes-256-gcm", None)),
        json!({ "servers": [{ "address": "node.test", "port": 443, "method": "aes-256-gcm", "password": "p4ss" }] })
    );
    let socks = Protocol::Socks { username: Some("u".into()), password: Some(Secret::new("p")) };
    assert_eq!(
        settings(socks),
        json!({ "servers": [{ "address": "node.test", "port": 443, "users": [{ "user": "u", "pass": "p" }] }] })
    );
    let open = Protocol::Http { username: None, password: None };
    assert_eq!(settings(open), json!({ "servers": [{ "address": "node.test", "port": 443 }] }));
}

#[test]
fn streams_say_host_and_server_name_where_the_engine_looks_for_them() {
    let stream = |engine: &Engine, transport, security| {
        session(engine, vless(None), transport, security)["outbounds"][1]["streamSettings"].clone()
    };
    let tls = Tls { alpn: vec!["h2".into(), "http/1.1".into()], ..Tls::default() };
    let secure = || Security::Tls(tls.clone());
    assert_eq!(
        stream(&v2ray(), ws(Some("host.test")), secure()),
        json!({
            "network": "ws", "security": "tls",
            "wsSettings": { "path": "/p?ed=2048", "headers": { "Host": "host.test" } },
            "tlsSettings": { "serverName": "host.test", "alpn": ["http/1.1"] },
        })
    );
    let newer = stream(&xray(), ws(Some("host.test")), secure());
    assert_eq!(newer["wsSettings"], json!({ "path": "/p?ed=2048", "host": "host.test" }));
    let older = stream(&engine(Family::Xray, "1.8.4"), ws(None), Security::None);
    assert_eq!(older["wsSettings"]["headers"]["Host"], "node.test");
    assert_eq!(stream(&xray(), tcp(), secure())["tlsSettings"]["alpn"], json!(["h2", "http/1.1"]));
    assert_eq!(stream(&xray(), tcp(), Security::None), json!({ "network": "tcp", "security": "none" }));

    let header = HttpHeader { hosts: vec!["a.test".into()], paths: Vec::new() };
    let disguised = stream(&v2ray(), Transport::Tcp { http_header: Some(header) }, Security::None);
    let request = &disguised["tcpSettings"]["header"]["request"];
    assert_eq!(disguised["tcpSettings"]["header"]["type"], "http");
    assert_eq!((&request["path"], &request["headers"]["Host"]), (&json!(["/"]), &json!(["a.test"])));

    assert_eq!(
        stream(&xray(), tcp(), reality())["realitySettings"],
        json!({
            "serverName": "borrowed.test", "fingerprint": "chrome", "shortId": "0123abcd", "spiderX": "/",
            "publicKey": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        })
    );
}

#[test]
fn an_ipv6_host_header_has_brackets() {
    let mut config = config(vless(None), ws(None), Security::None);
    config.address = "2001:db8::1".into();
    let stream = stream::settings(&xray(), &config, false);
    assert_eq!(stream["wsSettings"]["host"], "[2001:db8::1]");
}
