//! The private inbounds of an engine's file: Unix sockets for the daemon alone.
//!
//! Public inbounds are not in the file; they come and go through [`super::api`].

use serde_json::{Map, Value, json};

use super::{Engine, Family, private, v2ray, xray};

/// SOCKS for the daemon, without UDP (which would open a public UDP port).
pub(super) fn private_socks(engine: &Engine, path: &str) -> Value {
    unix(engine, "private-socks", "socks", json!({ "auth": "noauth", "udp": false }), path)
}

/// HTTP for the daemon.
pub(super) fn private_http(engine: &Engine, path: &str) -> Value {
    unix(engine, "private-http", "http", json!({}), path)
}

/// HTTP for the daemon, with a user for each of many outbounds.
pub(super) fn private_http_for(engine: &Engine, users: &[String], path: &str) -> Value {
    let accounts: Vec<_> = users.iter().map(|user| json!({ "user": user, "pass": private::PASSWORD })).collect();
    unix(engine, "private-http", "http", json!({ "accounts": accounts }), path)
}

/// The door to the API: whatever comes in is routed to the engine's own gRPC server.
pub(super) fn api(engine: &Engine, tag: &str, path: &str) -> Value {
    // Xray opens no Unix socket for an inbound that does not name this network, and panics without a port.
    let network = match engine.family {
        Family::Xray => "unix",
        Family::V2ray => "tcp",
    };
    let settings = json!({ "address": "127.0.0.1", "port": 1, "network": network });
    unix(engine, tag, "dokodemo-door", settings, path)
}

fn unix(engine: &Engine, tag: &str, protocol: &str, settings: Value, path: &str) -> Value {
    let mut inbound = Map::from_iter([
        ("tag".to_owned(), tag.into()),
        ("protocol".to_owned(), protocol.into()),
        ("settings".to_owned(), settings),
    ]);
    match engine.family {
        Family::Xray => xray::listen(path, &mut inbound),
        Family::V2ray => v2ray::listen(path, &mut inbound),
    }
    inbound.into()
}
