//! The settings of each transport in an engine's file.

use serde_json::{Map, Value, json};

use super::{Engine, Family, kcp, udp, v2ray, xhttp, xray};
use crate::config::{Config, HttpHeader, Protocol, Secret, Transport};

/// Sent by the HTTP disguise of TCP; both engines replace all their own headers as soon as one is given.
const USER_AGENT: &str =
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36";
/// The engine takes one of them for each connection: a visitor with one key for ever would be a strange one.
const UPGRADE_KEYS: u8 = 16;

/// Writes `network` and the settings of the transport. `upgrade` is [`super::plugin::Unfolded::upgrade`].
pub(super) fn write(engine: &Engine, config: &Config, upgrade: bool, stream: &mut Map<String, Value>) {
    // `raw`, Xray's newer word for it, is unknown to V2Ray; both know `tcp`.
    let mut network = config.transport.name();
    let mut put = |key: &str, value: Value| drop(stream.insert(key.into(), value));
    match &config.transport {
        Transport::Tcp { http_header: None } => {}
        Transport::Tcp { http_header: Some(header) } => {
            put("tcpSettings", json!({ "header": disguise(header, upgrade) }));
        }
        Transport::Ws { path, .. } => {
            let host = host_header(config);
            let settings = match engine.family {
                Family::Xray => xray::ws(engine.version, path, &host),
                Family::V2ray => v2ray::ws(path, &host),
            };
            put("wsSettings", settings);
        }
        Transport::HttpUpgrade { path, .. } => {
            put("httpupgradeSettings", json!({ "path": path, "host": host_header(config) }));
        }
        Transport::Xhttp { path, mode, extra, .. } => {
            let mut settings = json!({ "path": path, "host": host_header(config), "mode": mode });
            if !extra.is_empty() {
                settings["extra"] = xhttp::extra(engine.version, extra).into();
            }
            put("xhttpSettings", settings);
        }
        Transport::Grpc { service_name, multi, authority } => {
            let mut settings = json!({ "serviceName": service_name });
            // V2Ray knows neither of them, and has none by now.
            if *multi {
                settings["multiMode"] = true.into();
            }
            if let Some(authority) = authority {
                settings["authority"] = authority.as_str().into();
            }
            put("grpcSettings", settings);
        }
        Transport::Kcp { header, seed, mtu, tti } => {
            kcp::write(engine.family, engine.version, (header, seed.as_ref()), (*mtu, *tti), stream);
        }
        Transport::H2 { path, hosts } => {
            // Without a host V2Ray would ask for www.example.com.
            let usual = || vec![config.effective_sni().unwrap_or(&config.address).to_owned()];
            let hosts = if hosts.is_empty() { usual() } else { hosts.clone() };
            put("httpSettings", json!({ "path": path, "host": hosts }));
        }
        Transport::Quic { cipher, key, header } => {
            let key = key.as_ref().map_or("", Secret::reveal);
            put("quicSettings", json!({ "security": cipher, "key": key, "header": { "type": header } }));
        }
        Transport::Udp => {
            if let Protocol::Hysteria2(node) = &config.protocol {
                network = "hysteria";
                udp::write_hysteria(config, node, stream);
            }
        }
    }
    stream.insert("network".into(), network.into());
}

/// The Host header of the transport; a bare IPv6 address is none.
fn host_header(config: &Config) -> String {
    let host = config.effective_host().unwrap_or(&config.address);
    if host.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() }
}

/// The `http` header. Without hosts the engine's own headers stay, and with them the host that it makes up.
fn disguise(header: &HttpHeader, upgrade: bool) -> Value {
    let paths = if header.paths.is_empty() { vec!["/".to_owned()] } else { header.paths.clone() };
    let mut request = Map::from_iter([
        ("version".to_owned(), "1.1".into()),
        ("method".to_owned(), "GET".into()),
        ("path".to_owned(), paths.into()),
    ]);
    let headers = match header.hosts.is_empty() {
        true => None,
        false if upgrade => Some(json!({
            "Host": header.hosts,
            "User-Agent": [USER_AGENT],
            "Upgrade": ["websocket"],
            "Connection": ["Upgrade"],
            "Sec-WebSocket-Key": upgrade_keys(),
        })),
        false => Some(json!({
            "Host": header.hosts,
            "User-Agent": [USER_AGENT],
            "Accept-Encoding": ["gzip, deflate"],
            "Connection": ["keep-alive"],
            "Pragma": ["no-cache"],
        })),
    };
    if let Some(headers) = headers {
        request.insert("headers".into(), headers);
    }
    json!({ "type": "http", "request": request })
}

/// Keys as a browser makes them.
fn upgrade_keys() -> Vec<String> {
    use base64::Engine as _;
    let key = || {
        // Six bits of a random UUID are none.
        let [one, other] = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()].map(uuid::Uuid::into_bytes);
        base64::prelude::BASE64_STANDARD.encode([&one[..6], &one[9..], &other[..3]].concat())
    };
    (0..UPGRADE_KEYS).map(|_| key()).collect()
}
