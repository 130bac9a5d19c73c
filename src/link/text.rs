//! The checks every scheme shares: percent-encoding, base64, hosts, ports, user ids and names.
//!
//! A check that fails returns what it expected; the caller knows the field's name and whether its value may be shown.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::Value;

/// What a failed check expected, as the tail of an error sentence.
pub(super) type Expected = &'static str;

/// Names longer than this many characters are cut: they are labels in lists, and some sources put adverts in them.
pub(super) const NAME_CHARS: usize = 200;

const HOST: Expected = "a host name or an IP address";
const IDN: Expected = "an ASCII host name: write an international one in its xn-- form";
const PORT: Expected = "a number from 1 to 65535";
const USER_ID: Expected = "a UUID, or 1 to 30 bytes of text that Xray maps to one";

/// What `encodeURIComponent` leaves as it is, but for `!'()*`, which some clients trip over.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Takes either alphabet once `-_` were mapped to `+/`, with any padding; sloppy writers leave trailing bits set.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Characters that must not reach a terminal or a list: control characters, and those that break or reorder a line.
pub fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{feff}')
}

/// Percent-encodes a value as `encodeURIComponent` would.
pub(super) fn encode(value: &str) -> String {
    utf8_percent_encode(value, COMPONENT).to_string()
}

/// Undoes percent-encoding; a stray `%` or bytes that are not UTF-8 are errors, and `+` stays a plus.
pub(super) fn decode(raw: &str) -> Result<Cow<'_, str>, Expected> {
    let bytes = raw.as_bytes();
    let stray = bytes.iter().enumerate().any(|(at, byte)| {
        *byte == b'%' && !bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    });
    if stray {
        return Err("every % to begin a code such as %20 (% itself is %25)");
    }
    let text = percent_decode_str(raw).decode_utf8().map_err(|_| "percent-encoded UTF-8")?;
    if text.chars().any(char::is_control) {
        return Err("no control characters");
    }
    Ok(text)
}

/// Refuses a credential that no link can hold.
pub(super) fn no_control(value: &str) -> Result<(), Expected> {
    if value.chars().any(char::is_control) { Err("no control characters") } else { Ok(()) }
}

/// Applies a check, and once more to what a second decoding gives: for values in which no `%` can be meant.
pub(super) fn again<T>(value: &str, check: impl Fn(&str) -> Result<T, Expected>) -> Result<T, Expected> {
    check(value).or_else(|expected| match decode(value) {
        Ok(decoded) if decoded != value => check(decoded.trim()).map_err(|_| expected),
        _ => Err(expected),
    })
}

/// `value` with the `/` in front that Xray wants, and adds to a WebSocket path itself. A path whose own `/` is encoded
/// was encoded once too often.
pub(super) fn rooted(value: &str) -> String {
    let twice = value.get(..3).is_some_and(|head| head.eq_ignore_ascii_case("%2F"));
    let decoded = if twice { decode(value).unwrap_or(Cow::Borrowed(value)) } else { Cow::Borrowed(value) };
    let path = decoded.trim();
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// A JSON value as text, lists with commas; `None` for what has no text form.
pub(super) fn scalar(value: Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::Bool(value) => Some(value.to_string()),
        Value::String(value) => Some(value),
        Value::Number(number) => Some(match number.as_f64() {
            // `443.0` is what some scripting languages make of 443.
            Some(float) if number.is_f64() && float.fract() == 0.0 => format!("{float:.0}"),
            _ => number.to_string(),
        }),
        Value::Array(items) => {
            let texts: Option<Vec<_>> =
                items.into_iter().map(|item| if item.is_array() { None } else { scalar(item) }).collect();
            Some(texts?.join(","))
        }
        Value::Object(_) => None,
    }
}

