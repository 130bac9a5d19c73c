//! `streamSettings`: transport and security of an outbound.

use serde_json::{Map, Value, json};

use super::{Engine, Family, transport, xray};
use crate::config::{Config, Protocol, Reality, Security, Tls, Transport};

/// The ALPN name of HTTP/1.1.
const HTTP_1_1: &str = "http/1.1";
/// The ALPN name of HTTP/2.
const HTTP_2: &str = "h2";
/// The ALPN name of HTTP/3.
const HTTP_3: &str = "h3";

/// The settings of a config that the engine can run. `upgrade` is [`super::plugin::Unfolded::upgrade`].
pub(super) fn settings(engine: &Engine, config: &Config, upgrade: bool) -> Value {
    let mut settings = Map::new();
    transport::write(engine, config, upgrade, &mut settings);
    settings.insert("security".into(), config.security.name().into());
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

/// WebSocket and HTTP upgrades speak HTTP/1.1 whatever was negotiated, so `h2` is not offered there; gRPC and the HTTP
/// transport speak `h2` and nothing else, Hysteria 2 `h3`. For an HTTP proxy the engines would use an `h2` that a server
/// negotiates and cannot speak: unless the link asks for it, it is not offered.
fn alpn<'a>(config: &Config, tls: &'a Tls) -> Vec<&'a str> {
    let offered = tls.alpn.iter().map(String::as_str);
    match (&config.transport, &config.protocol) {
        (Transport::Ws { .. } | Transport::HttpUpgrade { .. }, _) => offered.filter(|name| *name == HTTP_1_1).collect(),
        (Transport::Grpc { .. } | Transport::H2 { .. }, _) if !tls.alpn.is_empty() => vec![HTTP_2],
        (Transport::Udp, _) if tls.alpn.is_empty() => vec![HTTP_3],
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
