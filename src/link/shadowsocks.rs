//! `ss://`: SIP002 (`userinfo@host:port?plugin=…#name`) and the older base64 of everything.
//!
//! Source: shadowsocks.org SIP002 and SIP022; the stream parameters on top are those of other Xray links.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::error::{LinkError, Shown};
use super::security::{self, Rules};
use super::url::{Authority, Params, Query, Tail, credential};
use super::{Place, text, transport};
use crate::config::{Config, Protocol, Secret, Security, Transport};

const METHOD: &str = "method";
const PASSWORD: &str = "password";
const METHODS: &str = "aes-128-gcm, aes-256-gcm, chacha20-ietf-poly1305, xchacha20-ietf-poly1305, none, \
                       2022-blake3-aes-128-gcm, 2022-blake3-aes-256-gcm or 2022-blake3-chacha20-poly1305";
/// Longer than any cipher's name; what is longer has a part of the password in it.
const METHOD_BYTES: usize = 32;

/// Reads what follows `ss://`.
pub(super) fn parse(rest: &str) -> Result<Config, LinkError> {
    let tail = Tail::split(rest);
    if tail.main.contains('@') || tail.main.contains("%40") {
        let authority = tail.authority(true)?;
        let (method, password) = userinfo(authority.userinfo.unwrap_or_default())?;
        return build(tail.place(&authority, None)?, &method, password, &tail.params);
    }
    let decoded = tail.decoded();
    let Some(decoded) = decoded.filter(|decoded| decoded.contains('@')) else {
        let expected = "base64(method:password)@host:port";
        return Err(LinkError::Missing { field: "host", expected });
    };
    // Nothing in here is percent-encoded, and the password may hold `@`, `:` and `/`.
    let (user, endpoint) = decoded.rsplit_once('@').unwrap_or_default();
    let authority = Authority::endpoint(endpoint);
    let (method, password) = split(user)?;
    build(tail.place(&authority, None)?, method, password.to_owned(), &tail.params)
}

/// Writes SIP002; the keys of 2022 ciphers must not be base64 once more.
pub(super) fn write(config: &Config, method: &str, password: &Secret, plugin: Option<&Secret>) -> String {
    let password = password.reveal();
    let userinfo = if key_bytes(method).is_some() {
        format!("{method}:{}", text::encode(password))
    } else {
        URL_SAFE_NO_PAD.encode(format!("{method}:{password}"))
    };
    let mut query = Query::default();
    query.push_some("plugin", plugin.map(Secret::reveal));
    let plain = config.security == Security::None && config.transport == Transport::Tcp { http_header: None };
    if !plain {
        transport::write(&config.transport, &mut query);
        security::write(&config.security, &mut query);
    }
    format!("ss://{userinfo}@{}{}#{}", config.endpoint(), query.as_str(), text::encode(&config.name))
}

/// Puts a node together.
pub(super) fn build(place: Place, method: &str, password: String, params: &Params<'_>) -> Result<Config, LinkError> {
    params.without(&["obfs", "shadow-tls", "v2ray-plugin"], "plugin with the name of one and its options")?;
    let method = cipher(method)?;
    let password = match key_bytes(method) {
        Some(length) => keys(method, &password, length)?,
        None => password,
    };
    if password.is_empty() {
        return Err(LinkError::Missing { field: PASSWORD, expected: "it after method and a colon" });
    }
    if password.chars().any(char::is_control) {
        return Err(invalid(PASSWORD, "no control characters"));
    }
    let protocol =
        Protocol::Shadowsocks { method: method.to_owned(), password: Secret::new(password), plugin: plugin(params)? };
    let transport = transport::read(params)?;
    let security = security::read(params, Rules { tls_by_default: false, reality: false })?;
    Ok(place.node(protocol, transport, security))
}

