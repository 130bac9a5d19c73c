//! `hysteria2://auth@host:port/?params#name`, or `hy2://`.
//!
//! Source: the URI scheme on hysteria's own site; several ports stand in the place of one.

use std::num::NonZeroU16;

use super::error::{LinkError, Shown};
use super::security;
use super::text::{self, Expected};
use super::url::{Params, Query, Tail, credential, shown};
use super::{Place, finalmask};
use crate::config::{Config, Hysteria2, Obfs, Protocol, Secret, Security, Transport};

const DEFAULT_PORT: NonZeroU16 = NonZeroU16::new(443).expect("it is not zero");
const PORTS: Expected = "ports from 1 to 65535, such as 443 or 443,5000-6000";
/// The longest list of ports that is read, in bytes.
const PORTS_BYTES: usize = 1024;
/// Hysteria hops no faster.
const HOP_SECS: std::ops::RangeInclusive<u64> = 5..=86_400;

/// Reads what follows `hysteria2://`.
pub(super) fn parse(rest: &str) -> Result<Config, LinkError> {
    let tail = Tail::split(rest);
    let authority = tail.authority(false)?;
    let auth = credential("auth", authority.userinfo.unwrap_or_default())?;
    let ports = authority.ports().map(|written| {
        ports(written).map_err(|expected| LinkError::Invalid { field: "port", value: shown(written, false), expected })
    });
    let place = Place { name: tail.name(), address: authority.address()?, port: DEFAULT_PORT };
    build(place, ports.transpose()?, auth, &tail.params)
}

/// Puts a node together; its port is the first of all its ports.
pub(super) fn build(
    place: Place,
    ports: Option<Ports>,
    auth: String,
    params: &Params<'_>,
) -> Result<Config, LinkError> {
    text::no_control(&auth).map_err(|expected| LinkError::Invalid {
        field: "auth",
        value: Shown::hidden(),
        expected,
    })?;
    let mask = finalmask::hysteria(params)?;
    let masked = |field: Option<&String>, check: fn(&str) -> Result<Ports, Expected>| {
        let invalid = |expected| LinkError::Invalid { field: "fm", value: Shown::hidden(), expected };
        field.map(|text| check(text).map_err(invalid)).transpose()
    };
    // Where they are given apart, the one port before them is for programs that do not hop.
    let hopping = params.get(&["mport", "ports"])?.map(|param| param.check(self::ports)).transpose()?;
    let hopping = hopping.or(masked(mask.ports.as_ref(), self::ports)?).or(ports);
    let (port, ports) = match hopping {
        Some(Ports { first, list }) => (first, list),
        None => (place.port, None),
    };
    let seconds = |text: &str| match text.strip_suffix('s').unwrap_or(text).parse() {
        Ok(seconds) if HOP_SECS.contains(&seconds) => Ok(u32::try_from(seconds).unwrap_or(u32::MAX)),
        _ => Err("a number of seconds, at least 5"),
    };
    let hop = match (params.get(&["hop-interval", "hop_interval", "hopInterval", "mportHopInt"])?, mask.hop) {
        (Some(param), _) => Some(param.check(seconds)?),
        (None, Some(text)) => {
            let invalid = |expected| LinkError::Invalid { field: "fm", value: Shown::hidden(), expected };
            Some(seconds(&text).map_err(invalid)?)
        }
        (None, None) => None,
    };
    let node = Hysteria2 {
        auth: Secret::new(auth),
        // Without ports to hop between there is nothing to wait for.
        hop_secs: hop.filter(|_| ports.is_some()),
        ports,
        obfs: obfs(params, mask.salamander)?,
    };
    // Its QUIC is never without TLS, whatever a link says of `security`.
    let security = Security::Tls(security::tls(params)?);
    Ok(Place { port, ..place }.node(Protocol::Hysteria2(node), Transport::Udp, security))
}

/// Writes the standard form.
pub(super) fn write(config: &Config, node: &Hysteria2) -> String {
    let mut query = Query::default();
    if let Some(obfs) = &node.obfs {
        query.push("obfs", &obfs.kind);
        query.push("obfs-password", obfs.password.reveal());
    }
    query.push_some("hop-interval", node.hop_secs.map(|secs| secs.to_string()).as_deref());
    if let Security::Tls(tls) = &config.security {
        query.push_some("sni", tls.sni.as_deref());
        if tls.allow_insecure {
            query.push("insecure", "1");
        }
        query.push_some("pinSHA256", tls.pinned_sha256.as_deref());
        query.push_some("ech", tls.ech.as_deref());
        query.push_list("alpn", &tls.alpn);
        query.push_some("fp", tls.fingerprint.as_deref());
        query.push_some("vcn", tls.verify_name.as_deref());
    }
    let mut user = text::encode(node.auth.reveal());
    if !user.is_empty() {
        user.push('@');
    }
    let host = if config.address.contains(':') { format!("[{}]", config.address) } else { config.address.clone() };
    let port = node.ports.clone().unwrap_or_else(|| config.port.to_string());
    format!("hysteria2://{user}{host}:{port}/{}#{}", query.as_str(), text::encode(&config.name))
}

/// Ports to hop between.
pub(super) struct Ports {
    first: NonZeroU16,
    /// None for a single one.
    list: Option<String>,
}

/// Reads `443` or `443,5000-6000`.
pub(super) fn ports(text: &str) -> Result<Ports, Expected> {
    if text.len() > PORTS_BYTES {
        return Err(PORTS);
    }
    let mut first = None;
    let mut list = Vec::new();
    for item in text::list(text) {
        // A colon is what other programs have in this place.
        let (from, to) = item.split_once(['-', ':']).unwrap_or((item, item));
        let wrong = |_| PORTS;
        let (from, to) = (text::port(from.trim()).map_err(wrong)?, text::port(to.trim()).map_err(wrong)?);
        if from > to {
            return Err(PORTS);
        }
        first.get_or_insert(from);
        list.push(if from == to { from.to_string() } else { format!("{from}-{to}") });
    }
    let first = first.ok_or(PORTS)?;
    let single = list.len() == 1 && list.iter().all(|item| !item.contains('-'));
    Ok(Ports { first, list: (!single).then(|| list.join(",")) })
}

fn obfs(params: &Params<'_>, salamander: Option<String>) -> Result<Option<Obfs>, LinkError> {
    let password = params.secret(&["obfs-password", "obfs_password", "obfsPassword"])?;
    // In version 1 the password was in this place.
    let kind = params.secret(&["obfs"])?.filter(|kind| kind.word() != "none");
    let Some(kind) = kind else {
        return match (password, salamander) {
            (None, None) => Ok(None),
            (None, Some(password)) => Ok(Some(Obfs { kind: "salamander".to_owned(), password: Secret::new(password) })),
            (Some(_), _) => {
                Err(LinkError::Missing { field: "obfs", expected: "salamander or gecko beside its password" })
            }
        };
    };
    let word = kind.word();
    if !matches!(word.as_str(), "salamander" | "gecko") {
        return Err(kind.invalid("salamander, gecko or none"));
    }
    let missing = LinkError::Missing { field: "obfs-password", expected: "the password of the disguise" };
    let password = password.ok_or(missing)?;
    if salamander.is_some_and(|masked| word != "salamander" || masked != password.value) {
        return Err(password.invalid("the password that fm has for salamander"));
    }
    Ok(Some(Obfs { kind: word, password: Secret::new(password.value) }))
}
