//! `vmess://`: base64 of a JSON object (v2rayN's form 2, the common one) or the URL form of Xray's discussion 716.
//!
//! Source of the JSON keys: v2rayN's wiki and `VmessFmt`. Its values come as strings, numbers, booleans or null.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Value, json};

use super::error::{LinkError, Shown};
use super::security::{self, Rules};
use super::text::{self, Expected, scalar};
use super::url::{Params, Tail};
use super::{Place, dialect, transport, vless};
use crate::config::{Config, Protocol, Secret, Security, Transport};

const RULES: Rules = Rules { tls_by_default: false, reality: false };
const OBJECT: Expected = "base64 of a JSON object, or uuid@host:port";

/// Reads what follows `vmess://`.
pub(super) fn parse(rest: &str) -> Result<Config, LinkError> {
    let tail = Tail::split(rest);
    // No base64 holds an `@`, and no URL form is without.
    if tail.main.contains('@') || tail.main.contains("%40") {
        let authority = tail.authority(true)?;
        tail.params.without(&["obfs"], vless::WRAPPED)?;
        let uuid = vless::user_id(&authority)?;
        return build(tail.place(&authority, None)?, uuid, &tail.params);
    }
    from_base64(&tail)
}

fn from_base64(tail: &Tail<'_>) -> Result<Config, LinkError> {
    let payload = || LinkError::Invalid { field: "payload", value: Shown::hidden(), expected: OBJECT };
    let decoded = tail.decoded().ok_or_else(payload)?;
    if !decoded.trim_start().starts_with('{') {
        let link = match dialect::shadowrocket(tail)? {
            Some(link) => link,
            None => dialect::quantumult(&decoded)?.ok_or_else(payload)?,
        };
        return build(link.place, link.uuid, &link.params);
    }
    let Object(entries) = serde_json::from_str(&decoded).map_err(|_| payload())?;
    let params = params(entries)?;
    let uuid = params.secret(&["id"])?.ok_or(LinkError::Missing { field: "id", expected: "the user's id" })?;
    let uuid = uuid.check(text::user_id)?;
    let place = Place {
        name: params.name("ps").unwrap_or_else(|| tail.name()),
        address: params.need("add", "a host name or an IP address")?.check(text::host)?,
        port: params.need("port", "a number from 1 to 65535")?.check(text::port)?,
    };
    build(place, uuid, &params)
}

/// Puts a node together.
pub(super) fn build(place: Place, uuid: String, params: &Params<'_>) -> Result<Config, LinkError> {
    params.without(vless::WRAPPERS, vless::WRAPPED)?;
    let protocol = user(uuid, params)?;
    Ok(place.node(protocol, transport::read(params)?, security::read(params, RULES)?))
}

/// Writes the base64 form with every value as a string, which is the one all clients read.
pub(super) fn write(config: &Config, uuid: &Secret, method: &str, alter_id: u16) -> String {
    let (header, host, path) = places(&config.transport);
    let mut object = json!({
        "v": "2",
        "ps": config.name,
        "add": config.address,
        "port": config.port.to_string(),
        "id": uuid.reveal(),
        "aid": alter_id.to_string(),
        "scy": method,
        "net": config.transport.name(),
        "type": header,
        "host": host.unwrap_or_default(),
        "path": path.unwrap_or_default(),
        "tls": if config.security == Security::None { "" } else { config.security.name() },
    });
    if let Security::Tls(tls) = &config.security {
        object["sni"] = json!(tls.sni.as_deref().unwrap_or_default());
        object["alpn"] = json!(tls.alpn.join(","));
        object["fp"] = json!(tls.fingerprint.as_deref().unwrap_or_default());
        let rare = [("pcs", &tls.pinned_sha256), ("vcn", &tls.verify_name), ("ech", &tls.ech)];
        for (key, value) in rare.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?))) {
            object[key] = json!(value);
        }
        if tls.allow_insecure {
            object["insecure"] = json!("1");
        }
    }
    // What no field was left for.
    match &config.transport {
        Transport::Xhttp { extra, .. } if !extra.is_empty() => object["extra"] = json!(extra),
        Transport::Kcp { mtu, tti, .. } => {
            for (key, value) in [("mtu", mtu), ("tti", tti)] {
                if let Some(value) = value {
                    object[key] = json!(value.to_string());
                }
            }
        }
        _ => {}
    }
    format!("vmess://{}", STANDARD.encode(object.to_string()))
}

