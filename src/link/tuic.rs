//! `tuic://uuid:password@host:port?params#name`, version 5.

use super::error::{LinkError, Shown};
use super::text::{self, Expected};
use super::url::{Params, Query, Tail, credential};
use super::{Place, finalmask, security};
use crate::config::{Config, Protocol, Secret, Security, Transport, Tuic};

const USER: Expected = "uuid:password before an @, as version 5 has them";

/// Reads what follows `tuic://`.
pub(super) fn parse(rest: &str) -> Result<Config, LinkError> {
    let tail = Tail::split(rest);
    let authority = tail.authority(true)?;
    let raw = authority.userinfo.unwrap_or_default();
    if raw.is_empty() {
        return Err(LinkError::Missing { field: "uuid", expected: USER });
    }
    let user = credential("uuid", raw)?;
    // The colon may be encoded; the id has none of its own.
    let invalid = || LinkError::Invalid { field: "uuid", value: Shown::hidden(), expected: USER };
    let (uuid, password) = user.split_once(':').ok_or_else(invalid)?;
    build(tail.place(&authority, None)?, uuid, password, &tail.params)
}

/// Puts a node together.
pub(super) fn build(place: Place, uuid: &str, password: &str, params: &Params<'_>) -> Result<Config, LinkError> {
    let uuid = text::uuid(uuid).ok_or(LinkError::Invalid {
        field: "uuid",
        value: Shown::hidden(),
        expected: "a UUID, and the password behind a colon",
    })?;
    if password.is_empty() {
        return Err(LinkError::Missing { field: "password", expected: "it behind the UUID and a colon" });
    }
    if let Some(version) = params.get(&["version"])?.filter(|version| version.word() != "5") {
        return Err(version.unsupported("version 5"));
    }
    finalmask::refuse(params)?;
    let node = Tuic {
        uuid: Secret::new(uuid),
        password: Secret::new(password),
        congestion_control: word(
            params,
            &["congestion_control", "congestion-controller", "congestion"],
            &["cubic", "new_reno", "bbr"],
            "cubic, new_reno or bbr",
        )?,
        udp_relay_mode: word(params, &["udp_relay_mode", "udp-relay-mode"], &["native", "quic"], "native or quic")?,
        disable_sni: params.flag(&["disable_sni", "disable-sni"])?,
    };
    let security = Security::Tls(security::tls(params)?);
    Ok(place.node(Protocol::Tuic(node), Transport::Udp, security))
}

fn word(
    params: &Params<'_>,
    names: &[&'static str],
    words: &[&str],
    expected: Expected,
) -> Result<Option<String>, LinkError> {
    let Some(param) = params.get(names)? else { return Ok(None) };
    let word = param.word().replace("newreno", "new_reno").replace('-', "_");
    if words.contains(&word.as_str()) { Ok(Some(word)) } else { Err(param.invalid(expected)) }
}

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
