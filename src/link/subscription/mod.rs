//! The body of a subscription: share links, one a line, as they are or as one base64 text, or the nodes in a
//! configuration of Clash, sing-box, Xray or V2Ray, or SIP008.
//!
//! Linear in the size of the body, a node at a time, and one bad node never loses the others.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufRead};
use std::ops::ControlFlow;

use super::text;
use super::{LinkError, MAX_LINK_BYTES, split_scheme, trim};
use crate::config::Config;

mod clash;
mod json;
mod node;
mod refusals;
mod singbox;
mod strict;
mod xray;
mod yaml;

pub use refusals::{Reason, Refusals, Refused};

/// The longest key of a header between links, in bytes: `subscription-userinfo` and its like, with room.
const HEADER_KEY_BYTES: usize = 40;

/// Where in a body something is, counted from 1; in the decoded text where the body was base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A line, of a list or of YAML.
    Line(usize),
    /// An element of the lists in JSON, where all may be one line.
    Node(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(number) => write!(f, "line {number}"),
            Self::Node(number) => write!(f, "node {number}"),
        }
    }
}

/// One node, or what was meant as one.
#[derive(Debug)]
pub struct Item {
    /// Where it is.
    pub place: Place,
    /// How many bytes of the text were read so far, for a sense of progress.
    pub read: usize,
    /// The config, or why there is none.
    pub outcome: Result<Config, LinkError>,
}

/// What takes the nodes; it ends the reading with a break.
pub type Sink<'s> = dyn FnMut(Item) -> ControlFlow<()> + 's;

/// What a body held, in its order.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The nodes, each with its place; the same node may be there more than once.
    pub configs: Vec<(Place, Config)>,
    /// What was meant as nodes and could not be read.
    pub refused: Vec<Refused>,
}

/// Reads a body into memory; for large ones see [`each`].
pub fn parse(body: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    let _ = each(body, &mut |Item { place, outcome, .. }| {
        match outcome {
            Ok(config) => parsed.configs.push((place, config)),
            Err(reason) => parsed.refused.push(Refused { place, reason }),
        }
        ControlFlow::Continue(())
    });
    parsed
}

/// Reads a body a node at a time: a configuration, or plain lines or base64 of them, with or without a byte order mark,
/// comments and headers.
///
/// Of lines, empty ones, comments (`#`, `//`, `;`) and headers (`STATUS=…`, `profile-title: …`) are skipped. A body that
/// is nothing of all this (a web page) is refused as a whole, on line 1.
pub fn each(body: &[u8], sink: &mut Sink<'_>) -> ControlFlow<()> {
    let body = without_mark(body);
    // A configuration is full of addresses, and may be base64 as a whole as well.
    let decoded = if contains(body, b"://") || format(body) != Format::Lines { None } else { decode(body) };
    let text = decoded.as_deref().map_or(body, without_mark);
    let structured: fn(&str, &mut Sink<'_>) -> ControlFlow<()> = match format(text) {
        Format::Json => json::each,
        Format::Clash => yaml::each,
        Format::Page => return whole(sink, LinkError::Body { format: "a web page" }),
        // Reading from memory does not fail.
        Format::Lines => return each_line(&mut &*text, sink).unwrap_or(ControlFlow::Continue(())),
    };
    match std::str::from_utf8(text) {
        Ok(text) => structured(text, sink),
        Err(_) => whole(sink, LinkError::Body { format: "not in UTF-8" }),
    }
}