/// What the fields `type`, `host` and `path` say; each transport has a use of its own for them.
fn places(transport: &Transport) -> (&str, Option<String>, Option<String>) {
    let reveal = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.reveal().to_owned());
    match transport {
        Transport::Tcp { http_header: None } | Transport::Udp => ("none", None, None),
        Transport::Tcp { http_header: Some(header) } => {
            ("http", Some(header.hosts.join(",")), Some(header.paths.join(",")))
        }
        Transport::Ws { path, host } | Transport::HttpUpgrade { path, host } => {
            ("none", host.clone(), Some(path.clone()))
        }
        Transport::Xhttp { path, host, mode, .. } => (mode, host.clone(), Some(path.clone())),
        Transport::Grpc { service_name, multi, authority } => {
            (if *multi { "multi" } else { "gun" }, authority.clone(), Some(service_name.clone()))
        }
        Transport::Kcp { header, seed, .. } => (header, None, reveal(seed)),
        Transport::H2 { path, hosts } => ("none", Some(hosts.join(",")), Some(path.clone())),
        Transport::Quic { cipher, key, header } => (header, Some(cipher.clone()), reveal(key)),
    }
}

fn user(uuid: String, params: &Params<'_>) -> Result<Protocol, LinkError> {
    if let Some(flow) = params.get(&["flow"])?.filter(|flow| flow.word() != "none") {
        return Err(flow.invalid("no flow, which is of vless only"));
    }
    let method = params.get(&["encryption"])?.map(|param| param.name_or_secret().check(method)).transpose()?;
    let alter_id = params.get(&["aid", "alterId"])?;
    let alter_id = alter_id.map(|param| param.check(|value| value.parse().map_err(|_| "a number from 0 to 65535")));
    Ok(Protocol::Vmess {
        uuid: Secret::new(uuid),
        method: method.unwrap_or("auto").to_owned(),
        alter_id: alter_id.transpose()?.unwrap_or_default(),
    })
}

fn method(value: &str) -> Result<&'static str, Expected> {
    Ok(match value.to_ascii_lowercase().as_str() {
        "auto" => "auto",
        "aes-128-gcm" => "aes-128-gcm",
        "chacha20-poly1305" | "chacha20-ietf-poly1305" => "chacha20-poly1305",
        "none" => "none",
        "zero" => "zero",
        _ => return Err("auto, aes-128-gcm, chacha20-poly1305, none or zero"),
    })
}

/// The members of a JSON object in their order, so that one given twice is noticed.
struct Object(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Turns the members into the parameters a URL would have; what this form calls otherwise keeps its name in errors.
fn params(entries: Vec<(String, Value)>) -> Result<Params<'static>, LinkError> {
    let mut params = Params::default();
    let mut first_version = true;
    for (key, value) in entries {
        let (name, label): (Cow<'static, str>, _) = match key.to_ascii_lowercase().as_str() {
            "net" => ("type".into(), Some("net")),
            "type" => ("headerType".into(), Some("type")),
            "tls" => ("security".into(), Some("tls")),
            "scy" => ("encryption".into(), Some("scy")),
            "security" => ("encryption".into(), Some("security")),
            _ => (key.into(), None),
        };
        // XHTTP's `extra` is an object within the object.
        if name == "extra" && value.is_object() {
            params.push(name, label, value.to_string());
            continue;
        }
        let Some(mut value) = scalar(value) else {
            params.push_structure(name, label);
            continue;
        };
        if label == Some("tls") {
            value = match value.trim() {
                "true" | "1" => "tls".to_owned(),
                "false" | "0" => "none".to_owned(),
                _ => value,
            };
        }
        if name == "v" {
            first_version = matches!(value.trim(), "" | "1");
        }
        params.push(name, label, value);
    }
    let kind = params.get(&["type"])?.map(|kind| kind.word()).unwrap_or_default();
    match kind.as_str() {
        "ws" | "websocket" | "" | "tcp" | "h2" | "http" if first_version => params.split_path_from_host(),
        _ => {}
    }
    // The three fields that every transport uses in its own way; see `places`.
    let meanings: &[(&str, &str)] = match kind.as_str() {
        "grpc" | "gun" => &[("headerType", "mode"), ("path", "serviceName"), ("host", "authority")],
        "kcp" | "mkcp" => &[("path", "seed")],
        "quic" => &[("host", "quicSecurity"), ("path", "key")],
        "xhttp" | "splithttp" => &[("headerType", "mode")],
        _ => &[],
    };
    for (written, meant) in meanings {
        params.rename(written, meant);
    }
    Ok(params)
}
