//! `trojan://password@host:port?params#name`.
//!
//! There is no specification; this is what v2rayN, trojan-url and Sub-Store agree on: TLS and port 443 by default.

use std::num::NonZeroU16;

use super::error::LinkError;
use super::security::{self, Rules};
use super::url::{Query, Tail, credential};
use super::{node, text, transport};
use crate::config::{Config, Protocol, Secret};

const DEFAULT_PORT: Option<NonZeroU16> = NonZeroU16::new(443);

/// Reads what follows `trojan://`.
pub(super) fn parse(rest: &str) -> Result<Config, LinkError> {
    let tail = Tail::split(rest);
    let authority = tail.authority(true)?;
    let password = credential("password", authority.userinfo.unwrap_or_default())?;
    if password.is_empty() {
        return Err(LinkError::Missing { field: "password", expected: "it before an @" });
    }
    let (address, port) = (authority.address()?, authority.port(DEFAULT_PORT)?);
    refuse_foreign(&tail)?;
    let transport = transport::read(&tail.params)?;
    let security = security::read(&tail.params, Rules { tls_by_default: true, reality: false })?;
    let protocol = Protocol::Trojan { password: Secret::new(password) };
    Ok(node(tail.name(), address, port, protocol, transport, security))
}

/// Writes what [`parse`] reads.
pub(super) fn write(config: &Config, password: &Secret) -> String {
    let mut query = Query::default();
    transport::write(&config.transport, &mut query);
    security::write(&config.security, &mut query);
    let (password, name) = (text::encode(password.reveal()), text::encode(&config.name));
    format!("trojan://{password}@{}{}#{name}", config.endpoint(), query.as_str())
}

/// Parameters of other dialects that change what is spoken: to ignore them would be to connect as something else.
fn refuse_foreign(tail: &Tail<'_>) -> Result<(), LinkError> {
    if let Some(flow) = tail.params.get(&["flow"])?.filter(|flow| flow.word() != "none") {
        return Err(flow.invalid("no flow: it was removed from trojan"));
    }
    if let Some(ws) = tail.params.get(&["ws"])?.filter(|ws| ws.word() != "0" && ws.word() != "false") {
        return Err(ws.unsupported("type=ws and path"));
    }
    Ok(())
}
