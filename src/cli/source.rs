//! What `parse` and `import` read: links from the command line, a file, standard input, or addresses to fetch.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Seek, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::error::CliError;
use crate::import::{Links, one_a_line};
use crate::link::looks_like_subscription_url;
use crate::link::subscription::is_lines;
use crate::net::fetch::MAX_BODY;

/// The word for standard input.
const STANDARD_INPUT: &str = "-";
/// So much is looked at before a list is read a line at a time. A configuration has its nodes, or the word for them,
/// before that.
const HEAD_BYTES: usize = 4 << 20;
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
        // A whole link that was percent-encoded is still one.
        if !text.contains("://") && !text.to_ascii_lowercase().contains("%3a%2f%2f") {
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
        match self.open()? {
            Opened::Body(body) => Ok(body),
            Opened::Lines { mut reader, .. } => {
                let mut body = Vec::new();
                let room = u64::try_from(MAX_BODY + 1).unwrap_or(u64::MAX);
                let read = reader.by_ref().take(room).read_to_end(&mut body);
                read.map_err(|source| CliError::Read { what: self.name(), source })?;
                if body.len() > MAX_BODY { Err(self.too_large()) } else { Ok(body) }
            }
        }
    }

    /// The same for an import, which takes plain lines of any number.
    ///
    /// # Errors
    /// When it cannot be read, or is in another format and larger than any subscription may be.
    pub(super) fn open(&self) -> Result<Opened, CliError> {
        match self {
            Self::Links(links) => Ok(Opened::Body(links.as_bytes().to_vec())),
            Self::Urls(urls) => Ok(Opened::Body(urls.join("\n").into_bytes())),
            Self::Stdin => self.opened(Box::new(std::io::stdin()), None),
            Self::File(path) => match File::open(path) {
                Ok(file) => {
                    let bytes = file.metadata().ok().filter(std::fs::Metadata::is_file);
                    let bytes = bytes.and_then(|file| usize::try_from(file.len()).ok());
                    self.opened(Box::new(file), bytes)
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    // It may be half of a link, with a password in it.
                    let shown = path.len() <= SHOWN_BYTES && !path.contains(['@', '#', '?', '\n']);
                    Err(CliError::NoSource(if shown { format!("`{path}`") } else { "the argument".to_owned() }))
                }
                Err(source) => Err(CliError::Read { what: self.name(), source }),
            },
        }
    }

    fn opened(&self, mut reader: Box<dyn Read>, bytes: Option<usize>) -> Result<Opened, CliError> {
        let mut head = Vec::new();
        let mut read = |head: &mut Vec<u8>, most: usize| {
            let room = u64::try_from(most.saturating_sub(head.len())).unwrap_or(u64::MAX);
            let read = reader.by_ref().take(room).read_to_end(head);
            read.map_err(|source| CliError::Read { what: self.name(), source })
        };
        read(&mut head, HEAD_BYTES)?;
        if head.len() == HEAD_BYTES && is_lines(&head) {
            let reader = Box::new(BufReader::new(Cursor::new(head).chain(reader)));
            return Ok(Opened::Lines { reader, bytes });
        }
        read(&mut head, MAX_BODY + 1)?;
        if head.len() > MAX_BODY { Err(self.too_large()) } else { Ok(Opened::Body(head)) }
    }

    fn too_large(&self) -> CliError {
        CliError::TooLarge { what: self.name(), limit_mib: MAX_BODY >> 20 }
    }
}

/// A source that is being read.
pub(super) enum Opened {
    /// The whole of it.
    Body(Vec<u8>),
    /// Plain lines, more than should be in memory at once.
    Lines {
        /// From the first byte on.
        reader: Box<dyn BufRead>,
        /// How many there are, where that is known.
        bytes: Option<usize>,
    },
}

impl Opened {
    /// The same, with all of its bytes there: an import holds the database from its first link to its last, and must not
    /// wait for a slow writer meanwhile. What comes through a pipe goes into a file without a name in `dir`.
    ///
    /// # Errors
    /// When it cannot be read, or there is no room in `dir`.
    pub(super) fn settled(self, source: &Source<'_>, dir: &Path) -> Result<Self, CliError> {
        let Self::Lines { mut reader, bytes: None } = self else { return Ok(self) };
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR);
        let mut file = file.map(File::from).map_err(|error| unwritten(dir, error.into()))?;
        let mut bytes = 0;
        loop {
            // Not std's copy: which side failed is what a person needs to know.
            let part = reader.fill_buf().map_err(|error| CliError::Read { what: source.name(), source: error })?;
            if part.is_empty() {
                break;
            }
            file.write_all(part).map_err(|error| unwritten(dir, error))?;
            let taken = part.len();
            bytes += taken;
            reader.consume(taken);
        }
        file.rewind().map_err(|error| unwritten(dir, error))?;
        Ok(Self::Lines { reader: Box::new(BufReader::new(file)), bytes: Some(bytes) })
    }

    /// How long it is, where that is known.
    pub(super) fn bytes(&self) -> Option<usize> {
        match self {
            Self::Body(body) => Some(body.len()),
            Self::Lines { bytes, .. } => *bytes,
        }
    }

    /// What an import takes.
    pub(super) fn links(&mut self) -> Links<'_> {
        match self {
            Self::Body(body) => Links::Body(body),
            Self::Lines { reader, .. } => Links::Lines(reader),
        }
    }
}

fn unwritten(dir: &Path, source: std::io::Error) -> CliError {
    CliError::Write { what: format!("the links to a file in {}", dir.display()), source }
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
        let yaml = "proxies:\n  - name: a://b\n    type: ss\n";
        assert_eq!(Source::of(yaml), Source::Links(yaml.into()));
    }
}