/// Reads plain lines as [`each`] does, from something that is too large for memory.
///
/// # Errors
/// When it cannot be read.
pub fn each_line(reader: &mut dyn BufRead, sink: &mut Sink<'_>) -> io::Result<ControlFlow<()>> {
    let (mut line, mut read) = (Vec::new(), 0);
    for number in 1.. {
        line.clear();
        // One more than fits, and what follows is passed over.
        let bytes = io::Read::take(&mut *reader, LINE_BYTES + 1).read_until(b'\n', &mut line)?;
        if bytes == 0 {
            break;
        }
        read += bytes;
        if number == 1 && without_mark(&line).len() < line.len() {
            line.drain(..line.len() - without_mark(&line).len());
        }
        let outcome = if line.len() > MAX_LINK_BYTES && !line.ends_with(b"\n") {
            let rest = if bytes as u64 > LINE_BYTES { reader.skip_until(b'\n')? } else { 0 };
            read += rest;
            let comment = std::str::from_utf8(line.get(..COMMENT_BYTES).unwrap_or_default()).is_ok_and(is_comment);
            (!comment).then_some(Err(LinkError::TooLong { length: bytes + rest, limit: MAX_LINK_BYTES }))
        } else {
            parse_line(&line)
        };
        if let Some(outcome) = outcome
            && sink(Item { place: Place::Line(number), read, outcome }).is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The longest mark of a comment, in bytes.
const COMMENT_BYTES: usize = 2;
/// The longest line that is looked at, in bytes: a link, and a line end.
const LINE_BYTES: u64 = MAX_LINK_BYTES as u64 + 2;

fn whole(sink: &mut Sink<'_>, reason: LinkError) -> ControlFlow<()> {
    sink(Item { place: Place::Line(1), read: 0, outcome: Err(reason) })
}

/// One line; `None` if it is not meant to be a link.
fn parse_line(bytes: &[u8]) -> Option<Result<Config, LinkError>> {
    let text = match readable(bytes) {
        Ok(text) => text,
        Err(error) => return Some(Err(error)),
    };
    let line = trim(&text);
    if line.is_empty() || is_comment(line) {
        return None;
    }
    (split_scheme(line).is_some() || !is_header(line)).then(|| super::parse(line))
}

fn is_comment(line: &str) -> bool {
    ["#", "//", ";"].iter().any(|mark| line.starts_with(mark))
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
    let worth = contains(&decoded, b"://") || format(without_mark(&decoded)) != Format::Lines;
    worth.then_some(decoded)
}

/// What a text is.
#[derive(PartialEq, Eq)]
enum Format {
    Lines,
    Json,
    Clash,
    Page,
}

fn format(text: &[u8]) -> Format {
    let start = text.trim_ascii_start();
    let begins = |word: &str| start.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word.as_bytes()));
    match start.first() {
        Some(b'{' | b'[') => Format::Json,
        Some(b'<') if begins("<!doctype") || begins("<html") || begins("<?xml") => Format::Page,
        _ if yaml::is_clash(text) => Format::Clash,
        _ => Format::Lines,
    }
}

/// Whether a text is the configuration of another program, in which white space and words mean what they mean there.
pub fn is_configuration(text: &[u8]) -> bool {
    matches!(format(without_mark(text)), Format::Json | Format::Clash)
}

/// Whether a text that goes on after `head` is a list of lines, which can be read without having all of it.
pub fn is_lines(head: &[u8]) -> bool {
    let head = without_mark(head);
    format(head) == Format::Lines && contains(head, b"://")
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
        \tvless://alice@example.com:443#two \r\nvless://alice@example.com:0\r\nssr://x@example.com:1\r\ntrojan://a@example.com:443#one";

    fn number(place: Place) -> usize {
        match place {
            Place::Line(number) | Place::Node(number) => number,
        }
    }

    fn lines(parsed: &Parsed) -> (Vec<(usize, &str)>, Vec<usize>) {
        let names = parsed.configs.iter().map(|(place, config)| (number(*place), config.name.as_str())).collect();
        (names, parsed.refused.iter().map(|refused| number(refused.place)).collect())
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
        for (body, name) in [
            ("\u{feff} {\"version\": 1, \"dns\": []}", "JSON without nodes"),
            ("{\"outbounds\": ", "valid JSON"),
            (" <!DOCTYPE HTML><p>Log in at https://example.com", "a web page"),
            (&STANDARD.encode("<html><a href=\"https://example.com\">"), "a web page"),
        ] {
            let parsed = parse(body.as_bytes());
            assert_eq!(lines(&parsed), (vec![], vec![1]), "{body}");
            assert!(parsed.refused[0].reason.to_string().contains(name), "{body}: {}", parsed.refused[0].reason);
        }
        let parsed = parse(b"{\"servers\": [\"\xff\"]}");
        assert!(parsed.refused[0].reason.to_string().contains("UTF-8"));
    }

    #[test]
    fn a_line_without_end_costs_one_line() {
        let body = format!("trojan://a@h.example#one\ntrojan://{}\ntrojan://b@h.example#two\n", "x".repeat(10 << 20));
        assert_eq!(lines(&parse(body.as_bytes())), (vec![(1, "one"), (3, "two")], vec![2]));
        let comment = format!("# {}\ntrojan://b@h.example#two\n", "x".repeat(1 << 20));
        assert_eq!(lines(&parse(comment.as_bytes())), (vec![(2, "two")], vec![]));
        let long = format!("trojan://a@h.example#{}", "x".repeat(MAX_LINK_BYTES));
        assert!(parse(long.as_bytes()).refused[0].reason.to_string().contains("at most 65536"));
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
            assert_eq!(parsed.configs[89_999].0, Place::Line(99_999));
        }
    }
}