/// The items of a comma-separated list.
pub(super) fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Decodes base64 of either alphabet, with or without padding, wrapped or not.
pub(super) fn base64_bytes(text: &str) -> Option<Vec<u8>> {
    let plain: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => other,
        })
        .collect();
    // Padding is judged by nobody, also not when there is too much of it.
    let end = plain.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    LENIENT.decode(plain.get(..end)?).ok()
}

/// Like [`base64_bytes`], for text: `None` also for what is not UTF-8.
pub(super) fn base64_text(text: &str) -> Option<String> {
    String::from_utf8(base64_bytes(text)?).ok()
}

/// Like [`base64_text`], for a part of a link: base64 whose `=` may be percent-encoded.
pub(super) fn encoded_text(raw: &str) -> Option<String> {
    base64_text(&percent_decode_str(raw).decode_utf8().ok()?)
}

/// What a word says where only yes or no can be meant, in YAML's words as well.
pub(super) fn flag(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" | "y" => Some(true),
        "0" | "false" | "no" | "off" | "n" => Some(false),
        _ => None,
    }
}

/// Checks a port.
pub(super) fn port(text: &str) -> Result<NonZeroU16, Expected> {
    // `u16::from_str` takes a leading `+`, which no other client does.
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(PORT);
    }
    text.parse().map_err(|_| PORT)
}

/// Checks a host and gives its one spelling: lower case, IP addresses in canonical form, IPv6 without brackets.
pub(super) fn host(text: &str) -> Result<String, Expected> {
    if !text.is_ascii() {
        return Err(IDN);
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(v6) = bare.or_else(|| text.contains(':').then_some(text)) {
        return v6.parse::<Ipv6Addr>().map(|address| address.to_string()).map_err(|_| HOST);
    }
    let name = text.to_ascii_lowercase();
    let name = match name.strip_suffix('.') {
        Some(relative) if relative.contains('.') => relative,
        _ => &name,
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(HOST);
    }
    // `127.1`, `0x7f.1` and `1.2.3.256` are addresses to some resolvers and names to others.
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    if numeric && name.parse::<Ipv4Addr>().is_err() {
        return Err("a host name or an IP address in the form 192.0.2.1");
    }
    Ok(name.to_owned())
}

/// Checks a Host header: a host that may carry a port. IPv6 keeps its brackets.
pub(super) fn host_header(text: &str) -> Result<String, Expected> {
    let (name, port_part) = match text.rsplit_once(':') {
        Some((name, digits)) if !name.contains(':') || name.ends_with(']') => (name, Some(digits)),
        _ => (text, None),
    };
    let mut header = host(name)?;
    if header.contains(':') {
        header = format!("[{header}]");
    }
    if let Some(digits) = port_part {
        header = format!("{header}:{}", port(digits)?);
    }
    Ok(header)
}

/// Checks the id of a VLESS or VMess user by the rule of Xray's `common/uuid`: a UUID gets its canonical spelling,
/// a text of 1 to 30 bytes stays as it is (Xray maps it to a UUID, V2Ray cannot).
pub(super) fn user_id(text: &str) -> Result<String, Expected> {
    match text.len() {
        1..=30 if !text.chars().any(|c| c.is_whitespace() || is_unprintable(c)) => Ok(text.to_owned()),
        32..=36 => uuid(text).ok_or(USER_ID),
        _ => Err(USER_ID),
    }
}

/// A UUID whose dashes are optional, one by one, but only where they belong.
pub(super) fn uuid(text: &str) -> Option<String> {
    let mut groups = Vec::with_capacity(5);
    let mut rest = text;
    for length in [8, 4, 4, 4, 12] {
        if !groups.is_empty() {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        let (group, tail) = rest.split_at_checked(length)?;
        groups.push(group);
        rest = tail;
    }
    let hex = groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()));
    (hex && rest.is_empty()).then(|| groups.join("-").to_ascii_lowercase())
}

