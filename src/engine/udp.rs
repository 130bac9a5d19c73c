//! Hysteria 2 and WireGuard, the protocols that fill UDP by themselves. Xray alone has them.
//!
//! Source: `infra/conf`, `transport/internet/hysteria` and `proxy/wireguard` of Xray-core 26.3.27 (run here).

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{Lack, Version, keys};
use crate::config::{Config, Hysteria2, Obfs, Secret, Security, Wireguard};

/// The first Xray with Hysteria 2 in the form that is written here.
const HYSTERIA: Version = Version::new(26, 3, 27);
/// `noKernelTun`.
const WIREGUARD: Version = Version::new(24, 12, 31);
/// Shorter ones fail on each connection.
const LEAST_OBFS_PASSWORD: usize = 4;
/// Seconds between two hops: Hysteria's own, and the fewest that it allows.
const HOP_SECS: u32 = 30;
const LEAST_HOP_SECS: u32 = 5;
/// The smallest packet that every IPv4 host takes.
const LEAST_MTU: u16 = 576;
/// Bytes of every key of WireGuard.
const KEY_BYTES: usize = 32;

/// Whether Xray of this version can run the node.
pub(super) fn check_hysteria(version: Version, node: &Hysteria2, security: &Security) -> Result<(), Lack> {
    if version < HYSTERIA {
        return Err(Lack::but("Xray 26.3.27 or newer", "Hysteria 2"));
    }
    if !matches!(security, Security::Tls(_)) {
        return Err(Lack::none(format!("Hysteria 2 with the security {}", security.name())));
    }
    if node.ports.as_deref().is_some_and(|ports| !are_ports(ports)) {
        return Err(Lack::none("Hysteria 2 with ports that are none"));
    }
    match &node.obfs {
        Some(Obfs { kind, .. }) if kind != "salamander" => Err(Lack::none(format!("the Hysteria 2 obfs {kind:?}"))),
        Some(Obfs { password, .. }) if password.reveal().len() < LEAST_OBFS_PASSWORD => {
            Err(Lack::none("a Hysteria 2 obfs password of fewer than 4 bytes"))
        }
        _ => Ok(()),
    }
}

/// `443,5000-6000`.
fn are_ports(text: &str) -> bool {
    let port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
    text.split(',').all(|part| match part.split_once('-') {
        Some((from, to)) => port(from).zip(port(to)).is_some_and(|(from, to)| 0 < from && from <= to),
        None => port(part).is_some_and(|port| port > 0),
    })
}

/// The `settings` of the outbound; the rest is the stream's.
pub(super) fn hysteria(config: &Config) -> Value {
    json!({ "version": 2, "address": config.address, "port": config.port })
}

/// Writes `hysteriaSettings` and what disguises the packets.
pub(super) fn write_hysteria(config: &Config, node: &Hysteria2, stream: &mut Map<String, Value>) {
    stream.insert("hysteriaSettings".into(), json!({ "version": 2, "auth": node.auth.reveal() }));
    let mut mask = Map::new();
    if let Some(obfs) = &node.obfs {
        mask.insert("udp".into(), json!([{ "type": obfs.kind, "settings": { "password": obfs.password.reveal() } }]));
    }
    let alone = config.port.to_string();
    if let Some(ports) = node.ports.as_deref().filter(|ports| *ports != alone) {
        let secs = node.hop_secs.unwrap_or(HOP_SECS).clamp(LEAST_HOP_SECS, i32::MAX.unsigned_abs());
        mask.insert("quicParams".into(), json!({ "udpHop": { "ports": ports, "interval": secs } }));
    }
    if !mask.is_empty() {
        stream.insert("finalmask".into(), mask.into());
    }
}

