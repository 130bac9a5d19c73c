//! What `parse` and `import` read: links from the command line, a file, standard input, or addresses to fetch.

use std::io::Read;

use super::error::CliError;
use crate::import::one_a_line;
use crate::link::looks_like_subscription_url;
use crate::net::fetch::MAX_BODY;

/// The word for standard input.
const STANDARD_INPUT: &str = "-";
/// A longer argument is not repeated in an error.
const SHOWN_BYTES: usize = 200;

/// What an argument names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source<'a> {
    /// The links themselves, one a line.
    Links(String),
    /// Addresses of subscriptions.
    Urls(Vec<&'a str>),
    /// A file.
    File(&'a str),
    /// Standard input.
    Stdin,
}

impl<'a> Source<'a> {
    /// Tells by its look what an argument names.
    pub(super) fn of(text: &'a str) -> Self {
        if text == STANDARD_INPUT {
            return Self::Stdin;
        }
        if !text.contains("://") {
            return Self::File(text);
        }
        let words = || text.split_whitespace();
        if words().all(looks_like_subscription_url) {
            return Self::Urls(words().collect());
        }
        Self::Links(one_a_line(text))
    }

    /// What an error calls it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Links(links) => if links.lines().nth(1).is_some() { "the links" } else { "the link" }.to_owned(),
            Self::Urls(_) => "the address".to_owned(),
            Self::File(path) => format!("the file {path}"),
            Self::Stdin => "standard input".to_owned(),
        }
    }

    /// The bytes that are there without a network: links, one a line, or their base64.
    ///
    /// # Errors
    /// When it cannot be read or is larger than any subscription may be.
    pub(super) fn read(&self) -> Result<Vec<u8>, CliError> {
        match self {
            Self::Links(links) => Ok(links.as_bytes().to_vec()),
            Self::Urls(urls) => Ok(urls.join("\n").into_bytes()),
            Self::Stdin => self.read_bounded(&mut std::io::stdin().lock()),
            Self::File(path) => match std::fs::File::open(path) {
                Ok(mut file) => self.read_bounded(&mut file),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    // It may be half of a link, with a password in it.
                    let shown = path.len() <= SHOWN_BYTES && !path.contains(['@', '#', '?', '\n']);
                    Err(CliError::NoSource(if shown { format!("`{path}`") } else { "the argument".to_owned() }))
                }
                Err(source) => Err(CliError::Read { what: self.name(), source }),
            },
        }
    }

    fn read_bounded(&self, reader: &mut dyn Read) -> Result<Vec<u8>, CliError> {
        let mut bytes = Vec::new();
        let limit = u64::try_from(MAX_BODY).unwrap_or(u64::MAX);
        reader
            .take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|source| CliError::Read { what: self.name(), source })?;
        if bytes.len() > MAX_BODY {
            return Err(CliError::TooLarge { what: self.name(), limit_mib: MAX_BODY >> 20 });
        }
        Ok(bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn tells_sources_apart() {
        assert_eq!(Source::of("-"), Source::Stdin);
        assert_eq!(Source::of("links.txt"), Source::File("links.txt"));
        assert_eq!(Source::of(" https://h.example/sub "), Source::Urls(vec!["https://h.example/sub"]));
        assert_eq!(Source::of("http://u:p@h.example:8080"), Source::Links("http://u:p@h.example:8080\n".into()));
    }

    #[test]
    fn pasted_links_are_split_and_names_are_not() {
        let pasted = "trojan://a@h:1#one\ttrojan://b@h:2#my  node https://t.me/x http://u:p@h:3\nss://c@h:4";
        let lines = "trojan://a@h:1#one\ntrojan://b@h:2#my  node https://t.me/x\nhttp://u:p@h:3\nss://c@h:4\n";
        assert_eq!(Source::of(pasted), Source::Links(lines.into()));
    }
}
