//! `vless://uuid@host:port?params#name`, as Xray's discussion 716 defines it.

use super::error::{LinkError, Shown};
use super::security::{self, Rules};
use super::text::{self, Expected};
use super::url::{Authority, Params, Query, Tail, credential};
use super::{Place, dialect, transport};
use crate::config::{Config, Protocol, Secret, Security, Transport};

const FLOWS: &[&str] = &["xtls-rprx-vision", "xtls-rprx-vision-udp443"];
/// Programs around the protocol, with VMess too.
pub(super) const WRAPPERS: &[&str] = &["plugin", "shadow-tls", "v2ray-plugin"];
pub(super) const WRAPPED: Expected = "type and its parameters instead";
/// How every encryption of newer Xray begins.
const ENCRYPTION_PREFIX: &str = "mlkem768x25519plus.";

/// Reads what follows `vless://`.
pub(super) fn parse(rest: &str) -> Result<Config, LinkError> {
    let tail = Tail::split(rest);
    if let Some(link) = dialect::shadowrocket(&tail)? {
        return build(link.place, link.uuid, &link.params);
    }
    let authority = tail.authority(true)?;
    // Shadowrocket's word for a transport, which only its own form has.
    tail.params.without(&["obfs"], WRAPPED)?;
    let uuid = user_id(&authority)?;
    build(tail.place(&authority, None)?, uuid, &tail.params)
}

/// Puts a node together.
pub(super) fn build(place: Place, uuid: String, params: &Params<'_>) -> Result<Config, LinkError> {
    params.without(WRAPPERS, WRAPPED)?;
    let transport = transport::read(params)?;
    let security = security::read(params, Rules { tls_by_default: false, reality: true })?;
    let encryption = match params.secret(&["encryption"])? {
        Some(param) => param.check(encryption)?,
        None => "none".to_owned(),
    };
    security::fits(&security, &transport)?;
    let over_tcp = matches!(transport, Transport::Tcp { .. });
    let flow = flow(params, over_tcp && security != Security::None || encryption != "none")?;
    let protocol = Protocol::Vless { uuid: Secret::new(uuid), encryption: Secret::new(encryption), flow };
    Ok(place.node(protocol, transport, security))
}

/// Writes what [`parse`] reads.
pub(super) fn write(config: &Config, uuid: &Secret, encryption: &Secret, flow: Option<&str>) -> String {
    let mut query = Query::default();
    query.push("encryption", encryption.reveal());
    query.push_some("flow", flow);
    transport::write(&config.transport, &mut query);
    security::write(&config.security, &mut query);
    let (user, endpoint, name) = (text::encode(uuid.reveal()), config.endpoint(), text::encode(&config.name));
    format!("vless://{user}@{endpoint}{}#{name}", query.as_str())
}

/// The user's id out of userinfo, for VLESS and for VMess in URL form.
pub(super) fn user_id(authority: &Authority<'_>) -> Result<String, LinkError> {
    const FIELD: &str = "uuid";
    let raw = authority.userinfo.unwrap_or_default().trim();
    if raw.is_empty() {
        return Err(LinkError::Missing { field: FIELD, expected: "the user's id before an @" });
    }
    let invalid = |expected| LinkError::Invalid { field: FIELD, value: Shown::hidden(), expected };
    // A short id may be any text, also a mail address; but a raw @ or : is more likely a second host.
    if raw.contains(['@', ':']) {
        return Err(invalid("one id before one @ (inside the id @ is %40, : is %3A)"));
    }
    text::user_id(&credential(FIELD, raw)?).map_err(invalid)
}

fn encryption(value: &str) -> Result<String, Expected> {
    if value.eq_ignore_ascii_case("none") {
        return Ok("none".to_owned());
    }
    let words = value.strip_prefix(ENCRYPTION_PREFIX).map(|rest| rest.split('.').collect::<Vec<_>>());
    match words.as_deref() {
        Some(["native" | "xorpub" | "random", "0rtt" | "1rtt", rest @ ..])
            if !rest.is_empty() && rest.iter().all(|part| !part.is_empty() && part.bytes().all(is_key_byte)) =>
        {
            Ok(value.to_owned())
        }
        _ => Err("none, or mlkem768x25519plus.native|xorpub|random.0rtt|1rtt. and keys"),
    }
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn flow(params: &Params<'_>, possible: bool) -> Result<Option<String>, LinkError> {
    let Some(param) = params.get(&["flow"])? else { return Ok(None) };
    let flow = param.word();
    if flow == "none" {
        return Ok(None);
    }
    if !FLOWS.contains(&flow.as_str()) {
        return Err(param.invalid("xtls-rprx-vision or xtls-rprx-vision-udp443"));
    }
    if !possible {
        return Err(param.invalid("no flow, which needs tcp with tls or reality, or VLESS encryption"));
    }
    Ok(Some(flow))
}
