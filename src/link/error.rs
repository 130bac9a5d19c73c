//! Why a link was refused: one sentence a person can act on, never a credential or a control character.

use std::fmt;

/// How much of a value an error quotes, in characters: enough to find it in the link, short enough for one line.
const SHOWN_CHARS: usize = 60;

/// A value as errors may quote it: without control characters, cut to a bounded length, or hidden altogether.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown(Option<String>);

impl Shown {
    /// Quotes a value that is no credential.
    pub fn new(value: &str) -> Self {
        let mut shown = String::new();
        let mut room = SHOWN_CHARS;
        for character in value.chars() {
            // What is spelled out takes as much room as its spelling.
            let taken = if super::text::is_unprintable(character) { character.escape_unicode().count() } else { 1 };
            let Some(left) = room.checked_sub(taken) else {
                shown.push('…');
                break;
            };
            room = left;
            if super::text::is_unprintable(character) {
                shown.extend(character.escape_unicode());
            } else {
                shown.push(character);
            }
        }
        Self(Some(shown))
    }

    /// Stands for a value that is, or may hold, a credential.
    pub fn hidden() -> Self {
        Self(None)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => write!(f, "`{value}`"),
            None => f.write_str("(not shown)"),
        }
    }
}

/// Why a link, or the body of a subscription, was refused.
///
/// Fields carry the name they have in the link: `sni` in a URL, `net` in a VMess JSON object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The text does not begin with `scheme://`.
    #[error("this is not a share link: expected scheme://…, for example vless://uuid@host:port#name")]
    NotALink,
    /// Longer than any real link.
    #[error("the link has {length} bytes: expected at most {limit}")]
    TooLong {
        /// Bytes in the text.
        length: usize,
        /// Bytes that are accepted.
        limit: usize,
    },
    /// The link means something that xrat cannot do, at least for now.
    #[error("{field} {value} is not supported yet by xrat: expected {expected}")]
    Unsupported {
        /// The field's name in the link, or what it is when it has none there.
        field: &'static str,
        /// What the link says.
        value: Shown,
        /// What xrat can do instead.
        expected: &'static str,
    },
    /// A field that must be there is absent or empty.
    #[error("the link has no {field}: expected {expected}")]
    Missing {
        /// The field's name in the link.
        field: &'static str,
        /// What should be there.
        expected: &'static str,
    },
    /// A field holds something it cannot hold.
    #[error("{field} {value} is not valid: expected {expected}")]
    Invalid {
        /// The field's name in the link.
        field: &'static str,
        /// What the link says.
        value: Shown,
        /// What could stand there.
        expected: &'static str,
    },
    /// A field is given more than once and the values disagree.
    #[error("{field} is given twice, as {first} and as {second}: expected one value")]
    Conflict {
        /// The field's name in the link.
        field: &'static str,
        /// The value that came first.
        first: Shown,
        /// The value that disagrees with it.
        second: Shown,
    },
    /// An `http(s)://` address of a page, where a proxy was expected.
    #[error(
        "this is the address of a page and not of a proxy: expected http(s)://user:password@host:port, or import it as a subscription"
    )]
    SubscriptionUrl,
    /// The whole body of a subscription is in a format that cannot be read.
    #[error(
        "the subscription is {format}: expected links, one a line, their base64, or nodes of Clash, sing-box, Xray or SIP008"
    )]
    Body {
        /// The format that was recognised.
        format: &'static str,
    },
}

impl LinkError {
    /// The sentence without what is different in each link, so that refusals can be counted by it.
    pub fn class(&self) -> String {
        match self {
            Self::Invalid { field, expected, .. } => format!("{field} is not valid: expected {expected}"),
            Self::Conflict { field, .. } => format!("{field} is given twice, with different values"),
            Self::TooLong { limit, .. } => format!("the link is too long: expected at most {limit} bytes"),
            // What cannot be done is the reason itself: which scheme, which transport.
            Self::Unsupported { .. }
            | Self::Missing { .. }
            | Self::NotALink
            | Self::SubscriptionUrl
            | Self::Body { .. } => self.to_string(),
        }
    }
}
