//! `socks://` and its aliases: `user:pass@host:port`, the same with base64 userinfo, or base64 of everything.

use super::error::{LinkError, Shown};
use super::security::{self, Rules};
use super::url::{Authority, Params, Query, Tail, credential};
use super::{Place, text, transport};
use crate::config::{Config, Protocol, Secret, Security, Transport};

/// Reads what follows `socks://`.
pub(super) fn parse(rest: &str) -> Result<Config, LinkError> {
    let tail = Tail::split(rest);
    // Old clients encode all of it; without a colon nothing else makes sense.
    let main = tail.main.trim_end_matches('/');
    if !main.contains(['@', ':'])
        && let Some(decoded) = text::encoded_text(main)
        && decoded.contains(':')
    {
        let (user, endpoint) = decoded.rsplit_once('@').unwrap_or(("", &decoded));
        let (username, password) = user.split_once(':').unwrap_or((user, ""));
        let place = tail.place(&Authority::endpoint(endpoint), None)?;
        return build(place, some(username), some(password), &tail.params);
    }
    let authority = tail.authority(false)?;
    let (username, password) = user_and_password(&authority)?;
    build(tail.place(&authority, None)?, username, password, &tail.params)
}

/// Writes the plain form, which is the only one that can hold every user name.
pub(super) fn write(config: &Config, username: Option<&str>, password: Option<&Secret>) -> String {
    let mut query = Query::default();
    if config.security != Security::None {
        security::write(&config.security, &mut query);
    }
    let userinfo = write_userinfo(username, password);
    format!("socks://{userinfo}{}{}#{}", config.endpoint(), query.as_str(), text::encode(&config.name))
}

/// Puts a node together.
pub(super) fn build(
    place: Place,
    username: Option<String>,
    password: Option<String>,
    params: &Params<'_>,
) -> Result<Config, LinkError> {
    let (username, password) = user(username, password)?;
    let (transport, security) = plain_tcp(params)?;
    Ok(place.node(Protocol::Socks { username, password }, transport, security))
}

/// User name and password that a link can hold.
pub(super) fn user(
    username: Option<String>,
    password: Option<String>,
) -> Result<(Option<String>, Option<Secret>), LinkError> {
    for (field, value) in [("username", &username), ("password", &password)] {
        text::no_control(value.as_deref().unwrap_or_default()).map_err(|expected| LinkError::Invalid {
            field,
            value: Shown::hidden(),
            expected,
        })?;
    }
    Ok((username, password.map(Secret::new)))
}

/// What carries and protects a proxy of the kinds that know no other transport.
pub(super) fn plain_tcp(params: &Params<'_>) -> Result<(Transport, Security), LinkError> {
    let transport = transport::read(params)?;
    if transport != (Transport::Tcp { http_header: None }) {
        let value = Shown::new(transport.name());
        return Err(LinkError::Unsupported { field: "type", value, expected: "plain tcp with socks and http" });
    }
    Ok((transport, security::read(params, Rules { tls_by_default: false, reality: false })?))
}

/// User name and password out of userinfo, plain or base64; empty ones are absent.
pub(super) fn user_and_password(authority: &Authority<'_>) -> Result<(Option<String>, Option<String>), LinkError> {
    let Some(raw) = authority.userinfo else { return Ok((None, None)) };
    let (username, password) = raw.split_once(':').unwrap_or((raw, ""));
    let (username, password) = (credential("username", username)?, credential("password", password)?);
    if !raw.contains(':')
        && let Some(decoded) = text::base64_text(&username)
        && let Some((username, password)) = decoded.split_once(':')
        && !decoded.chars().any(char::is_control)
    {
        return Ok((some(username), some(password)));
    }
    Ok((some(&username), some(&password)))
}

/// Userinfo with its `@`, or nothing. The colon is always there, so that a user name is never taken for base64.
pub(super) fn write_userinfo(username: Option<&str>, password: Option<&Secret>) -> String {
    if username.is_none() && password.is_none() {
        return String::new();
    }
    let password = password.map(Secret::reveal).unwrap_or_default();
    format!("{}:{}@", text::encode(username.unwrap_or_default()), text::encode(password))
}

pub(super) fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
