//! The file of an engine that carries many configs at once, each for the user who bears its tag.

use std::path::Path;

use serde_json::{Value, json};

use super::session::socket;
use super::{Engine, Family, Unsupported, inbound, outbound};
use crate::config::{Config, ConfigId, Protocol, Transport};

/// The tag of a config's outbound, and the name of the user who is sent there.
pub fn outbound_tag(id: ConfigId) -> String {
    format!("c{id}")
}

/// The JSON of an engine with one private HTTP inbound on the Unix socket `path`, for [`super::private::connect_as`]:
/// what comes in as the user [`outbound_tag`] goes out through that config, and everything else nowhere.
///
/// The value holds credentials, as of [`super::session_config`]. Engines refuse it as a whole when they refuse one of
/// the configs.
///
/// # Errors
/// [`Unsupported`] as of [`Engine::supports`] for the first config that is, and when the path cannot be told.
pub fn batch_config<'a>(
    engine: &Engine,
    configs: impl IntoIterator<Item = (ConfigId, &'a Config)>,
    path: &Path,
) -> Result<Value, Unsupported> {
    let (mut users, mut rules) = (Vec::new(), Vec::new());
    // The first outbound takes what no rule sends elsewhere.
    let mut outbounds = vec![json!({ "tag": "closed", "protocol": "blackhole" })];
    for (id, config) in configs {
        let tag = outbound_tag(id);
        outbounds.push(outbound::outbound(engine, config, &tag)?);
        rules.push(json!({ "type": "field", "user": [tag], "outboundTag": tag }));
        users.push(tag);
    }
    Ok(json!({
        // The access log would hold every destination, the warnings every failed exchange.
        "log": { "access": "none", "loglevel": "error" },
        "inbounds": [inbound::private_http_for(engine, &users, socket(engine, path)?)],
        "outbounds": outbounds,
        "routing": { "domainStrategy": "AsIs", "rules": rules },
    }))
}

/// Whether an engine with `other` takes the node of `one` away from the engine that uses it: a WireGuard node knows its
/// user by the key, and answers to wherever the last packet with it came from.
pub fn takes_over(one: &Config, other: &Config) -> bool {
    match (&one.protocol, &other.protocol) {
        (Protocol::Wireguard(one), Protocol::Wireguard(other)) => one.secret_key == other.secret_key,
        _ => false,
    }
}

/// Whether one engine may carry both configs at once without taking one for the other.
///
/// V2Ray keeps its connections for gRPC, HTTP/2 and QUIC by the server's address alone, and Xray those for Hysteria 2:
/// a second config of the same address would use what the first has opened, with the first one's credentials,
/// certificate and names. Two WireGuard nodes with one key are in each other's way anywhere ([`takes_over`]).
pub fn share_an_engine(engine: &Engine, one: &Config, other: &Config) -> bool {
    let pooled = |config: &Config| match engine.family {
        Family::V2ray => {
            matches!(config.transport, Transport::Grpc { .. } | Transport::H2 { .. } | Transport::Quic { .. })
        }
        Family::Xray => matches!(config.protocol, Protocol::Hysteria2(_)),
    };
    let same_address = one.address == other.address && one.port == other.port;
    let same_way = one.transport == other.transport && one.security == other.security;
    let one_node = same_way && (engine.family == Family::V2ray || one.protocol == other.protocol);
    let mixed_up = same_address && !one_node && pooled(one) && pooled(other);
    !mixed_up && !takes_over(one, other)
}

/// The config that an engine's last words name as the one it stumbled over: Xray tells the tag of an outbound that it
/// cannot read (but not of one that it cannot make), V2Ray 4 never does.
pub fn refused_tag(words: &str) -> Option<ConfigId> {
    let (_, rest) = words.split_once("outbound config with tag c")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).map_or(rest, |end| &rest[..end]);
    digits.parse().ok().map(ConfigId)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn the_named_config_is_found_in_xrays_words() {
        let words = "Failed to start: main: failed to load config files: [/r/test-1.json] > infra/conf: failed to build \
                     outbound config with tag c9999 > infra/conf: failed to build outbound handler for protocol \
                     shadowsocks > infra/conf: unknown cipher method: foo";
        assert_eq!(refused_tag(words), Some(ConfigId(9999)));
        assert_eq!(refused_tag("main: failed to create server > tag c7"), None);
        assert_eq!(refused_tag("outbound config with tag closed"), None);
    }
}
