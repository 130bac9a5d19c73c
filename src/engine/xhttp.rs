//! XHTTP's `extra`: which of its keys an Xray of which version knows, and with what values.
//!
//! The engine reads `extra` as settings of the transport, and of much more: another server to download from, options of
//! sockets. Only what is in the table here goes into its file. A key that a version does not know would be overlooked,
//! and the server would not understand the requests: such a config is refused. Some values end the engine in a
//! panic on the first connection; they are refused as well.
//!
//! Source: `infra/conf` and `transport/internet/splithttp` of Xray-core 25.12.8 and 26.3.27 (run here), and of 26.7.28
//! (read): since 26.6.22 the session's place has another name, without which nothing is placed.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Lack, Version};

/// `network: "xhttp"` with `mode` and `extra`.
pub(super) const SINCE: Version = Version::new(24, 12, 31);
/// Where paddings, sessions and data are placed can be said.
const PLACES: Version = Version::new(26, 3, 27);
/// `sessionPlacement` became `sessionIDPlacement`, `sessionKey` `sessionIDKey`.
const SESSION_ID: Version = Version::new(26, 6, 22);
/// Before, uploads had to be larger than the engine's buffers.
const SMALL_POSTS: Version = Version::new(26, 3, 27);
/// The engine's buffers, in bytes.
const BUFFER_BYTES: i64 = 8192;

const MODES: [&str; 4] = ["auto", "packet-up", "stream-up", "stream-one"];

/// What a value must be.
enum Kind {
    Flag,
    /// A number, not negative.
    Number,
    /// A number or `from-to`, from this on.
    Range(i64),
    Word(&'static [&'static str]),
    /// As [`Kind::Word`], but of these words the last two are for the mode `packet-up` alone.
    DataPlace,
    /// A name of a header, a cookie or a parameter.
    Token,
    Method,
    Headers,
    Multiplexing,
}

/// The known keys by the names that the newest version has, the first version with them, and their values.
const KEYS: [(&str, Version, Kind); 23] = [
    ("headers", SINCE, Kind::Headers),
    ("noGRPCHeader", SINCE, Kind::Flag),
    ("noSSEHeader", SINCE, Kind::Flag),
    ("scMaxBufferedPosts", SINCE, Kind::Number),
    ("scMaxEachPostBytes", SINCE, Kind::Range(1)),
    ("scMinPostsIntervalMs", SINCE, Kind::Range(0)),
    ("scStreamUpServerSecs", SINCE, Kind::Range(0)),
    ("xPaddingBytes", SINCE, Kind::Range(1)),
    ("xmux", SINCE, Kind::Multiplexing),
    ("seqKey", PLACES, Kind::Token),
    ("seqPlacement", PLACES, Kind::Word(&["path", "cookie", "header", "query"])),
    ("serverMaxHeaderBytes", PLACES, Kind::Number),
    ("sessionIDKey", PLACES, Kind::Token),
    ("sessionIDPlacement", PLACES, Kind::Word(&["path", "cookie", "header", "query"])),
    ("uplinkChunkSize", PLACES, Kind::Range(0)),
    ("uplinkDataKey", PLACES, Kind::Token),
    ("uplinkDataPlacement", PLACES, Kind::DataPlace),
    ("uplinkHTTPMethod", PLACES, Kind::Method),
    ("xPaddingHeader", PLACES, Kind::Token),
    ("xPaddingKey", PLACES, Kind::Token),
    ("xPaddingMethod", PLACES, Kind::Word(&["repeat-x", "tokenish"])),
    ("xPaddingObfsMode", PLACES, Kind::Flag),
    ("xPaddingPlacement", PLACES, Kind::Word(&["cookie", "header", "query", "queryInHeader"])),
];

/// The keys that a version before [`SESSION_ID`] has other names for.
const RENAMED: [(&str, &str); 2] = [("sessionIDKey", "sessionKey"), ("sessionIDPlacement", "sessionPlacement")];

/// Keys of `xmux` that are ranges; besides them it has `hKeepAlivePeriod`.
const RANGES_OF_XMUX: [&str; 5] =
    ["maxConcurrency", "maxConnections", "cMaxReuseTimes", "hMaxRequestTimes", "hMaxReusableSecs"];

