//! `mode` and `extra` of XHTTP.
//!
//! `extra` is a JSON object that engines take over as it is, and it can name another server, its TLS and options of
//! sockets (`downloadSettings`). So only what changes the form of the requests is kept, each value by its type and range;
//! what is for the server alone, or unknown, is left out; what would send traffic elsewhere is refused.
//! Source: `SplitHTTPConfig` in `infra/conf` of Xray 26.3.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};

use super::error::LinkError;
use super::text::Expected;
use super::url::{Param, Params};

const MODES: Expected = "auto, packet-up, stream-up or stream-one";
/// The longest name or value of a header that is kept, in bytes.
const HEADER_BYTES: usize = 1024;
/// Engines count in 32 bits with a sign.
const MOST: u32 = i32::MAX.unsigned_abs();
/// So many headers are kept at most.
const HEADERS: usize = 32;
/// Headers that say where a request goes or where it ends.
const NOT_FOR_LINKS: &[&str] = &[
    "host",
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What a key of `extra` may hold.
enum Kind {
    /// A number or `"from-to"`, within these bounds: a link must not make an engine fill the memory, or panic.
    Range(u32, u32),
    Flag,
    Word(&'static [&'static str]),
    /// A name of a header, a cookie or a parameter.
    Name,
    /// A method of HTTP.
    Method,
}

/// Where parts of a request can be put.
const PLACES: &[&str] = &["path", "cookie", "header", "query"];

/// The keys that are kept; Xray matches them exactly.
const KEYS: &[(&str, Kind, Expected)] = &[
    (
        "xPaddingBytes",
        Kind::Range(1, 65535),
        "xPaddingBytes to be a number or a range from 1 to 65535, such as \"100-1000\"",
    ),
    ("xPaddingObfsMode", Kind::Flag, "xPaddingObfsMode to be true or false"),
    ("xPaddingKey", Kind::Name, "xPaddingKey to be a name"),
    ("xPaddingHeader", Kind::Name, "xPaddingHeader to be the name of a header that does not steer the request"),
    (
        "xPaddingPlacement",
        Kind::Word(&["cookie", "header", "query", "queryInHeader"]),
        "xPaddingPlacement to be cookie, header, query or queryInHeader",
    ),
    ("xPaddingMethod", Kind::Word(&["repeat-x", "tokenish"]), "xPaddingMethod to be repeat-x or tokenish"),
    ("uplinkHTTPMethod", Kind::Method, "uplinkHTTPMethod to be a method of HTTP (GET only with packet-up)"),
    ("sessionPlacement", Kind::Word(PLACES), "sessionPlacement to be path, cookie, header or query"),
    ("sessionKey", Kind::Name, "sessionKey to be a name"),
    ("seqPlacement", Kind::Word(PLACES), "seqPlacement to be path, cookie, header or query"),
    ("seqKey", Kind::Name, "seqKey to be a name"),
    (
        "uplinkDataPlacement",
        Kind::Word(&["auto", "body", "cookie", "header"]),
        "uplinkDataPlacement to be auto or body, or with packet-up cookie or header",
    ),
    ("uplinkDataKey", Kind::Name, "uplinkDataKey to be a name"),
    ("uplinkChunkSize", Kind::Range(0, MOST), "uplinkChunkSize to be a number or a range"),
    ("noGRPCHeader", Kind::Flag, "noGRPCHeader to be true or false"),
    (
        "scMaxEachPostBytes",
        Kind::Range(8193, 64 << 20),
        "scMaxEachPostBytes to be a number or a range from 8193 to 67108864",
    ),
    ("scMinPostsIntervalMs", Kind::Range(0, 60_000), "scMinPostsIntervalMs to be a number or a range up to 60000"),
];

/// What Xray calls two of them since 26.6.22. A link that is written says the name that all versions of clients know.
const RENAMED: &[(&str, &str)] = &[("sessionPlacement", "sessionIDPlacement"), ("sessionKey", "sessionIDKey")];

/// The keys of `xmux`, all of them ranges.
const XMUX: &[&str] = &["maxConcurrency", "maxConnections", "cMaxReuseTimes", "hMaxRequestTimes", "hMaxReusableSecs"];

/// Reads the mode and what is kept of `extra`.
pub(super) fn read(params: &Params<'_>) -> Result<(String, BTreeMap<String, Value>), LinkError> {
    let mode = match params.get(&["mode"])? {
        None => "auto",
        Some(mode) => match mode.word().as_str() {
            // VMess objects say `none` in this place when they mean nothing.
            "auto" | "none" => "auto",
            "packet-up" => "packet-up",
            "stream-up" => "stream-up",
            "stream-one" => "stream-one",
            _ => return Err(mode.invalid(MODES)),
        },
    };
    // Not quoted: headers in it may hold anything.
    let extra = match params.secret(&["extra"])? {
        Some(extra) => reduce(&extra, mode)?,
        None => BTreeMap::new(),
    };
    Ok((mode.to_owned(), extra))
}

