//! `trojan://password@host:port?params#name`, and `trojan-go://`.
//!
//! There is no specification; this is what v2rayN, trojan-url and Sub-Store agree on: TLS and port 443 by default.

use std::num::NonZeroU16;

use super::error::LinkError;
use super::security::{self, Rules};
use super::url::{Params, Query, Tail, credential};
use super::{Place, text, transport};
use crate::config::{Config, Protocol, Secret};

const DEFAULT_PORT: Option<NonZeroU16> = NonZeroU16::new(443);

/// Reads what follows `trojan://`.
pub(super) fn parse(rest: &str) -> Result<Config, LinkError> {
    let mut tail = Tail::split(rest);
    let (password, place) = who(&tail)?;
    // The words of trojan-qt5 and Shadowrocket for WebSocket.
    if tail.params.flag(&["ws"])? {
        tail.params.rename("wspath", "path");
        tail.params.rename("wshost", "host");
        tail.params.push("type", Some("ws"), "ws".to_owned());
    }
    build(place, password, &tail.params)
}

/// Reads what follows `trojan-go://`: always TLS, `original` or WebSocket inside.
///
/// Source: trojan-go's own proposal for share links.
pub(super) fn parse_go(rest: &str) -> Result<Config, LinkError> {
    let mut tail = Tail::split(rest);
    let (password, place) = who(&tail)?;
    // It changes what is spoken, and no engine here speaks it.
    if let Some(layer) = tail.params.secret(&["encryption"])?.filter(|layer| layer.word() != "none") {
        return Err(layer.unsupported("no second encryption"));
    }
    if let Some(kind) = tail.params.get(&["type"])? {
        match kind.word().as_str() {
            "original" => tail.params.remove("type"),
            "ws" => {
                tail.params.need("path", "the path of the WebSocket")?;
            }
            "h2" | "h2+ws" => return Err(kind.unsupported("original or ws")),
            _ => return Err(kind.invalid("original or ws")),
        }
    }
    tail.params.remove("security");
    build(place, password, &tail.params)
}

fn who(tail: &Tail<'_>) -> Result<(String, Place), LinkError> {
    let authority = tail.authority(true)?;
    let password = credential("password", authority.userinfo.unwrap_or_default())?;
    if password.is_empty() {
        return Err(LinkError::Missing { field: "password", expected: "it before an @" });
    }
    Ok((password, tail.place(&authority, DEFAULT_PORT)?))
}

/// Puts a node together.
pub(super) fn build(place: Place, password: String, params: &Params<'_>) -> Result<Config, LinkError> {
    // To ignore it would be to connect as something else.
    if let Some(flow) = params.get(&["flow"])?.filter(|flow| flow.word() != "none") {
        return Err(flow.invalid("no flow: it was removed from trojan"));
    }
    params
        .without(&["plugin", "obfs", "shadow-tls", "v2ray-plugin"], "trojan alone, or with type and its parameters")?;
    let transport = transport::read(params)?;
    let security = security::read(params, Rules { tls_by_default: true, reality: true })?;
    security::fits(&security, &transport)?;
    Ok(place.node(Protocol::Trojan { password: Secret::new(password) }, transport, security))
}

/// Writes what [`parse`] reads.
pub(super) fn write(config: &Config, password: &Secret) -> String {
    let mut query = Query::default();
    transport::write(&config.transport, &mut query);
    security::write(&config.security, &mut query);
    let (password, name) = (text::encode(password.reveal()), text::encode(&config.name));
    format!("trojan://{password}@{}{}#{name}", config.endpoint(), query.as_str())
}