/// The newest name of a key.
fn newest(key: &str) -> &str {
    RENAMED.iter().find(|(_, old)| *old == key).map_or(key, |(new, _)| new)
}

/// Whether Xray of this version can run XHTTP like this.
pub(super) fn check(version: Version, mode: &str, extra: &BTreeMap<String, Value>) -> Result<(), Lack> {
    if version < SINCE {
        return Err(Lack::but("Xray 24.12.31 or newer", "the transport xhttp"));
    }
    if !MODES.contains(&mode) {
        return Err(Lack::none(format!("the xhttp mode {mode:?}")));
    }
    for (key, value) in extra {
        let (_, since, kind) = KEYS
            .iter()
            .find(|(known, ..)| *known == newest(key))
            .ok_or_else(|| Lack::none(format!("xhttp with {key:?} in its extra")))?;
        if version < *since {
            return Err(Lack::but("Xray 26.3.27 or newer", format!("xhttp with {key:?} in its extra")));
        }
        if !fits(kind, value, mode) {
            return Err(Lack::none(format!("xhttp with such a value of {key:?} in its extra")));
        }
        if key == "scMaxEachPostBytes"
            && version < SMALL_POSTS
            && range(value).is_some_and(|(from, _)| from <= BUFFER_BYTES)
        {
            return Err(Lack::but("Xray 26.3.27 or newer", "xhttp with so small a \"scMaxEachPostBytes\""));
        }
    }
    Ok(())
}

/// The object for the engine's file.
pub(super) fn extra(version: Version, extra: &BTreeMap<String, Value>) -> Map<String, Value> {
    let name = |key: &str| {
        let newest = newest(key);
        let old = RENAMED.iter().find(|(new, _)| version < SESSION_ID && *new == newest);
        old.map_or(newest, |(_, old)| old).to_owned()
    };
    extra.iter().map(|(key, value)| (name(key), value.clone())).collect()
}

fn fits(kind: &Kind, value: &Value, mode: &str) -> bool {
    let text = value.as_str();
    match kind {
        Kind::Flag => value.is_boolean(),
        Kind::Number => value.as_i64().is_some_and(|number| (0..=i64::from(i32::MAX)).contains(&number)),
        Kind::Range(least) => range(value).is_some_and(|(from, _)| from >= *least),
        Kind::Word(words) => text.is_some_and(|text| words.contains(&text)),
        Kind::DataPlace => match text {
            Some("auto" | "body") => true,
            Some("cookie" | "header") => mode == "packet-up",
            _ => false,
        },
        Kind::Token => text.is_some_and(is_token),
        Kind::Method => match text {
            Some("GET") => mode == "packet-up",
            Some(text) => is_token(text) && text.bytes().all(|byte| byte.is_ascii_uppercase()),
            None => false,
        },
        Kind::Headers => value.as_object().is_some_and(|headers| {
            headers.iter().all(|(name, value)| {
                let text = value.as_str().is_some_and(|text| !text.chars().any(char::is_control));
                // It is not the link that says whom the requests are for.
                is_token(name) && !name.eq_ignore_ascii_case("host") && text
            })
        }),
        Kind::Multiplexing => value.as_object().is_some_and(multiplexes),
    }
}

fn multiplexes(xmux: &Map<String, Value>) -> bool {
    let known = xmux.iter().all(|(key, value)| match key.as_str() {
        "hKeepAlivePeriod" => value.as_i64().is_some_and(|secs| i32::try_from(secs).is_ok()),
        key => RANGES_OF_XMUX.contains(&key) && range(value).is_some_and(|(from, _)| from >= 0),
    });
    let limits = |key: &str| xmux.get(key).and_then(range).is_some_and(|(_, to)| to > 0);
    known && !(limits("maxConcurrency") && limits("maxConnections"))
}

/// A number, or a text of one or of two with a dash between them, as from and to.
fn range(value: &Value) -> Option<(i64, i64)> {
    let (from, to) = match value {
        Value::Number(number) => (number.as_i64()?, number.as_i64()?),
        Value::String(text) => {
            let number =
                |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
            match text.split_once('-') {
                Some((from, to)) => (number(from)?, number(to)?),
                None => (number(text)?, number(text)?),
            }
        }
        _ => return None,
    };
    let fits = |number: i64| i32::try_from(number).is_ok();
    (fits(from) && fits(to) && from <= to).then_some((from, to))
}

