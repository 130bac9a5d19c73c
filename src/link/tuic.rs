//! `tuic://uuid:password@host:port?params#name`, version 5.

use super::security;
use super::text;
use super::url::Query;
use crate::config::{Config, Security, Tuic};

/// Writes the form that clients agree on.
pub(super) fn write(config: &Config, node: &Tuic) -> String {
    let mut query = Query::default();
    query.push_some("congestion_control", node.congestion_control.as_deref());
    query.push_some("udp_relay_mode", node.udp_relay_mode.as_deref());
    if let Security::Tls(tls) = &config.security {
        security::write_tls(tls, &mut query);
    }
    if node.disable_sni {
        query.push("disable_sni", "1");
    }
    let user = format!("{}:{}", text::encode(node.uuid.reveal()), text::encode(node.password.reveal()));
    format!("tuic://{user}@{}{}#{}", config.endpoint(), query.as_str(), text::encode(&config.name))
}
