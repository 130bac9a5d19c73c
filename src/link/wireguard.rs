//! `wireguard://secret-key@host:port?params#name`.

use super::text;
use super::url::Query;
use crate::config::{Config, Secret, Wireguard};

/// Writes v2rayN's form.
pub(super) fn write(config: &Config, node: &Wireguard) -> String {
    let mut query = Query::default();
    query.push("publickey", &node.public_key);
    query.push_some("presharedkey", node.preshared_key.as_ref().map(Secret::reveal));
    query.push("address", &node.addresses.join(","));
    if !node.reserved.is_empty() {
        let bytes: Vec<_> = node.reserved.iter().map(u8::to_string).collect();
        query.push("reserved", &bytes.join(","));
    }
    query.push_some("mtu", node.mtu.map(|mtu| mtu.to_string()).as_deref());
    query.push_some("keepalive", node.keep_alive_secs.map(|secs| secs.to_string()).as_deref());
    let (key, name) = (text::encode(node.secret_key.reveal()), text::encode(&config.name));
    format!("wireguard://{key}@{}{}#{name}", config.endpoint(), query.as_str())
}