/// A token of HTTP, which is also good in cookies and as a parameter of a URL.
fn is_token(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || byte == b'.')
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::*;

    const TESTED: Version = Version::new(26, 3, 27);

    fn checked(version: Version, mode: &str, text: Value) -> Result<(), String> {
        let extra: BTreeMap<String, Value> = serde_json::from_value(text).unwrap();
        check(version, mode, &extra).map_err(|lack| lack.feature)
    }

    #[test]
    fn known_keys_with_good_values_pass() {
        let all = json!({
            "headers": { "X-A": "b" }, "noGRPCHeader": true, "noSSEHeader": false, "scMaxBufferedPosts": 30,
            "scMaxEachPostBytes": "1000000-2000000", "scMinPostsIntervalMs": 30, "scStreamUpServerSecs": "20-80",
            "xPaddingBytes": "100-1000", "xmux": { "maxConcurrency": "16-32", "hKeepAlivePeriod": -1 },
        });
        assert_eq!(checked(Version::new(25, 12, 8), "auto", all), Ok(()));
        let newer = json!({
            "seqKey": "s", "seqPlacement": "header", "sessionKey": "k", "sessionIDPlacement": "cookie",
            "uplinkChunkSize": 100, "uplinkDataKey": "X-D", "uplinkDataPlacement": "header", "uplinkHTTPMethod": "GET",
            "xPaddingHeader": "X-P", "xPaddingKey": "p", "xPaddingMethod": "tokenish", "xPaddingObfsMode": true,
            "xPaddingPlacement": "query", "serverMaxHeaderBytes": 8192, "scMaxEachPostBytes": 100,
        });
        assert_eq!(checked(TESTED, "packet-up", newer.clone()), Ok(()));
        assert!(checked(Version::new(26, 2, 6), "packet-up", newer).is_err());
    }

    #[test]
    fn what_could_lead_elsewhere_or_end_the_engine_is_refused() {
        for bad in [
            json!({ "downloadSettings": { "address": "a.test" } }),
            json!({ "sockopt": { "mark": 1 } }),
            json!({ "host": "a.test" }),
            json!({ "path": "/" }),
            json!({ "extra": {} }),
            json!({ "headers": { "Host": "a.test" } }),
            json!({ "headers": { "X-A": "b\r\nc: d" } }),
            json!({ "headers": { "X A": "b" } }),
            json!({ "scMaxEachPostBytes": 0 }),
            json!({ "scMaxEachPostBytes": "0-100" }),
            json!({ "xPaddingBytes": 0 }),
            json!({ "xPaddingBytes": -1 }),
            json!({ "xPaddingBytes": "200-100" }),
            json!({ "scMinPostsIntervalMs": "9999999999" }),
            json!({ "scMinPostsIntervalMs": "" }),
            json!({ "xmux": { "maxConcurrency": 1, "maxConnections": 1 } }),
            json!({ "xmux": { "other": 1 } }),
            json!({ "xmux": 1 }),
            json!({ "noGRPCHeader": "true" }),
            json!({ "uplinkHTTPMethod": "GET" }),
            json!({ "uplinkDataPlacement": "cookie" }),
            json!({ "seqPlacement": "body" }),
        ] {
            assert!(checked(TESTED, "auto", bad.clone()).is_err(), "{bad}");
        }
        assert!(checked(TESTED, "stream-down", json!({})).is_err());
        assert!(checked(Version::new(25, 12, 8), "auto", json!({ "scMaxEachPostBytes": 8192 })).is_err());
        assert!(checked(Version::new(24, 11, 30), "auto", json!({})).is_err());
    }

    #[test]
    fn the_session_has_the_name_that_the_version_knows() {
        for written in ["sessionPlacement", "sessionIDPlacement"] {
            let given = BTreeMap::from([(written.to_owned(), json!("query"))]);
            let names = |version| extra(version, &given).keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(TESTED), ["sessionPlacement"]);
            assert_eq!(names(Version::new(26, 7, 28)), ["sessionIDPlacement"]);
        }
    }
}