/// Whether Xray of this version can run the node.
pub(super) fn check_wireguard(version: Version, node: &Wireguard, security: &Security) -> Result<(), Lack> {
    let lack = |feature: &str| Err(Lack::none(feature));
    if version < WIREGUARD {
        return Err(Lack::but("Xray 24.12.31 or newer", "WireGuard"));
    }
    if *security != Security::None {
        return Err(Lack::none(format!("WireGuard with the security {}", security.name())));
    }
    let secret = [Some(&node.secret_key), node.preshared_key.as_ref()];
    let keys = secret.into_iter().flatten().map(Secret::reveal).chain([node.public_key.as_str()]);
    if keys.into_iter().any(|key| !keys::is_standard(key, KEY_BYTES)) {
        return lack("WireGuard with a key that is not base64 of 32 bytes");
    }
    if node.addresses.is_empty() || node.addresses.iter().any(|address| own_address(address).is_none()) {
        return lack("WireGuard without an address of its own");
    }
    if !matches!(node.reserved.len(), 0 | 3) {
        return lack("WireGuard with other than three reserved bytes");
    }
    if node.mtu.is_some_and(|mtu| mtu < LEAST_MTU) {
        return lack("WireGuard with an mtu below 576");
    }
    Ok(())
}

/// The address itself: Xray wants no more, while links write the prefix of the network that it is in.
fn own_address(text: &str) -> Option<IpAddr> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    bits.is_none_or(|bits| bits <= most).then_some(address)
}

/// The `settings` of the outbound. It has no stream.
pub(super) fn wireguard(config: &Config, node: &Wireguard) -> Value {
    let mut peer = json!({ "publicKey": node.public_key, "endpoint": config.endpoint() });
    if let Some(key) = &node.preshared_key {
        peer["preSharedKey"] = key.reveal().into();
    }
    if let Some(secs) = node.keep_alive_secs {
        peer["keepAlive"] = secs.into();
    }
    let addresses: Vec<_> = node.addresses.iter().filter_map(|text| own_address(text)).collect();
    let mut settings = json!({
        "secretKey": node.secret_key.reveal(),
        "address": addresses,
        "peers": [peer],
        // Otherwise an engine with the right to do so would make a network device and routes.
        "noKernelTun": true,
    });
    if !node.reserved.is_empty() {
        settings["reserved"] = node.reserved.as_slice().into();
    }
    if let Some(mtu) = node.mtu {
        settings["mtu"] = mtu.into();
    }
    settings
}

/// Who is asked for names in a WireGuard session, through the tunnel: its node carries packets and resolves nothing.
const RESOLVERS: [&str; 2] = ["1.1.1.1", "8.8.8.8"];

/// The `dns` of a session: names are resolved through the tunnel, and the node's own name, without which there is none,
/// by the system. Without this Xray asks the system for every name, past the tunnel.
pub(super) fn wireguard_dns(config: &Config) -> Value {
    let mut servers: Vec<Value> = RESOLVERS.map(Value::from).into();
    if config.address.parse::<IpAddr>().is_err() {
        let node = format!("full:{}", config.address);
        servers.insert(0, json!({ "address": "localhost", "domains": [node], "skipFallback": true }));
    }
    // A node whose name the system does not know is not there: its name must not go into the tunnel that leads to it.
    json!({ "servers": servers, "disableFallbackIfMatch": true })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_a_list_of_ports_and_ranges() {
        for good in ["443", "443,5000-6000", "1-65535"] {
            assert!(are_ports(good), "{good}");
        }
        for bad in ["", "0", "65536", "6000-5000", "443,", "a", "+1", "1-2-3", " 1"] {
            assert!(!are_ports(bad), "{bad}");
        }
    }

    #[test]
    fn an_address_of_ones_own_loses_its_prefix() {
        let own = |text| own_address(text).map(|address| address.to_string());
        assert_eq!(own("10.0.0.2/24").as_deref(), Some("10.0.0.2"));
        assert_eq!(own("fd00::2/64").as_deref(), Some("fd00::2"));
        assert_eq!(own("172.16.0.2").as_deref(), Some("172.16.0.2"));
        for bad in ["10.0.0.2/33", "10.0.0/24", "10.0.0.2/", "name"] {
            assert_eq!(own(bad), None, "{bad}");
        }
    }
}