/// Makes a node's name fit for lists: no control characters, trimmed, at most [`NAME_CHARS`] characters.
pub(super) fn name(decoded: &str) -> String {
    let printable: String = decoded.chars().filter(|character| !is_unprintable(*character)).collect();
    let cut: String = printable.trim().chars().take(NAME_CHARS).collect();
    cut.trim_end().to_owned()
}

/// A name from its percent-encoded form; what is not UTF-8 becomes U+FFFD, a stray `%` stays.
pub(super) fn name_from_url(raw: &str) -> String {
    name(&percent_decode_str(raw).decode_utf8_lossy())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn base64_takes_every_spelling() {
        for text in ["+/+/YQ==", "-_-_YQ==", "-_-_YQ", "+/+\n/Y Q=", "+/-_YR==", "+/+/YQ==="] {
            assert_eq!(base64_bytes(text).unwrap(), b"\xfb\xff\xbfa", "{text}");
        }
        for text in ["A", "A===", "YQ==YQ==", "a.b", "é"] {
            assert_eq!(base64_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn hosts_have_one_spelling() {
        for (text, wanted) in [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("[2001:DB8::0:1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("192.0.2.1", "192.0.2.1"),
            ("_a-b.xn--p1ai", "_a-b.xn--p1ai"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(host(text).unwrap(), wanted);
        }
        let long = format!("{}.example.com", "a".repeat(64));
        for text in [
            "",
            ".",
            "a..b",
            "a b",
            "a/b",
            "a@b",
            "a%62",
            "1.2.3",
            "1.2.3.256",
            "127.0.0.0x1",
            "[::1",
            "::1]",
            "[a]",
            "пример.рф",
            "fe80::1%eth0",
            "[192.0.2.1]",
            "com.",
            &long,
        ] {
            assert!(host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn host_headers_may_have_a_port() {
        for (text, wanted) in [
            ("A.example:80", "a.example:80"),
            ("[::1]:80", "[::1]:80"),
            ("::1", "[::1]"),
            ("[::1]", "[::1]"),
            ("a", "a"),
        ] {
            assert_eq!(host_header(text).unwrap(), wanted);
        }
        for text in ["a:", "a:0", "a:b", "a:80:80", ":80"] {
            assert!(host_header(text).is_err(), "{text}");
        }
    }

    #[test]
    fn user_ids_follow_xray() {
        let canonical = "b831381d-6324-4d53-ad4f-8cda48b30811";
        for text in [
            canonical,
            "B831381D-6324-4D53-AD4F-8CDA48B30811",
            "b831381d63244d53ad4f8cda48b30811",
            "b831381d-63244d53-ad4f8cda48b30811",
        ] {
            assert_eq!(user_id(text).unwrap(), canonical);
        }
        assert_eq!(user_id("Alice").unwrap(), "Alice");
        assert_eq!(user_id(&"a".repeat(30)).unwrap(), "a".repeat(30));
        for text in [
            "",
            "a b",
            "b831381d-6324-4d53-ad4f-8cda48b3081",
            "b831381d-6324-4d53-ad4f-8cda48b308111",
            "b831381d-6324-4d53-ad4f-8cda48b3081g",
            "b831381-d6324-4d53-ad4f-8cda48b30811",
            "b831381d63244d53ad4f8cda48b3081",
            "b831381d-6324-4d53-ad4f-8cda48b3é11",
            "b831381d--6324-4d53-ad4f8cda48b30811",
        ] {
            assert!(user_id(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_safe_to_print() {
        assert_eq!(name_from_url("%1B%5B31mred%00%0A"), "[31mred");
        assert_eq!(name_from_url("a+b%20c%zz%FF"), "a+b c%zz\u{fffd}");
        assert_eq!(name("  \u{202e}x\u{7f} "), "x");
        assert_eq!(name(&"é".repeat(500)).chars().count(), NAME_CHARS);
        let cut_at_space = format!("{} b", "a".repeat(NAME_CHARS - 1));
        assert_eq!(name(&name(&cut_at_space)), name(&cut_at_space));
    }
}
