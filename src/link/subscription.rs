//! The body of a subscription: share links, one a line, as they are or as one base64 text.
//!
//! Linear in the size of the body, and one bad line never loses the others.

use std::borrow::Cow;

use super::text;
use super::{LinkError, split_scheme, trim};
use crate::config::Config;

/// The longest key of a header between links, in bytes: `subscription-userinfo` and its like, with room.
const HEADER_KEY_BYTES: usize = 40;

/// What a body held, in its order. Lines count from 1, in the decoded text where the body was base64.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The nodes, each with its line; the same node may be there more than once.
    pub configs: Vec<(usize, Config)>,
    /// The lines that were meant as links and could not be read.
    pub refused: Vec<Refused>,
}

/// A line that could not be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its number, from 1.
    pub line: usize,
    /// Why, in one sentence without credentials.
    pub reason: LinkError,
}

/// Reads a body: plain lines or base64 of them, with or without a byte order mark, comments and headers.
///
/// Empty lines, comments (`#`, `//`, `;`) and headers (`STATUS=…`, `profile-title: …`) are skipped. A body in another
/// format (JSON, YAML, a web page) is refused as a whole, on line 1.
pub fn parse(body: &[u8]) -> Parsed {
    let body = without_mark(body);
    let decoded = if contains(body, b"://") { None } else { decode(body) };
    let text = decoded.as_deref().map_or(body, without_mark);
    let mut parsed = Parsed::default();
    if let Some(format) = foreign_format(text) {
        parsed.refused.push(Refused { line: 1, reason: LinkError::Body { format } });
        return parsed;
    }
    for (index, bytes) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = index + 1;
        match parse_line(bytes) {
            None => {}
            Some(Ok(config)) => parsed.configs.push((line, config)),
            Some(Err(reason)) => parsed.refused.push(Refused { line, reason }),
        }
    }
    parsed
}

/// One line; `None` if it is not meant to be a link.
fn parse_line(bytes: &[u8]) -> Option<Result<Config, LinkError>> {
    let text = match readable(bytes) {
        Ok(text) => text,
        Err(error) => return Some(Err(error)),
    };
    let line = trim(&text);
    if line.is_empty() || ["#", "//", ";"].iter().any(|mark| line.starts_with(mark)) {
        return None;
    }
    (split_scheme(line).is_some() || !is_header(line)).then(|| super::parse(line))
}

/// A line as text. Names may be in any encoding; everything else must be UTF-8, or a credential would change silently.
fn readable(bytes: &[u8]) -> Result<Cow<'_, str>, LinkError> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Ok(Cow::Borrowed(text));
    }
    let name = bytes.iter().position(|byte| *byte == b'#').unwrap_or(bytes.len());
    match bytes.split_at_checked(name).map(|(front, name)| (std::str::from_utf8(front), name)) {
        Some((Ok(front), name)) => Ok(Cow::Owned(format!("{front}{}", String::from_utf8_lossy(name)))),
        _ => Err(LinkError::Invalid { field: "line", value: super::Shown::hidden(), expected: "text in UTF-8" }),
    }
}

/// `KEY=value` or `key: value`, which providers put between links.
fn is_header(line: &str) -> bool {
    let Some((key, value)) = line.split_once(['=', ':']) else { return false };
    let (key, word) = (key.trim_end(), |character: char| character.is_alphanumeric() || "-_ ".contains(character));
    // A long key is broken base64, and a scheme's name begins a broken link: neither may vanish silently.
    let scheme = super::KNOWN_SCHEMES.iter().any(|scheme| key.eq_ignore_ascii_case(scheme));
    !value.is_empty() && (1..=HEADER_KEY_BYTES).contains(&key.len()) && key.chars().all(word) && !scheme
}

/// The text in a body that is base64 as a whole, if that is what it is.
fn decode(body: &[u8]) -> Option<Vec<u8>> {
    let decoded = text::base64_bytes(std::str::from_utf8(body).ok()?)?;
    let worth = contains(&decoded, b"://") || foreign_format(without_mark(&decoded)).is_some();
    worth.then_some(decoded)
}

