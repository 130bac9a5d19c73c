//! What protects the transport: `security`, and the parameters of TLS and REALITY.
//!
//! Source: Xray's proposal for share links (discussion 716) and the checks of its `infra/conf`.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::error::{LinkError, Shown};
use super::text::{self, Expected};
use super::url::{Param, Params, Query};
use crate::config::{Reality, Security, Tls, Transport, ech_config_list};

/// Bytes of an X25519 public key.
const X25519_BYTES: usize = 32;
/// Bytes of an ML-DSA-65 public key.
const MLDSA65_BYTES: usize = 1952;
/// The longest REALITY short id, in hex digits.
const SHORT_ID_DIGITS: usize = 16;

/// Client hellos by the names Xray gives them; exact ones (`hellochrome_120`) are recognised by their prefix.
const FINGERPRINTS: &[&str] = &[
    "chrome",
    "firefox",
    "safari",
    "ios",
    "android",
    "edge",
    "360",
    "qq",
    "random",
    "randomized",
    "randomizednoalpn",
    "unsafe",
];
/// Client hellos REALITY refuses: Go's own cannot carry its handshake.
const NOT_FOR_REALITY: &[&str] = &["unsafe", "hellogolang"];

/// What a scheme allows, and what it means by saying nothing.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// `security` left out means TLS.
    pub(super) tls_by_default: bool,
    /// `security=reality` is for this scheme.
    pub(super) reality: bool,
}

/// Reads `security` and the parameters that go with it; parameters of another security mean nothing and are dropped.
pub(super) fn read(params: &Params<'_>, rules: Rules) -> Result<Security, LinkError> {
    let Some(security) = params.get(&["security"])? else { return unsaid(params, rules, None) };
    match security.word().as_str() {
        "auto" => unsaid(params, rules, Some(&security)),
        "none" => match another_word(params)? {
            Some((word, true)) => Err(word.invalid("0, because security is none")),
            _ => Ok(Security::None),
        },
        "tls" => tls(params).map(Security::Tls),
        "reality" if rules.reality => reality(params).map(Security::Reality),
        "reality" => Err(security.unsupported("none or tls (reality only with vless and trojan)")),
        _ if rules.reality => Err(security.invalid("none, tls or reality")),
        _ => Err(security.invalid("none or tls")),
    }
}

/// The security of a link that does not name one: what its other words mean, else what the scheme does.
fn unsaid(params: &Params<'_>, rules: Rules, auto: Option<&Param>) -> Result<Security, LinkError> {
    const REALITY: Expected = "security=reality, because there is a pbk";
    let word = another_word(params)?.map(|(_, yes)| yes);
    let public_key = params.secret(&["pbk"])?.is_some();
    match word {
        // As Shadowrocket has it.
        Some(true) if public_key && rules.reality => reality(params).map(Security::Reality),
        Some(true) => tls(params).map(Security::Tls),
        None if public_key => {
            let missing = LinkError::Missing { field: "security", expected: REALITY };
            Err(auto.map_or(missing, |auto| auto.invalid(REALITY)))
        }
        _ if rules.tls_by_default => tls(params).map(Security::Tls),
        _ => Ok(Security::None),
    }
}

/// `tls=1`, Shadowrocket's word, and what it says; also with the words that VMess objects have in that place.
fn another_word(params: &Params<'_>) -> Result<Option<(Param, bool)>, LinkError> {
    let Some(param) = params.get(&["tls"])? else { return Ok(None) };
    let yes = match param.word().as_str() {
        "tls" => true,
        "none" => false,
        word => text::flag(word).ok_or_else(|| param.invalid("0 or 1"))?,
    };
    Ok(Some((param, yes)))
}

/// Holds REALITY to the transports that carry it.
pub(super) fn fits(security: &Security, transport: &Transport) -> Result<(), LinkError> {
    match (security, transport) {
        (Security::Reality(_), Transport::Tcp { .. } | Transport::Grpc { .. } | Transport::Xhttp { .. }) => Ok(()),
        (Security::Reality(_), other) => {
            let expected = "tcp, grpc or xhttp, the transports that REALITY works over";
            Err(LinkError::Invalid { field: "type", value: Shown::new(other.name()), expected })
        }
        _ => Ok(()),
    }
}

/// Reads the parameters of TLS.
pub(super) fn tls(params: &Params<'_>) -> Result<Tls, LinkError> {
    Ok(Tls {
        sni: sni(params)?,
        alpn: params.get(&["alpn"])?.map(|param| param.check(alpn)).transpose()?.unwrap_or_default(),
        fingerprint: params.get(&["fp"])?.map(|param| param.check(fingerprint)).transpose()?,
        allow_insecure: params.flag(&["allowInsecure", "insecure", "allow_insecure"])?,
        // Hysteria's word for the same pin.
        pinned_sha256: params.get(&["pcs", "pinSHA256"])?.map(|param| param.check(pinned)).transpose()?,
        verify_name: params.get(&["vcn"])?.map(|param| param.check(verify_names)).transpose()?,
        ech: params.get(&["ech"])?.map(|param| param.check(ech)).transpose()?,
    })
}

