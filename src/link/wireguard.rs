//! `wireguard://secret-key@host:port?params#name`, or `wg://`.
//!
//! There is no specification; this is v2rayN's form, with the other words that clients have for its parameters.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::error::LinkError;
use super::text::{self, Expected};
use super::url::{Params, Query, Tail, credential};
use super::{Place, finalmask};
use crate::config::{Config, Protocol, Secret, Security, Transport, Wireguard};

const KEY: Expected = "32 bytes in base64";
const RESERVED: Expected = "three bytes, as in 1,2,3, or base64 of three bytes";
/// What clients assume where a link does not say: the address that Cloudflare's clients have.
const DEFAULT_ADDRESS: &str = "172.16.0.2/32";
/// Parameters of AmneziaWG, which plain WireGuard does not understand.
const AMNEZIA: &[&str] = &["jc", "jmin", "jmax", "s1", "s2", "h1", "h2", "h3", "h4"];

/// Reads what follows `wireguard://`.
pub(super) fn parse(rest: &str) -> Result<Config, LinkError> {
    let mut tail = Tail::split(rest);
    let authority = tail.authority(false)?;
    if let Some(userinfo) = authority.userinfo.filter(|userinfo| !userinfo.is_empty()) {
        tail.params.push("secretkey", Some("secret key"), credential("secret key", userinfo)?);
    }
    build(tail.place(&authority, None)?, &tail.params)
}

/// Puts a node together.
pub(super) fn build(place: Place, params: &Params<'_>) -> Result<Config, LinkError> {
    for name in AMNEZIA.iter().copied() {
        if let Some(param) = params.get(&[name])?.filter(|param| param.value != "0") {
            return Err(param.unsupported("plain WireGuard, without AmneziaWG's parameters"));
        }
    }
    finalmask::refuse(params)?;
    let need = |names: &[&'static str], field| -> Result<String, LinkError> {
        let param = params.secret(names)?.ok_or(LinkError::Missing { field, expected: KEY })?;
        param.check(key)
    };
    let addresses = match params.get(&["address", "ip"])? {
        Some(param) => param.check(addresses)?,
        None => vec![DEFAULT_ADDRESS.to_owned()],
    };
    let number = |names: &[&'static str], range, expected| -> Result<Option<u16>, LinkError> {
        let number = params.get(names)?.map(|param| param.number(range, expected)).transpose()?;
        Ok(number.and_then(|number| u16::try_from(number).ok()))
    };
    let node = Wireguard {
        secret_key: Secret::new(need(&["secretkey", "privatekey", "private-key", "private_key"], "secret key")?),
        public_key: need(&["publickey", "public-key", "public_key", "peer_public_key"], "publickey")?,
        preshared_key: params
            .secret(&["presharedkey", "preshared-key", "pre_shared_key", "psk"])?
            .map(|param| param.check(key).map(Secret::new))
            .transpose()?,
        addresses,
        reserved: params.get(&["reserved"])?.map(|param| param.check(reserved)).transpose()?.unwrap_or_default(),
        mtu: number(&["mtu"], 576..=65535, "a number of bytes from 576 to 65535")?,
        keep_alive_secs: number(
            &["keepalive", "persistentkeepalive", "persistent-keepalive", "persistent_keepalive"],
            0..=65535,
            "a number of seconds up to 65535",
        )?
        .filter(|secs| *secs > 0),
    };
    Ok(place.node(Protocol::Wireguard(node), Transport::Udp, Security::None))
}

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

/// A key in the one spelling that engines read.
fn key(text: &str) -> Result<String, Expected> {
    let bytes = text::base64_bytes(text).filter(|bytes| bytes.len() == 32).ok_or(KEY)?;
    Ok(STANDARD.encode(bytes))
}

/// Addresses inside the tunnel; one without a prefix length is that address alone.
fn addresses(value: &str) -> Result<Vec<String>, Expected> {
    const EXPECTED: Expected = "IP addresses such as 10.0.0.2/32,fd00::2/128";
    let one = |item: &str| {
        let (address, length) = item.split_once('/').map_or((item, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.trim().parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Some(most), |length| length.trim().parse().ok().filter(|length| *length <= most))?;
        Some(format!("{address}/{length}"))
    };
    let addresses = text::list(value).map(one).collect::<Option<Vec<_>>>().ok_or(EXPECTED)?;
    if addresses.is_empty() { Err(EXPECTED) } else { Ok(addresses) }
}

/// Three bytes; zeros are what is sent without any.
fn reserved(value: &str) -> Result<Vec<u8>, Expected> {
    let bare = value.trim_start_matches('[').trim_end_matches(']');
    let bytes = match text::list(bare).map(str::parse).collect::<Result<Vec<u8>, _>>() {
        Ok(bytes) if bytes.len() == 3 => bytes,
        _ => text::base64_bytes(value).filter(|bytes| bytes.len() == 3).ok_or(RESERVED)?,
    };
    Ok(if bytes.iter().all(|byte| *byte == 0) { Vec::new() } else { bytes })
}