/// Formats other than lines, by name.
fn foreign_format(text: &[u8]) -> Option<&'static str> {
    let start = text.trim_ascii_start();
    let begins = |word: &str| start.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word.as_bytes()));
    match start.first() {
        Some(b'{' | b'[') => Some("JSON"),
        Some(b'<') if begins("<!doctype") || begins("<html") || begins("<?xml") => Some("a web page"),
        _ => text.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"proxies:")).then_some("YAML"),
    }
}

fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    const PLAIN: &str = "\u{feff}REMARKS=Example of https://example.com/\r\nSTATUS=1 GB left\r\n# a comment\r\n\
        // another vless://x\r\n\r\ntrojan://a@example.com:443#one\r\nprofile-title: base64:eA==\r\nVLESS:alice@example.com:443\r\n\
        \tvless://alice@example.com:443#two \r\nvless://alice@example.com:0\r\nhy2://x@example.com:1\r\ntrojan://a@example.com:443#one";

    fn lines(parsed: &Parsed) -> (Vec<(usize, &str)>, Vec<usize>) {
        let names = parsed.configs.iter().map(|(line, config)| (*line, config.name.as_str())).collect();
        (names, parsed.refused.iter().map(|refused| refused.line).collect())
    }

    #[test]
    fn plain_and_base64_bodies_give_the_same() {
        let wrapped: String =
            STANDARD.encode(PLAIN).as_bytes().chunks(76).map(|row| format!("{}\r\n", row.escape_ascii())).collect();
        let bodies = [PLAIN.to_owned(), STANDARD.encode(PLAIN), URL_SAFE_NO_PAD.encode(PLAIN), wrapped];
        for body in bodies {
            let parsed = parse(body.as_bytes());
            assert_eq!(lines(&parsed), (vec![(6, "one"), (9, "two"), (12, "one")], vec![8, 10, 11]), "{body}");
            assert!(parsed.refused[1].reason.to_string().contains("port `0`"));
        }
    }

    #[test]
    fn other_formats_are_refused_by_name() {
        let yaml = "port: 7890\nproxies:\n- {name: a, type: ss, server: http://x}\n";
        for (body, name) in [
            ("\u{feff} {\"version\": 1, \"servers\": []}", "JSON"),
            ("[{\"outbounds\": []}]", "JSON"),
            (yaml, "YAML"),
            (&STANDARD.encode(yaml), "YAML"),
            (" <!DOCTYPE HTML><p>Log in at https://example.com", "a web page"),
        ] {
            let parsed = parse(body.as_bytes());
            assert_eq!(lines(&parsed), (vec![], vec![1]), "{body}");
            assert!(parsed.refused[0].reason.to_string().contains(name), "{body}");
        }
    }

    #[test]
    fn what_is_not_utf8_costs_one_line_at_most() {
        let body = b"trojan://a@example.com:443#\xff\xfe name\ntrojan://\xff@example.com:443#x\n\x00\x01\xff\ntrojan://b@example.com:443";
        let parsed = parse(body);
        let wanted = (vec![(1, "\u{fffd}\u{fffd} name"), (4, "example.com:443")], vec![2, 3]);
        assert_eq!(lines(&parsed), wanted);
    }

    #[test]
    fn bodies_without_links_say_so_or_are_empty() {
        assert_eq!(lines(&parse(b"")), (vec![], vec![]));
        assert_eq!(lines(&parse(b"\xef\xbb\xbf\r\n\n")), (vec![], vec![]));
        // Base64 with a hole in it is no header.
        let mut broken = STANDARD.encode(PLAIN);
        broken.insert(40, '!');
        assert_eq!(lines(&parse(broken.as_bytes())), (vec![], vec![1]));
        assert_eq!(lines(&parse(b"hello world")), (vec![], vec![1]));
    }

    #[test]
    fn a_large_body_is_read_whole() {
        let mut body = String::new();
        for number in 0..100_000 {
            if number % 10 == 9 {
                body.push_str("vless://broken\n");
            } else {
                body.push_str(&format!(
                    "trojan://p@h{number}.example.com:443?type=ws&path=/x&sni=example.com#n{number}\n"
                ));
            }
        }
        for body in [body.clone(), STANDARD.encode(&body)] {
            let parsed = parse(body.as_bytes());
            assert_eq!((parsed.configs.len(), parsed.refused.len()), (90_000, 10_000));
            assert_eq!(parsed.configs[89_999].0, 99_999);
        }
    }
}
