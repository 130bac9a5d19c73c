//! `hysteria2://auth@host:port/?params#name`.
//!
//! Source: the URI scheme on hysteria's own site; several ports stand in the place of one.

use super::security;
use super::text;
use super::url::Query;
use crate::config::{Config, Hysteria2, Security};

/// Writes the standard form; `mport` is other clients' word for what a URL cannot hold in its port.
pub(super) fn write(config: &Config, node: &Hysteria2) -> String {
    let mut query = Query::default();
    if let Some(obfs) = &node.obfs {
        query.push("obfs", &obfs.kind);
        query.push("obfs-password", obfs.password.reveal());
    }
    query.push_some("mport", node.ports.as_deref());
    query.push_some("hop-interval", node.hop_secs.map(|secs| secs.to_string()).as_deref());
    if let Security::Tls(tls) = &config.security {
        security::write_tls(tls, &mut query);
    }
    let (auth, name) = (text::encode(node.auth.reveal()), text::encode(&config.name));
    format!("hysteria2://{auth}@{}{}#{name}", config.endpoint(), query.as_str())
}