fn reality(params: &Params<'_>) -> Result<Reality, LinkError> {
    let key = params.secret(&["pbk"])?;
    let key =
        key.ok_or(LinkError::Missing { field: "pbk", expected: "the server's public key, which REALITY needs" })?;
    let fingerprint = params.get(&["fp"])?.map(|param| {
        if NOT_FOR_REALITY.contains(&param.word().as_str()) {
            return Err(param.invalid("a browser's fingerprint such as chrome"));
        }
        param.check(fingerprint)
    });
    Ok(Reality {
        sni: sni(params)?,
        fingerprint: fingerprint.transpose()?.unwrap_or_else(|| "chrome".to_owned()),
        public_key: key.check(|value| {
            key_of::<X25519_BYTES>(value).ok_or("32 bytes in URL-safe base64, which is 43 characters")
        })?,
        short_id: params.get(&["sid"])?.map(|param| param.check(short_id)).transpose()?.unwrap_or_default(),
        spider_x: params.get(&["spx"])?.map_or_else(|| "/".to_owned(), |param| text::rooted(&param.value)),
        mldsa65_verify: params
            .secret(&["pqv"])?
            .map(|param| param.check(|value| key_of::<MLDSA65_BYTES>(value).ok_or("1952 bytes in URL-safe base64")))
            .transpose()?,
    })
}

/// Writes `security` and its parameters.
pub(super) fn write(security: &Security, query: &mut Query) {
    query.push("security", security.name());
    match security {
        Security::None => {}
        Security::Tls(tls) => write_tls(tls, query),
        Security::Reality(reality) => {
            query.push_some("sni", reality.sni.as_deref());
            query.push("fp", &reality.fingerprint);
            query.push("pbk", &reality.public_key);
            if !reality.short_id.is_empty() {
                query.push("sid", &reality.short_id);
            }
            if reality.spider_x != "/" {
                query.push("spx", &reality.spider_x);
            }
            query.push_some("pqv", reality.mldsa65_verify.as_deref());
        }
    }
}

/// Writes the parameters of TLS alone, for links whose scheme already says TLS.
pub(super) fn write_tls(tls: &Tls, query: &mut Query) {
    query.push_some("sni", tls.sni.as_deref());
    query.push_list("alpn", &tls.alpn);
    query.push_some("fp", tls.fingerprint.as_deref());
    if tls.allow_insecure {
        query.push("allowInsecure", "1");
    }
    query.push_some("pcs", tls.pinned_sha256.as_deref());
    query.push_some("vcn", tls.verify_name.as_deref());
    query.push_some("ech", tls.ech.as_deref());
}

fn sni(params: &Params<'_>) -> Result<Option<String>, LinkError> {
    // `peer` is Shadowrocket's word for it.
    params.get(&["sni", "peer"])?.map(|param| param.check(text::host)).transpose()
}

fn alpn(value: &str) -> Result<Vec<String>, Expected> {
    let protocols: Vec<_> = value.split(',').map(str::trim).filter(|protocol| !protocol.is_empty()).collect();
    let token = |protocol: &&str| protocol.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"./-_".contains(&byte));
    if !protocols.iter().all(token) {
        return Err("a list such as h2,http/1.1");
    }
    Ok(protocols.into_iter().map(str::to_owned).collect())
}

fn fingerprint(value: &str) -> Result<String, Expected> {
    let name = value.to_ascii_lowercase();
    let exact = name
        .strip_prefix("hello")
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
    if exact || FINGERPRINTS.contains(&name.as_str()) {
        Ok(name)
    } else {
        Err("chrome, firefox, safari, ios, android, edge, 360, qq, random or randomized")
    }
}

fn pinned(value: &str) -> Result<String, Expected> {
    let hashes: Vec<_> = value.split(',').map(|hash| hash.trim().replace(':', "").to_ascii_lowercase()).collect();
    let sha256 = |hash: &String| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hashes.iter().all(sha256) {
        Ok(hashes.join(","))
    } else {
        Err("SHA-256 hashes of 64 hex digits, comma-separated")
    }
}

fn ech(value: &str) -> Result<String, Expected> {
    let list = text::base64_bytes(value).and_then(|bytes| ech_config_list(&STANDARD.encode(bytes)));
    list.ok_or("base64 of the node's own ECHConfigList (one to be looked up would be asked for past the node)")
}

fn verify_names(value: &str) -> Result<String, Expected> {
    let names: Result<Vec<_>, _> = value.split(',').map(|name| text::host(name.trim())).collect();
    Ok(names?.join(","))
}

fn short_id(value: &str) -> Result<String, Expected> {
    let hex = value.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hex && value.len().is_multiple_of(2) && value.len() <= SHORT_ID_DIGITS {
        Ok(value.to_ascii_lowercase())
    } else {
        Err("an even number of hex digits, 16 at most")
    }
}

/// A key of `N` bytes in the one spelling Xray reads: URL-safe base64 without padding.
fn key_of<const N: usize>(value: &str) -> Option<String> {
    let bytes = text::base64_bytes(value).filter(|bytes| bytes.len() == N)?;
    Some(URL_SAFE_NO_PAD.encode(bytes))
}