fn reduce(param: &Param, mode: &str) -> Result<BTreeMap<String, Value>, LinkError> {
    let extra = param.check(|text| match serde_json::from_str(text) {
        Ok(Value::Object(extra)) => Ok(extra),
        Ok(Value::Null) => Ok(Map::new()),
        _ => Err("a JSON object"),
    })?;
    let empty = |value: &Value| value.is_null() || value.as_object().is_some_and(Map::is_empty);
    if extra.get("downloadSettings").is_some_and(|settings| !empty(settings)) {
        return Err(param.unsupported("no downloadSettings, which name a second server"));
    }
    let mut kept = BTreeMap::new();
    for (key, kind, expected) in KEYS {
        let written = |key: &str| extra.get(key).filter(|value| !is_unset(value));
        let renamed = RENAMED.iter().find(|(old, _)| old == key).and_then(|(_, new)| written(new));
        let value = match (written(key), renamed) {
            (Some(one), Some(other)) if one != other => {
                return Err(
                    param.invalid("sessionPlacement and sessionKey to be what sessionIDPlacement and sessionIDKey are")
                );
            }
            (Some(value), _) | (None, Some(value)) => value,
            (None, None) => continue,
        };
        let value = checked(value, kind).ok_or_else(|| param.invalid(expected))?;
        kept.insert((*key).to_owned(), value);
    }
    let says = |key: &str, words: &[&str]| kept.get(key).and_then(Value::as_str).is_some_and(|v| words.contains(&v));
    let get = says("uplinkHTTPMethod", &["GET"]) || says("uplinkDataPlacement", &["cookie", "header"]);
    if get && mode != "packet-up" {
        return Err(param.invalid("GET and data outside of the body only with mode=packet-up"));
    }
    if let Some(headers) = extra.get("headers").filter(|headers| !empty(headers)) {
        let expected = "headers to be short texts by name, without Host and others that steer the request";
        kept.insert("headers".to_owned(), self::headers(headers).ok_or_else(|| param.invalid(expected))?);
    }
    if let Some(xmux) = extra.get("xmux").filter(|xmux| !empty(xmux)) {
        let expected = "xmux to hold ranges, and not both maxConcurrency and maxConnections";
        let xmux = self::xmux(xmux).ok_or_else(|| param.invalid(expected))?;
        if !empty(&xmux) {
            kept.insert("xmux".to_owned(), xmux);
        }
    }
    Ok(kept)
}

/// Written out, and still the default.
fn is_unset(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("")
}

fn checked(value: &Value, kind: &Kind) -> Option<Value> {
    match kind {
        Kind::Range(least, most) => range(value, *least..=*most),
        Kind::Flag => value.as_bool().map(Value::Bool),
        Kind::Word(words) => words.iter().find(|word| value.as_str() == Some(word)).map(|word| json!(word)),
        Kind::Name => {
            let name = value.as_str().filter(|name| is_token(name))?;
            // Each of these may become the name of a header.
            let steers = NOT_FOR_LINKS.iter().any(|header| name.eq_ignore_ascii_case(header));
            (!steers).then(|| json!(name))
        }
        Kind::Method => {
            let method = value.as_str()?.to_ascii_uppercase();
            matches!(method.as_str(), "POST" | "PUT" | "PATCH" | "GET" | "DELETE").then(|| json!(method))
        }
    }
}

/// A number or `"from-to"` in one spelling.
fn range(value: &Value, bounds: RangeInclusive<u32>) -> Option<Value> {
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|number| bounds.contains(number));
    let (from, to) = match value {
        Value::Number(single) => (number(&single.to_string())?, number(&single.to_string())?),
        Value::String(text) => match text.split_once('-') {
            Some((from, to)) => (number(from)?, number(to)?),
            None => (number(text)?, number(text)?),
        },
        _ => return None,
    };
    let (from, to) = (from.min(to), from.max(to));
    Some(if from == to { json!(from) } else { json!(format!("{from}-{to}")) })
}

fn headers(value: &Value) -> Option<Value> {
    let headers = value.as_object().filter(|headers| headers.len() <= HEADERS)?;
    let mut kept = BTreeMap::new();
    for (name, value) in headers {
        let value = value.as_str().filter(|value| value.len() <= HEADER_BYTES)?;
        let printable = value.chars().all(|character| character == '\t' || matches!(character, ' '..='~'));
        if !printable || !is_token(name) || NOT_FOR_LINKS.iter().any(|header| name.eq_ignore_ascii_case(header)) {
            return None;
        }
        kept.insert(name.as_str(), value);
    }
    Some(json!(kept))
}

fn xmux(value: &Value) -> Option<Value> {
    let xmux = value.as_object()?;
    let mut kept = Map::new();
    for key in XMUX {
        if let Some(value) = xmux.get(*key).filter(|value| !is_unset(value)) {
            kept.insert((*key).to_owned(), range(value, 0..=MOST)?);
        }
    }
    if let Some(period) = xmux.get("hKeepAlivePeriod").filter(|period| !is_unset(period)) {
        // Negative means never.
        let seconds = period.as_i64().filter(|seconds| i32::try_from(*seconds).is_ok())?;
        kept.insert("hKeepAlivePeriod".to_owned(), json!(seconds));
    }
    let positive = |key: &str| kept.get(key).is_some_and(|value| *value != json!(0));
    (!(positive("maxConcurrency") && positive("maxConnections"))).then_some(Value::Object(kept))
}

/// A token of HTTP, short.
fn is_token(text: &str) -> bool {
    let byte = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=HEADER_BYTES).contains(&text.len()) && text.bytes().all(byte)
}
