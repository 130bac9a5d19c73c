//! `streamSettings`: transport and security of an outbound.

use serde_json::{Map, Value, json};

use super::{Engine, Family, v2ray, xray};
use crate::config::{Config, HttpHeader, Protocol, Reality, Security, Tls, Transport};

/// Sent by the HTTP disguise of TCP; both engines replace all their own headers as soon as one is given.
const USER_AGENT: &str =
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36";

/// The ALPN name of HTTP/1.1.
const HTTP_1_1: &str = "http/1.1";

/// The settings of a config that passed [`Engine::supports`].
pub(super) fn settings(engine: &Engine, config: &Config) -> Value {
    let mut settings = Map::new();
    // `raw`, Xray's newer word for it, is unknown to V2Ray; both know `tcp`.
    settings.insert("network".into(), config.transport.name().into());
    settings.insert("security".into(), config.security.name().into());
    match &config.transport {
        Transport::Tcp { http_header: None } => {}
        Transport::Tcp { http_header: Some(header) } => {
            settings.insert("tcpSettings".into(), json!({ "header": disguise(header) }));
        }
        Transport::Ws { path, .. } => {
            let host = host_header(config.effective_host().unwrap_or(&config.address));
            let ws = match engine.family {
                Family::Xray => xray::ws(engine.version, path, &host),
                Family::V2ray => v2ray::ws(path, &host),
            };
            settings.insert("wsSettings".into(), ws);
        }
        // `Engine::supports` lets none of them come here.
        _ => {}
    }
    let sni = config.effective_sni().unwrap_or(&config.address);
    match &config.security {
        Security::None => {}
        Security::Tls(tls) => {
            settings.insert("tlsSettings".into(), tls_settings(engine, config, tls, sni));
        }
        Security::Reality(reality) => {
            settings.insert("realitySettings".into(), reality_settings(reality, sni));
        }
    }
    settings.into()
}

/// A bare IPv6 address is no Host header.
fn host_header(host: &str) -> String {
    if host.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() }
}

/// The `http` header. Without hosts the engine's own headers stay, and with them the host that it makes up.
fn disguise(header: &HttpHeader) -> Value {
    let paths = if header.paths.is_empty() { vec!["/".to_owned()] } else { header.paths.clone() };
    let mut request = Map::from_iter([
        ("version".to_owned(), "1.1".into()),
        ("method".to_owned(), "GET".into()),
        ("path".to_owned(), paths.into()),
    ]);
    if !header.hosts.is_empty() {
        request.insert(
            "headers".into(),
            json!({
                "Host": header.hosts,
                "User-Agent": [USER_AGENT],
                "Accept-Encoding": ["gzip, deflate"],
                "Connection": ["keep-alive"],
                "Pragma": ["no-cache"],
            }),
        );
    }
    json!({ "type": "http", "request": request })
}

/// The server name is always written: the engines' own defaults differ (V2Ray ignores the WebSocket host).
fn tls_settings(engine: &Engine, config: &Config, tls: &Tls, sni: &str) -> Value {
    let mut settings = Map::from_iter([("serverName".to_owned(), sni.into())]);
    let alpn = alpn(config, tls);
    if !alpn.is_empty() {
        settings.insert("alpn".into(), alpn.into());
    }
    if tls.allow_insecure {
        settings.insert("allowInsecure".into(), true.into());
    }
    if engine.family == Family::Xray {
        xray::tls(tls, &mut settings);
    }
    settings.into()
}

/// The engines' WebSocket clients speak HTTP/1.1 whatever was negotiated, so `h2` is not offered there. For an HTTP
/// proxy they would use an `h2` that a server negotiates and cannot speak: unless the link asks for it, it is not offered.
fn alpn<'a>(config: &Config, tls: &'a Tls) -> Vec<&'a str> {
    let offered = tls.alpn.iter().map(String::as_str);
    match (&config.transport, &config.protocol) {
        (Transport::Ws { .. }, _) => offered.filter(|name| *name == HTTP_1_1).collect(),
        (Transport::Tcp { .. }, Protocol::Http { .. }) if tls.alpn.is_empty() => vec![HTTP_1_1],
        _ => offered.collect(),
    }
}

fn reality_settings(reality: &Reality, sni: &str) -> Value {
    let mut settings = json!({
        "serverName": sni,
        "fingerprint": reality.fingerprint.to_ascii_lowercase(),
        "publicKey": reality.public_key,
        "shortId": reality.short_id,
        "spiderX": reality.spider_x,
    });
    if let Some(key) = &reality.mldsa65_verify {
        settings["mldsa65Verify"] = key.as_str().into();
    }
    settings
}