/// Method and password out of SIP002 userinfo: plain with percent-encoded parts, or base64 of both.
fn userinfo(raw: &str) -> Result<(String, String), LinkError> {
    if let Some((method, password)) = raw.split_once(':') {
        return Ok((credential(METHOD, method)?, credential(PASSWORD, password)?));
    }
    // Some writers percent-encode the colon of the plain form as well.
    let decoded = match text::encoded_text(raw) {
        Some(decoded) if decoded.contains(':') => decoded,
        _ => credential(PASSWORD, raw)?,
    };
    let (method, password) = split(&decoded)?;
    Ok((method.to_owned(), password.to_owned()))
}

fn split(text: &str) -> Result<(&str, &str), LinkError> {
    // The first colon: passwords of 2022 ciphers hold more of them.
    text.split_once(':').ok_or_else(|| invalid(PASSWORD, "method and password with a colon between them"))
}

/// The cipher's name as engines know it.
fn cipher(written: &str) -> Result<&'static str, LinkError> {
    Ok(match written.trim().to_ascii_lowercase().as_str() {
        "aes-128-gcm" | "aead_aes_128_gcm" => "aes-128-gcm",
        "aes-256-gcm" | "aead_aes_256_gcm" => "aes-256-gcm",
        "chacha20-poly1305" | "aead_chacha20_poly1305" => "chacha20-poly1305",
        "chacha20-ietf-poly1305" => "chacha20-ietf-poly1305",
        "xchacha20-poly1305" | "aead_xchacha20_poly1305" => "xchacha20-poly1305",
        "xchacha20-ietf-poly1305" => "xchacha20-ietf-poly1305",
        "none" => "none",
        "plain" => "plain",
        "2022-blake3-aes-128-gcm" => "2022-blake3-aes-128-gcm",
        "2022-blake3-aes-256-gcm" => "2022-blake3-aes-256-gcm",
        "2022-blake3-chacha20-poly1305" => "2022-blake3-chacha20-poly1305",
        other => {
            let a_name = other.len() <= METHOD_BYTES
                && other.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
            let value = if a_name { Shown::new(other) } else { Shown::hidden() };
            return Err(LinkError::Invalid { field: METHOD, value, expected: METHODS });
        }
    })
}

/// Key length of the 2022 ciphers, whose password is a key.
fn key_bytes(method: &str) -> Option<usize> {
    match method {
        "2022-blake3-aes-128-gcm" => Some(16),
        "2022-blake3-aes-256-gcm" | "2022-blake3-chacha20-poly1305" => Some(32),
        _ => None,
    }
}

/// Checks the keys of a 2022 cipher and spells them in the padded standard base64 that engines read.
fn keys(method: &str, password: &str, length: usize) -> Result<String, LinkError> {
    let keys: Vec<_> = password.split(':').collect();
    // SIP023: identity headers exist for AES only.
    if keys.len() > 1 && method.contains("chacha20") {
        return Err(invalid(PASSWORD, "one key, because this cipher has no identity headers"));
    }
    let spelled = keys.iter().map(|key| {
        let bytes = text::base64_bytes(key).filter(|bytes| bytes.len() == length)?;
        Some(STANDARD.encode(bytes))
    });
    let expected = if length == 16 {
        "base64 of 16 bytes, or several joined by :"
    } else {
        "base64 of 32 bytes, or several joined by :"
    };
    Ok(spelled.collect::<Option<Vec<_>>>().ok_or_else(|| invalid(PASSWORD, expected))?.join(":"))
}

/// `plugin=name;opt=value`. Kept as data: what an engine can do with it is decided there, and nothing is executed.
fn plugin(params: &Params<'_>) -> Result<Option<Secret>, LinkError> {
    let Some(param) = params.secret(&["plugin"])? else { return Ok(None) };
    let (name, options) = param.value.split_once(';').unwrap_or((&param.value, ""));
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
        return Err(param.invalid("the name of a plugin and its options, as in obfs-local;obfs=http"));
    }
    let name = if name.eq_ignore_ascii_case("simple-obfs") { "obfs-local" } else { name };
    Ok(Some(Secret::new(if options.is_empty() { name.to_owned() } else { format!("{name};{options}") })))
}

fn invalid(field: &'static str, expected: &'static str) -> LinkError {
    LinkError::Invalid { field, value: Shown::hidden(), expected }
}
